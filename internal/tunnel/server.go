package tunnel

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"cocoon/internal/h1"
)

// ServerConfig is what a gateway's side needs. All fields are required; without Attest every worker is refused.
type ServerConfig struct {
	// Identity is what workers pin.
	Identity *Identity
	// Admit decides over a worker at every connection it makes; nil lets it in. The error's words go to the worker.
	Admit func(ID) error
	// Attest decides over a worker before its first report is taken or a data connection of it accepted, and again once
	// the time again has come (within 10 s of it) or Reattest was called. An error ends the session; its words go to the
	// worker. It runs on the session's goroutine, between polls: no report comes meanwhile, and ctx ends after 60 s or
	// with the session. It must Ask within 5 s: the worker waits 15 s for a sign of life.
	Attest func(ctx context.Context, c *Challenge) (again time.Time, err error)
	// Report takes a worker's report, at most ReportMax bytes, which is the callee's to keep. The first one makes the
	// worker count; an error ends the session. Calls for one worker never overlap, and none comes after Gone.
	Report func(w *Worker, report []byte) error
	// Gone is called exactly once for each worker that Attest was called for, whatever that said, and before the first
	// Attest of the session that replaces it.
	Gone func(w *Worker, why error)
	Log  *slog.Logger
}

// Server is the gateway's side: it takes workers' connections and keeps their sessions.
type Server struct {
	cfg ServerConfig
	tls *tls.Config
	t   timings

	strangers *lobby

	mu       sync.Mutex
	sessions map[ID]*Worker // the newest of each
}

// NewServer does nothing yet but prepare; see Serve.
func NewServer(cfg ServerConfig) *Server {
	return &Server{
		cfg: cfg, tls: serverTLS(cfg.Identity), t: defaults(),
		strangers: newLobby(strangersMax), sessions: make(map[ID]*Worker),
	}
}

// Serve takes workers' connections from l until ctx ends. It closes l, ends its sessions, and returns when nothing of
// it runs any more. The error is nil after ctx ended, else why l could not be used.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // makes Accept return
	defer func() {
		if stop() {
			_ = l.Close() // Accept failed already: that is the error to return
		}
	}()
	for {
		c, err := s.accept(ctx, l)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accepting workers: %w", err)
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetKeepAliveConfig(keepAlive()) // the heartbeat notices a dead peer too
		}
		leave, ok := s.strangers.enter(ctx, c, s.t.patience)
		if !ok {
			_ = c.Close() // nothing was said yet
			return nil
		}
		wg.Go(func() { s.greet(ctx, c, leave) })
	}
}

// accept waits out what passes, such as too many open files, as net/http does.
func (s *Server) accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	for delay := 5 * time.Millisecond; ; delay = min(2*delay, time.Second) {
		c, err := l.Accept()
		var passing interface{ Temporary() bool }
		if err == nil || !errors.As(err, &passing) || !passing.Temporary() {
			return c, err
		}
		s.cfg.Log.Warn("worker connections wait", "error", err)
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(delay):
		}
	}
}

// Recheck asks Admit again for every session and closes those that it refuses before it returns. Gone follows soon.
func (s *Server) Recheck() {
	s.mu.Lock()
	all := make([]*Worker, 0, len(s.sessions))
	for _, w := range s.sessions {
		all = append(all, w)
	}
	s.mu.Unlock()
	for _, w := range all {
		if err := s.cfg.Admit(w.id); err != nil {
			w.close(fmt.Errorf("%w: %w", ErrRefused, err))
		}
	}
}

// greet takes a connection from a stranger to a session, and runs the session if it is its control connection.
func (s *Server) greet(ctx context.Context, raw net.Conn, leave func()) {
	defer leave()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() }) // ends whatever waits on it
	defer stop()
	d, answer, err := s.hello(raw)
	if err == nil {
		switch answer.Kind {
		case kindControl:
			leave()
			stop() // the session closes it, and knows why
			err = s.session(ctx, d, answer)
		case kindData:
			err = s.join(d, answer)
		default:
			err = fmt.Errorf("%w: kind of connection", errPeer)
		}
	}
	if err != nil {
		// Anybody can cause this, so nobody gets to fill the log with it.
		s.cfg.Log.Debug("worker connection closed", "peer", raw.RemoteAddr(), "error", err)
		_ = raw.Close() // it has failed already
	}
}

