package ledger

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cocoon/internal/nanoton"
)

// job is what a child process does.
type job struct {
	Do         string // "op": one of writeOps that dies at a step; "load": transfers until it is killed; "spend": spendAll; "put": a document
	URL        string
	Op         int
	Mode, Step int
	Name       string
}

// child is the child process. What it says on its output is true: it says so afterwards.
func child(text string) int {
	var j job
	err := json.Unmarshal([]byte(text), &j)
	if err == nil {
		err = j.run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (j job) run(ctx context.Context) error {
	if j.Do == "op" {
		l, f, err := openFaulty(ctx, j.URL)
		if err != nil {
			return err
		}
		*f = fault{mode: j.Mode, step: j.Step}
		return errors.Join(writeOps[j.Op].do(ctx, l), l.Close())
	}
	l, err := Open(ctx, j.URL)
	if err != nil {
		return err
	}
	if j.Do == "put" { // as an operator's command beside a running gateway
		_, err := l.PutDocument(ctx, Document{Kind: "key", ID: j.Name, Body: []byte(j.Name)})
		paid := pay(j.Name, "chain", "fees", 1)
		return errors.Join(err, l.Post(ctx, []Transfer{paid}), l.Close())
	}
	if j.Do == "spend" {
		var failed complaint
		fmt.Println(int64(spendAll(&failed, l, j.Name, 40)))
		return errors.Join(failed.error, l.Close())
	}
	for i := 0; ; i++ {
		batch := loadBatch(j.Name, i)
		if err := l.Post(ctx, batch); err != nil {
			return err
		}
		fmt.Println(i)
	}
}

// complaint collects what a function for tests complains of.
type complaint struct{ error }

func (c *complaint) Errorf(format string, args ...any) {
	c.error = errors.Join(c.error, fmt.Errorf(format, args...))
}

// loadBatch are the transfers of one round of load.
func loadBatch(name string, i int) []Transfer {
	var batch []Transfer
	for k := range 1 + i%7 {
		batch = append(batch, pay(fmt.Sprintf("%s %d %d", name, i, k), "chain", Account("customer:c"+strconv.Itoa(k)), 1))
	}
	return batch
}

func (j job) command(t testing.TB) *exec.Cmd {
	text, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	return cmd
}

// A process that dies after any step of a write, which is before the next, leaves a file that opens, adds up, and where
// doing it again does it once. To PostgreSQL that is a connection that breaks, as in TestFaults.
func TestKilledAtEveryStep(t *testing.T) {
	url := backends[0].url(t)
	l := mustOpen(t, url)
	for i, op := range writeOps {
		if op.name != "commit" && op.name != "reclaim" {
			continue // the other ops have fewer steps, and they are the same
		}
		for step, killed := 0, true; killed; step++ {
			wipe(t, l)
			setUp(t, l)
			out, err := job{Do: "op", URL: url, Op: i, Mode: killAfter, Step: step}.command(t).CombinedOutput()
			killed = err != nil
			if killed && err.Error() != "signal: killed" {
				t.Fatalf("%s: %v: %s", op.name, err, out)
			}
			again := mustOpen(t, url)
			doAgain(t, again, fmt.Sprintf("%s, killed at %d", op.name, step), op.do, op.done)
			again.Close()
		}
	}
}

// A process that is killed at any moment has every transfer that it said to be posted, and of its last batch all or
// none.
func TestKilledUnderLoad(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		l := mustOpen(t, url)
		posted := 0
		for round := range 8 {
			name := fmt.Sprint("round ", round)
			cmd := job{Do: "load", URL: url, Name: name}.command(t)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines, last := bufio.NewScanner(out), -1
			for lines.Scan() {
				if last, err = strconv.Atoi(lines.Text()); err != nil {
					t.Fatal(err)
				}
				if last == 2 { // under way
					time.AfterFunc(rand.N(30*time.Millisecond), func() { _ = cmd.Process.Kill() })
				}
			}
			if err := cmd.Wait(); last < 2 || err == nil {
				t.Fatalf("the child ended by itself after %d: %v", last, err)
			}
			for i := 0; ; i++ {
				batch := loadBatch(name, i)
				ids := make([]ID, len(batch))
				for k := range batch {
					ids[k] = batch[k].ID
				}
				has, err := l.Has(t.Context(), ids...)
				if err != nil {
					t.Fatal(err)
				}
				some, all := strings.Contains(fmt.Sprint(has), "true"), !strings.Contains(fmt.Sprint(has), "false")
				if some != all || i <= last && !all || i > last+1 && some {
					t.Fatalf("%s: of batch %d, %v is posted; the child said %d", name, i, has, last)
				}
				if !all {
					break
				}
				posted += len(batch)
			}
		}
		if report := wantSound(t, l); report.Transfers != posted {
			t.Errorf("%d transfers, want %d", report.Transfers, posted)
		}
	})
}

