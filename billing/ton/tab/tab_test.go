package tab

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/big"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/billing/ton"
	"cocoon/internal/nanoton"
)

// party is a tab with those who use it.
type party struct {
	*chain
	terms Terms
	init  *tlb.StateInit
	at    ton.Address
	meter key
	costs Costs
}

// newParty makes the terms of a tab; each salt has other ones, and other accounts.
func newParty(t testingT, c *chain, salt uint64, word string) *party {
	t.Helper()
	p := &party{chain: c, meter: newKey("meter"), costs: CostsAt(c.prices)}
	p.terms = Terms{
		Owner: account("owner " + word), Payee: account("payee " + word), Signer: p.meter.Public(), Salt: salt,
		CloseDelay: day, Base: 20 * mega,
	}
	p.seal(t)
	return p
}

// seal computes what follows from the terms.
func (p *party) seal(t testingT) {
	t.Helper()
	var err error
	if p.init, err = p.terms.Init(); err != nil {
		t.Fatal(err)
	}
	if p.at, err = p.terms.Address(); err != nil {
		t.Fatal(err)
	}
}

// voucher is a plain one for this tab.
func (p *party) voucher(cumulative nanoton.Amount) Voucher {
	root := [32]byte{byte(cumulative), byte(cumulative / mega)}
	return Voucher{Tab: p.at, ValidUntil: p.now().Add(time.Hour), Cumulative: cumulative, Root: root}
}

func (p *party) sign(t testingT, v Voucher) []byte {
	t.Helper()
	body, err := Sign(context.Background(), p.meter, v)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// draw brings a voucher that must be accepted, and returns what it did.
func (p *party) draw(t testingT, v Voucher) step {
	t.Helper()
	if !p.bring(t, p.at, p.init, p.sign(t, v)) {
		t.Fatalf("not accepted: %+v", v)
	}
	s := p.last(t, p.at)
	if s.exit != 0 || s.action != 0 {
		t.Fatalf("accepted, and failed with %d, actions %d: %+v", s.exit, s.action, v)
	}
	return s
}

// refuse brings a voucher that must not be accepted, and costs nothing.
func (p *party) refuse(t testingT, what string, body []byte) {
	t.Helper()
	before := p.balance(p.at)
	if p.bring(t, p.at, p.init, body) {
		t.Fatalf("%s: accepted", what)
	}
	if after := p.balance(p.at); after != before {
		t.Fatalf("%s: refused, but the balance went from %v to %v", what, before, after)
	}
}

// A voucher above what the tab holds is paid as far as it goes. The rest stays due: the same voucher, or a newer one, is
// paid from the next deposit.
func TestInsolvent(t *testing.T) {
	c := newChain(t, today)
	p := newParty(t, c, 1, "app")
	p.fund(t, p.at, 2*mega, nil)
	v := p.voucher(5 * mega)
	paid := p.draw(t, v).out[0].Amount
	if paid >= 2*mega || paid < 2*mega-2*p.costs.Reserve || p.balance(p.at) < p.costs.Reserve-p.costs.Draw {
		t.Fatalf("paid %v, left %v of 2 TON", paid, p.balance(p.at))
	}
	p.refuse(t, "nothing left", p.sign(t, v))
	p.fund(t, p.at, mega, nil)
	paid += p.draw(t, v).out[0].Amount
	if st := p.tab(t, p.at); st.Drawn != paid || paid >= 3*mega {
		t.Fatalf("drawn %v, paid %v", st.Drawn, paid)
	}
	p.fund(t, p.at, 10*mega, nil)
	paid += p.draw(t, p.voucher(6*mega)).out[0].Amount
	if paid != 6*mega || p.balance(p.terms.Payee) != 6*mega {
		t.Fatalf("paid %v in all, and the payee has %v", paid, p.balance(p.terms.Payee))
	}
}

// Limits as large as the contract can store, or counted from the end of time: no overflow, and nothing that fails after it
// was accepted.
func TestLimits(t *testing.T) {
	c := newChain(t, today)
	for i, l := range []struct {
		base, rate nanoton.Amount
		since      time.Time
		draws      nanoton.Amount
	}{
		{math.MaxInt64, math.MaxInt64, time.Unix(1, 0), 5 * mega},
		{math.MaxInt64, math.MaxInt64, time.Unix(math.MaxUint32, 0), 5 * mega},
		{0, math.MaxInt64, time.Unix(math.MaxUint32, 0), 0},
		{0, 0, time.Time{}, 0},
		{2 * mega, 0, time.Time{}, 2 * mega},
		{mega, mega / 2, c.now().Add(-4 * time.Second), 3 * mega},
		{mega, mega / 2, c.now().Add(4 * time.Second), mega},
		{0, 1, time.Unix(1, 0), nanoton.Amount(c.now().Unix() - 1)},
	} {
		p := newParty(t, c, uint64(i), "limits")
		p.terms.Base, p.terms.Rate, p.terms.Since = l.base, l.rate, l.since
		p.seal(t)
		p.fund(t, p.at, 6*mega, nil)
		v := p.voucher(5 * mega)
		if l.draws == 0 {
			p.refuse(t, "above the limit", p.sign(t, v))
			continue
		}
		if got := p.draw(t, v).out[0].Amount; got != l.draws {
			t.Errorf("limit %v + %v since %v: drew %v, want %v", l.base, l.rate, l.since, got, l.draws)
		}
		st := p.tab(t, p.at)
		if st.Payable(5*mega, mega, p.now()) != 0 || st.LimitAt(p.now()) < st.Drawn || st.Base != l.base {
			t.Errorf("limit %v + %v since %v: state %+v", l.base, l.rate, l.since, st)
		}
	}
	// the owner can write more than an Amount holds; it is read as MaxInt64
	p := newParty(t, c, 99, "huge")
	p.fund(t, p.at, mega, p.init)
	most := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 120), big.NewInt(1))
	body := cell.BeginCell().MustStoreUInt(opLimit, 32).MustStoreBigCoins(most).MustStoreBigCoins(most).
		MustStoreUInt(5, 32).EndCell()
	if s := p.send(t, p.terms.Owner, p.at, mega, body); s.exit != 0 {
		t.Fatalf("exit %d", s.exit)
	}
	if st := p.tab(t, p.at); st.Base != math.MaxInt64 || st.Rate != math.MaxInt64 || st.LimitAt(p.now()) != math.MaxInt64 {
		t.Errorf("read as %+v", st)
	}
	if got := p.draw(t, p.voucher(mega)).out[0].Amount; got != mega {
		t.Errorf("drew %v", got)
	}
}

