//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	listenTimeout = 20 * time.Second // for a process to listen after its start
	stopTimeout   = 6 * time.Second  // for a process to end by itself; ours take up to 3 s with open streams
	logTail       = 600              // bytes of a dead process's log in the error
)

// process is a child with its output in a file.
type process struct {
	name   string
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
}

// start runs argv with its output in dir. The child is told to end when we end, whatever ends us: by SIGTERM, so that
// nginx takes its workers along.
func start(dir, name string, argv ...string) (*process, error) {
	log := filepath.Join(dir, name+".log")
	f, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, log: log, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended matters only where it ended too early, and then the log says why
		close(p.exited)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// died says why a process that should run doesn't.
func (p *process) died() error {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err
	}
	return fmt.Errorf("%s ended too early: %s", p.name, bytes.TrimSpace(text[max(len(text)-logTail, 0):]))
}

// alive is an error when the process has ended.
func (p *process) alive() error {
	select {
	case <-p.exited:
		return p.died()
	default:
		return nil
	}
}

// stop asks the process to end and makes it end.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-p.exited:
		return
	case <-time.After(stopTimeout):
	}
	for _, pid := range tree(p.pid()) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-p.exited
}

// listens waits until something accepts connections at address.
func (p *process) listens(ctx context.Context, address string) error {
	return p.until(ctx, "listening on "+address, func(ctx context.Context) error {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// until tries again and again, while the process lives, for at most listenTimeout.
func (p *process) until(ctx context.Context, what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return p.died()
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s %s: %w", p.name, what, errors.Join(ctx.Err(), err))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Ports are taken below Linux's default range for outgoing connections, so that none of the thousands that a run
// makes is in the way.
const (
	portMin = 20_000
	portMax = 32_000
)

// ports finds free loopback ports, each once: connections of the last user may linger on them.
type ports struct{ next int }

func (p *ports) take() (address string, err error) {
	for p.next = max(p.next, portMin); p.next < portMax; {
		address = net.JoinHostPort("127.0.0.1", strconv.Itoa(p.next))
		p.next++
		if l, err := net.Listen("tcp", address); err == nil {
			return address, l.Close()
		}
	}
	return "", errors.New("no free port on loopback")
}

// userHZ is the unit of /proc's CPU times on every Linux that Go runs on.
const userHZ = 100

// statFields are the fields of /proc/PID/stat after the name, which may contain anything.
func statFields(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil // it has ended
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(f) < 22 {
		return nil
	}
	return f
}

// Indices into statFields.
const (
	statParent = 1
	statUser   = 11
	statSystem = 12
	statWaited = 13 // user and system time of children that have ended are this one and the next
)

func statInt(f []string, i int) int64 {
	n, _ := strconv.ParseInt(f[i], 10, 64) // the kernel writes numbers
	return n
}

// tree is a process and all its live descendants.
func tree(root int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return []int{root}
	}
	children := map[int][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if f := statFields(pid); f != nil {
			parent := int(statInt(f, statParent))
			children[parent] = append(children[parent], pid)
		}
	}
	all := []int{root}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// cpuSeconds is the user and system time of a process tree so far, without children that have ended.
func cpuSeconds(root int) float64 {
	ticks := int64(0)
	for _, pid := range tree(root) {
		if f := statFields(pid); f != nil {
			ticks += statInt(f, statUser) + statInt(f, statSystem)
		}
	}
	return float64(ticks) / userHZ
}

// ourSeconds is the CPU time of this process and everything it has started so far.
func ourSeconds() float64 {
	ticks := int64(0)
	if f := statFields(os.Getpid()); f != nil {
		ticks = statInt(f, statWaited) + statInt(f, statWaited+1)
	}
	return cpuSeconds(os.Getpid()) + float64(ticks)/userHZ
}

// machineSeconds is how long the machine's processors were busy so far, or stolen by its host.
func machineSeconds() float64 {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	f := strings.Fields(line)
	ticks := int64(0)
	for _, i := range []int{1, 2, 3, 8} { // user, nice, system, steal; interrupts here are the load's own
		if i < len(f) {
			ticks += statInt(f, i)
		}
	}
	return float64(ticks) / userHZ
}

// residentKiB is the resident memory of a process tree.
func residentKiB(root int) (kib int64) {
	pages := int64(0)
	for _, pid := range tree(root) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			continue // it has ended
		}
		if f := strings.Fields(string(text)); len(f) > 1 {
			pages += statInt(f, 1)
		}
	}
	return pages * int64(os.Getpagesize()) / 1024
}
