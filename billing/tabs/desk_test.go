package tabs

import (
	"context"
	"testing"

	"cocoon/billing"
	"cocoon/billing/ton/tab"
)

// TestDesk has a real Desk between: what a request holds stays, and settles, while its customer closes the tab.
func TestDesk(t *testing.T) {
	w := newWorld(t)
	desk, err := billing.Open(t.Context(), billing.Config{Ledger: w.ledger, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- desk.Run(ctx) }()
	w.keeper.c.Withdraw, w.keeper.c.Credited = desk.Withdraw, desk.Credited

	tab1 := w.open("ann", 100*perTON, 0)
	w.net.send(t, addressFor("ann"), tab1.Address, 10*perTON, nil)
	w.net.deploy(t, addressFor("ann"), tab1.Terms, perTON/20)
	w.turn()
	request := transferID(key{}, "request", 1, [32]byte{})
	if err := desk.Hold(ctx, billing.Hold{Request: request, Account: ann, Ceiling: 4 * perTON}); err != nil {
		t.Fatal(err)
	}
	w.net.send(t, addressFor("ann"), tab1.Address, perTON/20, tab.CloseBody())
	w.turn()
	if got := w.has(ann); got != 4*perTON {
		t.Errorf("closing leaves %v, of which 4 TON are held", got)
	}
	if err := desk.Hold(ctx, billing.Hold{
		Request: transferID(key{}, "request", 2, [32]byte{}), Account: ann, Ceiling: 1,
	}); err == nil {
		t.Error("more is served while the tab is closing")
	}
	if err := desk.Settle(ctx, billing.Settlement{Request: request, Worker: worker, Cost: 3 * perTON, Share: 3 * perTON}); err != nil {
		t.Fatal(err)
	}
	cancel() // the Desk posts what is left before it ends
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := desk.Close(); err != nil {
		t.Fatal(err)
	}
	w.keeper.c.Withdraw = nil
	w.settle()
	w.sound()
	if r := w.record(TabKind, "ann"); r.Drawn != 3*perTON || w.has(ann) != 0 || w.has(worker) != 3*perTON {
		t.Fatalf("customer %v, worker %v, %+v", w.has(ann), w.has(worker), r)
	}
}