// The owner cannot lower the limit by counting it from later.
func TestLimitCountedLater(t *testing.T) {
	c := newChain(t, today)
	p := newParty(t, c, 1, "app")
	p.terms.Base, p.terms.Rate, p.terms.Since = 0, mega/1000, c.now()
	p.seal(t)
	p.fund(t, p.at, mega, p.init)
	// as high now, and as steep; but flat for an hour
	if s := p.send(t, p.terms.Owner, p.at, mega, LimitBody(0, mega/1000, c.now().Add(time.Hour))); s.exit != exitLow {
		t.Errorf("exit %d", s.exit)
	}
	// higher for years, but not as steep
	if s := p.send(t, p.terms.Owner, p.at, mega, LimitBody(1000*mega, mega/1000-1, c.now())); s.exit != exitLow {
		t.Errorf("exit %d", s.exit)
	}
	if s := p.send(t, p.terms.Owner, p.at, mega, LimitBody(4*mega, mega/1000, c.now().Add(time.Hour))); s.exit != 0 {
		t.Errorf("a limit that is higher at all times: exit %d", s.exit)
	}
}

// What anyone who sees a voucher can wrap it in: it must not cost the tab more than a draw with a deployment.
func TestWrapped(t *testing.T) {
	c := newChain(t, today)
	p := newParty(t, c, 1, "app")
	p.fund(t, p.at, 5*mega, nil)
	p.draw(t, p.voucher(mega))
	body := p.sign(t, p.voucher(2*mega))
	root, err := cell.FromBOC(body)
	if err != nil {
		t.Fatal(err)
	}
	junk := cell.BeginCell().EndCell()
	for i := range 400 {
		junk = cell.BeginCell().MustStoreUInt(uint64(i), 64).MustStoreSlice(make([]byte, 100), 800).MustStoreRef(junk).EndCell()
	}
	before := p.balance(p.at)
	for what, m := range map[string]*tlb.ExternalMessage{
		"with another state":     {StateInit: &tlb.StateInit{Code: junk, Data: junk}, Body: root},
		"with more behind":       {Body: root.ToBuilder().MustStoreRef(junk).EndCell()},
		"with a bit more behind": {Body: root.ToBuilder().MustStoreBoolBit(true).EndCell()},
		"empty":                  {Body: cell.BeginCell().EndCell()},
		"of the signature alone": {Body: cell.BeginCell().MustStoreSlice(make([]byte, 64), 512).EndCell()},
		"with junk for a voucher": {
			Body: cell.BeginCell().MustStoreSlice(make([]byte, 64), 512).MustStoreRef(junk).EndCell(),
		},
	} {
		m.DstAddr = p.at.Std()
		packed, err := tlb.ToCell(m)
		if err != nil {
			t.Fatal(err)
		}
		if p.n.SendExternal(packed.ToBOC()) == nil {
			t.Errorf("a voucher %s was accepted", what)
		}
		p.mine(t)
	}
	if after := p.balance(p.at); after != before {
		t.Errorf("balance from %v to %v", before, after)
	}
	// the tab's own state is the one thing that can be added
	if !p.bring(t, p.at, p.init, body) {
		t.Fatal("not accepted")
	}
	if cost := p.last(t, p.at).fees; cost > p.costs.Deploy {
		t.Errorf("cost %v, more than %v", cost, p.costs.Deploy)
	}
}

