package tab

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/billing/ton"
	"cocoon/internal/nanoton"
)

// stages are the states that a tab can be in. Each is reached by the messages that lead there.
func stages(t *testing.T, c *chain) map[string]func(word string) *model {
	open := func(word string) *model {
		m := newModel(newParty(t, c, 1, word))
		m.deposit(t, 5*mega)
		m.bring(t, m.voucher(mega), m.sign(t, m.voucher(mega)), true)
		return m
	}
	closing := func(word string) *model {
		m := open(word)
		m.call(t, m.terms.Owner, mega/10, closeOp())
		return m
	}
	overdue := func(word string) *model {
		m := closing(word)
		m.wait(day + time.Second)
		return m
	}
	emptied := func(word string) *model {
		m := overdue(word)
		m.call(t, account("anybody"), mega/10, finishOp())
		if got := m.balance(m.at); got != m.costs.Reserve {
			t.Fatalf("%v left, want %v", got, m.costs.Reserve)
		}
		return m
	}
	return map[string]func(string) *model{
		"open": open, "closing": closing, "overdue": overdue, "emptied": emptied,
		"undeployed": func(word string) *model {
			m := newModel(newParty(t, c, 1, word))
			m.deposit(t, 5*mega)
			return m
		},
		"last second": func(word string) *model {
			m := closing(word)
			m.wait(day)
			return m
		},
		"reopened": func(word string) *model {
			m := emptied(word)
			m.deposit(t, 5*mega)
			return m
		},
		"below": func(word string) *model { // deployed by somebody, with less than the reserve
			m := newModel(newParty(t, c, 1, word))
			m.fund(t, m.at, m.costs.Reserve/2, m.init)
			m.deployed = true
			m.compare(t)
			return m
		},
	}
}

// Each message in each state, from each sender: what the contract ends with, for owner, payee, and a stranger. A dash is
// that no code runs. What the model checks beside it: the balance to the nanoTON, the state, and what was sent.
func TestMessages(t *testing.T) {
	c := newChain(t, today)
	columns := "undeployed open closing last_second overdue emptied reopened below"
	ops := []struct {
		name  string
		op    func(m *model) op
		value nanoton.Amount
		exits string
	}{
		{"top-up", func(*model) op { return topUp() }, mega, "-/-/- 0/0/0 0/0/0 0/0/0 0/0/0 0/0/0 0/0/0 0/0/0"},
		{
			"comment", func(*model) op { return bodyOp("top-up", 0, 32, "hello") }, mega,
			"-/-/- 0/0/0 0/0/0 0/0/0 0/0/0 0/0/0 0/0/0 0/0/0",
		},
		{
			"dust", func(*model) op { return topUp() }, mega / 10000,
			"-/-/- 0/0/0 0/0/0 0/0/0 0/0/0 0/0/0 0/0/0 0/0/0",
		},
		{"31 bits", func(*model) op { return bodyOp("top-up", 5, 31, "") }, mega, "-/-/- 0/0/0 0/0/0 0/0/0 0/0/0 0/0/0 0/0/0 0/0/0"},
		{"unknown", func(*model) op { return unknownOp(0x7ab50005) }, mega, "-/-/- u/u/u u/u/u u/u/u u/u/u u/u/u u/u/u u/u/u"},
		{
			"voucher's op", func(*model) op { return unknownOp(opSettle) }, mega,
			"-/-/- u/u/u u/u/u u/u/u u/u/u u/u/u u/u/u u/u/u",
		},
		{"notice", func(*model) op { return unknownOp(opPaid) }, mega, "-/-/- u/u/u u/u/u u/u/u u/u/u u/u/u u/u/u u/u/u"},
		{
			"close", func(*model) op { return closeOp() }, mega / 10,
			"-/-/- 0/106/106 104/106/106 104/106/106 104/106/106 0/106/106 0/106/106 0/106/106",
		},
		{
			"finish", func(*model) op { return finishOp() }, mega / 10,
			"-/-/- 107/107/107 107/107/107 107/107/107 0/0/0 107/107/107 107/107/107 107/107/107",
		},
		{
			"limit up", func(m *model) op { return limitOp(30*mega, 5, m.now()) }, mega / 10,
			"-/-/- 0/106/106 0/106/106 0/106/106 0/106/106 0/106/106 0/106/106 0/106/106",
		},
		{
			"limit down", func(m *model) op { return limitOp(19*mega, 5, m.now()) }, mega / 10,
			"-/-/- 108/106/106 108/106/106 108/106/106 108/106/106 108/106/106 108/106/106 108/106/106",
		},
		{
			"pay", func(*model) op { return payOp(mega) }, 2 * mega,
			"-/-/- 0/106/106 0/106/106 0/106/106 0/106/106 0/106/106 0/106/106 0/106/106",
		},
		{
			"pay, no fees", func(*model) op { return payOp(mega) }, mega,
			"-/-/- 108/106/106 108/106/106 108/106/106 108/106/106 108/106/106 108/106/106 108/106/106",
		},
		{
			"pay nothing", func(*model) op { return payOp(0) }, mega,
			"-/-/- 108/106/106 108/106/106 108/106/106 108/106/106 108/106/106 108/106/106 108/106/106",
		},
	}
	made := stages(t, c)
	for i, column := range strings.Fields(columns) {
		name := strings.ReplaceAll(column, "_", " ")
		var m *model // made anew when it was changed
		for _, o := range ops {
			for j, exit := range strings.Split(strings.Fields(o.exits)[i], "/") {
				who := []string{"owner", "payee", "stranger"}[j]
				if m == nil {
					m = made[name](o.name + name + who)
				}
				from := []ton.Address{m.terms.Owner, m.terms.Payee, account("stranger")}[j]
				message, got := o.op(m), "-"
				if m.deployed {
					got = strings.ReplaceAll(fmt.Sprint(m.call(t, from, o.value, message)), "65535", "u")
				} else if had := m.balance(m.at); m.send(t, from, m.at, o.value, message.body).exit != -1 ||
					m.balance(m.at) > had {
					t.Errorf("%s, undeployed: code ran, or kept a bounceable message's money", o.name)
				}
				if got != exit {
					t.Errorf("%s from %s to a tab that is %s: %s, want %s", o.name, who, name, got, exit)
				}
				if got == "0" {
					m = nil
				}
			}
		}
	}
}

