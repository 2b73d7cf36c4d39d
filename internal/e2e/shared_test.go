package e2e_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cocoon/billing/ledger/ledgertest"
	"cocoon/internal/nanoton"
)

// sharedMoney is what the customer of TestSharedLedger has, nanoTON: it runs out under load.
const sharedMoney = 20_000

// sharedLedger is gateways on one real PostgreSQL, a worker that serves all of them, and a customer.
type sharedLedger struct {
	cluster  *ledgertest.Postgres
	url      string
	gateways []*gateway
	key      string
}

func newSharedLedger(t *testing.T, gateways int, engine string) *sharedLedger {
	t.Helper()
	cluster := new(ledgertest.Postgres)
	s := &sharedLedger{cluster: cluster, url: cluster.Schema(t)}
	t.Cleanup(cluster.Stop)
	var dials strings.Builder
	for i := range gateways {
		g := newGateway(t, "", "auto", quietMax, fmt.Sprintf("ledger: %q\nname: g%d\n", s.url, i))
		g.restart(t)
		s.gateways = append(s.gateways, g)
		fmt.Fprintf(&dials, "  - {address: %q, pin: %s}\n", g.workers, strings.TrimSpace(g.operate(t, "id")))
	}
	g := s.gateways[0]
	g.operate(t, "accounts", "create", "buyer")
	g.operate(t, "accounts", "grant", "buyer", fmt.Sprintf("0.%09d", sharedMoney), "--id", "first")
	s.key = strings.TrimSpace(g.operate(t, "keys", "create", "shared", "--account", "buyer"))
	dir := t.TempDir()
	w := &worker{config: filepath.Join(dir, "worker.yaml")}
	writeFile(t, w.config, fmt.Sprintf("name: all\ndata_dir: %s\ncollateral: {offline: true}\ngateways:\n%sengine: {url: %q, slots: 64}\n%s",
		filepath.Join(dir, "data"), dials.String(), engine, outcomePrice))
	w.restart(t, "all")
	for _, g := range s.gateways {
		g.key = s.key
		g.serves(t, startMax, "m")
	}
	return s
}

// TestSharedLedger has three gateways on one PostgreSQL sell to one customer until his money is gone. Under load one of
// them is killed and started again, and so is PostgreSQL. Nobody overspends, and all their books agree in the end.
func TestSharedLedger(t *testing.T) {
	t.Parallel()
	s := newSharedLedger(t, 3, serveEngine(t, "m", babble))
	var served, broke atomic.Int64
	ctx, stop := context.WithTimeout(t.Context(), 4*askMax)
	defer stop()
	var clients sync.WaitGroup
	for i := range 6 {
		clients.Go(func() { s.spend(ctx, i, &served, &broke) })
	}
	victim := s.gateways[1]
	eventually(t, startMax, "customers are served", func() bool { return served.Load() > 30 })
	victim.kill(t)
	time.Sleep(300 * time.Millisecond)
	victim.restart(t)
	was := served.Load()
	eventually(t, startMax, "customers are served again", func() bool { return served.Load() > was+10 })
	s.cluster.Restart(t)
	eventually(t, 3*askMax, "the money is gone", func() bool { return broke.Load() >= 3 })
	stop()
	clients.Wait()
	for _, g := range s.gateways {
		g.settled(t)
		if stuck := regexp.MustCompile(`(?m)^cocoon_gateway_settlements_(stuck|conflicts_total) [^0]`).FindString(fetch(t, g.ops+"/metrics")); stuck != "" {
			t.Errorf("the ledger refused settlements: %s", stuck)
		}
	}
	var sum, spent, left nanoton.Amount
	for account, n := range balances(t, s.url) {
		sum += n
		switch account.Kind() {
		case "worker", "fees":
			spent += n
		case "customer", "allotment":
			left += n
		}
		if n < 0 && account != "test" {
			t.Errorf("%s has %v", account, n)
		}
	}
	t.Logf("%d requests served for %d nanoTON, %d are left", served.Load(), int64(spent), int64(left))
	if sum != 0 || spent+left != sharedMoney || spent == 0 {
		t.Errorf("of %d nanoTON %d are spent and %d left; all accounts together have %d", sharedMoney, int64(spent), int64(left), int64(sum))
	}
	for _, g := range s.gateways {
		g.audits(t)
	}
}

// spend asks one gateway after the other, until the customer hears that his money is gone.
func (s *sharedLedger) spend(ctx context.Context, i int, served, broke *atomic.Int64) {
	for ctx.Err() == nil {
		i++
		r, err := s.gateways[i%len(s.gateways)].client.chat(ctx, prompt("m", "say some words", `"max_tokens":16`))
		switch {
		case err == nil && r.status == http.StatusOK:
			served.Add(1)
		case err == nil && r.status == http.StatusPaymentRequired:
			broke.Add(1)
		default: // a gateway that is down, or the last of the money is at another one
			time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond)
		}
	}
}
