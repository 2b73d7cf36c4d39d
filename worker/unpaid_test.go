package worker

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"cocoon/internal/receipt"
	"cocoon/worker/engine/enginetest"
)

// TestReadUnpaid reads the folder of a worker that does not run, and asks one that does.
func TestReadUnpaid(t *testing.T) {
	c := configFor(t, "http://127.0.0.1:1")
	if u, err := ReadUnpaid(t.Context(), c); err != nil || u != (Unpaid{}) {
		t.Errorf("of none: %+v, %v", u, err)
	}
	if _, err := os.Stat(c.DataDir); err == nil {
		t.Error("it made the folder")
	}
	p := newPaid(t, enginetest.VLLM, nil)
	for range 3 {
		p.serve(t, p.name(), chatBody("ok", true))
	}
	till := p.worker.till.Load()
	for id := range till.claims {
		if err := till.acknowledge(&receipt.Acks{Settled: []receipt.Digest{id}}, "gw"); err != nil {
			t.Fatal(err)
		}
		break
	}
	c = p.worker.config
	if _, err := ReadUnpaid(t.Context(), c); err == nil || !strings.Contains(err.Error(), "ops_listen") {
		t.Errorf("of one that runs without ops_listen: %v", err)
	}
	srv := httptest.NewServer(p.worker.opsHandler())
	defer srv.Close()
	c.OpsListen = strings.TrimPrefix(srv.URL, "http://")
	u, err := ReadUnpaid(t.Context(), c)
	if err != nil || u.Finals != 2 || u.Interims != 0 || u.Sum != 2*511 || !u.Running || u.Earned != 511 || u.Oldest.IsZero() {
		t.Errorf("of one that runs: %+v, %v", u, err)
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	c.OpsListen = strings.TrimPrefix(other.URL, "http://")
	if _, err := ReadUnpaid(t.Context(), c); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("of something else: %v", err)
	}
	oldest := u.Oldest
	if err := till.store.Close(); err != nil {
		t.Fatal(err)
	}
	u, err = ReadUnpaid(t.Context(), c)
	if err != nil || u.Finals != 2 || u.Sum != 2*511 || u.Running || !u.Oldest.Equal(oldest) {
		t.Errorf("of one that has ended: %+v, %v; the oldest was of %v", u, err, oldest)
	}
}
