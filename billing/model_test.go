package billing

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"cocoon/billing/journal"
	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"

	"pgregory.net/rapid"
)

const (
	workerA = ledger.Account("worker:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	workerB = ledger.Account("worker:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb")
)

// ram is a folder of the system's memory if there is one: for tests that need no real disk.
func ram() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}

// journalHead is what a segment of the journal begins with, bytes.
const journalHead = 32

// isVoided is a state of the oracle's.
const isVoided = gone + 1

// charge is a settlement without what only describes it.
func charge(id ledger.ID, worker ledger.Account, cost, share, fee nanoton.Amount) Settlement {
	return Settlement{Request: id, Worker: worker, Cost: cost, Share: share, Fee: fee}
}

// truth is what a request is, by the oracle.
type truth struct {
	gateway    int
	state      state
	hold       Hold
	settlement Settlement
}

// machine is Desks on one ledger, and the oracle.
type machine struct {
	f        *fake
	dirs     []string
	segment  int64 // bytes of one in the journals
	gateways []string
	desks    []*Desk
	posters  []*poster
	fault    []string      // of the next write of a journal
	onDisk   []mark        // by Desk
	atRisk   [][]ledger.ID // by Desk: holds that a power cut may take, in their order

	deposits map[ledger.Account]nanoton.Amount // less what was withdrawn
	paid     nanoton.Amount                    // out, by withdrawals
	requests map[ledger.ID]*truth
	ids      []ledger.ID
	forgot   bool // a Desk may have forgotten closed requests
}

func (m *machine) open(t *rapid.T, i int) {
	d, err := Open(context.Background(), Config{
		Ledger: m.f, Dir: m.dirs[i], Gateway: m.gateways[i], Lease: time.Hour,
		Journal: journal.Options{Every: -1, Lazy: -1, SegmentBytes: m.segment},
	})
	if err != nil {
		t.Fatal(err)
	}
	m.synced(i)
	write, pass, broken := d.write, d.pass, false // a journal that broke takes nothing until it is opened again
	faulty := func(real func() error) error {
		fault := m.fault[i]
		if broken {
			return journal.ErrBroken
		}
		broken = fault != "" && fault != "fails"
		if fault != "" { // trimming writes concurrently, without faults
			m.fault[i] = ""
		}
		switch fault {
		case "fails":
			return syscall.ENOSPC
		case "fails for good", "killed before":
			return fmt.Errorf("%w: %w", journal.ErrBroken, syscall.EIO)
		case "fails but persisted", "killed after":
			return errors.Join(real(), fmt.Errorf("%w: %w", journal.ErrBroken, syscall.EIO))
		}
		return real()
	}
	d.write = func(ctx context.Context, records ...[]byte) error {
		return faulty(func() error {
			err := write(ctx, records...)
			m.synced(i)
			return err
		})
	}
	d.pass = func(records ...[]byte) error { return faulty(func() error { return pass(records...) }) }
	m.desks[i], m.posters[i] = d, newPoster(d)
}

// mark is where a journal ends.
type mark struct {
	file string
	size int64
}

// end finds where a journal ends.
func (m *machine) end(i int) (at mark) {
	files, _ := filepath.Glob(filepath.Join(m.dirs[i], "*.journal"))
	for _, file := range files { // the last one stays
		if info, err := os.Stat(file); err == nil {
			at = mark{file, info.Size()}
		}
	}
	return at
}

// synced notes that all of a journal is on disk.
func (m *machine) synced(i int) { m.onDisk[i], m.atRisk[i] = m.end(i), nil }

// sync has a Desk put all that it accepted on disk.
func (m *machine) sync(t *rapid.T, i int) {
	if err := m.desks[i].Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	m.synced(i)
}

