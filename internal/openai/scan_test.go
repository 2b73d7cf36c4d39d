package openai

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// TestStringEnd holds the search for a string's end against a walk that steps over each escape.
func TestStringEnd(t *testing.T) {
	walk := func(b []byte, from int) int {
		for i := from; i < len(b); i++ {
			switch b[i] {
			case '"':
				return i
			case '\\':
				i++
			}
		}
		return -1
	}
	rng := rand.New(rand.NewPCG(1, 2))
	pieces := []string{`"`, `\`, `\\`, `\"`, `a`, `abcdefgh`, strings.Repeat(`\`, 9), strings.Repeat(`\`, 32)}
	for range 20_000 {
		var text strings.Builder
		for range rng.IntN(12) {
			text.WriteString(pieces[rng.IntN(len(pieces))])
		}
		b := []byte(text.String())
		from := rng.IntN(len(b) + 1)
		if got, want := stringEnd(b, from), walk(b, from); got != want {
			t.Fatalf("stringEnd(%q, %d) = %d, want %d", b, from, got, want)
		}
	}
}

// TestLinear: bodies made to be slow are read in one go over their bytes. It has no clock: the test's own time limit
// would end a quadratic scan.
func TestLinear(t *testing.T) {
	const size = 4 << 20
	for name, content := range map[string]string{
		"backslashes": strings.Repeat(`\`, size),
		"quotes":      strings.Repeat(`\"`, size/2),
		"mixed":       strings.Repeat(`\\\"`, size/4),
		"escapes":     strings.Repeat(`\u005c`, size/6),
	} {
		body := []byte(`{"model":"m","` + content + `":"` + content + `","a":["` + content + `"]}`)
		if h, err := ReadHead(body); err != nil || h.Model != "m" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
