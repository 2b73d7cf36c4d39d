package receipt

import (
	"strings"
	"testing"

	"cocoon/router/offer"
)

func TestDealText(t *testing.T) {
	d := Deal{Digest{0xab}, Unprotected, offer.Price{In: 1_000_000, Cached: 500_000, Out: 3_000_000}}
	want := "ab" + strings.Repeat("0", 62) + " unprotected 1000000 500000 3000000"
	if got := d.String(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestParseDeal(t *testing.T) {
	digest := strings.Repeat("0a", 32)
	for text, ok := range map[string]bool{
		digest + " gateway 1 0 3":                    true,
		digest + " simulated 1000000000000 0 0":      true,
		digest + " later 1 0 3":                      true, // a mode that we may not serve
		"":                                           false,
		digest:                                       false,
		digest + " gateway 1 0":                      false,
		digest + " gateway 1 0 3 ":                   false,
		digest + "  gateway 1 0 3":                   false,
		digest + " gateway 1 0 +3":                   false,
		digest + " gateway 1 0 03":                   false,
		digest + " gateway 1 0 -3":                   false,
		digest + " gateway 1 0 1000000000001":        false,
		digest + " gateway 1 0 9223372036854775808":  false,
		strings.ToUpper(digest) + " gateway 1 0 3":   false,
		digest[1:] + " gateway 1 0 3":                false,
		digest + " gateway 1 0 3, " + digest:         false,
		digest + " gateway 1 0 3\n":                  false,
		digest + " gateway 1 0 3 " + digest + "0000": false,
	} {
		got, err := ParseDeal(text)
		if (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
		if ok && got.String() != text {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}

func FuzzDeal(f *testing.F) {
	f.Add(strings.Repeat("0a", 32) + " gateway 1 0 3")
	f.Add(strings.Repeat("0", 64) + "    0")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseDeal(text)
		if err == nil && (got.String() != text || got.Price.Validate() != nil) {
			t.Errorf("%q is taken as %q", text, got)
		}
	})
}
