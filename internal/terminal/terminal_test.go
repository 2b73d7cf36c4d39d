package terminal

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestIs(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for _, f := range []*os.File{file, null, r, w} {
		if Is(f) {
			t.Errorf("%s is taken for a terminal", f.Name())
		}
	}
	if pty, err := os.Open("/dev/ptmx"); err == nil {
		defer pty.Close()
		if !Is(pty) {
			t.Error("a terminal is not seen")
		}
	}
}

func TestWriterDropsEscapes(t *testing.T) {
	var b bytes.Buffer
	n, err := fmt.Fprint(Writer(&b), "red \x1b[31mtext\x07\r\n\ttab \u009b0m 日本語\x7f")
	if want := "red [31mtext\n\ttab 0m 日本語"; err != nil || b.String() != want {
		t.Errorf("%q, %v, want %q", b.String(), err, want)
	}
	if n != len("red \x1b[31mtext\x07\r\n\ttab \u009b0m 日本語\x7f") {
		t.Errorf("n = %d", n)
	}
}
