//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/internal/bench/mock"
)

// TestMain is the roles too: the run starts the program that it is in.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.Contains([]string{roleMock, roleWorker, roleProxy, roleLoad}, os.Args[1]) {
		os.Exit(bench(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// The whole way of a repetition, on real processes, with phases too short for figures.
func TestRepetition(t *testing.T) {
	t.Setenv("GORACE", "atexit_sleep_ms=0") // or else each of its processes takes a second to end under the race detector
	pl := plan{
		Repetitions: 1, Rounds: 2, Warm: 50 * time.Millisecond, Ramp: 50 * time.Millisecond, Small: 200 * time.Millisecond,
		Rate: 300 * time.Millisecond, Long: 200 * time.Millisecond, Chunks: 5, Held: 50, Settle: 100 * time.Millisecond,
	}
	l, err := newLab(t.Context(), t.TempDir(), pl.models())
	if err != nil {
		t.Fatal(err)
	}
	r := &run{lab: l, plan: pl, progress: io.Discard, out: &results{Plan: pl, Peers: []string{peerDirect, peerProxy}}}
	if err := r.all(t.Context()); err != nil {
		t.Error(err)
	}
	if err := l.close(); err != nil {
		t.Error(err)
	}
	if len(r.out.Problems) > 0 || len(r.out.Samples) != 2*4+2*4+1 {
		t.Fatalf("problems %q, %d samples", r.out.Problems, len(r.out.Samples))
	}
	r.out.compute()
	for _, m := range metrics() {
		f := r.out.figure(m.key, peerProxy)
		if strings.HasPrefix(m.key, "worker_") {
			continue // only our worker has them
		}
		if f == nil {
			t.Errorf("%s was not measured", m.key)
		} else if m.key == "lost" && f.Max > 0 {
			t.Errorf("%v answers lost", f.Max)
		}
	}
}

func TestWrongAnswersFailTheRun(t *testing.T) {
	r := &run{out: &results{}, progress: io.Discard}
	right := sample{}
	right.Result.Requests = 1
	wrong, lostOne := right, right
	wrong.Result.Wrong = 1
	lostOne.Result.Lost = 1
	for _, c := range []struct {
		peer    string
		s       sample
		problem bool
	}{
		{peerProxy, right, false},
		{peerProxy, wrong, true},
		{peerProxy, lostOne, false},
		{peerProxy, sample{}, true},
		{peerCocoon, right, false},
		{peerCocoon, wrong, true},
		{peerCocoon, lostOne, true},
		{peerBilling, lostOne, true},
		{peerChain, lostOne, true},
	} {
		r.out.Problems = nil
		r.keep(&peer{name: c.peer}, phaseSmall, 1, c.s)
		if (len(r.out.Problems) > 0) != c.problem {
			t.Errorf("%s, %+v: problems %q", c.peer, c.s.Result, r.out.Problems)
		}
	}
}

func TestMissingPeers(t *testing.T) {
	l := &lab{bin: t.TempDir()}
	for _, name := range []string{peerCocoon, peerBilling, peerChain} {
		if err := l.missing(name); err == nil || !strings.Contains(err.Error(), "make build") {
			t.Errorf("%s without a binary: %v", name, err)
		}
	}
	t.Setenv("PATH", "")
	if err := l.missing(peerNginx); err != nil && !strings.Contains(err.Error(), "apt-get install") {
		t.Errorf("without nginx: %v", err)
	}
	if err := l.missing(peerProxy); err != nil {
		t.Error(err)
	}
	if _, err := measure(t.Context(), &runFlags{peers: "apache", held: 1}, io.Discard); err == nil {
		t.Error("no error for a peer that is none")
	}
}

func TestProcessThatDies(t *testing.T) {
	p, err := start(t.TempDir(), "shell", "/bin/sh", "-c", "echo the reason; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.listens(t.Context(), "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "the reason") {
		t.Errorf("%v, want what it said", err)
	}
	if p.alive() == nil {
		t.Error("it lives")
	}
	p.stop()
}

func TestCPUAndMemoryOfATree(t *testing.T) {
	p, err := start(t.TempDir(), "shell", "/bin/sh", "-c", "(while :; do :; done) & wait")
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	for deadline := time.Now().Add(time.Minute); cpuSeconds(p.pid()) < 0.1; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the child's child burns a processor, and no time is counted")
		}
	}
	if n := len(tree(p.pid())); n != 2 {
		t.Errorf("%d processes in the tree, want 2", n)
	}
	if kib := residentKiB(p.pid()); kib < 100 || kib > 1<<20 {
		t.Errorf("two shells take %d KiB", kib)
	}
	for _, pid := range tree(p.pid())[1:] {
		child, err := os.FindProcess(pid)
		if err != nil {
			t.Fatal(err)
		}
		_ = child.Kill() // or else it outlives its parent
	}
}

func TestPortsAreTakenOnce(t *testing.T) {
	var p ports
	a, err := p.take()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := p.take(); err != nil || a == b {
		t.Errorf("%s, then %s, %v", a, b, err)
	}
}

func TestChat(t *testing.T) {
	for _, size := range []int{smallBody, longBody} {
		b := chat("mock-n3", true, size)
		var got struct {
			Model  string
			Stream bool
		}
		if err := json.Unmarshal(b, &got); err != nil || len(b) != size || got.Model != "mock-n3" || !got.Stream {
			t.Errorf("chat of %d: %d bytes, %+v, %v", size, len(b), got, err)
		}
	}
}

func TestModelsAreTheMocks(t *testing.T) {
	pl := fullPlan(10)
	for _, m := range pl.models() {
		if _, err := mock.Parse(m); err != nil {
			t.Error(err)
		}
	}
	for _, phase := range []string{phaseSmall, phaseRate, phaseLong, phaseStreams, phaseHold} {
		c := pl.load(phase)
		var body struct{ Model string }
		if err := json.Unmarshal(c.Body, &body); err != nil || !slices.Contains(pl.models(), body.Model) {
			t.Errorf("%s asks for %q, which is not offered", phase, body.Model)
		}
	}
}

func TestUsage(t *testing.T) {
	var out, errs bytes.Buffer
	if code := bench([]string{"dance"}, nil, &out, &errs); code != 2 || !strings.Contains(errs.String(), "usage") {
		t.Errorf("code %d, %q", code, &errs)
	}
	if code := bench([]string{"-nonsense"}, nil, &out, &errs); code != 1 {
		t.Errorf("code %d for an unknown flag", code)
	}
	if err := loadMain(context.Background(), strings.NewReader("{}"), &out); err == nil {
		t.Error("no error for half a load")
	}
}
