package secret

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

func TestNewKeyShape(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		text := NewKey().Reveal()
		if len(text) != 52 || !strings.HasPrefix(text, "ck-") || seen[text] {
			t.Fatalf("key of %d bytes, repeated %v", len(text), seen[text])
		}
		seen[text] = true
		k, err := ParseKey(text)
		if err != nil {
			t.Fatalf("ParseKey of a new key: %v", err)
		}
		if k.Reveal() != text || k.Hash() != sha256.Sum256([]byte(text)) {
			t.Fatal("ParseKey changed the key")
		}
	}
}

// TestChecksumIsFixed pins the format: keys given out must stay valid, and secret scanners compute this.
func TestChecksumIsFixed(t *testing.T) {
	for _, tc := range []struct{ digits, sum string }{
		{strings.Repeat("0", 43), "0K92s8"},
		{strings.Repeat("Z", 43), "3j5rkp"},
	} {
		if got := checksum("ck-" + tc.digits); got != tc.sum {
			t.Errorf("checksum of %s = %s, want %s", tc.digits, got, tc.sum)
		}
	}
}

func TestBase62Widths(t *testing.T) {
	top := new(big.Int).Lsh(big.NewInt(1), 256)
	top.Sub(top, big.NewInt(1))
	for _, n := range []*big.Int{big.NewInt(0), big.NewInt(61), big.NewInt(62), top} {
		if got := base62(n, digitsLen); len(got) != digitsLen {
			t.Errorf("base62(%v) has %d digits, want %d", n, len(got), digitsLen)
		}
	}
	if got := base62(big.NewInt(1<<32-1), sumLen); len(got) != sumLen {
		t.Errorf("base62(2^32-1) has %d digits, want %d", len(got), sumLen)
	}
}

func TestParseKeyRefuses(t *testing.T) {
	good := NewKey().Reveal()
	for _, tc := range []struct{ name, text, want string }{
		{"empty", "", "empty"},
		{"space", " " + good, "white space"},
		{"newline", good + "\n", "white space"},
		{"prefix", "sk-" + good[3:], `does not begin with "ck-"`},
		{"bare prefix", "ck-", "3 characters long"},
		{"short", good[:51], "51 characters long"},
		{"long", good + "0", "53 characters long"},
		{"symbol", good[:20] + "+" + good[21:], "at byte 20"},
		{"not ASCII", good[:20] + "é" + good[22:], "at byte 20"},
		{"invalid UTF-8", good[:20] + "\xff" + good[21:], "at byte 20"},
		{"inner space", good[:20] + " " + good[21:], "at byte 20"},
		{"checksum", good[:51] + flip(good[51:]), "checksum"},
		{"digit", "ck-" + flip(good[3:4]) + good[4:], "checksum"},
		{"swapped", "ck-01" + good[5:], "checksum"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, err := ParseKey(tc.text)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("ParseKey = %v, want an error with %q", err, tc.want)
			}
			if k.Reveal() != "" {
				t.Error("a refused key is kept")
			}
			for i := 0; i+4 <= len(tc.text); i++ {
				if piece := tc.text[i : i+4]; strings.Contains(err.Error(), piece) {
					t.Errorf("error repeats %q of the key", piece)
				}
			}
		})
	}
}

// TestChecksumFindsTypos: a CRC-32 finds every change of one character.
func TestChecksumFindsTypos(t *testing.T) {
	text := NewKey().Reveal()
	for i := len(prefix); i < len(text); i++ {
		if _, err := ParseKey(text[:i] + flip(text[i:i+1]) + text[i+1:]); err == nil {
			t.Errorf("a typo at byte %d is accepted", i)
		}
	}
}

func flip(c string) string {
	if c == "0" {
		return "1"
	}
	return "0"
}

func TestNeverReveals(t *testing.T) {
	k := NewKey()
	secret := k.Reveal()[3:]
	type outer struct {
		Key    Key
		Ptr    *Key
		Any    any
		hidden Key // fmt prints it by reflection, without Format
		List   []Key
		Map    map[string]Key
	}
	v := outer{k, &k, k, k, []Key{k}, map[string]Key{"k": k}}
	var out bytes.Buffer
	for _, verb := range []string{
		"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%T", "%c", "%U", "%60s", "%-60v", "%!", "%w",
	} {
		for _, x := range []any{k, &k, v, &v, []any{k, &k, v}, fmt.Errorf("wrapped: %v", k)} {
			fmt.Fprintf(&out, verb+"\n", x)
		}
	}
	fmt.Fprintln(&out, k, &k, v, k.String(), k.GoString())
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		log := slog.New(h)
		log.Info("test", "key", k, "ptr", &k, "all", v, "list", []Key{k}, slog.Any("any", k))
		log.With("key", k).WithGroup("g").Info(fmt.Sprint(k))
	}
	for name, enc := range map[string]func(io.Writer) error{
		"json": func(w io.Writer) error { return json.NewEncoder(w).Encode(v) },
		"yaml": func(w io.Writer) error { return yaml.NewEncoder(w).Encode(v) },
		"xml":  func(w io.Writer) error { return xml.NewEncoder(w).Encode([]Key{k}) },
	} {
		before := out.Len()
		if err := enc(&out); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Contains(out.Bytes()[before:], []byte("[redacted]")) {
			t.Errorf("%s does not say [redacted]: %q", name, out.Bytes()[before:])
		}
	}
	for i := 0; i+8 <= len(secret); i++ {
		piece := secret[i : i+8]
		for _, form := range []string{piece, fmt.Sprintf("%x", piece), fmt.Sprintf("%X", piece)} {
			if strings.Contains(out.String(), form) {
				t.Fatalf("the key shows in:\n%s", out.String())
			}
		}
	}
	if got := fmt.Sprintf("%v,%+v,%#v,%s", k, k, k, k); got != "[redacted],[redacted],[redacted],[redacted]" {
		t.Errorf("printed as %q", got)
	}
}

func TestZeroKey(t *testing.T) {
	var k Key
	if k.Reveal() != "" || k.String() != "[redacted]" || k.Hash() != sha256.Sum256(nil) {
		t.Error("the zero key is not the empty one")
	}
}

func TestHash(t *testing.T) {
	for _, n := range []int{0, 1, 52, 127, 128, 129, 1000} {
		text := make([]byte, n)
		for i := range text {
			text[i] = byte(rand.Uint32())
		}
		if Hash(string(text)) != sha256.Sum256(text) {
			t.Errorf("Hash of %d bytes is not SHA-256", n)
		}
	}
	bearer := NewKey().Reveal()
	if n := testing.AllocsPerRun(100, func() { Hash(bearer) }); n != 0 {
		t.Errorf("Hash allocates %v times", n)
	}
}

func BenchmarkHash(b *testing.B) {
	bearer := NewKey().Reveal()
	b.ReportAllocs()
	for b.Loop() {
		Hash(bearer)
	}
}
