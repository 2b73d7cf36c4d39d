package ollama

import (
	"bytes"
	"context"
	_ "embed" // for engine.mod and engine.sum
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

var (
	//go:embed engine.mod
	engineMod []byte
	//go:embed engine.sum
	engineSum []byte
)

// Build settings. Go's build cache is keyed by them: one build serves every clone of one user.
const (
	program = "github.com/ollama/ollama"
	ldflags = "-s -w -X github.com/ollama/ollama/version.Version=" + Version
	// plainFlags run on any machine; fastFlags are seven times as fast, and crash on a CPU without AVX2.
	plainFlags = "-O3"
	fastFlags  = "-O3 -march=x86-64-v3"
)

// lockPeriod is how often a second builder looks whether the first one is through.
const lockPeriod = 200 * time.Millisecond

// Errors of Build that a caller may want to tell apart. Each comes with the remedy in its text.
var (
	// ErrNoGo means that there is no go command.
	ErrNoGo = errors.New("building Ollama needs the go command: install Go 1.26 or newer and put it on PATH")
	// ErrNoCompiler means that there is no C or C++ compiler.
	ErrNoCompiler = errors.New("building Ollama needs a C and a C++ compiler")
	// ErrDiskFull means that the disk is full.
	ErrDiskFull = errors.New("the disk is full: building Ollama needs 2 GB free (Go's module and build caches)")
	// ErrNoNetwork means that the Go module proxy can't be reached.
	ErrNoNetwork = errors.New("the Go module proxy is out of reach: check the network and 'go env GOPROXY'")
)

// builder is one Build.
type builder struct {
	binary  string // where the result goes
	stamp   string // path of the file that says what the binary was built from
	flags   string // for both compilers
	include string // folder of headers
	module  string // temporary folder with go.mod and go.sum
	say     func(string)
}

// Build makes binDir/ollama unless it is there already, made in the same way, and returns its path. The first time
// takes minutes and downloads some 150 MB; progress gets a line for each step and every progressPeriod. Several
// processes may build at once: one does, the others wait. Errors are one line and say what to do.
func Build(ctx context.Context, binDir string, progress func(string)) (string, error) {
	binDir, err := filepath.Abs(binDir)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding a folder for Ollama's headers: %w", err)
	}
	if err := os.MkdirAll(binDir, 0o755); err != nil {
		return "", err
	}
	b := &builder{
		binary: filepath.Join(binDir, "ollama"), stamp: filepath.Join(binDir, "ollama.version"), flags: compilerFlags(),
		include: filepath.Join(cache, "cocoon", "ollama-"+Version, "include"), say: progress,
	}
	if b.fresh() {
		return b.binary, nil
	}
	unlock, err := b.lock(ctx, filepath.Join(binDir, "ollama.lock"))
	if err != nil {
		return "", fmt.Errorf("waiting for another build of Ollama: %w", err)
	}
	defer unlock()
	if b.fresh() {
		return b.binary, nil
	}
	return b.binary, b.build(ctx)
}

func compilerFlags() string {
	if runtime.GOARCH == "amd64" {
		if info, err := os.ReadFile("/proc/cpuinfo"); err == nil && hasV3(info) {
			return fastFlags
		}
	}
	return plainFlags
}

// hasV3 tells from /proc/cpuinfo whether the CPU knows x86-64-v3.
func hasV3(info []byte) bool {
	for line := range bytes.Lines(info) {
		if name, flags, _ := bytes.Cut(line, []byte(":")); string(bytes.TrimSpace(name)) == "flags" {
			have := " " + strings.TrimSpace(string(flags)) + " "
			for _, f := range []string{"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"} {
				if !strings.Contains(have, " "+f+" ") {
					return false
				}
			}
			return true
		}
	}
	return false
}

// recipe is all that the binary depends on beyond the machine.
func (b *builder) recipe() string {
	var text strings.Builder
	text.WriteString("ollama " + Version + " " + runtime.GOOS + "/" + runtime.GOARCH + "\nflags " + b.flags + "\n")
	for _, h := range headers() {
		text.WriteString("header " + h.to + " " + h.module + "\n")
	}
	return text.String()
}

func (b *builder) fresh() bool {
	stamp, err := os.ReadFile(b.stamp)
	if err != nil || string(stamp) != b.recipe() {
		return false
	}
	info, err := os.Stat(b.binary)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o100 != 0
}

// lock keeps other builders out of binDir until unlock, or until this process ends.
func (b *builder) lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for said := false; ; said = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil // closing releases the lock; nothing was written
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(err, f.Close())
		}
		if !said {
			b.say("another process builds Ollama here; waiting for it")
		}
		select {
		case <-time.After(lockPeriod):
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		}
	}
}

