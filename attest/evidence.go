package attest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"cocoon/attest/tdx"
	"cocoon/internal/strictjson"
)

// Version is that of Evidence, Keyset and everything that they bind.
const Version = 1

// Limits on evidence, bytes. What a vendor's format has bounds in its own package.
const (
	EvidenceMax = 1 << 20 // the whole answer, endorsements included: 8 GPUs and 4 switches with theirs have 300 KiB
	KeysetMax   = 64 << 10
	cpuMax      = tdx.QuoteMax // the longer one of the CPUs'
	itemsMax    = 128          // endorsements
)

// Labels that keep hashes of one purpose from serving another.
const (
	reportLabel = "cocoon/attest/v1\x00"
	gpuLabel    = "cocoon/gpu/v1\x00"
	// ExporterLabel is the TLS exporter's (RFC 8446 7.5) whose 32 bytes, with the nonce as context, are the binder.
	ExporterLabel = "EXPORTER-cocoon-attest-v1"
)

// Evidence is a machine's answer to a nonce. CPU, Keyset and Devices are exact bytes: hashes go over them as they were
// sent, never over an encoding of our own.
type Evidence struct {
	V     int    `json:"v"`
	Nonce Digest `json:"nonce"`
	TEE   TEE    `json:"tee"`
	// CPU is the vendor's report or quote over ReportData.
	CPU []byte `json:"cpu"`
	// Keyset is the JSON of a Keyset.
	Keyset []byte `json:"keyset"`
	// Devices is a JSON array of Device, each over GPUNonce.
	Devices []byte `json:"devices"`
	// Endorsements are what vendors say about this hardware. They are signed, so that anyone may send them.
	Endorsements []Item `json:"endorsements,omitempty"`
}

// Device is the evidence of one GPU or NVSwitch: nvgpu.Evidence as JSON.
type Device struct {
	Report []byte `json:"report"` // SPDM exchange
	Chain  []byte `json:"chain"`  // PEM, leaf first
}

// ParseEvidence reads an answer of at most EvidenceMax bytes. It is strict about form, and says nothing about truth.
func ParseEvidence(text []byte) (*Evidence, error) {
	if len(text) > EvidenceMax {
		return nil, fmt.Errorf("evidence has %d bytes, at most %d", len(text), EvidenceMax)
	}
	e := new(Evidence)
	if err := strictjson.Decode(text, e); err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	return e, nil
}

// errVersion is of evidence that says a version which isn't ours.
var errVersion = errors.New("unknown version")

// check looks at form and sizes.
func (e *Evidence) check() error {
	switch {
	case e.V != Version:
		return fmt.Errorf("%w %d, want %d", errVersion, e.V, Version)
	case e.Nonce.IsZero():
		return errors.New("no nonce")
	case len(e.CPU) == 0 || len(e.CPU) > cpuMax:
		return fmt.Errorf("CPU's report of %d bytes, want 1 to %d", len(e.CPU), cpuMax)
	case len(e.Keyset) == 0 || len(e.Keyset) > KeysetMax:
		return fmt.Errorf("keyset of %d bytes, want 1 to %d", len(e.Keyset), KeysetMax)
	case len(e.Devices) == 0 || len(e.Devices) > EvidenceMax:
		return fmt.Errorf("list of devices of %d bytes, want 2 to %d", len(e.Devices), EvidenceMax)
	case len(e.Endorsements) > itemsMax:
		return fmt.Errorf("%d endorsements, at most %d", len(e.Endorsements), itemsMax)
	}
	return nil
}

// decodeUnambiguous is strictjson.Decode for text that others read too, and that is trusted as bytes: it has to mean the same
// to every decoder. So it is UTF-8, and no object has a member twice or one in capitals, which Go takes for its
// lower-case namesake and others don't.
func decodeUnambiguous(text []byte, v any) error {
	if !utf8.Valid(text) {
		return errors.New("not UTF-8")
	}
	if err := strictjson.Decode(text, v); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	return checkNames(dec)
}

// checkNames reads one JSON value that is known to be well formed, and looks at the names in it.
func checkNames(dec *json.Decoder) error {
	t, err := dec.Token()
	if err != nil {
		return err
	}
	open, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for dec.More() {
		if open == '{' {
			name, err := dec.Token()
			if err != nil {
				return err
			}
			s, ok := name.(string)
			if !ok || seen[s] || !plainName(s) {
				return fmt.Errorf("member %.40q is there twice, or not in lower case", name)
			}
			seen[s] = true
		}
		if err := checkNames(dec); err != nil {
			return err
		}
	}
	_, err = dec.Token() // its end
	return err
}

// plainName tells whether a name has lower-case letters, digits and underscores only.
func plainName(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

// ReportData is what the CPU's report must be over. binder is the TLS exporter of the connection that the evidence
// answers on, zero for evidence that is relayed.
func ReportData(nonce, binder Digest, keyset, devices []byte) [64]byte {
	k, d := sha256.Sum256(keyset), sha256.Sum256(devices)
	h := sha512.New()
	h.Write([]byte(reportLabel))
	for _, part := range [][]byte{nonce[:], binder[:], k[:], d[:]} {
		h.Write(part)
	}
	return [64]byte(h.Sum(nil))
}

// GPUNonce is what the devices' reports must be over.
func GPUNonce(nonce Digest, keyset []byte) Digest {
	k := sha256.Sum256(keyset)
	h := sha256.New()
	h.Write([]byte(gpuLabel))
	h.Write(nonce[:])
	h.Write(k[:])
	return Digest(h.Sum(nil))
}

// Collect makes evidence: it asks the devices first, then the CPU over all of it.
func Collect(ctx context.Context, a Attester, keyset []byte, nonce, binder Digest) (*Evidence, error) {
	devices, items, err := a.Devices(ctx, GPUNonce(nonce, keyset))
	if err != nil {
		return nil, fmt.Errorf("asking the GPUs: %w", err)
	}
	if devices == nil {
		devices = []Device{} // [] and not null
	}
	list, err := json.Marshal(devices)
	if err != nil {
		return nil, fmt.Errorf("asking the GPUs: %w", err)
	}
	cpu, more, err := a.Report(ctx, ReportData(nonce, binder, keyset, list))
	if err != nil {
		return nil, fmt.Errorf("asking the CPU: %w", err)
	}
	return &Evidence{
		V: Version, Nonce: nonce, TEE: a.TEE(), CPU: cpu, Keyset: keyset, Devices: list, Endorsements: append(items, more...),
	}, nil
}
