// Package snp verifies AMD SEV-SNP attestation reports offline: strictly, with the standard library only, and with
// nothing trusted that the caller did not name.
//
// [Verify] answers one question: did a genuine AMD secure processor of this product line, at this TCB, sign this
// report, and what does the report claim? It refuses whatever it does not know: report versions, signature algorithms,
// reserved bits, certificate extensions, product lines. It holds no opinion on the claims: a debuggable guest's report
// is authentic too. That opinion is the appraisal policy's.
//
// Everything that decides is an argument: the pinned roots, the time, the certificates, the revocation lists. There is
// no network, no state, and no option that skips a check: tests and simulators bring their own roots.
//
// Evidence is malleable. ECDSA lets anybody turn a signature (r, s) into (r, n-s), which is as valid; so the hash of a
// report's bytes, or of anything that includes them, must never serve to recognize a replay. Only the report data,
// which the verifier's own nonce went into, does.
//
// Sources: AMD 56860 "SEV Secure Nested Paging Firmware ABI Specification" up to revision 1.58 (report, guest policy,
// platform information, TCB), AMD 57230 "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface
// Specification" (certificates, extensions, revocation), and the real reports that the tests verify.
package snp
