package gateway

import (
	"errors"
	"math"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"cocoon/gateway/accounts"
	"cocoon/gateway/clerk"
	"cocoon/gateway/market"
	"cocoon/internal/nanoton"
	"cocoon/internal/openai"
	"cocoon/internal/receipt"
	"cocoon/router"
)

// generationView is the answer of GET /cocoon/v1/generation/{id}. Where OpenRouter has a word for it, it is called so.
type generationView struct {
	ID       string `json:"id"`
	Model    string `json:"model"`       // that answered; of a request that failed the one asked for
	Asked    string `json:"model_asked"` // empty: not kept
	Created  string `json:"created_at"`
	Provider string `json:"provider_name"` // the worker that answered, or failed last
	Mode     string `json:"mode"`          // who could read it

	// Cost is null where it is not known, or not yet.
	Cost *nanoton.Amount `json:"cost_nanoton"`

	Streamed  *bool `json:"streamed"`
	Cancelled bool  `json:"cancelled"` // the client left
	// Latency is from the request to the first token of a stream, GenerationTime from there to the end, ms. Of what was not
	// streamed GenerationTime is the whole.
	Latency        *int64 `json:"latency"`
	GenerationTime *int64 `json:"generation_time"`

	TokensPrompt     int64  `json:"tokens_prompt"`
	TokensCompletion int64  `json:"tokens_completion"`
	NativePrompt     int64  `json:"native_tokens_prompt"`
	NativeCompletion int64  `json:"native_tokens_completion"`
	NativeReasoning  int64  `json:"native_tokens_reasoning"`
	NativeCached     int64  `json:"native_tokens_cached"`
	Finish           string `json:"finish_reason"` // empty: not known

	Status  int          `json:"status,omitempty"` // HTTP; 499 if the client left
	Error   string       `json:"error,omitempty"`  // the code of the error
	Routing *routingView `json:"routing"`          // null: not kept any more
	Note    string       `json:"note,omitempty"`
}

// routingView is why the worker was this one.
type routingView struct {
	// Cached is the affinity: tokens of the prompt that the worker was taken to have cached, and those that it had.
	Cached   cachedView    `json:"cached_tokens"`
	Dropped  int           `json:"attempts_not_kept"`
	Attempts []attemptView `json:"attempts"` // in their order
}

type cachedView struct {
	Predicted int64 `json:"predicted"`
	Actual    int64 `json:"actual"`
}

// attemptView is one worker that was asked. Times are ms since the request.
type attemptView struct {
	Worker  string  `json:"worker"`
	Model   string  `json:"model"`
	Started int64   `json:"started_ms"`
	Ended   int64   `json:"ended_ms"`
	Outcome string  `json:"outcome"`
	Reason  string  `json:"reason,omitempty"` // how it failed
	Why     whyView `json:"why"`
}

// whyView is what the router knew when it picked.
type whyView struct {
	Sort       string         `json:"sort"`
	Candidates int            `json:"candidates"` // that offer the model
	Considered int            `json:"considered"`
	Removed    map[string]int `json:"removed"` // by which filter
	Explored   bool           `json:"explored"`
	Picked     int            `json:"picked"` // the place in top, from 0; -1: one behind
	Top        []choiceView   `json:"top"`    // best first
	// What was expected of the request: tokens to read, and to make; and what the median worker asks for that.
	TokensIn  int64 `json:"expected_tokens_in"`
	TokensOut int64 `json:"expected_tokens_out"`
	Reference int64 `json:"reference_nanoton"`
}

// choiceView is what one candidate promised.
type choiceView struct {
	Worker   string  `json:"worker"`
	Score    float64 `json:"score"`              // lower is better
	Behind   bool    `json:"behind,omitempty"`   // put behind others: a preference not met, or a new worker's slow start
	Cost     int64   `json:"cost_nanoton"`       // expected
	TTFT     int64   `json:"latency"`            // expected, ms to the first token
	Total    int64   `json:"total_ms"`           // expected, to the last
	Cached   int64   `json:"cached_tokens"`      // of the prompt
	Inflight int64   `json:"requests_in_flight"` // there
}

