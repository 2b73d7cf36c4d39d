package worker

import (
	"crypto/ed25519"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	"cocoon/billing/ton/tab"
	"cocoon/billing/ton/wallet"
	"cocoon/internal/nanoton"
	"cocoon/worker/vouchers"
)

// TestClaimDue claims the voucher of a gateway that has been gone for long, and leaves one alone that is there.
func TestClaimDue(t *testing.T) {
	net, err := devnet.New(devnet.Options{AutoMine: true, BlockInterval: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(net.Close)
	if err := net.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	net.Start()
	network, err := net.ConfigJSON()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "network.json")
	if err := os.WriteFile(file, network, 0o600); err != nil {
		t.Fatal(err)
	}
	w := &Worker{
		config: Config{DataDir: dir, Claims: &Claims{Network: file, Gone: time.Hour, Least: nanoton.PerTON}}, log: slog.New(slog.DiscardHandler),
	}
	key := wallet.KeyFromSeed(make([]byte, ed25519.SeedSize))
	own := ton.Address{Hash: [32]byte{1}}
	terms := tab.Terms{
		Owner: ton.Address{Hash: [32]byte{2}}, Payee: own, Signer: key.Public(), CloseDelay: 72 * time.Hour, Base: 1000 * nanoton.PerTON,
	}
	k := vouchers.Kept{Gateway: "gone:1", Terms: terms}
	k.Voucher = tab.Voucher{ValidUntil: time.Now().Add(30 * 24 * time.Hour).Truncate(time.Second), Cumulative: 2 * nanoton.PerTON}
	if k.Voucher.Tab, err = terms.Address(); err == nil {
		k.Body, err = tab.Sign(t.Context(), key, k.Voucher)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := net.Pay(t.Context(), k.Voucher.Tab.String(), 5*nanoton.PerTON, ""); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		there time.Time
		want  nanoton.Amount
	}{
		{time.Now(), 0},
		{time.Now().Add(-2 * time.Hour), 2 * nanoton.PerTON},
		{time.Time{}, 2 * nanoton.PerTON}, // there is no more to have
	} {
		if err := w.claimDue(t.Context(), []vouchers.Kept{k}, map[string]time.Time{"gone:1": test.there}); err != nil {
			t.Fatal(err)
		}
		if got := nanoton.Amount(net.Balance(own.Std()).Int64()); got != test.want {
			t.Errorf("gateway last seen %v: the worker has %v, want %v", test.there, got, test.want)
		}
	}
}
