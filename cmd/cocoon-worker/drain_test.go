package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/internal/durable"
	"cocoon/worker"
)

func TestDrainCommand(t *testing.T) {
	path := configFile(t, "")
	dir := filepath.Join(filepath.Dir(path), "data")
	const none = "no worker runs on this data_dir: nothing to stop"
	for _, c := range []struct {
		args   []string
		status int
		out    string // part of stdout
		err    string // part of stderr
	}{
		{[]string{"--config", path}, exitOK, none, ""},
		{[]string{"--no-wait", "--config", path}, exitOK, none, ""},
		{[]string{"--undo", "--config", path}, exitOK, none, ""},
		{[]string{"--config", "/none.yaml"}, exitFailed, "", "/none.yaml"},
		{[]string{"now"}, exitUsage, "", `unexpected argument "now"`},
		{[]string{"--colour"}, exitUsage, "", "colour"},
		{[]string{"-h"}, exitOK, "", "usage: cocoon-worker drain"},
	} {
		status, out, err := invoke(append([]string{"drain"}, c.args...)...)
		if status != c.status || !strings.Contains(out, c.out) || !strings.Contains(err, c.err) {
			t.Errorf("%q: status %d\nstdout: %s\nstderr: %s", c.args, status, out, err)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it made the folder: %v", err)
	}
}

// TestDrainWords: with a worker that answers by hand, each step is told in words.
func TestDrainWords(t *testing.T) {
	path := configFile(t, "")
	dir := filepath.Join(filepath.Dir(path), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := durable.Lock(filepath.Join(dir, "lock")) // a worker runs
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	mark := func() string {
		text, err := os.ReadFile(filepath.Join(dir, "drain.json"))
		if errors.Is(err, fs.ErrNotExist) {
			return ""
		}
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if status, out, _ := invoke("drain", "--no-wait", "--config", path); status != exitOK || !strings.Contains(out, "takes nothing new") || mark() == "" {
		t.Errorf("--no-wait: %d %s", status, out)
	}
	id := mark()[strings.Index(mark(), `"id"`):]
	steps := []string{`"running":2,"waiting":3`, `"running":1,"waiting":1`, `"running":1,"waiting":0`, `"running":0,"waiting":0`}
	answer := func() { // the next step
		text := `{"v":1,` + steps[0] + "," + id
		steps = steps[1:]
		if err := durable.Replace(filepath.Join(dir, "draining.json"), []byte(text)); err != nil {
			t.Error(err)
		}
	}
	answer()
	var b stepWriter
	b.step = func(line string) {
		if strings.Contains(line, "still run") {
			answer()
		}
	}
	if err := drainWorker(t.Context(), dir, drainHow{wait: true}, &b); err != nil {
		t.Error(err)
	}
	const want = `the worker is told to take nothing new
2 requests still run, and 3 wait for their turn
1 request still runs, and 1 waits for its turn
1 request still runs
nothing runs any more: it is safe to stop the worker
`
	if b.String() != want {
		t.Errorf("it says\n%s\nwant\n%s", b.String(), want)
	}
	if status, out, _ := invoke("drain", "--undo", "--config", path); status != exitOK || !strings.Contains(out, "takes requests again") || mark() != "" {
		t.Errorf("--undo: %d %s", status, out)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = drainWorker(ctx, dir, drainHow{wait: true}, &b)
	if err == nil || !strings.Contains(err.Error(), "--undo") || mark() == "" {
		t.Errorf("interrupted: %v", err)
	}
	if err := worker.EndDrain(dir); err != nil {
		t.Error(err)
	}
}

// stepWriter calls step after each line.
type stepWriter struct {
	strings.Builder
	step func(line string)
}

func (w *stepWriter) Write(p []byte) (int, error) {
	n, err := w.Builder.Write(p)
	w.step(string(p))
	return n, err
}
