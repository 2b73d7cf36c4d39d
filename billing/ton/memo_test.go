package ton

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestMemoForm is the form that is in people's address books.
func TestMemoForm(t *testing.T) {
	for name, want := range map[string]string{
		"a": "a-000v", "alice": "alice-95tk", "Alice": "Alice-t8x9", "bob@example.org": "bob@example.org-mpd0", "0": "0-001n",
		strings.Repeat("x", 64): strings.Repeat("x", 64) + "-jzhb", "a-b": "a-b-es27",
	} {
		if got := Memo(name); got != want {
			t.Errorf("Memo(%q) = %q, not %q", name, got, want)
		}
		for _, text := range []string{want, " " + want + "\r\n", name + strings.ToUpper(want[len(name):])} {
			if got, err := ParseMemo(text); err != nil || got != name {
				t.Errorf("ParseMemo(%q) = %q, %v", text, got, err)
			}
		}
	}
	if got, err := ParseMemo("a-OOoV"); err != nil || got != "a" {
		t.Errorf("look-alikes: %q, %v", got, err)
	}
	for _, name := range []string{"", strings.Repeat("x", 65), "a b", "ä", "a\x00", "a/b"} {
		if m := Memo(name); m != "" {
			t.Errorf("Memo(%q) = %q", name, m)
		}
	}
	for _, text := range []string{
		"", "-", "alice", "alice-", "-0000", "alice 95tk", "alice-95t", "alice-95tkv", "ALICE-95tk", "Alice-95tk", "al ice-95tk",
		"alice -95tk", "alice-95tu", "alice-95t\u212a", strings.Repeat("x", 65) + "-0000", strings.Repeat("x", 1<<20),
	} {
		if name, err := ParseMemo(text); !errors.Is(err, ErrMemo) || name != "" {
			t.Errorf("ParseMemo(%.20q) = %q, %v", text, name, err)
		}
	}
}

// TestMemoPrime is what the proof stands on: the modulus is prime, greater than any difference of two values, and fits into
// the digits; and the base is neither 0 nor 1 in it.
func TestMemoPrime(t *testing.T) {
	for d := 2; d*d <= memoPrime; d++ {
		if memoPrime%d == 0 {
			t.Fatalf("%d divides %d", d, memoPrime)
		}
	}
	if len(digitAlphabet) != 32 || memoPrime > 1<<(5*digitsOf) || memoPrime <= len(nameAlphabet) || memoBase%memoPrime < 2 {
		t.Error("the parameters do not fit")
	}
	if strings.ContainsAny(digitAlphabet, "ilou-") {
		t.Error("look-alikes among the digits")
	}
}

// TestMemoDifferences: in names of up to 12 characters, and up to 64, the check sum is linear: what one wrong character
// and what two swapped neighbours change it by depends on the place and on the two characters only. All of these: none is
// zero.
func TestMemoDifferences(t *testing.T) {
	weight := 1
	for place := range nameMax {
		for a := range nameAlphabet {
			for b := range nameAlphabet {
				if a == b {
					continue
				}
				d := ((a-b)%memoPrime + memoPrime) % memoPrime
				if d*weight%memoPrime == 0 {
					t.Fatalf("place %d: %c and %c are the same", place, nameAlphabet[a], nameAlphabet[b])
				}
				if d*((weight-weight*memoBase%memoPrime+memoPrime)%memoPrime)%memoPrime == 0 {
					t.Fatalf("place %d: %c%c and the other way are the same", place, nameAlphabet[a], nameAlphabet[b])
				}
			}
		}
		weight = weight * memoBase % memoPrime
	}
}

// TestMemoErrors makes every single error, in the name, the dash and the digits, in memos of each length up to 12.
func TestMemoErrors(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	wrong := func(name, text string) {
		if got, err := ParseMemo(text); err == nil && got != name {
			t.Fatalf("%q, of %q, passes as %q", text, name, got)
		} else if err == nil && !sameDigits(Memo(name), text) {
			t.Fatalf("%q, of %q, passes", text, name)
		}
	}
	for length := 1; length <= 12; length++ {
		for range 2 {
			b := make([]byte, length)
			for i := range b {
				b[i] = nameAlphabet[r.IntN(len(nameAlphabet))]
			}
			name := string(b)
			memo := Memo(name)
			for i := range len(memo) {
				for c := range 256 {
					if byte(c) != memo[i] {
						wrong(name, memo[:i]+string([]byte{byte(c)})+memo[i+1:])
					}
				}
				if i > 0 && memo[i] != memo[i-1] {
					wrong(name, memo[:i-1]+memo[i:i+1]+memo[i-1:i]+memo[i+1:])
				}
			}
		}
	}
	// Names of two characters, of all second ones, with all their errors in the name.
	for _, a := range "Az0.@" {
		for _, b := range nameAlphabet {
			name := string(a) + string(b)
			digits := Memo(name)[2:]
			for _, c := range nameAlphabet {
				if c != a {
					wrong(name, string(c)+string(b)+digits)
				}
				if c != b {
					wrong(name, string(a)+string(c)+digits)
				}
			}
			if a != b {
				wrong(name, string(b)+string(a)+digits)
			}
		}
	}
}

// sameDigits tells whether a text is the memo but for how its check digits are written.
func sameDigits(memo, text string) bool {
	cut := len(memo) - digitsOf
	read := strings.NewReplacer("o", "0", "i", "1", "l", "1").Replace(strings.ToLower(text[min(cut, len(text)):]))
	return len(text) == len(memo) && text[:cut] == memo[:cut] && read == memo[cut:] || strings.TrimSpace(text) == memo
}

func FuzzMemo(f *testing.F) {
	f.Add("alice-95tk")
	f.Add(" x-0000 ")
	f.Fuzz(func(t *testing.T, text string) {
		name, err := ParseMemo(text)
		if err != nil {
			if name != "" || !errors.Is(err, ErrMemo) {
				t.Errorf("%q, %v", name, err)
			}
			return
		}
		if again, err := ParseMemo(Memo(name)); err != nil || again != name {
			t.Errorf("%q is read as %q, and that as %q, %v", text, name, again, err)
		}
	})
}
