package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"cocoon/gateway/accounts"
	"cocoon/internal/h1"
	"cocoon/internal/openai"
	"cocoon/internal/receipt"
	"cocoon/internal/sse"
	"cocoon/router"
)

// statusClientGone stands in metrics for requests whose client left before the answer's end; it is never sent.
const statusClientGone = 499

// busyRetry is what clients are told to wait when all workers are at their capacity, or the gateway's memory is.
const busyRetry = 2 * time.Second

// errDenied is a 429 that says which of the key's limits it is, or a 403 of an account that is suspended.
func errDenied(d *accounts.Denial) *openai.Error {
	if d.What == accounts.DenySuspended {
		e := openai.NewError(http.StatusForbidden, "account_suspended", "%s", d.Error())
		e.NoRetry = true
		return e
	}
	e := openai.NewError(http.StatusTooManyRequests, "rate_limit_exceeded", "%s", d.Error())
	e.RetryAfter, e.NoRetry = d.Wait, d.Wait == 0
	return e
}

// errNotAllowed is a model that the key is not for.
func errNotAllowed(model string) *openai.Error {
	e := openai.NewError(http.StatusForbidden, "model_not_allowed", "this API key is not for the model %q", clip(model, 100))
	e.Param, e.NoRetry = "model", true
	return e
}

// errTooDear is a model whose offers are all above what the key pays.
func errTooDear(model string) *openai.Error {
	e := openai.NewError(http.StatusForbidden, "price_above_cap",
		"every worker of %q asks more than this API key's price cap; GET /cocoon/v1/prices lists the prices", clip(model, 100))
	e.Param, e.NoRetry = "model", true
	return e
}

func errBusy() *openai.Error {
	e := openai.NewError(http.StatusServiceUnavailable, "server_is_overloaded", "every worker of this model is at its capacity; try again soon")
	e.RetryAfter = busyRetry
	return e
}

func errMemory() *openai.Error {
	e := openai.NewError(http.StatusServiceUnavailable, "server_is_overloaded", "the gateway holds as many request bodies as it may; try again soon")
	e.RetryAfter = busyRetry
	return e
}

func errTooLarge() *openai.Error {
	e := openai.NewError(http.StatusRequestEntityTooLarge, "request_too_large", "the request body is larger than %d MiB", bodyMax>>20)
	e.NoRetry = true
	return e
}

func errClientGone() *failure {
	return &failure{outcome: router.ClientGone, reason: "client_gone", final: true, cause: context.Canceled}
}

// errFault is a worker that broke before it said anything useful.
func errFault(reason string, cause error) *failure {
	return &failure{outcome: router.WorkerFault, reason: reason, cause: cause, err: openai.NewError(http.StatusBadGateway, "worker_failed", "the worker failed: %s", words[reason])}
}

// words says a reason to the client, who learns nothing about the worker that could point to its place.
var words = map[string]string{
	"connection":      "its connection broke",
	"protocol":        "it broke the protocol",
	"invalid_event":   "it sent an event that is not valid JSON",
	"invalid_answer":  "its answer is not a chat completion",
	"no_finish":       "its answer ended without a finish reason",
	"too_long":        "its answer is too long",
	"engine":          "its engine reported an error",
	"model_gone":      "it does not serve the model any more",
	"unexpected_type": "its answer has the wrong content type",
	"receipt":         "its receipt is not in order",
	"price":           "its price is not one",
}

// broken says what an error of the worker's connection means. The client's leaving closes that connection too.
func (c *call) broken(err error) *failure {
	switch {
	case c.r.Context().Err() != nil:
		return errClientGone()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return c.tooLate()
	case errors.Is(err, sse.ErrTooLong):
		return errFault("too_long", err)
	case errors.Is(err, h1.ErrProtocol):
		return errFault("protocol", err)
	}
	return errFault("connection", err)
}

// tooSlow is a worker that is left for one that promises more.
func (c *call) tooSlow(waited time.Duration) *failure {
	return &failure{
		outcome: router.WorkerSlow, reason: "slow", cause: os.ErrDeadlineExceeded,
		err: openai.NewError(http.StatusGatewayTimeout, "worker_timeout", "no answer from the worker within %s", waited.Round(time.Millisecond)),
	}
}

// tooLate is a worker that said nothing for too long.
func (c *call) tooLate() *failure {
	limit, what := c.s.cfg.Limits.FirstByteTimeout, "no answer"
	if c.stream.begun {
		limit, what = c.s.cfg.Limits.IdleTimeout, "no further event"
	}
	return &failure{
		outcome: router.WorkerFault, reason: "timeout", cause: os.ErrDeadlineExceeded,
		err: openai.NewError(http.StatusGatewayTimeout, "worker_timeout", "%s from the worker within %s", what, limit),
	}
}

// errorHeadMax is how much of a worker's error answer is read.
const errorHeadMax = 64 << 10

// checkHead turns anything but the answer that was asked for into a failure.
func (c *call) checkHead() *failure {
	resp := c.up.resp
	if resp.Status == http.StatusOK {
		if sse := isEventStream(resp.ContentType); sse != c.head.Stream {
			return errFault("unexpected_type", nil)
		}
		return nil
	}
	c.stream.patience = 0 // it has spoken
	_ = c.up.conn.Net().SetReadDeadline(c.stream.heard.Add(c.stream.limit(c)))
	text, err := io.ReadAll(io.LimitReader(resp, errorHeadMax))
	if err != nil {
		return c.broken(err)
	}
	return c.reported(openai.ParseError(resp.Status, text))
}

// reported says what a worker's own error means: the client's fault, which any worker would find, or its own.
func (c *call) reported(e *openai.Error) *failure {
	switch e.Status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		e.NoRetry = true
		return &failure{outcome: router.Served, reason: "bad_request", err: e, final: true}
	case http.StatusNotFound:
		return errFault("model_gone", nil) // of this model alone: that the worker is full it does not say
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if e.Code == receipt.KeysetNotServed {
			c.up.lease.Handle.outgrown(time.Now())
		}
		f := &failure{outcome: router.WorkerBusy, reason: "busy", err: errBusy()}
		if sheet := c.up.lease.Handle.sheet.Load(); sheet != nil && sheet.Draining {
			f.outcome = router.Unused // it says nothing of how much it can take
		}
		return f
	case http.StatusGatewayTimeout:
		f := c.tooLate()
		f.cause = nil
		return f
	}
	return errFault("engine", nil)
}
