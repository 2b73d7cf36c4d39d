// Package opinion asks others' verifiers about evidence that ours accepted: github.com/google/go-sev-guest and
// github.com/google/go-tdx-guest. Our verifiers, attest/snp and attest/tdx, decide; the libraries can only object.
// Where one does, one of the two is wrong, and the evidence is refused until somebody has found out which.
//
// A library abstains where it is known not to be able to judge. That is found out from the evidence before it is asked,
// never from what it answers: each refusal of its is an objection, and so is a panic, for evidence that our verifier
// took for well formed must not make another crash. Even where a library abstains, it is asked as much as it can judge:
//
//   - Turin's certificates (go-sev-guest knows neither the extension 1.3.9 nor a chip ID of 8 bytes), product names
//     without a stepping in reports of version 2, which don't name the CPU, and security patch levels above 127:
//     the report's form and its signature by the endorsement key only.
//   - TCB statuses other than UpToDate (go-tdx-guest has no other way to judge them than to refuse), and PCE IDs and
//     versions of TDX modules with hexadecimal letters (it compares them as text, case by case): the quote's
//     signatures and chain only, without collateral.
//   - The PCK Processor CA (go-tdx-guest knows the Platform CA only): the quote's form only.
//
// Agreement is worth less than an objection, for both libraries are known to be lax. go-sev-guest doesn't compare the
// report's chip and TCB with the endorsement key's, and knows revocation of intermediates only. go-tdx-guest rates the
// TDX module only, from version 1 on, whatever the platform's TCB level, revoked ones included; it takes collateral
// that isn't issued yet, and any evaluation number.
//
// Nothing here touches the network, a file, or state that outlives a call. Importing go-sev-guest registers the flag
// workaround_kds_productname with flag.CommandLine; it concerns an option that is not used here.
package opinion

import (
	"fmt"
	"strings"
)

// The libraries, as they are called in opinions: the versions are go.mod's.
const (
	librarySNP = "go-sev-guest v0.15.0"
	libraryTDX = "go-tdx-guest v0.3.2-0.20260305110651-91f9a52f36c7"
)

// reasonMax is the most bytes of a reason. The libraries put whole certificates into errors, and a reason goes into
// results and logs.
const reasonMax = 300

// Stance is what a library thinks of evidence that our verifier accepted.
type Stance string

// The stances.
const (
	Agrees    Stance = "agrees"
	Abstains  Stance = "abstains"  // it is known not to be able to judge; in what it can, it agrees
	Disagrees Stance = "disagrees" // it refuses, or it panicked: one of the two is wrong
)

// Opinion is what a library thinks, and why.
type Opinion struct {
	Stance  Stance
	Library string // name and version
	Reason  string // why it abstains or disagrees: one line of printable ASCII, at most 300 bytes; else empty
}

// ask puts a question to a library. limit says why it can't judge all of it, if it can't.
func ask(library, limit string, question func() error) Opinion {
	if err := guarded(question); err != nil {
		return Opinion{Disagrees, library, words(err)}
	}
	if limit != "" {
		return Opinion{Abstains, library, limit}
	}
	return Opinion{Stance: Agrees, Library: library}
}

// guarded turns a panic into an error.
func guarded(question func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the library panicked: %v", p)
		}
	}()
	return question()
}

// words returns an error as a reason.
func words(err error) string {
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, err.Error())
	if len(text) > reasonMax {
		text = text[:reasonMax-3] + "..."
	}
	return text
}
