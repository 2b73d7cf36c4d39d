//go:build linux

// Package load puts load on one peer of the benchmark over loopback, checks every answer and says how long they took.
package load

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"cocoon/internal/bench/hist"
)

// Modes of load.
const (
	// Closed: each connection sends its next request when the answer to the last one is there.
	Closed = "closed"
	// Open: requests are due at random times of a fixed mean rate, whether or not earlier ones are answered; each
	// takes as long as from when it was due.
	Open = "open"
	// Streams: each connection reads one stream from its first event to its last.
	Streams = "streams"
	// Hold: as Streams, but all stay open until they are told to end.
	Hold = "hold"
)

// Limits, so that a wrong plan ends.
const (
	lossesMax = 1000             // more lost requests end the run
	lateMax   = 30 * time.Second // beyond the planned length, an answer is lost
)

// Config is a load. Conns is the number of connections, and of streams.
type Config struct {
	Mode    string `json:"mode"`
	Address string `json:"address"` // host:port
	Key     string `json:"key"`     // API key
	Body    []byte `json:"body"`    // of every request
	Want    []byte `json:"want"`    // of every whole answer
	Conns   int    `json:"conns"`

	Rate   float64       `json:"rate"`   // requests a second, of Open
	Warm   time.Duration `json:"warm"`   // at the start, requests count but their latency doesn't
	Length time.Duration `json:"length"` // of the load, warm-up included; for streams, how long one takes
	Ramp   time.Duration `json:"ramp"`   // the starts of streams are spread over it
	Chunks int           `json:"chunks"` // content chunks due in each stream

	// Started is called when all connections of Closed and Open are there, or before the first stream.
	Started func() `json:"-"`
	// Holding is called when every stream of Hold is open or lost; they end when Release is closed.
	Holding func()          `json:"-"`
	Release <-chan struct{} `json:"-"`
}

// Result is what a load did.
type Result struct {
	Requests int64        `json:"requests"` // answered rightly
	Seconds  float64      `json:"seconds"`  // from Started to the last answer
	Chunks   int64        `json:"chunks"`   // content chunks of right order
	Open     int64        `json:"open"`     // streams that Hold had open at Release
	Late     int64        `json:"late"`     // requests of Open that waited for a free connection
	Wrong    int64        `json:"wrong"`    // answers that were not what was due
	Lost     int64        `json:"lost"`     // answers that didn't come: broken connections, time-outs
	Because  string       `json:"because"`  // the first wrong answer, else the first loss
	Comments int64        `json:"comments"` // comment lines in streams: keep-alives
	Latency  hist.Summary `json:"latency"`  // of whole answers, or of streams to their first chunk
	Delay    hist.Summary `json:"delay"`    // of chunks, from the mock's write to the client's read
}

// Run puts the load on until it is done or ctx ends, which is an error.
func Run(ctx context.Context, c Config) (Result, error) {
	g := &generator{Config: c, request: request(&c)}
	g.deadline = time.Now().Add(c.Length + c.Ramp + lateMax)
	ctx, cancel := context.WithDeadline(ctx, g.deadline)
	defer cancel()
	var err error
	switch c.Mode {
	case Closed:
		err = g.closed(ctx)
	case Open:
		err = g.open(ctx)
	case Streams, Hold:
		err = g.streams(ctx)
	default:
		return Result{}, fmt.Errorf("no such mode: %.32q", c.Mode)
	}
	return g.result(), err
}

// request is the bytes of every request of the load.
func request(c *Config) []byte {
	return append(fmt.Appendf(nil, "POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nUser-Agent: cocoon-bench\r\n"+
		"Content-Type: application/json\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n",
		c.Address, c.Key, len(c.Body)), c.Body...)
}

type generator struct {
	Config
	request  []byte
	deadline time.Time // of everything
	start    time.Time // when Started was called

	requests, chunks, held, late, wrong, lost, comments, last atomic.Int64

	latency, delay hist.Histogram

	mu               sync.Mutex
	wrongAs, lostFor string // the first of each
}

func (g *generator) started() {
	g.start = time.Now()
	if g.Started != nil {
		g.Started()
	}
}

