package snp

import (
	"fmt"
	"slices"
	"time"
)

// Line is a product line as AMD's key distribution service names it (AMD 57230, product_name).
type Line string

// The product lines that can attest SEV-SNP and whose roots are known. Bergamo and Siena are of the Genoa line.
const (
	Milan Line = "Milan" // EPYC 7003
	Genoa Line = "Genoa" // EPYC 9004, 97x4 (Bergamo), 8004 (Siena)
	Turin Line = "Turin" // EPYC 9005
)

// Lines returns all product lines that are known, oldest first.
func Lines() []Line { return []Line{Milan, Genoa, Turin} }

// Signer says which kind of endorsement key signs a report (AMD 56860, SIGNING_KEY).
type Signer uint32

// The kinds of endorsement key.
const (
	VCEK Signer = 0 // versioned chip endorsement key: of one chip
	VLEK Signer = 1 // versioned loaded endorsement key: of one cloud provider
)

// String returns VCEK, VLEK or the number.
func (s Signer) String() string {
	switch s {
	case VCEK:
		return "VCEK"
	case VLEK:
		return "VLEK"
	}
	return fmt.Sprintf("signing key %d", uint32(s))
}

// TCB is the security patch level of each part of the trusted computing base (AMD 56860, TCB_VERSION).
type TCB struct {
	FMC       uint8 // firmware of the secure processor's boot (Turin; 0 before)
	Boot      uint8 // boot loader of the secure processor
	TEE       uint8 // its operating system
	SNP       uint8 // SNP firmware
	Microcode uint8 // lowest of all cores
}

// AtLeast tells whether no part of t is older than the same part of least.
func (t TCB) AtLeast(least TCB) bool {
	return t.FMC >= least.FMC && t.Boot >= least.Boot && t.TEE >= least.TEE && t.SNP >= least.SNP &&
		t.Microcode >= least.Microcode
}

// String lists the parts by the names that AMD's bulletins use.
func (t TCB) String() string {
	return fmt.Sprintf("fmc=%d bl=%d tee=%d snp=%d ucode=%d", t.FMC, t.Boot, t.TEE, t.SNP, t.Microcode)
}

// RawTCB is a TCB_VERSION as the report holds it; which byte is which part depends on the product line.
type RawTCB uint64

// Decode returns the parts as the product line lays them out (AMD 56860, TCB_VERSION: one layout up to Genoa, another
// from Turin on). Bytes that the line reserves must be zero, else it is an [*Error].
func (r RawTCB) Decode(line Line) (TCB, error) {
	b := func(i int) uint8 { return uint8(r >> (8 * i)) }
	var (
		t        TCB
		reserved RawTCB
	)
	switch line {
	case Milan, Genoa:
		t = TCB{Boot: b(0), TEE: b(1), SNP: b(6), Microcode: b(7)}
		reserved = 0x0000_ffff_ffff_0000
	case Turin:
		t = TCB{FMC: b(0), Boot: b(1), TEE: b(2), SNP: b(3), Microcode: b(7)}
		reserved = 0x00ff_ffff_0000_0000
	default:
		return TCB{}, refuse(CheckProduct, "TCB", quote(string(line)), Lines())
	}
	if r&reserved != 0 {
		return TCB{}, refuse(CheckReserved, "TCB", fmt.Sprintf("%#016x", uint64(r)),
			fmt.Sprintf("no bits of %#016x on %s", uint64(reserved), line))
	}
	return t, nil
}

// Firmware is a version of the SNP firmware (AMD 56860, CURRENT_MAJOR, CURRENT_MINOR, CURRENT_BUILD).
type Firmware struct{ Major, Minor, Build uint8 }

// String is such as 1.55 build 40.
func (f Firmware) String() string { return fmt.Sprintf("%d.%d build %d", f.Major, f.Minor, f.Build) }

// GuestPolicy is what the guest's owner demanded at launch and the firmware enforces (AMD 56860 1.58, guest policy).
type GuestPolicy struct {
	ABIMajor, ABIMinor uint8 // least version of the firmware's ABI
	SMT                bool  // bit 16: simultaneous multithreading is allowed
	MigrateMA          bool  // bit 18: a migration agent may take the guest elsewhere
	Debug              bool  // bit 19: the host may read and write the guest's memory
	SingleSocket       bool  // bit 20: the guest runs on one socket only
	CXL                bool  // bit 21: CXL devices and memory are allowed
	AES256XTS          bool  // bit 22: memory is encrypted with AES-256-XTS, nothing less
	RAPLDisabled       bool  // bit 23: running average power limit must be off (a power side channel)
	CiphertextHiding   bool  // bit 24: the host must not see even the DRAM's ciphertext
	PageSwapDisabled   bool  // bit 25: SNP_PAGE_MOVE, SNP_SWAP_OUT and SNP_SWAP_IN are off
	Raw                uint64
}

// policyReserved are bits 26 to 63 (AMD 56860 1.58); bit 17 is reserved as one.
const (
	policyReserved    = ^(uint64(1)<<26 - 1)
	policyReservedOne = uint64(1) << 17
)

func parsePolicy(v uint64) (GuestPolicy, error) {
	if v&policyReserved != 0 || v&policyReservedOne == 0 {
		return GuestPolicy{}, refuse(CheckReserved, "guest policy", fmt.Sprintf("%#x", v),
			"bit 17 and none of bits 26 to 63")
	}
	bit := func(n int) bool { return v>>n&1 != 0 }
	return GuestPolicy{
		ABIMajor: uint8(v >> 8), ABIMinor: uint8(v), SMT: bit(16), MigrateMA: bit(18), Debug: bit(19),
		SingleSocket: bit(20), CXL: bit(21), AES256XTS: bit(22), RAPLDisabled: bit(23), CiphertextHiding: bit(24),
		PageSwapDisabled: bit(25), Raw: v,
	}, nil
}

