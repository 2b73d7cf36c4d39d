// Package attest appraises attestation evidence (RFC 9334): what a machine with a confidential CPU and GPUs says about
// itself, in its vendors' signatures, against a policy that its relying party wrote.
//
// A verifier chooses a nonce; the machine answers with Evidence, which binds that nonce, the TLS connection, the
// machine's keys (Keyset) and its GPUs' evidence together in the CPU's report. Policy.Appraise is pure: evidence,
// collateral and time go in, and a Result comes out that names every check that was made with what it got and wanted.
// It admits nothing that the policy does not name: the empty policy admits nothing at all.
//
// The formats are those of docs/protocol.md. Below: snp, tdx and nvgpu verify the vendors' evidence; simtee simulates
// machines; collateral fetches what vendors say about their hardware; device gets evidence from real hardware; channel
// speaks the protocol.
package attest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
)

// TEE is the kind of a CPU's evidence.
type TEE string

// The kinds that can be verified.
const (
	SNP TEE = "sev-snp" // an AMD SEV-SNP attestation report
	TDX TEE = "tdx"     // an Intel TDX quote
)

// Digest is 32 bytes: a nonce, a SHA-256, or a TLS exporter's output. Its text is 64 lower-case hex digits.
type Digest [32]byte

// NewNonce returns 32 random bytes.
func NewNonce() Digest {
	var d Digest
	_, _ = rand.Read(d[:]) // never fails
	return d
}

// ParseDigest reads what String wrote, and nothing else, so that a digest has one spelling.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != 2*len(d) {
		return Digest{}, errors.New("want 64 lower-case hex digits")
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil || d.String() != s {
		return Digest{}, errors.New("want 64 lower-case hex digits")
	}
	return d, nil
}

// String is 64 lower-case hex digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// IsZero tells whether nothing is there.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText is String, for JSON, YAML and logs.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is ParseDigest.
func (d *Digest) UnmarshalText(text []byte) error {
	parsed, err := ParseDigest(string(text))
	if err == nil {
		*d = parsed
	}
	return err
}

// Attester is the hardware of the machine that it runs on, or a simulation of it. Its methods may be called from many
// goroutines; they may take seconds.
type Attester interface {
	// TEE is the kind of the CPU's evidence.
	TEE() TEE
	// Report returns the CPU's evidence over report data, and what the host gave to verify it with, if anything.
	Report(ctx context.Context, data [64]byte) (cpu []byte, endorsements []Item, err error)
	// Devices returns the evidence of all GPUs and switches over a nonce, and likewise endorsements. A machine without
	// GPUs returns none, and no error.
	Devices(ctx context.Context, nonce Digest) ([]Device, []Item, error)
}
