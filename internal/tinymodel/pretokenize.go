package tinymodel

import (
	"strings"
	"unicode"
)

// pretokenize splits as Llama 3's expression does, which Go's regexp can't express (it looks ahead):
//
//	(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
func pretokenize(s string) []string {
	var out []string
	r := []rune(s)
	for len(r) > 0 {
		n := pretokenLen(r)
		out = append(out, string(r[:n]))
		r = r[n:]
	}
	return out
}

// pretokenLen is how many characters the first pre-token of r has; r is not empty.
func pretokenLen(r []rune) int {
	if n := contractionLen(r); n > 0 {
		return n
	}
	if unicode.IsLetter(r[0]) || !isNewline(r[0]) && !unicode.IsNumber(r[0]) && len(r) > 1 && unicode.IsLetter(r[1]) {
		return 1 + runLen(r[1:], unicode.IsLetter)
	}
	if unicode.IsNumber(r[0]) {
		return min(3, runLen(r, unicode.IsNumber))
	}
	k := 0
	if r[0] == ' ' {
		k = 1
	}
	if n := runLen(r[k:], isSign); n > 0 {
		return k + n + runLen(r[k+n:], isNewline)
	}
	return spaceLen(r)
}

// spaceLen is for white space: up to its last newline, else all but the last blank, which goes to the word after it.
func spaceLen(r []rune) int {
	n := runLen(r, unicode.IsSpace)
	for i := n - 1; i >= 0; i-- {
		if isNewline(r[i]) {
			return i + 1
		}
	}
	if n == len(r) || n == 1 {
		return n
	}
	return n - 1
}

func runLen(r []rune, is func(rune) bool) int {
	for i, c := range r {
		if !is(c) {
			return i
		}
	}
	return len(r)
}

func isNewline(c rune) bool { return c == '\r' || c == '\n' }

func isSign(c rune) bool { return !unicode.IsSpace(c) && !unicode.IsLetter(c) && !unicode.IsNumber(c) }

func contractionLen(r []rune) int {
	if r[0] != '\'' {
		return 0
	}
	for _, c := range []string{"'re", "'ve", "'ll", "'s", "'t", "'m", "'d"} {
		if len(r) >= len(c) && strings.EqualFold(string(r[:len(c)]), c) {
			return len(c)
		}
	}
	return 0
}
