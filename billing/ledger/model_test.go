package ledger

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cocoon/internal/nanoton"
)

// model is what a ledger should be, in maps.
type model struct {
	l        *Ledger
	fault    *fault
	url      string
	balances map[Account]nanoton.Amount
	posted   map[ID][32]byte
	allots   map[ID]string // gateway and customer of the allotments
	now      time.Time     // moves when leases end
	serial   int
}

// TestModel does what comes to mind, in any order, on a ledger and in maps, with faults and restarts.
func TestModel(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend.name, func(t *testing.T) {
			url := backend.url(t)
			if backend.name == "postgres" { // its connections are slow to begin
				checks := flag.Lookup("rapid.checks").Value.String()
				defer func() { _ = flag.Set("rapid.checks", checks) }()
				n, _ := strconv.Atoi(checks)
				_ = flag.Set("rapid.checks", strconv.Itoa(n/4+1))
			}
			rapid.Check(t, func(rt *rapid.T) {
				l, f, err := openFaulty(t.Context(), url)
				if err != nil {
					rt.Fatal(err)
				}
				wipe(t, l)
				m := &model{
					l: l, fault: f, url: url, balances: map[Account]nanoton.Amount{}, posted: map[ID][32]byte{},
					allots: map[ID]string{}, now: epoch,
				}
				defer func() { m.l.Close() }()
				rt.Repeat(map[string]func(*rapid.T){
					"post": m.post, "post with a fault": m.postFaulty, "allot": m.allot, "release": m.release,
					"reclaim": m.reclaim, "reopen": m.reopen, "": m.compare,
				})
				wantSound(rt, m.l)
			})
		})
	}
}

var modelAccounts = rapid.SampledFrom([]Account{
	"chain", "fees", "customer:ann", "customer:bob", "allotment:g1:ann", "allotment:g2:bob", workerAccount(1),
})

// batch draws transfers with few IDs, so that they repeat and contradict each other.
func (m *model) batch(t *rapid.T) []Transfer {
	var batch []Transfer
	for range rapid.IntRange(1, 5).Draw(t, "transfers") {
		one := Transfer{
			ID: idOf(fmt.Sprint(rapid.IntRange(0, 60).Draw(t, "ID"))), At: epoch,
			Kind: rapid.SampledFrom([]string{"a", "a", "a", "b"}).Draw(t, "kind"),
		}
		sum := nanoton.Amount(0)
		for range rapid.IntRange(1, 3).Draw(t, "legs") {
			// The money goes mostly from the chain to the others.
			amount := nanoton.Amount(rapid.IntRange(-3, 5).Draw(t, "amount"))
			one.Legs = append(one.Legs, Leg{modelAccounts.Draw(t, "account"), amount})
			sum += amount
		}
		rest := Account("chain")
		if rapid.IntRange(0, 2).Draw(t, "rest") == 0 {
			rest = modelAccounts.Draw(t, "account")
		}
		one.Legs = append(one.Legs, Leg{rest, -sum})
		batch = append(batch, one)
	}
	return batch
}

// apply says what Post should do, and what is then, which m takes over with adopt.
func (m *model) apply(batch []Transfer) (balances map[Account]nanoton.Amount, posted map[ID][32]byte, reason error) {
	balances, posted = maps.Clone(m.balances), maps.Clone(m.posted)
	inBatch := map[ID][32]byte{}
	for _, one := range batch {
		if before, ok := inBatch[one.ID]; ok && before != one.digest() {
			return nil, nil, ErrConflict
		}
		inBatch[one.ID] = one.digest()
	}
	for _, one := range batch {
		if before, ok := m.posted[one.ID]; ok && before != one.digest() {
			return nil, nil, ErrConflict
		}
	}
	for _, one := range batch {
		if _, ok := posted[one.ID]; ok {
			continue
		}
		posted[one.ID] = one.digest()
		for _, leg := range one.Legs {
			balances[leg.Account] += leg.Amount
		}
		for _, leg := range one.Legs {
			if leg.Account.mayOwe() {
				continue
			}
			if balances[leg.Account] < 0 {
				return nil, nil, ErrOverdrawn
			}
		}
	}
	return balances, posted, nil
}

func (m *model) post(t *rapid.T) {
	batch := m.batch(t)
	balances, posted, reason := m.apply(batch)
	err := m.l.Post(context.Background(), batch)
	if !errors.Is(err, reason) || reason == nil && err != nil {
		t.Fatalf("Post = %v, want %v", err, reason)
	}
	if reason == nil {
		m.balances, m.posted = balances, posted
	}
}

