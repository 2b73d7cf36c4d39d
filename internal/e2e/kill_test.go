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

	"cocoon/billing/tally"
	"cocoon/internal/nanoton"
	"cocoon/internal/receipt"
)

const (
	// killsMin is how often the loop kills a process, all networks together.
	killsMin = 200
	// killNets is how many networks are killed at the same time: most of the time they start again.
	killNets = 2
	// killClients is how many clients each network has.
	killClients = 6
)

// TestKillLoop kills gateways and workers under load, again and again, and then counts the money: nothing is held,
// nothing is lost, nobody pays twice, and each final receipt that a worker signed is settled, or refused with a reason.
func TestKillLoop(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	// Not parallel with the others, of which many look at the clock: it takes all of the machine.
	bin := plainBinaries(t) // the race detector triples what a start takes
	for i := range killNets {
		t.Run(fmt.Sprintf("network %d", i), func(t *testing.T) {
			t.Parallel()
			newKillNet(t, bin).run(t, killsMin/killNets)
		})
	}
}

// killNet is a gateway with two workers.
type killNet struct {
	g       *gateway
	workers [2]*worker
	logs    [2]*strings.Builder // of workers that are gone
	served  atomic.Int64
}

func newKillNet(t *testing.T, bin string) *killNet {
	t.Helper()
	n := &killNet{g: startGatewayFrom(t, bin, "auto", quietMax)}
	for i := range n.workers {
		n.logs[i] = new(strings.Builder)
		n.workers[i] = n.g.startWorkerWith(t, fmt.Sprintf("w%d", i), serveEngine(t, "m", babble), outcomePrice+"ops_listen: "+freePort(t)+"\n")
	}
	eventually(t, startMax, "both workers serve", func() bool { return n.g.serving(t, "m") == 2 })
	return n
}

// babble streams some pieces, a few milliseconds apart, and counts them.
func babble(w http.ResponseWriter, r *http.Request) {
	c := &call{w: w, stream: wantsStream(r)}
	pieces := 1 + rand.IntN(12)
	for range pieces {
		c.say("word ")
		time.Sleep(time.Duration(rand.IntN(8)) * time.Millisecond)
	}
	usage := fmt.Sprintf(`{"prompt_tokens":20,"completion_tokens":%d,"total_tokens":%d}`, pieces, 20+pieces)
	if !c.stream {
		c.whole(usage, 1)
		return
	}
	c.event(`"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]`)
	c.event(`"choices":[],"usage":` + usage)
	fmt.Fprint(w, "data: [DONE]\n\n")
}

// run kills so many times under load, then has everything come to rest and looks at the books.
func (n *killNet) run(t *testing.T, kills int) {
	before := n.g.books(t)
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range killClients {
		clients.Go(func() { n.load(ctx) })
	}
	began := time.Now()
	for k := range kills {
		n.kill(t, k)
	}
	stop()
	clients.Wait()
	t.Logf("%d kills in %v, %d requests served", kills, time.Since(began).Round(time.Second), n.served.Load())
	eventually(t, 2*askMax, "workers have no receipt left", func() bool {
		for _, w := range n.workers {
			if !w.paid(t) {
				return false
			}
		}
		return true
	})
	n.g.settled(t)
	now := n.g.books(t)
	spent, earned, fees := before.customer-now.customer, now.worker-before.worker, now.fees-before.fees
	if spent != earned+fees || spent <= 0 {
		t.Errorf("customers paid %v, workers got %v, fees are %v", spent, earned, fees)
	}
	var sum nanoton.Amount
	for _, a := range n.g.balances(t) {
		sum += a
	}
	if sum != 0 {
		t.Errorf("all accounts together have %v", sum)
	}
	n.g.kill(t)
	n.g.audits(t)
	n.receipts(t, earned)
}

// load asks until ctx ends; now and then it goes away in the middle.
func (n *killNet) load(ctx context.Context) {
	for ctx.Err() == nil {
		body := prompt("m", "say some words")
		if rand.IntN(2) == 0 {
			body = prompt("m", "say some words", streamed)
		}
		asking, leave := context.WithCancel(ctx)
		if rand.IntN(8) == 0 {
			time.AfterFunc(time.Duration(rand.IntN(40))*time.Millisecond, leave)
		}
		if r, err := n.g.client.chat(asking, body); err == nil && r.status == http.StatusOK && r.fault == nil {
			n.served.Add(1)
		} else {
			time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
		}
		leave()
	}
}

// kill kills a process and starts it again. Requests are served before the next one.
func (n *killNet) kill(t *testing.T, k int) {
	t.Helper()
	time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
	if k%2 == 0 {
		n.g.kill(t)
		n.g.restart(t)
	} else {
		i := rand.IntN(len(n.workers))
		w := n.workers[i]
		w.kill(t)
		n.logs[i].WriteString(w.log.String())
		w.restart(t, fmt.Sprintf("w%d", i))
	}
	was := n.served.Load()
	eventually(t, startMax, "requests are served", func() bool { return n.served.Load() > was })
}

// paid says whether no receipt waits for its acknowledgement.
func (w *worker) paid(t *testing.T) bool {
	t.Helper()
	out, _, code := command(t, "cocoon-worker", "receipts", "--config", w.config)
	return code == 0 && strings.Contains(out, "acknowledged: 0,") && strings.Contains(out, "cut off: 0\n")
}

// receipts holds what the workers signed, by their logs, against the gateway's log of receipts.
func (n *killNet) receipts(t *testing.T, earned nanoton.Amount) {
	t.Helper()
	settled := map[string]int{}
	var sum nanoton.Amount
	log, err := tally.OpenReader(filepath.Join(filepath.Dir(n.g.config), "data", "receipts"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	_, err = log.Audit(t.Context(), nil, func(_ int64, s *receipt.Signed) error {
		settled[s.ID().String()]++
		sum += s.Cost
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if sum != earned {
		t.Errorf("the receipts in the log come to %v, workers earned %v", sum, earned)
	}
	signed := regexp.MustCompile(`msg="final receipt" id=([0-9a-f]{64}) request=(\S+)`)
	refused := regexp.MustCompile(`msg="gateway refuses a receipt" .*receipt=([0-9a-f]{64})`)
	finals, no := 0, 0
	for i, w := range n.workers {
		n.logs[i].WriteString(w.log.String())
		log := n.logs[i].String()
		why := map[string]bool{}
		for _, m := range refused.FindAllStringSubmatch(log, -1) {
			why[m[1]] = true
		}
		for _, m := range signed.FindAllStringSubmatch(log, -1) {
			finals++
			switch {
			case settled[m[1]] == 1:
			case settled[m[1]] > 1:
				t.Errorf("receipt %s of %s is settled %d times", m[1], m[2], settled[m[1]])
			case why[m[1]]:
				no++
			default:
				t.Errorf("receipt %s of %s is neither settled nor refused", m[1], m[2])
			}
		}
	}
	t.Logf("%d final receipts signed, %d refused, %d in the log", finals, no, len(settled))
	if finals == 0 || no > finals/10 {
		t.Errorf("%d of %d final receipts are refused", no, finals)
	}
}
