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
	l, err := ledger.Open(ctx, "sqlite:"+filepath.Join(dir, "ledger.db"))
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
	go (&poster{d: d}).run(ctx)
	go func() { // as the keeper does, but all the time: it dies there too
		for {
			time.Sleep(5 * time.Millisecond)
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
				if err := d.Hold(ctx, Hold{Request: id, Account: a, Ceiling: 100}); err != nil {
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
	return Settlement{id, workerA, n + 1, n, 1}
}

// finish settles or voids a request and says so.
func finish(d *Desk, id ledger.ID) {
	what, err := "settled", error(nil)
	if id[2]%4 == 0 {
		what, err = "voided", d.Void(context.Background(), id)
	} else {
		err = d.Settle(context.Background(), costOf(id))
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

func killLoop(t *testing.T, gateway string, times int) {
	dir := t.TempDir()
	url := "sqlite:" + filepath.Join(dir, "ledger.db")
	l, err := ledger.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		a := ledger.Account(fmt.Sprintf("customer:c%d", i))
		legs := []ledger.Leg{{Account: "test", Amount: -rich}, {Account: a, Amount: rich}}
		tr := ledger.Transfer{ID: testID(), Kind: "deposit", At: time.Now(), Legs: legs}
		if err := l.Post(t.Context(), []ledger.Transfer{tr}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	said := map[string]string{} // by request: held, settled, voided
	for range times {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "COCOON_DESK_CHILD="+dir, "COCOON_DESK_GATEWAY="+gateway)
		var complaints strings.Builder // of the race detector, and panics
		cmd.Stderr = &complaints
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n, stop := 0, 1+rand.IntN(300); lines.Scan(); n++ {
			what, id, _ := strings.Cut(lines.Text(), " ")
			if what == "error" {
				t.Error(lines.Text())
			}
			if len(id) == 64 && (what != "held" || said[id] == "") { // the last line may be cut
				said[id] = what
			}
			if n == stop {
				_ = cmd.Process.Kill() // and read what it said before
			}
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if complaints.Len() > 0 {
			t.Fatal(complaints.String())
		}
	}
	if len(said) < 10*times {
		t.Errorf("only %d requests", len(said))
	}
	compare(t, dir, url, gateway, said)
}

// compare opens everything once more, voids what is left and compares the ledger with what the children said.
func compare(t *testing.T, dir, url, gateway string, said map[string]string) {
	l, err := ledger.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	d, err := Open(t.Context(), Config{Ledger: l, Dir: filepath.Join(dir, "journal"), Gateway: gateway})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	for _, r := range d.Recovered() {
		if what := said[r.Request.String()]; what == "settled" || what == "voided" {
			t.Errorf("%s was %s and is open", r.Request, what)
		}
		delete(said, r.Request.String())
		if err := d.Void(t.Context(), r.Request); err != nil {
			t.Error(err)
		}
	}
	stop := run(t, d)
	stop()
	if s := d.Stats(); s.Open != 0 || s.Unposted != 0 || s.Conflicts != 0 {
		t.Errorf("left over: %+v", s)
	}
	charged := map[string]bool{}
	var shares, costs nanoton.Amount
	err = l.Each(t.Context(), "fees", time.Time{}, func(tr ledger.Transfer) error {
		var id ledger.ID
		if err := id.UnmarshalText([]byte(tr.Ref)); err != nil {
			return err
		}
		if want := costOf(id); charged[tr.Ref] || tr.Legs[0].Amount != -want.Cost || said[tr.Ref] == "voided" {
			t.Errorf("%s was %s, charged before %v, now %+v", tr.Ref, said[tr.Ref], charged[tr.Ref], tr.Legs)
		}
		charged[tr.Ref] = true
		shares, costs = shares+costOf(id).Share, costs+costOf(id).Cost
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for id, what := range said {
		if what == "settled" && !charged[id] {
			t.Errorf("%s was settled and is not in the ledger", id)
		}
	}
	worker, _ := l.Balance(t.Context(), workerA)
	fees, _ := l.Balance(t.Context(), "fees")
	customers, _ := l.Balances(t.Context(), "customer:")
	left := nanoton.Amount(0)
	for _, n := range customers {
		left += n
	}
	if worker != shares || fees != costs-shares || left != 4*rich-costs {
		t.Errorf("worker %v, want %v; fees %v, want %v; customers %v, want %v",
			worker, shares, fees, costs-shares, left, 4*rich-costs)
	}
	if report, err := l.Audit(t.Context()); err != nil || !report.OK() {
		t.Errorf("audit: %+v %v", report, err)
	}
	t.Logf("%d requests, %d settled", len(said), len(charged))
}

// Three gateways on one ledger spend the same few accounts until they are empty; one dies on the way and comes back
// after its allotments were taken. Nobody overspends, and everything that was settled is paid.
func TestThreeGateways(t *testing.T) {
	url := "sqlite:" + filepath.Join(t.TempDir(), "ledger.db")
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
			if err := d.Hold(t.Context(), h); errors.Is(err, ErrFunds) || errors.Is(err, ErrElsewhere) {
				continue
			} else if err != nil {
				t.Error(err)
				return
			}
			if err := d.Settle(t.Context(), Settlement{h.Request, workerA, 50, 45, 5}); err != nil {
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
	one, stopOne := start(0)
	two, stopTwo := start(1)
	dead := desk(t, Config{Ledger: l, Dir: dirs[2], Gateway: "g2"}) // its poster never ran
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
		wg.Go(func() { spend(d, 400) })
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
