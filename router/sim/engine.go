package sim

import (
	"math"
	"slices"
)

// What a step of a GPU of speed 1 takes, seconds: in all, for each token that is read, for each request that gets a
// token, and for each token in the context of those. A 7B model on one data centre card has about these.
const (
	stepBase   = 0.008
	perRead    = 1.0 / 14000
	perRequest = 0.00012
	perContext = 2.2e-8
)

// chunk is how many tokens one step reads and makes at most.
const chunk = 2048

// engine is one GPU: chunked prefill, continuous batching, a KV memory that bounds the batch, a prefix cache in what the
// batch leaves free. Steps that only make tokens are one event up to the next that changes the batch.
type engine struct {
	speed    float64 // of the class, with the noise of the single card
	slowdown float64 // 1: none
	slots    int32
	kv       int32 // tokens that fit into memory
	room     int32 // requests that run and wait at most

	cache   lru
	run     []slot
	wait    []int32 // attempts, the first at head
	head    int
	waiting int32
	used    int32   // tokens of memory that the batch holds or will
	steps   int64   // done so far
	context float64 // tokens in the context of those that get one each step
	making  int32   // requests that do

	busy, hung bool
	forgets    bool // it keeps no prompts
	gen        uint32
	seg        segment
}

// slot is an attempt in the batch.
type slot struct {
	attempt, prompt, out int32
	need, read, now      int32 // tokens to read, that were, and in the step that runs
	end                  int64 // step after which it is done; 0: it still reads
}

// segment is a run of equal steps.
type segment struct {
	start   float64
	n       int64
	a, b    float64 // k steps take a*k*k + b*k seconds
	making  int32
	reading int32
}

func (s *segment) after(k int64) float64 { return s.start + s.a*float64(k*k) + s.b*float64(k) }

// done is how many of the segment's steps are over.
func (s *segment) done(now float64) int64 {
	x := now - s.start
	if x <= 0 || s.b <= 0 {
		return 0
	}
	k := x / s.b
	if s.a > 0 {
		k = (math.Sqrt(s.b*s.b+4*s.a*x) - s.b) / (2 * s.a)
	}
	return min(int64(k), s.n)
}

func (e *engine) load() int32 { return int32(len(e.run)) + e.waiting }

// begin forms the next segment.
func (w *world) begin(at int32) {
	e := &w.engines[at]
	if e.hung {
		e.busy = false
		return
	}
	budget := chunk - e.making
	reading := int32(0)
	for i := range e.run {
		s := &e.run[i]
		s.now = 0
		if s.end == 0 && budget > 0 {
			s.now = min(budget, s.need-s.read)
			budget -= s.now
			reading += s.now
		}
	}
	for e.waiting > 0 && budget > 0 && int32(len(e.run)) < e.slots {
		s, ok := w.admit(e)
		if !ok {
			break
		}
		s.now = min(budget, s.need)
		budget -= s.now
		reading += s.now
		e.run = append(e.run, s)
	}
	if len(e.run) == 0 {
		e.busy = false
		return
	}
	e.busy = true
	n := int64(1)
	if reading == 0 {
		n = math.MaxInt64
		for i := range e.run {
			n = min(n, e.run[i].end-e.steps)
		}
	}
	speed := e.speed / e.slowdown
	grow := perContext * float64(e.making) / 2 / speed
	one := (stepBase + float64(reading)*perRead + float64(e.making)*perRequest + e.context*perContext) / speed
	e.seg = segment{start: w.now, n: n, a: grow, b: one - grow, making: e.making, reading: reading}
	e.gen++
	w.q.push(e.seg.after(n), evStep, at, e.gen)
}

// admit takes the first that waits into the batch if it fits.
func (w *world) admit(e *engine) (slot, bool) {
	for {
		a := w.attempts.at(e.wait[e.head])
		if a.state != atWorker {
			e.pull()
			continue
		}
		r := w.requests.at(a.req)
		size := r.prompt + r.out
		if e.used+size > e.kv && len(e.run) > 0 {
			return slot{}, false
		}
		i := e.pull()
		e.waiting--
		e.used += size
		a.state = running
		a.need = max(r.prompt-e.cached(r), 1)
		e.cache.shrink(e.cacheRoom(), nil)
		return slot{attempt: i, prompt: r.prompt, out: r.out, need: a.need}, true
	}
}

func (e *engine) pull() int32 {
	i := e.wait[e.head]
	e.head++
	if e.head > 64 && e.head*2 > len(e.wait) {
		e.wait = append(e.wait[:0], e.wait[e.head:]...)
		e.head = 0
	}
	return i
}

// cacheRoom is what the batch leaves of the memory; blocks in use are shared, so a quarter always remains.
func (e *engine) cacheRoom() int { return int(max(e.kv-e.used, e.kv/4)) }

// cached is how many tokens of the prompt need not be read again.
func (e *engine) cached(r *request) int32 {
	c := min(e.cache.get(r.session), r.hist)
	if c < r.sys && e.cache.get(^r.group) > 0 {
		c = r.sys
	}
	return c
}

