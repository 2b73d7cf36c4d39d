package worker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"cocoon/internal/openai"
	"cocoon/internal/receipt"
	"cocoon/internal/tunnel"
	"cocoon/router/offer"
	"cocoon/worker/engine"
)

// Limits of what a gateway may do to us.
const (
	bodyMax      = 32 << 20         // bytes of a request: the gateway's own limit
	bodyTimeout  = time.Minute      // for the body; the gateway has all of it when it begins to send
	writeTimeout = 30 * time.Second // for a flush: a gateway that does not read holds a slot
	idMax        = 64               // bytes of a request's id
	frameKept    = 64 << 10         // bytes of buffer that one long event may leave behind
	spliceRoom   = 512              // bytes by which the engine's edits may make the body longer, without a copy
)

const (
	chatPath  = "/v1/chat/completions"
	doneEvent = "data: [DONE]\n\n"
)

// handler serves what gateways send through the tunnel.
func (w *Worker) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+chatPath, w.chat)
	mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) {
		openai.NewError(http.StatusNotFound, "", "No such route.").Write(rw)
	})
	return mux
}

// chat serves one request.
func (w *Worker) chat(rw http.ResponseWriter, r *http.Request) {
	start := time.Now()
	out := &reply{w: rw, control: http.NewResponseController(rw), start: start}
	usage, err := w.complete(r, out)
	outcome, e := judge(r.Context(), out, err)
	end := time.Now()
	w.metrics.done(outcome, usage, start, out.first, end)
	if e != nil && e.Status >= http.StatusInternalServerError && outcome != outcomeFull && outcome != outcomeTerms {
		w.suspect()
	}
	w.log.Debug("request", "id", requestID(r), "outcome", outcome, "in", usage.Prompt, "out", usage.Completion, "took", end.Sub(start))
	if outcome == outcomeGone {
		why := receipt.ClientAbort
		if w.stopping.Load() {
			why = receipt.Error // the end of our connections is our doing
		}
		out.meter.leave(why, usage)
		panic(http.ErrAbortHandler) // a tidy end would look like an answer
	}
	defer out.meter.leave("", usage)
	out.finish(e)
}

// judge names the outcome; the error is what the client should hear.
func judge(ctx context.Context, out *reply, err error) (string, *openai.Error) {
	e, known := errors.AsType[*openai.Error](err)
	_, terms := errors.AsType[*unmetError](err)
	switch {
	case err == nil:
		return outcomeOK, nil
	case ctx.Err() != nil || out.err != nil || !known:
		return outcomeGone, nil
	case errors.Is(err, errFullAnswer):
		return outcomeFull, e
	case terms:
		return outcomeTerms, e
	case out.begun:
		return outcomeBroken, e
	case e.Status < http.StatusInternalServerError:
		return outcomeRefused, e
	}
	return outcomeEngine, e
}

// errFullAnswer is what a gateway hears when the worker is full: try another one.
var errFullAnswer = &openai.Error{
	Status: http.StatusServiceUnavailable, Type: "server_error", Code: "server_is_overloaded",
	Message: "The worker is at its limit.", RetryAfter: time.Second,
}

// complete runs one request; its error is an *openai.Error, or the context's or the output's.
func (w *Worker) complete(r *http.Request, out *reply) (openai.Usage, error) {
	body, err := readBody(r, out.control)
	if err != nil {
		return openai.Usage{}, err
	}
	head, err := openai.ReadHead(body)
	if err != nil {
		return openai.Usage{}, err
	}
	cat := w.catalog.Load()
	name, ok := cat.names[head.Model]
	if !ok {
		// The gateway knew it from an older sheet: 503 sends the request to another worker, 404 would end it.
		e := openai.NewError(http.StatusServiceUnavailable, "model_not_available", "The worker does not serve this model now.")
		e.RetryAfter = time.Second
		return openai.Usage{}, e
	}
	if out.meter, err = w.meter(r, cat.offer(head.Model), body, out.start); err != nil {
		return openai.Usage{}, err
	}
	if err := w.gate.enter(r.Context()); err != nil {
		if errors.Is(err, errFull) {
			return openai.Usage{}, errFullAnswer
		}
		return openai.Usage{}, err
	}
	defer w.gate.leave()
	return cat.engine.Chat(r.Context(), &engine.Request{
		ID: requestID(r), Public: head.Model, Model: name, Head: &head, Body: body, Salt: cacheSalt(r),
	}, out)
}

