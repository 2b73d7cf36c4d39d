// Package wish is what callers ask of the choice of a worker, in OpenRouter's words.
//
// A request says it in its provider object, by its models, by a suffix of the model's name and by session_id; a key has
// a provider object of its own as the default. All of this is for the gateway, and none of it reaches an engine.
//
// # provider
//
// All members may be left out or be null, and then ask nothing. Workers are named by their ID, 64 hex digits, or by the
// name that they gave themselves; letter case does not matter.
//
//	order                     [worker...]  tried first, one after the other; then all others
//	only                      [worker...]  nobody else
//	ignore                    [worker...]  everybody else
//	allow_fallbacks           bool         false: only the workers in order, or without order the first choice alone
//	require_parameters        bool         only workers that can do all that the request asks for: thinking, a JSON schema,
//	                                       logprobs. Tools and pictures are always looked at
//	sort                      "price", "throughput", "latency": what counts most; "balanced", which is ours, is the default.
//	                                       Or {"by": one of these, "partition": any text, which changes nothing}
//	max_price                 object       only workers that ask no more
//	  .prompt                 amount       for a million tokens of the prompt
//	  .cached                 amount       for a million of them that the worker has in its cache; without it, as prompt
//	  .completion             amount       for a million tokens of the answer, thinking too
//	  .request .image .audio  amount       nothing is charged for these, so that any bound holds
//	quantizations             [word...]    only weights of these kinds: int4, int8, fp4, fp6, fp8, fp16, bf16, fp32, unknown
//	preferred_min_throughput  number       tokens a second of the stream
//	preferred_max_latency     number       seconds to the first token
//	                                       These two put behind all others who is predicted not to reach them; 0 asks nothing.
//	                                       Or {"p50": number, "p75": ..., "p90": ..., "p99": ...}
//	attestation               "sealed", "gateway", "unprotected", "simulated": the least that must be proved (ours)
//	hedge                     bool         true: when a worker is slow to begin another one is asked as well (ours)
//	data_collection           "allow" or "deny"
//	zdr                       bool
//
// An amount is whole nanoTON, from 0 to 2^63-1, as a number or as text in decimal; OpenRouter's are dollars. It bounds what
// the caller pays, the gateway's fee with it.
//
// What is predicted of a request is one figure, what it will probably be. So where percentiles are given, the one nearest
// the middle counts, p50 if it is there.
//
// data_collection and zdr are taken, and change nothing: a worker can keep no more of what it reads than the software that
// it attested does, and attestation is how a caller asks for proof of that.
//
// Whatever else a provider object holds is an error that says so, and not a wish that is silently not met.
//
// # models, suffixes, sessions
//
// models has up to 8 names that are tried after model, in their order. A name that ends in ":floor" has sort "price", one
// that ends in ":nitro" has "throughput", whatever provider says; any other suffix is part of the name. session_id, or the
// header X-Session-Id, names what stays the same in a conversation: 1 to 256 printable bytes.
//
// # Defaults
//
// A request's member wins over the key's, each as a whole: max_price of a request replaces all of the key's. Defaults
// bind nobody: what a key may cost is bounded by its price cap, which a request can't raise.
package wish

import (
	"encoding/json"
	"net/http"
	"strings"

	"cocoon/internal/openai"
	"cocoon/router"
)

// HeaderSession is the header that is the same as session_id.
const HeaderSession = "X-Session-Id"

// sessionMax is how long a session's name may be, bytes, as in a body.
const sessionMax = 256

// Wish is what a caller asks for, and which of it was named.
type Wish struct {
	router.Wish
	// Hedge asks to have another worker asked as well when one is slow to begin.
	Hedge bool

	named member // a set
}

// member is one of provider's, as a bit of a set.
type member uint32

const (
	namedSort member = 1 << iota
	namedOrder
	namedOnly
	namedIgnore
	namedFallbacks
	namedParameters
	namedPrice
	namedQuantizations
	namedThroughput
	namedLatency
	namedTrust
	namedHedge
)

// None asks nothing.
func None() Wish { return Wish{Wish: router.NoWish()} }

