package nanoton

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestString(t *testing.T) {
	for a, want := range map[Amount]string{
		0: "0 TON", 1: "0.000000001 TON", -1: "-0.000000001 TON", 1_500_000_000: "1.5 TON",
		math.MaxInt64: "9223372036.854775807 TON", math.MinInt64: "-9223372036.854775808 TON",
	} {
		if got := a.String(); got != want {
			t.Errorf("Amount(%d).String() = %q, want %q", int64(a), got, want)
		}
	}
}

func TestParseTONRefuses(t *testing.T) {
	for _, s := range []string{"", ".", "1.", ".5", "1e9", "0.0000000001", "+1", "--1", "1_0", " 1", "9223372036.854775808", "1.-5", "0x1"} {
		if a, err := ParseTON(s); err == nil {
			t.Errorf("ParseTON(%q) = %d, want an error", s, a)
		}
	}
}

func TestParseTONInvertsString(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := Amount(rapid.Int64().Draw(t, "nanoton"))
		s := a.String()
		if got, err := ParseTON(s[:len(s)-len(" TON")]); err != nil || got != a {
			t.Fatalf("ParseTON(%q) = %d, %v, want %d", s, got, err, a)
		}
	})
}
