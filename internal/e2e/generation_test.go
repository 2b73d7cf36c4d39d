package e2e_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"
)

// generation is what GET /cocoon/v1/generation/{id} tells of a request, as far as tests look.
type generation struct {
	Provider   string `json:"provider_name"`
	Cost       *int64 `json:"cost_nanoton"`
	Latency    int64  `json:"latency"`         // ms from the request to the first token
	Generation int64  `json:"generation_time"` // ms from there to the end
	Prompt     int64  `json:"native_tokens_prompt"`
	Completion int64  `json:"native_tokens_completion"`
	Status     int    `json:"status"`
	Routing    struct {
		Cached   struct{ Predicted, Actual int64 } `json:"cached_tokens"`
		Attempts []attempt                         `json:"attempts"`
	} `json:"routing"`
}

// attempt is one worker that was asked, and why that one.
type attempt struct {
	Worker  string `json:"worker"`
	Model   string `json:"model"`
	Started int64  `json:"started_ms"`
	Outcome string `json:"outcome"`
	Reason  string `json:"reason"`
	Why     struct {
		Sort       string         `json:"sort"`
		Candidates int            `json:"candidates"`
		Removed    map[string]int `json:"removed"`
		Explored   bool           `json:"explored"`
		Picked     int            `json:"picked"`
		Top        []promise      `json:"top"`
	} `json:"why"`
}

// promise is what the router expected of a worker.
type promise struct {
	Worker string  `json:"worker"`
	Score  float64 `json:"score"`
	Cost   int64   `json:"cost_nanoton"`
	TTFT   int64   `json:"latency"`  // ms
	Total  int64   `json:"total_ms"` // ms
	Cached int64   `json:"cached_tokens"`
}

// picked is what was expected of the worker that was asked; false if it was none of the best.
func (a *attempt) picked() (promise, bool) {
	i := slices.IndexFunc(a.Why.Top, func(p promise) bool { return p.Worker == a.Worker })
	if i < 0 {
		return promise{}, false
	}
	return a.Why.Top[i], true
}

// generation asks what became of a request, until its cost is known too.
func (c client) generation(t *testing.T, id string) *generation {
	t.Helper()
	var told struct{ Data generation }
	eventually(t, askMax, "what became of the request is told", func() bool {
		r := c.get(t, "/cocoon/v1/generation/"+id)
		told.Data = generation{}
		return r.status == http.StatusOK && json.Unmarshal([]byte(r.body), &told) == nil && told.Data.Cost != nil
	})
	return &told.Data
}
