package ollama

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// binary is the repository's own build; tests that need it skip where it can't be made.
func binary(t *testing.T) string {
	t.Helper()
	path, err := Build(t.Context(), filepath.Join("..", "..", "bin"), func(line string) { t.Log(line) })
	for _, missing := range []error{ErrNoGo, ErrNoCompiler, ErrNoNetwork} {
		if errors.Is(err, missing) {
			t.Skip("no bin/ollama, and it can't be built here: ", err)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Two builders in one empty folder: one builds, both get a binary that runs.
func TestBuildTwiceAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("links Ollama")
	}
	binary(t) // warms Go's build cache, or skips
	dir := t.TempDir()
	var mu sync.Mutex
	var said []string
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			path, err := Build(t.Context(), dir, func(line string) {
				mu.Lock()
				defer mu.Unlock()
				said = append(said, line)
			})
			if err != nil || path != filepath.Join(dir, "ollama") {
				t.Errorf("Build: %q, %v", path, err)
			}
		})
	}
	wg.Wait()
	if n := strings.Count(strings.Join(said, "\n"), "built Ollama "+Version); n != 1 {
		t.Errorf("built %d times: %q", n, said)
	}
	cmd := exec.Command(filepath.Join(dir, "ollama"), "--version")
	cmd.Env = []string{"HOME=" + dir, "OLLAMA_HOST=127.0.0.1:1"}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), Version) {
		t.Errorf("ollama --version: %q, %v", out, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "ollama.new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: ollama.new, %v", err)
	}
}

// A folder with the right stamp needs no tools at all; one with another stamp is built again.
func TestBuildLooksAtTheStamp(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	b := &builder{
		binary: filepath.Join(dir, "ollama"), stamp: filepath.Join(dir, "ollama.version"), flags: compilerFlags(),
	}
	write(t, b.binary, "#!/bin/sh\n")
	if _, err := Build(t.Context(), dir, discard); !errors.Is(err, ErrNoGo) {
		t.Errorf("without a stamp: %v, want %v", err, ErrNoGo)
	}
	write(t, b.stamp, b.recipe())
	if path, err := Build(t.Context(), dir, discard); err != nil || path != b.binary {
		t.Errorf("with the stamp: %q, %v", path, err)
	}
	write(t, b.stamp, strings.Replace(b.recipe(), Version, "0.0.1", 1))
	if _, err := Build(t.Context(), dir, discard); !errors.Is(err, ErrNoGo) {
		t.Errorf("with another stamp: %v, want %v", err, ErrNoGo)
	}
}

// What can be missing is said in one line with the remedy.
func TestBuildSaysWhatIsMissing(t *testing.T) {
	for name, c := range map[string]struct {
		script string // what the go command does, but for "go env CC CXX"
		want   error
		text   string
	}{
		"compiler": {
			`cc=nosuchcc`, ErrNoCompiler, `"nosuchcc" is not there; on Debian: apt-get install build-essential`,
		},
		"network": {
			`echo 'go: x@v1: Get "https://goproxy.example/x": dial tcp: lookup goproxy.example: no such host' >&2; exit 1`,
			ErrNoNetwork, "no such host",
		},
		"network in json": {
			`echo '{"Error":"x@v1: dial tcp 192.0.2.1:443: i/o timeout"}'; exit 1`,
			ErrNoNetwork, "192.0.2.1",
		},
		"disk": {`echo "write /tmp/x: no space left on device" >&2; exit 1`, ErrDiskFull, "2 GB"},
		"old go": {
			`echo "go: go.mod requires go >= 1.26.0 (running go 1.21; GOTOOLCHAIN=local)" >&2; exit 1`,
			nil, "requires go >= 1.26.0",
		},
		"forged module": {
			`echo '{"Dir":"/nowhere","Sum":"h1:forged"}'`,
			nil, "don't trust this module proxy",
		},
	} {
		t.Run(name, func(t *testing.T) {
			tools := t.TempDir()
			write(t, filepath.Join(tools, "go"), "#!/bin/sh\n"+fakeEnv(c.script)+"\n")
			t.Setenv("PATH", tools+":/usr/bin:/bin")
			t.Setenv("XDG_CACHE_HOME", t.TempDir())
			_, err := Build(t.Context(), t.TempDir(), discard)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("got %v, want %v with %q", err, c.want, c.text)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than a line: %q", err)
			}
		})
	}
}

// A cancelled build takes its compilers with it.
func TestBuildEndsWithItsContext(t *testing.T) {
	tools, mark := t.TempDir(), filepath.Join(t.TempDir(), "pid")
	write(t, filepath.Join(tools, "go"), "#!/bin/sh\n"+
		fakeEnv("sleep 600 & echo $! > "+mark+".new; mv "+mark+".new "+mark+"; wait")+"\n")
	t.Setenv("PATH", tools+":/usr/bin:/bin")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := Build(ctx, t.TempDir(), discard)
		done <- err
	}()
	pid := waitPid(t, mark)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Build: %v", err)
	}
	waitGone(t, pid)
}

func TestHasV3(t *testing.T) {
	const all = "processor\t: 0\nflags\t\t: fpu fma movbe f16c bmi1 avx2 bmi2 lahf_lm\n"
	if !hasV3([]byte(all)) {
		t.Error("a CPU with everything is not seen")
	}
	for _, f := range []string{"fma", "movbe", "f16c", "bmi1", "avx2", "bmi2"} {
		if hasV3([]byte(strings.Replace(all, f, "x"+f, 1))) {
			t.Errorf("a CPU without %s passes", f)
		}
	}
	if hasV3(nil) || hasV3([]byte("Features : fp asimd\n")) {
		t.Error("a CPU without flags passes")
	}
}

func TestLongOutputIsBounded(t *testing.T) {
	c := &command{args: []string{"sh", "-c", `head -c 100000 /dev/zero | tr '\0' x >&2; echo >&2; seq 1000 >&2; exit 3`}}
	_, err := c.run(t.Context())
	f, ok := errors.AsType[*failure](err)
	if !ok || len(f.tail) != tailMax || f.tail[tailMax-1] != "1000" {
		t.Fatalf("got %v", err)
	}
}

// fakeEnv lets a stand-in for go answer "go env CC CXX", and do the script otherwise.
func fakeEnv(script string) string {
	if cc, ok := strings.CutPrefix(script, "cc="); ok {
		return "echo " + cc
	}
	return "[ $1 = env ] && echo sh && exit\n" + script
}

func discard(string) {}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}
