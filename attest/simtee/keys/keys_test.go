package keys_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"slices"
	"strings"
	"testing"

	"cocoon/attest/simtee/keys"
)

func pair(t testing.TB, curve elliptic.Curve) keys.Pair[*ecdsa.PrivateKey] {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return keys.Pair[*ecdsa.PrivateKey]{Certificate: c, Key: key}
}

func marshal(t testing.TB, pairs ...keys.Pair[*ecdsa.PrivateKey]) []byte {
	t.Helper()
	text, err := keys.Marshal(pairs...)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestRoundTrip(t *testing.T) {
	want := []keys.Pair[*ecdsa.PrivateKey]{pair(t, elliptic.P256()), pair(t, elliptic.P384())}
	got, err := keys.Parse[*ecdsa.PrivateKey](marshal(t, want...), 2)
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if !got[i].Key.Equal(want[i].Key) || !got[i].Certificate.Equal(want[i].Certificate) {
			t.Errorf("pair %d is another", i)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	a, b := pair(t, elliptic.P256()), pair(t, elliptic.P256())
	good := marshal(t, a)
	mixed := a
	mixed.Key = b.Key
	for name, c := range map[string]struct {
		text []byte
		want string
	}{
		"empty":          {nil, "want 1 certificates"},
		"cut":            {good[:len(good)-30], "want 1 certificates"},
		"two":            {marshal(t, a, b), "something follows"},
		"text after":     {slices.Concat(good, []byte("x")), "something follows"},
		"key first":      {good[bytes.LastIndex(good, []byte("-----BEGIN")):], "want 1 certificates"},
		"usual key":      {bytes.ReplaceAll(good, []byte("SIMULATED PRIVATE"), []byte("PRIVATE")), "want 1 certificates"},
		"another's key":  {marshal(t, mixed), "a key isn't its certificate's"},
		"no certificate": {damage(good, "CERTIFICATE-----\n"), "x509"},
		"no key":         {damage(good, "KEY-----\n"), "not PKCS #8"},
	} {
		if _, err := keys.Parse[*ecdsa.PrivateKey](c.text, 1); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
	if _, err := keys.Parse[*rsa.PrivateKey](good, 1); err == nil || !strings.Contains(err.Error(), "want a *rsa.PrivateKey") {
		t.Errorf("an ECDSA key instead of an RSA one: %v", err)
	}
}

// damage changes the first byte after the first marker.
func damage(text []byte, marker string) []byte {
	text = slices.Clone(text)
	text[bytes.Index(text, []byte(marker))+len(marker)] = 'A'
	return text
}

func FuzzParse(f *testing.F) {
	good := marshal(f, pair(f, elliptic.P256()))
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Fuzz(func(t *testing.T, text []byte) {
		pairs, err := keys.Parse[*ecdsa.PrivateKey](text, 1)
		if err == nil && len(pairs) != 1 {
			t.Errorf("%d pairs", len(pairs))
		}
	})
}
