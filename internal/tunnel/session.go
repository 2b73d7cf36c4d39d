package tunnel

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

// session is one session seen from the worker: an HTTP server over the connections that it dials.
type session struct {
	d       *Dialer
	tls     *tls.Config
	id      string
	secret  []byte // exporter of the control connection
	control *link
	srv     *http.Server
	l       *dialed
	serving *sync.WaitGroup // the dialer's: connections that net/http serves, and dials

	wake  chan struct{} // has room for one: something tend cares for has changed
	heard chan struct{} // has room for one: the gateway gave a sign of life
	over  chan struct{} // closed with the control connection

	mu       sync.Mutex
	links    map[*link]struct{}
	pending  int // dials, and links whose hello is to come
	idle     int // links by phase
	active   int
	peak     int // most active of late, or what the gateway lacked
	limit    int // capacity when tend last asked
	failures int // of dials in a row
	retry    time.Time
	draining bool
	polled   bool      // at least once
	quietTo  time.Time // the next sign of life must come before this
	why      error     // first reason that the session is over
}

type phase uint8

const (
	phasePending phase = iota // hello is to come
	phaseControl              // a control connection after hello
	phaseIdle                 // waits for a request
	phaseActive               // serves one
	phaseClosed
)

// link is one connection to the gateway.
type link struct {
	*tls.Conn
	raw     net.Conn
	s       *session
	control bool
	proof   string // of a data connection

	phase  phase     // s.mu
	used   bool      // s.mu: it has served a request
	since  time.Time // s.mu: in its phase since
	ended  bool      // s.mu: net/http is done with it
	broken error     // s.mu: what its last read ended with
}

// Read remembers why the connection broke: net/http does not tell, and an alert says more than that it did.
func (l *link) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) { // net/http ends its own reads by deadline
		l.s.mu.Lock()
		if l.broken == nil && l.phase != phaseClosed {
			l.broken = err
		}
		l.s.mu.Unlock()
	}
	return n, err
}

// Close closes at once, without TLS's goodbye, which could block.
func (l *link) Close() error {
	l.s.mu.Lock()
	l.s.drop(l)
	l.s.mu.Unlock()
	return l.raw.Close()
}

// linkKey is the context key of a request's *link.
type linkKey struct{}

func newSession(d *Dialer, config *tls.Config, serving *sync.WaitGroup) *session {
	s := &session{
		d: d, tls: config, serving: serving, l: newDialed(), links: make(map[*link]struct{}),
		wake: make(chan struct{}, 1), heard: make(chan struct{}, 1), over: make(chan struct{}),
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	s.id = hex.EncodeToString(id[:])
	s.srv = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: d.t.hello, // the first head on a connection is hello; later ones come in one piece
		// No IdleTimeout: idle data connections live as long as the session, and run ends that when polls stop.
		MaxHeaderBytes: headerMax,
		ConnState:      s.connState,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, linkKey{}, c)
		},
		ErrorLog: slog.NewLogLogger(d.cfg.Log.Handler(), slog.LevelWarn),
	}
	return s
}

// run connects and serves until something breaks, the gateway refuses, or ctx ends and running requests are done.
func (s *session) run(ctx context.Context) error {
	alive, cancel := context.WithCancel(context.WithoutCancel(ctx)) // requests may outlive ctx
	defer cancel()
	s.srv.BaseContext = func(net.Listener) context.Context { return alive }
	if err := s.open(ctx); err != nil {
		return err
	}
	defer s.close()
	dials, stop := context.WithCancel(ctx)
	defer stop()
	return s.keep(dials)
}

// open dials the control connection and starts to serve it.
func (s *session) open(ctx context.Context) error {
	conn, raw, err := s.d.dial(ctx, s.tls)
	if err != nil {
		return err
	}
	if s.secret, err = exporter(conn); err != nil {
		return errors.Join(err, raw.Close())
	}
	s.control = &link{Conn: conn, raw: raw, s: s, control: true}
	s.links[s.control] = struct{}{}
	s.pending++
	s.serving.Go(func() { _ = s.srv.Serve(s.l) }) // ends with close
	s.hand(s.control)
	return nil
}

