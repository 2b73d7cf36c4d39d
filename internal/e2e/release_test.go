package e2e_test

import (
	"bytes"
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
	simulator := []string{"SIMULATED PRIVATE KEY", "SIMULATED Device Identity CA", "attest/simtee"}
	for _, program := range []string{"cocoon", "cocoon-gateway", "cocoon-worker"} {
		text, err := os.ReadFile(filepath.Join(dir, program))
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range wordsAround(text) {
			t.Errorf("%s: %q", program, found)
		}
		for _, trace := range simulator {
			if bytes.Contains(text, []byte(trace)) {
				t.Errorf("%s: %q", program, trace)
			}
		}
	}
	dev, err := os.ReadFile(filepath.Join(os.Getenv(binEnv), "cocoon-dev"))
	for _, trace := range simulator {
		if err != nil || !bytes.Contains(dev, []byte(trace)) {
			t.Errorf("cocoon-dev does not hold %q: this test would find nothing (%v)", trace, err)
		}
	}
	for word, bad := range map[string]bool{
		"xx--Skip_Verify=": true, "\x00allow-simulated\x00": true, "no-all_roots ": true, "InsecureSkipVerify": false,
		"unsafe-teeth": false, "casino-policy": false, "noattestable": false, "COCOON_INSECURE_TEE": true, "insecure.policy": false,
	} {
		if found := wordsAround([]byte("some " + word + " text")); len(found) > 0 != bad {
			t.Errorf("in %q: found %q", word, found)
		}
	}
}

// wordsAround are words, with some text on both sides, that say how to go without proof. Each ends in one of a few words:
// a program is searched for those, and the expression tried where one is. On its own it would take minutes.
func wordsAround(text []byte) (found []string) {
	around := regexp.MustCompile(`(?i)(-|_|\b)(in-?secure|unsafe|no|skip|disable|bypass|fake|mock|dummy|allow|trust|force)[-_]` +
		`?(attest|attestation|verify|verification|tee|evidence|appraisal|policy|simulated|simulation|unverified|all[-_]roots)\b`)
	const before, after = 30, 30 // bytes: longer than anything that matches
	lower := bytes.Clone(text)
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' {
			lower[i] += 'a' - 'A'
		}
	}
	for _, end := range []string{"attest", "verif", "tee", "evidence", "appraisal", "policy", "simulat", "all-roots", "all_roots"} {
		for from := 0; ; {
			i := bytes.Index(lower[from:], []byte(end))
			if i < 0 {
				break
			}
			at := max(0, from+i-before)
			from += i + len(end)
			near := text[at:min(len(text), from+after)]
			// InsecureSkipVerify is a field of crypto/tls, and in every program: what counts are words of ours around it.
			for _, word := range around.FindAllIndex(near, -1) {
				text := string(near[word[0]:word[1]])
				if at+word[1] >= from && text != "InsecureSkipVerify" && text != "SkipVerify" { // what ends before was found before
					found = append(found, string(near))
				}
			}
		}
	}
	return found
}
