package tunnel

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"cocoon/internal/h1"
)

// Worker is one live session of a worker, seen from the gateway.
type Worker struct {
	id      ID
	session string
	secret  []byte // exporter of the control connection
	control *dataConn
	report  func(w *Worker, report []byte) error
	attest  func(ctx context.Context, c *Challenge) (again time.Time, err error)
	t       timings
	lack    atomic.Int64  // see Lack
	cancel  func()        // ends the context of poll
	ended   chan struct{} // closed after Gone, by the session's goroutine
	again   atomic.Bool   // see Reattest
	asked   bool          // of poll's goroutine: whether Attest was called
	next    time.Time     // of poll's goroutine: when the attestation must be renewed; zero until there was one

	mu       sync.Mutex
	why      error                  // not nil once the session is over
	attested bool                   // at least once
	conns    map[*dataConn]struct{} // all data connections, idle or taken
	idle     []*dataConn            // last in, first out: the rest may cool down and be closed by the worker
	waiting  []chan *h1.Conn        // Takes that wait; not empty only while idle is
	sweeps   uint64                 // counts sweep: a clock that costs nothing to read
}

// dataConn is a connection to a worker; control connections are one too.
type dataConn struct {
	*tls.Conn
	raw net.Conn
	id  ID // of the worker
	h1  *h1.Conn
	w   *Worker // set once the connection is in a session's pool

	taken bool   // w.mu
	since uint64 // w.mu: w.sweeps when it became idle
}

// Close closes at once: TLS's goodbye could block on a peer that does not read.
func (d *dataConn) Close() error {
	if d.w != nil {
		d.w.forget(d)
	}
	return d.raw.Close()
}

func newWorker(s *Server, control *dataConn, session string, secret []byte) *Worker {
	return &Worker{
		id: control.id, session: session, secret: secret, control: control, t: s.t,
		report: s.cfg.Report, attest: s.cfg.Attest,
		ended: make(chan struct{}), conns: make(map[*dataConn]struct{}),
	}
}

// ID is the worker's key.
func (w *Worker) ID() ID { return w.id }

// Open says whether the session lives.
func (w *Worker) Open() bool { return w.cause() == nil }

func (w *Worker) cause() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.why
}

// Take returns an idle data connection, or waits a little for one. Errors: ErrGone, ErrNoConn, or that of ctx.
// The connection must be handed to Give, or its Net be closed. The worker may have closed it a moment ago, without our
// knowing (h1.ErrStale: take another). That is rare: it closes what was idle for a minute, and what was idle at the
// last sweep is looked at again here.
func (w *Worker) Take(ctx context.Context) (*h1.Conn, error) {
	for {
		w.mu.Lock()
		if w.why != nil {
			w.mu.Unlock()
			return nil, ErrGone
		}
		n := len(w.idle)
		if n == 0 {
			return w.wait(ctx) // unlocks
		}
		d := w.idle[n-1]
		w.idle[n-1] = nil
		w.idle, d.taken = w.idle[:n-1], true
		fresh := d.since == w.sweeps
		w.mu.Unlock()
		if fresh || quiet(d.raw) {
			return d.h1, nil
		}
		_ = d.Close() // the peer has closed it
	}
}

// Lack is how many Takes at once had to wait since Lack was last asked. Sent to the worker in LackHeader, it makes the
// worker dial as many more connections: where requests are short the worker can't see it.
func (w *Worker) Lack() int {
	if w.lack.Load() == 0 { // nearly always
		return 0
	}
	return int(w.lack.Swap(0))
}

// wait is called with the lock held.
func (w *Worker) wait(ctx context.Context) (*h1.Conn, error) {
	turn := make(chan *h1.Conn, 1)
	w.waiting = append(w.waiting, turn)
	w.lack.Store(max(w.lack.Load(), int64(len(w.waiting))))
	w.mu.Unlock()
	timer := time.NewTimer(w.t.take)
	defer timer.Stop()
	var err error
	select {
	case c, ok := <-turn:
		if !ok {
			return nil, ErrGone
		}
		return c, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = ErrNoConn
	}
	w.mu.Lock()
	if i := slices.Index(w.waiting, turn); i >= 0 {
		w.waiting = slices.Delete(w.waiting, i, i+1)
	}
	w.mu.Unlock()
	select {
	case c, ok := <-turn: // it came after all
		if ok && ctx.Err() == nil {
			return c, nil
		}
		if ok {
			w.Give(c)
		}
	default:
	}
	return nil, err
}

// Give takes back a connection from Take: for the next one if it is Reusable, else to close it. The connection and its
// Response are not the caller's any more.
func (w *Worker) Give(c *h1.Conn) {
	d, ours := c.Net().(*dataConn)
	if !ours || d.w != w || !c.Reusable() || d.SetDeadline(time.Time{}) != nil {
		_ = c.Net().Close() // its state is unknown
		return
	}
	w.put(d)
}

