package wish

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"cocoon/internal/openai"
	"cocoon/router"
	"cocoon/router/offer"
)

// Limits of what is read.
const (
	// TextMax bounds a provider object, bytes: three full lists of IDs would fit.
	TextMax = 16 << 10
	// listMax bounds the entries of a list: each is compared with each worker.
	listMax = 64
	// nameMax bounds one entry, bytes: longer than any worker's name.
	nameMax = 256
	// latencyMax is a day, in seconds: nobody waits longer, and it fits a Duration.
	latencyMax = 24 * 60 * 60
	// throughputMax is more tokens a second than any machine makes.
	throughputMax = 1e9
)

const (
	sortWords    = "price, throughput, latency or balanced"
	trustWords   = "sealed, gateway, unprotected or simulated"
	quantumWords = "int4, int8, fp4, fp6, fp8, fp16, bf16, fp32 and unknown"
)

// Parse reads a provider object as a client wrote it: nothing, or null, asks nothing. Its error is a 400 that names the
// member at fault.
func Parse(provider []byte) (Wish, *openai.Error) {
	w := None()
	if text := bytes.TrimSpace(provider); len(text) == 0 || string(text) == "null" {
		return w, nil
	}
	switch {
	case len(provider) > TextMax:
		return w, bad("provider", "is longer than %d KiB", TextMax>>10)
	case !utf8.Valid(provider):
		return w, bad("provider", "is not valid UTF-8")
	case !json.Valid(provider):
		return w, bad("provider", "is not valid JSON")
	}
	if err := object(value{"provider", provider}, members(), w.read); err != nil {
		return None(), err
	}
	return w, nil
}

// members are those of a provider object.
func members() []string {
	return []string{
		"allow_fallbacks", "attestation", "data_collection", "hedge", "ignore", "max_price", "only", "order", "preferred_max_latency",
		"preferred_min_throughput", "quantizations", "require_parameters", "sort", "zdr",
	}
}

// read takes one of the members.
func (w *Wish) read(name string, v value) (err *openai.Error) {
	var named member
	switch name {
	case "order":
		named = namedOrder
		w.Order, err = v.list()
	case "only":
		named = namedOnly
		w.Only, err = v.list()
	case "ignore":
		named = namedIgnore
		w.Ignore, err = v.list()
	case "allow_fallbacks":
		var allow bool
		allow, err = v.boolean()
		named, w.NoFallbacks = namedFallbacks, !allow
	case "require_parameters":
		named = namedParameters
		w.RequireParameters, err = v.boolean()
	case "sort":
		named = namedSort
		w.Sort, err = v.sort()
	case "max_price":
		named = namedPrice
		w.MaxPrice, err = v.prices()
	case "quantizations":
		named = namedQuantizations
		w.Quantizations, err = v.quantizations()
	case "preferred_min_throughput":
		named = namedThroughput
		w.MinThroughput, err = v.bound(throughputMax)
	case "preferred_max_latency":
		var seconds float64
		seconds, err = v.bound(latencyMax)
		named, w.MaxLatency = namedLatency, time.Duration(seconds*float64(time.Second))
	case "attestation":
		named = namedTrust
		w.MinTrust, err = v.trust()
	case "hedge":
		named = namedHedge
		w.Hedge, err = v.boolean()
	case "data_collection":
		// Both words ask for no more than what holds here always: see the package's text.
		if text, ok := v.text(); !ok || text != "allow" && text != "deny" {
			err = bad(v.param, "is neither allow nor deny")
		}
	case "zdr":
		_, err = v.boolean()
	}
	w.named |= named
	return err
}

// value is a valid JSON value and what a request calls it, such as provider.max_price.prompt.
type value struct {
	param string
	raw   []byte
}

// object calls f for each member that is not null. Only those of these names there may be, each once.
func object(v value, names []string, f func(name string, v value) *openai.Error) *openai.Error {
	d := json.NewDecoder(bytes.NewReader(v.raw))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return bad(v.param, "is not an object")
	}
	var seen []string
	for d.More() {
		key, err := d.Token()
		name, ok := key.(string)
		var raw json.RawMessage
		if err != nil || !ok || d.Decode(&raw) != nil {
			return bad(v.param, "is not valid JSON")
		}
		in := value{v.param + "." + clip(name), raw}
		switch {
		case !slices.Contains(names, name):
			return openai.BadRequest(in.param, "%s has no member %q; there are %s", v.param, clip(name), strings.Join(names, ", "))
		case slices.Contains(seen, name):
			return bad(in.param, "is given twice")
		}
		seen = append(seen, name)
		if string(raw) != "null" {
			if err := f(name, in); err != nil {
				return err
			}
		}
	}
	return nil
}

func (v value) boolean() (bool, *openai.Error) {
	switch string(v.raw) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, bad(v.param, "is neither true, false nor null")
}