// hand gives a connection to net/http.
func (s *session) hand(l *link) {
	s.serving.Add(1) // until connState hears that it is closed
	if !s.l.put(l) {
		_ = l.Close() // the session is over
		s.serving.Done()
	}
}

// keep is the session's loop. Silence counts from the start; the first poll means that the gateway knows the session.
func (s *session) keep(ctx context.Context) error {
	silence := time.NewTimer(s.d.t.silence)
	defer silence.Stop()
	tick := time.NewTicker(max(s.d.t.surplus/4, time.Millisecond))
	defer tick.Stop()
	retry := time.NewTimer(0)
	defer retry.Stop()
	known := false
	for {
		select {
		case <-ctx.Done():
			return s.drain()
		case <-s.over:
			return s.reason(known)
		case <-silence.C:
			return errSilent
		case <-s.heard:
			quietTo, polled := s.signs()
			silence.Reset(time.Until(quietTo))
			if polled && !known {
				known = true
				s.d.setStatus(true, nil)
				s.d.cfg.Log.Info("gateway connected", "gateway", s.d.cfg.Address)
			}
		case <-s.wake:
		case <-tick.C:
			s.calm()
		case <-retry.C:
		}
		if known {
			if wait := s.tend(ctx); wait > 0 {
				retry.Reset(wait)
			}
		}
	}
}

// hear notes a sign of life, after which the gateway may be silent for so long.
func (s *session) hear(silence time.Duration, poll bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quietTo, s.polled = time.Now().Add(silence), s.polled || poll
	s.notify(s.heard)
}

func (s *session) signs() (quietTo time.Time, polled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.quietTo, s.polled
}

// reason is why the control connection is closed, in words that help: once refused the gateway's own.
func (s *session) reason(known bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.why != nil:
		return s.why
	case known:
		return fmt.Errorf("gateway closed the connection: %w", cmp.Or(s.control.broken, net.ErrClosed))
	default:
		return fmt.Errorf("gateway closed the connection before it knew us: %w", cmp.Or(s.control.broken, net.ErrClosed))
	}
}

// tend dials data connections that are missing and closes those too many. It returns when to come back, 0 if it need
// not be woken for a dial.
func (s *session) tend(ctx context.Context) time.Duration {
	limit := min(max(s.d.cfg.Capacity(), 0), dataMax)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = limit
	s.trim()
	need := min(s.missing(), dialsMax-s.pending)
	if need <= 0 {
		return 0
	}
	if wait := time.Until(s.retry); wait > 0 {
		return wait
	}
	s.pending += need
	for range need {
		s.serving.Go(func() { s.add(ctx) })
	}
	return 0
}

// calm lets the peak fall to what is active now, by half each time.
func (s *session) calm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peak = max(s.active, s.peak/2)
}

// missing is how many connections should be idle beyond those that are or soon will be: as many as served of late, so
// that they double under load, but within the limit. s.mu is held.
func (s *session) missing() int {
	return s.want() - s.idle - s.pending
}

func (s *session) want() int {
	return max(0, min(max(idleMin, min(s.peak, idleMax)), s.limit-s.active))
}

// trim closes connections that were idle for long and are more than wanted, the longest idle first: the gateway takes
// the last used first, so those are the ones it does not need. s.mu is held.
func (s *session) trim() {
	extra := s.idle - s.want()
	if extra <= 0 {
		return
	}
	var old []*link
	for l := range s.links {
		if l.phase == phaseIdle && time.Since(l.since) >= s.d.t.surplus {
			old = append(old, l)
		}
	}
	slices.SortFunc(old, func(a, b *link) int { return a.since.Compare(b.since) })
	for _, l := range old[:min(extra, len(old))] {
		s.drop(l)
		_ = l.raw.Close() // idle: nothing is lost
	}
}

