package sim

import (
	"math"
	"slices"

	"cocoon/router"
	"cocoon/router/prefix"
)

// How gateways treat failures, the same for all policies.
const (
	attemptsMost   = 3
	retryPart      = 0.2 // retries per request, on average
	retryMost      = 50  // saved up at most
	progressEvery  = 0.5
	tickEvery      = 0.25
	idleMost       = 30.0 // seconds of silence within a stream
	failFastTakes  = 0.001
	goodFirst      = 10.0 // seconds to the first token beyond which an answer is of no use
	baitReturns    = 2.0  // seconds until a bait is cheap again
	patienceFactor = 4.0
	patienceLeast  = 2.0
)

// state says where an attempt is.
type state uint8

const (
	sent state = iota
	atWorker
	running
	made // complete, on its way back
	gone // cancelled, refused or lost
)

// failure says how an attempt failed.
type failure uint8

const (
	failNone failure = iota
	failBusy
	failBroken
)

// attempt is one try of a request at a worker.
type attempt struct {
	req, worker, engine, gateway int32
	state                        state
	failure                      failure
	closed                       bool // its lease is released
	need                         int32
	begun                        int64 // the engine's step that made its first token
	sentAt, firstAt              float64
	seen                         int64
	seenAt                       float64
	choice                       choice // what the policy said
}

// gateway is one of the doors: a policy of its own, and what it may retry.
type gateway struct {
	policy policy
	budget float64
}

func (w *world) way(a *attempt) float64 { return w.ways[int(a.gateway)*len(w.workers)+int(a.worker)] }

// start sends a request to the worker that the policy picks.
func (w *world) start(ri int32) {
	r := w.requests.at(ri)
	g := &w.gateways[r.gateway]
	g.budget = min(g.budget+retryPart, retryMost)
	c, err := g.policy.pick(w, r)
	if err != nil {
		w.refuse(ri)
		return
	}
	w.send(ri, c)
}

// Clients come again as OpenAI's do: twice, after a second and after two, more or less.
const (
	againMost = 2
	againWait = 1.0
)

// refuse tells a client that nobody takes its request now.
func (w *world) refuse(ri int32) {
	r := w.requests.at(ri)
	if r.refused >= againMost {
		w.res.shed(w, r)
		return
	}
	wait := againWait * float64(int(1)<<r.refused) * (0.75 + 0.5*float64(prefix.Mix(uint64(ri)<<8|uint64(r.refused))%1024)/1024)
	r.refused++
	r.tried = r.tried[:0]
	w.q.push(w.now+wait, evAgain, ri, 0)
}

func (w *world) send(ri int32, c choice) {
	r := w.requests.at(ri)
	i, a := w.attempts.add()
	x := &w.workers[c.worker]
	*a = attempt{
		req: ri, worker: c.worker, engine: x.engine, gateway: r.gateway, sentAt: w.now, choice: c,
	}
	x.won++
	r.now = i
	r.tried = append(r.tried, c.worker)
	w.q.push(w.now+w.way(a), evArrive, i, 0)
	w.wait(i, w.gateways[r.gateway].policy.patience(a))
}

func (w *world) wait(i int32, patience float64) {
	if !math.IsInf(patience, 0) {
		w.q.push(w.now+max(patience, 0.01), evPatience, i, 0)
	}
}

// reach is an attempt at its worker's door.
func (w *world) reach(i int32) {
	a := w.attempts.at(i)
	x := &w.workers[a.worker]
	takes := 0.0
	switch {
	case a.state != sent:
		return
	case x.down:
		a.failure = failBroken
	case x.failFast:
		a.failure, takes = failBroken, failFastTakes
	case !w.accept(a.engine, i):
		a.failure = failBusy
	default:
		if x.bait && !x.dear {
			x.dear = true
			w.publish(a.worker)
			w.q.push(w.now+baitReturns, evPrice, a.worker, 0)
		}
		return
	}
	a.state = gone
	w.q.push(w.now+takes+w.way(a), evError, i, 0)
}

// broke is an attempt's failure at the gateway: before the first token another worker is asked.
func (w *world) broke(i int32) {
	a := w.attempts.at(i)
	if a.closed {
		return
	}
	outcome := router.WorkerFault
	if a.failure == failBusy {
		outcome = router.WorkerBusy
	}
	w.release(i, outcome)
	r := w.requests.at(a.req)
	if r.now != i {
		return
	}
	g := &w.gateways[a.gateway]
	if a.firstAt == 0 && len(r.tried) < attemptsMost && g.budget >= 1 {
		if c, err := g.policy.pick(w, r); err == nil {
			g.budget--
			w.res.retries++
			w.send(a.req, c)
			return
		}
	}
	if a.failure == failBusy {
		w.refuse(a.req)
		return
	}
	w.res.fail(w, r)
}

