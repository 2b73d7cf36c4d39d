package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startNginx runs the shipped configuration in front of two gateways, with this machine's addresses and folders in it.
func startNginx(t *testing.T, gateways [2]*gateway) (base string) {
	t.Helper()
	bin, err := exec.LookPath("nginx")
	if err != nil {
		for _, path := range []string{"/usr/sbin/nginx", "/usr/local/sbin/nginx"} {
			if _, missing := os.Stat(path); missing == nil {
				bin, err = path, nil
			}
		}
	}
	if err != nil {
		t.Skipf("no nginx on this machine: %v", err)
	}
	text, err := os.ReadFile(filepath.Join(repoRoot(t), "configs", "nginx.conf"))
	if err != nil {
		t.Fatal(err)
	}
	config, dir, addr := string(text), t.TempDir(), freePort(t)
	var folders strings.Builder // or else they are those of the system's nginx
	for _, name := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&folders, "    %s_temp_path %s;\n", name, filepath.Join(dir, name))
	}
	for old, fresh := range map[string]string{
		"worker_processes auto": "worker_processes 1", "worker_rlimit_nofile 65536;": "", "listen 127.0.0.1:8080": "listen " + addr,
		"server 127.0.0.1:8081": "server " + gateways[0].addr, "server 127.0.0.1:8082": "server " + gateways[1].addr,
		"\nhttp {\n": "\nhttp {\n" + folders.String(),
	} {
		if strings.Count(config, old) != 1 {
			t.Fatalf("configs/nginx.conf does not have %q once", old)
		}
		config = strings.Replace(config, old, fresh, 1)
	}
	path := filepath.Join(dir, "nginx.conf")
	writeFile(t, path, config)
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // as root nginx takes another user
		t.Fatal(err)
	}
	args := []string{"-p", dir, "-c", path, "-e", "stderr", "-g", "daemon off; pid " + filepath.Join(dir, "pid") + ";"}
	log := new(output)
	cmd := exec.Command(bin, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // its workers end with it
		_ = cmd.Wait()                          // of a signal or not
		if t.Failed() {
			t.Logf("---- nginx\n%s", log.tail())
		}
	})
	base = "http://" + addr
	eventually(t, startMax, "nginx answers", func() bool { return getOK(base + "/cocoon/nginx") })
	return base
}

// mark is which gateway gave a request its name.
func mark(r *reply) string {
	const from, to = len("req_") + 16, len("req_") + 24
	if id := r.header.Get("X-Request-Id"); len(id) >= to {
		return id[from:to]
	}
	return ""
}

// TestPinned has two gateways on one ledger behind nginx: a key's requests go to one of them, and to the other when that one
// is gone.
func TestPinned(t *testing.T) {
	t.Parallel()
	e := startEngine(t, "m")
	s := newSharedLedger(t, 2, e.url)
	gateways := [2]*gateway{s.gateways[0], s.gateways[1]}
	front := client{base: startNginx(t, gateways), key: s.key}
	gateways[0].operate(t, "accounts", "grant", "buyer", "1", "--id", "more")
	marks := map[string]*gateway{}
	for _, g := range gateways {
		marks[mark(g.get(t, "/v1/models"))] = g
	}
	seen := map[*gateway]int{}
	for i := range 40 {
		stranger := client{base: front.base, key: "ck-" + strconv.Itoa(i)}
		home := marks[mark(stranger.get(t, "/v1/models"))]
		seen[home]++
		for range 2 {
			if marks[mark(stranger.get(t, "/v1/models"))] != home {
				t.Errorf("key %d is not at one gateway", i)
			}
		}
	}
	if seen[gateways[0]] < 4 || seen[gateways[1]] < 4 {
		t.Errorf("keys at the gateways: %d and %d", seen[gateways[0]], seen[gateways[1]])
	}

	// Events come through as they are made, and the key's requests are at home.
	p := front.begin(t, prompt("m", "hi", streamed))
	c := e.next(t)
	c.run(t, func() { c.say("one") })
	p.started(t)
	c.run(t, func() { c.say(" two"); c.finish() })
	close(c.answer)
	first := p.wait(t)
	if first.text != "one two" || !first.done {
		t.Errorf("a stream through nginx: %v", first)
	}
	home := marks[mark(first)]
	for range 5 {
		p := front.begin(t, prompt("m", "hi"))
		e.next(t).complete(t)
		if r := p.wait(t); r.text != "hello" || marks[mark(r)] != home {
			t.Errorf("not at home: %v", r)
		}
	}
	if told := front.generation(t, first.header.Get("X-Request-Id")); told.Completion == 0 {
		t.Errorf("%+v", told)
	}
	leaves(t, front, e)
	tooLarge(t, front)

	home.kill(t)
	for range 5 {
		p := front.begin(t, prompt("m", "hi"))
		e.next(t).complete(t)
		if r := p.wait(t); r.text != "hello" || marks[mark(r)] == home || marks[mark(r)] == nil {
			t.Errorf("with its gateway gone: %v", r)
		}
	}
	home.restart(t)
	eventually(t, startMax, "the key is at home again", func() bool { return marks[mark(front.get(t, "/v1/models"))] == home })
}

// leaves has a client hang up in a stream: the engine hears of it through nginx, too.
func leaves(t *testing.T, front client, e *engine) {
	t.Helper()
	s := front.open(t, prompt("m", "hi", streamed))
	c := e.next(t)
	c.run(t, func() { c.say("one") })
	s.until(t, `"one"`)
	s.leave()
	select {
	case <-c.done:
	case <-time.After(rawMax):
		t.Error("the engine still works after the client left")
	}
}

// tooLarge sends more than nginx lets through: its answer is one that clients can read.
func tooLarge(t *testing.T, front client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), askMax)
	defer cancel()
	resp, err := front.send(ctx, http.MethodPost, "/v1/chat/completions", strings.Repeat(" ", oversize))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text := make([]byte, 4<<10)
	n, _ := resp.Body.Read(text)
	fault, err := parseFault(text[:n])
	if resp.StatusCode != http.StatusRequestEntityTooLarge || err != nil || fault.code() != "request_too_large" {
		t.Errorf("%d: %s: %v", resp.StatusCode, text[:n], err)
	}
}
