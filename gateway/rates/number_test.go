package rates

import (
	"encoding/json"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"cocoon/internal/nanoton"
)

func TestParseMicroUSD(t *testing.T) {
	for text, want := range map[string]int64{
		"3": 3_000_000, "3.014159": 3_014_159, "3.0141595": 3_014_159, "3.01415950000000001": 3_014_160, "3.0141596": 3_014_160,
		"30e-1": 3_000_000, "0.3E+1": 3_000_000, "0.0001": 100, "0.00009999999": 100, "0.00009950": 0, "100000": microMax, "100000.0000005": microMax,
		"100000.0000006": 0, "1e5": microMax, "1e-4": 100, "1e99": 0, "0.000000000000000000000000000000000003e36": 3_000_000,
		"0e5": 0, "-1": 0, "1.": 0, ".5": 0, "01": 0, "1e": 0, "1e+": 0, "1e--1": 0, "1.2.3": 0, "": 0, "e5": 0, "1e1e1": 0, "1e100": 0,
	} {
		if got, err := ParseMicroUSD(text); got != want || (err != nil) != (want == 0) {
			t.Errorf("ParseMicroUSD(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
}

// roundDown rounds to an integer, halves down, for what is not below zero.
func roundDown(r *big.Rat) *big.Int {
	twice := new(big.Rat).Mul(r, big.NewRat(2, 1))
	twice.Sub(twice, big.NewRat(1, 1))
	// The least integer that is not below r - 1/2.
	n, rest := new(big.Int).DivMod(twice.Num(), new(big.Int).Mul(twice.Denom(), big.NewInt(2)), new(big.Int))
	if rest.Sign() > 0 {
		n.Add(n, big.NewInt(1))
	}
	return n
}

func checkDecimal(t interface{ Fatalf(string, ...any) }, text string) {
	micro, err := ParseMicroUSD(text)
	exact, ok := new(big.Rat), false
	if len(text) <= decimalMax && json.Valid([]byte(text)) && strings.Trim(text, "0123456789.eE+-") == "" {
		if i := strings.IndexAny(text, "eE"); i < 0 || len(text)-i < 5 { // big.Rat would write out what is beyond
			exact, ok = exact.SetString(text)
		}
	}
	if !ok {
		if err == nil && !json.Valid([]byte(text)) {
			t.Fatalf("ParseMicroUSD(%q) = %d, which is no number", text, micro)
		}
		return
	}
	want := roundDown(exact.Mul(exact, big.NewRat(1_000_000, 1)))
	inside := exact.Sign() > 0 && want.Cmp(big.NewInt(microMin)) >= 0 && want.Cmp(big.NewInt(microMax)) <= 0
	if inside != (err == nil) || inside && want.Int64() != micro {
		t.Fatalf("ParseMicroUSD(%q) = %d, %v, want %v", text, micro, err, want)
	}
}

func TestParseMicroUSDIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		checkDecimal(t, rapid.StringMatching(`(0|[1-9][0-9]{0,6})(\.[0-9]{0,3}[05]{1,4}[0-9]{0,4})?([eE][+-]?[0-9]{1,2})?`).Draw(t, "text"))
	})
}

func FuzzDecimal(f *testing.F) {
	for _, text := range []string{"3.0141595", "1e-4", "1e400", "-0", "0.00009950", "100000.0000005", "NaN", "٣"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) { checkDecimal(t, text) })
}

func FuzzPath(f *testing.F) {
	f.Add("data.0.last", []byte(`{"data":[{"last":"3.01"}]}`))
	f.Add("0", []byte(`[3e0]`))
	f.Add("a.-1", []byte(`{"a":[1]}`))
	f.Add("a.b", []byte(`{"a":{"b":1,"b":2}}`))
	f.Fuzz(func(t *testing.T, text string, body []byte) {
		path, err := ParsePath(text)
		if err != nil {
			return
		}
		if strings.Join(path, ".") != text {
			t.Fatalf("path %q of %q", path, text)
		}
		micro, err := path.Price(body)
		if (err == nil) != (micro != 0) || err == nil && (micro < microMin || micro > microMax || !json.Valid(body)) {
			t.Fatalf("Price = %d, %v", micro, err)
		}
	})
}

// exactUSD is USD with numbers of any size.
func exactUSD(r Rate, a nanoton.Amount) string {
	n := new(big.Int).Mul(new(big.Int).Abs(big.NewInt(int64(a))), big.NewInt(r.MicroUSD))
	n.Add(n, big.NewInt(perMicro/2)).Div(n, big.NewInt(perMicro)) // microUSD
	dollars, micro := new(big.Int).DivMod(n, big.NewInt(microPerDollar), new(big.Int))
	digits := micro.String()
	text := dollars.String() + "." + strings.Repeat("0", 6-len(digits)) + digits
	if a < 0 && n.Sign() != 0 {
		return "-" + text
	}
	return text
}

func TestUSDIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Rate{MicroUSD: rapid.Int64Range(microMin, microMax).Draw(t, "rate")}
		a := nanoton.Amount(rapid.Int64().Draw(t, "amount"))
		if got, want := r.USD(a), exactUSD(r, a); got != want || r.PerMTok(a) != want {
			t.Fatalf("USD(%d) at %d = %s, want %s", a, r.MicroUSD, got, want)
		}
	})
	for _, a := range []nanoton.Amount{-1 << 63, 1<<63 - 1, 0, 1, -1, 499_999, 500_000} {
		for _, micro := range []int64{microMin, 1000, microMax} {
			if r := (Rate{MicroUSD: micro}); r.USD(a) != exactUSD(r, a) {
				t.Errorf("USD(%d) at %d = %s", a, micro, r.USD(a))
			}
		}
	}
}

// A minority can't move the median out of what the others say, and what is kept is near the median.
func TestMinority(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(3, sourcesMax).Draw(t, "sources")
		liars := rapid.IntRange(0, (n-1)/2).Draw(t, "liars")
		low := rapid.Int64Range(1000, microMax/2).Draw(t, "low")
		high := low + low/200
		var quotes []Quote
		for i := range n {
			from, to := low, high
			if i < liars {
				from, to = microMin, microMax
			}
			quotes = append(quotes, Quote{MicroUSD: rapid.Int64Range(from, to).Draw(t, "quote")})
		}
		quorum := n - liars
		quotes = rapid.Permutation(quotes).Draw(t, "order")
		micro, kept := agree(quotes, quorum)
		if len(kept) < quorum {
			t.Fatalf("no quorum of %d: %v", quorum, quotes)
		}
		// Liars near the others shift it by no more than what is let pass.
		if apart(micro, low, apartPPT+10) {
			t.Fatalf("%d of %v, honest are %d to %d", micro, quotes, low, high)
		}
	})
}
