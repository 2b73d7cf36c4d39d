package tab

import (
	"fmt"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"
	"pgregory.net/rapid"

	"cocoon/billing/ton"
	"cocoon/internal/nanoton"
)

// The promise of a worker's tab, where owner and signer are one: whatever they send and sign, no money comes to the owner
// until the close delay has passed since he closed it; and until then the payee is paid what his newest voucher says, as far
// as the tab holds it. It is stated with what was sent and seen alone: the contract's state is not asked.
func TestPromise(t *testing.T) {
	t.Parallel() // with the other random one
	chains := map[bool]*chain{false: newChain(t, today), true: newChainOf(t, dearer(t, configBOC(t, today), 30))}
	runs := 0
	var seen struct{ claims, nothing, ends int }
	rapid.Check(t, func(t *rapid.T) {
		runs++
		p := newPledge(t, chains[rapid.Bool().Draw(t, "dear")], fmt.Sprint("pledge ", runs))
		t.Repeat(p.moves())
		p.end(t)
		seen.claims, seen.nothing, seen.ends = seen.claims+p.claims, seen.nothing+p.nothing, seen.ends+p.ends
	})
	t.Logf("in %d runs: %+v", runs, seen)
	if !t.Failed() && runs >= 100 && (seen.claims < runs/2 || seen.nothing == 0 || seen.ends < runs/2) {
		t.Error("too little happened")
	}
}

// pledge is a worker's tab, and what its payee and everybody else sees of it.
type pledge struct {
	*party
	drawn  nanoton.Amount // all that the payee got
	closed time.Time      // when the owner closed it; zero: not since it was finished
	newest Voucher        // that the payee has
	bodies [][]byte       // all that was ever signed

	claims, nothing, ends int // what happened in a run
}

func newPledge(t *rapid.T, c *chain, word string) *pledge {
	p := &pledge{party: newParty(t, c, 1, word)}
	p.terms.CloseDelay = time.Duration(rapid.SampledFrom([]int{1, 3600, 86400}).Draw(t, "close delay")) * time.Second
	p.terms.Base = 1 << 62 // no limit
	p.seal(t)
	p.fund(t, p.at, money(t, "collateral")+p.costs.Reserve, p.init)
	p.promise(t)
	return p
}

func (p *pledge) moves() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"collateral": func(t *rapid.T) { p.fund(t, p.at, money(t, "collateral"), nil) },
		"promise":    p.promise,
		"claim":      p.claim,
		"end":        p.end,
		"wait": func(t *rapid.T) {
			p.wait(time.Duration(rapid.SampledFrom([]int{1, 59, 3600, 86400}).Draw(t, "seconds")) * time.Second)
			p.mine(t)
		},
		// what owner and signer do against the promise
		"close":           func(t *rapid.T) { p.call(t, p.terms.Owner, mega/10, CloseBody()) },
		"close again":     func(t *rapid.T) { p.call(t, p.terms.Owner, mega/10, CloseBody()) },
		"finish":          func(t *rapid.T) { p.call(t, p.terms.Owner, mega/10, FinishBody()) },
		"somebody's":      func(t *rapid.T) { p.call(t, account("x"), mega/10, FinishBody()) },
		"voucher":         p.against,
		"another voucher": p.against,
		"replay": func(t *rapid.T) {
			p.carry(t, rapid.SampledFrom(p.bodies).Draw(t, "body"), p.init)
		},
		"limit": func(t *rapid.T) {
			since := p.now().Add(time.Duration(rapid.IntRange(-5000, 5000).Draw(t, "since")) * time.Second)
			base := rapid.SampledFrom([]nanoton.Amount{0, 1, mega, 1<<62 - 1, 1 << 62, 1<<63 - 1}).Draw(t, "base")
			p.call(t, p.terms.Owner, mega/10, LimitBody(base, rapid.SampledFrom([]nanoton.Amount{0, 1, mega}).Draw(t, "rate"), since))
		},
		"push": func(t *rapid.T) {
			a := money(t, "amount")
			p.call(t, p.terms.Owner, a+rapid.SampledFrom([]nanoton.Amount{0, 1, p.costs.PushValue, mega}).Draw(t, "more"), PayBody(a))
		},
		"dust": func(t *rapid.T) {
			body := rapid.SampledFrom([]*cell.Cell{nil, CloseBody(), FinishBody(), PayBody(1)}).Draw(t, "body")
			p.call(t, p.terms.Owner, nanoton.Amount(rapid.IntRange(0, 1e7).Draw(t, "value")), body)
		},
		"unknown": func(t *rapid.T) {
			op := rapid.SampledFrom([]uint64{1, opSettle, opPaid, opRefunded, opPay + 1}).Draw(t, "op")
			p.call(t, p.terms.Owner, mega/10, cell.BeginCell().MustStoreUInt(op, 32).MustStoreSlice(make([]byte, 40), 320).EndCell())
		},
	}
}

// promise gives the payee a voucher as an honest signer does: it says no less than the one before.
func (p *pledge) promise(t *rapid.T) {
	v := p.voucher(max(p.newest.Cumulative, p.drawn) + money(t, "earned"))
	v.ValidUntil = p.now().Add(400 * day)
	p.newest = v
	p.bodies = append(p.bodies, p.sign(t, v))
}

