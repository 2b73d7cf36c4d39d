// Package passphrase is the words that a key is sealed with, as people type them or files hold them, and never shows them.
package passphrase

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// fileMax bounds what is read from a file or a pipe, bytes: a line of words.
const fileMax = 4096

// Errors that callers tell apart.
var (
	// ErrNone says that there is nowhere to read from: no file was named, and there is no terminal to ask at.
	ErrNone = errors.New("no passphrase: name a file that holds it, or run this in a terminal")
	// ErrEmpty says that what was read is empty.
	ErrEmpty = errors.New("it is empty")
	// ErrDiffer says that what was typed twice was not the same.
	ErrDiffer = errors.New("what was typed the second time is something else")
)

// Source says where a passphrase comes from: a file, or else a terminal.
type Source struct {
	// File holds the passphrase as its only line. One that others may read is refused; a pipe will do. Empty: the terminal.
	File string
	// In is the terminal that is asked, if it is one.
	In *os.File
	// Out gets what the person is asked.
	Out io.Writer
}

// Read gives the passphrase of something that is sealed. ErrNone, ErrEmpty.
func (s Source) Read(of string) ([]byte, error) {
	if s.File != "" {
		return readFile(s.File)
	}
	if s.In == nil || !term.IsTerminal(int(s.In.Fd())) {
		return nil, ErrNone
	}
	text, err := s.ask("passphrase of " + of + ": ")
	if err == nil && len(text) == 0 {
		err = fmt.Errorf("reading the passphrase: %w", ErrEmpty)
	}
	return text, err
}

// New gives a passphrase for something that will be sealed. A person has to type it twice. ErrNone, ErrEmpty, ErrDiffer.
func (s Source) New(of string) ([]byte, error) {
	text, err := s.Read(of)
	if err != nil || s.File != "" {
		return text, err
	}
	again, err := s.ask("the same again: ")
	if err == nil && !bytes.Equal(text, again) {
		err = fmt.Errorf("reading the passphrase: %w", ErrDiffer)
	}
	if err != nil {
		return nil, err
	}
	return text, nil
}

// Secret gives another secret, such as the words of a wallet: typed into a terminal, where it is not shown, or else all that
// the input holds, up to some 4 kB. ErrEmpty.
func (s Source) Secret(prompt string) (text []byte, err error) {
	if s.In == nil {
		return nil, ErrNone
	}
	if term.IsTerminal(int(s.In.Fd())) {
		text, err = s.ask(prompt)
	} else {
		text, err = readAll(s.In)
	}
	if err == nil && len(bytes.TrimSpace(text)) == 0 {
		err = fmt.Errorf("reading the secret: %w", ErrEmpty)
	}
	return text, err
}

// ask has a person type a line that is not shown.
func (s Source) ask(prompt string) ([]byte, error) {
	if _, err := io.WriteString(s.Out, prompt); err != nil {
		return nil, err
	}
	text, err := term.ReadPassword(int(s.In.Fd()))
	_, _ = io.WriteString(s.Out, "\n") // the line break was not shown either
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading from the terminal: %w", err)
	}
	return text, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the passphrase: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the passphrase: %w", err)
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("reading the passphrase: %s: others can read it: mode %#o, want 0600", path, info.Mode().Perm())
	}
	text, err := readAll(f)
	if err != nil {
		return nil, fmt.Errorf("reading the passphrase from %s: %w", path, err)
	}
	line := bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	if bytes.ContainsAny(line, "\r\n") {
		return nil, fmt.Errorf("reading the passphrase: %s has more than one line", path)
	}
	if len(line) == 0 {
		return nil, fmt.Errorf("reading the passphrase from %s: %w", path, ErrEmpty)
	}
	return line, nil
}

func readAll(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, fileMax+1))
	if err == nil && len(text) > fileMax {
		err = fmt.Errorf("more than %d bytes", fileMax)
	}
	return text, err
}
