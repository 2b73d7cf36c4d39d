package wallet_test

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tvm/cell"
	"pgregory.net/rapid"

	"cocoon/billing/ton"
	"cocoon/billing/ton/wallet"
	"cocoon/internal/nanoton"
)

// A batch of any size pays everybody, comment and all, and its report lists just that; the first one deploys the wallet.
// With -v it says what it costs.
func TestBatch(t *testing.T) {
	n := newNetwork(t, "")
	h := wallet.NewHighload(keyOf(t, "treasury"), wallet.HighloadOptions{})
	n.fund(h.Address(), 10_000*oneTON)
	for query, count := range []int{1, 1, 10, 100, 250} {
		asked := transfers(fmt.Sprint("to", query, "-"), count, oneTON+nanoton.Amount(query), comment24)
		before := n.balance(h.Address())
		began := time.Now()
		message := n.batch(h, uint32(query), asked)
		signed := time.Now()
		n.send(message)
		took := time.Since(signed)
		n.paid(asked, 1)
		sent, ok := n.reports(h)[uint32(query)]
		if !ok || len(sent) != count {
			t.Fatalf("query %d: reported %v, %d of %d", query, ok, len(sent), count)
		}
		for i, m := range sent {
			if m.To != asked[i].To || m.Amount != asked[i].Amount || m.Comment != asked[i].Comment || m.From != h.Address() {
				t.Fatalf("query %d: message %d is %v to %v, %q; want %v", query, i, m.Amount, m.To, m.Comment, asked[i])
			}
		}
		fee := before - n.balance(h.Address())
		for i := range asked {
			fee -= asked[i].Amount
		}
		t.Logf("batch of %3d: %6d bytes, %v of fees, %v each; signed in %v, sent and mined in %v: %.0f payouts/s",
			count, len(message), fee, fee/nanoton.Amount(count), signed.Sub(began).Round(time.Microsecond),
			took.Round(time.Microsecond), float64(count)/took.Seconds())
	}
	// All that the wallet did, added up, is its balance.
	var sum nanoton.Amount
	for _, tx := range n.history(h.Address()) {
		sum += tx.Change()
	}
	if got := n.balance(h.Address()); got != sum {
		t.Errorf("the balance is %v, the transactions make %v", got, sum)
	}
}

// The same slice can be made into a batch any number of times: it is never written to, not even behind its end. (The library
// did, so that a second attempt paid some twice.)
func TestBatchLeavesTransfersAlone(t *testing.T) {
	h := wallet.NewHighload(keyOf(t, "treasury"), wallet.HighloadOptions{})
	room := transfers("r", 400, oneTON, comment24)
	want := transfers("r", 400, oneTON, comment24)
	first, err := h.Batch(t.Context(), 7, time.Unix(1e9, 0), room[:250], true)
	if err != nil {
		t.Fatal(err)
	}
	second, err := h.Batch(t.Context(), 7, time.Unix(1e9, 0), room[:250], true)
	if err != nil {
		t.Fatal(err)
	}
	h.Need(room[:250])
	if !reflect.DeepEqual(room, want) {
		t.Error("the transfers were changed")
	}
	if string(first) != string(second) {
		t.Error("the same batch is signed differently")
	}
}

func TestResendPaysOnce(t *testing.T) {
	n := newNetwork(t, "")
	h := wallet.NewHighload(keyOf(t, "treasury"), wallet.HighloadOptions{Timeout: 10 * time.Minute})
	n.fund(h.Address(), 1000*oneTON)
	asked := transfers("r", 20, oneTON, comment24)
	message := n.batch(h, 3, asked)
	s := n.state(h.Address())
	refused := 0
	for i := range 5 {
		if err := n.client.Send(t.Context(), message); errors.Is(err, ton.ErrRefused) {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			n.mine()
		}
	}
	n.paid(asked, 1)
	if refused == 0 {
		t.Error("a message that was executed was taken again")
	}
	// With its time over, one that was never executed is dead for good: to the second.
	other := n.batch(h, 4, asked)
	n.pass(h.Expires(h.CreatedAt(s.At.Time)).Sub(s.At.Time) - time.Second)
	if err := n.client.Send(t.Context(), n.batch(h, 5, asked)); err != nil {
		t.Errorf("a fresh one: %v", err)
	}
	n.mine()
	n.paid(asked, 2)
	n.pass(time.Second)
	if err := n.client.Send(t.Context(), other); !errors.Is(err, ton.ErrRefused) {
		t.Errorf("sent after it expired: %v", err)
	}
	n.mine()
	n.paid(asked, 2)
	if got := n.reports(h); len(got) != 2 || len(got[3]) != 20 || len(got[5]) != 20 {
		t.Errorf("reported %d batches", len(got))
	}
}

