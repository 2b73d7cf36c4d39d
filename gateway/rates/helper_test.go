package rates

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cocoon/billing/ledger"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// exchange is a server whose price, or misbehaviour, the test sets.
type exchange struct {
	url     string
	mu      sync.Mutex
	handler http.HandlerFunc // guarded by mu
}

func newExchange(t testing.TB) *exchange {
	e := &exchange{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.mu.Lock()
		handler := e.handler
		e.mu.Unlock()
		handler(w, r)
	}))
	t.Cleanup(server.Close)
	e.url = server.URL
	e.down()
	return e
}

func (e *exchange) does(handler http.HandlerFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.handler = handler
}

func (e *exchange) says(price string) {
	e.does(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintf(w, `{"data":[{"last":"%s"}]}`, price) })
}

func (e *exchange) down() {
	e.does(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", http.StatusServiceUnavailable) })
}

// market is exchanges, a Feed on them, and its clock.
type market struct {
	t         testing.TB
	exchanges []*exchange
	c         Config
	f         *Feed
	now       time.Time
}

// newMarket makes a market of so many exchanges, with a real ledger for a store.
func newMarket(t testing.TB, n int) *market {
	t.Helper()
	m := &market{t: t, now: time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)}
	l, err := ledger.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	m.c = Config{Store: l, Now: func() time.Time { return m.now }}
	for i := range n {
		e := newExchange(t)
		m.exchanges = append(m.exchanges, e)
		m.c.Sources = append(m.c.Sources, Source{Name: fmt.Sprint("x", i), URL: e.url, Path: "data.0.last"})
	}
	m.open()
	return m
}

func (m *market) open() {
	m.t.Helper()
	f, err := Open(context.Background(), m.c)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(f.client.CloseIdleConnections)
	m.f = f
}

// says sets the prices of the exchanges; one that has none is down.
func (m *market) says(prices ...string) {
	for i, e := range m.exchanges {
		if i < len(prices) && prices[i] != "" {
			e.says(prices[i])
		} else {
			e.down()
		}
	}
}

// round passes the time of a round and does one.
func (m *market) round() {
	m.now = m.now.Add(DefaultEvery)
	m.f.round(context.Background())
}

// want sees what the Feed shows; 0 is nothing.
func (m *market) want(micro int64, stale bool) Rate {
	m.t.Helper()
	r, ok := m.f.Now()
	if ok != (micro != 0) || r.MicroUSD != micro || ok && r.Stale != stale {
		m.t.Fatalf("got %+v, %v; want %d, stale %v; failing %v", r, ok, micro, stale, m.f.Failing())
	}
	return r
}