// add dials one data connection. It was counted as pending already.
func (s *session) add(ctx context.Context) {
	conn, raw, err := s.d.dial(ctx, s.tls)
	if err == nil {
		var secret []byte
		if secret, err = exporter(conn); err == nil {
			l := &link{Conn: conn, raw: raw, s: s, proof: proof(s.secret, secret)}
			if err = s.admit(l); err == nil {
				s.hand(l)
				return
			}
		}
		_ = raw.Close() // unused
	}
	s.mu.Lock()
	s.pending--
	s.failed()
	s.mu.Unlock()
	s.notify(s.wake)
	if ctx.Err() == nil {
		s.d.cfg.Log.Debug("data connection not made", "gateway", s.d.cfg.Address, "error", err)
	}
}

// admit makes a link one that close and drain see, or refuses when they have been there.
func (s *session) admit(l *link) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return net.ErrClosed
	}
	s.links[l] = struct{}{}
	return nil
}

// failed makes the next dial wait. Dials of one burst that fail together count once. s.mu is held.
func (s *session) failed() {
	if time.Now().Before(s.retry) {
		return
	}
	s.retry = time.Now().Add(backoff(s.d.t, s.failures))
	s.failures++
}

// drop takes a link out of the counts. s.mu is held.
func (s *session) drop(l *link) {
	switch l.phase {
	case phasePending:
		s.pending--
		s.failed() // closed before hello
	case phaseIdle:
		s.idle--
		if !l.used && time.Since(l.since) < s.d.t.hello {
			s.failed() // the gateway does not want it: no redial in a circle
		}
	case phaseActive:
		s.active--
	case phaseClosed:
		return
	}
	l.phase = phaseClosed
	delete(s.links, l)
	if l.control {
		close(s.over)
	}
	s.notify(s.wake)
}

// connState follows what net/http does with the links.
func (s *session) connState(c net.Conn, state http.ConnState) {
	l, ok := c.(*link)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateActive:
		if l.phase != phaseIdle {
			return // hello is no request
		}
		s.idle--
		s.active++
		s.peak = max(s.peak, s.active)
		l.phase, l.used = phaseActive, true
		s.failures = 0
	case http.StateIdle:
		if l.phase != phaseActive {
			return
		}
		s.active--
		s.idle++
		l.phase, l.since = phaseIdle, time.Now()
	case http.StateClosed, http.StateHijacked:
		s.drop(l)
		if !l.ended {
			l.ended = true
			s.serving.Done()
		}
	case http.StateNew:
	}
	if s.draining && l.phase == phaseIdle {
		s.drop(l)
		_ = l.raw.Close() // idle: nothing is lost
	}
	if s.draining || s.missing() > 0 {
		s.notify(s.wake)
	}
}

func (s *session) notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// drain lets running requests finish for a while. The control connection stays, so that the gateway keeps theirs.
func (s *session) drain() error {
	s.mu.Lock()
	s.draining = true
	for l := range s.links {
		if l.phase != phaseActive && !l.control {
			s.drop(l)
			_ = l.raw.Close() // serves nothing
		}
	}
	s.mu.Unlock()
	grace := time.NewTimer(s.d.t.grace)
	defer grace.Stop()
	for s.serves() {
		select {
		case <-s.wake:
		case <-s.over:
			return nil
		case <-grace.C:
			return nil
		}
	}
	select { // the end of the control connection must not overtake the last answers
	case <-time.After(s.d.t.linger):
	case <-s.over:
	}
	return nil
}

func (s *session) serves() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active > 0
}

// close cuts everything. Handlers that still run see their contexts end.
func (s *session) close() {
	s.l.close()
	_ = s.srv.Close() // closes what it serves
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	for l := range s.links {
		s.drop(l)
		_ = l.raw.Close() // whatever phase it is in
	}
}