// against signs what may harm the payee, and brings it.
func (p *pledge) against(t *rapid.T) {
	more := rapid.SampledFrom([]nanoton.Amount{-mega, -1, 0, 1, p.costs.Least - 1, p.costs.Least, mega}).Draw(t, "more")
	v := p.voucher(max(rapid.SampledFrom([]nanoton.Amount{p.drawn, p.newest.Cumulative}).Draw(t, "than")+more, 1))
	v.ValidUntil = p.now().Add(time.Duration(rapid.SampledFrom([]int{-1, 0, 3600, 1e7}).Draw(t, "valid")) * time.Second)
	signed := v.cell()
	switch rapid.IntRange(0, 5).Draw(t, "form") {
	case 0:
		signed = formerly(v, money(t, "refund"), false)
	case 1:
		signed = formerly(v, 0, true)
	case 2:
		signed = signed.ToBuilder().MustStoreUInt(rapid.Uint64().Draw(t, "junk"), 64).EndCell()
	}
	body := p.envelope(t, signed)
	p.bodies = append(p.bodies, body)
	p.carry(t, body, nil)
}

// end is the last moment of the promise: the owner closes, if he has not, the payee claims in the last second, and the owner
// is paid in the next one.
func (p *pledge) end(t *rapid.T) {
	p.promise(t)
	if p.closed.IsZero() {
		p.call(t, p.terms.Owner, mega/10, CloseBody())
	}
	last := p.closed.Add(p.terms.CloseDelay)
	if !p.now().After(last) {
		p.wait(last.Sub(p.now()))
		p.mine(t)
		p.call(t, account("x"), mega/10, FinishBody())
		p.claim(t)
		p.wait(time.Second)
		p.mine(t)
	}
	before := p.balance(p.terms.Owner)
	p.call(t, account("x"), mega/10, FinishBody())
	if p.balance(p.terms.Owner) == before || !p.closed.IsZero() {
		t.Fatal("the owner can't end it")
	}
	p.ends++
}

// claim is the payee's: what his newest voucher says, as far as the tab holds it above the reserve. Less than the least draw
// stays where it is.
func (p *pledge) claim(t *rapid.T) {
	if !p.closed.IsZero() && p.now().After(p.closed.Add(p.terms.CloseDelay)) || p.now().After(p.newest.ValidUntil) {
		return
	}
	body := p.sign(t, p.newest)
	root, err := cell.FromBOC(body)
	if err != nil {
		t.Fatal(err)
	}
	message, err := tlb.ToCell(&tlb.ExternalMessage{DstAddr: p.at.Std(), Body: root})
	if err != nil {
		t.Fatal(err)
	}
	due := min(p.newest.Cumulative-p.drawn, p.free(t, message))
	drawn := p.drawn
	accepted := p.carry(t, body, nil)
	switch {
	case accepted != (due >= p.costs.Least):
		t.Fatalf("%v are due to the payee, paid: %v", due, accepted)
	case accepted && p.drawn-drawn != due:
		t.Fatalf("the payee got %v of %v", p.drawn-drawn, due)
	case accepted:
		p.claims++
	default:
		p.nothing++
	}
}

// carry brings something signed to the tab, and looks at what came of it.
func (p *pledge) carry(t *rapid.T, body []byte, init *tlb.StateInit) bool {
	before := p.balance(p.at)
	if !p.bring(t, p.at, init, body) {
		if p.balance(p.at) != before {
			t.Fatalf("refused, and the balance went from %v to %v", before, p.balance(p.at))
		}
		return false
	}
	s := p.last(t, p.at)
	if len(s.out) != 1 || s.out[0].To != p.terms.Payee || s.exit != 0 || s.action != 0 {
		t.Fatalf("something signed made the tab send %+v", s.out)
	}
	if cost := s.fees - s.storage; cost > s.out[0].Amount/drawPart {
		t.Fatalf("a draw of %v cost %v", s.out[0].Amount, cost)
	}
	p.drawn += s.out[0].Amount
	return true
}

// call sends the tab an internal message, and looks at what came of it.
func (p *pledge) call(t *rapid.T, from ton.Address, value nanoton.Amount, body *cell.Cell) {
	before := p.balance(p.at)
	s := p.send(t, from, p.at, value, body)
	is := func(c *cell.Cell) bool { return body != nil && s.exit == 0 && string(body.Hash()) == string(c.Hash()) }
	finished := is(FinishBody())
	if finished && (p.closed.IsZero() || !p.now().After(p.closed.Add(p.terms.CloseDelay))) {
		t.Fatalf("finished at %v, closed at %v", p.now(), p.closed)
	}
	for _, m := range s.out {
		switch {
		case m.Bounced: // what came goes back
			if m.To != from || m.Amount > value {
				t.Fatalf("%v of %v bounced", m.Amount, value)
			}
		case m.To == p.terms.Payee:
			p.drawn += m.Amount
		case m.To != p.terms.Owner || !finished:
			t.Fatalf("%v sent to %s at %v, closed at %v", m.Amount, m.To, p.now(), p.closed)
		}
	}
	switch {
	case finished:
		p.closed = time.Time{}
	case p.balance(p.at) < before-s.storage: // else the owner could burn what is the payee's
		t.Fatalf("a message with %v took the balance from %v to %v", value, before, p.balance(p.at))
	case is(CloseBody()):
		p.closed = p.now()
	}
}