func (b *builder) build(ctx context.Context) (err error) {
	if err := checkTools(ctx); err != nil {
		return err
	}
	if b.module, err = os.MkdirTemp("", "cocoon-engine-"); err != nil {
		return fmt.Errorf("laying out Ollama's module: %w", diagnose(err))
	}
	defer os.RemoveAll(b.module)
	for name, content := range map[string][]byte{"go.mod": engineMod, "go.sum": engineSum} {
		if err := os.WriteFile(filepath.Join(b.module, name), content, 0o644); err != nil {
			return fmt.Errorf("laying out Ollama's module: %w", diagnose(err))
		}
	}
	b.say("building Ollama " + Version + " from its Go module: about 5 minutes on 2 cores, once")
	if err := b.fetchHeaders(ctx); err != nil {
		return fmt.Errorf("fetching Ollama's headers: %w", diagnose(err))
	}
	total, err := b.list(ctx)
	if err != nil {
		return fmt.Errorf("fetching Ollama's modules: %w", diagnose(err))
	}
	if err := b.compile(ctx, total); err != nil {
		return fmt.Errorf("compiling Ollama: %w", diagnose(err))
	}
	return nil
}

// env is the go tool's environment. A user's GOFLAGS or workspace must not get into the engine's build.
func (b *builder) env() []string {
	include := "-I" + b.include
	if strings.ContainsAny(include, " \t") {
		include = "'" + include + "'"
	}
	return []string{
		"GOFLAGS=-buildvcs=false", "GOWORK=off", "GOOS=", "GOARCH=", "CGO_ENABLED=1", "CGO_CPPFLAGS=" + include,
		"CGO_CFLAGS=" + b.flags, "CGO_CXXFLAGS=" + b.flags,
	}
}

// list downloads what the build needs and returns how many packages it is.
func (b *builder) list(ctx context.Context) (int, error) {
	begin, modules := time.Now(), 0
	out, err := (&command{
		dir: b.module, env: b.env(), args: []string{"go", "list", "-deps", program}, say: b.say,
		line: func(line string) {
			if strings.HasPrefix(line, "go: downloading ") {
				modules++
			}
		},
		tick: func() string {
			return fmt.Sprintf("fetching Ollama's Go modules: %d so far, %s", modules, since(begin))
		},
	}).run(ctx)
	return bytes.Count(out, []byte("\n")), err
}

// compile builds into binDir beside the old binary, and replaces that at the end.
func (b *builder) compile(ctx context.Context, total int) error {
	begin, done, current := time.Now(), 0, "the linker"
	fresh := b.binary + ".new"
	defer os.Remove(fresh)
	_, err := (&command{
		dir: b.module, env: b.env(), say: b.say,
		args: []string{"go", "build", "-v", "-trimpath", "-ldflags", ldflags, "-o", fresh, program},
		line: func(line string) {
			if line != "" && !strings.ContainsAny(line, " #:") { // with -v, a package that begins
				done++
				current = line
			}
		},
		tick: func() string {
			return fmt.Sprintf("compiling Ollama: package %d of %d at most, %s, now %s", done, total, since(begin), current)
		},
	}).run(ctx)
	if err != nil {
		return err
	}
	if err := os.Remove(b.stamp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Rename(fresh, b.binary); err != nil {
		return err
	}
	b.say("built Ollama " + Version + " in " + since(begin))
	return os.WriteFile(b.stamp, []byte(b.recipe()), 0o644)
}

func since(begin time.Time) string { return time.Since(begin).Round(time.Second).String() }

// checkTools finds out what is missing before minutes are spent.
func checkTools(ctx context.Context) error {
	if _, err := exec.LookPath("go"); err != nil {
		return ErrNoGo
	}
	out, err := (&command{env: []string{"GOWORK=off"}, args: []string{"go", "env", "CC", "CXX"}}).run(ctx)
	if err != nil {
		return fmt.Errorf("asking go for its compilers: %w", diagnose(err))
	}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if _, err := exec.LookPath(words[0]); err != nil {
			return fmt.Errorf("%w: %q is not there; on Debian: apt-get install build-essential", ErrNoCompiler, words[0])
		}
	}
	return nil
}

// diagnose makes one line of an error, with the remedy where there is one.
func diagnose(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return ErrDiskFull
	}
	f, ok := errors.AsType[*failure](err)
	if !ok {
		return err
	}
	text := strings.Join(f.tail, "\n")
	for _, s := range []string{"no space left on device", "No space left on device"} {
		if strings.Contains(text, s) {
			return ErrDiskFull
		}
	}
	for _, s := range []string{
		"dial tcp", "no such host", "connection refused", "i/o timeout", "proxyconnect", "TLS handshake timeout",
		"module lookup disabled", "unrecognized import path", "connection reset", "network is unreachable",
	} {
		if strings.Contains(text, s) {
			return fmt.Errorf("%w (%s)", ErrNoNetwork, lastLine(f.tail, s))
		}
	}
	return fmt.Errorf("%w: %s", f.err, lastLine(f.tail, "error"))
}

// lastLine is the last line with want in it, else the last one; clipped.
func lastLine(lines []string, want string) string {
	last := ""
	for _, l := range lines {
		l = strings.TrimSpace(l)
		if l != "" && (strings.Contains(l, want) || !strings.Contains(last, want)) {
			last = l
		}
	}
	if len(last) > 300 {
		last = last[:300] + "..."
	}
	return last
}
