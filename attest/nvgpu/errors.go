package nvgpu

import (
	"encoding/hex"
	"fmt"
)

// Check names one thing that verification insists on. The names are stable: policies, logs and users see them.
type Check string

// The checks, in the order in which they are made.
const (
	CheckOptions      Check = "options"       // the caller's roots, time and nonce are there
	CheckSize         Check = "size"          // no input is longer than its limit
	CheckReport       Check = "report"        // the report is one SPDM 1.1 exchange, every length and field as it should
	CheckNonce        Check = "nonce"         // the request in the report carries the verifier's nonce
	CheckChain        Check = "device-chain"  // certificates from the device to a pinned root, each valid now
	CheckIdentity     Check = "identity"      // the chain's certificates and the report name one device, of a known chip
	CheckFWID         Check = "fwid"          // the report names the firmware that the device's certificate was made for
	CheckSignature    Check = "signature"     // the device signed the report
	CheckDeviceOCSP   Check = "device-ocsp"   // no certificate of the device's chain is revoked
	CheckRIM          Check = "rim"           // a RIM is there for this product and version, exactly one, and well formed
	CheckRIMSignature Check = "rim-signature" // its XML signature covers all of it
	CheckRIMChain     Check = "rim-chain"     // its signer's certificates end in a pinned root, each valid now
	CheckRIMOCSP      Check = "rim-ocsp"      // none of those certificates is revoked
	CheckNVDEC        Check = "nvdec0"        // the report says whether NVDEC0 is there, which decides about number 35
	CheckMeasurements Check = "measurements"  // every active reference value is matched
	CheckDistinct     Check = "distinct"      // no device is counted twice
	CheckTopology     Check = "topology"      // protected PCIe: GPUs and switches name each other, and nobody else
)

// CheckError says which check refused the evidence, what it found and what it wanted. It never holds secrets: evidence
// is public by nature.
type CheckError struct {
	Check     Check
	Subject   string // which certificate, RIM, or field; may be empty
	Got, Want string // in words or hex; Want may be empty where Got says it all
}

// Error renders "check subject: got X, want Y".
func (e *CheckError) Error() string {
	s := string(e.Check)
	if e.Subject != "" {
		s += " " + e.Subject
	}
	s += ": got " + e.Got
	if e.Want != "" {
		s += ", want " + e.Want
	}
	return s
}

// textMax is how much of a hostile string an error repeats.
const textMax = 80

// quote makes a peer's bytes fit for a log line.
func quote(s string) string {
	if len(s) > textMax {
		s = s[:textMax] + "..."
	}
	return fmt.Sprintf("%q", s)
}

func short(b []byte) string {
	if len(b) > 16 {
		return hex.EncodeToString(b[:16]) + "..."
	}
	return hex.EncodeToString(b)
}

func fail(c Check, subject, got, want string) error {
	return &CheckError{Check: c, Subject: subject, Got: got, Want: want}
}