// text is a string's text; ok is false for any other value.
func (v value) text() (text string, ok bool) {
	if v.raw[0] != '"' {
		return "", false
	}
	return text, json.Unmarshal(v.raw, &text) == nil
}

// list reads names, in lower case. One without any is nil.
func (v value) list() ([]string, *openai.Error) {
	var all []json.RawMessage
	if json.Unmarshal(v.raw, &all) != nil {
		return nil, bad(v.param, "is not an array")
	}
	if len(all) > listMax {
		return nil, bad(v.param, "has %d entries, at most %d", len(all), listMax)
	}
	var list []string
	for _, raw := range all {
		text, ok := value{raw: raw}.text()
		if !ok || text == "" || !openai.IsText(text, nameMax) {
			return nil, bad(v.param, "has an entry that is not 1 to %d printable bytes", nameMax)
		}
		list = append(list, strings.ToLower(text))
	}
	return list, nil
}

func (v value) quantizations() ([]string, *openai.Error) {
	list, err := v.list()
	if err != nil {
		return nil, err
	}
	for _, q := range list {
		if q != "unknown" && !offer.ValidQuantization(q) {
			return nil, bad(v.param, "has %q, want some of %s", clip(q), quantumWords)
		}
	}
	return list, nil
}

// sort reads a word, or an object that has it as its member by.
func (v value) sort() (sort router.Sort, err *openai.Error) {
	if v.raw[0] == '{' {
		err = object(v, []string{"by", "partition"}, func(name string, in value) (err *openai.Error) {
			if _, ok := in.text(); !ok {
				return bad(in.param, "is not a string")
			}
			if name == "by" {
				sort, err = value{in.param, in.raw}.sort()
			}
			return err // partition is about several models at once; here each has its turn
		})
		return sort, err
	}
	switch text, _ := v.text(); text {
	case "price":
		return router.Price, nil
	case "throughput":
		return router.Throughput, nil
	case "latency":
		return router.Latency, nil
	case "balanced":
		return router.Balanced, nil
	}
	return 0, bad(v.param, "is none of %s", sortWords)
}

func (v value) trust() (router.Trust, *openai.Error) {
	switch text, _ := v.text(); text {
	case "sealed":
		return router.Sealed, nil
	case "gateway":
		return router.Gateway, nil
	case "unprotected":
		return router.Unprotected, nil
	case "simulated":
		return router.Simulated, nil
	}
	return 0, bad(v.param, "is none of %s", trustWords)
}

// prices reads max_price. A bound on the prompt holds for what is cached of it too, unless that has its own.
func (v value) prices() (router.Cap, *openai.Error) {
	c := router.NoWish().MaxPrice
	names := []string{"prompt", "completion", "cached", "request", "image", "audio"}
	err := object(v, names, func(name string, in value) *openai.Error {
		n, err := in.amount()
		switch name {
		case "prompt":
			*(*int64)(&c.In) = n
		case "completion":
			*(*int64)(&c.Out) = n
		case "cached":
			*(*int64)(&c.Cached) = n
		}
		return err
	})
	if c.Cached < 0 {
		c.Cached = c.In
	}
	return c, err
}

// amount reads whole nanoTON, as a number or as text. Languages that know no integers write 5.0 for 5.
func (v value) amount() (int64, *openai.Error) {
	text, ok := v.text()
	if !ok {
		text = string(v.raw)
	}
	whole, fraction, point := strings.Cut(text, ".")
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n < 0 || whole[0] == '+' || point && (fraction == "" || strings.Trim(fraction, "0") != "") {
		return 0, bad(v.param, "is not a number of whole nanoTON from 0 to 2^63-1, without an exponent")
	}
	return n, nil
}

// bound reads a number from 0 to most, or an object of bounds for percentiles: then the lowest of these counts.
func (v value) bound(most float64) (n float64, err *openai.Error) {
	if v.raw[0] != '{' {
		return v.number(most)
	}
	percentiles := []string{"p50", "p75", "p90", "p99"}
	lowest := len(percentiles)
	err = object(v, percentiles, func(name string, in value) *openai.Error {
		f, err := in.number(most)
		if i := slices.Index(percentiles, name); i < lowest {
			n, lowest = f, i
		}
		return err
	})
	return n, err
}

func (v value) number(most float64) (n float64, _ *openai.Error) {
	if json.Unmarshal(v.raw, &n) != nil || n < 0 || n > most {
		return 0, bad(v.param, "is not a number from 0 to %g", most)
	}
	return n, nil
}

// bad makes a 400 that says what is wrong with a value, after its name.
func bad(param, format string, args ...any) *openai.Error {
	return openai.BadRequest(param, "%s %s", param, fmt.Sprintf(format, args...))
}

// clip cuts what a client wrote to what fits a message.
func clip(s string) string {
	const most = 40
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
