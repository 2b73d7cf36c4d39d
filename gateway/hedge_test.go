package gateway

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"cocoon/internal/nanoton"
)

// rider is one of two workers that a hedged request goes to.
type rider struct {
	*payee
	asked chan struct{} // the request is here
	gone  chan struct{} // it was ended before the answer was
	goOn  chan string   // what to do
}

// ride connects a worker that does with a request what it is told: head, role, serve, fail, break.
func (n *network) ride() *rider {
	k := &rider{asked: make(chan struct{}, 9), gone: make(chan struct{}, 9), goOn: make(chan string, 9)}
	k.payee = n.pay(8, func(w http.ResponseWriter, r *http.Request, p *payee) {
		body, _ := io.ReadAll(r.Body)
		k.asked <- struct{}{}
		begin := []string{role}
		for {
			var what string
			select {
			case what = <-k.goOn:
			case <-r.Context().Done():
				k.gone <- struct{}{}
				return
			}
			switch what {
			case "head":
				w.Header().Set("Content-Type", "text/event-stream")
				w.WriteHeader(http.StatusOK)
				w.(http.Flusher).Flush()
			case "role":
				events(w, role)
				begin = nil
			case "serve":
				events(w, append(begin, hello, stopped)...)
				writeReceipt(w, p.receipt(r, body, nil))
				events(w, usage, "[DONE]")
				return
			case "fail":
				w.WriteHeader(http.StatusInternalServerError)
				return
			case "break":
				panic(http.ErrAbortHandler)
			}
		}
	})
	return k
}

// TestHedge has two workers race, in all orders in which they can begin, fail and be left.
func TestHedge(t *testing.T) {
	for _, tc := range []struct {
		name   string
		before string // what the first does before the second is asked
		script string // who does what then
		served string // who serves; or else the code of the error
	}{
		{"second serves", "", "2 serve, 1 gone", "2"},
		{"second serves, the first has a head", "head", "2 serve, 1 gone", "2"},
		{"first serves", "", "1 serve, 2 gone", "1"},
		{"first serves, it has a head", "head", "1 serve, 2 gone", "1"},
		{"first serves, the second has a head", "", "2 head, 1 serve, 2 gone", "1"},
		{"first serves, the second has a role", "", "2 role, 1 serve, 2 gone", "1"},
		{"second serves, the first has a role", "", "1 role, 2 serve, 1 gone", "2"},
		{"second fails", "", "2 fail, 1 serve", "1"},
		{"second breaks after the role", "head", "2 role, 2 break, 1 serve", "1"},
		{"second fails, the first has a role", "", "1 role, 2 fail, 1 serve", "1"},
		{"first fails", "", "1 fail, 2 serve", "2"},
		{"first breaks", "head", "1 break, 2 serve", "2"},
		{"both fail", "", "1 fail, 2 fail", "worker_failed"},
		{"both break, a dead connection counts for nothing", "head", "2 break, 2 break, 1 break", "worker_failed"},
		{"client leaves", "", "client leaves, 1 gone, 2 gone", ""},
		{"client leaves, the first has a head", "head", "client leaves, 1 gone, 2 gone", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := billed(t, nanoton.PerTON)
			first := n.ride()
			second := n.ride()
			n.until("both are there", func() bool { m, _ := n.server.table.Model("m"); return len(m.Offers) == 2 })
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			got := make(chan *http.Response, 1)
			go func() { got <- n.hedged(ctx, first, second) }()
			<-first.asked
			if tc.before != "" {
				first.goOn <- tc.before
			}
			<-second.asked
			for step := range strings.SplitSeq(tc.script, ", ") {
				who, what, _ := strings.Cut(step, " ")
				k := map[string]*rider{"1": first, "2": second}[who]
				switch {
				case k == nil:
					leave()
				case what == "gone":
					<-k.gone
				default:
					k.goOn <- what
					time.Sleep(100 * time.Millisecond) // so that it comes before the next step
				}
			}
			n.checkHedge(<-got, tc.served, map[string]string{"1": first.id.String(), "2": second.id.String()})
		})
	}
}

