package ollama

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// parentEnv makes this test binary a program that starts an Ollama and waits to be killed.
const parentEnv = "COCOON_TEST_OLLAMA_PARENT"

func TestMain(m *testing.M) {
	if spec := os.Getenv(parentEnv); spec != "" {
		bin, dir, _ := strings.Cut(spec, "\n")
		s, err := Start(context.Background(), Config{Binary: bin, Dir: dir})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(s.pid, s.url)
		select {}
	}
	goleak.VerifyTestMain(m)
}

func startServer(t *testing.T, dir string) *Server {
	t.Helper()
	s, err := Start(t.Context(), Config{Binary: binary(t), Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func TestRealAnswers(t *testing.T) {
	s := startServer(t, t.TempDir())
	for _, c := range []struct{ model, question, want string }{
		{Tiny, "What is the capital of France?", "The capital of France is Paris."},
		{Tiny, "What is 3 plus 4?", "3 plus 4 is 7."},
		{Tiny, "Count to 12.", "1 2 3 4 5 6 7 8 9 10 11 12"},
		{TinyThink, "What is the capital of Peru?", "The capital of Peru is Lima."},
	} {
		if got := ask(t, s, c.model, c.question); got != c.want {
			t.Errorf("%s: %q: %q, want %q", c.model, c.question, got, c.want)
		}
	}
	members := group(t, s.pid)
	if len(members) < 2 { // the server and a runner
		t.Errorf("processes %v", members)
	}
	s.Stop()
	s.Stop() // twice is fine
	<-s.Done()
	if !errors.Is(s.Err(), ErrStopped) {
		t.Errorf("Err: %v", s.Err())
	}
	for _, pid := range members {
		waitGone(t, pid)
	}
}

// A second start in the same folder finds the weights there.
func TestStartAgain(t *testing.T) {
	dir := t.TempDir()
	s := startServer(t, dir)
	s.Stop()
	blobs, err := filepath.Glob(filepath.Join(dir, "models", "blobs", "*"))
	if err != nil || len(blobs) == 0 {
		t.Fatalf("blobs %v, %v", blobs, err)
	}
	s = startServer(t, dir)
	if got := ask(t, s, Tiny, "What is the capital of Japan?"); got != "The capital of Japan is Tokyo." {
		t.Errorf("answer %q", got)
	}
	log, err := os.ReadFile(s.Log())
	if err != nil || strings.Contains(string(log), "POST     \"/api/blobs") {
		t.Errorf("weights were sent again: %v\n%s", err, log)
	}
}

func TestDeathIsTold(t *testing.T) {
	s := startServer(t, t.TempDir())
	ask(t, s, Tiny, "Hello") // so that there is a runner
	if s.Err() != nil {
		t.Fatalf("Err of a running server: %v", s.Err())
	}
	members := group(t, s.pid)
	if err := syscall.Kill(s.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	if err := s.Err(); err == nil || errors.Is(err, ErrStopped) || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Err: %v", err)
	}
	for _, pid := range members {
		waitGone(t, pid)
	}
}

// However the parent ends, no Ollama is left.
func TestKilledParentLeavesNothing(t *testing.T) {
	bin := binary(t)
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), parentEnv+"="+bin+"\n"+t.TempDir())
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	s := &Server{}
	if _, err := fmt.Fscan(out, &pid, &s.url); err != nil {
		t.Fatal(err, parent.Wait())
	}
	ask(t, s, Tiny, "Hello")
	members := group(t, pid)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // killed, as it should be
	if len(members) < 2 {
		t.Errorf("processes %v", members)
	}
	for _, pid := range members {
		waitGone(t, pid)
	}
}

func TestStartFails(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	bin := filepath.Join(t.TempDir(), "ollama")
	write(t, bin, "#!/bin/sh\necho 'Error: this is no Ollama'\nexit 7\n")
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"no binary": {Config{Binary: "/nonexistent/ollama"}, "no such file"},
		"port":      {Config{Binary: bin, Addr: taken.Addr().String()}, "address already in use"},
		"dies":      {Config{Binary: bin}, "exit status 7: Error: this is no Ollama"},
	} {
		t.Run(name, func(t *testing.T) {
			c.cfg.Dir = t.TempDir()
			_, err := Start(t.Context(), c.cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %q in one line", err, c.want)
			}
		})
	}
}

// A server that never answers and ignores SIGTERM is ended all the same, with what it started.
func TestStartCancelled(t *testing.T) {
	dir := t.TempDir()
	bin, mark := filepath.Join(dir, "ollama"), filepath.Join(dir, "pid")
	write(t, bin, "#!/bin/sh\ntrap '' TERM\n"+
		"sleep 600 & echo $! > "+mark+".new; mv "+mark+".new "+mark+"\nwhile :; do wait; done\n")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := Start(ctx, Config{Binary: bin, Dir: dir})
		done <- err
	}()
	pid := waitPid(t, mark)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Start: %v", err)
	}
	waitGone(t, pid)
}

// ask puts one question at temperature 0 through the OpenAI interface.
func ask(t *testing.T, s *Server, model, question string) string {
	t.Helper()
	body := fmt.Sprintf(`{"model":%q,"temperature":0,"messages":[{"role":"user","content":%q}]}`, model, question)
	resp, err := http.Post(s.URL()+"/v1/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	text, err := io.ReadAll(resp.Body)
	var got struct {
		Choices []struct{ Message struct{ Content string } }
	}
	if err != nil || json.Unmarshal(text, &got) != nil || len(got.Choices) != 1 {
		t.Fatalf("%s: %s, %v", resp.Status, text, err)
	}
	return got.Choices[0].Message.Content
}

// group is the processes of a process group.
func group(t *testing.T, id int) []int {
	t.Helper()
	var out []int
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		_, after, _ := strings.Cut(string(text), ") ") // behind the name: state, parent, group
		if f := strings.Fields(after); len(f) > 2 && f[2] == strconv.Itoa(id) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			out = append(out, pid)
		}
	}
	return out
}

// waitPid reads a process number that another process will write.
func waitPid(t *testing.T, path string) int {
	t.Helper()
	for range 6000 {
		if text, err := os.ReadFile(path); err == nil {
			pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("no process number in ", path)
	return 0
}

// waitGone returns when a process has ended; a zombie that nobody waits for counts as ended.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	state := ""
	for range 6000 {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return
		}
		if _, after, _ := strings.Cut(string(text), ") "); strings.HasPrefix(after, "Z") {
			return
		}
		state = string(text)
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("still there: %s", state)
}
