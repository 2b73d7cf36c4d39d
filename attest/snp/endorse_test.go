package snp_test

import (
	"testing"
	"time"

	simsnp "cocoon/attest/simtee/snp"
	"cocoon/attest/snp"
)

func TestVerifyKey(t *testing.T) {
	w, other := newWorld(t, snp.Genoa), newWorld(t, snp.Turin)
	for _, kind := range []snp.Signer{snp.VCEK, snp.VLEK} {
		ek := w.key(t, simsnp.KeyConfig{Kind: kind, TCB: w.tcb})
		chain := w.auth.Endorsements()[snp.Genoa]
		k, end, err := snp.VerifyKey(ek, chain, w.opts)
		if err != nil {
			t.Fatal(err)
		}
		if k.Kind != kind || k.TCB != w.tcb || !end.After(simNow) {
			t.Errorf("%+v until %s", k, end)
		}
		after := w.opts
		after.Now = end.Add(time.Second)
		foreign := w.opts
		foreign.Roots = snp.AMDRoots()
		for name, c := range map[string]struct {
			ek    []byte
			chain snp.Chain
			o     snp.Options
			check snp.Check
		}{
			"ended":        {ek, chain, after, snp.CheckValidity},
			"root":         {ek, chain, foreign, snp.CheckRoot},
			"other line":   {ek, other.auth.Endorsements()[snp.Turin], w.opts, snp.CheckRoot},
			"no issuer":    {ek, snp.Chain{ARK: chain.ARK}, w.opts, snp.CheckCertificate},
			"other issuer": {ek, snp.Chain{ARK: chain.ARK, ASK: chain.ASVK, ASVK: chain.ASK}, w.opts, snp.CheckCertificate},
			"no key":       {chain.ASK, chain, w.opts, snp.CheckCertificate},
			"no options":   {ek, chain, snp.Options{}, snp.CheckRoot},
		} {
			t.Run(kind.String()+"/"+name, func(t *testing.T) {
				_, _, err := snp.VerifyKey(c.ek, c.chain, c.o)
				refused(t, err, c.check)
			})
		}
	}
}

func TestVerifyCRL(t *testing.T) {
	w := newWorld(t, snp.Genoa)
	chain := w.auth.Endorsements()[snp.Genoa]
	good := w.crl(t, simsnp.CRLConfig{NextUpdate: simNow.Add(time.Hour)})
	r, end, err := snp.VerifyCRL(good, snp.Genoa, snp.VLEK, chain, w.opts)
	if err != nil || !end.Equal(simNow.Add(time.Hour)) || r.Number == nil || !r.NextUpdate.Equal(end) {
		t.Errorf("%+v, %s, %v", r, end, err)
	}
	foreign := w.opts
	foreign.Roots = snp.AMDRoots()
	flipped := append([]byte(nil), good...)
	flipped[len(flipped)-1] ^= 1
	for name, c := range map[string]struct {
		crl   []byte
		o     snp.Options
		check snp.Check
	}{
		"ended":   {w.crl(t, simsnp.CRLConfig{NextUpdate: simNow.Add(-time.Second)}), w.opts, snp.CheckRevocationList},
		"to come": {w.crl(t, simsnp.CRLConfig{ThisUpdate: simNow.Add(time.Second)}), w.opts, snp.CheckRevocationList},
		"forged":  {flipped, w.opts, snp.CheckRevocationList},
		"none":    {nil, w.opts, snp.CheckRevocationList},
		"root":    {good, foreign, snp.CheckRoot},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := snp.VerifyCRL(c.crl, snp.Genoa, snp.VCEK, chain, c.o)
			refused(t, err, c.check)
		})
	}
}
