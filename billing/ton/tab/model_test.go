package tab

import (
	"bytes"
	"math/big"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/billing/ton"
	"cocoon/internal/nanoton"
)

// Exit codes of the contract.
const (
	exitClosed  = 104
	exitOwner   = 106
	exitEarly   = 107
	exitLow     = 108
	exitUnknown = 0xffff
)

// drawPart is what part of a draw its fees may be at most, whatever its message is wrapped in.
const drawPart = 8

// model is what the contract should do, written once more: with the same rules, and other arithmetic. It takes from the
// chain what the network charges, and nothing else.
type model struct {
	*party
	deployed   bool
	drawn      nanoton.Amount
	closeAt    time.Time
	base, rate nanoton.Amount
	since      time.Time
	root       [32]byte
}

func newModel(p *party) *model {
	return &model{party: p, base: p.terms.Base, rate: p.terms.Rate, since: p.terms.Since}
}

// limit is what the limit is at a time, for limits that fit.
func (m *model) limit(base, rate nanoton.Amount, since, at time.Time) nanoton.Amount {
	if !at.After(since) {
		return base
	}
	return base + rate*nanoton.Amount(at.Unix()-max(since.Unix(), 0))
}

// free is what a voucher in that message could be paid from: what is left after rent and import, less the reserve.
func (p *party) free(t testingT, message *cell.Cell) nanoton.Amount {
	t.Helper()
	balance := p.balance(p.at)
	if info := p.raw(t, p.at).State; info != nil {
		u := info.StorageInfo.StorageUsed
		fee, err := p.prices.config.ComputeStorageFee(false, info.StorageInfo.LastPaid, uint32(p.now().Unix()),
			u.BitsUsed.Uint64(), u.CellsUsed.Uint64())
		if err != nil {
			t.Fatal(err)
		}
		balance -= min(balance, nanoton.Amount(fee.Int64()))
	}
	bits, cells := size(t, message)
	balance -= p.prices.Forward(bits, cells)
	return balance - p.costs.Reserve
}

// size counts what is below a message's root, each cell once.
func size(t testingT, root *cell.Cell) (bits, cells uint64) {
	t.Helper()
	seen := map[string]bool{}
	var count func(c *cell.Cell)
	count = func(c *cell.Cell) {
		for i := range int(c.RefsNum()) {
			ref, err := c.PeekRef(i)
			if err != nil {
				t.Fatal(err)
			}
			if !seen[string(ref.Hash())] {
				seen[string(ref.Hash())] = true
				bits, cells = bits+uint64(ref.BitsSize()), cells+1
				count(ref)
			}
		}
	}
	count(root)
	return bits, cells
}

// takes tells what the contract pays for a voucher that is signed well; false: it is refused.
func (m *model) takes(t testingT, v Voucher, message *cell.Cell) (due nanoton.Amount, ok bool) {
	t.Helper()
	now := m.now()
	if v.Tab != m.at || now.After(v.ValidUntil) || !m.closeAt.IsZero() && now.After(m.closeAt) {
		return 0, false
	}
	free := m.free(t, message)
	due = min(v.Cumulative, m.limit(m.base, m.rate, m.since, now)) - m.drawn
	due = min(due, free)
	return due, due >= m.costs.Least
}

// bring brings a voucher, and compares what happens with what should. It tells whether it was accepted.
func (m *model) bring(t testingT, v Voucher, body []byte, good bool) bool {
	t.Helper()
	root, err := cell.FromBOC(body)
	if err != nil {
		t.Fatal(err)
	}
	init := m.init
	if m.deployed && v.Cumulative%2 == 0 { // both are right: an init that is not needed costs the tab a little
		init = nil
	}
	message, err := tlb.ToCell(&tlb.ExternalMessage{DstAddr: m.at.Std(), StateInit: init, Body: root})
	if err != nil {
		t.Fatal(err)
	}
	due, want := m.takes(t, v, message)
	want = want && good
	before := m.balance(m.at)
	got := m.n.SendExternal(message.ToBOC()) == nil
	if got != want {
		t.Fatalf("accepted: %v, want %v: %+v, due %v of %v", got, want, v, due, before)
	}
	m.mine(t)
	if !got {
		if after := m.balance(m.at); after != before {
			t.Fatalf("refused, and the balance went from %v to %v", before, after)
		}
		return false
	}
	m.deployed = true
	m.drawn += due
	m.root = v.Root
	s := m.last(t, m.at)
	if cost := s.fees - s.storage; cost > due/drawPart {
		t.Fatalf("a draw of %v cost %v", due, cost)
	}
	m.settled(t, s, before, []payment{{m.terms.Payee, due, false}})
	return true
}

// rest is what is given back, of what is left after all fees that were paid. What does not pay for its own message stays.
func (m *model) rest(t testingT, s step, left nanoton.Amount) []payment {
	t.Helper()
	left -= m.costs.Reserve
	if len(s.out) > 0 {
		return []payment{{m.terms.Owner, left, true}}
	}
	if least := m.prices.Forward(0, 0); left >= least {
		t.Fatalf("%v kept, though a message costs %v", left, least)
	}
	return nil
}

// payment is a message that the tab must have sent.
type payment struct {
	to     ton.Address
	amount nanoton.Amount
	refund bool
}

