package treasury

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cocoon/billing/ledger"
	"cocoon/billing/ledger/ledgertest"
	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	"cocoon/internal/nanoton"
)

// Two gateways on one ledger, with the same key, at the same time: nobody is paid or credited twice.
func TestTwoGateways(t *testing.T) {
	var postgres ledgertest.Postgres
	for name, url := range map[string]func(*testing.T, *scene) string{
		"sqlite":     func(_ *testing.T, s *scene) string { return "sqlite:" + s.path },
		"postgresql": func(t *testing.T, _ *scene) string { return postgres.Schema(t) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newWorld(t, devnet.Options{}).scene(t)
			twoGateways(t, s, url(t, s))
		})
	}
	postgres.Stop()
}

func twoGateways(t *testing.T, s *scene, url string) {
	const payouts = 40
	s.config.HotMax, s.config.Cold, s.config.Interval = 30*tonCoin, someone("cold"), time.Minute
	ledgers := make([]*ledger.Ledger, 2)
	for i := range ledgers {
		l, err := ledger.Open(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		ledgers[i] = l
	}
	for i := range payouts {
		payee(t, ledgers[0], workerHex(fmt.Sprint(i)), Payee{Address: someone(fmt.Sprint(i))})
		earn(t, ledgers[0], workerHex(fmt.Sprint(i)), tonCoin/10)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for _, l := range ledgers {
		x := s.treasury(l, s.client)
		wg.Go(func() {
			for ctx.Err() == nil {
				err := x.Step(ctx)
				if err != nil && ctx.Err() == nil && !errors.Is(err, ledger.ErrChanged) && !errors.Is(err, ErrBehind) {
					t.Error(err)
				}
			}
		})
	}
	s.give("operator", 50*tonCoin, MemoCapital)
	for i := range 200 {
		if i < 10 {
			s.give("a", tonCoin, ton.Memo("alice"))
		}
		s.mine()
		open, err := Payouts(t.Context(), ledgers[0], Filter{Open: true})
		if err != nil {
			t.Fatal(err)
		}
		alice, err := ledgers[0].Balance(t.Context(), "customer:alice")
		if err != nil {
			t.Fatal(err)
		}
		if len(open) == 0 && alice == 10*tonCoin && s.got("cold") > 0 {
			break
		}
		time.Sleep(5 * time.Millisecond) // lets them work: any time will do
	}
	cancel()
	wg.Wait()
	x := s.treasury(ledgers[1], s.client)
	step(t, x)
	for i := range payouts {
		if got := s.got(fmt.Sprint(i)); got != tonCoin/10 {
			t.Errorf("worker %d got %v", i, got)
		}
	}
	all := s.books(ledgers[0])
	if all["customer:alice"] != 10*tonCoin || (-all["cold"]+999)/1000*1000 != s.got("cold") {
		t.Errorf("alice has %v, cold %v and on the chain %v", all["customer:alice"], all["cold"], s.balance(someone("cold")))
	}
}

// machine is a random schedule of everything that may happen, and what must come of it.
type machine struct {
	*scene
	l         *ledger.Ledger
	x         *Treasury
	fault     counter
	customers map[string]nanoton.Amount // what they must have, once all is scanned
	suspense  nanoton.Amount
	asked     []Payout
	earned    map[string]nanoton.Amount
	serial    int
}

func (m *machine) reopen() {
	if m.l != nil {
		_ = m.l.Close()
	}
	l, err := ledger.Open(m.t.Context(), "sqlite:"+m.path)
	if err != nil {
		m.t.Fatal(err)
	}
	m.l = l
	m.x = m.treasury(faultLedger{m.l, &m.fault}, faultChain{m.client, &m.fault})
}

// stepMay steps, and opens all anew if that kills the process.
func (m *machine) stepMay(t *rapid.T) {
	m.fault = counter{}
	if rapid.IntRange(0, 3).Draw(t, "fault") == 0 {
		m.fault.fault = fault{
			rapid.SampledFrom([]string{"commit", "send"}).Draw(t, "call"), rapid.IntRange(1, 4).Draw(t, "at"),
			rapid.IntRange(0, modes-1).Draw(t, "mode"),
		}
	}
	defer func() {
		r := recover()
		m.fault = counter{}
		if r != nil {
			if _, ok := r.(crashed); !ok {
				panic(r)
			}
			m.reopen()
		}
	}()
	_ = m.x.Step(m.t.Context())
}

func (m *machine) deposit(t *rapid.T) {
	amount := nanoton.Amount(rapid.Int64Range(0, 3e9).Draw(t, "amount"))
	name := rapid.SampledFrom([]string{"alice", "bob", "carol", ""}).Draw(t, "customer")
	if name != "" {
		m.customers[name] += amount
		m.give("x", amount, ton.Memo(name))
		return
	}
	if amount >= DefaultKeepMin {
		m.suspense += amount
	}
	m.give("stranger", amount, "?")
}

func (m *machine) ask(t *rapid.T) {
	m.serial++
	p := Payout{
		ID: fmt.Sprint("p", m.serial), To: someone(fmt.Sprint(m.name, "p", m.serial)),
		Amount:  nanoton.Amount(rapid.Int64Range(1e7, 3e9).Draw(t, "amount")),
		Account: rapid.SampledFrom([]ledger.Account{"customer:alice", "customer:bob", "fees", "network"}).Draw(t, "account"),
	}
	if err := m.x.Ask(m.t.Context(), p); err != nil {
		m.t.Fatal(err)
	}
	m.asked = append(m.asked, p)
}

func (m *machine) earn(t *rapid.T) {
	name := rapid.SampledFrom([]string{"w1", "w2"}).Draw(t, "worker")
	amount := nanoton.Amount(rapid.Int64Range(1e6, 1e9).Draw(t, "amount"))
	m.serial++
	move(m.t, m.l, fmt.Sprint("earn", m.serial), accountNetwork, ledger.Account("worker:"+workerHex(m.name+name)), amount)
	m.earned[name] += amount
}

func (m *machine) refund(*rapid.T) {
	open, err := Unsettled(m.t.Context(), m.l)
	if err != nil {
		m.t.Fatal(err)
	}
	if len(open) > 0 {
		if _, err := Refund(m.t.Context(), m.l, open[0].ID); err != nil {
			m.t.Fatal(err)
		}
		m.suspense -= open[0].Amount
	}
}

// finish lets everything come to its end, and compares.
func (m *machine) finish() {
	f := m.net.Faults()
	f.DropExternals(0)
	f.Lag(0)
	m.fault = counter{}
	m.give("operator", 500*tonCoin, MemoCapital)
	m.mine()
	done := false
	for range 80 {
		err := m.x.Step(m.t.Context())
		st := m.x.Status()
		m.skew(time.Minute)
		if done = err == nil && st.Stopped == "" && st.Asked+st.Queued+st.Batched == 0 && m.idle(); done {
			break
		}
	}
	if !done {
		m.t.Fatalf("not settled: %+v", m.x.Status())
	}
	for _, p := range m.asked {
		is := find(m.t, m.l, p.ID)
		name, paid := fmt.Sprint(m.name, p.ID), m.balance(p.To)
		switch {
		case is.State == Paid && m.got(name) == (p.Amount+999)/1000*1000:
			if p.Account.Kind() == "customer" {
				m.customers[string(p.Account)[len("customer:"):]] -= p.Amount
			}
		case is.State == Refused && paid == 0:
		default:
			m.t.Errorf("payout %+v: paid %d", is, paid)
		}
	}
	all := m.books(m.l)
	for name, want := range m.customers {
		if got := all[ledger.Account("customer:"+name)]; got != want {
			m.t.Errorf("%s has %d, want %d", name, got, want)
		}
	}
	open, err := Unsettled(m.t.Context(), m.l)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, u := range open {
		m.suspense -= u.Amount
	}
	if m.suspense != 0 {
		m.t.Errorf("suspense differs by %d", m.suspense)
	}
	for name, want := range m.earned {
		left := all[ledger.Account("worker:"+workerHex(m.name+name))]
		if got := m.balance(someone(m.name + name)); got > want-left || got < want-left-tonCoin/1000 {
			m.t.Errorf("%s got %d of %d, left %d", name, got, want, left)
		}
	}
}

// idle says whether no earnings are due.
func (m *machine) idle() bool {
	all, err := m.l.Balances(m.t.Context(), workerPrefix)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, balance := range all {
		if balance >= tonCoin/10 {
			return false
		}
	}
	return true
}

// Random schedules of deposits, payouts, earnings, refunds, holds, deaths, failures and skewed clocks.
func TestRandomSchedule(t *testing.T) {
	w := newWorld(t, devnet.Options{})
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{scene: w.scene(t), customers: map[string]nanoton.Amount{}, earned: map[string]nanoton.Amount{}}
		m.config.OutflowMax, m.config.HotMax, m.config.Cold = 300*tonCoin, 40*tonCoin, someone(m.name+"cold")
		m.config.PayoutMin = tonCoin / 100
		m.reopen()
		m.give("operator", tonCoin, MemoCapital)
		m.mine()
		defer func() { _ = m.l.Close() }()
		for _, name := range []string{"w1", "w2"} {
			payee(t, m.l, workerHex(m.name+name), Payee{Address: someone(m.name + name), Min: tonCoin / 10, Every: 60})
		}
		actions := []func(*rapid.T){
			m.deposit, m.deposit, m.ask, m.ask, m.earn, m.refund, m.stepMay, m.stepMay, m.stepMay, m.stepMay, m.stepMay,
			func(*rapid.T) { m.mine() }, func(*rapid.T) { m.mine() }, func(*rapid.T) { m.mine() },
			func(*rapid.T) { m.give("operator", 5*tonCoin, MemoCapital) },
			func(*rapid.T) { m.reopen() },
			func(t *rapid.T) { m.net.Faults().DropExternals(rapid.IntRange(0, 3).Draw(t, "lost")) },
			func(t *rapid.T) { m.net.Faults().Lag(uint32(rapid.IntRange(0, 3).Draw(t, "lag"))) },
			func(t *rapid.T) { m.skew(time.Duration(rapid.IntRange(1, 5000).Draw(t, "seconds")) * time.Second) },
			func(*rapid.T) { _ = HoldAll(m.t.Context(), m.l, "lunch") },
			func(*rapid.T) { _ = ReleaseAll(m.t.Context(), m.l) },
		}
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(actions)-1), 10, 60).Draw(rt, "schedule") {
			actions[i](rt)
		}
		if err := ReleaseAll(t.Context(), m.l); err != nil && !errors.Is(err, ErrUnknown) {
			t.Fatal(err)
		}
		m.finish()
		if t.Failed() {
			rt.Fatalf("scene %s", m.name)
		}
	})
}