// postFaulty posts with a fault somewhere; the caller then does not know, and asks.
func (m *model) postFaulty(t *rapid.T) {
	batch := m.batch(t)
	balances, posted, reason := m.apply(batch)
	*m.fault = fault{mode: rapid.IntRange(fails, disconnect).Draw(t, "mode"), step: rapid.IntRange(0, 9).Draw(t, "step")}
	err := m.l.Post(context.Background(), batch)
	m.fault.mode = 0
	if err == nil && reason != nil || err != nil && !errors.Is(err, errFault) && (reason == nil || !errors.Is(err, reason)) {
		t.Fatalf("Post with a fault = %v, want %v", err, reason)
	}
	if rapid.Bool().Draw(t, "reopen") {
		m.reopen(t)
	}
	ids := make([]ID, len(batch))
	for i := range batch {
		ids[i] = batch[i].ID
	}
	has, err2 := m.l.Has(context.Background(), ids...)
	if err2 != nil {
		t.Fatal(err2)
	}
	for i, id := range ids {
		_, before := m.posted[id]
		if !before && has[i] != has[len(has)-1] && !m.anyPosted(ids) {
			t.Fatalf("a part is posted: %v", has)
		}
		if !before && has[i] {
			if reason != nil {
				t.Fatalf("a batch that must be refused with %v is posted", reason)
			}
			m.balances, m.posted = balances, posted
			return
		}
	}
	if err == nil && reason == nil {
		m.balances, m.posted = balances, posted
	}
}

func (m *model) anyPosted(ids []ID) bool {
	for _, id := range ids {
		if _, ok := m.posted[id]; ok {
			return true
		}
	}
	return false
}

func (m *model) allot(t *rapid.T) {
	m.serial++
	gateway := rapid.SampledFrom([]string{"g1", "g2"}).Draw(t, "gateway")
	name := rapid.SampledFrom([]string{"ann", "bob"}).Draw(t, "customer")
	id := idOf(fmt.Sprint("allot ", rapid.IntRange(max(0, m.serial-2), m.serial).Draw(t, "serial")))
	want := nanoton.Amount(rapid.IntRange(0, 10).Draw(t, "want"))
	has, err := m.l.Allot(context.Background(), Allotment{
		ID: id, Gateway: gateway, Customer: Account("customer:" + name), Want: want, Until: m.now,
	})
	allotment, customer := Account("allotment:"+gateway+":"+name), Account("customer:"+name)
	before, again := m.allots[id]
	if again && before != string(allotment) {
		if !errors.Is(err, ErrConflict) {
			t.Fatalf("Allot with the ID of another = %v", err)
		}
		return
	}
	if moved := min(want, m.balances[customer]); !again && moved > 0 {
		m.balances[customer] -= moved
		m.balances[allotment] += moved
		m.allots[id] = string(allotment)
	}
	if err != nil || has != m.balances[allotment] {
		t.Fatalf("Allot = %d, %v, want %d", has, err, m.balances[allotment])
	}
}

func (m *model) giveBack(gateway, name string) {
	allotment := Account("allotment:" + gateway + ":" + name)
	m.balances[Account("customer:"+name)] += m.balances[allotment]
	m.balances[allotment] = 0
}

func (m *model) release(t *rapid.T) {
	gateway := rapid.SampledFrom([]string{"g1", "g2"}).Draw(t, "gateway")
	name := rapid.SampledFrom([]string{"ann", "bob"}).Draw(t, "customer")
	if err := m.l.Release(context.Background(), gateway, Account("customer:"+name)); err != nil {
		t.Fatal(err)
	}
	m.giveBack(gateway, name)
}

// reclaim ends the leases of all gateways but one that keeps renewing.
func (m *model) reclaim(t *rapid.T) {
	alive := rapid.SampledFrom([]string{"g1", "g2", "g3"}).Draw(t, "alive")
	ctx := context.Background()
	if _, err := m.l.Reclaim(ctx, m.now); err != nil {
		t.Fatal(err)
	}
	renewed := m.l.Heartbeat(ctx, alive, m.now)
	if renewed != nil && !errors.Is(renewed, ErrReclaimed) {
		t.Fatal(renewed)
	}
	leased := map[string]bool{}
	rows, err := m.l.db.read.QueryContext(ctx, `SELECT gateway FROM leases WHERE reclaimed = 0`)
	if err != nil {
		t.Fatal(err)
	}
	err = each(rows, func() error {
		var gateway string
		err := rows.Scan(&gateway)
		leased[gateway] = true
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	m.now = m.now.Add(ReclaimGrace + 1)
	if _, err := m.l.Reclaim(ctx, m.now); err != nil {
		t.Fatal(err)
	}
	for _, gateway := range []string{"g1", "g2"} {
		if leased[gateway] && (gateway != alive || renewed != nil) {
			m.giveBack(gateway, "ann")
			m.giveBack(gateway, "bob")
		}
	}
}

func (m *model) reopen(t *rapid.T) {
	if err := m.l.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if m.l, m.fault, err = openFaulty(context.Background(), m.url); err != nil {
		t.Fatal(err)
	}
}

func (m *model) compare(t *rapid.T) {
	maps.DeleteFunc(m.balances, func(_ Account, amount nanoton.Amount) bool { return amount == 0 })
	wantBalances(t, m.l, m.balances)
}