// settled compares a transaction that must have ended well.
func (m *model) settled(t testingT, s step, before nanoton.Amount, out []payment) {
	t.Helper()
	if s.exit != 0 || s.action != 0 {
		t.Fatalf("failed with %d, actions %d", s.exit, s.action)
	}
	if s.gas > messageGas {
		t.Fatalf("%d gas, the contract reckons with %d", s.gas, messageGas)
	}
	if len(s.out) != len(out) {
		t.Fatalf("%d messages sent, want %v", len(s.out), out)
	}
	after := before + s.in - s.fees
	for i, o := range out {
		got := s.out[i]
		n, ok := ParseNotice(got)
		if got.To != o.to || got.Amount != o.amount || !ok || n != (Notice{m.drawn, m.root, o.refund}) {
			t.Fatalf("sent %v to %s with %+v, %v; want %v, drawn %v", got.Amount, got.To, n, ok, o, m.drawn)
		}
		after -= o.amount
	}
	if got := m.balance(m.at); got != after {
		t.Fatalf("balance %v, want %v: %+v", got, after, s)
	}
	m.compare(t)
}

// compare compares the state.
func (m *model) compare(t testingT) {
	t.Helper()
	st, err := ParseState(m.state(t, m.at))
	if !m.deployed {
		if err == nil {
			t.Fatal("it is deployed")
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if st.Drawn != m.drawn || !st.CloseAt.Equal(m.closeAt) || st.Root != m.root || st.Base != m.base || st.Rate != m.rate ||
		!st.Since.Equal(m.since) || st.Owner != m.terms.Owner || st.Payee != m.terms.Payee || st.Salt != m.terms.Salt ||
		st.CloseDelay != m.terms.CloseDelay || !bytes.Equal(st.Signer, m.terms.Signer) || st.Address != m.at {
		t.Fatalf("state %+v, want %+v", st, m)
	}
}

// op is an internal message.
type op struct {
	kind       string
	body       *cell.Cell
	amount     nanoton.Amount // of a push
	base, rate nanoton.Amount // of a limit
	since      time.Time
}

// exit is what the contract should end with.
func (m *model) exit(o op, byOwner bool, value nanoton.Amount) int32 {
	now := m.now()
	switch {
	case o.kind == "top-up":
		return 0
	case o.kind == "unknown":
		return exitUnknown
	case o.kind == "finish":
		if m.closeAt.IsZero() || !now.After(m.closeAt) {
			return exitEarly
		}
	case !byOwner:
		return exitOwner
	case o.kind == "close" && !m.closeAt.IsZero():
		return exitClosed
	case o.kind == "limit":
		// compared at many times, where the contract reckons with one
		for _, d := range []time.Duration{0, 1, 59, 3600, 86400, 30 * 86400} {
			for _, from := range []time.Time{now, m.since, o.since} {
				at := from.Add(d * time.Second)
				if at.Before(now) {
					continue
				}
				if m.limit(o.base, o.rate, o.since, at) < m.limit(m.base, m.rate, m.since, at) {
					return exitLow
				}
			}
		}
		if o.rate < m.rate { // it would be lower some day
			return exitLow
		}
	case o.kind == "pay" && (o.amount <= 0 || value < o.amount+m.costs.PushValue):
		return exitLow
	}
	return 0
}

// call sends an internal message to a deployed tab, and compares.
func (m *model) call(t testingT, from ton.Address, value nanoton.Amount, o op) int32 {
	t.Helper()
	want := m.exit(o, from == m.terms.Owner, value)
	before := m.balance(m.at)
	s := m.send(t, from, m.at, value, o.body)
	if s.exit != want {
		t.Fatalf("%s from %s with %v: exit %d, want %d", o.kind, from, value, s.exit, want)
	}
	if want != 0 { // the money goes back, and the tab pays nothing but its rent
		if got := m.balance(m.at); got != before-s.storage {
			t.Fatalf("%s refused with %d, balance %v, want %v", o.kind, want, got, before-s.storage)
		}
		if len(s.out) != 1 || s.out[0].To != from || s.out[0].Amount != s.in-(s.fees-s.storage) {
			t.Fatalf("%s refused with %d, sent %+v, of %v", o.kind, want, s.out, s.in)
		}
		m.compare(t)
		return want
	}
	var out []payment
	switch o.kind {
	case "close":
		m.closeAt = m.now().Add(m.terms.CloseDelay)
	case "finish":
		m.closeAt = time.Time{}
		out = m.rest(t, s, before+s.in-s.fees)
	case "limit":
		m.base, m.rate, m.since = o.base, o.rate, o.since
	case "pay":
		m.drawn += o.amount
		out = []payment{{m.terms.Payee, o.amount, false}}
		if s.fees-s.storage > m.costs.PushValue {
			t.Fatalf("a payment through the tab cost %v, which came with %v", s.fees, m.costs.PushValue)
		}
	}
	m.settled(t, s, before, out)
	return 0
}

// deposit is a transfer as people make it: it stays, whether there is a contract or not.
func (m *model) deposit(t testingT, value nanoton.Amount) {
	t.Helper()
	before := m.balance(m.at)
	m.fund(t, m.at, value, nil)
	s := m.last(t, m.at)
	if got := m.balance(m.at); got != before+value-s.fees || len(s.out) != 0 {
		t.Fatalf("paid in %v, balance from %v to %v, fees %v", value, before, got, s.fees)
	}
	m.compare(t)
}

// The bodies of messages.

func closeOp() op  { return op{kind: "close", body: CloseBody()} }
func finishOp() op { return op{kind: "finish", body: FinishBody()} }
func topUp() op    { return op{kind: "top-up"} }

func limitOp(base, rate nanoton.Amount, since time.Time) op {
	return op{kind: "limit", body: LimitBody(base, rate, since), base: base, rate: rate, since: since}
}

func payOp(a nanoton.Amount) op { return op{kind: "pay", body: PayBody(a), amount: a} }

func unknownOp(code uint64) op {
	return op{kind: "unknown", body: cell.BeginCell().MustStoreUInt(code, 32).MustStoreBigCoins(big.NewInt(5)).EndCell()}
}
