package e2e_test

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// TestSlowWorkerIsLeft has a worker that was quick fall silent before the first token: the request moves on long before the
// gateway's own time limit, also where nothing but short answers was ever seen of it.
func TestSlowWorkerIsLeft(t *testing.T) {
	t.Parallel()
	g := startGateway(t, "auto")
	var stuck atomic.Bool
	serve := func(may bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			c := &call{w: w, stream: wantsStream(r)}
			if may && stuck.Load() {
				<-r.Context().Done()
				return
			}
			c.say("yes")
			c.finish()
		}
	}
	w := g.startWorkerWith(t, "quick", serveEngine(t, "m", serve(true)), outcomePrice)
	g.startWorkerWith(t, "other", serveEngine(t, "m", serve(false)), outcomePrice)
	eventually(t, startMax, "both workers serve", func() bool { return g.serving(t, "m") == 2 })
	for range 10 {
		for _, name := range []string{"quick", "other"} {
			g.ask(t, prompt("m", "hi", streamed, `"provider":{"only":["`+name+`"]}`))
		}
	}
	time.Sleep(time.Second) // the router looks at what it has learned four times a second
	stuck.Store(true)
	r := g.ask(t, prompt("m", "hi", streamed, `"provider":{"order":["quick"]}`))
	if !r.succeeded() || r.text != "yes" {
		t.Fatalf("%v", r)
	}
	tried := g.generation(t, r.header.Get("X-Request-Id")).Routing.Attempts
	if len(tried) != 2 || tried[0].Worker != w.id(t) || tried[0].Outcome != "worker_slow" || tried[1].Outcome != "served" {
		t.Errorf("attempts: %+v", tried)
	}
}
