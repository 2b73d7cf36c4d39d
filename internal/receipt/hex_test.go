package receipt

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

// Any byte in any place is read as package encoding/hex reads it, but for capitals, which are none of ours.
func TestHex(t *testing.T) {
	good := strings.Repeat("0123456789abcdeffedcba9876543210", 2)
	for at := range good {
		for c := range 256 {
			text := []byte(good)
			text[at] = byte(c)
			want, err := hex.DecodeString(string(text))
			fine := err == nil && bytes.Equal(bytes.ToLower(text), text)
			var d Digest
			if got := d.parse(text); got != fine || isHex(string(text)) != fine {
				t.Fatalf("byte %#x at %d: %v, want %v", c, at, got, fine)
			}
			if !fine {
				continue
			}
			if !bytes.Equal(d[:], want) || d.String() != string(text) {
				t.Fatalf("%s is read as %x and written as %s", text, want, d)
			}
		}
	}
}

func FuzzHex(f *testing.F) {
	f.Add([]byte(strings.Repeat("0a", 32)))
	f.Add([]byte(strings.Repeat("0A", 32)))
	f.Add([]byte(strings.Repeat(":g", 32)))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := ParseDigest(string(text))
		want, wrong := hex.DecodeString(string(text))
		fine := wrong == nil && len(want) == len(d) && bytes.Equal(bytes.ToLower(text), text)
		if (err == nil) != fine || fine && (!bytes.Equal(d[:], want) || d.String() != string(text)) {
			t.Fatalf("%q is read as %s, %v", text, d, err)
		}
	})
}
