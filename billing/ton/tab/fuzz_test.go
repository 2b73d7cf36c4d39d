package tab

import (
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/billing/ton"
	"cocoon/billing/ton/contracts"
)

func linkCell(t *testing.T, text string) *cell.Cell {
	t.Helper()
	boc, err := base64.URLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cell.FromBOC(boc)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What is read as a voucher is one that was signed.
func FuzzParseVoucher(f *testing.F) {
	meter := newKey("meter")
	v := Voucher{Tab: account("tab"), ValidUntil: time.Unix(1_790_000_000, 0).UTC(), Cumulative: 5}
	body, err := Sign(f.Context(), meter, v)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add((&party{meter: meter}).envelope(f, formerly(v, 1, false)))
	f.Add([]byte{})
	f.Add(cell.BeginCell().EndCell().ToBOC())
	f.Fuzz(func(t *testing.T, body []byte) {
		if got, err := ParseVoucher(body, meter.Public()); err == nil && got != v {
			t.Errorf("nobody signed %+v", got)
		}
	})
}

// Data of a contract with our code, which others can deploy with any.
func FuzzParseState(f *testing.F) {
	code, err := contracts.Tab()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(goodTerms().data().ToBOC())
	f.Add(cell.BeginCell().EndCell().ToBOC())
	f.Fuzz(func(t *testing.T, boc []byte) {
		data, err := cell.FromBOC(boc)
		if err != nil {
			return
		}
		st, err := ParseState(ton.State{Address: account("tab"), Active: true, Code: code, Data: data})
		if err != nil {
			return
		}
		if len(st.Signer) != 32 || st.Drawn < 0 || st.Base < 0 || st.Rate < 0 || st.LimitAt(time.Now()) < st.Base {
			t.Errorf("state %+v", st)
		}
	})
}

// A kit that is read is the one that its terms make.
func FuzzParseKit(f *testing.F) {
	kit, err := NewKit(goodTerms())
	if err != nil {
		f.Fatal(err)
	}
	text, err := json.Marshal(kit)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := ParseKit(text)
		if err != nil {
			return
		}
		want, err := NewKit(got.Tab())
		if err != nil || want.Close != got.Close || want.Finish != got.Finish || want.Address != got.Address {
			t.Errorf("kit %+v, want %+v, %v", got, want, err)
		}
	})
}
