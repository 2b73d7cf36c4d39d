package tally

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"cocoon/internal/treeproof"
)

// childEnv names the folder for the process that TestChild is.
const childEnv = "COCOON_TEST_TALLY"

// TestChild is no test: it is the process that TestKilled kills. It says what is in the log, and what was signed.
func TestChild(t *testing.T) {
	dir := os.Getenv(childEnv)
	if dir == "" {
		t.Skip("a part of TestKilled")
	}
	l, err := Open(Config{Dir: dir, Origin: origin, Key: key(1), every: 20})
	if err != nil {
		fmt.Println("failed", err)
		os.Exit(3)
	}
	start := os.Getpid() * 1_000_000
	var out sync.Mutex
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				n := start + w*100_000 + i
				at, err := l.Append(signed(n))
				if err != nil {
					fmt.Println("failed", err)
					os.Exit(3)
				}
				out.Lock()
				fmt.Println("at", at[0], n)
				if i%10 == 0 {
					text, err := l.Head()
					if err != nil {
						fmt.Println("failed", err)
						os.Exit(3)
					}
					h, _ := treeproof.ParseHead(text, nil)
					fmt.Println("head", h.Tree.N, h.Tree.Hash)
				}
				out.Unlock()
			}
		}()
	}
	select {}
}

// Whenever the gateway is killed, what was in the log is there at its index, and the tree continues each that was
// signed.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	at := map[int64]int{}
	heads := map[int64]string{}
	for range 7 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		var kill *time.Timer
		for lines.Scan() {
			if kill == nil {
				kill = time.AfterFunc(time.Duration(1+rand.IntN(120))*time.Millisecond, func() { _ = cmd.Process.Kill() })
			}
			var n int64
			var request int
			var hash string
			if _, err := fmt.Sscanf(lines.Text(), "at %d %d", &n, &request); err == nil {
				at[n] = request
			} else if _, err := fmt.Sscanf(lines.Text(), "head %d %s", &n, &hash); err == nil {
				heads[n] = hash
			} else {
				t.Fatal(lines.Text())
			}
		}
		_ = cmd.Wait()
		l := open(t, Config{Dir: dir, Origin: origin, Key: key(1), every: 20})
		for n, request := range at {
			if r, err := l.Get(n); err != nil || r.ID() != signed(request).ID() {
				t.Fatalf("index %d: %v", n, err)
			}
		}
		for n, hash := range heads {
			if got, err := tlog.TreeHash(n, l.index); err != nil || got.String() != hash {
				t.Fatalf("the tree of %d is %v, %v, and %s was signed", n, got, err, hash)
			}
		}
		if _, err := audited(l); err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
	}
	if len(at) < 20 || len(heads) == 0 {
		t.Errorf("only %d receipts, %d heads", len(at), len(heads))
	}
}
