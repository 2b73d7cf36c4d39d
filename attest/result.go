package attest

import (
	"fmt"
	"strings"
	"time"

	"cocoon/attest/nvgpu"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

// Verdict is the end of an appraisal.
type Verdict string

// The verdicts.
const (
	// Verified: every check passed, or the policy names it among those to skip, and each chain ends in a vendor's root.
	Verified Verdict = "verified"
	// Simulated: as Verified, but some chain ends in the root of a simulation that the policy admits. It proves nothing.
	Simulated Verdict = "simulated"
	// Rejected: some check failed. One that could not be made has failed.
	Rejected Verdict = "rejected"
	// Unsupported: the evidence is of a kind or version that nothing here can verify.
	Unsupported Verdict = "unsupported"
)

// Admits tells whether the policy lets the machine in.
func (v Verdict) Admits() bool { return v == Verified || v == Simulated }

// Outcome is how a check ended.
type Outcome string

// The outcomes.
const (
	Pass Outcome = "PASS"
	Fail Outcome = "FAIL"
	Skip Outcome = "SKIP" // not made or not passed, by the policy's leave
)

// Check is one thing that was looked at. Got and Want are for people; they hold no secrets, and text that came from the
// evidence is quoted and bounded in them.
type Check struct {
	Name    string    `json:"name"` // dotted: cpu.chain, gpu.0.driver, keyset.window
	Outcome Outcome   `json:"outcome"`
	Got     string    `json:"got,omitempty"`
	Want    string    `json:"want,omitempty"`
	Root    string    `json:"root,omitempty"` // by which root of trust, if by any
	Until   time.Time `json:"until,omitzero"` // when this ceases to hold; zero: it does not
}

// Claims are what authentic evidence says. Those of a rejected Result may be there in part.
type Claims struct {
	// SNP or TDX, and Devices, are the vendors' verifiers' own, and not in JSON: what decides about them is in the
	// checks, and a summary in Hardware.
	SNP     *snp.Claims     `json:"-"`
	TDX     *tdx.Claims     `json:"-"`
	Devices []*nvgpu.Claims `json:"-"`
	Keyset  *Keyset         `json:"keyset,omitempty"`
	// Hardware describes the CPU and then the devices.
	Hardware []Hardware `json:"hardware,omitempty"`
	// Chips names what of it has a name, in the same order, for a policy's lists: snp: and the chip's ID in its VCEK
	// (128 hex digits, 16 on Turin; a VLEK names no chip), tdx: and the platform's PPID (32), gpu: and the device's
	// physical identity (16).
	Chips []string `json:"chips,omitempty"`
}

// Hardware is a CPU or device in words.
type Hardware struct {
	Model   string `json:"model"`   // AMD Genoa, Intel FMSPC 90c06f000000, NVIDIA GH100 A01 GSP BROM
	Version string `json:"version"` // what runs on it: TCB, or driver and VBIOS
	// Measurement is the software's: of an SNP guest the launch digest, of a trust domain MRTD. Empty for devices.
	Measurement string `json:"measurement,omitempty"`
}

// Result is an appraisal's (RFC 9334: attestation result).
type Result struct {
	Verdict Verdict `json:"verdict"`
	Role    Role    `json:"role"` // what the machine was appraised for
	// Release is the policy's name for the software that runs, empty if it is none of the policy's.
	Release string `json:"release,omitempty"`
	// Relayed: it is not known whether the machine is at the other end of any connection of ours.
	Relayed bool    `json:"relayed,omitempty"`
	Checks  []Check `json:"checks"`
	Claims  Claims  `json:"claims"`
	// Policy names the policy, PolicyDigest is the SHA-256 of its text.
	Policy       string    `json:"policy"`
	PolicyDigest Digest    `json:"policy_digest"`
	At           time.Time `json:"at"`
	// Expires is when the verdict ceases to hold: the first end of the policy's longest session, the policy, a date of
	// grace, the release, the keyset, and all certificates and collateral that it rests on.
	Expires time.Time `json:"expires"`
	// Notes say what the relying party should know besides: a skipped check, a date of grace that runs out.
	Notes []string `json:"notes,omitempty"`
}

// Refusal says in one line why the verdict does not admit: the first failed check in full, how many more there are, and
// the collateral that was missing, if any. It is "" for a verdict that admits.
func (r *Result) Refusal(missing error) string {
	if r.Verdict.Admits() {
		return ""
	}
	why := string(r.Verdict)
	if failed := r.Failures(); len(failed) > 0 {
		why = fmt.Sprintf("%s: got %s, want %s", failed[0].Name, failed[0].Got, failed[0].Want)
		if more := len(failed) - 1; more > 0 {
			why += fmt.Sprintf(" (and %d more failed)", more)
		}
	}
	if missing != nil {
		why += "; collateral: " + strings.ReplaceAll(missing.Error(), "\n", "; ")
	}
	return why
}

// Failures are the checks that decided against the machine.
func (r *Result) Failures() []Check {
	var list []Check
	for _, c := range r.Checks {
		if c.Outcome == Fail {
			list = append(list, c)
		}
	}
	return list
}