// meter begins to meter a request if the gateway pays for it; nil if it does not.
func (w *Worker) meter(r *http.Request, o *offer.Offer, body []byte, start time.Time) (*meter, error) {
	text := r.Header.Values(receipt.DealHeader)
	if len(text) == 0 {
		return nil, nil
	}
	t, err := receipt.ParseDeal(strings.Join(text, ", ")) // several are none
	if err != nil {
		return nil, notMet(codeTerms, "The worker can't read the header %s; %v.", receipt.DealHeader, err)
	}
	till := w.till.Load()
	if till == nil {
		return nil, notMet(codeTerms, "The worker does not keep receipts now.")
	}
	about, err := w.agree(t, o, time.Now())
	if err != nil {
		return nil, err
	}
	about.Request = requestID(r)
	return newMeter(till, about, body, start)
}

// requestID is the gateway's id for the request, or "" if it can't stand in an answer.
func requestID(r *http.Request) string {
	id := r.Header.Get("Cocoon-Request")
	if len(id) > idMax {
		return ""
	}
	for _, c := range []byte(id) {
		switch {
		case c >= '0' && c <= '9', c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c == '-', c == '_':
		default:
			return ""
		}
	}
	return id
}

// cacheSalt is the tenant's salt, "" if there is none, more than one, or something else.
func cacheSalt(r *http.Request) string {
	if salts := r.Header.Values(tunnel.SaltHeader); len(salts) == 1 && engine.ValidSalt(salts[0]) {
		return salts[0]
	}
	return ""
}

// readBody reads the request's body, with room at its end for the engine's edits.
func readBody(r *http.Request, control *http.ResponseController) ([]byte, error) {
	tooLarge := openai.NewError(http.StatusRequestEntityTooLarge, "request_too_large", "The request is longer than %d MiB.", bodyMax>>20)
	if r.ContentLength > bodyMax {
		return nil, tooLarge
	}
	_ = control.SetReadDeadline(time.Now().Add(bodyTimeout)) // a connection without deadlines is a test's
	buf := bytes.NewBuffer(make([]byte, 0, max(r.ContentLength, 0)+spliceRoom+bytes.MinRead))
	n, err := io.Copy(buf, io.LimitReader(r.Body, bodyMax+1))
	switch {
	case r.Context().Err() != nil:
		return nil, r.Context().Err()
	case n > bodyMax:
		return nil, tooLarge
	case err != nil:
		return nil, openai.BadRequest("", "The request's body could not be read.")
	}
	_ = control.SetReadDeadline(time.Time{}) // the server itself reads on, to learn when the gateway goes away
	return buf.Bytes(), nil
}

// reply writes an answer to the gateway, with the receipts for it. It implements engine.Output.
type reply struct {
	w       http.ResponseWriter
	control *http.ResponseController
	meter   *meter    // nil: the request is not metered
	start   time.Time // of the request
	begun   bool      // the head is written
	first   time.Time // of the first event
	held    bool      // something is written and not flushed
	err     error     // the first failed write
	frame   []byte    // of the event at hand
}

// Count implements engine.Output.
func (o *reply) Count(u openai.Usage) {
	if o.meter != nil {
		o.meter.count(u)
	}
}

