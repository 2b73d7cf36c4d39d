package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// nodeSDK asks with OpenAI's own client for Node, by a script of ours.
func nodeSDK() sdk {
	classes := map[int]string{400: "BadRequestError", 401: "AuthenticationError", 404: "NotFoundError", 413: "APIError"}
	return sdk{
		name: "openai for Node", ask: nodeAsk, ready: needNode, requestIDs: true,
		class: func(status int) string { return classes[status] },
	}
}

func nodeAsk(t *testing.T, c client, list []question) []said {
	t.Helper()
	in, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*askMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "run.mjs")
	cmd.Dir = "node"
	cmd.Env = append(os.Environ(), "OPENAI_BASE_URL="+c.base+"/v1", "OPENAI_API_KEY="+c.key)
	cmd.Stdin = bytes.NewReader(in)
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		t.Fatalf("node: %v\n%s", err, problem.String())
	}
	var all []said
	if err := json.Unmarshal(out.Bytes(), &all); err != nil || len(all) != len(list) {
		t.Fatalf("node printed %.300q for %d questions: %v\n%s", out.String(), len(list), err, problem.String())
	}
	return all
}

// needNode skips the test if TestMain could not install the client.
func needNode(t *testing.T) {
	t.Helper()
	lock, err := os.ReadFile(filepath.Join("node", "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(lock), "://") {
		t.Error("node/package-lock.json names a host; it must install from whatever registry npm is set to")
	}
	if why := os.Getenv(noNodeEnv); why != "" {
		t.Skip("OpenAI's client for Node can't be tried: " + why)
	}
}

// installNode installs the pinned client for Node, unless it is there. It returns why it can't, or "".
func installNode() string {
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			return tool + " is not installed"
		}
	}
	installed, err := os.Stat(filepath.Join("node", "node_modules", ".package-lock.json"))
	wanted, err2 := os.Stat(filepath.Join("node", "package-lock.json"))
	if err == nil && err2 == nil && !installed.ModTime().Before(wanted.ModTime()) {
		return ""
	}
	cmd := exec.Command("npm", "ci")
	cmd.Dir = "node"
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Sprintf("npm ci failed: %v: %s", err, out)
	}
	return ""
}
