package snp

import (
	"encoding/binary"

	"cocoon/attest/snp"
)

// policyDefault forbids all that a guest policy can forbid by a zero, and allows multithreading as everybody does; bit
// 17 is reserved as one.
const policyDefault = 0x30000

// platformDefault is what today's hosts say: multithreading, ECC and a complete alias check.
const platformDefault = 0x25

// ReportConfig says what a report is like. A field's zero value is what a healthy host and guest would have.
type ReportConfig struct {
	Version  uint32 // 0: 5
	Signer   snp.Signer
	GuestSVN uint32
	Policy   uint64 // 0: multithreading allowed, nothing else
	Platform uint64 // 0: multithreading, ECC, alias check complete
	VMPL     uint32

	FamilyID, ImageID            [16]byte
	ReportData                   [64]byte
	Measurement                  [48]byte
	HostData                     [32]byte
	IDKeyDigest, AuthorKeyDigest [48]byte
	ReportID                     [32]byte

	TCB                        snp.TCB  // of all four, but for those below
	Current, Committed, Launch *snp.TCB // nil: as TCB
	CPU                        *snp.CPU // nil: the usual one of the line; not in version 2
	MaskChipID                 bool     // leave the chip's name out; a VLEK's report has none anyhow
	Firmware                   snp.Firmware
	Mitigation                 uint64 // in force at launch and now; from version 5 on

	// Mutate, if not nil, may change the report's bytes before they are signed.
	Mutate func(report []byte)
}

// Report signs a report (AMD 56860, ATTESTATION_REPORT) of whatever content it is asked for.
func (c *Chip) Report(o ReportConfig) ([]byte, error) {
	b := make([]byte, snp.ReportSize)
	le := binary.LittleEndian
	version := orElse(o.Version, 5)
	le.PutUint32(b, version)
	le.PutUint32(b[0x04:], o.GuestSVN)
	le.PutUint64(b[0x08:], orElse(o.Policy, policyDefault))
	copy(b[0x10:], o.FamilyID[:])
	copy(b[0x20:], o.ImageID[:])
	le.PutUint32(b[0x30:], o.VMPL)
	le.PutUint32(b[0x34:], 1) // ECDSA P-384 with SHA-384
	le.PutUint64(b[0x40:], orElse(o.Platform, platformDefault))
	le.PutUint32(b[0x48:], uint32(o.Signer)<<2)
	copy(b[0x50:], o.ReportData[:])
	copy(b[0x90:], o.Measurement[:])
	copy(b[0xc0:], o.HostData[:])
	copy(b[0xe0:], o.IDKeyDigest[:])
	copy(b[0x110:], o.AuthorKeyDigest[:])
	copy(b[0x140:], o.ReportID[:])
	if o.Signer == snp.VCEK && !o.MaskChipID {
		copy(b[0x1a0:], c.HWID)
	}
	c.putTCBs(b, o)
	if version >= 3 {
		cpu, err := cpuOf(c.authority.line)
		if err != nil {
			return nil, err
		}
		if o.CPU != nil {
			cpu = *o.CPU
		}
		copy(b[0x188:], []byte{cpu.Family, cpu.Model, cpu.Stepping})
	}
	f := orElse(o.Firmware, snp.Firmware{Major: 1, Minor: 55, Build: 40})
	copy(b[0x1e8:], []byte{f.Build, f.Minor, f.Major, 0, f.Build, f.Minor, f.Major})
	if version >= 5 {
		le.PutUint64(b[0x1f8:], o.Mitigation)
		le.PutUint64(b[0x200:], o.Mitigation)
	}
	if o.Mutate != nil {
		o.Mutate(b)
	}
	if err := c.Sign(b, o.Signer); err != nil {
		return nil, err
	}
	return b, nil
}

// putTCBs writes the four TCBs.
func (c *Chip) putTCBs(b []byte, o ReportConfig) {
	for off, t := range map[int]*snp.TCB{0x38: o.Current, 0x180: nil, 0x1e0: o.Committed, 0x1f0: o.Launch} {
		if t == nil {
			t = &o.TCB
		}
		binary.LittleEndian.PutUint64(b[off:], EncodeTCB(c.authority.line, *t))
	}
}

// orElse is v, or def if v is the zero value.
func orElse[T comparable](v, def T) T {
	var none T
	if v == none {
		return def
	}
	return v
}
