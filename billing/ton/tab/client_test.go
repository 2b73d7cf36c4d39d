package tab

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/billing/ton"
	"cocoon/internal/nanoton"
)

// goodTerms are ones that a tab may have.
func goodTerms() Terms {
	return Terms{
		Owner: account("owner"), Payee: account("payee"), Signer: newKey("meter").Public(), Salt: math.MaxUint64,
		CloseDelay: day, Base: 3 * mega, Rate: 5, Since: time.Unix(1_790_000_000, 0).UTC(),
	}
}

// The address is fixed: money is on its way to it.
func TestAddress(t *testing.T) {
	a, err := goodTerms().Address()
	if err != nil {
		t.Fatal(err)
	}
	if want := "UQA8XJY1fPKBmDWax1MJ57IWpyz2BV7wkpqNsWUwLt8572Ea"; a.String() != want {
		t.Errorf("address %s, want %s: the contract or its first state changed", a, want)
	}
}

func TestTermsRefused(t *testing.T) {
	for what, change := range map[string]func(*Terms){
		"no owner":           func(t *Terms) { t.Owner = ton.Address{} },
		"no payee":           func(t *Terms) { t.Payee = ton.Address{} },
		"masterchain owner":  func(t *Terms) { t.Owner.Workchain = -1 },
		"masterchain payee":  func(t *Terms) { t.Payee.Workchain = -1 },
		"no signer":          func(t *Terms) { t.Signer = nil },
		"zero signer":        func(t *Terms) { t.Signer = make(ed25519.PublicKey, 32) },
		"no delay":           func(t *Terms) { t.CloseDelay = 0 },
		"half a second":      func(t *Terms) { t.CloseDelay = 1500 * time.Millisecond },
		"two years":          func(t *Terms) { t.CloseDelay = 2 * CloseDelayMax },
		"negative base":      func(t *Terms) { t.Base = -1 },
		"negative rate":      func(t *Terms) { t.Rate = -1 },
		"before time":        func(t *Terms) { t.Since = time.Unix(-1, 0) },
		"after time":         func(t *Terms) { t.Since = time.Unix(1<<32, 0) },
		"part of a second":   func(t *Terms) { t.Since = time.Unix(5, 5) },
		"the epoch's moment": func(t *Terms) { t.Since = time.Unix(0, 0) },
		"rate since never":   func(t *Terms) { t.Since = time.Time{} },
	} {
		terms := goodTerms()
		change(&terms)
		_, err1 := terms.Init()
		_, err2 := terms.Address()
		_, err3 := NewKit(terms)
		_, err4 := Message(terms, false, nil)
		for _, err := range []error{err1, err2, err3, err4} {
			if !errors.Is(err, ErrTerms) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
}

func TestLimitAt(t *testing.T) {
	since := time.Unix(1000, 0)
	for _, c := range []struct {
		base, rate nanoton.Amount
		at         int64
		want       nanoton.Amount
	}{
		{5, 3, 900, 5},
		{5, 3, 1000, 5},
		{5, 3, 1002, 11},
		{math.MaxInt64, 1, 1001, math.MaxInt64},
		{0, math.MaxInt64, 1002, math.MaxInt64},
		{1, math.MaxInt64 / 2, 1002, math.MaxInt64},
	} {
		if got := (Terms{Base: c.base, Rate: c.rate, Since: since}).LimitAt(time.Unix(c.at, 0)); got != c.want {
			t.Errorf("%v + %v at %d: %d, want %d", c.base, c.rate, c.at, got, c.want)
		}
	}
}

func TestVoucher(t *testing.T) {
	meter := newKey("meter")
	good := Voucher{
		Tab: account("tab"), ValidUntil: time.Unix(1_790_000_000, 0).UTC(), Cumulative: math.MaxInt64, Root: [32]byte{1, 2},
	}
	small := good
	small.Cumulative, small.Root = 1, [32]byte{}
	for _, v := range []Voucher{good, small} {
		body, err := Sign(t.Context(), meter, v)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseVoucher(body, meter.Public())
		if err != nil || got != v {
			t.Errorf("%+v, %v, want %+v", got, err, v)
		}
		if _, err := ParseVoucher(body, newKey("mallory").Public()); !errors.Is(err, ErrVoucher) {
			t.Errorf("wrong key: %v", err)
		}
		if _, err := ParseVoucher(body, nil); !errors.Is(err, ErrVoucher) {
			t.Errorf("no key: %v", err)
		}
		for i := range body { // no byte can be changed: what is not in a hash is in the frame
			bad := bytes.Clone(body)
			bad[i] ^= 1
			if got, err := ParseVoucher(bad, meter.Public()); err == nil && got != v {
				t.Errorf("byte %d changed: read as %+v", i, got)
			}
		}
	}
	for what, change := range map[string]func(*Voucher){
		"no tab":           func(v *Voucher) { v.Tab = ton.Address{} },
		"masterchain":      func(v *Voucher) { v.Tab.Workchain = -1 },
		"no time":          func(v *Voucher) { v.ValidUntil = time.Time{} },
		"after time":       func(v *Voucher) { v.ValidUntil = time.Unix(1<<32, 0) },
		"part of a second": func(v *Voucher) { v.ValidUntil = time.Unix(5, 5) },
		"nothing":          func(v *Voucher) { v.Cumulative = 0 },
		"negative":         func(v *Voucher) { v.Cumulative = -1 },
	} {
		v := good
		change(&v)
		if _, err := Sign(t.Context(), meter, v); !errors.Is(err, ErrVoucher) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A message is only made for the tab that the voucher names.
func TestMessageRefused(t *testing.T) {
	terms := goodTerms()
	at, err := terms.Address()
	if err != nil {
		t.Fatal(err)
	}
	v := Voucher{Tab: at, ValidUntil: time.Unix(1_790_000_000, 0), Cumulative: mega}
	body, err := Sign(t.Context(), newKey("meter"), v)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Message(terms, false, body); err != nil {
		t.Error(err)
	}
	other := terms
	other.Salt++
	if _, err := Message(other, false, body); !errors.Is(err, ErrVoucher) {
		t.Errorf("another tab's voucher: %v", err)
	}
	other = terms
	other.Signer = newKey("mallory").Public()
	if _, err := Message(other, true, body); !errors.Is(err, ErrVoucher) {
		t.Errorf("another signer's voucher: %v", err)
	}
	// an owner cannot keep vouchers out by a limit that no new tab may have
	other = terms
	other.Rate, other.Since = 5, time.Time{}
	if _, err := Message(other, true, body); err != nil {
		t.Errorf("to a tab with an odd limit: %v", err)
	}
}

func TestNotices(t *testing.T) {
	body := func(op uint64, more ...byte) *cell.Cell {
		return cell.BeginCell().MustStoreUInt(op, 32).MustStoreCoins(7).MustStoreSlice(make([]byte, 32), 256).
			MustStoreSlice(more, uint(8*len(more))).EndCell()
	}
	huge := cell.BeginCell().MustStoreUInt(opPaid, 32).MustStoreBigCoins(new(big.Int).Lsh(big.NewInt(1), 70)).
		MustStoreSlice(make([]byte, 32), 256).EndCell()
	for what, m := range map[string]ton.Message{
		"nothing":        {},
		"empty":          {Body: cell.BeginCell().EndCell()},
		"another op":     {Body: body(opSettle)},
		"more behind":    {Body: body(opPaid, 1)},
		"cut":            {Body: cell.BeginCell().MustStoreUInt(opPaid, 32).EndCell()},
		"bounced":        {Body: body(opPaid), Bounced: true},
		"external":       {Body: body(opPaid), External: true},
		"a huge amount":  {Body: huge},
		"only a comment": {Body: cell.BeginCell().MustStoreUInt(0, 32).MustStoreStringSnake("hello").EndCell()},
	} {
		if n, ok := ParseNotice(m); ok {
			t.Errorf("%s: read as %+v", what, n)
		}
	}
	for op, refund := range map[uint64]bool{opPaid: false, opRefunded: true} {
		if n, ok := ParseNotice(ton.Message{Body: body(op)}); !ok || n.Refund != refund || n.Cumulative != 7 {
			t.Errorf("%x: %+v, %v", op, n, ok)
		}
	}
}

func TestKit(t *testing.T) {
	kit, err := NewKit(goodTerms())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(kit)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseKit(text)
	if err != nil {
		t.Fatal(err)
	}
	terms := got.Tab()
	if want := goodTerms(); terms.Owner != want.Owner || !terms.Since.Equal(want.Since) || terms.Salt != want.Salt {
		t.Errorf("terms %+v, want %+v", terms, want)
	}
	address, err := terms.Address()
	if err != nil || address != kit.Address {
		t.Errorf("address %s, %v, want %s", address, err, kit.Address)
	}
	for _, change := range [][2]string{
		{kit.Address.String(), account("mallory").String()},
		{`"base":3000000000`, `"base":3000000001`},
		{kit.CodeHash, strings.Repeat("0", 64)},
		{`"salt":"18446744073709551615"`, `"salt":"1"`},
		{`"format":"cocoon-tab-1"`, `"format":"cocoon-tab-2"`},
		{`"close_delay_seconds":86400`, `"close_delay_seconds":9223372036854775807`},
		{`"close_delay_seconds":86400`, `"close_delay_seconds":-5`},
		{`"since":1790000000`, `"since":-1790000000`},
		{`"finish":"ton://transfer/` + kit.Address.String(), `"finish":"ton://transfer/` + account("mallory").String()},
		{`{"format"`, `{"more":1,"format"`},
	} {
		bad := strings.Replace(string(text), change[0], change[1], 1)
		if bad == string(text) {
			t.Fatalf("the kit has no %q: %s", change[0], text)
		}
		if _, err := ParseKit([]byte(bad)); !errors.Is(err, ErrKit) {
			t.Errorf("with %q for %q: %v", change[1], change[0], err)
		}
	}
	if _, err := ParseKit(bytes.Repeat([]byte(" "), kitMax+1)); !errors.Is(err, ErrKit) {
		t.Errorf("too long: %v", err)
	}
}

// An owner takes his money out with the kit alone, from a tab that no voucher ever deployed.
func TestKitOpens(t *testing.T) {
	c := newChain(t, today)
	p := newParty(t, c, 1, "app")
	p.fund(t, p.at, 5*mega, nil)
	kit, err := NewKit(p.terms)
	if err != nil {
		t.Fatal(err)
	}
	follow := func(link string) {
		t.Helper()
		u, err := url.Parse(link)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		body, init := linkCell(t, q.Get("bin")), linkCell(t, q.Get("init"))
		var state tlb.StateInit
		if err := tlb.Parse(&state, init); err != nil {
			t.Fatal(err)
		}
		to, err := ton.ParseAddress(strings.TrimPrefix(u.Path, "/"))
		if err != nil || to != kit.Address || q.Get("amount") != "50000000" {
			t.Fatalf("%s, %v, %s", to, err, link)
		}
		c.post(t, &tlb.InternalMessage{
			SrcAddr: p.terms.Owner.Std(), DstAddr: to.Std(), Amount: coins(kitValue), StateInit: &state, Body: body,
		})
		if s := c.last(t, p.at); s.exit != 0 {
			t.Fatalf("exit %d: %s", s.exit, link)
		}
	}
	follow(kit.Close)
	c.wait(day + time.Second)
	follow(kit.Finish)
	// what he has not got back is the reserve and fees
	if got, least := c.balance(p.terms.Owner), 5*mega+2*kitValue-p.costs.Reserve-2*p.costs.Call; got < least {
		t.Errorf("the owner got %v, want %v", got, least)
	}
}