// A tab with the same terms in the masterchain, where fees are others, can be deployed by anybody, and takes no voucher.
func TestMasterchain(t *testing.T) {
	c := newChain(t, today)
	p := newParty(t, c, 1, "app")
	twin := ton.Address{Workchain: -1, Hash: p.at.Hash}
	p.fund(t, twin, 5*mega, p.init)
	for _, a := range []ton.Address{p.at, twin} {
		v := p.voucher(mega)
		v.Tab = a
		if a == twin {
			if _, err := Sign(t.Context(), p.meter, v); !errors.Is(err, ErrVoucher) {
				t.Errorf("signed for the masterchain: %v", err)
			}
			continue
		}
		before := c.balance(twin)
		if p.bring(t, twin, nil, p.sign(t, v)) || c.balance(twin) != before {
			t.Error("the masterchain's twin took a voucher")
		}
	}
}

// An end that leaves the owner nothing, or not what a message costs, to the nanoTON: its actions must not fail, or the tab
// would stay closed.
func TestFinishWithNothingLeft(t *testing.T) {
	for _, config := range []string{today, before} {
		c := newChain(t, config)
		// a tab that was drawn empty is closed, and finished with a message of some value
		finished := func(word string, value func(had nanoton.Amount) nanoton.Amount) (spent nanoton.Amount, sent int) {
			m := newModel(newParty(t, c, 1, word))
			m.deposit(t, 5*mega)
			if v := m.voucher(6 * mega); !m.bring(t, v, m.sign(t, v), true) {
				t.Fatal("not accepted")
			}
			m.call(t, m.terms.Owner, c.prices.Gas(3000), closeOp())
			m.wait(day + time.Second)
			had := m.balance(m.at)
			came := value(had)
			m.call(t, account("anybody"), came, finishOp())
			s := m.last(t, m.at)
			if got := m.balance(m.at); got > m.costs.Reserve+c.prices.Forward(0, 0) {
				t.Errorf("%v left", got)
			}
			return s.fees, len(s.out)
		}
		costs := CostsAt(c.prices)
		spent, _ := finished("probe", func(nanoton.Amount) nanoton.Amount { return c.prices.Gas(messageGas) })
		lump := c.prices.Forward(0, 0)
		for left, want := range map[nanoton.Amount]int{-1: 0, 0: 0, 1: 0, lump - 1: 0, 2 * lump: 1} {
			_, sent := finished(fmt.Sprint("left ", left), func(had nanoton.Amount) nanoton.Amount {
				return costs.Reserve + left + spent - had
			})
			if sent != want {
				t.Errorf("with %v left, %d messages were sent", left, sent)
			}
		}
	}
}

// What the signer signs in any other form is no voucher; so it is with the one that once had a refund and a close.
func TestSignedOtherwise(t *testing.T) {
	c := newChain(t, today)
	p := newParty(t, c, 1, "app")
	p.fund(t, p.at, 5*mega, p.init)
	v := p.voucher(mega)
	for what, signed := range map[string]*cell.Cell{
		"refund":      formerly(v, mega, false),
		"close":       formerly(v, 0, true),
		"neither":     formerly(v, 0, false),
		"a bit more":  v.cell().ToBuilder().MustStoreBoolBit(true).EndCell(),
		"a reference": v.cell().ToBuilder().MustStoreRef(v.cell()).EndCell(),
		"another op":  cell.BeginCell().MustStoreUInt(opSettle+1, 32).MustStoreBuilder(tail(t, v.cell(), 32)).EndCell(),
		"nothing":     cell.BeginCell().EndCell(),
	} {
		if p.bring(t, p.at, nil, p.envelope(t, signed)) {
			t.Errorf("%s: accepted", what)
		}
	}
	if s := p.last(t, p.at); len(s.out) != 0 || p.balance(p.terms.Owner) != 0 {
		t.Errorf("sent %+v", s.out)
	}
	if !p.bring(t, p.at, nil, p.envelope(t, v.cell())) {
		t.Error("a good one was refused")
	}
}

// formerly is a voucher in the form that had a refund and a close.
func formerly(v Voucher, refund nanoton.Amount, last bool) *cell.Cell {
	return cell.BeginCell().MustStoreUInt(opSettle, 32).MustStoreAddr(v.Tab.Std()).
		MustStoreUInt(uint64(stamp(v.ValidUntil)), 32).
		MustStoreBigCoins(big.NewInt(int64(v.Cumulative))).MustStoreBigCoins(big.NewInt(int64(refund))).
		MustStoreBoolBit(last).MustStoreSlice(v.Root[:], 256).EndCell()
}

// tail is what follows a cell's first bits.
func tail(t testingT, c *cell.Cell, bits uint) *cell.Builder {
	t.Helper()
	s, err := c.BeginParse()
	if err == nil {
		_, err = s.LoadSlice(bits)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s.ToBuilder()
}

// envelope signs any cell as vouchers are signed.
func (p *party) envelope(t testingT, c *cell.Cell) []byte {
	t.Helper()
	signature, err := p.meter.Sign(context.Background(), c.Hash())
	if err != nil {
		t.Fatal(err)
	}
	return cell.BeginCell().MustStoreSlice(signature, 512).MustStoreRef(c).EndCell().ToBOC()
}
