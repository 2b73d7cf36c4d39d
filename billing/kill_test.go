package billing

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/billing/journal"
	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

var kills = flag.Int("kills", usualKills, "how often the child process is killed")

const rich = nanoton.Amount(1_000_000_000)

// child serves requests on a real ledger in SQLite until it is killed, and says what it was told.
func child() bool {
	dir := os.Getenv("COCOON_DESK_CHILD")
	if dir == "" {
		return false
	}
	if err := serve(dir); err != nil {
		fmt.Println("error", err)
	}
	return true
}

func serve(dir string) error {
	ctx := context.Background()
	l, err := ledger.Open(ctx, os.Getenv("COCOON_DESK_LEDGER"))
	if err != nil {
		return err
	}
	c := Config{Ledger: l, Dir: filepath.Join(dir, "journal"), Gateway: os.Getenv("COCOON_DESK_GATEWAY")}
	c.Journal = journal.Options{Every: time.Millisecond, SegmentBytes: 4096}
	d, err := Open(ctx, c)
	if err != nil {
		return err
	}
	d.trimAt = 16_384
	go newPoster(d).run(ctx)
	go func() { // as the keeper does, but all the time: it dies there too
		for beat := 0; ; beat++ {
			time.Sleep(5 * time.Millisecond)
			if c.Gateway != "" && beat%1000 == 0 {
				d.heartbeat(ctx)
			}
			if err := d.trim(ctx); err != nil {
				fmt.Println("error", err)
			}
			select {
			case a := <-d.refills:
				d.fill(ctx, a)
			default:
			}
		}
	}()
	var wg sync.WaitGroup
	for _, r := range d.Recovered() { // half of their receipts come
		wg.Go(func() {
			if r.Request[31]%2 == 0 {
				finish(d, r.Request)
			}
		})
	}
	for range 16 {
		wg.Go(func() {
			for {
				id := testID()
				a := ledger.Account(fmt.Sprintf("customer:c%d", id[1]%4))
				err := d.Hold(ctx, Hold{Request: id, Account: a, Ceiling: 100})
				if errors.Is(err, ErrFunds) || errors.Is(err, ErrElsewhere) || errors.Is(err, ErrUnavailable) {
					fmt.Println("poor", id)
					time.Sleep(5 * time.Millisecond)
					continue
				}
				if err != nil {
					fmt.Println("error", err)
					return
				}
				fmt.Println("held", id)
				finish(d, id)
			}
		})
	}
	wg.Wait()
	return errors.New("ended")
}

// costOf is what a request costs: the same whoever settles it.
func costOf(id ledger.ID) Settlement {
	n := nanoton.Amount(id[0] % 100)
	s := charge(id, workerA, n+1, n, 1)
	if id[3]%2 == 0 {
		s.Worker = workerB
	}
	if id[3]%3 == 0 {
		s.Cost, s.Share, s.Fee = 0, 0, 0 // counted, and free
	}
	s.Line = Line{Key: "key", User: fmt.Sprint(id[4] % 5), Counts: [4]int64{1, 2, 3, 4}}
	s.Receipt = [32]byte(id)
	return s
}

// finish settles or voids a request and says so.
func finish(d *Desk, id ledger.ID) {
	what, err := "settled", error(nil)
	if id[2]%4 == 0 {
		what, err = "voided", d.Void(context.Background(), id)
	} else {
		err = errors.Join(d.SettleAll(context.Background(), []Settlement{costOf(id), costOf(id)})...)
	}
	if err != nil {
		what = "error " + err.Error()
	}
	fmt.Println(what, id)
}

// Killed at any point: what the Desk accepted is in the ledger once, what it voided is not, and the rest is reported.
func TestKill(t *testing.T) {
	for _, gateway := range []string{"", "g1"} {
		t.Run("gateway "+gateway, func(t *testing.T) {
			t.Parallel()
			killLoop(t, gateway, *kills/2)
		})
	}
}

// deposit gives four customers money.
func deposit(t *testing.T, l *ledger.Ledger, each nanoton.Amount) {
	for i := range 4 {
		a := ledger.Account(fmt.Sprintf("customer:c%d", i))
		legs := []ledger.Leg{{Account: "test", Amount: -each}, {Account: a, Amount: each}}
		tr := ledger.Transfer{ID: testID(), Kind: "deposit", At: time.Now(), Legs: legs}
		if err := l.Post(t.Context(), []ledger.Transfer{tr}); err != nil {
			t.Fatal(err)
		}
	}
}

// desks are child processes that are killed, one for each gateway.
type desks struct {
	t    *testing.T
	url  string
	mu   sync.Mutex
	said map[string]string // by request: held, settled, voided; guarded by mu
}

