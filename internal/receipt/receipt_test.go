package receipt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"cocoon/internal/nanoton"
	"cocoon/router/offer"
)

// testKey is a key made of one byte.
func testKey(b byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, 32)) }

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func sum(b byte) Digest { return Digest{0: b, 31: 1} }

// sample is the first and only receipt of a request.
func sample() Receipt {
	return Receipt{
		Request: "req_" + strings.Repeat("0a", 16), Route: sum(1), Worker: sum(2), Epoch: 3, Keyset: sum(4), Model: "org/model:7b",
		Weights: sum(5), Engine: sum(6), Mode: Gateway, Kind: Final, Status: OK,
		Tokens: offer.Usage{In: 100, Cached: 40, Out: 30, Reasoning: 10}, Price: offer.Price{In: 10_000, Cached: 1000, Out: 30_001},
		Cost: 2, Req: sum(7), Resp: sum(8), TTFT: 12, Start: 1_700_000_000_000, End: 1_700_000_000_900,
	}
}

const golden = `cocoon-receipt/v1
request req_0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a route 0100000000000000000000000000000000000000000000000000000000000001
worker 0200000000000000000000000000000000000000000000000000000000000001 epoch 3 keyset 0400000000000000000000000000000000000000000000000000000000000001
model org/model:7b weights 0500000000000000000000000000000000000000000000000000000000000001 engine 0600000000000000000000000000000000000000000000000000000000000001
mode gateway
seq 0 kind final status ok
tokens in 100 cached 40 out 30 reasoning 10
price in 10000 cached 1000 out 30001 nanoTON/Mtok
cost 2 nanoTON
req 0700000000000000000000000000000000000000000000000000000000000001 resp 0800000000000000000000000000000000000000000000000000000000000001
prev 0000000000000000000000000000000000000000000000000000000000000000
ttft_ms 12 start 1700000000000 end 1700000000900
`

