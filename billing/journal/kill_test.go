package journal

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var kills = flag.Int("kills", usualKills, "how often the child process is killed")

// child appends records, and writes some, as fast as it can, and says which were accepted, until it is killed.
func child(dir string) {
	ring, _ := strconv.Atoi(os.Getenv("COCOON_JOURNAL_RING"))
	o := Options{Every: time.Millisecond, SegmentBytes: segmentMin, ring: ring}
	j, err := Open(dir, o)
	if err != nil {
		fmt.Println("open:", err)
		os.Exit(1)
	}
	last := j.Last()
	var wg sync.WaitGroup
	for c := range 16 {
		wg.Go(func() {
			for i := 0; ; i++ {
				r := fmt.Sprintf("%d %d %d %s", last, c, i, strings.Repeat("x", 500))
				var err error
				if c%2 == 0 {
					err = j.Append(context.Background(), []byte(r))
				} else {
					err = j.Write([]byte(r))
				}
				if err != nil {
					fmt.Println("append:", err)
					os.Exit(1)
				}
				fmt.Printf("%d %d %d\n", last, c, i) // one write: lines stay whole
			}
		})
	}
	wg.Wait()
}

// Whatever the child said was accepted is there after kill -9, in each caller's order.
func TestKill(t *testing.T) {
	for name, ring := range map[string]int{"usual ring": 0, "small ring": 3000, "no ring": -1} {
		t.Run(name, func(t *testing.T) { killed(t, fmt.Sprint("COCOON_JOURNAL_RING=", ring)) })
	}
}

// killed kills children again and again.
func killed(t *testing.T, env string) {
	dir := t.TempDir()
	seen := map[string]bool{}
	for range *kills {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "COCOON_JOURNAL_CHILD="+dir, env)
		var complaints strings.Builder // of the race detector, and panics
		cmd.Stderr = &complaints
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		var acked []string
		stop := 1 + rand.IntN(400)
		for len(acked) < stop && lines.Scan() {
			acked = append(acked, lines.Text())
		}
		_ = cmd.Process.Kill()
		for lines.Scan() {
			acked = append(acked, lines.Text())
		}
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
		if complaints.Len() > 0 {
			t.Fatal(complaints.String())
		}
		j := open(t, dir, fast())
		clear(seen)
		next := map[string]int{}
		for _, r := range all(t, j) {
			f := strings.Fields(r)
			caller := f[0] + " " + f[1]
			if want, ok := next[caller]; ok && f[2] != fmt.Sprint(want) {
				t.Fatalf("caller %s: record %s, want %d", caller, f[2], want)
			}
			n, err := strconv.Atoi(f[2])
			if err != nil {
				t.Fatal(err)
			}
			next[caller] = n + 1
			seen[caller+" "+f[2]] = true
		}
		for _, line := range acked {
			if !seen[line] {
				t.Fatalf("%q was acknowledged and is gone", line)
			}
		}
		if err := j.Trim(j.Last()); err != nil {
			t.Fatal(err)
		}
		_ = j.Close()
	}
}

// A real limit of the system on a file's size, as a full disk behaves: the write is cut short.
func TestFileLimit(t *testing.T) {
	const limit, size = 1 << 20, 60_000 // the test's own files stay far below it
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Skip("no limit on file sizes here: ", err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	dir := t.TempDir()
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: limit, Max: was.Max}); err != nil {
		t.Skip("can't set a limit: ", err)
	}
	defer func() { _ = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was) }()
	o := fast()
	o.ring = -1 // it would hold some of them
	j := open(t, dir, o)
	good, failed := 0, error(nil)
	for failed == nil && good < 100 {
		if failed = j.Append(t.Context(), make([]byte, size)); failed == nil {
			good++
		}
	}
	again := j.Append(t.Context(), make([]byte, size))
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	if failed == nil || again == nil {
		t.Fatalf("%d records of %d bytes in a file of %d", good, size, limit)
	}
	if !strings.Contains(failed.Error(), "file too large") || !strings.Contains(failed.Error(), dir) {
		t.Errorf("unclear error: %v", failed)
	}
	add(t, j, "goes on")
	_ = j.Close()
	if got := len(all(t, open(t, dir, fast()))); got != good+1 {
		t.Errorf("%d records, want %d", got, good+1)
	}
}

func TestReadOnlyFolder(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(filepath.Join(file, "journal"), fast())
	if err == nil || !strings.Contains(err.Error(), "opening journal") {
		t.Errorf("got %v", err)
	}
	if os.Getuid() == 0 {
		return // root may write everywhere
	}
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, fast()); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("got %v", err)
	}
}
