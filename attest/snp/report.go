package snp

import (
	"encoding/binary"
	"fmt"
	"math/big"
	"slices"
)

// ReportSize is the size of a report in bytes (AMD 56860, ATTESTATION_REPORT).
const ReportSize = 0x4a0

// The versions of the report's format that we know. 3 added the CPU, 4 nothing that we read, 5 the mitigation vectors
// (AMD 56860, ATTESTATION_REPORT, up to revision 1.58; real reports of each version).
const (
	versionMin         = 2
	versionCPU         = 3
	versionMitigations = 5
	versionMax         = 5
)

// Where things are in a report (AMD 56860, ATTESTATION_REPORT).
const (
	offVersion           = 0x000
	offGuestSVN          = 0x004
	offPolicy            = 0x008
	offFamilyID          = 0x010
	offImageID           = 0x020
	offVMPL              = 0x030
	offAlgorithm         = 0x034
	offCurrentTCB        = 0x038
	offPlatform          = 0x040
	offSigner            = 0x048
	offReserved04C       = 0x04c
	offReportData        = 0x050
	offMeasurement       = 0x090
	offHostData          = 0x0c0
	offIDKeyDigest       = 0x0e0
	offAuthorKeyDigest   = 0x110
	offReportID          = 0x140
	offReportIDMA        = 0x160
	offReportedTCB       = 0x180
	offCPU               = 0x188
	offReserved18B       = 0x18b
	offChipID            = 0x1a0
	offCommittedTCB      = 0x1e0
	offCurrentFirmware   = 0x1e8
	offReserved1EB       = 0x1eb
	offCommittedFirmware = 0x1ec
	offReserved1EF       = 0x1ef
	offLaunchTCB         = 0x1f0
	offLaunchMitigation  = 0x1f8
	offCurrentMitigation = 0x200
	offReserved208       = 0x208
	offSignature         = 0x2a0 // all before it is signed
)

// The signature: r and s, little endian, 72 bytes each, and zeros (AMD 56860, ECDSA P-384 with SHA-384 signature).
const (
	algorithmP384 = 1
	scalarSize    = 72
	scalarUsed    = 48
	offR          = offSignature
	offS          = offSignature + scalarSize
	offPadding    = offSignature + 2*scalarSize
)

// Report is a report's content: well formed, but said by nobody yet. Only [Verify] finds out whether it is true. It
// serves those who have to find the endorsements that [Verify] needs.
type Report struct {
	Statement

	Line Line // of the CPU; "" in version 2, where only the endorsement key's certificate knows

	CurrentTCB, ReportedTCB, CommittedTCB, LaunchTCB RawTCB

	r, s *big.Int
}

