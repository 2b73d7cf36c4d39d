package ton

import (
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"

	"cocoon/internal/nanoton"

	"github.com/xssnick/tonutils-go/address"
)

// What the documentation of TON has as one address in its forms.
const (
	raw0 = "0:ca6e321c7cce9ecedf0a8ca2492ec8592494aa5fb5ce0387dff96ef6af982a3e"
	eq   = "EQDKbjIcfM6ezt8KjKJJLshZJJSqX7XOA4ff-W72r5gqPrHF"
	uq   = "UQDKbjIcfM6ezt8KjKJJLshZJJSqX7XOA4ff-W72r5gqPuwA"
	kq   = "kQDKbjIcfM6ezt8KjKJJLshZJJSqX7XOA4ff-W72r5gqPgpP"
	zq   = "0QDKbjIcfM6ezt8KjKJJLshZJJSqX7XOA4ff-W72r5gqPleK"
)

func TestAddress(t *testing.T) {
	a, err := ParseAddress(raw0)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{eq, uq, kq, zq, strings.ReplaceAll(eq, "-", "+"), strings.ToUpper(raw0)} {
		if b, err := ParseAddress(text); err != nil || b != a {
			t.Errorf("%s: %v, %v", text, b, err)
		}
	}
	if a.String() != uq || a.Bounceable() != eq || a.Raw() != raw0 {
		t.Errorf("%s %s %s", a, a.Bounceable(), a.Raw())
	}
	if b, err := FromStd(a.Std()); err != nil || b != a || a.Std().String() != uq {
		t.Errorf("%v, %v", b, err)
	}
	master := a
	master.Workchain = -1
	for _, text := range []string{master.String(), master.Raw(), master.Bounceable()} {
		if b, err := ParseAddress(text); err != nil || b != master {
			t.Errorf("%s: %v, %v", text, b, err)
		}
	}
	for _, text := range []string{
		"", "x", uq[:47], uq + "A", " " + uq, uq[:47] + "B", "1:" + raw0[2:], "-2:" + raw0[2:], "0:" + raw0[3:], "00:" + raw0[2:],
		"0:" + strings.Repeat("0", 64), (&address.Address{}).String(), strings.Repeat("A", 48), "0:" + strings.Repeat("g", 64),
		uq[:20] + "\n" + uq[21:], strings.Repeat("x", 1<<20),
		address.NewAddress(0x11, 5, a.Hash[:]).String(),
	} {
		if b, err := ParseAddress(text); !errors.Is(err, ErrAddress) || !b.IsZero() || len(err.Error()) > 400 {
			t.Errorf("%.60q: %v, %v", text, b, err)
		}
	}
	for _, s := range []*address.Address{
		address.NewAddressExt(0, 64, make([]byte, 8)), address.NewAddressVar(0, 0, 256, make([]byte, 32)),
		address.NewAddress(0, 7, make([]byte, 32)), a.Std().WithAnycast(address.NewAnycast(1, []byte{0x80})),
	} {
		if b, err := FromStd(s); !errors.Is(err, ErrAddress) {
			t.Errorf("%v: %v, %v", s, b, err)
		}
	}
	for _, s := range []*address.Address{nil, address.NewAddressNone(), Address{}.Std()} {
		if b, err := FromStd(s); err != nil || !b.IsZero() {
			t.Errorf("%v: %v, %v", s, b, err)
		}
	}
}

func TestAddressText(t *testing.T) {
	type doc struct{ A, B Address }
	in := doc{A: someone("a")}
	text, err := json.Marshal(in)
	if err != nil || !strings.Contains(string(text), `"A":"UQ`) || !strings.Contains(string(text), `"B":""`) {
		t.Fatalf("%s, %v", text, err)
	}
	var out doc
	if err := json.Unmarshal(text, &out); err != nil || out != in {
		t.Errorf("%+v, %v", out, err)
	}
	if err := json.Unmarshal([]byte(`{"A":"UQ"}`), &out); !errors.Is(err, ErrAddress) {
		t.Error(err)
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{raw0, eq, uq, kq, zq, "", "0:", "-1:" + raw0[2:]} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseAddress(text)
		if err != nil {
			if !a.IsZero() || !errors.Is(err, ErrAddress) {
				t.Errorf("%v, %v", a, err)
			}
			return
		}
		for _, form := range []string{a.String(), a.Bounceable(), a.Raw()} {
			if b, err := ParseAddress(form); err != nil || b != a {
				t.Errorf("%q is %v, its form %q is %v, %v", text, a, form, b, err)
			}
		}
		if b, err := FromStd(a.Std()); err != nil || b != a {
			t.Errorf("%v, %v", b, err)
		}
	})
}

func TestPayLink(t *testing.T) {
	a, err := ParseAddress(uq)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		amount     nanoton.Amount
		comment    string
		body, init []byte
		want       string
	}{
		{0, "", nil, nil, ""},
		{1_500_000_000, "", nil, nil, "?amount=1500000000"},
		{5, "a b&c=d+e/ä?#-x", nil, nil, "?amount=5&text=a%20b%26c%3Dd%2Be%2F%C3%A4%3F%23-x"},
		{5, "left out", []byte{0xfb, 0xff, 1}, []byte{0xff, 0xfe}, "?amount=5&bin=-_8B&init=__4%3D"},
	} {
		got := PayLink(a, c.amount, c.comment, c.body, c.init)
		if got != "ton://transfer/"+uq+c.want {
			t.Errorf("%s", got)
		}
		u, err := url.Parse(got)
		if err != nil || u.Host != "transfer" || u.Path != "/"+uq || c.body == nil && u.Query().Get("text") != c.comment {
			t.Errorf("%+v, %v", u, err)
		}
	}
}
