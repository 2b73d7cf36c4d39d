package snp_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"sync"
	"testing"

	simsnp "cocoon/attest/simtee/snp"
	"cocoon/attest/snp"
)

// forger makes chains of any kind, named byte for byte like AMD's.
type forger struct {
	ark, ask *rsa.PrivateKey
	weak     *rsa.PrivateKey
}

var newForger = sync.OnceValues(func() (*forger, error) {
	f := &forger{}
	var err error
	for into, bits := range map[**rsa.PrivateKey]int{&f.ark: 2048, &f.ask: 2048, &f.weak: 1024} {
		if *into, err = rsa.GenerateKey(rand.Reader, bits); err != nil {
			return nil, err
		}
	}
	return f, nil
})

// forgery says how a forged chain is made; what is nil is as it should be.
type forgery struct {
	ark, ask, ek func(*x509.Certificate)
	askKey       *rsa.PrivateKey  // in the ASK's certificate
	ekKey        crypto.PublicKey // in the endorsement key's certificate
	arkSigner    *rsa.PrivateKey  // of the ASK
	askSigner    *rsa.PrivateKey  // of the endorsement key

	issuer func(*x509.Certificate) // as which the endorsement key's certificate is issued
}

// make returns the certificates: ARK, ASK, endorsement key.
func (f *forger) make(t *testing.T, w *world, c forgery) (ark, ask, ek []byte) {
	t.Helper()
	genuine := amd(t)[w.line]
	parse := func(der []byte) *x509.Certificate {
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	create := func(template, parent *x509.Certificate, key crypto.PublicKey, signer *rsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key, signer)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	apply := func(template *x509.Certificate, change func(*x509.Certificate)) *x509.Certificate {
		template.SignatureAlgorithm = x509.SHA384WithRSAPSS
		template.NotBefore, template.NotAfter = simNow.AddDate(-1, 0, 0), simNow.AddDate(1, 0, 0)
		if change != nil {
			change(template)
		}
		return template
	}
	ca := func(like *x509.Certificate) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: like.SerialNumber, RawSubject: like.RawSubject, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: like.KeyUsage, SubjectKeyId: like.SubjectKeyId,
		}
	}
	orElse := func(key, def *rsa.PrivateKey) *rsa.PrivateKey {
		if key != nil {
			return key
		}
		return def
	}
	arkTemplate := apply(ca(parse(genuine.ARK)), c.ark)
	ark = create(arkTemplate, arkTemplate, f.ark.Public(), f.ark)
	askTemplate := apply(ca(parse(genuine.ASK)), c.ask)
	askKey := orElse(c.askKey, f.ask)
	ask = create(askTemplate, parse(ark), askKey.Public(), orElse(c.arkSigner, f.ark))
	like := parse(w.key(t, simsnp.KeyConfig{}))
	ekTemplate := apply(&x509.Certificate{
		SerialNumber: new(big.Int), Subject: like.Subject, ExtraExtensions: slices.DeleteFunc(like.Extensions,
			func(e pkix.Extension) bool { return !slices.Equal(e.Id[:min(8, len(e.Id))], simsnp.ExtensionID()) }),
	}, c.ek)
	key := c.ekKey
	if key == nil {
		key = w.chip.Key(snp.VCEK).Public()
	}
	issuer := parse(ask)
	issuer.PublicKey = orElse(c.askSigner, askKey).Public()
	if c.issuer != nil {
		c.issuer(issuer)
	}
	ek = create(ekTemplate, issuer, key, orElse(c.askSigner, askKey))
	return ark, ask, ek
}

// A whole chain of one's own is worth nothing, however well it is named; nor is a piece of it below AMD's ARK.
func TestForgedChain(t *testing.T) {
	f, err := newForger()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range snp.Lines() {
		w := newWorld(t, line)
		report := w.report(t, simsnp.ReportConfig{})
		ark, ask, ek := f.make(t, w, forgery{})
		forged := snp.Endorsements{line: {ARK: ark, ASK: ask, ASVK: ask}}
		o := snp.Options{Roots: snp.AMDRoots(), Now: simNow}
		_, err := snp.Verify(report, ek, forged, o)
		refused(t, err, snp.CheckRoot)
		genuine := amd(t)[line]
		_, err = snp.Verify(report, ek, snp.Endorsements{line: {ARK: genuine.ARK, ASK: ask}}, o)
		refused(t, err, snp.CheckChain)
		_, err = snp.Verify(report, ek, amd(t), o)
		refused(t, err, snp.CheckChain)
		_, err = snp.Verify(report, ek, snp.Endorsements{line: {ARK: ask, ASK: ask}}, o)
		refused(t, err, snp.CheckRoot)
		// It is the root that it fails on: who pins it, takes it.
		o.Roots = []snp.Root{{Line: line, SHA256: sha256.Sum256(ark)}}
		c, err := snp.Verify(report, ek, forged, o)
		if err != nil {
			t.Fatal(err)
		}
		if c.Vendor() {
			t.Error("a forged root is taken for the vendor's")
		}
	}
}

