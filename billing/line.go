package billing

import (
	"strings"
	"unicode/utf8"

	"cocoon/billing/ledger"
)

// Line is what a request is counted under in the ledger's usage, by day and account, beside its cost. A request with
// the zero value is not counted.
type Line struct {
	Key, Item, User string   // ledger.UsageKeyMax, UsageItemMax and UsageUserMax bytes
	Counts          [4]int64 // in, cached, out and reasoning tokens, or what the caller counts; 0 to ledger.UsageCountMax
}

// clean makes its texts such that the ledger takes them: end users' names are strangers' text, and no reason not to
// settle a request. What is no plain text becomes '?', what is too long is cut.
func (l Line) clean() Line {
	l.Key = cleanText(l.Key, ledger.UsageKeyMax)
	l.Item = cleanText(l.Item, ledger.UsageItemMax)
	l.User = cleanText(l.User, ledger.UsageUserMax)
	return l
}

func cleanText(s string, most int) string {
	if ledger.IsUsageText(s, most) {
		return s
	}
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
	if len(s) > most {
		for most > 0 && !utf8.RuneStart(s[most]) {
			most--
		}
		s = s[:most]
	}
	return s
}

// isPlain says whether the ledger takes its texts as they are.
func (l *Line) isPlain() bool {
	return ledger.IsUsageText(l.Key, ledger.UsageKeyMax) && ledger.IsUsageText(l.Item, ledger.UsageItemMax) &&
		ledger.IsUsageText(l.User, ledger.UsageUserMax)
}