// impatient asks another worker if one promises better than what was waited already.
func (w *world) impatient(i int32) {
	a := w.attempts.at(i)
	r := w.requests.at(a.req)
	if a.closed || a.firstAt > 0 || r.now != i {
		return
	}
	g := &w.gateways[a.gateway]
	waited := w.now - a.sentAt
	if len(r.tried) >= attemptsMost || g.budget < 1 {
		w.giveUp(i)
		return
	}
	c, err := g.policy.pick(w, r)
	if err == nil && c.first < waited {
		g.budget--
		w.res.moves++
		w.release(i, router.WorkerSlow)
		w.q.push(w.now+w.way(a), evCancel, i, 0)
		w.send(a.req, c)
		return
	}
	if err == nil {
		g.policy.release(w, &attempt{req: a.req, worker: c.worker, gateway: a.gateway, choice: c}, router.Unused)
	}
	w.giveUp(i)
}

// firstMost is when a client that still has no token leaves, seconds.
const firstMost = 120.0

// giveUp waits on, or ends the request when that takes too long.
func (w *world) giveUp(i int32) {
	a := w.attempts.at(i)
	if waited := w.now - a.sentAt; waited < firstMost {
		w.wait(i, max(waited/2, 1))
		return
	}
	w.release(i, router.WorkerSlow)
	w.q.push(w.now+w.way(a), evCancel, i, 0)
	w.res.fail(w, w.requests.at(a.req))
}

// first is an attempt's first token at the gateway.
func (w *world) first(i int32) {
	a := w.attempts.at(i)
	if a.closed {
		return
	}
	a.firstAt, a.seenAt, a.seen = w.now, w.now, 1
	w.gateways[a.gateway].policy.first(w, a)
	w.q.push(w.now+progressEvery, evProgress, i, 0)
}

// progress counts an attempt's tokens.
func (w *world) progress(i int32) {
	a := w.attempts.at(i)
	if a.closed {
		return
	}
	r := w.requests.at(a.req)
	n := w.tokens(a, w.way(a))
	if n > a.seen {
		a.seen, a.seenAt = n, w.now
	}
	g := &w.gateways[a.gateway]
	g.policy.progress(w, a)
	switch {
	case r.leave > 0 && n >= int64(r.leave) && a.state == running:
		w.release(i, router.ClientGone)
		w.q.push(w.now+w.way(a), evCancel, i, 0)
		w.res.left++
		w.over(r)
	case w.now-a.seenAt > idleMost:
		w.release(i, router.WorkerFault)
		w.q.push(w.now+w.way(a), evCancel, i, 0)
		w.res.fail(w, r)
	default:
		w.q.push(w.now+progressEvery, evProgress, i, 0)
	}
}

// served is an attempt's last token at the gateway.
func (w *world) served(i int32) {
	a := w.attempts.at(i)
	if a.closed {
		return
	}
	r := w.requests.at(a.req)
	if a.firstAt == 0 { // one token only: it is the first too
		w.first(i)
	}
	a.seen = int64(r.out)
	w.release(i, router.Served)
	w.res.serve(w, r, a)
	w.over(r)
}

func (w *world) release(i int32, o router.Outcome) {
	a := w.attempts.at(i)
	a.closed = true
	w.gateways[a.gateway].policy.release(w, a, o)
}

// tried tells whether the request was at the worker already.
func (r *request) wasAt(worker int32) bool { return slices.Contains(r.tried, worker) }

// publish gives a worker's new sheet to every gateway.
func (w *world) publish(i int32) {
	w.renew(i)
	for g := range w.gateways {
		w.gateways[g].policy.update(w, i)
	}
}

// tick is what happens each quarter of a second: reports of load, and each table's upkeep.
func (w *world) tick() {
	for i := range w.workers {
		x := &w.workers[i]
		if !x.present || x.down || w.engines[x.engine].hung || !w.report(int32(i)) {
			continue
		}
		for g := range w.gateways {
			w.gateways[g].policy.update(w, int32(i))
		}
	}
	for g := range w.gateways {
		w.gateways[g].policy.tend(w)
	}
	if w.now < w.cfg.Seconds+drainTime {
		w.q.push(w.now+tickEvery, evTick, 0, 0)
	}
}
