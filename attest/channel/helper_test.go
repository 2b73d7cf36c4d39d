package channel

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"cocoon/attest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connection is the exporter of a connection with that master secret.
func connection(secret string) Exporter {
	return func(label string, context []byte, length int) ([]byte, error) {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(label))
		mac.Write([]byte{0})
		mac.Write(context)
		return mac.Sum(nil)[:length], nil
	}
}

// machine is an attester whose report is the data that it is over.
type machine struct {
	inside, most atomic.Int64  // in the hardware
	reports      atomic.Int64  // made
	let          chan struct{} // nil, or what each report waits for
	err          error
}

func (m *machine) TEE() attest.TEE { return attest.SNP }

func (m *machine) Report(ctx context.Context, data [64]byte) ([]byte, []attest.Item, error) {
	now := m.inside.Add(1)
	defer m.inside.Add(-1)
	for most := m.most.Load(); now > most && !m.most.CompareAndSwap(most, now); most = m.most.Load() {
	}
	if m.let != nil {
		select {
		case <-m.let:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
	m.reports.Add(1)
	return data[:], []attest.Item{{Kind: attest.SNPKey, Data: []byte("key")}}, m.err
}

func (m *machine) Devices(_ context.Context, nonce attest.Digest) ([]attest.Device, []attest.Item, error) {
	return []attest.Device{{Report: nonce[:], Chain: []byte("chain")}}, nil, nil
}

func testKeyset() []byte { return []byte(`{"v":1,"role":"worker"}`) }
