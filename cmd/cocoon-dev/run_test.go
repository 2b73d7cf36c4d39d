package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cocoon/internal/ollama"
)

// mainEnv makes this test binary the program itself.
const mainEnv = "COCOON_TEST_DEV_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
	}
	os.Exit(m.Run())
}

// patient is how long a test waits for what takes a second on an idle machine.
const patient = time.Minute

// program is cocoon-dev as a process.
type program struct {
	cmd  *exec.Cmd
	dir  string
	ends chan error

	mu  sync.Mutex
	out bytes.Buffer // both outputs
}

func (p *program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *program) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// launch starts cocoon-dev on free ports with a folder of its own.
func launch(t *testing.T, env []string, args ...string) *program {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{dir: t.TempDir(), ends: make(chan error, 1)}
	p.cmd = exec.Command(self, "--data", p.dir, "--listen", "127.0.0.1:0", "--ops", "127.0.0.1:0")
	p.cmd.Args = append(p.cmd.Args, args...)
	p.cmd.Env = append(append(os.Environ(), mainEnv+"=1", "COCOON_ENGINE_URL="), env...)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.ends <- p.cmd.Wait() }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // most have ended
		if t.Failed() {
			t.Logf("cocoon-dev said:\n%s", p.output())
		}
	})
	return p
}

// code waits for the program's end.
func (p *program) code(t *testing.T) int {
	t.Helper()
	select {
	case <-p.ends:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patient):
		t.Fatal("did not end")
		return -1
	}
}

func (p *program) awaitReady(t *testing.T) {
	t.Helper()
	for begin := time.Now(); !strings.Contains(p.output(), "ready\n"); time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > patient {
			t.Fatal("not ready")
		}
		select {
		case err := <-p.ends:
			t.Fatal("ended: ", err)
		default:
		}
	}
}

func skipIfOllamaRuns(t *testing.T) {
	t.Helper()
	if c, err := net.DialTimeout("tcp", strings.TrimPrefix(usualOllama, "http://"), time.Second); err == nil {
		c.Close()
		t.Skip("an Ollama runs on this machine; cocoon-dev would take it")
	}
}

// The engine dies under a running network: one line says so, and the exit code.
func TestEngineDies(t *testing.T) {
	skipIfOllamaRuns(t)
	bin := filepath.Join("..", "..", "bin")
	_, err := ollama.Build(t.Context(), bin, func(line string) { t.Log(line) })
	if errors.Is(err, ollama.ErrNoGo) || errors.Is(err, ollama.ErrNoCompiler) || errors.Is(err, ollama.ErrNoNetwork) {
		t.Skip("no bin/ollama, and it can't be built here: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	p := launch(t, nil, "--bin", bin)
	p.awaitReady(t)
	text, err := os.ReadFile(filepath.Join(p.dir, envName))
	if err != nil || !strings.Contains(string(text), "export OPENAI_API_KEY='ck-") {
		t.Errorf("env: %q, %v", text, err)
	}
	engines := children(t, p.cmd.Process.Pid)
	if len(engines) != 1 {
		t.Fatalf("children %v", engines)
	}
	if err := syscall.Kill(engines[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := p.code(t); code != 1 {
		t.Errorf("exit code %d", code)
	}
	lines := strings.Split(strings.TrimSpace(p.output()), "\n")
	last := lines[len(lines)-1]
	if !strings.HasPrefix(last, "cocoon-dev: the engine died: ") || !strings.Contains(last, "start cocoon-dev again") {
		t.Errorf("last line: %s", last)
	}
	if _, err := os.Stat(filepath.Join(p.dir, envName)); !os.IsNotExist(err) {
		t.Errorf("env is still there: %v", err)
	}
}

// children of a process: the kernel lists them by the thread that made them.
func children(t *testing.T, pid int) (all []int) {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || len(lists) == 0 {
		t.Skip("this system does not tell a process's children")
	}
	for _, path := range lists {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread ended
		}
		for name := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(name)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, child)
		}
	}
	return all
}

// What is missing is one line with what to do about it, and exit code 1.
func TestWhatIsMissing(t *testing.T) {
	skipIfOllamaRuns(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	tools := t.TempDir()
	script := "#!/bin/sh\necho nosuchcc; echo nosuchcxx\n"
	if err := os.WriteFile(filepath.Join(tools, "go"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env, args []string
		want      string
	}{
		"no go":        {[]string{"PATH=/nonexistent"}, []string{"--bin", t.TempDir()}, "install Go"},
		"no compiler":  {[]string{"PATH=" + tools}, []string{"--bin", t.TempDir()}, "apt-get install build-essential"},
		"no engine":    {nil, []string{"--engine", "http://127.0.0.1:1"}, "no engine answers at http://127.0.0.1:1"},
		"by variable":  {[]string{"COCOON_ENGINE_URL=http://127.0.0.1:1/v1"}, nil, "at http://127.0.0.1:1/v1"},
		"no URL":       {nil, []string{"--engine", "nonsense"}, "nonsense"},
		"busy port":    {nil, []string{"--listen", busy.Addr().String()}, "choose another address with --listen"},
		"no such host": {nil, []string{"--listen", "host"}, "host:port"},
		"data":         {nil, []string{"--data", "/proc/nothing"}, "data folder"},
	} {
		t.Run(name, func(t *testing.T) {
			p := launch(t, c.env, c.args...)
			if code := p.code(t); code != 1 {
				t.Errorf("exit code %d", code)
			}
			lines := strings.Split(strings.TrimSpace(p.output()), "\n")
			if len(lines) != 1 || !strings.HasPrefix(lines[0], "cocoon-dev: ") || !strings.Contains(lines[0], c.want) {
				t.Errorf("said %q, want one line with %q", lines, c.want)
			}
		})
	}
}
