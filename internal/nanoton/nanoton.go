// Package nanoton is money: a checked integer count of nanoTON, never a float.
package nanoton

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Amount is a count of nanoTON; 1 TON is 1e9. In JSON and YAML it is a plain integer.
type Amount int64

// PerTON is the number of nanoTON in one TON.
const PerTON Amount = 1_000_000_000

// ErrSyntax marks text that is not an amount of TON with at most nine decimals.
var ErrSyntax = errors.New("not an amount of TON")

// String prints the amount in TON, without trailing zeros: 1500000000 is "1.5 TON".
func (a Amount) String() string {
	sign, u := "", uint64(a)
	if a < 0 {
		sign, u = "-", -uint64(a)
	}
	whole, frac := u/uint64(PerTON), u%uint64(PerTON)
	if frac == 0 {
		return fmt.Sprintf("%s%d TON", sign, whole)
	}
	return fmt.Sprintf("%s%d.%s TON", sign, whole, strings.TrimRight(fmt.Sprintf("%09d", frac), "0"))
}

// ParseTON reads a decimal count of TON such as "1.5"; more than nine decimals are refused, never rounded.
func ParseTON(s string) (Amount, error) {
	digits, neg := strings.CutPrefix(s, "-")
	whole, frac, dot := strings.Cut(digits, ".")
	if whole == "" || dot && frac == "" || len(frac) > 9 || strings.ContainsAny(digits, "+-_") {
		return 0, fmt.Errorf("%w: %q", ErrSyntax, s)
	}
	text := whole + frac + strings.Repeat("0", 9-len(frac))
	if neg {
		text = "-" + text
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %q", ErrSyntax, s)
	}
	return Amount(n), nil
}
