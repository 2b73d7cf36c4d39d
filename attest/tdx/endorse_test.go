package tdx_test

import (
	"crypto/sha256"
	"testing"
	"time"

	simtdx "cocoon/attest/simtee/tdx"
	"cocoon/attest/tdx"
)

func TestVerifyCollateral(t *testing.T) {
	s, other := newSim(t), newSim(t)
	issued, end := simNow.Add(-time.Hour).UTC().Truncate(time.Second), simNow.Add(24*time.Hour)
	good := simtdx.Collateral{Issued: issued, NextUpdate: end, Evaluation: 19}
	st, err := tdx.VerifyCollateral(s.collateral(good), s.options())
	if err != nil {
		t.Fatal(err)
	}
	want := tdx.Standing{
		FMSPC: s.Platform().FMSPC, PCEID: s.Platform().PCEID, CA: tdx.PlatformCA, Root: sha256.Sum256(s.pki.Root().Raw),
		TCBInfo: tdx.Edition{Evaluation: 19, Issued: issued}, QEIdentity: tdx.Edition{Evaluation: 19, Issued: issued},
		RootCRL: issued, PCKCRL: issued, Issued: issued, Expires: end,
	}
	if *st != want {
		t.Errorf("got %+v, want %+v", st, want)
	}
	one := newSimOf(t, tdx.Platform{CA: tdx.ProcessorCA})
	if st, err := tdx.VerifyCollateral(one.collateral(good), one.options()); err != nil || st.CA != tdx.ProcessorCA {
		t.Errorf("%+v, %v", st, err)
	}
	certs := s.pki.Certificates() // root, platform CA, processor CA, signer
	mixed := func(set func(c, other *tdx.Collateral)) *tdx.Collateral {
		c := s.collateral(good)
		set(c, other.collateral(good))
		return c
	}
	for name, c := range map[string]struct {
		c    *tdx.Collateral
		o    func(*tdx.Options)
		want tdx.Check
	}{
		"none":          {nil, nil, tdx.CheckOptions},
		"no time":       {s.collateral(good), func(o *tdx.Options) { o.Now = time.Time{} }, tdx.CheckOptions},
		"other roots":   {s.collateral(good), func(o *tdx.Options) { o.Roots = other.options().Roots }, tdx.CheckRoot},
		"old":           {s.collateral(good), func(o *tdx.Options) { o.MinTCBEvaluation = 20 }, tdx.CheckTCBEvaluation},
		"ended":         {s.collateral(good), func(o *tdx.Options) { o.Now = end.Add(time.Second) }, tdx.CheckRootCRL},
		"to come":       {s.collateral(good), func(o *tdx.Options) { o.Now = issued.Add(-time.Second) }, tdx.CheckRootCRL},
		"signer gone":   {s.collateral(simtdx.Collateral{Revoked: certs[3:4]}), nil, tdx.CheckRevocation},
		"CA gone":       {s.collateral(simtdx.Collateral{Revoked: certs[1:2]}), nil, tdx.CheckRevocation},
		"part missing":  {mixed(func(c, _ *tdx.Collateral) { c.QEIdentity = nil }), nil, tdx.CheckQEIdentity},
		"other info":    {mixed(func(c, _ *tdx.Collateral) { c.TCBInfo = append(c.TCBInfo, ' ') }), nil, tdx.CheckTCBInfo},
		"other chain":   {mixed(func(c, o *tdx.Collateral) { c.TCBInfoChain = o.TCBInfoChain }), nil, tdx.CheckTCBInfo},
		"other QE":      {mixed(func(c, _ *tdx.Collateral) { c.QEIdentity[0] = ' ' }), nil, tdx.CheckQEIdentity},
		"other list":    {mixed(func(c, o *tdx.Collateral) { c.PCKCRL = o.PCKCRL }), nil, tdx.CheckPCKCRL},
		"other root":    {mixed(func(c, o *tdx.Collateral) { c.RootCRL = o.RootCRL }), nil, tdx.CheckRootCRL},
		"list's signer": {mixed(func(c, _ *tdx.Collateral) { c.PCKCRLChain = c.TCBInfoChain }), nil, tdx.CheckPCKCRL},
		"no list chain": {mixed(func(c, _ *tdx.Collateral) { c.PCKCRLChain = []byte("x") }), nil, tdx.CheckPCKCRL},
	} {
		t.Run(name, func(t *testing.T) {
			o := s.options()
			if c.o != nil {
				c.o(&o)
			}
			_, err := tdx.VerifyCollateral(c.c, o)
			wantRefusal(t, err, c.want)
		})
	}
}

func TestVerifyPlatform(t *testing.T) {
	s, other := newSim(t), newSim(t)
	q, err := tdx.Parse(s.quote(simtdx.Quote{}))
	if err != nil {
		t.Fatal(err)
	}
	p, root, err := q.VerifyPlatform(s.options())
	if err != nil {
		t.Fatal(err)
	}
	if p.FMSPC != s.Platform().FMSPC || p.CA != tdx.PlatformCA || root != sha256.Sum256(s.pki.Root().Raw) {
		t.Errorf("%+v, %x", p, root)
	}
	_, _, err = q.VerifyPlatform(other.options())
	wantRefusal(t, err, tdx.CheckRoot)
	o := s.options()
	o.Now = o.Now.AddDate(30, 0, 0)
	_, _, err = q.VerifyPlatform(o)
	wantRefusal(t, err, tdx.CheckPCKChain)
	_, _, err = q.VerifyPlatform(tdx.Options{})
	wantRefusal(t, err, tdx.CheckOptions)
}
