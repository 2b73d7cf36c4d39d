package nvgpu

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
)

// Object identifiers. The three of the TCG's are from the DICE Attestation Architecture and its certificate profiles;
// the name form is DSP0274's "DMTF device info".
const (
	oidNameConstraints = "2.5.29.30"
	oidAltName         = "2.5.29.17"
	oidDeviceInfo      = "1.3.6.1.4.1.412.274.1"
	oidCompositeID     = "2.23.133.5.4.1"   // Hopper, LS10: CompositeDeviceID
	oidTCBInfo         = "2.23.133.5.4.1.1" // Blackwell: DiceTcbInfo
	oidSHA384          = "2.16.840.1.101.3.4.2.2"
)

// Operational flags of DiceTcbInfo that a device in production may have set: "not configured", as all that were seen
// have, and "fixed width", which only says that the mask has 32 bits. Not secure, recovery, debug and the rest are
// refused.
const (
	flagNotConfigured = 0
	flagFixedWidth    = 31
)

// identity is what a chain says of its device.
type identity struct {
	arch   Arch
	chip   string   // GH100
	model  string   // the boot ROM's name: GH100 A01 GSP BROM
	serial *big.Int // the leaf's
	info   string   // NVIDIA:GH100:48B02D92494BADF4
	pdi    [8]byte  // physical device identity
	fwid   [digestLen]byte
	flags  bool // the leaf has DICE flags, and they say neither debug nor recovery
}

// identify reads the names of the chain and wants them to be about one device of a chip that we know.
func identify(certs []*x509.Certificate) (*identity, error) {
	if len(certs) < deviceMin {
		return nil, fail(
			CheckChain,
			"length",
			fmt.Sprintf("%d certificates", len(certs)),
			fmt.Sprintf("at least %d", deviceMin),
		)
	}
	leaf, rom := certs[0], certs[1]
	id := &identity{model: rom.Subject.CommonName, serial: leaf.SerialNumber}
	token, _, _ := strings.Cut(id.model, " ")
	if !strings.HasSuffix(id.model, " BROM") || archOf(token) == "" {
		return nil, fail(CheckIdentity, "boot ROM", quote(id.model), "a GH100, GB1xx, GB2xx or LS_10 boot ROM")
	}
	id.chip, id.arch = strings.ReplaceAll(token, "_", ""), archOf(token)
	if want := strings.TrimSuffix(id.model, "BROM") + "FMC LF"; leaf.Subject.CommonName != want {
		return nil, fail(CheckIdentity, "leaf", quote(leaf.Subject.CommonName), quote(want))
	}
	var err error
	if id.info, err = deviceInfo(leaf); err != nil {
		return nil, fail(CheckIdentity, "device info", err.Error(), "one DMTF device info")
	}
	if parts := strings.Split(id.info, ":"); len(parts) != 3 || parts[0] != "NVIDIA" || parts[1] != token {
		return nil, fail(CheckIdentity, "device info", quote(id.info), "NVIDIA:"+token+":serial")
	}
	// The boot ROM's serial number is one byte and the device's physical identity: in the one node with switches that we
	// have evidence of, all twelve devices name each other by it.
	if b := rom.SerialNumber.Bytes(); len(b) == 1+len(id.pdi) {
		id.pdi = [8]byte(b[1:])
	} else {
		return nil, fail(CheckIdentity, "boot ROM's serial number", fmt.Sprintf("%d bytes", len(b)), "9")
	}
	return id, id.readFWID(leaf, rom)
}

// archOf knows the chips by the names in their boot ROMs' certificates.
func archOf(token string) Arch {
	switch {
	case token == "GH100":
		return Hopper
	case token == "LS_10":
		return LS10
	case len(token) == 5 && (strings.HasPrefix(token, "GB1") || strings.HasPrefix(token, "GB2")) &&
		!strings.ContainsFunc(token, func(c rune) bool { return !plain(c) || c == '.' }):
		return Blackwell
	}
	return ""
}

