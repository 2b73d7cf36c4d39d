package receipts

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cocoon/internal/receipt"
)

// childEnv names the folder for the process that TestChild is.
const childEnv = "COCOON_TEST_RECEIPTS"

// TestChild is no test: it is the process that TestKilled kills. It says what is on disk when it is.
func TestChild(t *testing.T) {
	dir := os.Getenv(childEnv)
	if dir == "" {
		t.Skip("a part of TestKilled")
	}
	s, err := Open(Config{Dir: dir})
	if err != nil {
		fmt.Println("failed", err)
		os.Exit(3)
	}
	s.slack = 0 // compactions, often
	start := os.Getpid() * 1_000_000
	var out sync.Mutex
	say := func(what string, id receipt.Digest) {
		out.Lock()
		defer out.Unlock()
		fmt.Printf("%s %s\n", what, id)
	}
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				n := start + w*100_000 + i
				r := signed(t, n, 0, receipt.Interim)
				f := signed(t, n, 1, receipt.Final)
				say("try", f.ID())
				if err := errors.Join(keep(s, r), keep(s, f)); err != nil {
					fmt.Println("failed", err)
					os.Exit(3)
				}
				say("added", f.ID())
				if i%3 != 0 {
					say("let", f.ID())
					if err := s.Ack(f.ID()); err != nil {
						fmt.Println("failed", err)
						os.Exit(3)
					}
					say("acked", f.ID())
				}
			}
		}()
	}
	select {}
}

// Whenever the worker is killed, what it was told to be on disk is there, and what a gateway acknowledged is not.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	state := map[string]string{} // by ID: the last word on it
	for range 12 {
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
			if kill == nil { // it has begun
				kill = time.AfterFunc(time.Duration(1+rand.IntN(120))*time.Millisecond, func() { _ = cmd.Process.Kill() })
			}
			what, id, _ := strings.Cut(lines.Text(), " ")
			if what == "failed" {
				t.Fatal(lines.Text())
			}
			state[id] = what
		}
		_ = cmd.Wait()
		s := open(t, Config{Dir: dir})
		there := map[string]bool{}
		for r, err := range s.Unacknowledged() {
			if err != nil {
				t.Fatal(err)
			}
			there[r.ID().String()] = true
			if what := state[r.ID().String()]; what == "acked" || what == "" && r.Kind == receipt.Final {
				t.Fatalf("there is %s, of which the last word was %q", r.ID(), what)
			}
		}
		for id, what := range state {
			if what == "added" && !there[id] {
				t.Fatalf("%s was on disk and is gone", id)
			}
			if what != "added" && !there[id] {
				state[id] = "acked" // it never comes back
			} else if what == "try" || what == "let" {
				state[id] = "added"
			}
		}
		_ = s.Close()
	}
	if len(state) < 50 {
		t.Errorf("only %d receipts", len(state))
	}
}

// TestDiskFull fills a disk, as far as the limit on a file's size stands for one.
func TestDiskFull(t *testing.T) {
	if os.Getenv(childEnv) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDiskFull$", "-test.v")
		cmd.Env = append(os.Environ(), childEnv+"="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("%v:\n%s", err, out)
		}
		return
	}
	signal.Ignore(syscall.SIGXFSZ)
	c := Config{Dir: os.Getenv(childEnv)}
	s := open(t, c)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 20_000, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	var want []string
	for n := 1; ; n++ {
		r := signed(t, n, 0, receipt.Final)
		err := keep(s, r)
		if err != nil {
			if !errors.Is(err, syscall.EFBIG) || !strings.Contains(err.Error(), "keeping a receipt") {
				t.Errorf("a full disk: %v", err)
			}
			break
		}
		want = append(want, name(r))
	}
	if err := keep(s, signed(t, 1000, 0, receipt.Final)); !errors.Is(err, syscall.EFBIG) {
		t.Errorf("a full disk, again: %v", err)
	}
	if got := list(t, s); !slices.Equal(got, want) || len(want) < 10 {
		t.Errorf("%d receipts, want %d", len(got), len(want))
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r := signed(t, 2000+len(want), 0, receipt.Final)
		add(t, s, r)
		want = append(want, name(r))
		if got := list(t, s); !slices.Equal(got, want) {
			t.Errorf("with room again: %d receipts, want %d", len(got), len(want))
		}
		_ = s.Close()
		s = open(t, c)
	}
}