// Three processes spend one customer's money at once.
func TestProcessesSpend(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		const money = 1200
		l := mustOpen(t, url)
		mustPost(t, l, pay("in", "chain", "customer:ann", money))
		var spent atomic.Int64
		var wg sync.WaitGroup
		for i := range 3 {
			cmd := job{Do: "spend", URL: url, Name: fmt.Sprint("g", i)}.command(t)
			wg.Go(func() {
				var complaints bytes.Buffer
				cmd.Stderr = &complaints
				out, err := cmd.Output()
				n, err2 := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
				if err = errors.Join(err, err2); err != nil {
					t.Errorf("%v: %s", err, &complaints)
				}
				spent.Add(n)
			})
		}
		wg.Wait()
		if spent.Load() != money {
			t.Errorf("spent %d of %d", spent.Load(), money)
		}
		wantBalances(t, l, map[Account]nanoton.Amount{"chain": -money, "fees": money})
		wantSound(t, l)
	})
}

// smallDisk mounts a file system of a few hundred KiB.
func smallDisk(t *testing.T) string {
	dir := t.TempDir()
	if err := syscall.Mount("ledger", dir, "tmpfs", 0, "size=700k"); err != nil {
		t.Skipf("mounting a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A full disk is an error that says so; nothing that was posted is lost, and with room again it goes on by itself.
func TestDiskFull(t *testing.T) {
	dir := smallDisk(t)
	l := mustOpen(t, "sqlite:"+dir+"/ledger.db")
	rest, err := os.Create(dir + "/rest")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(rest, io.LimitReader(zeros{}, 300<<10)); err != nil {
		t.Fatal(err)
	}
	if err := rest.Close(); err != nil {
		t.Fatal(err)
	}
	posted, full := 0, 0
	want := map[Account]nanoton.Amount{}
	for i := 0; full < 3; i++ {
		if i > 10_000 {
			t.Fatal("the disk does not get full")
		}
		err := l.Post(t.Context(), loadBatch("full", i))
		if err == nil {
			for _, one := range loadBatch("full", i) {
				posted++
				want["chain"]--
				want[one.Legs[1].Account]++
			}
			continue
		}
		if full++; !strings.Contains(err.Error(), "full") {
			t.Fatalf("the error does not say why: %v", err)
		}
	}
	wantBalances(t, l, want)
	wantSound(t, l)
	if err := os.Remove(rest.Name()); err != nil {
		t.Fatal(err)
	}
	mustPost(t, l, pay("after", "chain", "customer:c0", 1))
	want["chain"]--
	want["customer:c0"]++
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again := mustOpen(t, "sqlite:"+dir+"/ledger.db")
	wantBalances(t, again, want)
	if report := wantSound(t, again); report.Transfers != posted+1 {
		t.Errorf("%d transfers, want %d", report.Transfers, posted+1)
	}
	again.Close()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestReadOnlyDisk(t *testing.T) {
	dir := smallDisk(t)
	l := mustOpen(t, "sqlite:"+dir+"/ledger.db")
	mustPost(t, l, pay("in", "chain", "fees", 3))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("ledger", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Skipf("mounting it read-only: %v", err)
	}
	for _, name := range []string{"ledger.db", "new.db"} {
		if _, err := Open(t.Context(), "sqlite:"+dir+"/"+name); !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), name) {
			t.Errorf("Open on a read-only disk: %v", err)
		}
	}
}

func TestFileMode(t *testing.T) {
	dir := t.TempDir()
	mustPost(t, mustOpen(t, "sqlite:"+dir+"/ledger.db"), pay("in", "chain", "fees", 3))
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 3 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		if info, err := file.Info(); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", file.Name(), info.Mode(), err)
		}
	}
}

// PostgreSQL restarts under load, without warning: errors come out, and callers that post again lose nothing.
func TestPostgresRestart(t *testing.T) {
	url := backends[1].url(t)
	const writers, rounds = 4, 60
	l := mustOpen(t, url)
	var failures atomic.Int64
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range rounds {
				batch := loadBatch(fmt.Sprint("writer ", w), i)
				deadline := time.Now().Add(30 * time.Second)
				for err := l.Post(context.Background(), batch); err != nil; err = l.Post(context.Background(), batch) {
					failures.Add(1)
					if time.Now().After(deadline) {
						t.Errorf("it does not come back: %v", err)
						return
					}
					time.Sleep(10 * time.Millisecond)
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	for range 2 {
		time.Sleep(30 * time.Millisecond)
		cluster.Restart(t)
	}
	wg.Wait()
	if failures.Load() == 0 {
		t.Error("nobody noticed the restart")
	}
	want, transfers := map[Account]nanoton.Amount{}, 0
	for i := range rounds {
		for _, one := range loadBatch("", i) {
			transfers += writers
			want["chain"] -= writers
			want[one.Legs[1].Account] += writers
		}
	}
	wantBalances(t, l, want)
	if report := wantSound(t, l); report.Transfers != transfers {
		t.Errorf("%d transfers, want %d", report.Transfers, transfers)
	}
}
