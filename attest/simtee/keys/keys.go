// Package keys writes and reads the private keys of simulated vendors, with their certificates, so that several
// processes can simulate the same one.
package keys

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// The types of PEM blocks.
const (
	blockCertificate = "CERTIFICATE"
	blockKey         = "SIMULATED PRIVATE KEY" // PKCS #8, of a type that nobody else takes for a key
)

// Pair is a certificate and its private key.
type Pair[K crypto.Signer] struct {
	Certificate *x509.Certificate
	Key         K
}

// Marshal returns pairs as PEM, each as a certificate and its key.
func Marshal[K crypto.Signer](pairs ...Pair[K]) ([]byte, error) {
	var text []byte
	for _, p := range pairs {
		der, err := x509.MarshalPKCS8PrivateKey(p.Key)
		if err != nil {
			return nil, fmt.Errorf("marshalling a simulated key: %w", err)
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: p.Certificate.Raw})...)
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: der})...)
	}
	return text, nil
}

// Parse reads what Marshal wrote: n pairs, no more and no fewer, of keys of type K. Its errors hold nothing of a key.
func Parse[K crypto.Signer](text []byte, n int) ([]Pair[K], error) {
	var pairs []Pair[K]
	for range n {
		var certificate, key *pem.Block
		certificate, text = pem.Decode(text)
		key, text = pem.Decode(text)
		if certificate == nil || key == nil || certificate.Type != blockCertificate || key.Type != blockKey {
			return nil, fmt.Errorf("parsing simulated keys: want %d certificates, each with its key", n)
		}
		p, err := parsePair[K](certificate.Bytes, key.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parsing simulated keys: %w", err)
		}
		pairs = append(pairs, p)
	}
	if len(bytes.TrimSpace(text)) != 0 {
		return nil, fmt.Errorf("parsing simulated keys: something follows the %d certificates and keys", n)
	}
	return pairs, nil
}

func parsePair[K crypto.Signer](certificate, key []byte) (p Pair[K], err error) {
	if p.Certificate, err = x509.ParseCertificate(certificate); err != nil {
		return p, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		return p, errors.New("a key is not PKCS #8")
	}
	var ok bool
	if p.Key, ok = parsed.(K); !ok {
		return p, fmt.Errorf("a key is a %T, want a %T", parsed, p.Key)
	}
	public, ok := p.Key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(p.Certificate.PublicKey) {
		return p, errors.New("a key isn't its certificate's")
	}
	return p, nil
}
