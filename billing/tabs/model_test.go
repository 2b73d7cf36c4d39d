package tabs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"cocoon/billing/ledger"
	"cocoon/billing/ton/tab"
	"cocoon/internal/nanoton"
	"cocoon/internal/receipt"
)

// model is what the schedule did, counted apart from what it tests.
type model struct {
	*world
	rand      *rand.Rand
	names     []string
	tabs      map[string]Tab
	spent     map[string]nanoton.Amount
	deposited map[string]nanoton.Amount // at the treasury, not in the tab
	pushed    map[string]nanoton.Amount // paid to the treasury by the owner through the tab
	late      map[string]bool           // something was spent of a hold that a close had to leave
	earned    nanoton.Amount
	flying    []Order // payouts of the worker that the treasury set aside
	gifts     nanoton.Amount
	vouchers  []*receipt.Voucher
	clean     bool // the last step had no fault
}

func (m *model) customer() (string, ledger.Account) {
	name := m.names[m.rand.IntN(len(m.names))]
	return name, ledger.Account("customer:" + name)
}

// amount is a part of most, often all of it.
func (m *model) amount(most nanoton.Amount) nanoton.Amount {
	if most <= 0 {
		return 0
	}
	if m.rand.IntN(4) == 0 {
		return most
	}
	return 1 + nanoton.Amount(m.rand.Int64N(int64(most)))
}

// of picks one.
func of[T any](m *model, list ...T) T { return list[m.rand.IntN(len(list))] }

// some is dust or a fortune.
func (m *model) some() nanoton.Amount {
	return of(m, 1, perTON/1000, perTON/20, perTON, 3*perTON, 10*perTON)
}

// round is a block and a step, which the faults may end; then the program starts again.
func (m *model) round() {
	m.net.mine(m.t)
	if err := m.keeper.Step(context.Background()); err != nil {
		if !errors.Is(err, errFault) {
			m.t.Fatal(err)
		}
		m.clean = false
		m.reopen()
		return
	}
	m.clean = true
}

// calm goes on without faults until nothing moves.
func (m *model) calm() {
	m.faults.commit, m.faults.send = nil, nil
	m.net.Faults().DropExternals(0)
	for range 4 {
		m.round()
	}
}

// TestModel plays random schedules of everything that customers, workers, strangers, clocks and faults can do. Each is named
// by a number; COCOON_TABS_SCHEDULES plays that many.
func TestModel(t *testing.T) {
	usual := "5"
	if race {
		usual = "2"
	}
	schedules, err := strconv.Atoi(cmp.Or(os.Getenv("COCOON_TABS_SCHEDULES"), usual))
	if err != nil {
		t.Fatal(err)
	}
	n, draws, claims := newNetwork(t), 0, 0
	for seed := range schedules {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			m := newModel(t, n, seed)
			m.play(70)
			for _, name := range m.names {
				if m.record(TabKind, name).Drawn > m.pushed[name] {
					draws++
				}
			}
			if m.record(CollateralKind, string(worker)[7:]).Drawn > 0 {
				claims++
			}
		})
	}
	if t.Logf("%d tabs drawn, %d workers paid", draws, claims); draws < schedules/2 || claims < schedules/2 {
		t.Errorf("in %d schedules %d tabs were drawn and %d workers paid: they play nothing", schedules, draws, claims)
	}
}

func newModel(t *testing.T, n *network, seed int) *model {
	m := &model{
		world: newWorldOn(t, n, newLedger(t), fmt.Sprint("model ", seed)), rand: rand.New(rand.NewPCG(uint64(seed), 1)),
		names: []string{"ann", "bob"}, tabs: map[string]Tab{}, spent: map[string]nanoton.Amount{}, deposited: map[string]nanoton.Amount{},
		pushed: map[string]nanoton.Amount{}, late: map[string]bool{},
	}
	m.tabs["ann"] = m.open("ann", 1000*perTON, 0)
	m.tabs["bob"] = m.open("bob", 2*perTON, perTON/3600)
	for _, tab := range m.tabs {
		n.send(t, addressFor("exchange"), tab.Address, 10*perTON, nil)
	}
	if _, err := m.keeper.Collateral(context.Background(), worker, addressFor("worker"), 5*perTON); err != nil {
		t.Fatal(err)
	}
	m.calm()
	m.sendPayouts()
	m.calm()
	return m
}

