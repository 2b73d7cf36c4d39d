package e2e_test

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cocoon/internal/ollama"
)

// TestDev starts the whole network for scripts, twice on the same folder, and ends it by each signal.
func TestDev(t *testing.T) {
	t.Parallel()
	engine := startEcho(t, "m")
	dir := t.TempDir()
	first := startDev(t, dir, engine)
	if !getOK(first.ops + "/healthz") {
		t.Error("the ops listener of DIR/env does not answer")
	}
	if r := first.ask(t, prompt("m", "hi")); r.text != "hello" {
		t.Errorf("the first answer: %v", r)
	}
	for _, sub := range []string{"gateway", "worker"} {
		if _, err := os.Stat(filepath.Join(dir, sub)); err != nil {
			t.Error(err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "env")); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("DIR/env, which holds a key: %v %v", info.Mode(), err)
	}
	first.stop(t, syscall.SIGTERM)
	if _, err := os.Stat(filepath.Join(dir, "env")); err == nil {
		t.Error("DIR/env still names addresses where nobody listens any more")
	}
	second := startDev(t, dir, engine)
	if second.key != first.key {
		t.Error("a second start made another key")
	}
	if r := second.ask(t, prompt("m", "hi")); r.text != "hello" {
		t.Errorf("the second answer: %v", r)
	}
	hold := second.open(t, prompt("m", "hi")) // an idle connection must not delay the end
	hold.until(t, "hello")
	second.stop(t, syscall.SIGINT)
}

// TestDevTerminal looks at what a person sees, runs the curl line that is printed, and ends it by Ctrl-C.
func TestDevTerminal(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"script", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: no terminal to try", tool)
		}
	}
	bin := filepath.Join(os.Getenv(binEnv), "cocoon-dev")
	line := strings.Join([]string{
		"exec", bin, "--data", t.TempDir(), "--listen", freePort(t), "--ops", freePort(t), "--engine", startEcho(t, "m"),
	}, " ")
	ctx, cancel := context.WithTimeout(t.Context(), 2*startMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, "script", "--quiet", "--return", "--command", line, os.DevNull)
	keys, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	screen := new(output)
	cmd.Stdout, cmd.Stderr = screen, screen
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, startMax, "the screen says how to end it", func() bool {
		return strings.Contains(screen.String(), "Ctrl-C")
	})
	text := strings.ReplaceAll(screen.String(), "\r\n", "\n")
	for _, words := range []string{"http://127.0.0.1:", "ck-", "SIMULATED", "NOT CONFIDENTIAL"} {
		if !strings.Contains(text, words) {
			t.Errorf("the screen does not say %q:\n%s", words, text)
		}
	}
	ready := regexp.MustCompile(`(?m)^\s*(curl (?:.*\\\n)*.*)$`).FindStringSubmatch(text)
	if ready == nil {
		t.Fatalf("no curl line on the screen:\n%s", text)
	}
	got, err := exec.CommandContext(ctx, "sh", "-c", ready[1]).Output()
	if err != nil || !strings.Contains(string(got), `"hello"`) {
		t.Errorf("the printed curl line %q gives %q, %v", ready[1], got, err)
	}
	if _, err := io.WriteString(keys, "\x03"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Wait(); err != nil {
		t.Errorf("after Ctrl-C: %v\n%s", err, screen.String())
	}
	if took := time.Since(began); took > stopMax {
		t.Errorf("took %v to end after Ctrl-C", took)
	}
}

// TestDevSignals ends it while a stream runs.
func TestDevSignals(t *testing.T) {
	t.Parallel()
	e := startEngine(t, "m")
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		d := startDev(t, t.TempDir(), e.url)
		stream := d.open(t, prompt("m", "hi", streamed))
		c := e.next(t)
		c.run(t, func() { c.say("one") })
		stream.until(t, `"one"`)
		d.stop(t, s)
		select {
		case <-c.done:
		case <-time.After(rawMax):
			t.Errorf("the engine still works %v after cocoon-dev ended", rawMax)
		}
	}
}

// TestDevRefuses starts what can't work: it ends before it has made a network, with one line that says why and what to do.
func TestDevRefuses(t *testing.T) {
	t.Parallel()
	engine := startEcho(t, "m")
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for name, test := range map[string]struct {
		listen, ops, engine string
		says                []string
	}{
		"busy port":     {busy.Addr().String(), freePort(t), engine, []string{busy.Addr().String(), "--listen"}},
		"busy ops port": {freePort(t), busy.Addr().String(), engine, []string{busy.Addr().String(), "--ops"}},
		"dead engine":   {freePort(t), freePort(t), "http://127.0.0.1:1", []string{"127.0.0.1:1"}},
		"no engine":     {freePort(t), freePort(t), "nonsense", []string{"nonsense"}},
	} {
		dir := t.TempDir()
		out, problem, code := command(t, "cocoon-dev",
			"--data", dir, "--listen", test.listen, "--ops", test.ops, "--engine", test.engine)
		if code <= 0 || code == raceExit || hasLine(out, "ready") {
			t.Errorf("%s: code %d: %s%s", name, code, out, problem)
		}
		if made, err := filepath.Glob(filepath.Join(dir, "*", "*")); len(made) > 0 || err != nil {
			t.Errorf("%s: it made %q before it found out (%v)", name, made, err)
		}
		lines := strings.Split(strings.TrimSpace(problem), "\n")
		last := lines[len(lines)-1]
		for _, word := range test.says {
			if !strings.Contains(last, word) {
				t.Errorf("%s: its last line is %q, want %q in it", name, last, word)
			}
		}
	}
}

// TestDevOwnEngine lets cocoon-dev bring up its own Ollama, and looks for what is left when it ends.
func TestDevOwnEngine(t *testing.T) {
	if conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(t.Context(), "tcp", "127.0.0.1:11434"); err == nil {
		conn.Close()
		t.Skip("an Ollama runs on 127.0.0.1:11434: cocoon-dev would take that one")
	}
	if os.Getenv("COCOON_ENGINE_URL") != "" {
		t.Skip("COCOON_ENGINE_URL is set: cocoon-dev would take that engine")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	if _, err := ollama.Build(ctx, filepath.Join(repoRoot(t), "bin"), func(line string) { t.Log(line) }); err != nil {
		t.Skipf("no real engine: Ollama can't be built: %v", err)
	}
	dir := t.TempDir()
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGKILL} {
		d := startDev(t, dir, "", "--bin", filepath.Join(repoRoot(t), "bin"))
		model := d.shortest(t)
		if r := d.ask(t, prompt(model, capitalOfFrance)); r.text != "The capital of France is Paris." {
			t.Errorf("before %v: %v", s, r)
		}
		family := descendants(t, d.pid())
		if len(family) < 2 {
			t.Fatalf("processes below cocoon-dev: %v, want Ollama and its runner", family)
		}
		if s == syscall.SIGKILL {
			d.kill(t)
		} else {
			d.stop(t, s)
		}
		eventually(t, stopMax, "Ollama and its runner are gone after "+s.String(), func() bool {
			return !slices.ContainsFunc(family, alive)
		})
	}
}
