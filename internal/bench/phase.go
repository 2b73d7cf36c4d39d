//go:build linux

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"cocoon/internal/bench/load"
	"cocoon/internal/bench/mock"
)

// The phases, in the order of a round, and the last one after all rounds of a repetition.
const (
	phaseSmall   = "small"   // small requests as fast as 64 connections go
	phaseRate    = "rate"    // the same at a fixed rate
	phaseLong    = "long"    // requests of 32 KB
	phaseStreams = "streams" // many streams of isolated chunks
	phaseHold    = "hold"    // thousands of open streams, in a process of its own
)

// What the phases are made of.
const (
	conns        = 64
	smallBody    = 1 << 10 // bytes of a small request and of every whole answer
	longBody     = 32 << 10
	fixedRate    = 1000 // requests a second
	streamsOpen  = 200
	warmChunks   = 75 // 1.5 s: long enough that all streams of the warm-up are open at once, as in the phase
	chunkGapMS   = 20 // 200 streams: one chunk every 100 us, each a write of its own
	holdGapMS    = 4000
	holdChunks   = 60 // 4 minutes: longer than any hold
	holdMax      = 2 * time.Minute
	holdRampRate = 1500 // streams a second, if the peer opens them so fast
	loadGrace    = 45 * time.Second
)

// plan is how long and how large the phases are.
type plan struct {
	Repetitions int           `json:"repetitions"`
	Rounds      int           `json:"rounds"`  // of each repetition: in each all peers have their turn in every phase
	Warm        time.Duration `json:"warm_ns"` // before a peer's first phase, and at the start of each
	Ramp        time.Duration `json:"ramp_ns"` // over which streams start
	Small       time.Duration `json:"small_ns"`
	Rate        time.Duration `json:"rate_ns"`
	Long        time.Duration `json:"long_ns"`
	Chunks      int           `json:"chunks"` // of each of the streams
	Held        int           `json:"held"`   // streams
	Settle      time.Duration `json:"settle_ns"`
}

func fullPlan(held int) plan {
	return plan{
		Repetitions: 2, Rounds: 5, Warm: 300 * time.Millisecond, Ramp: time.Second,
		Small: 1500 * time.Millisecond, Rate: 2 * time.Second, Long: time.Second,
		Chunks: 100, Held: held, Settle: 2 * time.Second,
	}
}

func quickPlan(held int) plan {
	return plan{
		Repetitions: 1, Rounds: 3, Warm: 300 * time.Millisecond, Ramp: 500 * time.Millisecond,
		Small: time.Second, Rate: 1500 * time.Millisecond, Long: 600 * time.Millisecond,
		Chunks: 80, Held: min(held, 2000), Settle: time.Second,
	}
}

func (p *plan) streamModel() string { return fmt.Sprintf("mock-n%d-d%d", p.Chunks, chunkGapMS) }

func holdModel() string { return fmt.Sprintf("mock-n%d-d%d", holdChunks, holdGapMS) }

const (
	smallModel = "mock"
	warmModel  = "mock-n75-d20"
)

// models is every model that the phases ask for.
func (p *plan) models() []string {
	return []string{smallModel, warmModel, p.streamModel(), holdModel()}
}

// chat is a request body of so many bytes; less if it takes more without any content.
func chat(model string, stream bool, size int) []byte {
	head := fmt.Sprintf(`{"model":%q,"stream":%t,"max_tokens":256,"temperature":0.7,"messages":[{"role":"system",`+
		`"content":"You are a helpful assistant."},{"role":"user","content":"`, model, stream)
	const tail, words = `"}]}`, "Lorem ipsum dolor sit amet, consectetur adipiscing elit. "
	fill := max(size-len(head)-len(tail), 0)
	return []byte(head + strings.Repeat(words, fill/len(words)+1)[:fill] + tail)
}

// load is the load of a phase, without where it goes.
func (p *plan) load(phase string) load.Config {
	c := load.Config{Conns: conns, Warm: p.Warm, Want: mock.Answer(smallBody)}
	switch phase {
	case phaseSmall:
		c.Mode, c.Body, c.Length = load.Closed, chat(smallModel, false, smallBody), p.Small
	case phaseRate:
		c.Mode, c.Body, c.Length, c.Rate = load.Open, chat(smallModel, false, smallBody), p.Rate, fixedRate
	case phaseLong:
		c.Mode, c.Body, c.Length = load.Closed, chat(smallModel, false, longBody), p.Long
	case phaseStreams:
		c.Mode, c.Body, c.Conns, c.Chunks = load.Streams, chat(p.streamModel(), true, smallBody), streamsOpen, p.Chunks
		c.Ramp, c.Length = p.Ramp, time.Duration(p.Chunks)*chunkGapMS*time.Millisecond
	case phaseHold:
		c.Mode, c.Body, c.Conns, c.Length = load.Hold, chat(holdModel(), true, smallBody), p.Held, holdMax
		c.Ramp = time.Duration(p.Held) * time.Second / holdRampRate
	}
	return c
}

