package e2e_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// How TestMain tells the tests what it has prepared.
const (
	binEnv    = "COCOON_E2E_BIN"     // folder of the binaries
	noNodeEnv = "COCOON_E2E_NO_NODE" // why OpenAI's client for Node is not there, if it isn't
	teeEnv    = "COCOON_E2E_TEE"     // folder of the simulated vendor, and of a policy that admits its machines
)

// atOnce is how many tests run at the same time: most of their time they wait for a time limit to pass.
const atOnce = "8"

// raceExit is the exit code of a binary that found a data race in itself.
const raceExit = 66

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "cocoon-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := build(dir, raceWorks()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := simulate(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Setenv(binEnv, dir)
	os.Setenv(noNodeEnv, installNode())
	flag.Parse()
	if err := flag.Set("test.parallel", atOnce); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// build compiles the binaries into a folder.
func build(dir string, race bool) error {
	args := []string{"build", "-ldflags=-w", "-o", dir + string(filepath.Separator)} // nobody debugs them
	if race {
		args = append(args, "-race")
	}
	args = append(args, "cocoon/cmd/cocoon", "cocoon/cmd/cocoon-dev", "cocoon/cmd/cocoon-gateway", "cocoon/cmd/cocoon-worker")
	cmd := exec.Command("go", args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the binaries: %w\n%s", err, out)
	}
	return nil
}

// plain is the folder of the binaries without the race detector, built when the first test wants them.
var plain = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(os.Getenv(binEnv), "plain")
	return dir, build(dir, false)
})

// plainBinaries is the folder of binaries without the race detector.
func plainBinaries(t *testing.T) string {
	t.Helper()
	dir, err := plain()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// simulate makes the vendor of all simulated machines.
func simulate(bin string) error {
	dir := filepath.Join(bin, "tee")
	policy, err := exec.Command(filepath.Join(bin, "cocoon-dev"), "policy", "--simulated", dir).Output()
	if err != nil {
		return fmt.Errorf("simulating hardware: %w", err)
	}
	os.Setenv(teeEnv, dir)
	return os.WriteFile(filepath.Join(dir, policyName), policy, 0o600)
}

// policyName is the file of the policy that admits the simulated machines.
const policyName = "policy.yaml"

// raceWorks says whether this machine can build with -race: cgo on, and a C compiler to be found.
func raceWorks() bool {
	out, err := exec.Command("go", "env", "CGO_ENABLED", "CC").Output()
	if err != nil {
		return false
	}
	enabled, cc, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	fields := strings.Fields(cc)
	if enabled != "1" || len(fields) == 0 {
		return false
	}
	_, err = exec.LookPath(fields[0])
	return err == nil
}

// repoRoot is the folder of go.mod: the package's folder is where go test runs us.
func repoRoot(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return root
}
