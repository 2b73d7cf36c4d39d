package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// TestNoWayAround builds what is released and looks for words that an option, a variable or a root would have which lets
// a machine in that has proved nothing.
func TestNoWayAround(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+string(filepath.Separator),
		"cocoon/cmd/cocoon", "cocoon/cmd/cocoon-gateway", "cocoon/cmd/cocoon-worker")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	// InsecureSkipVerify is a field of crypto/tls, and in every program: what counts are words of ours around it.
	around := regexp.MustCompile(`(?i)(-|_|\b)(in-?secure|unsafe|no|skip|disable|bypass|fake|mock|dummy|allow|trust|force)[-_]` +
		`?(attest|attestation|verify|verification|tee|evidence|appraisal|policy|simulated|simulation|unverified|all[-_]roots)\b`)
	simulator := regexp.MustCompile(`SIMULATED PRIVATE KEY|SIMULATED Device Identity CA|attest/simtee`)
	for _, program := range []string{"cocoon", "cocoon-gateway", "cocoon-worker"} {
		text, err := os.ReadFile(filepath.Join(dir, program))
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []*regexp.Regexp{around, simulator} {
			for _, at := range bad.FindAllIndex(text, -1) {
				found := text[max(0, at[0]-30):min(len(text), at[1]+30)]
				if !harmless(string(text[at[0]:at[1]])) {
					t.Errorf("%s: %q", program, found)
				}
			}
		}
	}
	dev, err := os.ReadFile(filepath.Join(os.Getenv(binEnv), "cocoon-dev"))
	if err != nil || !simulator.Match(dev) {
		t.Errorf("cocoon-dev holds no simulator: this test would find nothing (%v)", err)
	}
}

// harmless words are of Go's own library.
func harmless(word string) bool {
	return regexp.MustCompile(`^(InsecureSkipVerify|SkipVerify)$`).MatchString(word)
}