// powerCut is a crash of the machine: of what is not on disk a part is gone, from some byte on, and only holds.
func (m *machine) powerCut(t *rapid.T, i int) {
	_ = m.desks[i].Close()
	end, from := m.end(i), int64(journalHead)
	if end.file == m.onDisk[i].file {
		from = m.onDisk[i].size
	}
	cut := from + int64(rapid.IntRange(0, int(end.size-from)).Draw(t, "cut"))
	if err := os.Truncate(end.file, cut); err != nil {
		t.Fatal(err)
	}
	risked, lost := m.atRisk[i], 0
	m.reopen(t, i)
	for _, id := range risked {
		if _, ok := m.desks[i].Lookup(id); !ok {
			lost++
			*m.requests[id] = truth{}
		} else if lost > 0 {
			t.Fatal("a hold is there, and one before it is lost")
		}
	}
	if lost > 0 && cut == end.size {
		t.Fatalf("%d holds are lost", lost)
	}
}

// reopen is a crash: memory is gone.
func (m *machine) reopen(t *rapid.T, i int) {
	_ = m.desks[i].Close()
	down := m.f.down
	m.f.down = false // Open needs the ledger
	m.open(t, i)
	m.f.down = down
}

// had says whether a write that failed took effect after all, and reopens the Desk if its journal broke.
func (m *machine) had(t *rapid.T, i int, fault string, err error) (effect bool) {
	if !errors.Is(err, journal.ErrBroken) {
		return err == nil
	}
	m.reopen(t, i)
	return fault == "fails but persisted" || fault == "killed after"
}

func (m *machine) spent(a ledger.Account) (held, cost nanoton.Amount) {
	for _, r := range m.requests {
		if r.hold.Account == a && r.state == open {
			held += r.hold.Ceiling
		}
		if r.hold.Account == a && r.state == settled {
			cost += r.settlement.Cost
		}
	}
	return held, cost
}

func (m *machine) pick(t *rapid.T) ledger.ID {
	if len(m.ids) == 0 || rapid.IntRange(0, 3).Draw(t, "new") == 0 {
		var id ledger.ID
		id[0], id[1], id[2] = byte(len(m.ids)), byte(len(m.ids)>>8), 1
		m.ids = append(m.ids, id)
		m.requests[id] = &truth{}
		return id
	}
	return m.ids[rapid.IntRange(max(0, len(m.ids)-12), len(m.ids)-1).Draw(t, "request")]
}

func (m *machine) hold(t *rapid.T) {
	id := m.pick(t)
	r := m.requests[id]
	i := rapid.IntRange(0, len(m.desks)-1).Draw(t, "gateway")
	if r.state != fresh && r.gateway != i || r.state > open && m.forgot {
		return // a request has one gateway, and its name is not used again
	}
	h := Hold{
		Request: id, Account: rapid.SampledFrom([]ledger.Account{"customer:x", "customer:y"}).Draw(t, "account"),
		Ceiling: nanoton.Amount(rapid.IntRange(0, 40).Draw(t, "ceiling")), Note: []byte("price"),
	}
	held, cost := m.spent(h.Account)
	lacks := m.deposits[h.Account]-held-cost < h.Ceiling
	fault := m.fault[i]
	err := m.desks[i].Hold(context.Background(), h)
	switch {
	case r.state == open && r.hold.Account == h.Account && r.hold.Ceiling == h.Ceiling:
		if err != nil {
			t.Fatalf("the same hold again: %v", err)
		}
		return
	case r.state != fresh:
		if !errors.Is(err, ErrConflict) {
			t.Fatalf("another hold of a known request: %v", err)
		}
		return
	case errors.Is(err, ErrFunds):
		if !lacks {
			t.Fatalf("%v, but %v of %v are held, %v spent", err, held, m.deposits[h.Account], cost)
		}
		return
	case errors.Is(err, ErrElsewhere):
		if len(m.desks) == 1 { // what the other one holds is not known here
			t.Fatalf("%v; deposits %v, held %v, spent %v", err, m.deposits[h.Account], held, cost)
		}
		return
	case errors.Is(err, ErrUnavailable):
		if !m.f.down && !m.desks[i].uncertain && !m.unsure(i, h.Account) {
			t.Fatalf("the ledger is well: %v", err)
		}
		return
	}
	if m.had(t, i, fault, err) {
		*r = truth{i, open, h, Settlement{}}
		if err == nil {
			m.atRisk[i] = append(m.atRisk[i], id)
		}
	} else if fault == "" {
		t.Fatal(err)
	}
	if err == nil && lacks {
		t.Fatalf("held %v more; deposits %v, held %v, spent %v", h.Ceiling, m.deposits[h.Account], held, cost)
	}
}