// play does so many things, and checks after each.
func (m *model) play(n int) {
	often := []func(){m.spend, m.spend, m.spend, m.hold, m.topUp, m.earn, m.getVoucher, m.claimOne, m.time, m.fault, m.round, m.calm}
	seldom := []func(){m.close, m.finish, m.raise, m.push, m.strange, m.aside, m.sendPayouts, m.collateral}
	if m.rand.IntN(3) == 0 { // it can't be told apart from the tab's afterwards
		seldom = append(seldom, m.deposit)
	}
	for range n {
		if m.rand.IntN(4) > 0 {
			of(m, often...)()
		} else {
			of(m, seldom...)()
		}
		m.check()
	}
	m.calm()
	m.check()
}

func (m *model) topUp() {
	name, _ := m.customer()
	from := of(m, name, "stranger")
	m.net.send(m.t, addressFor(from), m.tabs[name].Address, m.some(), nil)
}

func (m *model) spend() {
	name, account := m.customer()
	amount := m.amount(m.has(account) - m.desk.held[account])
	if amount > 0 {
		m.post(account, worker, amount)
		m.spent[name] += amount
		m.earned += amount
	}
}

// hold begins a request, or ends it by spending.
func (m *model) hold() {
	name, account := m.customer()
	held := m.desk.held[account]
	if held == 0 {
		m.desk.held[account] = m.amount(m.has(account))
		return
	}
	m.late[name] = m.late[name] || m.record(TabKind, name).CloseAt != 0
	m.desk.held[account] = 0
	amount := m.amount(held)
	m.post(account, worker, amount)
	m.spent[name] += amount
	m.earned += amount
}

func (m *model) deposit() {
	name, account := m.customer()
	amount := m.some()
	m.post("chain", account, amount)
	m.deposited[name] += amount
}

func (m *model) close() {
	name, _ := m.customer()
	m.net.deploy(m.t, addressFor(name), m.tabs[name].Terms, perTON/20)
	m.net.send(m.t, addressFor(name), m.tabs[name].Address, perTON/20, tab.CloseBody())
}

func (m *model) finish() {
	name, _ := m.customer()
	m.net.send(m.t, addressFor("stranger"), m.tabs[name].Address, perTON/20, tab.FinishBody())
}

func (m *model) raise() {
	name, _ := m.customer()
	base := of(m, perTON, 20*perTON, 2000*perTON)
	m.net.send(m.t, addressFor(name), m.tabs[name].Address, perTON/20, tab.LimitBody(base, perTON/1800, m.net.Now().Truncate(time.Second)))
}

// push is an owner who pays the treasury through his tab, as owners of workers' tabs do: it is as good as a deposit.
func (m *model) push() {
	name, _ := m.customer()
	m.calm()
	r := m.record(TabKind, name)
	if !r.Active {
		return // it would be a top-up
	}
	amount := m.amount(3 * perTON)
	m.net.send(m.t, addressFor(name), m.tabs[name].Address, amount+perTON/100, tab.PayBody(amount))
	m.pushed[name] += amount
}

// strange is what strangers try: to close, to limit, to pay, to say anything.
func (m *model) strange() {
	name, _ := m.customer()
	to := m.tabs[name].Address
	body := m.rand.IntN(3)
	stranger := addressFor("stranger")
	switch body {
	case 0:
		m.net.send(m.t, stranger, to, perTON/10, tab.CloseBody())
	case 1:
		m.net.send(m.t, stranger, to, perTON, tab.PayBody(perTON/2))
	case 2:
		m.net.send(m.t, stranger, m.record(CollateralKind, string(worker)[7:]).Address, perTON/10, tab.LimitBody(1, 0, time.Time{}))
		m.gifts += perTON / 10
	}
}

func (m *model) earn() {
	amount := m.amount(2 * perTON)
	m.post("chain", worker, amount)
	m.earned += amount
}

func (m *model) getVoucher() {
	v, err := m.keeper.Voucher(context.Background(), worker)
	if err != nil && !errors.Is(err, errFault) {
		m.t.Fatal(err)
	}
	if v != nil {
		m.vouchers = append(m.vouchers, v)
	}
}

// claimOne brings any voucher that the worker ever had to the chain.
func (m *model) claimOne() {
	if len(m.vouchers) > 0 {
		_ = m.claim(m.vouchers[m.rand.IntN(len(m.vouchers))]) // refused, mostly
	}
}