// once runs a gateway in a folder until it has said that many lines more, and kills it.
func (c *desks) once(dir, gateway string, lines int) {
	t := c.t
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "COCOON_DESK_CHILD="+dir, "COCOON_DESK_GATEWAY="+gateway, "COCOON_DESK_LEDGER="+c.url)
	var complaints strings.Builder // of the race detector, and panics
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Error(err)
		return
	}
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return
	}
	scanner := bufio.NewScanner(out)
	for n := 0; scanner.Scan(); n++ {
		what, id, _ := strings.Cut(scanner.Text(), " ")
		if what == "error" {
			t.Error(scanner.Text())
		}
		c.mu.Lock()
		if len(id) == 64 && what != "poor" && (what != "held" || c.said[id] == "") { // the last line may be cut
			c.said[id] = what
		}
		c.mu.Unlock()
		if n == lines {
			_ = cmd.Process.Kill() // and read what it said before
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if complaints.Len() > 0 {
		t.Error(complaints.String())
	}
}

func killLoop(t *testing.T, gateway string, times int) {
	dir := t.TempDir()
	c := &desks{t: t, url: "sqlite:" + filepath.Join(dir, "ledger.db"), said: map[string]string{}}
	l, err := ledger.Open(t.Context(), c.url)
	if err != nil {
		t.Fatal(err)
	}
	deposit(t, l, rich)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for range times {
		c.once(dir, gateway, 1+rand.IntN(300))
	}
	if len(c.said) < 10*times {
		t.Errorf("only %d requests", len(c.said))
	}
	c.compare(4*rich, map[string]string{gateway: dir})
}

// Two and three gateways on one PostgreSQL, all of which die and come back under load, until the customers have spent
// nearly all: nobody spends more than there is, and all that was settled is paid once.
func TestKillOfManyOnPostgres(t *testing.T) {
	for _, n := range []int{2, 3} {
		t.Run(fmt.Sprint(n, " gateways"), func(t *testing.T) {
			c := &desks{t: t, url: cluster.Schema(t), said: map[string]string{}}
			l, err := ledger.Open(t.Context(), c.url)
			if err != nil {
				t.Fatal(err)
			}
			const each = nanoton.Amount(5_000)
			deposit(t, l, each)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			dirs := map[string]string{}
			var wg sync.WaitGroup
			for i := range n {
				gateway, dir := fmt.Sprint("g", i), t.TempDir()
				dirs[gateway] = dir
				wg.Go(func() {
					for range max(2, *kills/8) {
						c.once(dir, gateway, 1+rand.IntN(200))
					}
				})
			}
			wg.Wait()
			c.compare(4*each, dirs)
		})
	}
}

// compare opens every gateway once more, voids what is left and compares journals and ledger with what the children said.
func (c *desks) compare(money nanoton.Amount, dirs map[string]string) {
	t := c.t
	l, err := ledger.Open(t.Context(), c.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	charged := map[string]bool{}
	costs := nanoton.Amount(0)
	for gateway, dir := range dirs {
		c.settleRest(l, gateway, dir)
		costs += c.audit(l, gateway, dir, charged)
	}
	for id, what := range c.said {
		if what == "settled" && !charged[id] {
			t.Errorf("%s was settled and is not in the ledger", id)
		}
	}
	used, cost := int64(0), nanoton.Amount(0)
	err = l.Usage(t.Context(), ledger.UsageQuery{Key: "key"}, func(u ledger.UsageLine) error {
		used += u.Requests
		cost += u.Cost
		return nil
	})
	if err != nil || used != int64(len(charged)) || costs != cost {
		t.Errorf("usage of %d requests, want %d; cost %v, want %v; %v", used, len(charged), cost, costs, err)
	}
	all, err := l.Balances(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	left := nanoton.Amount(0)
	for name, n := range all {
		if name.Kind() == "customer" || name.Kind() == "allotment" {
			left += n
		}
	}
	if paid := all[workerA] + all[workerB] + all["fees"]; paid != costs || left != money-costs {
		t.Errorf("paid %v, customers have %v, want %v and %v", paid, left, costs, money-costs)
	}
	if report, err := l.Audit(t.Context()); err != nil || !report.OK() {
		t.Errorf("audit: %+v %v", report, err)
	}
	t.Logf("%d requests, %d settled, %v of %v spent", len(c.said), len(charged), costs, money)
}

// settleRest opens a gateway's Desk, voids what is left and posts the rest.
func (c *desks) settleRest(l *ledger.Ledger, gateway, dir string) {
	d, err := Open(c.t.Context(), Config{Ledger: l, Dir: filepath.Join(dir, "journal"), Gateway: gateway})
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	for _, r := range d.Recovered() {
		if what := c.said[r.Request.String()]; what == "settled" || what == "voided" {
			c.t.Errorf("%s was %s and is open", r.Request, what)
		}
		delete(c.said, r.Request.String())
		if err := d.Void(c.t.Context(), r.Request); err != nil {
			c.t.Error(err)
		}
	}
	run(c.t, d)()
	if s := d.Stats(); s.Open != 0 || s.Unposted != 0 || s.Conflicts != 0 {
		c.t.Errorf("left over: %+v", s)
	}
}

// audit compares a gateway's journal with the ledger, notes which requests were charged, and gives what they cost.
func (c *desks) audit(l *ledger.Ledger, gateway, dir string, charged map[string]bool) nanoton.Amount {
	had := len(charged)
	report, err := Audit(c.t.Context(), l, AuditConfig{
		Dir: filepath.Join(dir, "journal"), Gateway: gateway, Check: func(h Hold, s Settlement) error {
			id := s.Request.String()
			if s != costOf(s.Request) || c.said[id] == "voided" || h.Ceiling != 100 {
				return fmt.Errorf("was %s, now %+v of %+v", c.said[id], s, h)
			}
			charged[id] = true
			return nil
		},
	})
	if err != nil || !report.OK() || report.Open+report.Unbatched+report.Pending+report.Unheld+report.Incomplete != 0 ||
		report.Settled != len(charged)-had || report.Holds != report.Settled+report.Voided {
		c.t.Errorf("audit of gateway %q: %+v %v", gateway, report, err)
	}
	return report.Cost
}

// Three gateways on one ledger spend the same few accounts until they are empty; one dies on the way and comes back
// after its allotments were taken. Nobody overspends, and everything that was settled is paid.
func TestThreeGateways(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { threeGateways(t, "sqlite:"+filepath.Join(t.TempDir(), "ledger.db")) })
	t.Run("postgres", func(t *testing.T) { threeGateways(t, cluster.Schema(t)) })
}

func threeGateways(t *testing.T, url string) {
	l, err := ledger.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	other, err := ledger.Open(t.Context(), url) // as another process has it
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	const each = nanoton.Amount(20_000)
	names := []ledger.Account{"customer:x", "customer:y"}
	for _, a := range names {
		legs := []ledger.Leg{{Account: "test", Amount: -each}, {Account: a, Amount: each}}
		tr := ledger.Transfer{ID: testID(), Kind: "deposit", At: time.Now(), Legs: legs}
		if err := l.Post(t.Context(), []ledger.Transfer{tr}); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	var charged nanoton.Amount
	spend := func(d *Desk, n int) {
		for i := range n {
			h := Hold{Request: testID(), Account: names[i%2], Ceiling: 60}
			if err := d.Hold(t.Context(), h); errors.Is(err, ErrElsewhere) {
				time.Sleep(10 * time.Millisecond) // as a client does: others give it back
				continue
			} else if errors.Is(err, ErrFunds) {
				continue
			} else if err != nil {
				t.Error(err)
				return
			}
			if err := d.Settle(t.Context(), charge(h.Request, workerA, 50, 45, 5)); err != nil {
				t.Error(err)
			}
			mu.Lock()
			charged += 50
			mu.Unlock()
		}
	}
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	start := func(i int) (d *Desk, stop func()) {
		d = desk(t, Config{Ledger: l, Dir: dirs[i], Gateway: fmt.Sprintf("g%d", i), Lease: 3 * time.Second})
		return d, run(t, d)
	}
	var wg sync.WaitGroup
	dead := desk(t, Config{Ledger: l, Dir: dirs[2], Gateway: "g2"}) // its poster never ran
	spend(dead, 4)                                                  // before the others have all of it
	one, stopOne := start(0)
	two, stopTwo := start(1)
	for _, d := range []*Desk{one, two, dead} {
		for range 4 {
			wg.Go(func() { spend(d, 60) })
		}
	}
	wg.Wait()
	_ = dead.Close()
	owed := dead.Stats().Unposted
	now := time.Now()
	if _, err := other.Reclaim(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if !one.heartbeat(t.Context()) || !two.heartbeat(t.Context()) { // the living
		t.Fatal("no heartbeat")
	}
	back, err := other.Reclaim(t.Context(), now.Add(ledger.LeaseMax))
	if err != nil || len(back) == 0 || back[0].Gateway != "g2" || back[len(back)-1].Gateway != "g2" {
		t.Errorf("reclaimed %v, %v", back, err)
	}
	third, stopThree := start(2)
	if got := third.Stats().Unposted; got != owed || owed == 0 {
		t.Errorf("%d settlements are not posted, want %d", got, owed)
	}
	for deadline := time.Now().Add(10 * time.Second); third.Stats().Unposted > 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	for _, d := range []*Desk{one, two, third} {
		wg.Go(func() { spend(d, 1000) }) // one may have all of the money
	}
	wg.Wait()
	stopOne()
	stopTwo()
	stopThree()
	worker, _ := l.Balance(t.Context(), workerA)
	fees, _ := l.Balance(t.Context(), "fees")
	if worker+fees != charged || charged > 2*each || charged < 2*each*9/10 {
		t.Errorf("charged %v of %v, the ledger says %v", charged, 2*each, worker+fees)
	}
	if report, err := l.Audit(t.Context()); err != nil || !report.OK() {
		t.Errorf("audit: %+v %v", report, err)
	}
}
