package tdx

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// Claims are what a verified quote says. That they are here means that the quote is authentic, its certificates and
// collateral were current and not revoked, and no part of the TCB is revoked; whether they are good enough, TCB status
// included, is for the appraisal policy to say.
type Claims struct {
	Version  uint16   // of the quote: 4 or 5
	TD       TD       // the trust domain
	Platform Platform // the machine, from its PCK certificate
	QE       QE       // the quoting enclave
	TCB      TCB      // how current all of it is

	Root     [32]byte // SHA-256 of the root certificate's DER
	RootName string   // its distinguished name

	// TCBEvaluation is the lower tcbEvaluationDataNumber of TCB info and QE identity.
	TCBEvaluation int
	// Issued is the latest issue date of the collateral: before it the claims could not have been made.
	Issued time.Time
	// Expires is when the first of the certificates, CRLs and signed collateral involved ends: the claims with it.
	Expires time.Time
}

// Measurement is a SHA-384 register of a TD. Its text is hexadecimal.
type Measurement [48]byte

// String returns the measurement in hexadecimal.
func (m Measurement) String() string { return hex.EncodeToString(m[:]) }

// MarshalText returns the measurement in hexadecimal.
func (m Measurement) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// SVNs are the 16 security version numbers of a TCB's components. Their text is hexadecimal.
type SVNs [16]byte

// String returns the numbers in hexadecimal.
func (s SVNs) String() string { return hex.EncodeToString(s[:]) }

// MarshalText returns the numbers in hexadecimal.
func (s SVNs) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// TD is the report of a trust domain (Intel TDX Module ABI specification, TDREPORT_STRUCT: TEE_TCB_INFO and TDINFO).
type TD struct {
	V15            bool        // the report is one of TDX 1.5: TEETCBSVN2 and MRServiceTD are there
	TEETCBSVN      SVNs        // of the TDX module at launch: [0] its SVN, [1] its major version, [2] late microcode
	MRSEAM         Measurement // of the TDX module
	MRSignerSEAM   Measurement // its signer; zero for Intel's
	SEAMAttributes uint64      // of the TDX module; zero in production
	Attributes     Attributes  // of the TD
	XFAM           uint64      // the extended CPU features that the TD may use, as in XCR0 and IA32_XSS
	MRTD           Measurement // the TD's initial memory: its firmware
	MRConfigID     Measurement // configuration that the host states, not measured by the TDX module
	MROwner        Measurement // owner that the host states
	MROwnerConfig  Measurement // owner's configuration that the host states
	RTMR           [4]Measurement
	ReportData     [64]byte    // the TD's own: what it binds the quote to
	TEETCBSVN2     SVNs        // of the TDX module that runs now (1.5 only)
	MRServiceTD    Measurement // the service TDs bound to this one (1.5 only)
}

// Attributes are a TD's attributes (Intel TDX Module ABI specification, ATTRIBUTES).
type Attributes uint64

// The bits of Attributes. The lowest byte is the group TUD, "TD under debug": with any of it set the TD's memory is not
// trustworthy, whatever the other bits say.
const (
	AttrDebug         Attributes = 1 << 0  // the host may read and write the TD's memory
	AttrTUD           Attributes = 0xff    // the whole debug group
	AttrSEPTVEDisable Attributes = 1 << 28 // no #VE at pages that the host took away: what Linux guests want
	AttrMigratable    Attributes = 1 << 29 // a migration TD may move it
	AttrPKS           Attributes = 1 << 30 // supervisor protection keys
	AttrKL            Attributes = 1 << 31 // key locker
	AttrPerfmon       Attributes = 1 << 63 // performance counters
)

// attrKnown are the bits that this package has a name for.
const attrKnown = AttrTUD | AttrSEPTVEDisable | AttrMigratable | AttrPKS | AttrKL | AttrPerfmon

// UnderDebug tells whether any bit of the debug group is set.
func (a Attributes) UnderDebug() bool { return a&AttrTUD != 0 }

// SEPTVEDisable tells whether SEPT_VE_DISABLE is set.
func (a Attributes) SEPTVEDisable() bool { return a&AttrSEPTVEDisable != 0 }

// Migratable tells whether the TD may be migrated.
func (a Attributes) Migratable() bool { return a&AttrMigratable != 0 }

// PKS tells whether supervisor protection keys are on.
func (a Attributes) PKS() bool { return a&AttrPKS != 0 }

// KL tells whether the key locker is on.
func (a Attributes) KL() bool { return a&AttrKL != 0 }

// Perfmon tells whether the TD may use performance counters.
func (a Attributes) Perfmon() bool { return a&AttrPerfmon != 0 }

// Unknown returns the bits without a name here: a policy that denies by default refuses them.
func (a Attributes) Unknown() Attributes { return a &^ attrKnown }

// String lists the bits by name.
func (a Attributes) String() string {
	var set []string
	for _, bit := range []struct {
		mask Attributes
		name string
	}{
		{AttrDebug, "DEBUG"},
		{AttrSEPTVEDisable, "SEPT_VE_DISABLE"},
		{AttrMigratable, "MIGRATABLE"},
		{AttrPKS, "PKS"},
		{AttrKL, "KL"},
		{AttrPerfmon, "PERFMON"},
	} {
		if a&bit.mask != 0 {
			set = append(set, bit.name)
		}
	}
	if rest := a & (AttrTUD&^AttrDebug | ^attrKnown); rest != 0 {
		set = append(set, fmt.Sprintf("%#x", uint64(rest)))
	}
	if len(set) == 0 {
		return "none"
	}
	return strings.Join(set, "|")
}

// CA tells which of Intel's two PCK CAs certified a platform, in the words of the PCS API's parameter ca.
type CA string

// The CAs.
const (
	PlatformCA  CA = "platform"  // platforms registered as a whole, multi-package ones among them
	ProcessorCA CA = "processor" // platforms of one package, by their processor
)

// Platform is the machine as its PCK certificate describes it (Intel SGX PCK Certificate and CRL Profile Specification,
// section 1.3.5: the SGX extensions).
type Platform struct {
	CA     CA
	Serial string   // the PCK certificate's, in hexadecimal
	PPID   [16]byte // platform provisioning ID: the same for all PCKs of one platform
	FMSPC  [6]byte  // family, model, stepping, platform, custom SKU: selects the TCB info
	PCEID  [2]byte  // the provisioning certification enclave
	CPUSVN SVNs     // the TCB components' SVNs of CPU and microcode
	PCESVN uint16
	Type   SGXType

	// Instance is the platform instance ID. It is there with the Platform CA only, as are the flags below.
	Instance    [16]byte
	HasInstance bool
	// Flags of the platform's configuration; nil where the certificate doesn't say.
	Dynamic    *bool // packages may be added
	CachedKeys *bool // root keys are cached by Intel's registration service
	SMT        *bool // simultaneous multithreading was on
}

// SGXType is the kind of memory protection (PCK certificate, SGX Type).
type SGXType int

// The types.
const (
	SGXStandard              SGXType = 0 // integrity tree: client processors
	SGXScalable              SGXType = 1 // memory encryption without integrity
	SGXScalableWithIntegrity SGXType = 2
)

// QE is the quoting enclave that signed the quote, as its report describes it.
type QE struct {
	MREnclave [32]byte
	MRSigner  [32]byte
	ProdID    uint16
	SVN       uint16
	CPUSVN    SVNs // of the CPU when the QE made its key
}