// firstFees is what the first transaction of the last batch cost: the external message's, and sending the wallet's own.
func (n *network) firstFees(h *wallet.Highload) nanoton.Amount {
	n.Helper()
	var fees nanoton.Amount
	for _, tx := range n.history(h.Address()) {
		if tx.In.External {
			fees = tx.Fees
			for _, m := range tx.Out {
				fees += m.Fee
			}
		}
	}
	return fees
}

// The balance either covers the whole batch or nothing is sent: to the nanoTON. Need is more than that, under any fees that
// there were, and after years of rent.
func TestNeed(t *testing.T) {
	for name, c := range map[string]struct {
		config  string
		count   int
		comment string
	}{
		"one": {"", 1, ""}, "full": {"", 250, comment24}, "one, old prices": {oldPrices, 1, comment24},
		"full, old prices": {oldPrices, 250, comment24}, "full, long comments": {oldPrices, 250, strings.Repeat("long ", 30)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t, c.config)
			asked := transfers("r", c.count, oneTON, c.comment)
			rich := wallet.NewHighload(keyOf(t, "rich"), wallet.HighloadOptions{})
			n.fund(rich.Address(), 2*rich.Need(asked))
			n.send(n.batch(rich, 1, asked))
			n.paid(asked, 1)
			least := rich.Attached(asked) + n.firstFees(rich)
			if need := rich.Need(asked); need < least {
				t.Fatalf("need %v, and the least that does is %v", need, least)
			} else {
				t.Logf("need %v for %v; the least that does is %v", need, nanoton.Amount(c.count)*oneTON, least)
			}
			exact := wallet.NewHighload(keyOf(t, "exact"), wallet.HighloadOptions{})
			n.fund(exact.Address(), least)
			n.send(n.batch(exact, 1, asked))
			n.paid(asked, 2)
			if sent, ok := n.reports(exact)[1]; !ok || len(sent) != c.count {
				t.Errorf("with just enough: reported %v, %d sent", ok, len(sent))
			}
			short := wallet.NewHighload(keyOf(t, "short"), wallet.HighloadOptions{})
			n.fund(short.Address(), least-1)
			message := n.batch(short, 1, asked)
			n.send(message)
			n.paid(asked, 2)
			if sent, ok := n.reports(short)[1]; !ok || len(sent) != 0 {
				t.Errorf("with one nanoTON less: reported %v, %d sent", ok, len(sent))
			}
			n.fund(short.Address(), 1000*oneTON) // the query number is spent: more money changes nothing
			if err := n.client.Send(t.Context(), message); !errors.Is(err, ton.ErrRefused) {
				t.Errorf("sending it again: %v", err)
			}
			if c.comment == "" {
				return
			}
			old := wallet.NewHighload(keyOf(t, "old"), wallet.HighloadOptions{})
			n.fund(old.Address(), oneTON)
			n.send(n.batch(old, 1, transfers("x", 1, 1, "")))
			n.pass(3 * 365 * 24 * time.Hour) // the rent of which is due with the next transaction
			n.fund(old.Address(), old.Need(asked)-n.balance(old.Address()))
			n.send(n.batch(old, 2, asked))
			n.paid(asked, 3)
		})
	}
}