// Merge gives the request's wishes, and the defaults where it names none.
func Merge(defaults, request Wish) Wish {
	w := defaults
	for n := namedSort; n <= namedHedge; n <<= 1 {
		if request.named&n != 0 {
			w.take(n, &request)
		}
	}
	return w
}

// take copies one member.
func (w *Wish) take(n member, from *Wish) {
	w.named |= n
	switch n {
	case namedSort:
		w.Sort = from.Sort
	case namedOrder:
		w.Order = from.Order
	case namedOnly:
		w.Only = from.Only
	case namedIgnore:
		w.Ignore = from.Ignore
	case namedFallbacks:
		w.NoFallbacks = from.NoFallbacks
	case namedParameters:
		w.RequireParameters = from.RequireParameters
	case namedPrice:
		w.MaxPrice = from.MaxPrice
	case namedQuantizations:
		w.Quantizations = from.Quantizations
	case namedThroughput:
		w.MinThroughput = from.MinThroughput
	case namedLatency:
		w.MaxLatency = from.MaxLatency
	case namedTrust:
		w.MinTrust = from.MinTrust
	case namedHedge:
		w.Hedge = from.Hedge
	}
}

// AtMost lowers MaxPrice to a bound, where that is lower.
func (w *Wish) AtMost(bound router.Cap) {
	w.MaxPrice.In = lower(w.MaxPrice.In, bound.In)
	w.MaxPrice.Cached = lower(w.MaxPrice.Cached, bound.Cached)
	w.MaxPrice.Out = lower(w.MaxPrice.Out, bound.Out)
}

// lower is the lower of two bounds; one below zero is none.
func lower[T ~int64](a, b T) T {
	if a < 0 || b >= 0 && b < a {
		return b
	}
	return a
}

// Router is what the router is to be asked with: nil if nothing is wished that it would have to look at. It is part of w.
func (w *Wish) Router() *router.Wish {
	if w.named&^namedHedge == 0 && w.MaxPrice == router.NoWish().MaxPrice {
		return nil
	}
	return &w.Wish
}

// CutModel cuts ":floor" or ":nitro" off a model's name. Other suffixes are part of the name; ok tells whether it had one
// of ours.
func CutModel(name string) (model string, sort router.Sort, ok bool) {
	if model, ok = strings.CutSuffix(name, ":floor"); ok && model != "" {
		return model, router.Price, true
	}
	if model, ok = strings.CutSuffix(name, ":nitro"); ok && model != "" {
		return model, router.Throughput, true
	}
	return name, router.Balanced, false
}

// ForModel gives the model's name as workers have it, and the wishes with the sort that its suffix asks for.
func (w Wish) ForModel(name string) (string, Wish) {
	model, sort, ok := CutModel(name)
	if ok {
		w.Sort = sort
		w.named |= namedSort
	}
	return model, w
}

// Session is what a request calls its conversation, "" if it does not: session_id of its body, or else the header.
func Session(body string, h http.Header) string {
	if body != "" {
		return body
	}
	if all := h[HeaderSession]; len(all) == 1 && openai.IsText(all[0], sessionMax) {
		return all[0]
	}
	return ""
}

// Defaults is a key's default wishes, read once.
type Defaults struct {
	Wish Wish
	// Err says why they can't be read: what wrote them knew more than this gateway. A request must not go on without them,
	// for they may be what keeps it from the wrong worker.
	Err *openai.Error
}

// ReadDefaults reads what is stored of a key.
func ReadDefaults(provider json.RawMessage) Defaults {
	w, err := Parse(provider)
	if err != nil {
		err = openai.NewError(http.StatusInternalServerError, "key_defaults",
			"this gateway can't read the default wishes of your key: %s", err.Message)
	}
	return Defaults{w, err}
}

// For is what a request asks for: what its provider object names, nil for nothing, or else the key's defaults, nil for
// none; and at most the bound that the key has on prices.
func For(d *Defaults, provider []byte, bound router.Cap) (Wish, *openai.Error) {
	w := None()
	if d != nil {
		if d.Err != nil {
			return w, d.Err
		}
		w = d.Wish
	}
	if provider != nil {
		asked, err := Parse(provider)
		if err != nil {
			return None(), err
		}
		w = Merge(w, asked)
	}
	w.AtMost(bound)
	return w, nil
}