func (g *generator) result() Result {
	r := Result{
		Requests: g.requests.Load(), Chunks: g.chunks.Load(), Open: g.held.Load(), Late: g.late.Load(),
		Wrong: g.wrong.Load(), Lost: g.lost.Load(), Comments: g.comments.Load(),
		Latency: g.latency.Summary(), Delay: g.delay.Summary(), Because: g.wrongAs,
	}
	if r.Because == "" {
		r.Because = g.lostFor
	}
	r.Seconds = time.Duration(g.last.Load()).Seconds()
	return r
}

// right counts an answer that took from due until now.
func (g *generator) right(due, now time.Time) {
	g.requests.Add(1)
	g.done(now)
	if due.Sub(g.start) >= g.Warm {
		g.latency.Add(now.Sub(due))
	}
}

// done moves the end of the load on.
func (g *generator) done(now time.Time) {
	at := int64(now.Sub(g.start))
	for {
		last := g.last.Load()
		if at <= last || g.last.CompareAndSwap(last, at) {
			return
		}
	}
}

// failed counts an answer that was wrong or lost; false when there were so many that going on is no use.
func (g *generator) failed(err error) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if isWrong(err) {
		if g.wrongAs == "" {
			g.wrongAs = err.Error()
		}
		return g.wrong.Add(1)+g.lost.Load() < lossesMax
	}
	if g.lostFor == "" {
		g.lostFor = err.Error()
	}
	return g.wrong.Load()+g.lost.Add(1) < lossesMax
}

// dialAll opens the load's connections before it starts, so that connecting is in no figure.
func (g *generator) dialAll(ctx context.Context) ([]*conn, error) {
	conns := make([]*conn, 0, g.Conns)
	for range g.Conns {
		k, err := dial(ctx, g.Address, g.deadline)
		if err != nil {
			for _, k := range conns {
				k.close()
			}
			return nil, fmt.Errorf("connecting: %w", err)
		}
		conns = append(conns, k)
	}
	return conns, nil
}

// answer reads one whole answer and checks it, in scratch. It is over when the connection can't be used again.
func (g *generator) answer(k *conn, scratch []byte) (kept []byte, over bool, err error) {
	h, err := k.readHead()
	if err != nil {
		return scratch, true, err
	}
	body, err := k.whole(scratch, len(g.Want)+lineMax)
	switch {
	case err != nil:
		return body, true, err
	case h.status != 200:
		return body, h.closes, wrong("status %d: %.200q", h.status, body)
	case !bytes.Equal(body, g.Want):
		return body, h.closes, wrong("%d bytes that differ from the %d due: %.200q", len(body), len(g.Want), body)
	}
	return body, h.closes, nil
}

// closed is the mode Closed.
func (g *generator) closed(ctx context.Context) error {
	conns, err := g.dialAll(ctx)
	if err != nil {
		return err
	}
	g.started()
	end := g.start.Add(g.Length)
	var all sync.WaitGroup
	for _, k := range conns {
		all.Go(func() { g.loop(ctx, k, end) })
	}
	all.Wait()
	return ctx.Err()
}

// loop is one connection of Closed; it dials again when the connection ends.
func (g *generator) loop(ctx context.Context, k *conn, end time.Time) {
	defer func() { k.close() }()
	scratch := make([]byte, 0, len(g.Want)+1)
	for {
		due := time.Now()
		if due.After(end) || ctx.Err() != nil {
			return
		}
		err, over := k.send(g.request), true
		if err == nil {
			scratch, over, err = g.answer(k, scratch)
		}
		if err == nil {
			g.right(due, time.Now())
		} else if !g.failed(err) {
			return
		}
		if over && !g.redial(ctx, k) {
			return
		}
	}
}

// redial replaces a connection that ended; a failure to do so is a loss.
func (g *generator) redial(ctx context.Context, k *conn) bool {
	k.close()
	fresh, err := dial(ctx, g.Address, g.deadline)
	if err != nil {
		g.failed(err)
		return false
	}
	*k = *fresh
	return true
}
