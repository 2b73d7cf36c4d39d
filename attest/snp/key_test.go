package snp_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"testing"
	"time"

	simsnp "cocoon/attest/simtee/snp"
	"cocoon/attest/snp"
)

// extension changes one of AMD's extensions; nil leaves it out.
func extension(value []byte, below ...int) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		id := simsnp.ExtensionID(below...)
		i := slices.IndexFunc(c.ExtraExtensions, func(e pkix.Extension) bool { return e.Id.Equal(id) })
		switch {
		case i < 0:
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: id, Value: value})
		case value == nil:
			c.ExtraExtensions = slices.Delete(c.ExtraExtensions, i, i+1)
		default:
			c.ExtraExtensions[i].Value = value
		}
	}
}

// integer is n as DER; n < 128.
func integer(n byte) []byte { return []byte{asn1.TagInteger, 1, n} }

func ia5(s string) []byte { return append([]byte{asn1.TagIA5String, byte(len(s))}, s...) }

func TestEndorsementKeyExtensions(t *testing.T) {
	type kase struct {
		line   snp.Line
		kind   snp.Signer
		mutate func(*x509.Certificate)
		want   snp.Check
	}
	m, g, u := snp.Milan, snp.Genoa, snp.Turin
	cases := map[string]kase{
		"boot loader":       {m, snp.VCEK, extension(integer(3), 3, 1), snp.CheckTCB},
		"TEE":               {m, snp.VCEK, extension(integer(0), 3, 2), snp.CheckTCB},
		"SNP":               {m, snp.VLEK, extension(integer(25), 3, 3), snp.CheckTCB},
		"microcode":         {m, snp.VCEK, extension(integer(1), 3, 8), snp.CheckTCB},
		"FMC":               {u, snp.VCEK, extension(integer(1), 3, 9), snp.CheckTCB},
		"FMC on Genoa":      {g, snp.VCEK, extension(integer(0), 3, 9), snp.CheckExtension},
		"3.4 on Turin":      {u, snp.VCEK, extension(integer(0), 3, 4), snp.CheckExtension},
		"3.10":              {u, snp.VCEK, extension(integer(0), 3, 10), snp.CheckExtension},
		"6":                 {m, snp.VCEK, extension(integer(0), 6), snp.CheckExtension},
		"4.1":               {m, snp.VCEK, extension(integer(0), 4, 1), snp.CheckExtension},
		"struct 1":          {m, snp.VCEK, extension(integer(1), 1), snp.CheckExtension},
		"struct 0":          {u, snp.VCEK, extension(integer(0), 1), snp.CheckExtension},
		"struct 2":          {u, snp.VCEK, extension(integer(2), 1), snp.CheckExtension},
		"product Genoa":     {m, snp.VCEK, extension(ia5("Genoa"), 2), snp.CheckProduct},
		"product Turin":     {m, snp.VCEK, extension(ia5("Turin"), 2), snp.CheckExtension},
		"product Venice":    {u, snp.VCEK, extension(ia5("Venice"), 2), snp.CheckExtension},
		"product MilanX":    {m, snp.VCEK, extension(ia5("MilanX"), 2), snp.CheckExtension},
		"product Milan-":    {m, snp.VCEK, extension(ia5("Milan-"), 2), snp.CheckExtension},
		"product -b0":       {m, snp.VCEK, extension(ia5("Milan-b0"), 2), snp.CheckExtension},
		"product -B00":      {m, snp.VCEK, extension(ia5("Milan-B00"), 2), snp.CheckExtension},
		"product empty":     {m, snp.VCEK, extension(ia5(""), 2), snp.CheckExtension},
		"product UTF8":      {m, snp.VCEK, extension([]byte("\x0c\x05Milan"), 2), snp.CheckExtension},
		"product a newline": {m, snp.VCEK, extension(ia5("Milan\n"), 2), snp.CheckExtension},
		"CSP a newline":     {m, snp.VLEK, extension(ia5("CN=x\ny"), 5), snp.CheckExtension},
		"CSP no ASCII":      {m, snp.VLEK, extension(ia5("CN=\xe9"), 5), snp.CheckExtension},
		"product more":      {m, snp.VCEK, extension(append(ia5("Milan"), 0), 2), snp.CheckExtension},
		"level negative":    {m, snp.VCEK, extension(integer(0xff), 3, 1), snp.CheckExtension},
		"level 256":         {m, snp.VCEK, extension([]byte{asn1.TagInteger, 2, 1, 0}, 3, 1), snp.CheckExtension},
		"level not least":   {m, snp.VCEK, extension([]byte{asn1.TagInteger, 2, 0, 4}, 3, 1), snp.CheckExtension},
		"level more":        {m, snp.VCEK, extension(append(integer(4), 0), 3, 1), snp.CheckExtension},
		"level no DER":      {m, snp.VCEK, extension([]byte{4}, 3, 1), snp.CheckExtension},
		"level a string":    {m, snp.VCEK, extension(ia5("4"), 3, 1), snp.CheckExtension},
		"hwID other":        {m, snp.VCEK, extension(slices.Repeat([]byte{1}, 64), 4), snp.CheckChipID},
		"hwID Turin":        {u, snp.VCEK, extension(slices.Repeat([]byte{1}, 8), 4), snp.CheckChipID},
		"hwID short":        {m, snp.VCEK, extension(slices.Repeat([]byte{1}, 63), 4), snp.CheckExtension},
		"hwID long":         {m, snp.VCEK, extension(slices.Repeat([]byte{1}, 65), 4), snp.CheckExtension},
		"hwID 8 on Milan":   {m, snp.VCEK, extension(slices.Repeat([]byte{1}, 8), 4), snp.CheckExtension},
		"hwID 64 Turin":     {u, snp.VCEK, extension(slices.Repeat([]byte{1}, 64), 4), snp.CheckExtension},
		"hwID zero":         {m, snp.VCEK, extension(make([]byte, 64), 4), snp.CheckExtension},
		"hwID of a VLEK":    {m, snp.VLEK, extension(slices.Repeat([]byte{1}, 64), 4), snp.CheckExtension},
		"CSP of a VCEK":     {m, snp.VCEK, extension(ia5("CN=x"), 5), snp.CheckExtension},
		"CSP empty":         {m, snp.VLEK, extension(ia5(""), 5), snp.CheckExtension},
	}
	for i, below := range [][]int{{1}, {2}, {3, 1}, {3, 2}, {3, 3}, {3, 4}, {3, 5}, {3, 6}, {3, 7}, {3, 8}, {4}} {
		name := simsnp.ExtensionID(below...).String()
		cases["without "+name] = kase{m, snp.VCEK, extension(nil, below...), snp.CheckExtension}
		if i >= 5 && i <= 8 {
			cases["reserved "+name] = kase{m, snp.VCEK, extension(integer(1), below...), snp.CheckExtension}
		}
	}
	cases["without 5"] = kase{m, snp.VLEK, extension(nil, 5), snp.CheckExtension}
	cases["without FMC"] = kase{u, snp.VCEK, extension(nil, 3, 9), snp.CheckExtension}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.line)
			ek := w.key(t, simsnp.KeyConfig{Kind: c.kind, Mutate: c.mutate})
			_, err := snp.Verify(w.report(t, simsnp.ReportConfig{Signer: c.kind}), ek, w.auth.Endorsements(), w.opts)
			refused(t, err, c.want)
		})
	}
}

