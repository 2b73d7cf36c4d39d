package receipt

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestAcks(t *testing.T) {
	a := &Acks{Settled: []Digest{sum(1), sum(2)}, Refused: []Refusal{{sum(3), "no hold: it was void"}}}
	want := `{"v":1,"settled":["` + sum(1).String() + `","` + sum(2).String() + `"],"refused":[{"id":"` + sum(3).String() +
		`","why":"no hold: it was void"}]}`
	if got := string(a.Marshal()); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, a := range []*Acks{a, {Settled: []Digest{sum(1)}, Refused: []Refusal{}}, {Settled: []Digest{}, Refused: []Refusal{}}} {
		if got, err := ParseAcks(a.Marshal()); err != nil || !reflect.DeepEqual(got, a) {
			t.Errorf("%+v, %v, want %+v", got, err, a)
		}
	}
	if got := string(new(Acks).Marshal()); got != `{"v":1,"settled":[],"refused":[]}` {
		t.Errorf("none: %s", got)
	}
}

func voucher() *Voucher {
	return &Voucher{Body: []byte{0xb5, 0xee}, Terms: VoucherTerms{
		Owner: "UQowner", Payee: "UQpayee", Signer: sum(9), Salt: 1<<64 - 1, CloseDelaySeconds: 72 * 3600,
		BaseNanoTON: 1e9, RateNanoTON: 7, Since: 1_700_000_000,
	}}
}

// TestAcksVoucher gets a voucher through, and none of another form.
func TestAcksVoucher(t *testing.T) {
	a := &Acks{Settled: []Digest{}, Refused: []Refusal{}, Voucher: voucher()}
	text := a.Marshal()
	if got, err := ParseAcks(text); err != nil || !reflect.DeepEqual(got, a) {
		t.Errorf("%+v, %v, want %+v", got, err, a)
	}
	for name, spoil := range map[string]func(*Voucher){
		"no body":       func(v *Voucher) { v.Body = nil },
		"a long body":   func(v *Voucher) { v.Body = make([]byte, VoucherMax+1) },
		"no payee":      func(v *Voucher) { v.Terms.Payee = "" },
		"a long owner":  func(v *Voucher) { v.Terms.Owner = strings.Repeat("U", 81) },
		"an escape":     func(v *Voucher) { v.Terms.Payee = "UQ\x1b[2J" },
		"another quote": func(v *Voucher) { v.Terms.Payee = `"` },
	} {
		a.Voucher = voucher()
		spoil(a.Voucher)
		if got, err := ParseAcks(a.Marshal()); err != nil || got.Voucher != nil {
			t.Errorf("%s: written as %+v, %v", name, got, err)
		}
		bad, err := json.Marshal(acksJSON{V: acksVersion, Voucher: a.Voucher})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseAcks(bad); !errors.Is(err, ErrForm) || got != nil {
			t.Errorf("%s: read as %+v, %v", name, got, err)
		}
	}
}

// However much there is, what is written can be read, and is not too long.
func TestAcksMost(t *testing.T) {
	a := &Acks{
		Settled: slices.Repeat([]Digest{sum(1)}, 2*AcksMax),
		Refused: slices.Repeat([]Refusal{{sum(2), strings.Repeat("\"<\x00é\n", WhyMax)}}, 2*RefusedMax),
		Voucher: &Voucher{make([]byte, VoucherMax), VoucherTerms{
			Owner: strings.Repeat("U", 80), Payee: strings.Repeat("U", 80), Salt: 1<<64 - 1, CloseDelaySeconds: 1<<63 - 1,
			BaseNanoTON: 1<<63 - 1, RateNanoTON: 1<<63 - 1, Since: 1<<63 - 1,
		}},
	}
	text := a.Marshal()
	got, err := ParseAcks(text)
	if err != nil || got.Voucher == nil || len(got.Settled)+len(got.Refused) != AcksMax || len(got.Refused) != RefusedMax || len(text) > AcksSize {
		t.Fatalf("%v, %d bytes", err, len(text))
	}
	if why := got.Refused[0].Why; len(why) != WhyMax || strings.Trim(why, "?") != "" {
		t.Errorf("%q", why)
	}
	a.Refused = nil
	if got, err := ParseAcks(a.Marshal()); err != nil || len(got.Settled) != AcksMax {
		t.Error(err)
	}
}

func TestAcksRefused(t *testing.T) {
	id := sum(1).String()
	many := func(n int, what string) string { return strings.TrimSuffix(strings.Repeat(what+",", n), ",") }
	for name, text := range map[string]string{
		"nothing":          ``,
		"no version":       `{"settled":[],"refused":[]}`,
		"another version":  `{"v":2,"settled":[],"refused":[]}`,
		"unknown member":   `{"v":1,"settled":[],"refused":[],"x":1}`,
		"something after":  `{"v":1,"settled":[],"refused":[]}{}`,
		"short ID":         `{"v":1,"settled":["00"],"refused":[]}`,
		"capital ID":       `{"v":1,"settled":["` + strings.ToUpper(id[:62]) + `AA"],"refused":[]}`,
		"an ID of numbers": `{"v":1,"settled":[[1,2]],"refused":[]}`,
		"line break":       `{"v":1,"settled":[],"refused":[{"id":"` + id + `","why":"a\nb"}]}`,
		"escape":           `{"v":1,"settled":[],"refused":[{"id":"` + id + `","why":"\u001b[2J"}]}`,
		"long reason":      `{"v":1,"settled":[],"refused":[{"id":"` + id + `","why":"` + strings.Repeat("y", WhyMax+1) + `"}]}`,
		"too many":         `{"v":1,"settled":[` + many(AcksMax+1, `"`+id+`"`) + `],"refused":[]}`,
		"too many refused": `{"v":1,"settled":[],"refused":[` + many(RefusedMax+1, `{"id":"`+id+`","why":""}`) + `]}`,
		"too long":         `{"v":1,"settled":[],"refused":[]}` + strings.Repeat(" ", AcksSize),
	} {
		if got, err := ParseAcks([]byte(text)); !errors.Is(err, ErrForm) || got != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func FuzzParseAcks(f *testing.F) {
	f.Add((&Acks{Settled: []Digest{sum(1)}, Refused: []Refusal{{sum(2), "why"}}}).Marshal())
	f.Add(new(Acks).Marshal())
	f.Add((&Acks{Voucher: voucher()}).Marshal())
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := ParseAcks(text)
		if err != nil {
			if !errors.Is(err, ErrForm) {
				t.Fatal(err)
			}
			return
		}
		again, err := ParseAcks(a.Marshal())
		if err != nil || !bytes.Equal(again.Marshal(), a.Marshal()) {
			t.Fatalf("%q: %v", text, err)
		}
	})
}