// ParseReport reads a report. It is strict: an unknown version, algorithm, signer or CPU, a reserved bit that is set,
// and a byte too many or too few are refusals ([*Error]). What is not signed must be zero, so that a report has no
// second spelling but that of its ECDSA signature.
func ParseReport(b []byte) (*Report, error) {
	if len(b) != ReportSize {
		return nil, refuse(CheckReportSize, "", fmt.Sprintf("%d bytes", len(b)), ReportSize)
	}
	r := &Report{}
	r.Version = le32(b, offVersion)
	if r.Version < versionMin || r.Version > versionMax {
		return nil, refuse(CheckReportVersion, "", r.Version, fmt.Sprintf("%d to %d", versionMin, versionMax))
	}
	if a := le32(b, offAlgorithm); a != algorithmP384 {
		return nil, refuse(CheckSignatureAlgorithm, "", a, "1 (ECDSA P-384 with SHA-384)")
	}
	if err := checkReserved(b, r.Version); err != nil {
		return nil, err
	}
	r.readPlain(b)
	if r.VMPL > 3 {
		return nil, refuse(CheckVMPL, "", fmt.Sprintf("%#x", r.VMPL), "0 to 3")
	}
	for _, read := range []func([]byte) error{r.readBits, r.readSigner, r.readCPU} {
		if err := read(b); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// readPlain reads the fields in which every value has a meaning.
func (r *Report) readPlain(b []byte) {
	r.GuestSVN = le32(b, offGuestSVN)
	r.VMPL = le32(b, offVMPL)
	copy(r.FamilyID[:], b[offFamilyID:])
	copy(r.ImageID[:], b[offImageID:])
	copy(r.ReportData[:], b[offReportData:])
	copy(r.Measurement[:], b[offMeasurement:])
	copy(r.HostData[:], b[offHostData:])
	copy(r.IDKeyDigest[:], b[offIDKeyDigest:])
	copy(r.AuthorKeyDigest[:], b[offAuthorKeyDigest:])
	copy(r.ReportID[:], b[offReportID:])
	copy(r.ReportIDMA[:], b[offReportIDMA:])
	copy(r.ChipID[:], b[offChipID:])
	r.CurrentTCB = RawTCB(le64(b, offCurrentTCB))
	r.ReportedTCB = RawTCB(le64(b, offReportedTCB))
	r.CommittedTCB = RawTCB(le64(b, offCommittedTCB))
	r.LaunchTCB = RawTCB(le64(b, offLaunchTCB))
	r.CurrentFirmware = firmware(b, offCurrentFirmware)
	r.CommittedFirmware = firmware(b, offCommittedFirmware)
	if r.Version >= versionMitigations {
		r.MitigationsKnown = true
		r.LaunchMitigation = le64(b, offLaunchMitigation)
		r.CurrentMitigation = le64(b, offCurrentMitigation)
	}
	r.r = scalar(b[offR : offR+scalarUsed])
	r.s = scalar(b[offS : offS+scalarUsed])
}

func (r *Report) readBits(b []byte) (err error) {
	if r.Policy, err = parsePolicy(le64(b, offPolicy)); err != nil {
		return err
	}
	r.Platform, err = parsePlatform(le64(b, offPlatform))
	return err
}

// readSigner reads the flags beside the signing key (AMD 56860, ATTESTATION_REPORT 48h): bit 0 AUTHOR_KEY_EN, bit 1
// MASK_CHIP_KEY, bits 2 to 4 SIGNING_KEY, of which 0 and 1 are keys and 7 is none.
func (r *Report) readSigner(b []byte) error {
	v := le32(b, offSigner)
	if v>>5 != 0 {
		return refuse(CheckReserved, "signer", fmt.Sprintf("%#x", v), "none of bits 5 to 31")
	}
	r.AuthorKey, r.MaskChipKey, r.Signer = v&1 != 0, v&2 != 0, Signer(v>>2)
	if r.Signer != VCEK && r.Signer != VLEK {
		return refuse(CheckSigner, "", r.Signer, "VCEK or VLEK")
	}
	if r.MaskChipKey && r.Signer == VCEK {
		// The firmware doesn't sign with a masked VCEK: it writes zeros instead.
		return refuse(CheckSigner, "mask chip key", "VCEK, masked", "a VCEK that is not masked, or a VLEK")
	}
	return nil
}

func (r *Report) readCPU(b []byte) error {
	if r.Version < versionCPU {
		return nil
	}
	r.CPU = CPU{Family: b[offCPU], Model: b[offCPU+1], Stepping: b[offCPU+2]}
	if r.Line = r.CPU.Line(); r.Line == "" {
		return refuse(CheckCPU, "", r.CPU, Lines())
	}
	return nil
}

// checkReserved demands zeros wherever the version means nothing by other bytes.
func checkReserved(b []byte, version uint32) error {
	cpu, mitigations := offCPU, offLaunchMitigation
	if version >= versionCPU {
		cpu = offReserved18B
	}
	if version >= versionMitigations {
		mitigations = offReserved208
	}
	for _, span := range [][2]int{
		{offReserved04C, offReportData},
		{cpu, offChipID},
		{offReserved1EB, offCommittedFirmware},
		{offReserved1EF, offLaunchTCB},
		{mitigations, offSignature},
		{offR + scalarUsed, offS},
		{offS + scalarUsed, offPadding},
		{offPadding, ReportSize},
	} {
		if !zero(b[span[0]:span[1]]) {
			return refuse(CheckReserved, fmt.Sprintf("bytes %#03x to %#03x", span[0], span[1]-1),
				"other bytes", "zeros")
		}
	}
	return nil
}

func le32(b []byte, off int) uint32 { return binary.LittleEndian.Uint32(b[off:]) }

func le64(b []byte, off int) uint64 { return binary.LittleEndian.Uint64(b[off:]) }

// firmware reads build, minor and major, which come in this order.
func firmware(b []byte, off int) Firmware {
	return Firmware{Build: b[off], Minor: b[off+1], Major: b[off+2]}
}

func scalar(b []byte) *big.Int {
	b = slices.Clone(b)
	slices.Reverse(b)
	return new(big.Int).SetBytes(b)
}

func zero(b []byte) bool { return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) }

func quote(s string) string { return fmt.Sprintf("%q", s) }