// warmUp is what a peer sees before its first phase, so that its pools and connections are there.
func (p *plan) warmUp() []load.Config {
	return []load.Config{
		{
			Mode: load.Closed, Conns: conns, Length: p.Warm,
			Body: chat(smallModel, false, smallBody), Want: mock.Answer(smallBody),
		},
		{
			Mode: load.Streams, Conns: streamsOpen, Length: 2 * time.Second, Ramp: p.Ramp / 10, Chunks: warmChunks,
			Body: chat(warmModel, true, smallBody),
		},
	}
}

// values is how many samples of a phase each peer has at most.
func (p *plan) values() int { return p.Repetitions * p.Rounds }

// sample is one phase of one peer in one round.
type sample struct {
	Peer  string `json:"peer"`
	Phase string `json:"phase"`
	Round int    `json:"round"` // counted from 1, through all repetitions

	CPU       float64 `json:"cpu_s"`        // user and system time of the peer's processes during the load
	EngineCPU float64 `json:"engine_cpu_s"` // the same of the engine behind it
	// Noise is the share of the machine that others took meanwhile: processes that are none of ours, and its host.
	Noise    float64 `json:"noise"`
	RSSIdle  int64   `json:"rss_idle_kib"` // before the load
	RSSHeld  int64   `json:"rss_held_kib"` // most seen while all streams were open
	Profiled bool    `json:"profiled,omitempty"`

	Result load.Result `json:"result"`
}

// generator is a load in a process of its own.
type generator struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	events *bufio.Scanner
	stderr bytes.Buffer
}

// startLoad starts a load against a peer.
func (l *lab) startLoad(ctx context.Context, p *peer, c load.Config) (*generator, error) {
	c.Address, c.Key = p.address, p.key
	if len(c.Want) > 0 && bills(p.name) {
		c.Want = mock.Priced(c.Want, int64(mockCost()))
	}
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	g := &generator{cmd: exec.CommandContext(ctx, l.self, roleLoad)}
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if g.stdin, err = g.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	g.events = bufio.NewScanner(out)
	g.cmd.Stderr = &g.stderr
	if err := g.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the load: %w", err)
	}
	if _, err := g.stdin.Write(append(text, '\n')); err != nil {
		return nil, errors.Join(err, g.end())
	}
	return g, nil
}

// await reads the next event, which must be this one.
func (g *generator) await(event string) (loadEvent, error) {
	var e loadEvent
	if !g.events.Scan() {
		return e, fmt.Errorf("the load ended before it was %s: %w", event, cmp.Or(g.events.Err(), io.ErrUnexpectedEOF))
	}
	if err := json.Unmarshal(g.events.Bytes(), &e); err != nil {
		return e, fmt.Errorf("reading the load's event: %w", err)
	}
	if e.Error != "" {
		return e, fmt.Errorf("load: %s", e.Error)
	}
	if e.Event != event {
		return e, fmt.Errorf("the load is %s, not %s", e.Event, event)
	}
	return e, nil
}

// release lets held streams end.
func (g *generator) release() { _ = g.stdin.Close() } // twice is harmless

func (g *generator) end() error {
	g.release()
	if err := g.cmd.Wait(); err != nil {
		return fmt.Errorf("load: %w: %.300s", err, g.stderr.String())
	}
	return nil
}

// put puts a load on a peer and measures it; during is called once it is under way, hold while all streams are open.
func (l *lab) put(ctx context.Context, p *peer, c load.Config, during, hold func()) (s sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.Length+c.Ramp+loadGrace)
	defer cancel()
	g, err := l.startLoad(ctx, p, c)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, g.end()) }()
	if _, err := g.await(eventStarted); err != nil {
		return s, err
	}
	before := l.read(p)
	if during != nil {
		during()
	}
	if c.Mode == load.Hold {
		if _, err := g.await(eventHolding); err != nil {
			return s, err
		}
		hold()
		g.release()
	}
	e, err := g.await(eventDone)
	if err != nil {
		return s, err
	}
	after := l.read(p)
	s.CPU, s.EngineCPU = after.proxy-before.proxy, after.engine-before.engine
	took := after.at.Sub(before.at).Seconds() * float64(runtime.NumCPU())
	s.Noise = max(after.machine-before.machine-(after.ours-before.ours), 0) / took
	s.Result = *e.Result
	if p.proxy != nil {
		err = p.proxy.alive()
	}
	return s, errors.Join(err, p.engine.alive())
}

// reading is the processors' times at one moment, seconds.
type reading struct {
	at                           time.Time
	proxy, engine, ours, machine float64
}

func (l *lab) read(p *peer) reading {
	r := reading{at: time.Now(), ours: ourSeconds(), machine: machineSeconds(), engine: cpuSeconds(p.engine.pid())}
	if p.proxy != nil {
		r.proxy = cpuSeconds(p.proxy.pid())
	}
	return r
}