// outcomeWord names how an attempt ended.
func outcomeWord(o router.Outcome) string {
	switch o {
	case router.Served:
		return "served"
	case router.ClientGone:
		return "client_gone"
	case router.WorkerBusy:
		return "worker_busy"
	case router.WorkerSlow:
		return "worker_slow"
	case router.Unused:
		return "unused"
	}
	return "worker_fault"
}

// behindScore is where the scores begin of those that were put behind others, which is taken off for people.
const behindScore = 1e9

// showGeneration answers GET /cocoon/v1/generation/{id}, and GET /v1/generation?id=: what became of a request, and why which
// worker had it. A request is its account's: others hear that there is none. What is not kept any more is told from its
// receipt, which whoever knows the name may see.
func (s *Server) showGeneration(w http.ResponseWriter, r *http.Request, key *accounts.Key) {
	name := chi.URLParam(r, "id")
	if name == "" {
		name = r.URL.Query().Get("id")
	}
	id, err := clerk.RequestID(name)
	if err != nil {
		s.refuse(w, openai.NewError(http.StatusNotFound, "generation_not_found", "no such request: its name is req_ and 32 hex digits, as in X-Request-Id"))
		return
	}
	g, ok := s.market.kept.Find(market.RequestID(id[:len(market.RequestID{})]))
	if ok && g.Account != string(key.Account()) {
		s.refuse(w, errNoGeneration())
		return
	}
	var kept *receipt.Signed
	if !ok || !g.Priced {
		kept, err = s.receipt(name)
	}
	if err != nil {
		s.log.Error("looking up a receipt failed", "request", name, "err", err)
		s.refuse(w, openai.NewError(http.StatusInternalServerError, "internal_error", "internal error"))
		return
	}
	switch {
	case ok:
		s.writeGeneration(w, viewGeneration(name, &g, kept))
	case kept != nil:
		s.writeGeneration(w, s.viewReceipt(kept))
	case [4]byte(id[8:12]) != s.tag:
		s.refuse(w, openai.NewError(http.StatusNotFound, "generation_not_found", "another gateway answered this request: ask there"))
	default:
		s.refuse(w, errNoGeneration())
	}
}

func errNoGeneration() *openai.Error {
	return openai.NewError(http.StatusNotFound, "generation_not_found", "no such request here; it is here when its answer has ended")
}

func (s *Server) writeGeneration(w http.ResponseWriter, v generationView) {
	s.writeJSON(w, struct {
		Data generationView `json:"data"`
	}{v})
}

// receipt is a request's receipt, nil if there is none.
func (s *Server) receipt(name string) (*receipt.Signed, error) {
	if s.money.clerk == nil {
		return nil, nil
	}
	text, err := s.money.clerk.Receipt(name)
	if errors.Is(err, clerk.ErrAbsent) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	items, err := receipt.Read(text)
	if err != nil || len(items) == 0 {
		return nil, errors.Join(err, errors.New("the log has no receipt where it should"))
	}
	return items[0].Signed, nil
}

// viewGeneration shows a request that is kept. A receipt that came after its end, if any, says what it cost.
func viewGeneration(name string, g *market.Generation, late *receipt.Signed) generationView {
	in, cached, out, reasoning := g.In, g.Cached, g.Out, g.Reasoning
	if !g.Priced && late != nil {
		t := late.Tokens
		in, cached, out, reasoning = t.In, t.Cached, t.Out, t.Reasoning
		cost, err := g.Price.Cost(t)
		if late.Status == receipt.Error {
			cost = 0
		}
		g.Cost, g.Priced = cost, err == nil
	}
	v := generationView{
		ID: name, Model: g.Served, Asked: g.Asked, Created: g.Created.UTC().Format(time.RFC3339), Mode: g.Mode,
		Streamed: &g.Streamed, Cancelled: g.Status == statusClientGone,
		TokensPrompt: in, NativePrompt: in, TokensCompletion: out, NativeCompletion: out, NativeCached: cached, NativeReasoning: reasoning,
		Finish: g.Finish, Status: g.Status, Error: g.Error,
		Routing: &routingView{Attempts: []attemptView{}, Dropped: g.Dropped, Cached: cachedView{Actual: cached}},
	}
	if v.Model == "" {
		v.Model = g.Asked
	}
	whole := g.Total
	if g.Streamed && g.TTFT > 0 {
		v.Latency = new(g.TTFT.Milliseconds())
		whole -= g.TTFT
	}
	v.GenerationTime = new(whole.Milliseconds())
	for i := range g.Past {
		v.add(&g.Past[i])
	}
	if g.Last.Model != "" {
		v.add(&g.Last)
	}
	switch {
	case g.Priced:
		v.Cost = &g.Cost
	case v.Provider != "":
		v.Note = "what it costs is not known here yet, or the gateway does not bill"
	}
	return v
}