// hedged asks for a stream, of the first worker first.
func (n *network) hedged(ctx context.Context, first, second *rider) *http.Response {
	body := fmt.Sprintf(`{"model":"m","provider":{"order":[%q,%q],"hedge":true},"stream":true,"messages":[{"role":"user","content":"hi"}]}`,
		first.id.String(), second.id.String())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, n.base+chatPath, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	r.Header.Set("Authorization", "Bearer "+n.key)
	resp, err := n.client.Do(r)
	if err != nil {
		return nil
	}
	return resp
}

// checkHedge checks who served, that this alone is paid, and that nothing is left over.
func (n *network) checkHedge(resp *http.Response, served string, ids map[string]string) {
	n.t.Helper()
	cost := nanoton.Amount(0)
	switch id := ids[served]; {
	case served == "":
		if resp != nil {
			n.t.Errorf("a client that left got %d", resp.StatusCode)
		}
	case id == "":
		if code := refused(n.t, resp, http.StatusBadGateway); code != served {
			n.t.Errorf("code %s, want %s", code, served)
		}
	default:
		cost = helloCost
		if got := text(n.t, resp); got != sseOf(role, hello, stopped, "[DONE]") || resp.Header.Get("Cocoon-Worker") != id {
			n.t.Errorf("by %s, want %s: %s", resp.Header.Get("Cocoon-Worker"), id, got)
		}
		receipt := resp.Header.Get("Cocoon-Receipt")
		n.until("the receipt is there", func() bool { status, _ := n.getKey("/cocoon/v1/receipts/" + receipt); return status == http.StatusOK })
	}
	n.until("no lease is left", func() bool { _, leases := n.server.table.Workers(); return leases == 0 })
	if served == "" {
		return // the last word on what it costs is the workers'
	}
	if got := n.spent(nanoton.PerTON); got != cost {
		n.t.Errorf("it cost %d nanoTON, want %d", got, cost)
	}
}

// TestHedgeWithoutMoney: what is there for one worker is not there for two, and the first goes on as it was.
func TestHedgeWithoutMoney(t *testing.T) {
	const little = 20_000 // enough for a ceiling of 4096 tokens, and not for two
	n := billed(t, little)
	first, second := n.ride(), n.ride()
	n.until("both are there", func() bool { m, _ := n.server.table.Model("m"); return len(m.Offers) == 2 })
	got := make(chan *http.Response, 1)
	go func() { got <- n.hedged(t.Context(), first, second) }()
	<-first.asked
	n.until("the second was tried", func() bool { return strings.Contains(n.text("/metrics"), `attempts_failed_total{reason="funds"} 1`) })
	first.goOn <- "serve"
	resp := <-got
	if got := text(t, resp); got != sseOf(role, hello, stopped, "[DONE]") || resp.Header.Get("Cocoon-Max-Tokens") != "" {
		t.Errorf("%d tokens at most: %s", resp.StatusCode, got)
	}
	if got := n.spent(little); got != helloCost || len(second.asked) > 0 {
		t.Errorf("it cost %d nanoTON", got)
	}
}

// text is what the operator's listener has.
func (n *network) text(path string) string {
	n.t.Helper()
	resp, err := n.client.Get("http://" + n.server.OpsAddr().String() + path)
	if err != nil {
		n.t.Fatal(err)
	}
	return text(n.t, resp)
}

// TestHedgeTie has many requests at once, of which both workers serve each at the same moment.
func TestHedgeTie(t *testing.T) {
	const many = 6
	n := billed(t, nanoton.PerTON)
	first, second := n.ride(), n.ride()
	n.until("both are there", func() bool { m, _ := n.server.table.Model("m"); return len(m.Offers) == 2 })
	got := make(chan *http.Response, many)
	for range many {
		go func() { got <- n.hedged(t.Context(), first, second) }()
	}
	for range many {
		<-first.asked
		<-second.asked
	}
	for range many {
		first.goOn <- "serve"
		second.goOn <- "serve"
	}
	for range many {
		if got := text(t, <-got); got != sseOf(role, hello, stopped, "[DONE]") {
			t.Errorf("stream %s", got)
		}
	}
	n.until("no lease is left", func() bool { _, leases := n.server.table.Workers(); return leases == 0 })
	if got := n.spent(nanoton.PerTON); got != many*helloCost {
		t.Errorf("it cost %d nanoTON, want %d", got, many*helloCost)
	}
}
