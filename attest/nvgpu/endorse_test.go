package nvgpu_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha512"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"cocoon/attest/nvgpu"
	sim "cocoon/attest/simtee/nvgpu"
)

func TestOpenRIM(t *testing.T) {
	w := newWorld(t, sim.Config{}, sim.DeviceConfig{})
	stranger := newWorld(t, sim.Config{Now: day(start)}, sim.DeviceConfig{})
	rim, signers, err := nvgpu.OpenRIM(w.c.RIMs[0], w.o)
	if err != nil {
		t.Fatal(err)
	}
	if rim.Product != "GH100" || len(signers) != 3 || !signers[0].Equal(w.pki.RIMChain()[0]) {
		t.Errorf("%s %s, %d certificates", rim.Product, rim.Version, len(signers))
	}
	flipped := bytes.Replace(w.c.RIMs[0], []byte(`alternatives="1" index="0"`), []byte(`alternatives="1" index="0" `), 1)
	digit := bytes.Replace(w.c.RIMs[0], []byte(`:Hash0="`), []byte(`:Hash0="0`), 1)
	late := w.o
	late.Now = signers[0].NotAfter.Add(time.Second)
	for name, c := range map[string]struct {
		doc   []byte
		o     nvgpu.Options
		check nvgpu.Check
	}{
		"no time":  {w.c.RIMs[0], nvgpu.Options{Roots: w.o.Roots}, nvgpu.CheckOptions},
		"ended":    {w.c.RIMs[0], late, nvgpu.CheckRIMChain},
		"stranger": {stranger.c.RIMs[0], w.o, nvgpu.CheckRIMChain},
		"no XML":   {[]byte("x"), w.o, nvgpu.CheckRIM},
		"longer":   {digit, w.o, nvgpu.CheckRIM},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := nvgpu.OpenRIM(c.doc, c.o)
			wantCheck(t, err, c.check, "")
		})
	}
	if _, _, err := nvgpu.OpenRIM(flipped, w.o); err != nil {
		t.Errorf("white space that isn't signed: %v", err)
	}
}

func TestOCSPStatus(t *testing.T) {
	w := newWorld(t, sim.Config{}, sim.DeviceConfig{})
	stranger := newWorld(t, sim.Config{Now: day(start)}, sim.DeviceConfig{})
	rom := w.device.Chain()[1:]
	answer := func(w *world, cert *x509.Certificate, s sim.Status) *nvgpu.OCSP {
		t.Helper()
		der, err := w.pki.OCSP(cert, s)
		if err != nil {
			t.Fatal(err)
		}
		o, err := nvgpu.ParseOCSP(der)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	end := day(start).Add(24 * time.Hour)
	good := nvgpu.Answer{Good: true, From: day(start), Until: end}
	for name, certs := range map[string][]*x509.Certificate{
		"boot ROM": rom, "provisioner": rom[1:], "identity": rom[2:], "RIM signer": w.pki.RIMChain(),
		"RIM CA": w.pki.RIMChain()[1:],
	} {
		o := answer(w, certs[0], sim.Status{})
		if got, err := o.Status(certs, w.o); err != nil || got != good {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if !o.About(certs[0], certs[1]) || o.About(certs[1], certs[0]) {
			t.Errorf("%s: about another", name)
		}
	}
	revoked := answer(w, rom[0], sim.Status{Revoked: true})
	if got, err := revoked.Status(rom, w.o); err != nil || got.Good || !got.Until.Equal(end) {
		t.Errorf("%+v, %v", got, err)
	}
	late, other := w.o, w.o
	late.Now, other.Roots = end, stranger.o.Roots
	for name, c := range map[string]struct {
		o     *nvgpu.OCSP
		certs []*x509.Certificate
		opts  nvgpu.Options
		words string
	}{
		"no time":       {revoked, rom, nvgpu.Options{Roots: w.o.Roots}, "a time"},
		"no issuer":     {revoked, rom[:1], w.o, "1 certificates"},
		"long":          {revoked, append(rom[:len(rom):len(rom)], make([]*x509.Certificate, 8)...), w.o, "12 certificates"},
		"another":       {revoked, rom[1:], w.o, "another certificate"},
		"ended":         {revoked, rom, late, "current at"},
		"to come":       {answer(w, rom[0], sim.Status{ThisUpdate: end}), rom, w.o, "current at"},
		"for ever":      {answer(w, rom[0], sim.Status{NextUpdate: end.AddDate(1, 0, 0)}), rom, w.o, "too long"},
		"unknown":       {answer(w, rom[0], sim.Status{Unknown: true}), rom, w.o, "status unknown"},
		"other roots":   {revoked, rom, other, "a pinned root"},
		"gap":           {revoked, []*x509.Certificate{rom[0], rom[1], rom[3]}, w.o, "issuer"},
		"without roots": {revoked, rom, nvgpu.Options{Now: w.o.Now}, "a pinned root"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.o.Status(c.certs, c.opts)
			wantCheck(t, err, nvgpu.CheckDeviceOCSP, c.words)
		})
	}
}

// The request has the form that OpenSSL gives it (openssl ocsp -sha384 -no_nonce): every length and tag of it is here.
func TestOCSPRequest(t *testing.T) {
	w := newWorld(t, sim.Config{}, sim.DeviceConfig{})
	cert, issuer := w.device.Chain()[1], w.device.Chain()[2]
	got, err := nvgpu.OCSPRequest(cert, issuer)
	if err != nil {
		t.Fatal(err)
	}
	point, err := issuer.PublicKey.(*ecdsa.PublicKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	name, key := sha512.Sum384(issuer.RawSubject), sha512.Sum384(point)
	serial := cert.SerialNumber.Bytes() // of 9 bytes, the first below 0x80
	want := slices.Concat(
		[]byte{0x30, 0x81, 0x89}, // OCSPRequest
		[]byte{0x30, 0x81, 0x86}, // tbsRequest
		[]byte{0x30, 0x81, 0x83}, // requestList
		[]byte{0x30, 0x81, 0x80}, // Request
		[]byte{0x30, 0x7e},       // reqCert
		[]byte{0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00}, // SHA-384
		[]byte{0x04, 48}, name[:], []byte{0x04, 48}, key[:], []byte{0x02, 9}, serial,
	)
	if !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}
