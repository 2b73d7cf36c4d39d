package main

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	"cocoon/billing/ton/tab"
	"cocoon/internal/nanoton"
	"cocoon/internal/receipt"
	"cocoon/worker"
	vouchersof "cocoon/worker/vouchers"
)

// meter signs as a gateway does.
type meter struct{ key ed25519.PrivateKey }

func (m meter) Public() ed25519.PublicKey { return m.key.Public().(ed25519.PublicKey) }

func (m meter) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(m.key, message), nil
}

// invokeVouchers runs the command as a shell would.
func invokeVouchers(args ...string) (status int, stdout, stderr string) {
	var out, err strings.Builder
	status = vouchers(args, &out, &err)
	return status, out.String(), err.String()
}

// TestVouchers lists and claims on a chain, without any gateway.
func TestVouchers(t *testing.T) {
	config := configFile(t, "")
	dir := worker.VouchersDir(worker.Config{DataDir: filepath.Join(filepath.Dir(config), "data")})
	if status, out, _ := invokeVouchers("--config", config); status != exitOK || !strings.Contains(out, "no vouchers") {
		t.Errorf("none: %d, %s", status, out)
	}
	seed := sha256.Sum256([]byte("meter"))
	signer, payee := meter{ed25519.NewKeyFromSeed(seed[:])}, ton.Address{Hash: [32]byte{2}}
	terms := tab.Terms{Owner: ton.Address{Hash: [32]byte{1}}, Payee: payee, Signer: signer.Public(), CloseDelay: 72 * time.Hour, Base: 1e12}
	address, err := terms.Address()
	if err != nil {
		t.Fatal(err)
	}
	store, err := vouchersof.Open(vouchersof.Config{Dir: dir, Payout: payee})
	if err != nil {
		t.Fatal(err)
	}
	for gateway, until := range map[string]time.Duration{"good.example": time.Hour, "rich.example": 2 * time.Hour} {
		terms := terms
		if gateway == "rich.example" {
			terms.Salt = 1 // its tab is empty
		}
		to, err := terms.Address()
		if err != nil {
			t.Fatal(err)
		}
		body, err := tab.Sign(t.Context(), signer, tab.Voucher{Tab: to, ValidUntil: time.Now().Add(until).Truncate(time.Second), Cumulative: nanoton.PerTON})
		if err != nil {
			t.Fatal(err)
		}
		err = store.Keep(gateway, &receipt.Voucher{Body: body, Terms: receipt.VoucherTerms{
			Owner: terms.Owner.String(), Payee: payee.String(), Signer: receipt.Digest(signer.Public()), Salt: terms.Salt,
			CloseDelaySeconds: 72 * 3600, BaseNanoTON: 1e12,
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	network := filepath.Join(t.TempDir(), "network.json")
	n := devnetAt(t, network, address)
	for _, c := range []struct {
		args     []string
		status   int
		out, err string
	}{
		{[]string{"--config", config}, exitOK, address.String(), ""},
		{[]string{"list", "--config", config, "--network", network}, exitOK, "nothing: the tab holds 0 TON", ""},
		{[]string{"list", "--config", config, "--gateway", "good.example", "--network", network}, exitOK, "5 TON", ""},
		{[]string{"claim", "--config", config}, exitUsage, "", "--network is missing"},
		{[]string{"claim", "--config", config, "--network", "/none.json"}, exitFailed, "", "/none.json"},
		{[]string{"claim", "--config", config, "--network", network, "--gateway", "x"}, exitFailed, "", "no vouchers of a gateway"},
		{[]string{"claim", "--config", config, "--network", network, "--gateway", "good.example"}, exitOK, "good.example: 1 TON paid to " + payee.String(), ""},
		{[]string{"claim", "--config", config, "--network", network}, exitFailed, "good.example: nothing paid", "not all vouchers"},
		{[]string{"burn"}, exitUsage, "", "no command"},
		{[]string{"list", "all"}, exitUsage, "", "unexpected argument"},
		{[]string{"list", "--help"}, exitOK, "", "usage: cocoon-worker vouchers"},
		{[]string{"--config", "/none.yaml"}, exitFailed, "", "/none.yaml"},
	} {
		status, out, errs := invokeVouchers(c.args...)
		if status != c.status || !strings.Contains(out, c.out) || !strings.Contains(errs, c.err) {
			t.Errorf("%v: %d\n%s%s", c.args, status, out, errs)
		}
	}
	if got := n.Balance(payee.Std()).Int64(); got != 1e9 {
		t.Errorf("the worker has %d", got)
	}
}

// devnetAt starts a chain on which a tab holds 5 TON, and writes where it is.
func devnetAt(t *testing.T, path string, address ton.Address) *devnet.Network {
	t.Helper()
	n, err := devnet.New(devnet.Options{BlockInterval: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	if err := n.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	err = n.Inject(&tlb.InternalMessage{
		IHRDisabled: true, SrcAddr: ton.Address{Hash: [32]byte{1}}.Std(), DstAddr: address.Std(), Amount: tlb.FromNanoTON(big.NewInt(5e9)),
		Body: cell.BeginCell().EndCell(),
	})
	if err == nil {
		err = n.Mine() // the tab has it before anybody looks
	}
	if err != nil {
		t.Fatal(err)
	}
	n.Start()
	text, err := json.Marshal(n.Config())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return n
}
