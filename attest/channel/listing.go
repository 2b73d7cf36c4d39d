package channel

import (
	"encoding/json"
	"time"

	"cocoon/attest"
)

// Relayed is fresh evidence from a machine that a gateway passes on, or its own: proof leads from the asker's nonce to
// the evidence's.
type Relayed struct {
	Evidence json.RawMessage `json:"evidence"`
	Proof    Proof           `json:"proof"`
}

// Attestation answers GET /cocoon/v1/attestation?nonce=: the gateway's own evidence.
type Attestation struct {
	V int `json:"v"`
	Relayed
}

// Listing answers GET /cocoon/v1/workers.
type Listing struct {
	V       int            `json:"v"`
	Workers []ListedWorker `json:"workers"`
	// More is how many workers were left out: evidence is relayed of a few at a time.
	More int `json:"more"`
}

// ListedWorker is one attested worker, as its gateway sees it. What the gateway says proves nothing; Evidence does.
type ListedWorker struct {
	ID      attest.Digest  `json:"id"`
	Name    string         `json:"name"`
	Models  []string       `json:"models"`
	Verdict attest.Verdict `json:"verdict"`
	Policy  string         `json:"policy"` // the gateway's, by which Verdict was reached
	At      time.Time      `json:"at"`
	Expires time.Time      `json:"expires"`
	// Relayed is there if a nonce was sent and the worker answered.
	*Relayed
	// Error is why there is no evidence though it was asked for.
	Error string `json:"error,omitempty"`
}