// What no batch can pay is refused before anything is signed.
func TestBatchRefuses(t *testing.T) {
	h := wallet.NewHighload(keyOf(t, "treasury"), wallet.HighloadOptions{})
	good := func() []wallet.Transfer { return transfers("r", 3, oneTON, "") }
	body := cell.BeginCell().MustStoreUInt(1, 32).EndCell()
	deep := body
	for range 600 {
		deep = cell.BeginCell().MustStoreRef(deep).EndCell()
	}
	for name, c := range map[string]struct {
		change func([]wallet.Transfer) []wallet.Transfer
		want   error
	}{
		"none":           {func([]wallet.Transfer) []wallet.Transfer { return nil }, wallet.ErrTransfer},
		"251":            {func([]wallet.Transfer) []wallet.Transfer { return transfers("r", 251, 1, "") }, wallet.ErrTransfer},
		"nothing":        {func(t []wallet.Transfer) []wallet.Transfer { t[1].Amount = 0; return t }, wallet.ErrTransfer},
		"less":           {func(t []wallet.Transfer) []wallet.Transfer { t[1].Amount = -1; return t }, wallet.ErrTransfer},
		"nobody":         {func(t []wallet.Transfer) []wallet.Transfer { t[1].To = ton.Address{}; return t }, wallet.ErrTransfer},
		"itself":         {func(t []wallet.Transfer) []wallet.Transfer { t[1].To = h.Address(); return t }, wallet.ErrTransfer},
		"no text":        {func(t []wallet.Transfer) []wallet.Transfer { t[2].Comment = "\xff"; return t }, wallet.ErrTransfer},
		"a long comment": {func(t []wallet.Transfer) []wallet.Transfer { t[2].Comment = strings.Repeat("a", 501); return t }, wallet.ErrTransfer},
		"body, comment":  {func(t []wallet.Transfer) []wallet.Transfer { t[2].Comment, t[2].Body = "a", body; return t }, wallet.ErrTransfer},
		"deep":           {func(t []wallet.Transfer) []wallet.Transfer { t[2].Body = deep; return t }, wallet.ErrTooLarge},
		"64 KiB":         {func([]wallet.Transfer) []wallet.Transfer { return transfers("r", 250, 1, strings.Repeat("a", 300)) }, wallet.ErrTooLarge},
		"more than there": {func(t []wallet.Transfer) []wallet.Transfer {
			t[0].Amount, t[1].Amount = math.MaxInt64, math.MaxInt64
			return t
		}, wallet.ErrTransfer},
	} {
		asked := c.change(good())
		message, err := h.Batch(t.Context(), 1, time.Unix(1e9, 0), asked, false)
		if !errors.Is(err, c.want) || message != nil {
			t.Errorf("%s: %d bytes, %v", name, len(message), err)
		}
		if need := h.Need(asked); need != math.MaxInt64 && c.want == wallet.ErrTransfer {
			t.Errorf("%s: needs %v", name, need)
		}
	}
	if _, err := h.Batch(t.Context(), wallet.Queries, time.Unix(1e9, 0), good(), false); err == nil {
		t.Error("a query number that there is not")
	}
	if _, err := h.Batch(t.Context(), 1, time.Time{}, good(), false); err == nil {
		t.Error("no time")
	}
	for _, timeout := range []time.Duration{-1, time.Second, 90*time.Second + 1, 1 << 22 * time.Second} {
		bad := wallet.NewHighload(keyOf(t, "treasury"), wallet.HighloadOptions{Timeout: timeout})
		if _, err := bad.Batch(t.Context(), 1, time.Unix(1e9, 0), good(), false); err == nil || !bad.Address().IsZero() {
			t.Errorf("a timeout of %v: %v, %v", timeout, err, bad.Address())
		}
	}
}

func TestQueries(t *testing.T) {
	for q := uint32(0); q < wallet.Queries; q += 31 {
		id := wallet.QueryID(q)
		if back, ok := wallet.QueryOf(id); !ok || back != q || id&1023 == 1023 || id >= 1<<23 {
			t.Fatalf("query %d is %d, and back %d, %v", q, id, back, ok)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.Uint64().Draw(t, "id")
		if q, ok := wallet.QueryOf(id); ok && wallet.QueryID(q) != id {
			t.Fatalf("%d is query %d, which is %d", id, q, wallet.QueryID(q))
		}
	})
}

// The last and the first query of a cell, and the last of all, work on the chain.
func TestQueriesOnChain(t *testing.T) {
	n := newNetwork(t, "")
	h := wallet.NewHighload(keyOf(t, "treasury"), wallet.HighloadOptions{})
	n.fund(h.Address(), 100*oneTON)
	for i, q := range []uint32{0, 1022, 1023, wallet.Queries - 1} {
		asked := transfers(fmt.Sprint(i), 2, oneTON, "")
		n.send(n.batch(h, q, asked))
		n.paid(asked, 1)
		if len(n.reports(h)[q]) != 2 {
			t.Errorf("query %d is not reported", q)
		}
	}
}