// deviceInfo reads the other-name that DSP0274 puts into a device certificate.
func deviceInfo(leaf *x509.Certificate) (string, error) {
	var names []asn1.RawValue
	if err := unmarshal(extension(leaf, oidAltName), &names); err != nil {
		return "", fmt.Errorf("alternative name: %w", err)
	}
	if len(names) != 1 || names[0].Class != asn1.ClassContextSpecific || names[0].Tag != 0 || !names[0].IsCompound {
		return "", fmt.Errorf("%d alternative names", len(names))
	}
	var id asn1.ObjectIdentifier
	rest, err := asn1.Unmarshal(names[0].Bytes, &id)
	if err != nil {
		return "", fmt.Errorf("other name: %w", err)
	}
	if id.String() != oidDeviceInfo {
		return "", fmt.Errorf("other name %s", id)
	}
	var wrapped asn1.RawValue
	if err := unmarshal(rest, &wrapped); err != nil {
		return "", fmt.Errorf("other name: %w", err)
	}
	var info string
	if err := unmarshal(wrapped.Bytes, &info); err != nil {
		return "", fmt.Errorf("other name: %w", err)
	}
	if len(info) > 64 {
		return "", fmt.Errorf("%d bytes", len(info))
	}
	return info, nil
}

type fwid struct {
	Algorithm asn1.ObjectIdentifier
	Digest    []byte
}

// compositeID is CompositeDeviceID: the key of the layer below and what it measured.
type compositeID struct {
	Version int
	Key     asn1.RawValue
	FWID    fwid
}

// tcbInfo is DiceTcbInfo, with its implicit tags.
type tcbInfo struct {
	Vendor     asn1.RawValue  `asn1:"optional,tag:0"`
	Model      asn1.RawValue  `asn1:"optional,tag:1"`
	Version    asn1.RawValue  `asn1:"optional,tag:2"`
	SVN        int            `asn1:"optional,tag:3"`
	Layer      int            `asn1:"optional,tag:4"`
	Index      int            `asn1:"optional,tag:5"`
	FWIDs      []fwid         `asn1:"optional,tag:6"`
	Flags      asn1.BitString `asn1:"optional,tag:7"`
	VendorInfo []byte         `asn1:"optional,tag:8"`
	Type       []byte         `asn1:"optional,tag:9"`
}

// readFWID takes the measurement of the device's first mutable code from the leaf, which the boot ROM signed. Blackwell
// lists two; the first is that code's (the rule "last 48 bytes" of NVIDIA's samples is Hopper's).
func (id *identity) readFWID(leaf, rom *x509.Certificate) error {
	bad := func(got, want string) error { return fail(CheckIdentity, "FWID in the leaf", got, want) }
	composite, tcb := extension(leaf, oidCompositeID), extension(leaf, oidTCBInfo)
	var f fwid
	switch {
	case composite != nil && tcb == nil && id.arch != Blackwell:
		var c compositeID
		if err := unmarshal(composite, &c); err != nil {
			return bad(err.Error(), "CompositeDeviceID")
		}
		if !bytes.Equal(c.Key.FullBytes, rom.RawSubjectPublicKeyInfo) {
			return bad("another key", "the boot ROM's")
		}
		f = c.FWID
	case tcb != nil && composite == nil && id.arch == Blackwell:
		var c tcbInfo
		if err := unmarshal(tcb, &c); err != nil {
			return bad(err.Error(), "DiceTcbInfo")
		}
		for bit := range c.Flags.BitLength {
			if c.Flags.At(bit) == 1 && bit != flagNotConfigured && bit != flagFixedWidth {
				return bad(fmt.Sprintf("DICE flag %d set", bit), "a device in production")
			}
		}
		id.flags = c.Flags.BitLength > 0
		if len(c.FWIDs) == 0 {
			return bad("none", "one")
		}
		f = c.FWIDs[0]
	default:
		return bad("none, or another chip's", "one")
	}
	if f.Algorithm.String() != oidSHA384 || len(f.Digest) != digestLen {
		return bad(f.Algorithm.String(), "SHA-384")
	}
	id.fwid = [digestLen]byte(f.Digest)
	return nil
}

// unmarshal is asn1.Unmarshal, without bytes left over.
func unmarshal(der []byte, v any) error {
	rest, err := asn1.Unmarshal(der, v)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes left over", len(rest))
	}
	return err
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}