// add shows one attempt more.
func (v *generationView) add(a *market.Attempt) {
	v.Routing.Attempts = append(v.Routing.Attempts, viewAttempt(a))
	v.Provider = a.Worker.String()
	v.Routing.Cached.Predicted = 0
	if p := a.Why.Picked; p >= 0 && p < min(a.Why.Tops, len(a.Why.Top)) {
		v.Routing.Cached.Predicted = whole64(a.Why.Top[p].Cached)
	}
}

func viewAttempt(a *market.Attempt) attemptView {
	k := &a.Why
	v := attemptView{
		Worker: a.Worker.String(), Model: a.Model, Started: a.Started.Milliseconds(), Ended: a.Ended.Milliseconds(),
		Outcome: outcomeWord(a.Outcome), Reason: a.Reason,
		Why: whyView{
			Sort: sortWord(k.Sort), Candidates: k.Candidates, Considered: k.Considered, Removed: map[string]int{}, Explored: k.Explored,
			Picked: k.Picked, Top: []choiceView{}, TokensIn: whole64(k.Tokens), TokensOut: whole64(k.Out), Reference: whole64(k.Reference),
		},
	}
	for r, n := range k.Removed {
		if n > 0 {
			v.Why.Removed[router.Reason(r).String()] = int(n)
		}
	}
	for i := range k.Top[:min(k.Tops, len(k.Top))] {
		c := &k.Top[i]
		score := math.Mod(c.Score, behindScore) // of infinity it is none, and shown as 0
		v.Why.Top = append(v.Why.Top, choiceView{
			Worker: c.Worker.String(), Score: significant(score), Behind: c.Score >= behindScore, Cost: whole64(c.Price),
			TTFT: whole64(c.TTFT * 1000), Total: whole64(c.Total * 1000), Cached: whole64(c.Cached), Inflight: c.Inflight,
		})
	}
	return v
}

// whole64 is a float as a whole number, as near as it can be.
func whole64(v float64) int64 {
	if math.IsNaN(v) {
		return 0
	}
	return int64(math.Round(min(max(v, -1<<53), 1<<53)))
}

// viewReceipt shows what a receipt says of a request that is not kept any more.
func (s *Server) viewReceipt(r *receipt.Signed) generationView {
	v := generationView{
		ID: r.Request, Model: r.Model, Created: time.UnixMilli(r.Start).UTC().Format(time.RFC3339), Provider: r.Worker.String(),
		Mode: string(r.Mode), Cancelled: r.Status == receipt.ClientAbort,
		TokensPrompt: r.Tokens.In, NativePrompt: r.Tokens.In, TokensCompletion: r.Tokens.Out, NativeCompletion: r.Tokens.Out,
		NativeCached: r.Tokens.Cached, NativeReasoning: r.Tokens.Reasoning,
		Note: "why this worker is not kept any more; this is what its receipt says, with this gateway's fee of today on top",
	}
	if r.Status == receipt.Length {
		v.Finish = "length"
	}
	if r.TTFT > 0 {
		v.Latency = new(r.TTFT)
	}
	v.GenerationTime = new(max(r.End-r.Start-r.TTFT, 0))
	if r.Status == receipt.Error {
		v.Cost = new(nanoton.Amount(0))
	} else if cost, err := r.Price.WithFee(s.money.fee).Cost(r.Tokens); err == nil {
		v.Cost = &cost
	}
	return v
}