// What is no batch's is not reported as one, whatever it looks like.
func TestReportIsCareful(t *testing.T) {
	h := wallet.NewHighload(keyOf(t, "treasury"), wallet.HighloadOptions{})
	self := func(op, id uint64) *cell.Cell {
		return cell.BeginCell().MustStoreUInt(op, 32).MustStoreUInt(id, 64).EndCell()
	}
	signed := cell.BeginCell().MustStoreSlice(make([]byte, 64), 512).MustStoreRef(
		cell.BeginCell().MustStoreUInt(0x10ad, 32).MustStoreUInt(3, 8).MustStoreUInt(9, 23).EndCell()).EndCell()
	out := []ton.Message{{From: h.Address(), To: addressOf("r"), Amount: 1}, {From: h.Address(), External: true}}
	own := func(m ton.Message, aborted bool, out []ton.Message) *ton.Transaction {
		return &ton.Transaction{In: &m, Out: out, Aborted: aborted}
	}
	for name, c := range map[string]struct {
		tx    *ton.Transaction
		ok    bool
		query uint32
		sent  int
	}{
		"a batch":       {own(ton.Message{From: h.Address(), To: h.Address(), Body: self(0xae42e5a4, 1024)}, false, out), true, 1023, 1},
		"no batch":      {own(ton.Message{From: h.Address(), To: h.Address(), Body: self(0xae42e5a5, 1024)}, false, out), false, 0, 0},
		"bit 1023":      {own(ton.Message{From: h.Address(), To: h.Address(), Body: self(0xae42e5a4, 1023)}, false, out), false, 0, 0},
		"a high query":  {own(ton.Message{From: h.Address(), To: h.Address(), Body: self(0xae42e5a4, 1<<40)}, false, out), false, 0, 0},
		"somebody's":    {own(ton.Message{From: addressOf("r"), To: h.Address(), Body: self(0xae42e5a4, 1)}, false, out), false, 0, 0},
		"to another":    {own(ton.Message{From: h.Address(), To: addressOf("r"), Body: self(0xae42e5a4, 1)}, false, out), false, 0, 0},
		"bounced":       {own(ton.Message{From: h.Address(), To: h.Address(), Bounced: true, Body: self(0xae42e5a4, 1)}, false, out), false, 0, 0},
		"unpaid":        {own(ton.Message{External: true, To: h.Address(), Body: signed}, false, nil), true, 9, 0},
		"on its way":    {own(ton.Message{External: true, To: h.Address(), Body: signed}, false, out[:1]), false, 0, 0},
		"may come back": {own(ton.Message{External: true, To: h.Address(), Body: signed}, true, nil), false, 0, 0},
		"no body":       {own(ton.Message{External: true, To: h.Address()}, false, nil), false, 0, 0},
		"no message":    {&ton.Transaction{}, false, 0, 0},
		"none":          {nil, false, 0, 0},
	} {
		query, sent, ok := h.Report(c.tx)
		if ok != c.ok || ok && (query != c.query || len(sent) != c.sent) {
			t.Errorf("%s: query %d, %d sent, %v", name, query, len(sent), ok)
		}
	}
}

func FuzzReport(f *testing.F) {
	f.Add(cell.BeginCell().MustStoreUInt(0xae42e5a4, 32).MustStoreUInt(5, 64).EndCell().ToBOC(), false, false)
	f.Add(cell.BeginCell().MustStoreSlice(make([]byte, 64), 512).MustStoreRef(
		cell.BeginCell().MustStoreUInt(0x10ad, 32).MustStoreUInt(3, 8).MustStoreUInt(9, 23).EndCell()).EndCell().ToBOC(), true, false)
	h := wallet.NewHighload(wallet.KeyOf(make([]byte, 32)), wallet.HighloadOptions{})
	f.Fuzz(func(t *testing.T, boc []byte, external, aborted bool) {
		c, err := cell.FromBOC(boc)
		if err != nil {
			return
		}
		in := ton.Message{External: external, To: h.Address(), Body: c}
		if !external {
			in.From = h.Address()
		}
		query, sent, ok := h.Report(&ton.Transaction{In: &in, Aborted: aborted})
		if query >= wallet.Queries || len(sent) != 0 || ok && external && aborted {
			t.Errorf("%d, %v, %v", query, sent, ok)
		}
	})
}

func BenchmarkBatch(b *testing.B) {
	h := wallet.NewHighload(keyOf(b, "treasury"), wallet.HighloadOptions{})
	for _, count := range []int{1, 10, 100, 250} {
		asked := transfers("r", count, oneTON, comment24)
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			for b.Loop() {
				if _, err := h.Batch(b.Context(), 1, time.Unix(1e9, 0), asked, true); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(count)*float64(b.N)/b.Elapsed().Seconds(), "payouts/s")
		})
	}
}
