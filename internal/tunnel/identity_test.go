package tunnel

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestIdentityIsMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "id.pem")
	ids := make([]ID, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			id, err := LoadIdentity(path)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = id.ID()
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] || id == (ID{}) {
			t.Fatalf("identities differ: %v", ids)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) != 1 {
		t.Errorf("left behind: %v, %v", files, err)
	}
	again, err := LoadIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	if again.ID() != sha256.Sum256(again.cert.Leaf.RawSubjectPublicKeyInfo) {
		t.Error("the ID is not the hash of the key")
	}
}

func TestIdentityRefused(t *testing.T) {
	good, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	other, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	key, cert, _ := strings.Cut(string(good), "-----BEGIN CERTIFICATE")
	_, otherCert, _ := strings.Cut(string(other), "-----BEGIN CERTIFICATE")
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"others read":   {string(good), 0o644, "want 0600"},
		"group reads":   {string(good), 0o640, "want 0600"},
		"empty":         {"", 0o600, "PEM"},
		"garbage":       {"hello", 0o600, "PEM"},
		"no key":        {"-----BEGIN CERTIFICATE" + cert, 0o600, "private key"},
		"no cert":       {key, 0o600, "find certificate"},
		"of two":        {key + "-----BEGIN CERTIFICATE" + otherCert, 0o600, "does not match"},
		"another curve": {string(pemPair(t, p384, p384.Public())), 0o600, "P-256"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "id.pem")
			if err := os.WriteFile(path, []byte(tt.text), tt.mode); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadIdentity(path); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if text, err := os.ReadFile(path); err != nil || string(text) != tt.text {
				t.Errorf("the file was changed: %v", err)
			}
		})
	}
	if _, err := LoadIdentity("/dev/null/id.pem"); err == nil {
		t.Error("made in a folder that can't be")
	}
}

func TestID(t *testing.T) {
	id := newID(t).ID()
	text := id.String()
	back, err := ParseID(text)
	if err != nil || back != id {
		t.Errorf("%s read as %s, %v", text, back, err)
	}
	upper := strings.ToUpper("a" + text[1:])
	for _, bad := range []string{"", text[1:], text + "0", upper, "g" + text[1:], " " + text[1:], text + text} {
		if got, err := ParseID(bad); err == nil || got != (ID{}) {
			t.Errorf("%q read as %s", bad, got)
		}
	}
	var v struct{ ID ID }
	v.ID = id
	b, err := json.Marshal(v)
	if err != nil || !bytes.Contains(b, []byte(`"`+text+`"`)) {
		t.Fatalf("%s, %v", b, err)
	}
	v.ID = ID{}
	if err := json.Unmarshal(b, &v); err != nil || v.ID != id {
		t.Errorf("%s, %v", v.ID, err)
	}
	if err := json.Unmarshal([]byte(`{"ID":"00"}`), &v); err == nil || v.ID != id {
		t.Errorf("short ID read as %s, %v", v.ID, err)
	}
}

// pemPair is an identity file with a certificate for key, self-signed by signer's owner.
func pemPair(t testing.TB, signer any, public any) []byte {
	t.Helper()
	return pemChain(t, signer, public, nil)
}

// pemChain is the same with names for a server's certificate.
func pemChain(t testing.TB, signer, public any, ips []net.IP) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: ips, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
}

// otherCerts are certificates that no worker of ours has.
func otherCerts(t testing.TB) map[string]tls.Certificate {
	t.Helper()
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	big, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]tls.Certificate)
	pairs := map[string][]byte{"P-384": pemPair(t, p384, p384.Public()), "RSA": pemPair(t, big, big.Public())}
	for name, text := range pairs {
		if out[name], err = tls.X509KeyPair(text, text); err != nil {
			t.Fatal(err)
		}
	}
	chain := newID(t).cert
	chain.Certificate = append(chain.Certificate[:1:1], newID(t).cert.Certificate[0])
	out["two certificates"] = chain
	return out
}