// unsure says whether a Desk does not know of a withdrawal whether it took place.
func (m *machine) unsure(i int, a ledger.Account) bool {
	in := m.desks[i].accounts.load(a)
	return in != nil && in.unsure != 0
}

// withdraw takes money out, with a post that goes wrong in every way.
func (m *machine) withdraw(t *rapid.T) {
	i := rapid.IntRange(0, len(m.desks)-1).Draw(t, "gateway")
	a := rapid.SampledFrom([]ledger.Account{"customer:x", "customer:y"}).Draw(t, "account")
	amount := nanoton.Amount(rapid.IntRange(1, 150).Draw(t, "amount"))
	fate := rapid.SampledFrom([]string{"", "", "", "refused", "lost", "no reply"}).Draw(t, "fate")
	held, cost := m.spent(a)
	lacks := m.deposits[a]-held-cost < amount
	out := ledger.Transfer{
		ID: testID(), Kind: "payout", At: time.Now(),
		Legs: []ledger.Leg{{Account: a, Amount: -amount}, {Account: "payouts", Amount: amount}},
	}
	doubt := m.f.down || m.f.persisted || m.desks[i].uncertain || m.unsure(i, a)
	err := m.desks[i].Withdraw(context.Background(), a, amount, func(ctx context.Context) error {
		switch fate {
		case "refused":
			return fmt.Errorf("posting: %w", ledger.ErrChanged)
		case "lost":
			return errDown
		}
		err := m.f.Post(ctx, []ledger.Transfer{out})
		if err == nil && fate == "no reply" {
			return errDown
		}
		return err
	})
	_, done := m.f.done[out.ID]
	switch {
	case done && lacks:
		t.Fatalf("withdrew %v; deposits %v, held %v, spent %v", amount, m.deposits[a], held, cost)
	case err == nil && !done:
		t.Fatal("nothing was withdrawn")
	case errors.Is(err, ErrFunds) && !lacks, errors.Is(err, ErrElsewhere) && len(m.desks) == 1:
		t.Fatalf("%v, but %v of %v are held, %v spent", err, held, m.deposits[a], cost)
	case (errors.Is(err, ErrFunds) || errors.Is(err, ErrElsewhere) || errors.Is(err, ErrUnavailable)) && done:
		t.Fatalf("%v, but it is withdrawn", err)
	case err != nil && fate == "" && !doubt && !errors.Is(err, ErrFunds) && !errors.Is(err, ErrElsewhere):
		t.Fatalf("all is well: %v", err)
	}
	if done {
		m.deposits[a] -= amount
		m.paid += amount
	}
}

// letGo has the time pass after which it is clear what became of withdrawals.
func (m *machine) letGo(i int) {
	for in := range m.desks[i].accounts.all {
		in.sureAt = time.Time{}
	}
	m.desks[i].rereadBalances(context.Background())
}

// settlement draws one, or the same again.
func (m *machine) settlement(t *rapid.T, id ledger.ID) Settlement {
	r := m.requests[id]
	share := nanoton.Amount(rapid.IntRange(0, 30).Draw(t, "share"))
	fee := nanoton.Amount(rapid.IntRange(0, 3).Draw(t, "fee"))
	s := charge(id, rapid.SampledFrom([]ledger.Account{workerA, workerB}).Draw(t, "worker"), share+fee, share, fee)
	if rapid.Bool().Draw(t, "counted") {
		s.Line = Line{Key: "key", User: rapid.SampledFrom([]string{"", "u", "v"}).Draw(t, "user"), Counts: [4]int64{1, 2, 3, 4}}
	}
	if r.state == settled && rapid.Bool().Draw(t, "again") {
		s = r.settlement
	}
	return s
}