// put makes a taken connection idle, or hands it to who waits longest.
func (w *Worker) put(d *dataConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, open := w.conns[d]; !open || !d.taken { // closed meanwhile, or given twice
		return
	}
	if len(w.waiting) > 0 {
		w.waiting[0] <- d.h1 // has room for one
		w.waiting[0] = nil
		w.waiting = w.waiting[1:]
		return
	}
	d.taken, d.since = false, w.sweeps
	w.idle = append(w.idle, d)
}

// join adds a new data connection.
func (w *Worker) join(d *dataConn) error {
	w.mu.Lock()
	if w.why != nil {
		w.mu.Unlock()
		return ErrGone
	}
	if !w.attested {
		w.mu.Unlock()
		return fmt.Errorf("%w: data connection before attestation", errPeer)
	}
	if len(w.conns) >= dataMax {
		w.mu.Unlock()
		return fmt.Errorf("%w: too many data connections", errPeer)
	}
	d.w, d.taken = w, true
	w.conns[d] = struct{}{}
	w.mu.Unlock()
	w.put(d)
	return nil
}

// forget removes a connection that is being closed.
func (w *Worker) forget(d *dataConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, d)
	if !d.taken {
		if i := slices.Index(w.idle, d); i >= 0 {
			w.idle = slices.Delete(w.idle, i, i+1)
		}
	}
}

// close ends the session: every connection at once, whoever uses it. The first reason stays.
func (w *Worker) close(why error) {
	w.cut(why)
	w.cancel()
	_ = w.control.raw.Close() // nothing is lost that anybody waits for
}

// refuse ends the session but for the control connection, over which it tells the worker why in words.
func (w *Worker) refuse(why, words error) {
	w.cut(why)
	w.say(words)
}

// cut ends every data connection.
func (w *Worker) cut(why error) {
	w.mu.Lock()
	if w.why != nil {
		w.mu.Unlock()
		return
	}
	w.why = why
	conns, waiting := w.conns, w.waiting
	w.conns, w.idle, w.waiting = nil, nil, nil
	w.mu.Unlock()
	for d := range conns {
		_ = d.raw.Close() // likewise
	}
	for _, turn := range waiting {
		close(turn)
	}
}

// poll attests the worker and asks for its report until something is wrong. ctx ends with the session. counted says
// that a report was accepted.
func (w *Worker) poll(ctx context.Context) (counted bool, err error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for after := uint64(0); ; {
		if err := w.ensure(ctx); err != nil {
			return counted, err
		}
		started := time.Now()
		version, report, err := w.ask(after)
		if err != nil {
			return counted, err
		}
		if report != nil {
			if err := w.ensure(ctx); err != nil { // the poll took a while
				return counted, err
			}
			if err := w.report(w, report); err != nil {
				w.refuse(fmt.Errorf("taking report: %w", err), err)
				return counted, err
			}
			after, counted = version, true
		}
		w.sweep()
		timer.Reset(time.Until(started.Add(w.t.pollGap)))
		select {
		case <-ctx.Done():
			return counted, ErrGone // close has the reason
		case <-timer.C:
		}
	}
}

// ask is one poll. A nil report says that there is none newer than after.
func (w *Worker) ask(after uint64) (version uint64, report []byte, err error) {
	if err := w.control.SetDeadline(time.Now().Add(w.t.answer)); err != nil {
		return 0, nil, fmt.Errorf("polling worker: %w", err)
	}
	resp, err := w.control.h1.Do(&h1.Request{
		Method: "GET", Path: reportPath + "?after=" + strconv.FormatUint(after, 10), Host: host,
	})
	if err != nil {
		return 0, nil, fmt.Errorf("polling worker: %w", err)
	}
	var answer struct {
		Version uint64          `json:"version"`
		Report  json.RawMessage `json:"report"`
	}
	if resp.Status != 204 {
		if err := readJSON(resp, answerMax, &answer); err != nil {
			return 0, nil, fmt.Errorf("polling worker: %w", err)
		}
		if answer.Version <= after || answer.Report == nil || len(answer.Report) > ReportMax {
			return 0, nil, fmt.Errorf("%w: report", errPeer)
		}
	}
	if !w.control.h1.Reusable() {
		return 0, nil, fmt.Errorf("%w: control connection not kept", errPeer)
	}
	return answer.Version, answer.Report, nil
}

// say tells the worker why its session is about to end, between two polls, as a hello that refuses.
func (w *Worker) say(why error) {
	if w.control.SetDeadline(time.Now().Add(w.t.patience)) == nil {
		_, _ = sayHello(w.control.h1, why) // it is over either way
	}
}

// sweep closes idle connections that the worker has closed. Take would find only those on top.
func (w *Worker) sweep() {
	for at, more := 0, true; more; {
		at, more = w.sweepFrom(at)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sweeps++
}

func (w *Worker) sweepFrom(at int) (next int, more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	end := min(at+sweepBatch, len(w.idle))
	if at >= end {
		return 0, false
	}
	keep := at
	for _, d := range w.idle[at:end] {
		if quiet(d.raw) {
			w.idle[keep] = d
			keep++
			continue
		}
		delete(w.conns, d)
		_ = d.raw.Close() // the peer has closed it
	}
	w.idle = slices.Delete(w.idle, keep, end)
	return keep, true
}
