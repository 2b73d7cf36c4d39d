package rates

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	decimalMax  = 64 // characters of a number: more precision than any price has
	exponentMax = 99 // of a number: far beyond all that counts
	microDigits = 6  // decimals of a microUSD
	countDigits = 12 // digits of microMax
)

// errNumber marks what is no number, or none that a price can be.
var errNumber = errors.New("not a price")

// ParseMicroUSD reads a decimal number as JSON writes it ("3.1415", "2e-1") exactly, and gives it in millionths. What is
// beyond them is rounded to the nearest, halves down. Below 0.0001 or above 100,000 it is an error: something else than
// the price of a coin.
func ParseMicroUSD(text string) (int64, error) {
	fail := func() (int64, error) { return 0, fmt.Errorf("%w: %.80q", errNumber, text) }
	if len(text) > decimalMax {
		return fail()
	}
	mantissa, exponent, err := cutExponent(text)
	if err != nil {
		return fail()
	}
	whole, frac, dot := strings.Cut(mantissa, ".")
	if !isDigits(whole) || len(whole) > 1 && whole[0] == '0' || dot && !isDigits(frac) {
		return fail()
	}
	digits := strings.TrimLeft(whole+frac, "0")
	shift := exponent - len(frac) + microDigits // the number is digits x 10^shift millionths
	if len(digits) == 0 || len(digits)+shift > countDigits {
		return fail()
	}
	up := false
	if shift >= 0 {
		digits += strings.Repeat("0", shift)
	} else {
		keep := max(len(digits)+shift, 0)
		up = len(digits)+shift >= 0 && isAboveHalf(digits[keep:])
		digits = "0" + digits[:keep]
	}
	micro, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return fail()
	}
	if up {
		micro++
	}
	if micro < microMin || micro > microMax {
		return fail()
	}
	return micro, nil
}

// cutExponent takes an exponent off a number.
func cutExponent(text string) (mantissa string, exponent int, err error) {
	i := strings.IndexAny(text, "eE")
	if i < 0 {
		return text, 0, nil
	}
	sign, digits := 1, text[i+1:]
	if rest, minus := strings.CutPrefix(digits, "-"); minus {
		sign, digits = -1, rest
	} else {
		digits = strings.TrimPrefix(digits, "+")
	}
	if !isDigits(digits) {
		return "", 0, errNumber
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n > exponentMax {
		return "", 0, errNumber
	}
	return text[:i], sign * n, nil
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// isAboveHalf says whether 0.digits is more than a half.
func isAboveHalf(digits string) bool {
	return digits[0] > '5' || digits[0] == '5' && strings.Trim(digits[1:], "0") != ""
}