func (m *machine) settle(t *rapid.T) {
	id := m.pick(t)
	s, fault := m.settlement(t, id), m.fault[m.requests[id].gateway]
	gone, cancel := context.WithCancel(context.Background())
	cancel() // the client's end must not stop it
	err := m.desks[m.requests[id].gateway].Settle(gone, s)
	m.settledWith(t, s, err, m.had(t, m.requests[id].gateway, fault, err), fault)
}

// settleAll settles several, some of them twice.
func (m *machine) settleAll(t *rapid.T) {
	i := rapid.IntRange(0, len(m.desks)-1).Draw(t, "gateway")
	var all []Settlement
	for range rapid.IntRange(0, 5).Draw(t, "settlements") {
		id := m.pick(t)
		twice := slices.ContainsFunc(all, func(s Settlement) bool { return s.Request == id })
		if m.requests[id].gateway == i && (!twice || m.fault[i] == "") { // the errors after a fault are those of an open one
			all = append(all, m.settlement(t, id))
		}
	}
	fault := m.fault[i]
	errs := m.desks[i].SettleAll(context.Background(), all)
	had := m.had(t, i, fault, errors.Join(errs...))
	for n, err := range errs {
		effect := err == nil || had && errors.Is(err, journal.ErrBroken)
		m.settledWith(t, all[n], err, effect, fault)
	}
}

// settledWith takes the outcome of a settlement.
func (m *machine) settledWith(t *rapid.T, s Settlement, err error, effect bool, fault string) {
	r := m.requests[s.Request]
	switch {
	case r.state > open && m.forgotten(err):
	case r.state == settled && s == r.settlement:
		if err != nil {
			t.Fatalf("the same settlement again: %v", err)
		}
	case r.state == fresh:
		if !errors.Is(err, ErrUnknown) {
			t.Fatalf("no hold: %v", err)
		}
	case r.state != open:
		if !errors.Is(err, ErrConflict) {
			t.Fatalf("closed otherwise: %v", err)
		}
	case s.Cost > r.hold.Ceiling:
		if !errors.Is(err, ErrCeiling) {
			t.Fatalf("above the ceiling: %v", err)
		}
	case effect:
		r.state, r.settlement = settled, s
	case fault == "":
		t.Fatal(err)
	}
}

// forgotten says whether an error tells of a closed request that the Desk does not remember.
func (m *machine) forgotten(err error) bool { return m.forgot && errors.Is(err, ErrUnknown) }

func (m *machine) void(t *rapid.T) {
	id := m.pick(t)
	r := m.requests[id]
	fault := m.fault[r.gateway]
	err := m.desks[r.gateway].Void(context.Background(), id)
	switch {
	case r.state > open && m.forgotten(err):
	case r.state == isVoided && err == nil:
	case r.state == fresh && errors.Is(err, ErrUnknown):
	case r.state == settled && errors.Is(err, ErrConflict):
	case r.state == open && m.had(t, r.gateway, fault, err):
		r.state = isVoided
	case fault == "" || r.state != open:
		t.Fatalf("void of a request in state %d: %v", r.state, err)
	}
}

func (m *machine) post(t *rapid.T) {
	i := rapid.IntRange(0, len(m.desks)-1).Draw(t, "gateway")
	m.posters[i].again()
	fault := m.fault[i]
	err := m.posters[i].post(context.Background())
	m.had(t, i, fault, err)
	if err != nil && !errors.Is(err, errDown) && fault == "" {
		t.Fatal(err)
	}
}