// aside has the treasury set a payout of the worker aside.
func (m *model) aside() {
	amount := m.amount(m.has(worker))
	if amount <= 0 {
		return
	}
	o, ok, err := m.keeper.Route(context.Background(), worker, addressFor("worker"), amount)
	if err != nil {
		m.t.Fatal(err)
	}
	if ok {
		m.post(o.Account, "payouts", o.Amount)
		m.flying = append(m.flying, o)
	}
}

func (m *model) sendPayouts() {
	for _, o := range m.flying {
		m.pay(o)
	}
	m.flying = nil
	m.payday()
}

func (m *model) collateral() {
	_, err := m.keeper.Collateral(context.Background(), worker, addressFor("worker"), m.amount(10*perTON))
	if err != nil && !errors.Is(err, errFault) {
		m.t.Fatal(err)
	}
}

// time passes, with a look at the chain at least twice a day.
func (m *model) time() {
	m.net.SkewClock(of(m, time.Minute, time.Hour, 12*time.Hour))
	m.calm()
}

// fault has commits and messages fail from now on, now and then.
func (m *model) fault() {
	every := 2 + m.rand.IntN(6)
	how := 1 + m.rand.IntN(2)
	count := 0
	f := func() int {
		if count++; count%every == 0 {
			return how
		}
		return 0
	}
	switch m.rand.IntN(3) {
	case 0:
		m.faults.commit = f
	case 1:
		m.faults.send = f
	case 2:
		m.net.Faults().DropExternals(every)
	}
}

// check holds what there is against what was done.
func (m *model) check() {
	if !m.clean || m.faults.commit != nil {
		return
	}
	m.net.mine(m.t) // what waits
	m.round()
	if !m.clean {
		return
	}
	m.sound()
	fees := m.gifts
	for _, name := range m.names {
		fees -= m.checkCustomer(name)
	}
	p := m.record(CollateralKind, string(worker)[7:])
	fees -= p.Advance
	owed, flying := m.has(worker), nanoton.Amount(0)
	for _, o := range m.flying {
		flying += o.Amount
	}
	if p.Drawn+owed+flying != m.earned+p.Advance || p.Lost != 0 {
		m.t.Fatalf("worker: paid %v, owed %v, on its way %v; earned %v; %+v", p.Drawn, owed, flying, m.earned, p)
	}
	if got := m.has("fees"); got != fees {
		m.t.Fatalf("fees %v, want %v", got, fees)
	}
	if v := p.Voucher; v != nil && v.Cumulative > p.Signed {
		m.t.Fatalf("voucher %+v of %+v", v, p)
	}
}

// checkCustomer gives what he owes.
func (m *model) checkCustomer(name string) nanoton.Amount {
	account, r := ledger.Account("customer:"+name), m.record(TabKind, name)
	have, spent := m.has(account), m.spent[name]
	free := m.deposited[name] // not of the tab
	if r.Unexplained != 0 {
		m.t.Fatalf("%s: taken for an older ledger: %+v", name, r)
	}
	if spent != r.Drawn+(r.Balance-r.Locked-have)+r.Owed+free {
		m.t.Fatalf("%s: spent %v, drawn %v, has %v, deposited %v: %+v", name, spent, r.Drawn, have, free, r)
	}
	if byVoucher := r.Drawn - m.pushed[name]; byVoucher > spent {
		m.t.Fatalf("%s: drawn %v, spent %v", name, byVoucher, spent)
	}
	if free+m.pushed[name] > 0 { // it can't be told apart any more
		return r.Owed
	}
	p := &pot{key: key{TabKind, name}, record: r}
	if drawable := max(p.limit(m.net.BlockTime())-r.Drawn, 0); r.CloseAt == 0 && r.Balance-r.Locked > drawable+perTON/100+m.desk.held[account] {
		m.t.Fatalf("%s: may spend %v of which only %v can be drawn: %+v", name, r.Balance-r.Locked, drawable, r)
	}
	if r.CloseAt != 0 && have > m.desk.held[account] {
		m.t.Fatalf("%s: has %v while the tab is closing: %+v", name, have, r)
	}
	// What is lost is what no voucher is taken for, and what a request held while the owner left.
	if r.Owed > perTON/10 && !m.late[name] {
		m.t.Fatalf("%s owes %v: %+v", name, r.Owed, r)
	}
	return r.Owed
}
