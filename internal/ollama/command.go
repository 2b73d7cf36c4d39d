package ollama

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	// progressPeriod is how often a long step says that it is still at work.
	progressPeriod = 15 * time.Second
	// tailMax bounds how many of a failed command's last lines are kept: a compiler can write millions.
	tailMax = 200
	// lineMax bounds one line of a command's output, bytes; the rest of a longer one is dropped.
	lineMax = 4096
	// exitWait is how long a killed command's children may hold its output open.
	exitWait = 2 * time.Second
)

// command is one run of the go tool.
type command struct {
	dir  string
	env  []string // on top of this process's environment
	args []string
	line func(string)  // each line of standard error as it comes; may be nil
	tick func() string // what to say every progressPeriod; may be nil
	say  func(string)
}

// failure is a command that ended badly, with its last words.
type failure struct {
	err  error
	tail []string
}

func (f *failure) Error() string { return fmt.Sprintf("%v: %s", f.err, strings.Join(f.tail, "\n")) }

func (f *failure) Unwrap() error { return f.err }

// run returns standard output, whole or until it failed; the error is a *failure, or the context's. The command and
// all that it started end with the context.
func (c *command) run(ctx context.Context) ([]byte, error) {
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Dir = c.dir
	cmd.Env = append(cmd.Environ(), c.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // compilers are grandchildren
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = exitWait
	var out bytes.Buffer
	cmd.Stdout = &out
	stderr, write := io.Pipe()
	cmd.Stderr = write
	lines, done := make(chan string), make(chan error, 1)
	go scan(stderr, lines)
	go func() {
		err := cmd.Run()
		_ = write.Close() // ends scan, which ends the loop below; it never fails
		done <- err
	}()
	tail := c.follow(lines)
	err := <-done
	switch {
	case err == nil:
		return out.Bytes(), nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return out.Bytes(), &failure{err, tail}
}

// follow passes lines on until they end, and returns the last ones.
func (c *command) follow(lines <-chan string) (tail []string) {
	tick := time.NewTicker(progressPeriod)
	defer tick.Stop()
	for {
		select {
		case line, more := <-lines:
			if !more {
				return tail
			}
			if tail = append(tail, line); len(tail) > tailMax {
				tail = tail[1:]
			}
			if c.line != nil {
				c.line(line)
			}
		case <-tick.C:
			if c.tick != nil {
				c.say(c.tick())
			}
		}
	}
}

// scan sends the lines of r until it ends.
func scan(r io.Reader, to chan<- string) {
	defer close(to)
	buf := bufio.NewReaderSize(r, lineMax)
	for {
		line, long, err := buf.ReadLine()
		if err != nil {
			return
		}
		to <- string(line)
		for long && err == nil {
			_, long, err = buf.ReadLine()
		}
	}
}
