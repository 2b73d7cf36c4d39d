package passphrase_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/internal/passphrase"
)

func file(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "passphrase")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFile(t *testing.T) {
	for text, want := range map[string]string{
		"correct horse\n": "correct horse", "correct horse": "correct horse", " a \r\n": " a ", "ü\n": "ü",
	} {
		s := passphrase.Source{File: file(t, text, 0o600)}
		if got, err := s.Read("the key"); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
		if got, err := s.New("the key"); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func TestFileRefused(t *testing.T) {
	for name, path := range map[string]string{
		"empty": file(t, "\n", 0o600), "two lines": file(t, "hunter2\nhunter3\n", 0o600), "open": file(t, "hunter2", 0o644),
		"long": file(t, strings.Repeat("hunter2", 1000), 0o600), "absent": "/nonexistent", "a folder": t.TempDir(),
	} {
		got, err := passphrase.Source{File: path}.Read("the key")
		if err == nil || got != nil || strings.Contains(err.Error(), "hunter") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if name == "empty" && !errors.Is(err, passphrase.ErrEmpty) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNoTerminal(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("some words\n"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	s := passphrase.Source{In: r, Out: io.Discard}
	if _, err := s.Read("the key"); !errors.Is(err, passphrase.ErrNone) {
		t.Errorf("a pipe as a terminal: %v", err)
	}
	if _, err := (passphrase.Source{}).New("the key"); !errors.Is(err, passphrase.ErrNone) {
		t.Errorf("nothing: %v", err)
	}
	if got, err := s.Secret("words: "); err != nil || string(got) != "some words\n" {
		t.Errorf("from a pipe: %q, %v", got, err)
	}
	if _, err := s.Secret("words: "); !errors.Is(err, passphrase.ErrEmpty) {
		t.Errorf("from an empty pipe: %v", err)
	}
}