func TestEndorsementKeyCertificate(t *testing.T) {
	for name, c := range map[string]struct {
		mutate func(*x509.Certificate)
		want   snp.Check
	}{
		"name":      {func(c *x509.Certificate) { c.Subject.CommonName = "SEV-VEEK" }, snp.CheckCertificate},
		"VLEK name": {func(c *x509.Certificate) { c.Subject.CommonName = "SEV-VLEK" }, snp.CheckExtension},
		"a CA":      {func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, snp.CheckCertificate},
		"critical": {func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions,
				pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: integer(0)})
		}, snp.CheckCertificate},
		"twice": {func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, c.ExtraExtensions[2])
		}, snp.CheckCertificate},
		"PKCS 1":    {func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA384WithRSA }, snp.CheckCertificate},
		"SHA-256":   {func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA256WithRSAPSS }, snp.CheckCertificate},
		"expired":   {func(c *x509.Certificate) { c.NotAfter = simNow.Add(-time.Second) }, snp.CheckValidity},
		"future":    {func(c *x509.Certificate) { c.NotBefore = simNow.Add(time.Second) }, snp.CheckValidity},
		"other key": {func(c *x509.Certificate) { c.AuthorityKeyId = []byte{1} }, ""},
		"tagged hwID": {func(c *x509.Certificate) {
			last := &c.ExtraExtensions[len(c.ExtraExtensions)-1]
			last.Value = append([]byte{asn1.TagOctetString, byte(len(last.Value))}, last.Value...)
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, snp.Genoa)
			ek := w.key(t, simsnp.KeyConfig{Mutate: c.mutate})
			_, err := snp.Verify(w.report(t, simsnp.ReportConfig{}), ek, w.auth.Endorsements(), w.opts)
			if c.want == "" {
				if err != nil {
					t.Fatal(err) // x509 sets the authority's key itself
				}
				return
			}
			refused(t, err, c.want)
		})
	}
}
