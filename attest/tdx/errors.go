package tdx

import "fmt"

// Check names one of the checks that Verify makes, in the words that refusals, logs and result trees use.
type Check string

// The checks, in the order in which Verify makes them.
const (
	CheckOptions        Check = "options"                  // the caller gave roots, a time, a floor and collateral
	CheckFormat         Check = "quote format"             // version, types, sizes, padding
	CheckPCKChain       Check = "PCK certificate chain"    // three certificates in their roles, up to a pinned root
	CheckRoot           Check = "root certificate"         // the root is one of Options.Roots
	CheckPCKExtension   Check = "PCK certificate's values" // Intel's SGX extension of the PCK certificate
	CheckRootCRL        Check = "root CA's CRL"            // signed by the root, current
	CheckPCKCRL         Check = "PCK CRL"                  // signed by the CA that issued the PCK certificate, current
	CheckRevocation     Check = "revocation"               // no certificate involved is on its issuer's list
	CheckQEReport       Check = "QE report signature"      // signed by the PCK
	CheckAttestationKey Check = "attestation key"          // named by the QE report's data
	CheckQuoteSignature Check = "quote signature"          // by the attestation key
	CheckTCBInfo        Check = "TCB info"                 // signed by Intel, well formed, current
	CheckQEIdentity     Check = "QE identity"              // signed by Intel, well formed, current
	CheckTCBEvaluation  Check = "TCB evaluation number"    // not below Options.MinTCBEvaluation
	CheckFMSPC          Check = "FMSPC and PCE ID"         // the TCB info is about this platform
	CheckQE             Check = "quoting enclave"          // it is the one that the QE identity describes
	CheckModule         Check = "TDX module"               // it is one that the TCB info describes
	CheckTCBLevel       Check = "TCB level"                // the SVNs reach a level of the collateral
	CheckTCBStatus      Check = "TCB status"               // not revoked
)

// Error is a refusal: the check that failed, what was found, and what would have passed. Text that came from the
// evidence is quoted in it.
type Error struct {
	Check Check
	Got   string
	Want  string
	Err   error // the cause, if there is one beyond Got
}

// Error returns the refusal as one line.
func (e *Error) Error() string {
	text := fmt.Sprintf("TDX %s: got %s, want %s", e.Check, e.Got, e.Want)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the cause, if any.
func (e *Error) Unwrap() error { return e.Err }

// refuse makes a refusal; cause may be nil.
func refuse(c Check, got, want string, cause error) error {
	return &Error{Check: c, Got: got, Want: want, Err: cause}
}
