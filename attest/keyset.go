package attest

import (
	"errors"
	"fmt"
	"time"
)

// Role is what a machine is to the network.
type Role string

// The roles.
const (
	Worker  Role = "worker"  // reads prompts, and must have GPUs that prove themselves
	Gateway Role = "gateway" // relays them
)

// KeysetMaxAge is how long a keyset may be valid at most: keys of a machine that was taken away end by themselves.
const KeysetMaxAge = 24 * time.Hour

// modelsMax bounds a keyset's models: as many as an offer sheet has.
const modelsMax = 256

// Keyset is all that a machine says of itself in its own words: its keys, and what it runs. Evidence binds it as bytes.
type Keyset struct {
	V    int  `json:"v"`
	Role Role `json:"role"`
	// ID names the machine: the SHA-256 of the SubjectPublicKeyInfo of its identity's certificate, which a worker
	// connects to gateways with and a gateway meets workers with.
	ID Digest `json:"id"`
	// Epoch counts up with each new keyset of one ID.
	Epoch     uint64    `json:"epoch"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	// TLS is the SHA-256 of the SubjectPublicKeyInfo that the machine shows on the connections which this is about: a
	// worker's identity, a gateway's public certificate. Zero if a gateway serves plain HTTP.
	TLS Digest `json:"tls_spki_sha256"`
	// HPKE is what requests can be sealed to. Nil for a gateway.
	HPKE *HPKEKey `json:"hpke,omitempty"`
	// Receipt is the Ed25519 key that signs a worker's receipts. Empty for a gateway.
	Receipt []byte  `json:"receipt_ed25519,omitempty"`
	Models  []Model `json:"models,omitempty"`
	// Policy is the digest of the policy that the machine itself appraises its GPUs under; zero if it does not.
	Policy Digest `json:"policy_digest"`
}

// HPKEKey is a public key of RFC 9180.
type HPKEKey struct {
	KEM    uint16 `json:"kem"` // its number in IANA's registry
	Public []byte `json:"pub"`
}

// Model is what a worker says that it serves.
type Model struct {
	Name          string `json:"name"`
	WeightsDigest string `json:"weights_digest,omitempty"`
	Engine        string `json:"engine,omitempty"`
}

// ParseKeyset reads a keyset. It checks form; the window and the keys are for Appraise.
func ParseKeyset(text []byte) (*Keyset, error) {
	k := new(Keyset)
	if len(text) > KeysetMax {
		return nil, fmt.Errorf("keyset has %d bytes, at most %d", len(text), KeysetMax)
	}
	if err := decodeUnambiguous(text, k); err != nil {
		return nil, fmt.Errorf("keyset: %w", err)
	}
	switch {
	case k.V != Version:
		return nil, fmt.Errorf("keyset: version %d, want %d", k.V, Version)
	case k.Role != Worker && k.Role != Gateway:
		return nil, errors.New("keyset: role is neither worker nor gateway")
	case k.ID.IsZero():
		return nil, errors.New("keyset: no id")
	case k.NotBefore.IsZero() || !k.NotBefore.Before(k.NotAfter):
		return nil, errors.New("keyset: its time window is empty")
	case len(k.Models) > modelsMax:
		return nil, fmt.Errorf("keyset: %d models, at most %d", len(k.Models), modelsMax)
	case k.Role == Worker && (k.TLS.IsZero() || len(k.Receipt) != 32 || k.HPKE == nil || len(k.HPKE.Public) == 0):
		return nil, errors.New("keyset: a worker's keys are not all there")
	}
	return k, nil
}