// check compares the ledger with the oracle: no more was ever charged than is owed, and the sum is zero.
func (m *machine) check(t *rapid.T) {
	sum := nanoton.Amount(0)
	for a, n := range m.f.balances {
		if sum += n; n < 0 && !mayOwe(a) {
			t.Fatalf("%s has %v", a, n)
		}
	}
	if sum != 0 {
		t.Fatalf("the ledger's sum is %v", sum)
	}
	for i, d := range m.desks {
		count := 0
		for id, r := range m.requests {
			if r.gateway == i && r.state == open {
				count++
			}
			if h, ok := d.Lookup(id); r.gateway == i && (ok != (r.state == open) || ok && h.Ceiling != r.hold.Ceiling) {
				t.Fatalf("request %s in state %d is looked up as %v %v", id, r.state, h, ok)
			}
		}
		if got := d.Stats().Open; got != count {
			t.Fatalf("gateway %d has %d open requests, want %d", i, got, count)
		}
		for a := range m.deposits {
			balance, held, ok := d.Balance(a)
			want := nanoton.Amount(0)
			for _, r := range m.requests {
				if r.hold.Account == a && r.state == open && r.gateway == i {
					want += r.hold.Ceiling
				}
			}
			if held != want {
				t.Fatalf("gateway %d holds %v of %s, want %v", i, held, a, want)
			}
			_, cost := m.spent(a)
			if ok && !d.uncertain && balance > m.deposits[a]-cost {
				t.Fatalf("%s has %v, by the Desk %v", a, m.deposits[a]-cost, balance)
			}
		}
	}
}

// finish crashes everything once more, voids what is open and posts: then all accounts are as the oracle says.
func (m *machine) finish(t *rapid.T) {
	m.f.down, m.f.persisted = false, false
	want := map[ledger.Account]nanoton.Amount{}
	for i := range m.desks {
		m.fault[i] = ""
		m.reopen(t, i)
		d := m.desks[i]
		left := map[ledger.ID]Hold{}
		for _, r := range d.Recovered() {
			left[r.Request] = r.Hold
		}
		for id, r := range m.requests {
			if r.gateway != i || r.state != open {
				continue
			}
			if h, ok := left[id]; !ok || h.Ceiling != r.hold.Ceiling || string(h.Note) != "price" {
				t.Fatalf("a hold is not reported: %+v", h)
			}
			delete(left, id)
			r.state = isVoided
		}
		if len(left) != 0 {
			t.Fatalf("holds that nobody asked for: %v", left)
		}
		for id, l := range d.left {
			d.left[id] = left2(l)
		}
		d.expire(context.Background())
		if err := m.posters[i].post(context.Background()); err != nil {
			t.Fatal(err)
		}
		if s := d.Stats(); s.Open != 0 || s.Unposted != 0 || s.Stuck != 0 || s.Conflicts != 0 {
			t.Fatalf("left over: %+v", s)
		}
		d.giveBack(context.Background(), 0)
		if d.c.Gateway == "" {
			continue
		}
		for a, n := range m.f.balances {
			if a.Kind() == "allotment" && n != 0 && i == len(m.desks)-1 {
				t.Fatalf("%s has %v", a, n)
			}
		}
	}
	want["chain"], want["payouts"] = -m.paid, m.paid
	for a, n := range m.deposits {
		want[a] += n
		want["chain"] -= n
	}
	used := map[ledger.UsageLine]ledger.UsageLine{}
	for _, r := range m.requests {
		if l := r.settlement.Line; r.state == settled && l != (Line{}) {
			count(used, ledger.UsageLine{
				Customer: r.hold.Account, Key: l.Key, User: l.User, Requests: 1, Counts: l.Counts,
				Cost: r.settlement.Cost,
			})
		}
		if r.state == settled {
			want[r.hold.Account] -= r.settlement.Cost
			want[r.settlement.Worker] += r.settlement.Share
			want["fees"] += r.settlement.Fee
		}
	}
	got := map[ledger.UsageLine]ledger.UsageLine{}
	for _, u := range m.f.used {
		u.Day = "" // the test may run over midnight
		count(got, u)
	}
	if !maps.Equal(got, used) {
		t.Fatalf("usage is %v, want %v", got, used)
	}
	for a, n := range m.f.balances {
		if a.Kind() != "allotment" && n != want[a] {
			t.Fatalf("%s has %v, want %v", a, n, want[a])
		}
	}
}

