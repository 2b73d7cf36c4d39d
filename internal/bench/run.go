//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// runLimit ends a run that hangs; a full one takes about 7 minutes.
const runLimit = 15 * time.Minute

// filesPerStream is what a held stream takes of the proxy's open files: the client's and the engine's connection.
const filesPerStream = 2

// filesSpare is for everything else that a process has open.
const filesSpare = 500

type runFlags struct {
	quick, strict      bool
	repetitions, held  int
	peers, bin         string
	jsonPath, profiles string
}

// errFailed is the end of a run that has said already what went wrong.
var errFailed = errors.New("the run failed, see above")

func runMain(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o runFlags
	f := flags(roleRun, stderr)
	f.BoolVar(&o.quick, "quick", false, "one short repetition, less than 2 minutes: for a look, not for figures")
	f.BoolVar(&o.strict, "strict", false, "exit with 1 when a target is missed")
	f.IntVar(&o.repetitions, "reps", 0, "repetitions (default 3, with -quick 1)")
	f.IntVar(&o.held, "held", 5000, "streams held open")
	f.StringVar(&o.peers, "peers", strings.Join(defaultPeers(), ","), "what to measure; there is "+peerChain+" too")
	f.StringVar(&o.bin, "bin", "bin", "folder with "+gatewayBinary)
	f.StringVar(&o.jsonPath, "json", "bin/bench.json", "where the figures go; empty for nowhere")
	f.StringVar(&o.profiles, "profile", "", "folder for profiles of our gateways, of the first repetition")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	r, err := measure(ctx, &o, stderr)
	if err != nil {
		return err
	}
	r.print(stdout)
	if o.jsonPath != "" {
		if err := r.write(o.jsonPath); err != nil {
			return fmt.Errorf("writing the figures: %w", err)
		}
		fmt.Fprintln(stdout, "\nfigures:", o.jsonPath)
	}
	if len(r.Problems) > 0 || (o.strict && !r.met()) {
		return errFailed
	}
	return nil
}

// measure runs the whole plan. What goes wrong with one peer is a problem in the report; the others are still measured.
func measure(ctx context.Context, o *runFlags, progress io.Writer) (*results, error) {
	held, err := raiseFiles(o.held)
	if err != nil {
		return nil, err
	}
	pl := fullPlan(held)
	if o.quick {
		pl = quickPlan(held)
	}
	if o.repetitions > 0 {
		pl.Repetitions = o.repetitions
	}
	if o.profiles != "" {
		if err := os.MkdirAll(o.profiles, 0o755); err != nil {
			return nil, err
		}
	}
	peers := strings.Split(o.peers, ",")
	for _, name := range peers {
		if !slices.Contains(allPeers(), name) {
			return nil, fmt.Errorf("no such peer: %q; there are %s", name, strings.Join(allPeers(), ", "))
		}
	}
	l, err := newLab(ctx, o.bin, pl.models())
	if err != nil {
		return nil, err
	}
	r := &run{lab: l, plan: pl, profiles: o.profiles, progress: progress}
	r.out = &results{Machine: describe(o.bin), Plan: pl, Skipped: map[string]string{}}
	if held < o.held {
		r.problem("the limit of open files leaves room for %d held streams, not %d", held, o.held)
	}
	for _, name := range peers {
		if err := l.missing(name); err != nil {
			r.out.Skipped[name] = err.Error()
			continue
		}
		r.out.Peers = append(r.out.Peers, name)
	}
	err = r.all(ctx)
	r.out.compute()
	return r.out, errors.Join(err, l.close())
}

// raiseFiles raises the limit of open files as far as it goes, for this process and its children, and says how many
// streams a proxy can hold under it.
func raiseFiles(held int) (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("reading the limit of open files: %w", err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("raising the limit of open files: %w", err)
	}
	room := (int64(min(limit.Max, 1<<30)) - filesSpare) / filesPerStream
	if room < 1 {
		return 0, fmt.Errorf("the limit of open files, %d, is too low", limit.Max)
	}
	return int(min(int64(held), room)), nil
}

type run struct {
	lab      *lab
	plan     plan
	profiles string // folder, if profiles are wanted
	progress io.Writer
	out      *results
}

func (r *run) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.out.Problems = append(r.out.Problems, text)
	fmt.Fprintln(r.progress, "problem:", text)
}

