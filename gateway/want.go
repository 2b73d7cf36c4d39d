package gateway

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"strings"

	"cocoon/gateway/accounts"
	"cocoon/gateway/wish"
	"cocoon/internal/openai"
	"cocoon/router"
)

const (
	// pictureBytes is what a picture counts as, bytes of text: engines make some hundred to some thousand tokens of one,
	// whatever its file's size.
	pictureBytes = 4 << 10
	// soundBytes bounds what the text of a request with sounds or files counts as, which can't be told from them.
	soundBytes = 16 << 10
	// homeBytes of the messages tell conversations apart that have no name: a system prompt and how the first message begins.
	homeBytes = 1 << 10
)

// readHead reads what the gateway needs of the body: what is asked for, of whom, and at what price.
func (c *call) readHead() *openai.Error {
	head, err := openai.ReadHead(c.body.bytes())
	if err != nil {
		if e, ok := errors.AsType[*openai.Error](err); ok {
			return e
		}
		return openai.BadRequest("", "%v", err)
	}
	c.head, c.asked = head, head.Model
	for i := range max(len(c.head.Models), 1) {
		if model, _, _ := wish.CutModel(c.named(i)); !c.key.Allows(model) {
			return errNotAllowed(model)
		}
	}
	if e := c.readWish(); e != nil {
		return e
	}
	c.tenant = accounts.KeptOf(c.key, c.s.tenants)
	c.readNeeds()
	c.use(0)
	return nil
}

// named is the nth model that the client names.
func (c *call) named(n int) string {
	if len(c.head.Models) > 0 {
		return c.head.Models[n]
	}
	return c.asked
}

// readWish reads what the caller wishes of the worker.
func (c *call) readWish() *openai.Error {
	w, e := wish.For(accounts.ProviderOf(c.key, wish.ReadDefaults), c.head.Provider(c.body.bytes()), router.NoWish().MaxPrice)
	if e != nil {
		return e
	}
	c.asks = w.MaxPrice
	var most router.Cap
	most.In, most.Cached, most.Out = c.key.Cap()
	w.AtMost(most)
	if reach := c.s.reach(); w.MinTrust > reach {
		return errUnproved(w.MinTrust, reach)
	}
	c.base = w
	return nil
}

// readNeeds reads what the router is told of the request, whatever the model.
func (c *call) readNeeds() {
	body, h := c.body.bytes(), &c.head
	c.media = h.Media
	c.want.Tenant, c.want.History = c.tenant.hash, h.History
	c.want.MaxOut = h.Limit * h.N
	needs := func(bit router.Features, asked bool) {
		if asked {
			c.want.Needs |= bit
		}
	}
	needs(router.NeedTools, h.Tools)
	needs(router.NeedVision, c.media && bytes.Contains(body, []byte(`"image_url"`)))
	needs(router.NeedThinking, h.Reasoning)
	needs(router.NeedJSONSchema, h.JSONSchema)
	needs(router.NeedLogprobs, h.Logprobs)
	if c.s.shared {
		c.want.Home = c.home()
	}
}

// home is a hash of what stays the same in a conversation, at all gateways.
func (c *call) home() uint64 {
	var text [9 + homeBytes]byte
	binary.LittleEndian.PutUint64(text[:8], c.tenant.hash)
	b := text[:9]
	if session := cmp.Or(wish.Session(c.head.Session, c.r.Header), c.head.CacheKey); session != "" {
		b[8] = 1 // or else a session's name could be how messages begin
		b = append(b, session...)
	} else {
		messages := c.head.Messages(c.body.bytes())
		b = append(b, messages[:min(len(messages), homeBytes)]...)
	}
	sum := sha256.Sum256(b)
	return binary.LittleEndian.Uint64(sum[:8])
}

// use makes the request one for the nth model that the client names, in the body too.
func (c *call) use(n int) {
	c.turn = n
	c.want.Model, c.wish = c.base.ForModel(c.named(n))
	c.want.Wish = c.wish.Router()
	c.body.set(c.head.ForEngine(c.body.bytes(), c.want.Model))
	c.body.set(c.head.WithUsage(c.body.bytes()))
	c.want.Bytes = textBytes(c.body.bytes(), c.media)
	// The same text is another prompt to another model.
	seen := c.tenant.hash ^ maphash.String(c.s.seed, c.want.Model)
	c.want.Prefix = c.s.table.Index().Hash(c.blocks[:0], seen, c.head.Messages(c.body.bytes()))
}

// textBytes is about how much text a body has. Base64 is none.
func textBytes(body []byte, media bool) int64 {
	n := int64(len(body))
	if !media {
		return n
	}
	for rest := body; ; {
		const mark = ";base64,"
		at := bytes.Index(rest, []byte(mark))
		if at < 0 {
			break
		}
		rest = rest[at+len(mark):]
		end := bytes.IndexByte(rest, '"')
		if end < 0 {
			break
		}
		n += pictureBytes - int64(end)
		rest = rest[end:]
	}
	if bytes.Contains(body, []byte(`"input_audio"`)) || bytes.Contains(body, []byte(`"file"`)) {
		n = min(n, soundBytes)
	}
	return n
}