// PlatformInfo is the host's configuration as its secure processor sees it (AMD 56860 1.58, PLATFORM_INFO).
type PlatformInfo struct {
	SMT                bool // bit 0: simultaneous multithreading is on
	TSME               bool // bit 1: transparent memory encryption is on
	ECC                bool // bit 2: memory has error correction
	RAPLDisabled       bool // bit 3: running average power limit is off
	CiphertextHiding   bool // bit 4: the DRAM's ciphertext is hidden from the host
	AliasCheckComplete bool // bit 5: memory was checked for aliases since the last reset (BadRAM, CVE-2024-21944)
	IOMMUWriteSafe     bool // bit 6: set by Turin's firmware only
	TIO                bool // bit 7: trusted I/O is on
	Raw                uint64
}

// platformReserved are bits 8 to 63 (AMD 56860 1.58).
const (
	platformReserved = ^(uint64(1)<<8 - 1)
	platformTurin    = uint64(1) << 6 // reserved before Turin
)

func parsePlatform(v uint64) (PlatformInfo, error) {
	if v&platformReserved != 0 {
		return PlatformInfo{}, refuse(CheckReserved, "platform info", fmt.Sprintf("%#x", v), "none of bits 8 to 63")
	}
	bit := func(n int) bool { return v>>n&1 != 0 }
	return PlatformInfo{
		SMT: bit(0), TSME: bit(1), ECC: bit(2), RAPLDisabled: bit(3), CiphertextHiding: bit(4),
		AliasCheckComplete: bit(5), IOMMUWriteSafe: bit(6), TIO: bit(7), Raw: v,
	}, nil
}

// CPU is family, model and stepping as CPUID Fn0000_0001_EAX gives them, extended parts added (AMD 56860, report
// version 3).
type CPU struct{ Family, Model, Stepping uint8 }

// String is such as 19h/11h.1.
func (c CPU) String() string { return fmt.Sprintf("%02Xh/%02Xh.%d", c.Family, c.Model, c.Stepping) }

// Line returns the product line of the CPU, or "" if it is none that we know. (AMD 57230, product_name, and AMD's
// processor programming references: 19h models 00h-0Fh are Milan, 10h-1Fh Genoa, A0h-AFh Bergamo and Siena, which use
// Genoa's keys; 1Ah models 00h-11h are Turin and Turin Dense.)
func (c CPU) Line() Line {
	switch {
	case c.Family == 0x19 && c.Model <= 0x0f:
		return Milan
	case c.Family == 0x19 && (c.Model>>4 == 0x1 || c.Model>>4 == 0xa):
		return Genoa
	case c.Family == 0x1a && c.Model <= 0x11:
		return Turin
	}
	return ""
}

// Statement is what a report says in so many words (AMD 56860, ATTESTATION_REPORT).
type Statement struct {
	Version              uint32 // of the report's format: 2 to 5
	GuestSVN             uint32 // security version of the guest, from its ID block
	Policy               GuestPolicy
	FamilyID, ImageID    [16]byte // from the ID block
	VMPL                 uint32   // privilege level of who asked, 0 (most) to 3
	Platform             PlatformInfo
	AuthorKey            bool // an author key signed the ID key; its digest is AuthorKeyDigest
	MaskChipKey          bool // the host keeps the firmware from using the VCEK
	Signer               Signer
	ReportData           [64]byte // what the guest asked to be signed: a verifier's nonce goes in here
	Measurement          [48]byte // launch digest of the guest
	HostData             [32]byte // what the host gave at launch
	IDKeyDigest          [48]byte // SHA-384 of the key that signed the ID block; zero without
	AuthorKeyDigest      [48]byte
	ReportID, ReportIDMA [32]byte // of the guest's instance, of its migration agent
	CPU                  CPU      // zero in version 2
	ChipID               [64]byte // Turin: 8 bytes and zeros; all zero if the host masks it
	CurrentFirmware      Firmware // running
	CommittedFirmware    Firmware // least that the host can go back to
	LaunchMitigation     uint64   // mitigations in force when the guest was launched; zero before version 5
	CurrentMitigation    uint64   // mitigations in force now; zero before version 5
	MitigationsKnown     bool     // the report has mitigation vectors, being of version 5
}

// Claims is what an authentic report proves, with what it rests on. [Verify] is their only source.
type Claims struct {
	Statement

	Line      Line
	Current   TCB // running
	Reported  TCB // that the endorsement key is derived from
	Committed TCB // least that the host can go back to
	Launch    TCB // when the guest was launched or imported

	ChipIDMasked bool   // the report does not name its chip (MASK_CHIP_ID)
	HWID         []byte // of the VCEK's certificate: the chip, masked or not; 8 bytes on Turin, else 64; nil for a VLEK
	CSPID        string // of the VLEK's certificate: the cloud provider; empty for a VCEK
	Product      string // of the endorsement key's certificate, such as Milan-B0

	Root       [32]byte   // SHA-256 of the ARK that all this hangs on
	EK         [32]byte   // SHA-256 of the endorsement key's certificate
	Revocation Revocation // what was looked up
	NotAfter   time.Time  // when the first thing expires that this rests on; no verdict may outlive it
}

// Vendor tells whether the claims hang on one of AMD's own roots. A simulator's never do.
func (c *Claims) Vendor() bool {
	return slices.ContainsFunc(AMDRoots(), func(r Root) bool { return r.Line == c.Line && r.SHA256 == c.Root })
}
