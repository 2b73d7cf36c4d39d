// Package terminal tells people from scripts, and keeps what others wrote from driving the user's terminal.
package terminal

import (
	"io"
	"os"
	"strings"
	"unicode"
)

// Is tells whether f is a terminal (a character device that is not the null device).
func Is(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// Clean drops what is neither text nor a line break or tab from s: escape sequences that come out of a model must
// not reach a terminal, which they can make lie.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || !unicode.IsControl(r) {
			return r
		}
		return -1
	}, s)
}

// Writer passes text on to w, cleaned.
func Writer(w io.Writer) io.Writer { return writer{w} }

type writer struct{ w io.Writer }

func (w writer) Write(p []byte) (int, error) {
	if _, err := io.WriteString(w.w, Clean(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}
