package contracts

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xssnick/tonutils-go/tvm/cell"
)

// codes has an entry for each contract.
func codes() map[string]func() (*cell.Cell, error) {
	return map[string]func() (*cell.Cell, error){"tab": Tab, "registry": Registry}
}

// HASHES, the embedded files and the constants are of one compilation, and no source is left out.
func TestHashes(t *testing.T) {
	text, err := os.ReadFile("HASHES")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); f[0] != "#" {
			want[f[0]] = f[1] + " " + f[2]
		}
	}
	names, err := filepath.Glob("*.tolk")
	if err != nil || len(names) == 0 {
		t.Fatalf("sources: %v, %v", names, err)
	}
	for _, file := range names {
		name := strings.TrimSuffix(file, ".tolk")
		if codes()[name] == nil {
			t.Errorf("%s has no accessor: add it to contracts.go", file)
			continue
		}
		code, err := codes()[name]()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		boc, err := os.ReadFile(name + ".boc")
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x %x", sha256.Sum256(boc), code.Hash()); got != want[name] {
			t.Errorf("%s is %s, HASHES says %q", name, got, want[name])
		}
	}
	if len(want) != len(names) {
		t.Errorf("HASHES has %d contracts, the folder %d", len(want), len(names))
	}
}

// What is embedded is what the sources compile to, to the byte.
func TestSources(t *testing.T) {
	if _, err := os.Stat("node_modules"); err != nil {
		t.Skip("the compiler is not installed: run 'make contracts'")
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("no node command")
	}
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), node, "compile.mjs", dir).CombinedOutput(); err != nil {
		t.Fatalf("compiling: %v\n%s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) < 2 {
		t.Fatalf("compiled: %v, %v", files, err)
	}
	for _, file := range files {
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		have, err := os.ReadFile(filepath.Base(file))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, have) {
			t.Errorf("%s is not what the sources compile to: run 'make contracts'", filepath.Base(file))
		}
	}
}
