package tunnel

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"cocoon/internal/durable"
)

// identityMax bounds an identity file, bytes: a key and a certificate chain.
const identityMax = 64 << 10

// ID names a worker or a gateway: the SHA-256 of its TLS leaf's SubjectPublicKeyInfo.
type ID [sha256.Size]byte

// String is 64 lower-case hex digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText is String, for JSON, YAML and logs.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is ParseID.
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err == nil {
		*id = parsed
	}
	return err
}

// ParseID reads what String wrote, and nothing else, so that an ID has one spelling.
func ParseID(s string) (ID, error) {
	var id ID
	n, err := hex.Decode(id[:], []byte(clip(s, 2*len(id))))
	if err != nil || n != len(id) || id.String() != s {
		return ID{}, errors.New("an ID is 64 lower-case hex digits")
	}
	return id, nil
}

func idOf(leaf *x509.Certificate) ID { return sha256.Sum256(leaf.RawSubjectPublicKeyInfo) }

// Identity is a P-256 key and its certificate, self-signed unless the operator put another into the file.
type Identity struct {
	cert tls.Certificate
	id   ID
}

// ID is the identity's public name, which a worker's gateway lists and a gateway's workers pin.
func (i *Identity) ID() ID { return i.id }

// LoadIdentity reads the PEM file at path: one private key, then its certificate (for a gateway that workers check
// by host name: followed by its chain). If there is no file one is made, with a new key and a self-signed certificate.
// It is for its owner's eyes only: a file that others can read is refused.
func LoadIdentity(path string) (*Identity, error) {
	text, err := durable.ReadPrivate(path, identityMax)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeIdentity(path); err != nil {
			return nil, fmt.Errorf("making identity: %w", err)
		}
		text, err = durable.ReadPrivate(path, identityMax)
	}
	if err != nil {
		return nil, fmt.Errorf("loading identity: %w", err)
	}
	i, err := parseIdentity(text)
	if err != nil {
		return nil, fmt.Errorf("loading identity %s: %w", path, err)
	}
	return i, nil
}

func parseIdentity(text []byte) (*Identity, error) {
	cert, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, err
	}
	if err := checkKey(cert.Leaf); err != nil {
		return nil, err
	}
	return &Identity{cert: cert, id: idOf(cert.Leaf)}, nil
}

// checkKey lets in the one key type that we use: small, fast, and everywhere.
func checkKey(leaf *x509.Certificate) error {
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return errors.New("the key is not ECDSA P-256")
	}
	return nil
}

// makeIdentity writes a new identity. Of two processes that do so at once one wins and both then read its file;
// after a crash there is a whole file or none.
func makeIdentity(path string) error {
	text, err := newIdentity()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.Publish(path, text)
}

func newIdentity() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "cocoon"},
		NotBefore:    time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		// The key is what counts, and it is pinned or listed: RFC 5280's date for "no end".
		NotAfter:    time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	leaf, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = errors.Join(
		pem.Encode(&out, &pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
		pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: leaf}),
	)
	return out.Bytes(), err
}
