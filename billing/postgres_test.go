package billing

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cocoon/billing/ledger"
)

// PostgreSQL goes down and comes back twice under load: requests of accounts that are known go on, nothing is lost or
// charged twice, and it ends without a human.
func TestPostgresRestart(t *testing.T) {
	l, err := ledger.Open(t.Context(), cluster.Schema(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	deposit(t, l, rich)
	dirs := []string{t.TempDir(), t.TempDir()}
	one := desk(t, Config{Ledger: l, Dir: dirs[0], Gateway: "g1"})
	two := desk(t, Config{Ledger: l, Dir: dirs[1], Gateway: "g2"})
	stopOne, stopTwo := run(t, one), run(t, two)
	var end atomic.Bool
	var held, settled atomic.Int64
	var wg sync.WaitGroup
	for i, d := range []*Desk{one, two, one, two, one, two} {
		wg.Go(func() {
			account := ledger.Account("customer:c" + string(rune('0'+i%4)))
			for !end.Load() {
				id := testID()
				err := d.Hold(t.Context(), Hold{Request: id, Account: account, Ceiling: 100})
				if errors.Is(err, ErrUnavailable) {
					time.Sleep(20 * time.Millisecond)
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				held.Add(1)
				if err := d.Settle(t.Context(), costOf(id)); err != nil {
					t.Error(err)
				}
				settled.Add(1)
			}
		})
	}
	for range 2 {
		time.Sleep(300 * time.Millisecond)
		before := settled.Load()
		cluster.Restart(t)
		if settled.Load() == before {
			t.Error("nothing went on while PostgreSQL was away")
		}
	}
	time.Sleep(300 * time.Millisecond)
	end.Store(true)
	wg.Wait()
	for deadline := time.Now().Add(20 * time.Second); one.Stats().Unposted+two.Stats().Unposted > 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	stopOne()
	stopTwo()
	sum := 0
	for i, dir := range dirs {
		report, err := Audit(t.Context(), l, AuditConfig{Dir: dir, Gateway: []string{"g1", "g2"}[i]})
		if err != nil || !report.OK() || report.Open+report.Pending+report.Unbatched != 0 {
			t.Errorf("%+v, %v", report, err)
		}
		sum += report.Settled
	}
	if int64(sum) != settled.Load() || held.Load() != settled.Load() {
		t.Errorf("%d settlements in the ledger, want %d", sum, settled.Load())
	}
	if report, err := l.Audit(t.Context()); err != nil || !report.OK() {
		t.Errorf("audit: %+v, %v", report, err)
	}
}
