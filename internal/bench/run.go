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
	f.BoolVar(&o.quick, "quick", false, "a short repetition, less than 2 minutes: for a look, not for figures")
	f.BoolVar(&o.strict, "strict", false, "exit with 1 when a target is missed")
	f.IntVar(&o.repetitions, "reps", 0, "repetitions (default 2, with -quick 1)")
	f.IntVar(&o.held, "held", 5000, "streams held open")
	f.StringVar(&o.peers, "peers", strings.Join(defaultPeers(), ","), "what to measure; there is "+peerChain+" too")
	f.StringVar(&o.bin, "bin", "bin", "folder with "+gatewayBinary)
	f.StringVar(&o.jsonPath, "json", "bin/bench.json", "where the figures go; empty for nowhere")
	f.StringVar(&o.profiles, "profile", "", "folder for profiles of our gateways, of the first round")
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

// all runs the repetitions.
func (r *run) all(ctx context.Context) error {
	for rep := range r.plan.Repetitions {
		err := r.repetition(ctx, rep)
		if ctx.Err() != nil {
			return fmt.Errorf("the run was cut off: %w", errors.Join(ctx.Err(), err))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// seat is a peer in a repetition.
type seat struct {
	*peer
	answered int64
}

// repetition runs all peers at once, and puts the load on one after the other, for a second or two each and round after
// round: machines slow down and recover within seconds, so that only neighbours in time can be compared. Then each holds
// streams in a process of its own.
func (r *run) repetition(ctx context.Context, rep int) error {
	var seats []*seat
	defer func() {
		for _, s := range seats {
			s.stop()
		}
	}()
	for _, name := range r.out.Peers {
		p, err := r.lab.start(ctx, name)
		if err != nil {
			r.problem("%s: %v", name, err)
			continue
		}
		s := &seat{peer: p}
		seats = append(seats, s)
		if err := r.warmUp(ctx, s); err != nil {
			return err
		}
	}
	for round := range r.plan.Rounds {
		fmt.Fprintf(r.progress, "repetition %d of %d, round %d of %d\n", rep+1, r.plan.Repetitions, round+1, r.plan.Rounds)
		if err := r.round(ctx, seats, rep*r.plan.Rounds+round+1); err != nil {
			return err
		}
		seats = append(seats[1:len(seats):len(seats)], seats[0]) // who comes after whom turns
	}
	for _, s := range seats {
		if bills(s.name) {
			err := s.proxy.until(ctx, "settling", func(ctx context.Context) error { return settled(ctx, s.ops, s.answered) })
			if err != nil {
				r.problem("%s: %v", s.name, err)
			}
		}
		s.stop()
	}
	return r.holdEach(ctx, rep*r.plan.Rounds+1)
}

func (r *run) warmUp(ctx context.Context, s *seat) error {
	for _, c := range r.plan.warmUp() {
		got, err := r.lab.put(ctx, s.peer, c, nil, nil)
		if err != nil {
			return fmt.Errorf("%s: warming up: %w", s.name, err)
		}
		s.answered += got.Result.Requests
	}
	return nil
}

// round puts each phase's load on each peer.
func (r *run) round(ctx context.Context, seats []*seat, n int) error {
	for _, phase := range []string{phaseSmall, phaseRate, phaseLong, phaseStreams} {
		for _, s := range seats {
			got, err := r.phase(ctx, s.peer, phase, n)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", s.name, phase, err)
			}
			s.answered += got.Result.Requests
		}
	}
	return nil
}

// holdEach has each peer hold streams.
func (r *run) holdEach(ctx context.Context, n int) error {
	for _, name := range r.out.Peers {
		if name == peerDirect || name == peerChain { // one real worker has not the connections for as many streams
			continue
		}
		fmt.Fprintln(r.progress, "holding streams:", name)
		p, err := r.lab.start(ctx, name)
		if err == nil {
			err = r.hold(ctx, p, n)
			p.stop()
		}
		if err != nil {
			r.problem("%s, %s: %v", name, phaseHold, err)
		}
	}
	return nil
}

// profiled says whether profiles are wanted of a peer in this round.
func (r *run) profiled(p *peer, round int) bool { return r.profiles != "" && p.ops != "" && round == 1 }

func (r *run) phase(ctx context.Context, p *peer, phase string, round int) (sample, error) {
	c := r.plan.load(phase)
	profiled := make(chan error, 1)
	var during func()
	wanted := r.profiled(p, round) && phase != phaseLong
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
		r.keep(p, phase, round, s)
	}
	return s, err
}

// hold measures the memory of open streams, in a process that has seen little else: what earlier load left in its
// heap would hide it.
func (r *run) hold(ctx context.Context, p *peer, round int) error {
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
		if r.profiled(p, round) {
			heapErr = profile(ctx, p.ops, "/debug/pprof/heap", filepath.Join(r.profiles, p.name+"."+phaseHold+".heap.pprof"))
		}
	})
	if err != nil {
		return err
	}
	s.RSSIdle, s.RSSHeld = idle, held
	r.keep(p, phaseHold, round, s)
	return heapErr
}

// keep adds a sample to the results. A wrong answer fails the run, and so does one that our gateway lost.
func (r *run) keep(p *peer, phase string, round int, s sample) {
	s.Peer, s.Phase, s.Round = p.name, phase, round
	r.out.Samples = append(r.out.Samples, s)
	if s.Result.Wrong > 0 || (s.Result.Lost > 0 && ours(p.name)) {
		r.problem("%s, %s: %d answers wrong, %d lost: %s", p.name, phase, s.Result.Wrong, s.Result.Lost, s.Result.Because)
	}
	if s.Result.Requests == 0 && phase != phaseHold {
		r.problem("%s, %s: no answers", p.name, phase)
	}
}
