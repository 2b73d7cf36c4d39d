// Package channel speaks the protocol of attestation: a verifier's challenge, the machine's answer to it, and evidence
// that many askers share. The connections belong to others; docs/protocol.md has what travels on them.
//
// A challenge is bound to the TLS connection that it travels on, or it is not: then its evidence is for relaying, and
// says nothing about who is at the other end of a connection.
package channel

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"cocoon/attest"
)

// requestMax bounds the JSON of a request, bytes; it is some 100.
const requestMax = 4 << 10

// ErrBusy means that more ask for a machine's evidence at once than it answers. Ask again in some seconds.
var ErrBusy = errors.New("too many ask for evidence at once")

// Exporter derives a secret of one TLS connection, the same at both its ends (RFC 8446 7.5).
type Exporter = func(label string, context []byte, length int) ([]byte, error)

// Request is a challenge: {"v":1,"nonce":"<64 hex digits>","bind":true}.
type Request struct {
	V     int           `json:"v"`
	Nonce attest.Digest `json:"nonce"`
	// Bind asks for evidence over the TLS connection that the request came on.
	Bind bool `json:"bind"`
}

// ParseRequest reads a challenge.
func ParseRequest(text []byte) (Request, error) {
	var r Request
	if len(text) > requestMax {
		return r, fmt.Errorf("challenge has %d bytes, at most %d", len(text), requestMax)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return Request{}, fmt.Errorf("challenge: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Request{}, errors.New("challenge: something follows the JSON value")
	}
	switch {
	case r.V != attest.Version:
		return Request{}, fmt.Errorf("challenge: version %d, want %d", r.V, attest.Version)
	case r.Nonce.IsZero():
		return Request{}, errors.New("challenge: no nonce")
	}
	return r, nil
}

// Marshal is the request's JSON.
func (r Request) Marshal() []byte {
	return fmt.Appendf(nil, `{"v":%d,"nonce":"%s","bind":%t}`, r.V, r.Nonce, r.Bind)
}

// Challenge is one bound challenge at the verifier's side. Its fields are what the evidence must be over
// (attest.Setting); they are of one use.
type Challenge struct {
	Nonce  attest.Digest
	Binder attest.Digest
}

// NewChallenge makes a challenge for the connection that export is of.
func NewChallenge(export Exporter) (*Challenge, error) {
	c := &Challenge{Nonce: attest.NewNonce()}
	var err error
	c.Binder, err = binder(export, c.Nonce)
	return c, err
}

// Request is what to send to the machine.
func (c *Challenge) Request() []byte {
	return Request{V: attest.Version, Nonce: c.Nonce, Bind: true}.Marshal()
}

// Open reads the machine's answer. Whether it is true is for a policy to appraise.
func (c *Challenge) Open(answer []byte) (*attest.Evidence, error) {
	e, err := attest.ParseEvidence(answer)
	if err != nil {
		return nil, err
	}
	if e.Nonce != c.Nonce {
		return nil, fmt.Errorf("evidence.nonce: got %s, want %s", e.Nonce, c.Nonce)
	}
	return e, nil
}

// binder is the secret of a connection that evidence over nonce is bound with.
func binder(export Exporter, nonce attest.Digest) (attest.Digest, error) {
	var b attest.Digest
	if export == nil {
		return b, errors.New("bound evidence needs a connection to bind it to, and this one is not fit for that")
	}
	secret, err := export(attest.ExporterLabel, nonce[:], len(b))
	if err != nil {
		return b, fmt.Errorf("binding evidence to the connection: %w", err)
	}
	if len(secret) != len(b) {
		return b, fmt.Errorf("binding evidence to the connection: %d bytes, want %d", len(secret), len(b))
	}
	copy(b[:], secret)
	if b.IsZero() { // which stands for no connection
		return b, errors.New("binding evidence to the connection: its secret is zero")
	}
	return b, nil
}