// Below a pinned root, too, everything must be as AMD does it.
func TestChainCertificates(t *testing.T) {
	f, err := newForger()
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, snp.Turin)
	report := w.report(t, simsnp.ReportConfig{})
	otherChip := newWorld(t, snp.Turin).chip
	notCA := func(c *x509.Certificate) { c.IsCA = false }
	noUsage := func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }
	expired := func(c *x509.Certificate) { c.NotAfter = simNow.AddDate(0, 0, -1) }
	future := func(c *x509.Certificate) { c.NotBefore = simNow.AddDate(0, 0, 1) }
	otherName := func(c *x509.Certificate) { c.RawSubject, c.Subject.CommonName = nil, "SEV-Rome" }
	otherID := func(c *x509.Certificate) { c.SubjectKeyId = []byte{1, 2, 3} }
	pkcs := func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA384WithRSA }
	for name, c := range map[string]struct {
		forgery forgery
		want    snp.Check
	}{
		"ARK expired":          {forgery{ark: expired}, snp.CheckValidity},
		"ARK of the future":    {forgery{ark: future}, snp.CheckValidity},
		"ARK no CA":            {forgery{ark: notCA}, snp.CheckCertificate},
		"ARK without usage":    {forgery{ark: noUsage}, snp.CheckCertificate},
		"ARK PKCS 1":           {forgery{ark: pkcs}, snp.CheckCertificate},
		"ASK expired":          {forgery{ask: expired}, snp.CheckValidity},
		"ASK of the future":    {forgery{ask: future}, snp.CheckValidity},
		"ASK no CA":            {forgery{ask: notCA}, snp.CheckCertificate},
		"ASK without usage":    {forgery{ask: noUsage}, snp.CheckCertificate},
		"ASK PKCS 1":           {forgery{ask: pkcs}, snp.CheckCertificate},
		"ASK weak":             {forgery{askKey: f.weak}, snp.CheckCertificate},
		"EK P-256":             {forgery{ekKey: p256.Public()}, snp.CheckCertificate},
		"EK RSA":               {forgery{ekKey: f.ask.Public()}, snp.CheckCertificate},
		"EK of another key":    {forgery{ekKey: otherChip.Key(snp.VCEK).Public()}, snp.CheckSignature},
		"EK signed by ARK":     {forgery{askSigner: f.ark}, snp.CheckChain},
		"EK names another":     {forgery{issuer: otherName}, snp.CheckChain},
		"EK names another key": {forgery{issuer: otherID}, snp.CheckChain},
		"EK PKCS 1":            {forgery{ek: pkcs}, snp.CheckCertificate},
		"all as it should be":  {forgery{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			ark, ask, ek := f.make(t, w, c.forgery)
			o := snp.Options{Roots: []snp.Root{{Line: snp.Turin, SHA256: sha256.Sum256(ark)}}, Now: simNow}
			_, err := snp.Verify(report, ek, snp.Endorsements{snp.Turin: {ARK: ark, ASK: ask}}, o)
			if c.want != "" {
				refused(t, err, c.want)
			} else if err != nil {
				t.Fatal(err)
			}
		})
	}
	// An ASK that another ARK of the same name signed.
	ark, _, _ := f.make(t, w, forgery{})
	other := &forger{ark: f.ask, ask: f.ask}
	_, ask, ek := other.make(t, w, forgery{})
	o := snp.Options{Roots: []snp.Root{{Line: snp.Turin, SHA256: sha256.Sum256(ark)}}, Now: simNow}
	_, err = snp.Verify(report, ek, snp.Endorsements{snp.Turin: {ARK: ark, ASK: ask}}, o)
	refused(t, err, snp.CheckChain)
}