func (e *engine) keep(r *request, tokens int32) {
	if e.forgets {
		return
	}
	e.cache.put(^r.group, r.sys, e.cacheRoom(), nil)
	e.cache.put(r.session, tokens, e.cacheRoom(), nil)
}

// finish ends a segment: tokens that were made, requests that were read in full or are done.
func (w *world) finish(at int32) {
	e := &w.engines[at]
	e.steps += e.seg.n
	e.context += float64(int64(e.seg.making) * e.seg.n)
	keep := e.run[:0]
	for _, s := range e.run {
		a := w.attempts.at(s.attempt)
		if a.state != running {
			e.drop(&s)
			continue
		}
		r := w.requests.at(a.req)
		if s.end == 0 {
			s.read += s.now
			if s.read >= s.need {
				s.end = e.steps + int64(s.out) - 1
				a.begun = e.steps
				e.making++
				e.context += float64(s.prompt)
				e.keep(r, s.prompt)
				w.q.push(w.now+w.way(a), evFirst, s.attempt, 0)
			}
		}
		if s.end > 0 && s.end <= e.steps {
			a.state = made
			e.drop(&s)
			e.keep(r, s.prompt+s.out)
			w.engineTokens += int64(s.out)
			w.q.push(w.now+w.way(a), evDone, s.attempt, 0)
			continue
		}
		keep = append(keep, s)
	}
	e.run = keep
	w.begin(at)
}

// drop takes an attempt's share of the batch back.
func (e *engine) drop(s *slot) {
	e.used -= s.prompt + s.out
	if s.end > 0 {
		e.making--
		e.context -= float64(s.prompt) + float64(e.steps-(s.end-int64(s.out)+1))
	}
}

// cut ends a run of equal steps with the one that goes on now, so that the batch can change.
func (w *world) cut(at int32) {
	e := &w.engines[at]
	if !e.busy || e.seg.reading > 0 || e.seg.n <= 1 {
		return
	}
	k := e.seg.done(w.now) + 1
	if k >= e.seg.n {
		return
	}
	e.seg.n = k
	e.gen++
	w.q.push(max(e.seg.after(k), w.now), evStep, at, e.gen)
}

// accept takes an attempt into the queue, or says that there is no room.
func (w *world) accept(at, attempt int32) bool {
	e := &w.engines[at]
	if e.load() >= e.room {
		return false
	}
	w.attempts.at(attempt).state = atWorker
	e.wait = append(e.wait, attempt)
	e.waiting++
	if e.hung {
		return true
	}
	if e.busy {
		w.cut(at)
	} else {
		w.begin(at)
	}
	return true
}

// cancel takes an attempt out: at once if it waits, with the next step if it runs.
func (w *world) cancel(attempt int32) {
	a := w.attempts.at(attempt)
	e := &w.engines[a.engine]
	switch a.state {
	case atWorker:
		e.waiting--
	case running:
		w.cut(a.engine)
	case sent:
	default:
		return
	}
	a.state = gone
}

// tokens is how many of an attempt's tokens were made a moment ago: half a round trip, mostly.
func (w *world) tokens(a *attempt, ago float64) int64 {
	e := &w.engines[a.engine]
	if a.begun == 0 {
		return 0
	}
	k := e.steps - a.begun + 1
	if e.busy && !e.hung {
		if since := w.now - ago - e.seg.start; since >= 0 {
			k += e.seg.done(w.now - ago)
		} else { // before the steps that run now: as fast as they are
			k += int64(since / e.seg.b)
		}
	} else if !e.hung {
		k -= int64(ago / stepBase * e.speed / e.slowdown)
	}
	return min(max(k, 1), int64(w.requests.at(a.req).out))
}

// crash empties the engine; whoever was in it learns of it.
func (w *world) crash(at int32, tell bool) {
	e := &w.engines[at]
	var lost []int32
	for _, s := range e.run {
		lost = append(lost, s.attempt)
	}
	lost = append(lost, e.wait[e.head:]...)
	for _, i := range lost {
		a := w.attempts.at(i)
		if a.state != running && a.state != atWorker {
			continue
		}
		a.state = gone
		if tell {
			a.failure = failBroken
			w.q.push(w.now+w.way(a), evError, i, 0)
		}
	}
	e.run, e.wait, e.head, e.waiting = e.run[:0], e.wait[:0], 0, 0
	e.used, e.context, e.making = 0, 0, 0
	e.busy = false
	e.gen++
	e.cache = newLRU()
}

// hang stops the engine where it is: nothing comes out of it any more.
func (w *world) hang(at int32) {
	e := &w.engines[at]
	if e.busy {
		k := e.seg.done(w.now)
		if e.seg.reading == 0 {
			e.steps += k
			e.context += float64(int64(e.seg.making) * k)
		}
	}
	e.hung, e.busy = true, false
	e.gen++
}

// remaining is how many tokens each request in the batch has still to make, fewest first.
func (e *engine) remaining(dst []int64) []int64 {
	for i := range e.run {
		if s := &e.run[i]; s.end > 0 {
			dst = append(dst, s.end-e.steps)
		} else {
			dst = append(dst, int64(s.out))
		}
	}
	slices.Sort(dst)
	return dst
}
