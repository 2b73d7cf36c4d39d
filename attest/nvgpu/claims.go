package nvgpu

import (
	"crypto/x509"
	"time"
)

// Arch is a device's architecture, by the names that NVIDIA's tools use.
type Arch string

// The architectures that are verified; others are refused.
const (
	Hopper    Arch = "HOPPER"    // GPU, chip GH100
	Blackwell Arch = "BLACKWELL" // GPU, chips GB1xx and GB2xx
	LS10      Arch = "LS10"      // NVSwitch
)

// Mode is how a GPU is shared out, by its feature flag (NVIDIA/attestation-sdk, OpaqueDataFeatureFlag).
type Mode string

// The modes.
const (
	ModeUnsaid Mode = ""      // a switch, or a driver that is too old to say
	ModeSPT    Mode = "SPT"   // single GPU passthrough
	ModeMPT    Mode = "MPT"   // multiple GPUs, encrypted NVLink
	ModePPCIE  Mode = "PPCIE" // protected PCIe: multiple GPUs, NVLink in clear
)

// Claims are what verified evidence says of one device.
type Claims struct {
	Arch  Arch
	Chip  string // "GH100"
	Model string // NVIDIA's hwmodel: "GH100 A01 GSP BROM"

	// UEID is NVIDIA's ueid: the serial number of the device's certificate, in decimal. That certificate is made for the
	// firmware (FWID); Serial and PDI are the chip's.
	UEID   string
	Serial string  // from the certificate's device info: "48B02D92494BADF4"
	PDI    [8]byte // physical device identity, as other devices name it
	FWID   [48]byte

	BoardID    uint32 // 0: a switch
	Project    string // with the next two: the board, as in the identifier of its VBIOS RIM. Empty for a switch.
	ProjectSKU string
	ChipSKU    string
	Driver     string // "550.90.07"; empty for a switch
	VBIOS      string // "96.00.9F.00.01"

	Mode           Mode
	ProtectedPCIe  bool // NVLink traffic is in clear, on links that the switches keep to this tenant
	NVDEC0Disabled bool // measurement 35 is therefore not judged, as NVIDIA documents

	Nonce        [32]byte
	Measurements Matches

	// SecureBoot and DebugOff are what NVIDIA's verifiers call secboot and dbgstat: no field of the report says so, all
	// reference values matched, and a device in debug mode has others. False where a RIM was left out.
	SecureBoot bool
	DebugOff   bool
	// DICEFlags: besides, the device's certificate has operational flags (Blackwell), and neither debug nor recovery is
	// set.
	DICEFlags bool

	Chain   []CertClaims // leaf first
	RIMs    []RIMClaims  // driver first, then VBIOS; those left out are missing
	Skipped []Check      // what the caller left out

	// Expires is the earliest end of what these claims rest on: certificates and OCSP responses. No verdict may outlive
	// it.
	Expires time.Time

	// SwitchPDIs: the switches at the other end of a GPU's links, each once. GPUPDIs: the GPUs at a switch's.
	SwitchPDIs [][8]byte
	GPUPDIs    [][8]byte

	leaf *x509.Certificate
}

// Matches are the RIM indices of measurements, in order.
type Matches struct {
	Driver  []int // matched with the driver's RIM
	VBIOS   []int // matched with the VBIOS RIM
	Skipped []int // active in a RIM and not judged: 35 without NVDEC0
	Unnamed []int // in the report, and in no RIM as active: nothing is known about them
}

// CertClaims are about one certificate.
type CertClaims struct {
	Subject  string // common name
	Serial   string // hex
	SHA256   string // hex, of the DER
	NotAfter time.Time
	// OCSPUntil is the end of the response that calls it good; zero: not asked for (a leaf that its device made, a root)
	// or left out.
	OCSPUntil time.Time
}

// RIMClaims are about one RIM.
type RIMClaims struct {
	Kind    RIMKind
	Version string
	Product string
	TagID   string
	SHA256  string       // hex, of the document
	Chain   []CertClaims // signer first
}
