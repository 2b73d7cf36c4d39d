package ton

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// ErrMemo marks text that is no memo: its form is not one, or its check digits are wrong.
var ErrMemo = errors.New("not a memo")

// nameMax is how long an account's name may be.
const nameMax = 64

// nameAlphabet are the characters of accounts' names. A character's place, counted from 1, is its value in the check sum.
const nameAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-+@"

// digitAlphabet are the check digits: without i, l, o and u, which look like others.
const digitAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// digitsOf is how many check digits a memo has.
const digitsOf = 4

// The check sum is a number in base memoBase, whose digits are the characters' values, modulo memoPrime, the greatest prime
// that fits into four check digits. A wrong character changes it by (a-b) * base^i, two swapped neighbours by (a-b) *
// (base^i - base^(i+1)): neither is zero, as the prime divides none of the factors. That holds for names of any length.
const (
	memoPrime = 1<<20 - 3
	memoBase  = 5021
)

// Memo is the text that a deposit for a customer's account carries: the name, "-", and four check digits. Any one wrong
// character and any two swapped neighbours are noticed, be they in the name or in the digits; of other text one in a million
// passes. The name has 1 to 64 of A-Z a-z 0-9 . _ - + @, and for any other it is empty.
func Memo(name string) string {
	digits, err := check(name)
	if err != nil {
		return ""
	}
	return name + "-" + digits
}

func check(name string) (string, error) {
	if name == "" || len(name) > nameMax {
		return "", fmt.Errorf("%w: a name of %d characters", ErrMemo, len(name))
	}
	sum := 0
	for i := range len(name) {
		v := strings.IndexByte(nameAlphabet, name[i])
		if v < 0 {
			return "", fmt.Errorf("%w: %q is not in a name", ErrMemo, name[i])
		}
		sum = (sum*memoBase + v + 1) % memoPrime
	}
	var digits [digitsOf]byte
	for i := range digits {
		digits[digitsOf-1-i] = digitAlphabet[sum%32]
		sum /= 32
	}
	return string(digits[:]), nil
}

// ParseMemo reads a memo and gives the name. Blanks and line ends around it do not count. Names are told apart by case, and
// so is the name in a memo: one in another case does not pass, as its check digits are others. The check digits may be in
// either case, with o for 0 and i or l for 1. The error is ErrMemo.
func ParseMemo(text string) (name string, err error) {
	text = strings.TrimFunc(text, unicode.IsSpace)
	cut := len(text) - digitsOf - 1
	if cut < 1 || cut > nameMax || text[cut] != '-' {
		return "", fmt.Errorf("%w: %q", ErrMemo, clip(text))
	}
	name = text[:cut]
	want, err := check(name)
	if err != nil {
		return "", err
	}
	got := strings.NewReplacer("o", "0", "i", "1", "l", "1").Replace(lower(text[cut+1:]))
	if got != want {
		return "", fmt.Errorf("%w: %q: the check digits are wrong", ErrMemo, clip(text))
	}
	return name, nil
}

// lower is for ASCII only: a letter of another script that has one of ours as its lower case is a wrong character.
func lower(text string) string {
	b := []byte(text)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
