package e2e_test

import (
	"bytes"
	"cmp"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience of the tests: it tells what works from what hangs, on a machine that is busy with other things, too. Nothing that
// works waits for it.
const (
	startMax = 2 * time.Minute  // from exec to ready
	stopMax  = 20 * time.Second // from SIGTERM to exit: 5 s are promised on a machine that has time
	tick     = 10 * time.Millisecond
	tailMax  = 12 << 10 // bytes of a log shown with a failure
)

// output collects what a process prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func (o *output) tail() string {
	s := o.String()
	return s[max(0, len(s)-tailMax):]
}

// proc is one running binary.
type proc struct {
	name     string
	cmd      *exec.Cmd
	out, log output        // stdout, stderr
	done     chan struct{} // closed when the process ended and err is set
	err      error
}

// spawn says how to start a process beyond its arguments.
type spawn struct {
	name string   // for messages
	bin  string   // folder of the binary; "" = TestMain's
	dir  string   // working folder; "" = the test's
	env  []string // added to the environment
	args []string
}

// start runs one of the built binaries. When the test ends it is killed if it still runs, its log is shown if the
// test failed, and a panic or data race in it fails the test.
func start(t *testing.T, binary string, s spawn) *proc {
	t.Helper()
	p := &proc{name: s.name, done: make(chan struct{})}
	p.cmd = exec.Command(filepath.Join(cmp.Or(s.bin, os.Getenv(binEnv)), binary), s.args...)
	p.cmd.Dir = s.dir
	p.cmd.Env = append(os.Environ(), "GORACE=halt_on_error=1 atexit_sleep_ms=0 exitcode="+strconv.Itoa(raceExit))
	p.cmd.Env = append(p.cmd.Env, s.env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.log
	p.cmd.WaitDelay = stopMax // a grandchild that keeps our pipes open must not hang the test
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", s.name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() { p.finish(t) })
	return p
}

func (p *proc) finish(t *testing.T) {
	_ = p.cmd.Process.Kill() // most have ended by now
	select {
	case <-p.done:
	case <-time.After(2 * stopMax):
		t.Errorf("%s: did not end after SIGKILL", p.name)
	}
	for _, bad := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: ", "http: panic serving"} {
		if strings.Contains(p.log.String(), bad) {
			t.Errorf("%s: log has %q", p.name, bad)
		}
	}
	if t.Failed() {
		t.Logf("---- %s: stdout\n%s\n---- %s: stderr\n%s", p.name, p.out.tail(), p.name, p.log.tail())
	}
}

func (p *proc) pid() int { return p.cmd.Process.Pid }

func (p *proc) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *proc) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("%s: signal %v: %v", p.name, s, err)
	}
}

// kill ends the process as a crash would and waits until it is gone.
func (p *proc) kill(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	p.wait(t, stopMax)
}

// wait returns the exit code; -1 if a signal ended the process.
func (p *proc) wait(t *testing.T, limit time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(limit):
		t.Fatalf("%s: still runs after %v", p.name, limit)
		return -1
	}
}

// stop asks the process to end and checks that it does so in time and with exit code 0.
func (p *proc) stop(t *testing.T, s syscall.Signal) {
	t.Helper()
	began := time.Now()
	p.signal(t, s)
	code := p.wait(t, stopMax)
	t.Logf("%s: ended %v after %v", p.name, time.Since(began).Round(time.Millisecond), s)
	if code != 0 {
		t.Errorf("%s: exit code %d after %v, want 0", p.name, code, s)
	}
}

// logged waits until the process has logged all of the words.
func (p *proc) logged(t *testing.T, limit time.Duration, words ...string) {
	t.Helper()
	eventually(t, limit, p.name+" logs "+strings.Join(words, ", "), func() bool {
		log := p.log.String()
		for _, w := range words {
			if !strings.Contains(log, w) {
				return false
			}
		}
		return true
	})
}

// eventually waits until cond holds; it fails the test after limit.
func eventually(t *testing.T, limit time.Duration, what string, cond func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !cond() {
		if time.Since(began) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(tick)
	}
	return time.Since(began)
}

// descendants are the processes below pid, by what /proc says now.
func descendants(t *testing.T, pid int) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(stats) == 0 {
		t.Skipf("this system has no /proc to find processes in: %v", err)
	}
	children := map[int][]int{}
	for _, path := range stats {
		if child, parent, ok := readStat(path); ok {
			children[parent] = append(children[parent], child)
		}
	}
	var all []int
	for queue := children[pid]; len(queue) > 0; queue = queue[1:] {
		all = append(all, queue[0])
		queue = append(queue, children[queue[0]]...)
	}
	return all
}

// readStat reads pid and parent of a /proc/PID/stat; the name between them may hold anything. Zombies don't count.
func readStat(path string) (pid, parent int, ok bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, false // it ended meanwhile
	}
	name, rest, found := bytes.Cut(text, []byte(" ("))
	end := bytes.LastIndexByte(rest, ')')
	if !found || end < 0 {
		return 0, 0, false
	}
	fields := strings.Fields(string(rest[end+1:]))
	if len(fields) < 2 || fields[0] == "Z" {
		return 0, 0, false
	}
	pid, err1 := strconv.Atoi(string(name))
	parent, err2 := strconv.Atoi(fields[1])
	return pid, parent, err1 == nil && err2 == nil
}

// alive says whether a process exists and is no zombie.
func alive(pid int) bool {
	_, _, ok := readStat(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return ok
}