// Event implements engine.Output.
func (o *reply) Event(data []byte, more bool) error {
	o.beginStream()
	if o.meter != nil {
		o.receipt(o.meter.interim())
	}
	o.write(o.framed(data))
	if !more {
		o.flush()
	}
	if o.meter != nil && o.err == nil {
		o.meter.delivered()
	}
	return o.err
}

// framed is the event's frame, valid until the next one.
func (o *reply) framed(data []byte) []byte {
	if cap(o.frame) > frameKept {
		o.frame = nil
	}
	b := o.frame[:0]
	// An event of several lines came as several data lines, and goes on so.
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		b = append(append(append(b, "data: "...), line...), '\n')
	}
	o.frame = append(b, '\n')
	return o.frame
}

// End implements engine.Output. The final receipt is about all of the body, so also about what comes after it.
func (o *reply) End(data []byte, cut bool) error {
	o.beginStream()
	last := o.framed(data)
	if o.meter != nil && o.err == nil {
		if o.held {
			o.flush() // the receipt may take a disk's time
		}
		o.receipt(o.meter.wait())
		o.meter.resp.Write(last)
		o.meter.resp.Write([]byte(doneEvent))
		r, err := o.meter.complete(cut)
		if err != nil {
			return err
		}
		o.receipt(r)
	}
	o.raw(last)
	return o.err
}

// Answer implements engine.Output.
func (o *reply) Answer(body []byte, cut bool) error {
	var wire []byte
	if o.meter != nil {
		o.meter.resp.Write(body)
		r, err := o.meter.complete(cut)
		if err != nil {
			return err
		}
		wire = r.Append([]byte("\n"))
		o.meter.till.sent(r.ID())
	}
	h := o.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)+len(wire)))
	o.begin()
	o.raw(body)
	o.raw(wire)
	o.flush()
	return o.err
}

// finish ends the answer: an event stream by its marks, an answer that has not begun by the error.
func (o *reply) finish(e *openai.Error) {
	switch {
	case !o.begun && e != nil:
		o.deadline()
		e.Write(o.w)
	case o.first.IsZero(): // a whole answer
	case e != nil:
		o.breakOff(append(append(e.Append([]byte("data: ")), "\n\n"...), doneEvent...))
	default:
		o.raw([]byte(doneEvent))
		o.flush()
	}
	_ = o.control.SetWriteDeadline(time.Time{}) // the connection serves other requests
}

// breakOff ends a stream in the middle. Its receipt says that it costs nothing.
func (o *reply) breakOff(end []byte) {
	if m := o.meter; m != nil && !m.ended && !m.lost {
		o.receipt(m.wait())
		m.resp.Write(end)
		if r, err := m.final(receipt.Error, offer.Usage{}); err == nil { // else the gateway asks for it in vain
			o.receipt(r)
		}
	}
	o.raw(end)
	o.flush()
}

// receipt sends a receipt as an event; nil is none.
func (o *reply) receipt(r *receipt.Signed) {
	if r == nil {
		return
	}
	if r.Kind == receipt.Final {
		o.meter.till.sent(r.ID())
	}
	o.raw(receiptFrame(nil, r.Wire()))
}

func (o *reply) beginStream() {
	if o.begun {
		return
	}
	o.first = time.Now()
	h := o.w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	o.begin()
}

func (o *reply) begin() {
	o.begun = true
	o.deadline()
	o.w.WriteHeader(http.StatusOK)
}

// deadline bounds the writes up to the next flush.
func (o *reply) deadline() { _ = o.control.SetWriteDeadline(time.Now().Add(writeTimeout)) }

// write sends a part of the body that receipts are about.
func (o *reply) write(p []byte) {
	if o.meter != nil {
		o.meter.resp.Write(p)
	}
	o.raw(p)
}

func (o *reply) raw(p []byte) {
	if o.err == nil && len(p) > 0 {
		_, o.err = o.w.Write(p)
		o.held = true
	}
}

func (o *reply) flush() {
	if o.err == nil {
		o.err = o.control.Flush()
	}
	o.held = false
	o.deadline()
}