// bodyOp is a body of so many bits, and a text.
func bodyOp(kind string, v uint64, bits uint, text string) op {
	return op{kind: kind, body: cell.BeginCell().MustStoreUInt(v, bits).MustStoreStringSnake(text).EndCell()}
}

// Each voucher in each state: what it draws, in milliTON, or a dash if it is refused. The model checks that nothing is
// paid for a refusal, and all else to the nanoTON.
func TestVouchers(t *testing.T) {
	c := newChain(t, today)
	columns := "undeployed open closing last_second overdue emptied reopened below"
	vouchers := []struct {
		name  string
		make  func(m *model) (Voucher, key)
		draws string
	}{
		{
			"1 TON more", func(m *model) (Voucher, key) { return m.voucher(m.drawn + mega), m.meter },
			"1000 1000 1000 1000 - - 1000 -",
		},
		{"replayed", func(m *model) (Voucher, key) { return m.voucher(max(m.drawn, 1)), m.meter }, "- - - - - - - -"},
		{"older", func(m *model) (Voucher, key) { return m.voucher(max(m.drawn-1, 1)), m.meter }, "- - - - - - - -"},
		{
			"just enough", func(m *model) (Voucher, key) { return m.voucher(m.drawn + m.costs.Least), m.meter },
			"11 11 11 11 - - 11 -",
		},
		{
			"dust", func(m *model) (Voucher, key) { return m.voucher(m.drawn + m.costs.Least - 1), m.meter },
			"- - - - - - - -",
		},
		{
			"wrong key", func(m *model) (Voucher, key) { return m.voucher(m.drawn + mega), newKey("mallory") },
			"- - - - - - - -",
		},
		{"now", func(m *model) (Voucher, key) {
			v := m.voucher(m.drawn + mega)
			v.ValidUntil = m.now()
			return v, m.meter
		}, "1000 1000 1000 1000 - - 1000 -"},
		{"expired", func(m *model) (Voucher, key) {
			v := m.voucher(m.drawn + mega)
			v.ValidUntil = m.now().Add(-time.Second)
			return v, m.meter
		}, "- - - - - - - -"},
		{"other tab", func(m *model) (Voucher, key) {
			v := m.voucher(m.drawn + mega)
			v.Tab.Hash[31] ^= 1
			return v, m.meter
		}, "- - - - - - - -"},
	}
	made := stages(t, c)
	for i, column := range strings.Fields(columns) {
		name := strings.ReplaceAll(column, "_", " ")
		var m *model // made anew when it was changed
		for _, o := range vouchers {
			if m == nil {
				m = made[name](o.name + name)
			}
			drawn, got := m.drawn, "-"
			v, signer := o.make(m)
			body, err := Sign(t.Context(), signer, v)
			if err != nil {
				t.Fatal(err)
			}
			used := m
			if m.bring(t, v, body, signer.Equal(m.meter.PrivateKey)) {
				got = fmt.Sprint(int64(m.drawn-drawn) / 1e6)
				m = nil
			}
			if got != "-" && used.bring(t, v, body, true) {
				t.Errorf("%s to a tab that is %s: taken twice", o.name, name)
			}
			if want := strings.Fields(o.draws)[i]; got != want {
				t.Errorf("%s to a tab that is %s: drew %s, want %s", o.name, name, got, want)
			}
		}
	}
}