// all runs the repetitions: in each every peer has its turn, so that what drifts drifts for all. The order turns
// from one to the next.
func (r *run) all(ctx context.Context) error {
	order := slices.Clone(r.out.Peers)
	for rep := 1; rep <= r.plan.Repetitions; rep++ {
		for _, name := range order {
			fmt.Fprintf(r.progress, "%d/%d %s\n", rep, r.plan.Repetitions, name)
			err := r.peer(ctx, name, rep)
			if ctx.Err() != nil {
				return fmt.Errorf("the run was cut off: %w", errors.Join(ctx.Err(), err))
			}
			if err != nil {
				r.problem("%s: %v", name, err)
			}
		}
		if len(order) > 0 {
			order = append(order[1:], order[0])
		}
	}
	return nil
}

// peer runs every phase of one peer.
func (r *run) peer(ctx context.Context, name string, rep int) error {
	p, err := r.lab.start(ctx, name)
	if err != nil {
		return err
	}
	defer p.stop()
	answered := int64(0)
	for _, c := range r.plan.warmUp() {
		s, err := r.lab.put(ctx, p, c, nil, nil)
		if err != nil {
			return fmt.Errorf("warming up: %w", err)
		}
		answered += s.Result.Requests
	}
	for _, phase := range []string{phaseSmall, phaseRate, phaseLong, phaseStreams} {
		s, err := r.phase(ctx, p, phase, rep)
		if err != nil {
			return fmt.Errorf("%s: %w", phase, err)
		}
		answered += s.Result.Requests
	}
	if bills(name) {
		err := p.proxy.until(ctx, "settling", func(ctx context.Context) error { return settled(ctx, p.ops, answered) })
		if err != nil {
			return err
		}
	}
	if name == peerDirect || name == peerChain { // one real worker has not the connections for as many streams
		return nil
	}
	p.stop() // harmless twice
	if p, err = r.lab.start(ctx, name); err != nil {
		return err
	}
	defer p.stop()
	if err := r.hold(ctx, p, rep); err != nil {
		return fmt.Errorf("%s: %w", phaseHold, err)
	}
	return nil
}

// profiled says whether profiles are wanted of a peer in this repetition.
func (r *run) profiled(p *peer, rep int) bool { return r.profiles != "" && p.ops != "" && rep == 1 }

func (r *run) phase(ctx context.Context, p *peer, phase string, rep int) (sample, error) {
	c := r.plan.load(phase)
	profiled := make(chan error, 1)
	var during func()
	wanted := r.profiled(p, rep) && phase != phaseLong
	if wanted {
		seconds := max(int((c.Length-c.Warm)/time.Second), 1)
		what, path := fmt.Sprintf("/debug/pprof/profile?seconds=%d", seconds), filepath.Join(r.profiles, p.name+"."+phase+".cpu.pprof")
		during = func() { go func() { profiled <- profile(ctx, p.ops, what, path) }() }
	}
	s, err := r.lab.put(ctx, p, c, during, nil)
	if wanted && err == nil {
		s.Profiled = true
		err = <-profiled
	}
	if err == nil {
		r.keep(p, phase, rep, s)
	}
	return s, err
}

// hold measures the memory of open streams, in a process that has seen little else: what earlier load left in its
// heap would hide it.
func (r *run) hold(ctx context.Context, p *peer, rep int) error {
	warm := r.plan.warmUp()[0]
	warm.Conns = 2
	if _, err := r.lab.put(ctx, p, warm, nil, nil); err != nil {
		return fmt.Errorf("warming up: %w", err)
	}
	idle, held := residentKiB(p.proxy.pid()), int64(0)
	var heapErr error
	s, err := r.lab.put(ctx, p, r.plan.load(phaseHold), nil, func() {
		const times = 4
		for range times {
			select {
			case <-time.After(r.plan.Settle / times):
			case <-ctx.Done():
				return
			}
			held = max(held, residentKiB(p.proxy.pid()))
		}
		if r.profiled(p, rep) {
			heapErr = profile(ctx, p.ops, "/debug/pprof/heap", filepath.Join(r.profiles, p.name+"."+phaseHold+".heap.pprof"))
		}
	})
	if err != nil {
		return err
	}
	s.RSSIdle, s.RSSHeld = idle, held
	r.keep(p, phaseHold, rep, s)
	return heapErr
}

// keep adds a sample to the results. A wrong answer fails the run, and so does one that our gateway lost.
func (r *run) keep(p *peer, phase string, rep int, s sample) {
	s.Peer, s.Phase, s.Repetition = p.name, phase, rep
	r.out.Samples = append(r.out.Samples, s)
	if s.Result.Wrong > 0 || (s.Result.Lost > 0 && ours(p.name)) {
		r.problem("%s, %s: %d answers wrong, %d lost: %s", p.name, phase, s.Result.Wrong, s.Result.Lost, s.Result.Because)
	}
	if s.Result.Requests == 0 && phase != phaseHold {
		r.problem("%s, %s: no answers", p.name, phase)
	}
}
