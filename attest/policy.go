package attest

import (
	"time"

	"cocoon/attest/nvgpu"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

// Policy is an appraisal policy (RFC 9334): what evidence must say for its machine to be admitted. It is a file,
// configs/policy.yaml is the one that we ship. An unknown field is an error; a field left out takes the strictest value,
// so that the empty policy admits nothing. A Policy is never changed once parsed.
type Policy struct {
	// Name is how results call the policy: a word. Required.
	Name string `yaml:"name"`
	// NotBefore and NotAfter bound when the policy holds: it expires like a certificate, so that nobody goes by old
	// minimum versions for ever. Both are required, at most 400 days apart.
	NotBefore time.Time `yaml:"not_before"`
	NotAfter  time.Time `yaml:"not_after"`
	// Session is how long a verdict holds at most, up to 10m. Default 10m.
	Session time.Duration `yaml:"session"`
	// ClockSkew is how far in the future certificates, collateral and keysets may begin, up to 60s: others' clocks and
	// ours differ. Nothing is accepted after its end. Default 0.
	ClockSkew time.Duration `yaml:"clock_skew"`
	// Skip names checks that need not be made or passed; each use of it is a SKIP in the result and a note: gpu.ocsp (no
	// revocation is looked up at NVIDIA), gpu.fwid (reports of drivers before 550 don't name the device's firmware),
	// keyset.tls (TLS ends in front of the machine). No other can be. Default none.
	Skip []string `yaml:"skip"`
	// Releases are the reference values: what software may run in the machine. At least one must match.
	Releases []Release `yaml:"releases"`
	// SNP, TDX and GPU say what hardware is good enough. A kind left out is not admitted; GPU is about workers only.
	SNP *SNPPolicy `yaml:"snp"`
	TDX *TDXPolicy `yaml:"tdx"`
	GPU *GPUPolicy `yaml:"gpu"`
	// Chips and Workers say which hardware and which IDs are wanted. A list to allow that is empty allows all; if it is
	// not, all chips of a machine must be on it, its CPU among them; gateways need not be on that of workers. A denied one
	// is never admitted, whatever its role.
	Chips   Lists `yaml:"chips"`
	Workers Lists `yaml:"workers"`
	// Simulated admits simulated hardware, for development. Default: none.
	Simulated Simulation `yaml:"simulated"`

	digest Digest // of the text
	roots  Roots  // vendors' own and the simulation's
}

// Lists name hardware (as Claims.Chips does) or machines (64 hex digits).
type Lists struct {
	Allow []string `yaml:"allow"`
	Deny  []string `yaml:"deny"`
}

// Release is one build of the software that may run in a confidential machine, with the measurements that prove it.
type Release struct {
	// Name is what results call it. Required.
	Name string `yaml:"name"`
	// Role is worker or gateway: what it may serve as. Required.
	Role Role `yaml:"role"`
	// NotAfter is when it is no longer admitted; old and new releases overlap. Default: the policy's end.
	NotAfter time.Time `yaml:"not_after"`
	// SNP and TDX are the values on each kind of CPU. An empty list: the release does not run there.
	SNP []SNPReference `yaml:"snp"`
	TDX []TDXReference `yaml:"tdx"`
}

// SNPReference is what an SNP guest's report must hold. Values are lower-case hex.
type SNPReference struct {
	// Measurement is the launch digest, 96 digits. Required.
	Measurement string `yaml:"measurement"`
	// HostData is what the host gave at launch, 64 digits. Default: zeros.
	HostData string `yaml:"host_data"`
	// IDKeyDigest and AuthorKeyDigest are of the keys that signed the guest's ID block, 96 digits. Default: zeros, so none.
	IDKeyDigest     string `yaml:"id_key_digest"`
	AuthorKeyDigest string `yaml:"author_key_digest"`
	// MinGuestSVN is the least security version of the guest. Default 0.
	MinGuestSVN uint32 `yaml:"min_guest_svn"`
}

// TDXReference is what a trust domain's quote must hold. Values are 96 lower-case hex digits.
type TDXReference struct {
	// MRTD and RTMR0 to RTMR3 are required; each takes several values, since RTMR0 depends on memory and CPUs.
	MRTD  string   `yaml:"mrtd"`
	RTMR0 []string `yaml:"rtmr0"`
	RTMR1 []string `yaml:"rtmr1"`
	RTMR2 []string `yaml:"rtmr2"`
	RTMR3 []string `yaml:"rtmr3"`
	// MRConfigID, MROwner and MROwnerConfig are what the host states. Default: zeros.
	MRConfigID    string `yaml:"mr_config_id"`
	MROwner       string `yaml:"mr_owner"`
	MROwnerConfig string `yaml:"mr_owner_config"`
}

// SNPPolicy says which AMD machines are good enough.
type SNPPolicy struct {
	// Lines are the product lines admitted, each with its least TCB. One that is not named is not admitted.
	Lines map[snp.Line]SNPLine `yaml:"lines"`
	// EndorsementKeys are VCEK, VLEK or both. Required.
	EndorsementKeys []string `yaml:"endorsement_keys"`
	// CSPs are the cloud providers whose VLEKs are admitted, as in the certificate: CN=cc-us-east-2.amazonaws.com.
	// Required with VLEK.
	CSPs []string `yaml:"csps"`
	// MaxVMPL is the highest privilege level number that may have asked for the report. Default 0, the most privileged.
	MaxVMPL uint32 `yaml:"max_vmpl"`
	// Debug, MigrateMA, SMT, CXL, MaskedChipID, ProvisionalFirmware let in what they name. Debug and MigrateMA can't be
	// set: they are here so that the file says so. Default false.
	Debug               bool `yaml:"debug"`
	MigrateMA           bool `yaml:"migrate_ma"`
	SMT                 bool `yaml:"smt"`
	CXL                 bool `yaml:"cxl"`
	MaskedChipID        bool `yaml:"masked_chip_id"`
	ProvisionalFirmware bool `yaml:"provisional_firmware"`
	// MinReportVersion is the least report version. Default 3, the first that names its CPU.
	MinReportVersion uint32 `yaml:"min_report_version"`
	// RequireCRL wants a fresh revocation list. Default true.
	RequireCRL *bool `yaml:"require_crl"`
	// RequireAliasCheck and RequireECC want what the platform's firmware says of its memory. Default true.
	RequireAliasCheck *bool `yaml:"require_alias_check"`
	RequireECC        *bool `yaml:"require_ecc"`
}

// SNPLine is the least TCB of a product line, for the current, reported, committed and launch TCB alike.
type SNPLine struct {
	// MinTCB is required: one that is all zero would take any.
	MinTCB SNPTCB `yaml:"min_tcb"`
	// Grace are older ones for a while. Default none.
	Grace []SNPGrace `yaml:"grace"`
	// MinMitigation are the mitigation bits that must be in force, at launch and now. Reports before version 5 have none.
	// Default 0.
	MinMitigation uint64 `yaml:"min_mitigation"`
}

// SNPTCB is snp.TCB in the policy's words.
type SNPTCB struct {
	FMC       uint8 `yaml:"fmc"`
	Boot      uint8 `yaml:"boot"`
	TEE       uint8 `yaml:"tee"`
	SNP       uint8 `yaml:"snp"`
	Microcode uint8 `yaml:"microcode"`
}

// SNPGrace lets in an older TCB until a date, so that owners can update. All fields are required.
type SNPGrace struct {
	Until  time.Time `yaml:"until"`
	MinTCB SNPTCB    `yaml:"min_tcb"`
	Reason string    `yaml:"reason"`
}

// TDXPolicy says which Intel machines are good enough.
type TDXPolicy struct {
	// Statuses are Intel's ratings that are admitted. Required; UpToDate is the one to name. What is out of date can't be.
	Statuses []tdx.Status `yaml:"statuses"`
	// Grace admits other ratings until a date, OutOfDate among them. Revoked can't be. Default none.
	Grace []TDXGrace `yaml:"grace"`
	// MinTCBEvaluation is the least tcbEvaluationDataNumber of the collateral. Required.
	MinTCBEvaluation int `yaml:"min_tcb_evaluation"`
	// MinTCBDate is the least date of the TCB levels reached. Default: any.
	MinTCBDate time.Time `yaml:"min_tcb_date"`
	// DeniedAdvisories are Intel's advisories that must not be open: INTEL-SA-01192. Default none.
	DeniedAdvisories []string `yaml:"denied_advisories"`
	// MRSEAM are the TDX modules admitted, 96 hex digits. Default: any that Intel's collateral knows.
	MRSEAM []string `yaml:"mrseam"`
	// Debug and Migratable can't be set. PKS, KL, Perfmon and SMT let in what they name; SMT is also let in by it where the
	// platform's certificate doesn't say. Default false.
	Debug      bool `yaml:"debug"`
	Migratable bool `yaml:"migratable"`
	PKS        bool `yaml:"pks"`
	KL         bool `yaml:"kl"`
	Perfmon    bool `yaml:"perfmon"`
	SMT        bool `yaml:"smt"`
	// XFAM are the extended features that a domain may use, a bit mask. Default 0x6DBE7, all that modules 1.5 know.
	XFAM uint64 `yaml:"xfam"`
}

// TDXGrace lets in a rating until a date.
type TDXGrace struct {
	Until      time.Time  `yaml:"until"`
	Status     tdx.Status `yaml:"status"`
	Advisories []string   `yaml:"advisories"` // those that may be open, no others
	Reason     string     `yaml:"reason"`
}

// GPUPolicy says which NVIDIA devices are good enough.
type GPUPolicy struct {
	// Architectures are HOPPER, BLACKWELL. Required. LS10 switches come with protected PCIe alone.
	Architectures []nvgpu.Arch `yaml:"architectures"`
	// MinCount and MaxCount bound the GPUs of a machine. Defaults 1 and 8.
	MinCount int `yaml:"min_count"`
	MaxCount int `yaml:"max_count"`
	// MinDriver and MinVBIOS are the least versions by chip (GH100, GB100, LS10): dotted, compared part by part. A chip
	// that is not named is not admitted.
	MinDriver map[string]string `yaml:"min_driver"`
	MinVBIOS  map[string]string `yaml:"min_vbios"`
	// ProtectedPCIe lets in sets whose NVLink is in clear between GPUs and switches of one tenant. Default false.
	ProtectedPCIe bool `yaml:"protected_pcie"`
}

// Simulation names the roots of simulated vendors. What hangs on them is never verified, only simulated.
type Simulation struct {
	// Admit lets simulated machines in. Default false.
	Admit bool `yaml:"admit"`
	// SNP are simulated ARKs: product line and SHA-256 of the DER.
	SNP []SimulatedARK `yaml:"snp"`
	// TDX, GPU and RIM are certificates, PEM: the root of quotes, of devices, of reference manifests.
	TDX string `yaml:"tdx"`
	GPU string `yaml:"gpu"`
	RIM string `yaml:"rim"`
}

// SimulatedARK is the root of a simulated AMD for one product line.
type SimulatedARK struct {
	Line   snp.Line `yaml:"line"`
	SHA256 Digest   `yaml:"sha256"`
}