// left2 moves a deadline into the past.
func left2(l left) left {
	l.deadline = time.Now().Add(-time.Second)
	return l
}

func runModel(t *rapid.T, gateways []string) {
	m := &machine{
		f: newFake(), gateways: gateways, desks: make([]*Desk, len(gateways)), posters: make([]*poster, len(gateways)),
		onDisk: make([]mark, len(gateways)), atRisk: make([][]ledger.ID, len(gateways)),
		// 1: each call has its own, and trimming takes all that it may
		segment: rapid.SampledFrom([]int64{1, 1000, 1 << 20}).Draw(t, "segment"),
		fault:   make([]string, len(gateways)), deposits: map[ledger.Account]nanoton.Amount{}, requests: map[ledger.ID]*truth{},
	}
	for i := range gateways {
		dir, err := os.MkdirTemp(ram(), "desk")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		m.dirs = append(m.dirs, dir)
		m.open(t, i)
		defer func() { _ = m.desks[i].Close() }()
	}
	faults := []string{"fails", "fails for good", "killed before", "fails but persisted", "killed after"}
	gateway := rapid.IntRange(0, len(gateways)-1)
	t.Repeat(map[string]func(*rapid.T){
		"hold": m.hold, "hold again": m.hold, "settle": m.settle, "settle again": m.settle, "void": m.void,
		"settle all": m.settleAll, "settle all again": m.settleAll,
		"post": m.post, "post again": m.post,
		"crash":     func(t *rapid.T) { m.reopen(t, gateway.Draw(t, "gateway")) },
		"power cut": func(t *rapid.T) { m.powerCut(t, gateway.Draw(t, "gateway")) },
		"sync":      func(t *rapid.T) { m.sync(t, gateway.Draw(t, "gateway")) },
		"fault":     func(t *rapid.T) { m.fault[gateway.Draw(t, "gateway")] = rapid.SampledFrom(faults).Draw(t, "fault") },
		"deposit": func(t *rapid.T) {
			a := rapid.SampledFrom([]ledger.Account{"customer:x", "customer:y"}).Draw(t, "account")
			n := nanoton.Amount(rapid.IntRange(1, 200).Draw(t, "amount"))
			m.f.deposit(a, n)
			m.deposits[a] += n
			if rapid.Bool().Draw(t, "credited") {
				m.desks[gateway.Draw(t, "gateway")].Credited(a)
			}
		},
		"withdraw": m.withdraw, "withdraw again": m.withdraw,
		"let go":            func(t *rapid.T) { m.letGo(gateway.Draw(t, "gateway")) },
		"ledger down":       func(*rapid.T) { m.f.set(func() { m.f.down = true }) },
		"ledger up":         func(*rapid.T) { m.f.set(func() { m.f.down = false }) },
		"post but no reply": func(*rapid.T) { m.f.set(func() { m.f.persisted = true }) },
		"idle":              func(t *rapid.T) { m.desks[gateway.Draw(t, "gateway")].giveBack(context.Background(), 0) },
		"tick":              func(t *rapid.T) { m.desks[gateway.Draw(t, "gateway")].rereadBalances(context.Background()) },
		"refill": func(t *rapid.T) {
			d := m.desks[gateway.Draw(t, "gateway")]
			select {
			case a := <-d.refills:
				d.fill(context.Background(), a)
			default:
			}
		},
		"trim": func(t *rapid.T) {
			i := gateway.Draw(t, "gateway")
			if m.desks[i].trimAt = 1; m.fault[i] == "" {
				m.forgot = true
				if err := m.desks[i].trim(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
		},
		"": m.check,
	})
	m.finish(t)
}

// One gateway, with every fault, at any point, against the oracle.
func TestModelAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { runModel(t, []string{""}) })
}

// Two on one ledger: neither overspends, and no 402 is false.
func TestModelTwoGateways(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { runModel(t, []string{"g1", "g2"}) })
}

func testID() (id ledger.ID) {
	for i := range id {
		id[i] = byte(rand.Uint32())
	}
	return id
}
