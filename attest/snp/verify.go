package snp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"time"
)

// Options say whom the caller trusts and when it is. The zero value refuses everything.
type Options struct {
	Roots      []Root    // pinned ARKs; empty refuses everything
	Now        time.Time // when certificates must be valid and lists fresh, without allowance; zero is refused
	RequireCRL bool      // a fresh revocation list of the ARK must be among the endorsements
}

// Verify returns what a report proves: that a secure processor, whose endorsement key (a VCEK or VLEK certificate in
// DER) hangs on a pinned root, signed it. All errors are an [*Error], which names the check that failed.
//
// The claims are true, not good: whether debugging, this measurement or this TCB is acceptable, whether the report data
// holds the expected nonce, and whether the root is AMD's or a simulator's, is for the caller to appraise.
func Verify(report, ek []byte, endorsements Endorsements, o Options) (*Claims, error) {
	if o.Now.IsZero() {
		return nil, refuse(CheckTime, "", "none", "the time at which to verify")
	}
	r, err := ParseReport(report)
	if err != nil {
		return nil, err
	}
	k, err := ParseEndorsementKey(ek)
	if err != nil {
		return nil, err
	}
	c, err := match(r, k)
	if err != nil {
		return nil, err
	}
	is, err := endorsements.anchored(c.Line, k.Kind, o)
	if err != nil {
		return nil, err
	}
	if err := validAt(k.Kind.String(), k.certificate, o.Now); err != nil {
		return nil, err
	}
	if err := issuedBy(k.Kind.String(), k.certificate, is.ica); err != nil {
		return nil, err
	}
	if c.Revocation, err = checkRevocation(endorsements[c.Line], is, k, o); err != nil {
		return nil, err
	}
	digest := sha512.Sum384(report[:offSignature])
	if !ecdsa.Verify(k.public, digest[:], r.r, r.s) {
		return nil, refuse(CheckSignature, "", "another signature", "one by the "+k.Kind.String())
	}
	c.Root, c.EK = is.root, sha256.Sum256(ek)
	c.NotAfter = earliest(is.ark.NotAfter, is.ica.NotAfter, k.certificate.NotAfter, c.Revocation.NextUpdate)
	return c, nil
}

// match checks that the endorsement key is of the report's signer, product line, TCB and chip, and fills in the claims
// about these. It costs no signature check.
func match(r *Report, k *EndorsementKey) (*Claims, error) {
	if k.Kind != r.Signer {
		return nil, refuse(CheckSigner, "endorsement key", k.Kind, r.Signer)
	}
	c := &Claims{Statement: r.Statement, Line: r.Line, Product: k.Product, HWID: k.HWID, CSPID: k.CSPID}
	if c.Line == "" { // version 2; Turin's firmware never made it
		c.Line = k.Line
	}
	if k.Line != c.Line || (r.Version < versionCPU && c.Line == Turin) {
		return nil, refuse(CheckProduct, k.Kind.String(), quote(k.Product), lineWords(r))
	}
	if c.Platform.Raw&platformTurin != 0 && c.Line != Turin {
		return nil, refuse(CheckReserved, "platform info", fmt.Sprintf("%#x", c.Platform.Raw),
			"no bit 6 on "+string(c.Line))
	}
	for _, t := range []struct {
		raw  RawTCB
		into *TCB
	}{
		{r.CurrentTCB, &c.Current},
		{r.ReportedTCB, &c.Reported},
		{r.CommittedTCB, &c.Committed},
		{r.LaunchTCB, &c.Launch},
	} {
		var err error
		if *t.into, err = t.raw.Decode(c.Line); err != nil {
			return nil, err
		}
	}
	if c.Reported != k.TCB {
		return nil, refuse(CheckTCB, k.Kind.String(), c.Reported, k.TCB)
	}
	c.ChipIDMasked = zero(r.ChipID[:])
	return c, matchChip(r, k, c.ChipIDMasked)
}

func lineWords(r *Report) string {
	if r.Version < versionCPU {
		return "Milan or Genoa, being version 2"
	}
	return string(r.Line) + ", being " + r.CPU.String()
}

// matchChip compares the chip's name with the VCEK's. A masked one is in no conflict: the VCEK is the chip's anyhow.
func matchChip(r *Report, k *EndorsementKey, masked bool) error {
	if k.Kind != VCEK || masked {
		return nil
	}
	n := len(k.HWID)
	if !bytes.Equal(r.ChipID[:n], k.HWID) || !zero(r.ChipID[n:]) {
		return refuse(CheckChipID, "VCEK", fmt.Sprintf("%x", r.ChipID), fmt.Sprintf("%x", k.HWID))
	}
	return nil
}

// earliest returns the first of the times, zero ones aside.
func earliest(times ...time.Time) (first time.Time) {
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}
