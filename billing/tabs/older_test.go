package tabs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

// backup copies a ledger's file.
func backup(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "ledger.db")
	for _, suffix := range []string{"", "-wal"} {
		text, err := os.ReadFile(from + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to+suffix, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// restorable is a world whose ledger can be put back.
func restorable(t *testing.T) (w *world, save func(), restore func()) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	open := func(path string) *ledger.Ledger {
		l, err := ledger.Open(t.Context(), "sqlite:"+path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	w = newWorldOn(t, newNetwork(t), open(path), "world")
	var saved string
	return w, func() { saved = backup(t, path) }, func() {
		l := open(saved)
		w.ledger, w.faults.Ledger, w.desk.l = l, l, l
		w.reopen()
	}
}

// TestOlderLedgerOfCustomer finds a draw on the chain that the ledger knows nothing of: what was drawn can't be spent again.
func TestOlderLedgerOfCustomer(t *testing.T) {
	w, save, restore := restorable(t)
	tab1 := w.open("ann", 100*perTON, 0)
	w.net.send(t, addressFor("ann"), tab1.Address, 10*perTON, nil)
	w.turn()
	w.post(ann, worker, perTON/2) // known to the backup
	w.settle()
	save()
	w.post(ann, worker, 3*perTON) // not known to it
	w.settle()
	right, rec := w.has(ann), w.record(TabKind, "ann")
	if rec.Drawn != 3*perTON+perTON/2 {
		t.Fatalf("%+v", rec)
	}
	restore()
	w.settle()
	w.sound()
	r := w.record(TabKind, "ann")
	if r.Drawn != rec.Drawn || r.Unexplained != 3*perTON || near(w.has(ann), right) > perTON/1000 {
		t.Fatalf("restored: customer %v, want %v; %+v", w.has(ann), right, r)
	}
	w.settle()
	if again := w.record(TabKind, "ann"); again.Drawn != rec.Drawn || again.Voucher != nil {
		t.Fatalf("drawn again: %+v", again)
	}
	w.post(ann, worker, 3*perTON) // what was lost came back, from the journal or from receipts
	w.settle()
	w.sound()
	if r = w.record(TabKind, "ann"); r.Unexplained != 0 || r.Drawn != rec.Drawn || near(w.has(ann), right) > perTON/1000 {
		t.Fatalf("explained: customer %v, want %v; %+v", w.has(ann), right, r)
	}
	w.post(ann, worker, 2*perTON) // and all goes on
	w.settle()
	w.sound()
	if r = w.record(TabKind, "ann"); r.Drawn != rec.Drawn+2*perTON {
		t.Fatalf("%+v", r)
	}
}

func near(a, b nanoton.Amount) nanoton.Amount { return max(a-b, b-a) }

// TestOlderLedgerOfWorker hears of a voucher of ours that the ledger knows nothing of, and of one that was claimed.
func TestOlderLedgerOfWorker(t *testing.T) {
	w, save, restore := restorable(t)
	ctx := context.Background()
	w.pledge(5 * perTON)
	w.post("chain", worker, perTON)
	w.turn()
	w.voucher()
	save()
	w.post("chain", worker, 2*perTON)
	w.net.SkewClock(voucherEvery)
	w.turn()
	v := w.voucher()
	restore()
	w.turn()
	if err := w.keeper.Presented(ctx, worker, v.Body); !errors.Is(err, ErrOlder) {
		t.Fatalf("presented: %v", err)
	}
	if err := w.keeper.Presented(ctx, worker, v.Body); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := w.keeper.Presented(ctx, worker, []byte("no voucher")); !errors.Is(err, ErrVoucher) {
		t.Errorf("no voucher: %v", err)
	}
	w.post("chain", worker, perTON) // earned since
	w.net.SkewClock(voucherEvery)
	w.turn()
	w.voucher()
	if r := w.record(CollateralKind, string(worker)[7:]); r.Signed != 4*perTON || r.Lost != 2*perTON {
		t.Fatalf("%+v", r)
	}
	if err := w.claim(v); err != nil {
		t.Fatal(err)
	}
	w.turn()
	w.sound()
	r := w.record(CollateralKind, string(worker)[7:])
	if near(w.net.balance(addressFor("worker")), 3*perTON) > rent || r.Advance != 0 || w.has(worker) != 0 || r.Lost != perTON || w.has("fees") != -perTON {
		t.Fatalf("claimed: owed %v, fees %v, %+v", w.has(worker), w.has("fees"), r)
	}
	if amount, err := w.keeper.Credit(ctx, worker); err != nil || amount != perTON || w.has(worker) != perTON {
		t.Errorf("credited %v, %v", amount, err)
	}
	restore() // once more, and this time the claim is all that it sees
	w.settle()
	w.sound()
	r = w.record(CollateralKind, string(worker)[7:])
	if r.Signed < 3*perTON || r.Advance != 0 || w.has("fees") != -2*perTON {
		t.Fatalf("fees %v, %+v", w.has("fees"), r)
	}
}
