package tunnel

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// serve routes a request by its connection: control connections speak of the session only, data connections never do.
// Both carry challenges; receipts go over data connections, so that they never hold up a poll.
func (s *session) serve(w http.ResponseWriter, r *http.Request) {
	l, ok := r.Context().Value(linkKey{}).(*link)
	switch {
	case !ok:
		refuse(w, http.StatusInternalServerError)
	case r.URL.Path == helloPath:
		s.hello(w, r, l)
	case !s.greeted(l):
		refuse(w, http.StatusForbidden)
	case l.control && r.URL.Path == reportPath:
		s.report(w, r)
	case l.control && r.URL.Path == attestPath:
		cs := l.Conn.ConnectionState()
		s.attest(w, r, cs.ExportKeyingMaterial)
	case r.URL.Path == attestPath:
		s.attest(w, r, nil)
	case !l.control && r.URL.Path == receiptsPath:
		s.receipts(w, r)
	case !l.control && r.URL.Path == countersign:
		s.countersign(w, r)
	case !l.control && r.URL.Path == marketPath:
		s.market(w, r)
	case l.control || strings.HasPrefix(r.URL.Path, wellKnown):
		refuse(w, http.StatusNotFound)
	default:
		if s.drains() {
			w.Header().Set("Connection", "close") // the gateway need not find out by trying
		}
		if lack := r.Header.Get(LackHeader); lack != "" {
			s.lacked(lack)
		}
		s.d.cfg.Handler.ServeHTTP(w, r)
	}
}

// lacked takes the gateway's word for how many connections were too few. Bounds are want's.
func (s *session) lacked(text string) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return // it is only a hint
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peak = max(s.peak, s.idle+s.active+s.pending+int(n))
	s.notify(s.wake)
}

// refuse answers what the protocol does not have, and closes: the peer is not the gateway we know.
func refuse(w http.ResponseWriter, status int) {
	w.Header().Set("Connection", "close")
	w.WriteHeader(status)
}

func (s *session) greeted(l *link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return l.phase != phasePending
}

func (s *session) drains() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// hello tells the gateway what the connection is for, or hears that it does not want us.
func (s *session) hello(w http.ResponseWriter, r *http.Request, l *link) {
	var said hello
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, helloMax))
	if err != nil || json.Unmarshal(body, &said) != nil || said.V != version || r.Method != http.MethodPost {
		s.end(errors.New("gateway's hello is not one of this version"))
		refuse(w, http.StatusBadRequest)
		return
	}
	answer := helloAnswer{V: version, Kind: kindData, Session: s.id, Proof: l.proof}
	if l.control {
		answer.Kind = kindControl
	}
	if said.Refused != "" {
		if l.control {
			s.end(refusedError(said.Refused))
		}
		w.Header().Set("Connection", "close")
	} else {
		s.welcome(l)
	}
	writeJSON(w, answer)
}

// welcome makes a link idle. Its connState will not: a hello is no request.
func (s *session) welcome(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.phase != phasePending {
		return // hello once more: nothing new
	}
	s.pending--
	if l.control {
		l.phase = phaseControl
		return
	}
	l.phase, l.since = phaseIdle, time.Now()
	s.idle++
	if s.missing() > 0 { // a dial may have waited for this one
		s.notify(s.wake)
	}
}

// end notes why the session will be over; the gateway closes the connection when it has our answer.
func (s *session) end(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why == nil {
		s.why = why
	}
}

// report answers a poll.
func (s *session) report(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
	if err != nil || r.Method != http.MethodGet {
		refuse(w, http.StatusBadRequest)
		return
	}
	s.hear(s.d.t.silence, true)
	ctx, cancel := context.WithTimeout(r.Context(), s.d.t.poll)
	defer cancel()
	version, report := s.d.cfg.Report(ctx, after)
	if version <= after {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if len(report) > ReportMax {
		s.d.cfg.Log.Error("report not sent", "bytes", len(report), "max", ReportMax)
		s.end(errors.New("our report is too long"))
		refuse(w, http.StatusInternalServerError)
		return
	}
	// By hand: each gateway gets a report several times a second, and to an encoder it would be JSON to check and to copy.
	body := append(make([]byte, 0, len(report)+envelope), `{"version":`...)
	body = append(strconv.AppendUint(body, version, 10), `,"report":`...)
	writeBody(w, append(append(body, report...), '}'))
}

// envelope is what stands around a report at most, bytes.
const envelope = 64

func writeJSON(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		refuse(w, http.StatusInternalServerError)
		return
	}
	writeBody(w, body)
}

func writeBody(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // a peer that is gone closes the connection
}

// dialed is the listener of a session's http.Server: what it accepts are the connections that the worker dialed.
type dialed struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newDialed() *dialed { return &dialed{conns: make(chan net.Conn), done: make(chan struct{})} }

// put waits for Accept; false if the listener is closed.
func (d *dialed) put(c net.Conn) bool {
	select {
	case d.conns <- c:
		return true
	case <-d.done:
		return false
	}
}

func (d *dialed) close() { d.once.Do(func() { close(d.done) }) }

// Accept returns the next connection that was dialed.
func (d *dialed) Accept() (net.Conn, error) {
	select {
	case c := <-d.conns:
		return c, nil
	case <-d.done:
		return nil, net.ErrClosed
	}
}

// Close makes Accept return.
func (d *dialed) Close() error {
	d.close()
	return nil
}

// Addr has nothing to say: there is no socket.
func (d *dialed) Addr() net.Addr { return &net.TCPAddr{} }
