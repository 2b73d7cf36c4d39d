package snp

import "fmt"

// Check names one thing that a report, a certificate or a revocation list must pass.
type Check string

// The checks, in the order in which [Verify] makes them.
const (
	// CheckReportSize: a report is 1184 bytes (AMD 56860, ATTESTATION_REPORT).
	CheckReportSize Check = "report size"
	// CheckReportVersion: versions 2 to 5 are known.
	CheckReportVersion Check = "report version"
	// CheckSignatureAlgorithm: ECDSA P-384 with SHA-384, which is 1 (AMD 56860, SIGNATURE_ALGO).
	CheckSignatureAlgorithm Check = "signature algorithm"
	// CheckReserved: bytes and bits that the report's version reserves hold what the specification demands.
	CheckReserved Check = "reserved field"
	// CheckVMPL: a guest's report is of VMPL 0 to 3; all ones would be the host's own report.
	CheckVMPL Check = "VMPL"
	// CheckSigner: the report says VCEK or VLEK, and the endorsement key is of that kind.
	CheckSigner Check = "signer"
	// CheckCPU: family and model are of a product line that we know.
	CheckCPU Check = "CPU"
	// CheckTime: the caller said what time it is.
	CheckTime Check = "time"
	// CheckCertificate: a certificate's encoding, names, key, usage and algorithms are what AMD 57230 says.
	CheckCertificate Check = "certificate"
	// CheckExtension: the endorsement key's AMD extensions are complete, known and well formed.
	CheckExtension Check = "certificate extension"
	// CheckProduct: the endorsement key was issued for the product line that the report is of.
	CheckProduct Check = "product line"
	// CheckTCB: the reported TCB is the one that the endorsement key was issued for.
	CheckTCB Check = "reported TCB"
	// CheckChipID: the chip is the one that the endorsement key was issued for.
	CheckChipID Check = "chip ID"
	// CheckRoot: the ARK is one that the caller pinned for the product line.
	CheckRoot Check = "root"
	// CheckValidity: a certificate is valid now.
	CheckValidity Check = "validity"
	// CheckChain: a certificate was issued by the one above it.
	CheckChain Check = "chain"
	// CheckRevocationList: the revocation lists are authentic, and fresh where required.
	CheckRevocationList Check = "revocation list"
	// CheckRevoked: no certificate of the chain is on a revocation list.
	CheckRevoked Check = "revocation"
	// CheckSignature: the endorsement key signed the report.
	CheckSignature Check = "report signature"
)

// Error is a refusal: the check that failed, what was there and what would have passed. Got and Want are for people:
// branch on Check, never on them. Neither holds anything secret: reports and certificates are public.
type Error struct {
	Check Check
	Field string // what was looked at, such as "VCEK" or "guest policy"; empty if Check says it all
	Got   string
	Want  string
	Err   error // cause, if another package found it
}

// Error says which check failed, with got and want.
func (e *Error) Error() string {
	s := "snp: " + string(e.Check)
	if e.Field != "" {
		s += " (" + e.Field + ")"
	}
	s += ": got " + e.Got + ", want " + e.Want
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause, or nil.
func (e *Error) Unwrap() error { return e.Err }

// refuse makes the refusal of a check; got and want are formatted by fmt.Sprint.
func refuse(check Check, field string, got, want any) *Error {
	return &Error{Check: check, Field: field, Got: fmt.Sprint(got), Want: fmt.Sprint(want)}
}

// because adds the cause.
func (e *Error) because(err error) *Error {
	e.Err = err
	return e
}
