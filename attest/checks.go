package attest

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// CheckSecondOpinion is the name of the check that asks another verifier: a failure means that one of the two is wrong,
// which is worth a look.
const CheckSecondOpinion = "cpu.second_opinion"

// The names of all checks, in the order in which results have them. They are stable: users, logs and metrics go by them.
// Those marked * can't be judged again without the evidence; Rejudge takes their outcome over.
const (
	namePolicyWindow = "policy.window"  // the policy holds now
	nameForm         = "evidence.form"  // * version, sizes
	nameNonce        = "evidence.nonce" // * it is the verifier's

	nameCPU        = "cpu.evidence"     // * the vendor's verifier: signatures, chain, collateral, all valid now
	nameRoot       = "cpu.root"         // the chain ends in a root that the policy admits
	nameRevocation = "cpu.revocation"   // there are fresh revocation lists, and nothing is on them
	nameOpinion    = CheckSecondOpinion // * an independent verifier doesn't object

	// Those below are AMD's (S), Intel's (T) or both's, in this order in results of each.
	nameLine          = "cpu.line"           // S product line
	nameSigner        = "cpu.signer"         // S VCEK, or the VLEK of which provider
	nameReportVersion = "cpu.report_version" // S format of the report
	nameTCBCurrent    = "cpu.tcb.current"    // S security patch levels that run
	nameTCBReported   = "cpu.tcb.reported"   // S that the key was derived from
	nameTCBCommitted  = "cpu.tcb.committed"  // S that the host can go back to
	nameTCBLaunch     = "cpu.tcb.launch"     // S that the guest was launched under
	nameMitigation    = "cpu.mitigation"     // S mitigations in force at launch and now
	nameProvisional   = "cpu.provisional"    // S the firmware that runs is committed
	nameTCBStatus     = "cpu.tcb_status"     // T Intel's rating
	nameTCBEvaluation = "cpu.tcb_evaluation" // T how new the collateral's rules are
	nameTCBDate       = "cpu.tcb_date"       // T how new the TCB levels are
	nameAdvisories    = "cpu.advisories"     // T Intel's advisories that are open
	nameMRSEAM        = "cpu.mrseam"         // T the TDX module
	nameDebug         = "cpu.debug"          // ST the host can't read memory
	nameMigration     = "cpu.migration"      // ST nobody may move the guest
	nameVMPL          = "cpu.vmpl"           // S privilege level of who asked
	nameAttributes    = "cpu.attributes"     // T of the trust domain
	nameSMT           = "cpu.smt"            // ST simultaneous multithreading
	namePolicyBits    = "cpu.policy_bits"    // S no other bit of the guest's policy weakens it
	namePlatform      = "cpu.platform"       // S ECC, memory checked for aliases
	nameChipID        = "cpu.chip_id"        // S the report names its chip
	nameXFAM          = "cpu.xfam"           // T extended features
	nameServiceTD     = "cpu.service_td"     // T no service domain is bound to it
	nameMeasurement   = "cpu.measurement"    // ST the software is a release, for this role
	nameReportData    = "cpu.report_data"    // * the report is over this nonce, connection, keyset and these devices

	// GPUs; %d is the device's place in the evidence.
	nameGPUs      = "gpu.evidence"       // * the vendor's verifier over all devices; a gateway must have none
	nameGPURoot   = "gpu.%d.root"        // device and reference values hang on roots that the policy admits
	nameGPUArch   = "gpu.%d.arch"        // architecture
	nameGPUDriver = "gpu.%d.driver"      // least version of the driver; not of switches
	nameGPUVBIOS  = "gpu.%d.vbios"       // least version of the VBIOS
	nameGPUFWID   = "gpu.%d.fwid"        // the report names the firmware that its key was made for
	nameGPUOCSP   = "gpu.%d.ocsp"        // nothing is revoked
	nameGPUCC     = "gpu.%d.cc"          // confidential computing is on: all reference values for it matched
	nameGPUDebug  = "gpu.%d.debug"       // DevTools are off: a device that is debugged has other values
	nameGPUCount  = "gpu.count"          // GPUs, without switches
	nameDistinct  = "gpu.distinct"       // no device is counted twice
	namePPCIE     = "gpu.protected_pcie" // NVLink in clear between GPUs
	nameTopology  = "gpu.topology"       // if so: GPUs and switches name each other, and nobody else

	// Hardware that the policy lists.
	nameChipsDeny  = "chips.deny"
	nameChipsAllow = "chips.allow" // only if there is such a list

	// What the machine says of itself.
	nameKeyset       = "keyset.form"   // *
	nameKeysetRole   = "keyset.role"   // * it wants to be what was asked for
	nameKeysetID     = "keyset.id"     // * it is who was asked for
	nameKeysetWindow = "keyset.window" // it is valid now, and not for too long
	nameKeysetTLS    = "keyset.tls"    // * the connection's peer has this key; not made for relayed evidence
	nameWorkersDeny  = "workers.deny"
	nameWorkersAllow = "workers.allow" // only if there is such a list

	nameFreshness = "freshness" // something is left of the time that all this holds for
)

// The checks that a policy may name in Skip.
const (
	skipOCSP = "gpu.ocsp"    // gpu.N.ocsp: NVIDIA's responses live a day, and its service may be out of reach
	skipFWID = "gpu.fwid"    // gpu.N.fwid: reports of drivers before 550 don't have one
	skipTLS  = nameKeysetTLS // TLS ends elsewhere, in front of the machine
)

// skippable says what each skip of a policy leaves open.
func skippable(name string) (note string, ok bool) {
	switch name {
	case skipOCSP:
		return "whether NVIDIA has revoked a device or its reference values was not checked", true
	case skipFWID:
		return "some GPU's report doesn't name the firmware that its key was made for", true
	case skipTLS:
		return "the connection's key was not compared with the machine's: whoever ends TLS can read along", true
	}
	return "", false
}

// wordsMax bounds what a check repeats of the evidence, bytes.
const wordsMax = 400

// words makes text fit for logs and terminals: bounded, and nothing in it that isn't printed.
func words(text string) string {
	if len(text) > wordsMax {
		text = text[:wordsMax] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}

// passed is Pass or Fail.
func passed(ok bool) Outcome {
	if ok {
		return Pass
	}
	return Fail
}

// stamp is a time as checks write it.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// plural is "1 GPU", "2 GPUs".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// oneOf is what a policy has of something.
func oneOf[T ~string](all []T) string {
	if len(all) == 0 {
		return "none: the policy admits nothing of the kind"
	}
	return fmt.Sprintf("%v", all)
}