func mustSign(t testing.TB, r Receipt) *Signed {
	t.Helper()
	s, err := Sign(r, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestGolden(t *testing.T) {
	s := mustSign(t, sample())
	wire := string(s.Wire())
	if !strings.HasPrefix(wire, golden) {
		t.Fatalf("the format has changed:\n%s", wire)
	}
	if want := sha256.Sum256([]byte("cocoon/receipt/v1\x00" + golden)); s.ID() != want {
		t.Errorf("the ID is %v, want %x", s.ID(), want)
	}
	back, err := Parse([]byte(wire))
	if err != nil || !reflect.DeepEqual(back, s) {
		t.Fatalf("%+v, %v, want %+v", back, err, s)
	}
	if err := back.Verify(public(testKey(1))); err != nil {
		t.Error(err)
	}
	for _, key := range []ed25519.PublicKey{public(testKey(2)), nil, make([]byte, 32), make([]byte, 5)} {
		if err := back.Verify(key); !errors.Is(err, ErrSignature) {
			t.Errorf("another key: %v", err)
		}
	}
}

// longest is a receipt of which all is as long as it can be.
func longest() Receipt {
	r := sample()
	r.Mode, r.Kind, r.Status, r.Model = Unprotected, Final, ClientAbort, strings.Repeat("m", ModelMax)
	r.Seq, r.Prev, r.Epoch = SeqMax, sum(9), math.MaxUint64
	r.Tokens = offer.Usage{In: offer.TokensMax, Cached: offer.TokensMax, Out: offer.TokensMax, Reasoning: offer.TokensMax}
	r.Price = offer.Price{In: offer.PriceMax, Cached: offer.PriceMax, Out: offer.PriceMax}
	r.Cost, _ = r.Price.Cost(r.Tokens)
	r.Start, r.End, r.TTFT = 1, timeMax, timeMax-1
	return r
}

func TestLongest(t *testing.T) {
	wire := mustSign(t, longest()).Wire()
	if len(wire) > 1500 {
		t.Errorf("%d bytes", len(wire))
	}
	if _, err := Parse(wire); err != nil {
		t.Error(err)
	}
	all, err := SignBatch(slices.Repeat([]Receipt{longest()}, BatchMax), testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{0, 1111, BatchMax - 1} {
		wire := all[i].Wire()
		if len(wire) < 2100 || len(wire) > 2320 {
			t.Errorf("%d bytes", len(wire))
		}
		if s, err := Parse(wire); err != nil || s.Verify(public(testKey(1))) != nil {
			t.Error(err)
		}
	}
}

// Each byte of a receipt counts: with any one changed, it is no receipt or its signature fails.
func TestEveryByte(t *testing.T) {
	s := mustSign(t, sample())
	wire, key := s.Wire(), public(testKey(1))
	for i := range wire {
		for bit := range 8 {
			b := bytes.Clone(wire)
			b[i] ^= 1 << bit
			if got, err := Parse(b); err == nil && (got.Verify(key) == nil || bytes.Equal(got.Wire(), wire)) {
				t.Fatalf("byte %d, bit %d: passes", i, bit)
			}
		}
		if _, err := Parse(wire[:i]); err == nil {
			t.Fatalf("cut at %d: passes", i)
		}
		if _, err := Parse(append(bytes.Clone(wire[:i]), wire[i+1:]...)); err == nil {
			got, _ := Parse(append(bytes.Clone(wire[:i]), wire[i+1:]...))
			if got.Verify(key) == nil {
				t.Fatalf("without byte %d: passes", i)
			}
		}
	}
}

// mutations change one field each, to another valid value where there is one.
func mutations() map[string]func(*Receipt) {
	return map[string]func(*Receipt){
		"request":          func(r *Receipt) { r.Request = "req_" + strings.Repeat("0b", 16) },
		"route":            func(r *Receipt) { r.Route = sum(99) },
		"worker":           func(r *Receipt) { r.Worker = sum(99) },
		"epoch":            func(r *Receipt) { r.Epoch++ },
		"keyset":           func(r *Receipt) { r.Keyset = sum(99) },
		"model":            func(r *Receipt) { r.Model = "other" },
		"weights":          func(r *Receipt) { r.Weights = Digest{} },
		"engine":           func(r *Receipt) { r.Engine = sum(99) },
		"mode":             func(r *Receipt) { r.Mode = Simulated },
		"mode unprotected": func(r *Receipt) { r.Mode = Unprotected },
		"seq":              func(r *Receipt) { r.Seq, r.Prev = 1, sum(9) },
		"kind":             func(r *Receipt) { r.Kind = Interim },
		"status":           func(r *Receipt) { r.Status = Length },
		"tokens in":        func(r *Receipt) { r.Tokens.In++ },
		"tokens cached":    func(r *Receipt) { r.Tokens.Cached-- },
		"tokens out":       func(r *Receipt) { r.Tokens.Out++ },
		"tokens reasoning": func(r *Receipt) { r.Tokens.Reasoning++ },
		"price in":         func(r *Receipt) { r.Price.In-- },
		"price cached":     func(r *Receipt) { r.Price.Cached++ },
		"price out":        func(r *Receipt) { r.Price.Out-- },
		"cost":             func(r *Receipt) { r.Cost++ },
		"req":              func(r *Receipt) { r.Req = sum(99) },
		"resp":             func(r *Receipt) { r.Resp = sum(99) },
		"ttft_ms":          func(r *Receipt) { r.TTFT++ },
		"start":            func(r *Receipt) { r.Start-- },
		"end":              func(r *Receipt) { r.End++ },
	}
}

// A signature serves for no other receipt.
func TestEveryField(t *testing.T) {
	s := mustSign(t, sample())
	n := 0
	for name, change := range mutations() {
		r := sample()
		change(&r)
		if r == sample() {
			t.Fatalf("%s: unchanged", name)
		}
		wire := append(r.append(nil), s.Wire()[bytes.Index(s.Wire(), []byte(signatureHead)):]...)
		other, err := Parse(wire)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := other.Verify(public(testKey(1))); !errors.Is(err, ErrSignature) || other.ID() == s.ID() {
			t.Errorf("%s: %v", name, err)
		}
		n++
	}
	if fields := reflect.TypeFor[Receipt]().NumField(); n < fields {
		t.Errorf("%d mutations of %d fields", n, fields)
	}
}

func TestFormRefused(t *testing.T) {
	for name, change := range map[string]func(*Receipt){
		"no request":            func(r *Receipt) { r.Request = "" },
		"short request":         func(r *Receipt) { r.Request = "req_00" },
		"capital request":       func(r *Receipt) { r.Request = "req_" + strings.Repeat("0A", 16) },
		"line break in request": func(r *Receipt) { r.Request = "req_" + strings.Repeat("0a", 15) + "a\n" },
		"no worker":             func(r *Receipt) { r.Worker = Digest{} },
		"no keyset":             func(r *Receipt) { r.Keyset = Digest{} },
		"no req":                func(r *Receipt) { r.Req = Digest{} },
		"no model":              func(r *Receipt) { r.Model = "" },
		"blank in model":        func(r *Receipt) { r.Model = "a b" },
		"line break in model":   func(r *Receipt) { r.Model = "a\nb" },
		"model not ASCII":       func(r *Receipt) { r.Model = "modèle" },
		"quote in model":        func(r *Receipt) { r.Model = `a"b` },
		"long model":            func(r *Receipt) { r.Model = strings.Repeat("m", ModelMax+1) },
		"mode":                  func(r *Receipt) { r.Mode = "open" },
		"sealed, no route":      func(r *Receipt) { r.Mode, r.Route = Sealed, Digest{} },
		"kind":                  func(r *Receipt) { r.Kind = "last" },
		"status":                func(r *Receipt) { r.Status = "fine" },
		"interim, over":         func(r *Receipt) { r.Kind, r.Status = Interim, Length },
		"error with tokens":     func(r *Receipt) { r.Status = Error },
		"first with prev":       func(r *Receipt) { r.Prev = sum(9) },
		"second without prev":   func(r *Receipt) { r.Seq = 1 },
		"huge seq":              func(r *Receipt) { r.Seq, r.Prev = SeqMax+1, sum(9) },
		"negative tokens":       func(r *Receipt) { r.Tokens.Out = -1 },
		"too many tokens":       func(r *Receipt) { r.Tokens.In = offer.TokensMax + 1 },
		"cached beyond in":      func(r *Receipt) { r.Tokens.Cached = r.Tokens.In + 1 },
		"reasoning beyond out":  func(r *Receipt) { r.Tokens.Reasoning = r.Tokens.Out + 1 },
		"negative price":        func(r *Receipt) { r.Price.In = -1 },
		"huge price":            func(r *Receipt) { r.Price.Out = offer.PriceMax + 1 },
		"negative cost":         func(r *Receipt) { r.Cost = -1 },
		"no start":              func(r *Receipt) { r.Start = 0 },
		"ends before start":     func(r *Receipt) { r.End = r.Start - 1 },
		"end of days":           func(r *Receipt) { r.End = timeMax + 1 },
		"negative ttft":         func(r *Receipt) { r.TTFT = -1 },
		"ttft after the end":    func(r *Receipt) { r.TTFT = r.End - r.Start + 1 },
	} {
		r := sample()
		change(&r)
		if _, err := Sign(r, testKey(1)); !errors.Is(err, ErrForm) {
			t.Errorf("%s: signed, %v", name, err)
		}
		if _, err := Parse(forge(r, testKey(1))); !errors.Is(err, ErrForm) {
			t.Errorf("%s: read, %v", name, err)
		}
	}
}

// forge is the wire form of what Sign would not sign.
func forge(r Receipt, key ed25519.PrivateKey) []byte {
	text := r.append(nil)
	id := digest(text)
	return fmt.Appendf(text, "signature %s\n", base64.StdEncoding.EncodeToString(ed25519.Sign(key, id[:])))
}

// One spelling: what means the same in other bytes is refused.
func TestSpelling(t *testing.T) {
	wire := string(mustSign(t, sample()).Wire())
	for _, c := range [][2]string{
		{"epoch 3", "epoch 03"},
		{"epoch 3", "epoch +3"},
		{"seq 0", "seq 00"},
		{"seq 0", "seq -0"},
		{"in 100", "in +100"},
		{"in 100", "in 1e2"},
		{"in 100", "in 0x64"},
		{"in 100", "in 1_00"},
		{"in 100", "in  100"},
		{"mode gateway\n", "mode gateway \n"},
		{"mode gateway\n", "mode gateway\r\n"},
		{"cost 2 nanoTON", "cost 2 nanoton"},
		{"cost 2 nanoTON", "cost 2"},
		{"\n", "\n\n"},
		{"cocoon-receipt/v1", "cocoon-receipt/v2"},
		{"worker 02", "worker 0A"},
		{"signature ", "signature  "},
		{"==\n", "\n"},
		{"==\n", "=="},
		{"==\n", "==\n\n"},
		{"==\n", "==\nmode gateway\n"},
		{"kind final status ok", "status ok kind final"},
		{"req_0a", "req_0a\x00"},
	} {
		b := strings.Replace(wire, c[0], c[1], 1)
		if b == wire {
			t.Fatalf("no %q", c[0])
		}
		if _, err := Parse([]byte(b)); !errors.Is(err, ErrForm) {
			t.Errorf("%q for %q: %v", c[1], c[0], err)
		}
		event, err := parseEvent([]byte(b))
		if whole := b+"\n" == wire; whole && (err != nil || string(event.Wire()) != wire) || !whole && !errors.Is(err, ErrForm) {
			t.Errorf("event: %q for %q: %v", c[1], c[0], err)
		}
	}
	if s, err := parseEvent([]byte(wire)); err != nil || string(s.Wire()) != wire {
		t.Errorf("event with its last line feed: %v", err)
	}
	// The last character of base64 holds bits that decode to nothing.
	i := strings.Index(wire, "==\n") - 1
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" {
		if b := wire[:i] + string(c) + wire[i+1:]; b != wire {
			if s, err := Parse([]byte(b)); err == nil && s.Verify(public(testKey(1))) == nil {
				t.Errorf("signature with %q at its end", c)
			}
		}
	}
}

func TestArithmetic(t *testing.T) {
	for _, by := range []int64{-1, 1, 1000} {
		r := sample()
		r.Cost += nanoton.Amount(by)
		var m *MismatchError
		if _, err := Sign(r, testKey(1)); !errors.As(err, &m) || m.Field != "cost" {
			t.Errorf("off by %d: signed, %v", by, err)
		}
		s, err := Parse(forge(r, testKey(1)))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Arithmetic(); !errors.As(err, &m) || m.Field != "cost" || m.Want != "2" {
			t.Errorf("off by %d: %v", by, err)
		}
	}
}

func agreed() Terms {
	r := sample()
	t := r.terms()
	t.InMax, t.OutMax, t.Ceiling = 100, 30, 2
	return *t
}

func TestCheck(t *testing.T) {
	r := sample()
	if err := r.Check(agreed()); err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(*Terms){
		"request":      func(t *Terms) { t.Request = "" },
		"route":        func(t *Terms) { t.Route = Digest{} },
		"worker":       func(t *Terms) { t.Worker = sum(99) },
		"epoch":        func(t *Terms) { t.Epoch = 0 },
		"keyset":       func(t *Terms) { t.Keyset = sum(99) },
		"model":        func(t *Terms) { t.Model = "other" },
		"weights":      func(t *Terms) { t.Weights = sum(99) },
		"engine":       func(t *Terms) { t.Engine = sum(99) },
		"mode":         func(t *Terms) { t.Mode = Sealed },
		"price in":     func(t *Terms) { t.Price.In++ },
		"price cached": func(t *Terms) { t.Price.Cached++ },
		"price out":    func(t *Terms) { t.Price.Out-- },
		"tokens in":    func(t *Terms) { t.InMax-- },
		"tokens out":   func(t *Terms) { t.OutMax-- },
		"cost":         func(t *Terms) { t.Ceiling-- },
	} {
		terms := agreed()
		change(&terms)
		var m *MismatchError
		if err := r.Check(terms); !errors.As(err, &m) || m.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if err := r.Check(Terms{}); err == nil {
		t.Error("no terms admit a receipt")
	}
	r.Cost--
	var m *MismatchError
	if err := r.Check(agreed()); !errors.As(err, &m) || m.Field != "cost" || m.Got != "1" {
		t.Errorf("wrong sum: %v", err)
	}
}

func TestError(t *testing.T) {
	r := sample()
	r.Status, r.Tokens, r.Cost = Error, offer.Usage{}, 0
	if err := mustSign(t, r).Check(agreed()); err != nil {
		t.Error(err)
	}
}