// hello authenticates the worker and asks it what the connection is for.
func (s *Server) hello(raw net.Conn) (*dataConn, helloAnswer, error) {
	var answer helloAnswer
	if err := raw.SetDeadline(time.Now().Add(s.t.hello)); err != nil {
		return nil, answer, err
	}
	conn := tls.Server(raw, s.tls)
	if err := conn.Handshake(); err != nil {
		return nil, answer, fmt.Errorf("shaking hands: %w", err)
	}
	d := &dataConn{Conn: conn, raw: raw, id: idOf(conn.ConnectionState().PeerCertificates[0])}
	d.h1 = h1.NewConn(d)
	refused := s.refusal(d.id)
	answer, err := sayHello(d.h1, refused)
	switch {
	case refused != nil:
		return nil, answer, fmt.Errorf("%w: %w", ErrRefused, refused)
	case err != nil:
		return nil, answer, fmt.Errorf("saying hello: %w", err)
	case answer.V != version || len(answer.Session) != sessionSize || !d.h1.Reusable():
		return nil, answer, fmt.Errorf("%w: hello", errPeer)
	}
	return d, answer, raw.SetDeadline(time.Time{})
}

// sayHello tells the worker that it is welcome, or why not.
func sayHello(c *h1.Conn, refused error) (answer helloAnswer, err error) {
	say := hello{V: version}
	if refused != nil {
		say.Refused = clip(refused.Error(), wordsMax)
	}
	body, err := json.Marshal(say)
	if err != nil {
		return answer, err
	}
	resp, err := c.Do(&h1.Request{
		Method: "POST", Path: helloPath, Host: host, Header: "Content-Type: application/json\r\n", Body: body,
	})
	if err != nil {
		return answer, err
	}
	return answer, readJSON(resp, helloMax, &answer)
}

// refusal is why a worker may not come in, in words for its log.
func (s *Server) refusal(id ID) error {
	if s.cfg.Attest == nil {
		return errors.New("the gateway can't attest workers")
	}
	if err := s.cfg.Admit(id); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[id] == nil && len(s.sessions) >= sessionsMax {
		return errors.New("the gateway has no place for another worker")
	}
	return nil
}

// join adds a data connection to its session.
func (s *Server) join(d *dataConn, answer helloAnswer) error {
	s.mu.Lock()
	w := s.sessions[d.id]
	s.mu.Unlock()
	if w == nil || w.session != answer.Session {
		return fmt.Errorf("%w: no such session", errPeer)
	}
	secret, err := exporter(d.Conn)
	if err != nil {
		return err
	}
	if !proves(answer.Proof, w.secret, secret) {
		return fmt.Errorf("%w: proof of the session", errPeer)
	}
	return w.join(d)
}

// session runs until the worker, the gateway, Admit or Attest ends it.
func (s *Server) session(ctx context.Context, control *dataConn, answer helloAnswer) error {
	secret, err := exporter(control.Conn)
	if err != nil {
		return err
	}
	w := newWorker(s, control, answer.Session, secret)
	alive, cancel := context.WithCancel(context.WithoutCancel(ctx)) // ends in close, which has the reason
	defer cancel()
	w.cancel = cancel
	old, err := s.register(w)
	if err != nil {
		return err
	}
	defer s.unregister(w)
	stop := context.AfterFunc(ctx, func() { w.close(ErrClosed) })
	defer stop()
	if old != nil {
		old.close(ErrReplaced)
		<-old.ended // so that Gone of the old comes before Attest of the new
	}
	// Admit once more: a Recheck between the first time and register would have missed this session.
	counted := false
	if err = s.cfg.Admit(w.id); err != nil {
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	} else {
		counted, err = w.poll(alive)
	}
	w.close(err)
	s.cfg.Log.Info("worker gone", "worker", w.id, "reported", counted, "why", w.cause())
	if w.asked {
		s.cfg.Gone(w, w.cause())
	}
	return w.cause()
}

func (s *Server) register(w *Worker) (old *Worker, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old = s.sessions[w.id]
	if old == nil && len(s.sessions) >= sessionsMax {
		return nil, errors.New("too many workers")
	}
	s.sessions[w.id] = w
	return old, nil
}

func (s *Server) unregister(w *Worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[w.id] == w {
		delete(s.sessions, w.id)
	}
	close(w.ended)
}

// readJSON reads a 200 answer's body, at most limit bytes, into v.
func readJSON(resp *h1.Response, limit int64, v any) error {
	if resp.Status != 200 {
		return fmt.Errorf("%w: status %d", errPeer, resp.Status)
	}
	body, err := readBody(resp, limit)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: not the JSON we want", errPeer)
	}
	return nil
}

func readBody(resp *h1.Response, limit int64) ([]byte, error) {
	if resp.ContentLength > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", errPeer, resp.ContentLength, limit)
	}
	body, err := io.ReadAll(io.LimitReader(resp, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading answer: %w", err)
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", errPeer, limit)
	}
	return body, nil
}
