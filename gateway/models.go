package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"cocoon/internal/openai"
	"cocoon/router"
	"cocoon/router/offer"
)

// namesMax is how many models an error message lists.
const namesMax = 20

// model is OpenAI's model object; "cocoon" is ours.
type model struct {
	ID            string     `json:"id"`
	Object        string     `json:"object"`
	Created       int64      `json:"created"` // Unix seconds at which this gateway first saw it offered
	OwnedBy       string     `json:"owned_by"`
	ContextLength int        `json:"context_length"` // tokens; the largest on offer
	Cocoon        modelOffer `json:"cocoon"`
}

// modelOffer is what the market says of a model now.
type modelOffer struct {
	Workers  int         `json:"workers"`
	Price    offer.Price `json:"price_nanoton_per_mtok"` // what customers pay at the cheapest by output
	Features []string    `json:"features"`               // what some worker can do
}

// listModels answers GET /v1/models.
func (s *Server) listModels(w http.ResponseWriter, _ *http.Request) {
	list := struct {
		Object string  `json:"object"`
		Data   []model `json:"data"`
	}{"list", []model{}}
	for _, m := range s.table.Models() {
		list.Data = append(list.Data, s.describe(m))
	}
	s.writeJSON(w, list)
}

// showModel answers GET /v1/models/{id}; IDs have slashes, raw or as %2F. What ends in /endpoints and is no model's ID asks for
// the endpoints of the model before it.
func (s *Server) showModel(w http.ResponseWriter, r *http.Request) {
	name := chi.URLParam(r, "*")
	if r.URL.RawPath != "" { // chi routed by the raw path
		var err error
		if name, err = url.PathUnescape(name); err != nil {
			s.refuse(w, openai.BadRequest("model", "bad escape in the model's name"))
			return
		}
	}
	m, ok := s.table.Model(name)
	if !ok {
		if stem, is := strings.CutSuffix(name, endpointsSuffix); is {
			s.showEndpoints(w, stem)
			return
		}
		s.refuse(w, s.noModel(name))
		return
	}
	s.writeJSON(w, s.describe(m))
}

func (s *Server) describe(m router.Model) model {
	first, _ := s.supply.since(m.Name)
	if first.IsZero() {
		first = time.Now()
	}
	d := model{ID: m.Name, Object: "model", Created: first.Unix(), OwnedBy: "cocoon", Cocoon: modelOffer{Workers: len(m.Offers), Features: []string{}}}
	for _, o := range m.Offers {
		d.ContextLength = max(d.ContextLength, o.ContextTokens)
		for _, f := range o.Features {
			if !slices.Contains(d.Cocoon.Features, f) {
				d.Cocoon.Features = append(d.Cocoon.Features, f)
			}
		}
	}
	slices.Sort(d.Cocoon.Features)
	d.Cocoon.Price = m.Offers[0].Price.WithFee(s.money.fee)
	return d
}

// noModel is why a model can't be had: nobody has it now, or nobody ever had.
func (s *Server) noModel(name string) *openai.Error {
	names := s.modelNames()
	if _, recent := s.supply.since(name); recent || len(names) == 0 {
		e := openai.NewError(http.StatusServiceUnavailable, "model_unavailable", "no worker serves %q right now; try again soon", clip(name, 100))
		e.RetryAfter = 5 * time.Second
		e.Param = "model"
		return e
	}
	more := ""
	if len(names) > namesMax {
		more = fmt.Sprintf(" and %d more; GET /v1/models lists all", len(names)-namesMax)
	}
	e := openai.NewError(http.StatusNotFound, "model_not_found", "no model %q here; there is: %s%s", clip(name, 100),
		strings.Join(names[:min(len(names), namesMax)], ", "), more)
	e.Param = "model"
	return e
}

// modelNames are those of the models on offer, as of a second ago: whoever makes up names shall not make the gateway look
// through all offers for each.
func (s *Server) modelNames() []string {
	k := &s.market.names
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := s.clock(); len(k.list) == 0 || now-k.from >= answerFor {
		k.from, k.list = now, nil
		for _, m := range s.table.Models() {
			k.list = append(k.list, m.Name)
		}
	}
	return k.list
}

func (s *Server) writeJSON(w http.ResponseWriter, v any) {
	text, err := json.Marshal(v)
	s.writeText(w, append(text, '\n'), err)
}

// writeText answers with JSON, or says that it could not be encoded.
func (s *Server) writeText(w http.ResponseWriter, text []byte, err error) {
	if err != nil {
		s.log.Error("encoding an answer failed", "err", err)
		s.refuse(w, openai.NewError(http.StatusInternalServerError, "internal_error", "internal error"))
		return
	}
	s.metrics.answered(http.StatusOK)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text) // the client may be gone
}
