package gateway

import (
	"net/http"
	"testing"

	"cocoon/internal/nanoton"
)

// TestMarketSeesRequests: what a request leaves behind is told of it, and counted.
func TestMarketSeesRequests(t *testing.T) {
	n := billed(t, nanoton.PerTON)
	p := n.pay(4, honest(nil))
	for _, ask := range []string{askStream, askWhole} {
		resp := n.ask(ask)
		name := resp.Header.Get("X-Request-Id")
		text(t, resp)
		var got string
		n.until("the request is kept", func() bool {
			status, text := n.getKey("/cocoon/v1/generation/" + name)
			got = text
			return status == http.StatusOK
		})
		g := decode[generationAnswer](t, got).Data
		if g.Routing == nil || len(g.Routing.Attempts) != 1 || g.Routing.Attempts[0].Outcome != "served" || g.Provider != p.id.String() || g.Status != 200 {
			t.Fatalf("%s", got)
		}
		if g.Cost == nil || *g.Cost != helloCost || g.Finish != "stop" || g.TokensPrompt != 3 || *g.Streamed != (ask == askStream) || (g.Latency != nil) != *g.Streamed {
			t.Errorf("%s", got)
		}
		if why := g.Routing.Attempts[0].Why; why.Candidates != 1 || len(why.Top) != 1 || why.Picked != 0 {
			t.Errorf("%s", got)
		}
	}
	refused(t, n.ask(`{"model":"nope"}`), 404)
	m, _ := n.server.market.stats.Model(n.server.clock(), "m")
	if m.Short.Served != 2 || m.Short.Cost != 2*helloCost || m.Short.TTFT.N != 1 || m.Short.Total.N != 2 || len(m.Workers) != 1 || m.Workers[0].Share != 1 {
		t.Errorf("%+v", m)
	}
	if all := n.server.market.stats.Models(n.server.clock()); len(all) != 1 {
		t.Errorf("%d models are counted", len(all))
	}
}
