package tab

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cocoon/billing/ton"
	"cocoon/internal/nanoton"
)

// Whatever comes in whatever order: the contract does what the model does, to the nanoTON, after each message. So it is on a
// network whose gas and messages cost thirty times as much.
func TestRandomSchedules(t *testing.T) {
	t.Parallel() // with the other random one
	chains := map[bool]*chain{false: newChain(t, today), true: newChainOf(t, dearer(t, configBOC(t, today), 30))}
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		schedule(t, chains[rapid.Bool().Draw(t, "dear")], fmt.Sprint("run ", runs))
	})
}

// signed is a voucher of the past.
type signed struct {
	v    Voucher
	body []byte
	good bool
}

func schedule(t *rapid.T, c *chain, word string) {
	p := newParty(t, c, uint64(rapid.IntRange(0, 1).Draw(t, "salt")), word)
	p.terms.CloseDelay = time.Duration(rapid.SampledFrom([]int{1, 3600, 86400}).Draw(t, "close delay")) * time.Second
	p.terms.Base = money(t, "base")
	p.terms.Rate = nanoton.Amount(rapid.SampledFrom([]int{0, 1, 1e6, 1e9}).Draw(t, "rate"))
	p.terms.Since = p.now().Add(time.Duration(rapid.IntRange(-5000, 5000).Draw(t, "since")) * time.Second)
	p.seal(t)
	m := newModel(p)
	m.deposit(t, money(t, "first deposit"))
	var past []signed
	who := func() ton.Address {
		o := m.terms.Owner
		return rapid.SampledFrom([]ton.Address{o, o, o, m.terms.Payee, account("x")}).Draw(t, "from")
	}
	call := func(from ton.Address, value nanoton.Amount, o op) {
		if m.deployed {
			m.call(t, from, value, o)
		}
	}
	t.Repeat(map[string]func(*rapid.T){
		"deposit": func(t *rapid.T) { m.deposit(t, money(t, "deposit")) },
		"deploy": func(t *rapid.T) {
			if !m.deployed {
				m.fund(t, m.at, 10*mega/1000, m.init)
				m.deployed = true
				m.compare(t)
			}
		},
		"draw":       func(t *rapid.T) { past = append(past, m.random(t)) },
		"draw again": func(t *rapid.T) { past = append(past, m.random(t)) },
		"replay": func(t *rapid.T) {
			if len(past) > 0 {
				s := rapid.SampledFrom(past).Draw(t, "old voucher")
				m.bring(t, s.v, s.body, s.good)
			}
		},
		"wait": func(t *rapid.T) {
			m.wait(time.Duration(rapid.SampledFrom([]int{1, 59, 3600, 3601, 86400}).Draw(t, "seconds")) * time.Second)
			m.mine(t)
		},
		"close": func(t *rapid.T) { call(who(), mega/10, closeOp()) },
		"finish": func(t *rapid.T) {
			call(who(), m.costs.Call+rapid.SampledFrom([]nanoton.Amount{0, 1, mega / 10}).Draw(t, "value"), finishOp())
		},
		"finish at the end": func(t *rapid.T) {
			if !m.closeAt.IsZero() {
				m.wait(max(m.closeAt.Sub(m.now()), 0) + time.Duration(rapid.IntRange(0, 1).Draw(t, "late"))*time.Second)
				call(who(), mega/10, finishOp())
			}
		},
		"limit": func(t *rapid.T) {
			since := m.now().Add(time.Duration(rapid.IntRange(-5000, 5000).Draw(t, "since")) * time.Second)
			base := max(m.base+money(t, "base")-mega, 0)
			rate := max(m.rate+nanoton.Amount(rapid.IntRange(-1, 2).Draw(t, "rate")), 0)
			call(who(), mega/10, limitOp(base, rate, since))
		},
		"push": func(t *rapid.T) {
			a := money(t, "amount")
			call(who(), a+m.costs.PushValue+nanoton.Amount(rapid.IntRange(-1, 1).Draw(t, "more")), payOp(a))
		},
		"unknown": func(t *rapid.T) {
			call(who(), mega, unknownOp(uint64(rapid.Uint32Range(1, 100).Draw(t, "op"))))
		},
	})
}

// random signs a voucher, good or not, and brings it.
func (m *model) random(t *rapid.T) signed {
	due := rapid.SampledFrom([]nanoton.Amount{1, -1, 0, 1, m.costs.Least - 1, m.costs.Least, mega}).Draw(t, "due")
	if rapid.Bool().Draw(t, "much") {
		due += money(t, "more")
	}
	s := signed{v: m.voucher(max(m.drawn+due, 1)), good: true}
	valid := rapid.SampledFrom([]int{-1, 0, 3600, 86400, 864000}).Draw(t, "valid")
	s.v.ValidUntil = m.now().Add(time.Duration(valid) * time.Second)
	signer := m.meter
	switch rapid.IntRange(0, 15).Draw(t, "forged") {
	case 0:
		signer, s.good = newKey("mallory"), false
	case 1:
		s.v.Tab, s.good = account("another tab"), false
	}
	var err error
	if s.body, err = Sign(context.Background(), signer, s.v); err != nil {
		t.Fatal(err)
	}
	m.bring(t, s.v, s.body, s.good)
	return s
}

// money is an amount of some size, all sizes alike.
func money(t *rapid.T, label string) nanoton.Amount {
	a := nanoton.Amount(rapid.IntRange(1, 9).Draw(t, label))
	for range rapid.IntRange(6, 11).Draw(t, label+" size") {
		a *= 10
	}
	return a
}