// pick leases the best endpoint for the model at hand, or else for the next that the client names. The error is the most
// hopeful of those that the models had, and the request is one for that model then.
func (c *call) pick() (router.Lease[*member], error) {
	var said error
	of := c.turn
	for {
		c.want.Now = c.s.clock()
		lease, err := c.s.table.Pick(&c.want)
		if err == nil {
			return lease, nil
		}
		if said == nil || hope(err) > hope(said) {
			said, of = err, c.turn
		}
		if c.turn+1 >= len(c.head.Models) {
			if of != c.turn {
				c.use(of)
			}
			return lease, said
		}
		c.use(c.turn + 1)
	}
}

// hope says how soon a request could be served after an error of a pick.
func hope(err error) int {
	switch {
	case errors.Is(err, router.ErrBusy):
		return 2
	case errors.Is(err, router.ErrNoMatch):
		return 1
	}
	return 0
}

// noLease is why no worker was found.
func (c *call) noLease(err error) *failure {
	f := &failure{outcome: router.Served, reason: "no_worker", final: true}
	if !errors.Is(err, router.ErrUnknownModel) {
		c.offered = c.want.Model
	}
	if errors.Is(err, router.ErrBusy) {
		c.s.market.metrics.shed(c.wish.Sort)
	}
	switch {
	case c.last != nil:
		f = new(*c.last) // every worker was tried
		f.final = true
	case errors.Is(err, router.ErrUnknownModel):
		f.err = c.s.noModel(c.want.Model)
	case errors.Is(err, router.ErrNoMatch):
		f.err = c.noMatch()
	default:
		f.err = errBusy()
		f.err.RetryAfter = c.s.table.Retry(c.want.Model, c.wish.Sort)
	}
	return f
}

// noMatch says why none of those who offer the model would do. If the key's cap alone is why, it says that.
func (c *call) noMatch() *openai.Error {
	x := c.s.table.Explain(&c.want)
	switch x.Candidates {
	case 0: // they left meanwhile
		return c.s.noModel(c.want.Model)
	case x.Counts[router.RemovedContext]:
		return errTooLong(c.want.Model)
	}
	if x.Counts[router.RemovedPrice] > 0 && c.wish.MaxPrice != c.asks {
		uncapped := c.wish.Wish
		uncapped.MaxPrice = c.asks
		want := c.want
		want.Wish = &uncapped
		if y := c.s.table.Explain(&want); y.Counts[router.RemovedPrice] < x.Counts[router.RemovedPrice] {
			return errTooDear(c.want.Model)
		}
	}
	return errNoMatch(c.want.Model, &x)
}

// errTooLong is a prompt that fits no worker's context, whatever its tokenizer; others are the engines' to judge.
func errTooLong(model string) *openai.Error {
	e := openai.BadRequest("messages", "this prompt is longer than the context of any worker of %q", clip(model, 100))
	e.Code, e.NoRetry = "context_length_exceeded", true
	return e
}

// errNoMatch is a 404 that says who was left out and by what.
func errNoMatch(model string, x *router.Explanation) *openai.Error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %q, none as asked: ", plural(x.Candidates, "worker offers", "workers offer"), clip(model, 100))
	comma := ""
	for r, n := range x.Counts {
		if n == 0 {
			continue
		}
		fmt.Fprintf(&b, "%s%s removed %d (%s", comma, router.Reason(r), n, strings.Join(x.Removed[r], ", "))
		if len(x.Removed[r]) < n {
			b.WriteString(", ...")
		}
		if p := x.Cheapest; router.Reason(r) == router.RemovedPrice {
			fmt.Fprintf(&b, "; the cheapest asks %d for a million tokens of the prompt and %d of the answer, nanoTON",
				int64(p.In), int64(p.Out))
		}
		b.WriteByte(')')
		comma = ", "
	}
	e := openai.NewError(http.StatusNotFound, "no_matching_worker", "%s", b.String())
	e.Param, e.NoRetry = "provider", true
	return e
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// errUnproved is more than this gateway can prove of itself.
func errUnproved(want, reach router.Trust) *openai.Error {
	why := "this gateway can prove " + trustWord(reach) + " at best"
	if want == router.Sealed {
		why = "the gateway can read what comes this way; that takes a sidecar, which seals requests for the worker"
	}
	e := openai.NewError(http.StatusBadRequest, "attestation_unavailable", "attestation %q can't be had here: %s", trustWord(want), why)
	e.Param, e.NoRetry = "provider.attestation", true
	return e
}

// trustWord is what requests call a level.
func trustWord(t router.Trust) string {
	switch t {
	case router.Simulated:
		return "simulated"
	case router.Unprotected:
		return "unprotected"
	case router.Gateway:
		return "gateway"
	}
	return "sealed"
}
