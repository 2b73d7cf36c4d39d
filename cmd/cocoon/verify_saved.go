package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"cocoon/attest"
	"cocoon/attest/channel"
	"cocoon/internal/config"
	"cocoon/internal/strictjson"
)

// savedMax bounds a file of saved evidence: evidence, and room for the proof and the rest.
const savedMax = attest.EvidenceMax + 64<<10

// saved is evidence in a file, with all that it takes to judge it again: from writeSaved with a proof, or from a gateway
// (GET /cocoon/v1/evidence/{keyset}), which asked its worker with a nonce of its own, and knows the binder.
type saved struct {
	V        int             `json:"v"`
	Role     attest.Role     `json:"role"`
	Nonce    attest.Digest   `json:"nonce"`
	Proof    *channel.Proof  `json:"proof,omitempty"` // nil: the nonce is the evidence's own
	Binder   attest.Digest   `json:"binder,omitzero"` // of the connection that a gateway asked its worker on
	TLS      attest.Digest   `json:"tls_spki_sha256"` // of the gateway's key; zero: relayed, or plain HTTP
	Evidence json.RawMessage `json:"evidence"`
	At       time.Time       `json:"at"` // when it was asked for
}

// writeSaved keeps a machine's evidence, if there is any.
func writeSaved(path string, m *machine, at time.Time) error {
	if m.absent != "" {
		return nil
	}
	text, err := json.Marshal(saved{
		V: attest.Version, Role: m.role, Nonce: m.nonce, Proof: m.proof, Binder: m.binder, TLS: m.tls, Evidence: m.evidence, At: at.UTC(),
	})
	if err == nil && len(text) >= savedMax { // a line break follows
		err = fmt.Errorf("it has %d bytes, at most %d", len(text), savedMax)
	}
	if err == nil {
		err = os.WriteFile(path, append(text, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("saving the evidence: %w", err)
	}
	return nil
}

// loadSaved reads what writeSaved wrote.
func loadSaved(path string) (*machine, error) {
	text, err := config.ReadFile(path, savedMax)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w; a gateway is a URL, such as https://gateway.example.com", err)
	}
	if err != nil {
		return nil, err
	}
	m, err := parseSaved(text)
	if err != nil {
		return nil, fmt.Errorf("%s is no saved evidence: %w", path, err)
	}
	m.name = path
	return m, nil
}

func parseSaved(text []byte) (*machine, error) {
	var s saved
	if err := strictjson.Decode(text, &s); err != nil {
		return nil, err
	}
	switch {
	case s.V != attest.Version:
		return nil, fmt.Errorf("version %d, want %d", s.V, attest.Version)
	case s.Role != attest.Worker && s.Role != attest.Gateway:
		return nil, fmt.Errorf("role %q, want worker or gateway", s.Role)
	case s.Nonce.IsZero():
		return nil, errors.New("no nonce")
	case s.Role == attest.Worker && !s.TLS.IsZero():
		return nil, errors.New("a worker with a TLS key, though its evidence was relayed")
	case s.Proof == nil && s.Role != attest.Worker:
		return nil, errors.New("a gateway's evidence without a proof")
	case s.Proof != nil && !s.Binder.IsZero():
		return nil, errors.New("a proof and a binder, which are of two ways to ask")
	case len(s.Evidence) == 0:
		return nil, errors.New("no evidence")
	case s.At.IsZero():
		return nil, errors.New("no time")
	}
	m := &machine{role: s.Role, nonce: s.Nonce, proof: s.Proof, binder: s.Binder, tls: s.TLS, evidence: s.Evidence}
	m.notes = []string{fmt.Sprintf("from a file, which says that it was asked for at %s: it proves nothing about now, and who "+
		"made the file chose the nonce", stamp(s.At))}
	if s.Role == attest.Worker {
		m.notes = append(m.notes, gpuNote)
	}
	return m, nil
}
