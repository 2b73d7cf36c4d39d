package accounts

import (
	"encoding/json"
	"strings"
	"testing"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

func TestProvider(t *testing.T) {
	s := newShelf(t)
	l := s.ledger()
	b, other := s.open(s.config(l)), s.open(s.config(l))
	k := s.key(b, Settings{Provider: json.RawMessage(" { \"sort\" :\n\"price\" } ")})
	reads := 0
	read := func(text json.RawMessage) string { reads++; return string(text) }
	for range 3 {
		if got := ProviderOf(k, read); got == nil || *got != `{"sort":"price"}` {
			t.Fatalf("the key's wishes are %v", got)
		}
	}
	if first := ProviderOf(k, read); first != ProviderOf(k, read) || reads != 1 {
		t.Errorf("they were read %d times", reads)
	}
	if n := testing.AllocsPerRun(100, func() { ProviderOf(k, read) }); n > 0 {
		t.Errorf("a request for them allocates %v times", n)
	}
	if n := ProviderOf(k, func(text json.RawMessage) int { return len(text) }); *n != 16 {
		t.Errorf("read as something else: %d", *n)
	}

	// Another gateway has them too, and sees a change.
	must(t, other.refresh(t.Context()))
	far, err := other.Find(k.ID)
	must(t, err)
	if got := ProviderOf(far, read); got == nil || *got != `{"sort":"price"}` {
		t.Fatalf("at another gateway they are %v", got)
	}
	set := func(text string) error {
		return b.UpdateKey(t.Context(), k.ID, func(s *Settings) error { s.Provider = json.RawMessage(text); return nil })
	}
	must(t, set(`{"only":["a<b"]}`))
	must(t, other.refresh(t.Context()))
	for _, key := range []*Key{k, far} {
		if got := ProviderOf(key, read); got == nil || *got != `{"only":["a\u003cb"]}` {
			t.Errorf("after a change they are %v", got)
		}
	}
	for _, none := range []string{"null", "", " null "} {
		must(t, set(`{}`))
		must(t, set(none))
		if got := ProviderOf(k, read); got != nil || k.Record().Provider != nil {
			t.Errorf("%q is kept as %v", none, *got)
		}
	}
	for _, bad := range []string{
		`{`, `[]`, `"a"`, `{} {}`, `{"a":"` + strings.Repeat("x", ProviderMax) + `"}`,
		`{"a":"` + strings.Repeat("<", ProviderMax/4) + `"}`, // is longer when it is stored
	} {
		wantErr(t, set(bad), ErrInvalid)
		_, _, err := b.CreateKey(t.Context(), DefaultAccount, Settings{Name: "x", Provider: json.RawMessage(bad)})
		wantErr(t, err, ErrInvalid)
	}
	// What has just room is still there for whoever opens the ledger.
	must(t, set(`{"a":"`+strings.Repeat("x", ProviderMax-8)+`"}`))
	again, err := s.open(s.config(l)).Find(k.ID)
	must(t, err)
	if got := ProviderOf(again, read); got == nil || len(*got) != ProviderMax {
		t.Error("the longest is lost")
	}
}

func TestCap(t *testing.T) {
	for _, tc := range []struct {
		cap             Cap
		in, cached, out nanoton.Amount
	}{
		{Cap{}, -1, -1, -1},
		{Cap{In: 5}, 5, 5, -1},
		{Cap{Out: 7}, -1, -1, 7},
		{Cap{In: 5, Out: 7}, 5, 5, 7},
	} {
		if in, cached, out := loose(newClock(), Settings{Cap: tc.cap}, Account{}).Cap(); in != tc.in || cached != tc.cached || out != tc.out {
			t.Errorf("%+v: %d, %d, %d", tc.cap, in, cached, out)
		}
	}
}

func TestKept(t *testing.T) {
	s := newShelf(t)
	b := s.open(s.config(s.ledger()))
	k := s.key(b, Settings{})
	made := 0
	name := func(a ledger.Account) string { made++; return string(a) }
	for range 3 {
		if got := KeptOf(k, name); *got != "customer:default" {
			t.Fatalf("made of %q", *got)
		}
	}
	if made != 1 {
		t.Errorf("it was made %d times", made)
	}
	if n := testing.AllocsPerRun(100, func() { KeptOf(k, name) }); n > 0 {
		t.Errorf("a request for it allocates %v times", n)
	}
	must(t, b.UpdateKey(t.Context(), k.ID, func(s *Settings) error { s.Name = "other"; return nil }))
	if KeptOf(k, name); made != 2 {
		t.Errorf("after a change it was made %d times", made)
	}
}
