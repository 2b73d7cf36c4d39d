package sim

import (
	"math"
	"math/rand/v2"

	"cocoon/router"
	"cocoon/router/prefix"
)

// The workload: what clients of a chat service do, in numbers that published traces have about.
const (
	tenants       = 40
	turnsMean     = 5.0
	thinkMean     = 10.0 // seconds between an answer and the next request
	questionLeast = 30
	questionMean  = 300.0
	longPart      = 0.05 // of requests that come with a document
	longTokens    = 6000
	outMedian     = 180.0
	outSpread     = 0.9 // of the logarithm: a mean of 1.5 medians, a long tail
	outMost       = 4096
	maxGiven      = 0.4    // of requests with max_tokens
	historyMost   = 12_000 // a session with a longer one is over
	leavePart     = 0.01   // of clients that leave before the end of an answer

	// Bursts: sessions arrive burstHigh times as often for burstOn seconds, then burstLow times for burstOff.
	burstOn, burstOff   = 20.0, 35.0
	burstHigh, burstLow = 1.7, 0.6
)

// session is one conversation: requests that wait for each other's answers.
type session struct {
	rng     rand.PCG
	tenant  int32
	group   int32 // its system prompt
	gateway int32
	sys     int32
	hist    int32
	turn    int32
	left    int32
	bytes   float64 // per token
	hashed  []prefix.Block
}

// request is one turn of a session.
type request struct {
	session, tenant, group, gateway int32
	turn, prompt, out, hist, sys    int32
	maxOut, leave                   int32 // 0: none
	sort                            router.Sort
	at                              float64
	bytes                           int64
	blocks                          []prefix.Block
	tried                           []int32
	refused                         int8  // how often nobody took it
	now                             int32 // attempt that counts
	reference                       float64
}

// rand wraps a session's own source: a session does the same whatever policy serves it.
func (s *session) rand() *rand.Rand { return rand.New(&s.rng) }

// arrive makes a session and says when the next one comes.
func (w *world) arrive() {
	if w.now >= w.cfg.Seconds {
		return
	}
	rate := w.cfg.Load * burstLow
	if math.Mod(w.now+w.phase, burstOn+burstOff) < burstOn {
		rate = w.cfg.Load * burstHigh
	}
	if w.cfg.Steady {
		rate = w.cfg.Load
	}
	w.q.push(w.now+w.arrivals.ExpFloat64()/rate, evSession, 0, 0)
	i, s := w.sessions.add()
	s.open(w.cfg.Seed, i)
	s.gateway = int32(prefix.Mix(uint64(s.tenant)) % uint64(w.cfg.Gateways))
	w.turn(i)
}

// open makes the i-th session of a seed.
func (s *session) open(seed uint64, i int32) {
	s.rng = *rand.NewPCG(seed, prefix.Mix(uint64(i)))
	rng := s.rand()
	s.tenant = int32(float64(tenants) * math.Pow(rng.Float64(), 2))
	s.group = 4*s.tenant + int32(rng.IntN(4))
	s.sys = 200 + int32(prefix.Mix(uint64(s.group))%3000)
	s.hist = s.sys
	s.left = 1 + int32(rng.ExpFloat64()*(turnsMean-1))
	s.bytes = 3.4 + 1.2*float64(prefix.Mix(uint64(s.group)^0xb17e5)%1000)/1000
}

// next draws a session's next request.
func (s *session) next(rng *rand.Rand) (r request) {
	r = request{tenant: s.tenant, group: s.group, turn: s.turn, sys: s.sys, gateway: s.gateway, now: -1}
	if s.turn > 0 {
		r.hist = s.hist
	}
	r.prompt = s.hist + questionLeast + int32(rng.ExpFloat64()*questionMean)
	if rng.Float64() < longPart {
		r.prompt += longTokens
	}
	out := math.Exp(math.Log(outMedian) + outSpread*rng.NormFloat64())
	r.out = int32(min(max(out, 1), outMost))
	if rng.Float64() < maxGiven {
		r.maxOut = 128 << rng.IntN(6)
		r.out = min(r.out, r.maxOut)
	}
	if rng.Float64() < leavePart {
		r.leave = 1 + int32(rng.Float64()*float64(r.out))
	}
	r.bytes = int64(float64(r.prompt) * s.bytes)
	s.turn++
	s.left--
	return r
}

// answered tells a session that its answer is there, and says whether it goes on.
func (s *session) answered(r *request) bool {
	s.hist = r.prompt + r.out
	return s.left > 0 && s.hist < historyMost
}

// perSession is how many tokens a session's answers have on average.
func perSession(seed uint64) float64 {
	const n = 20_000
	sum := 0.0
	for i := range int32(n) {
		var s session
		s.open(seed, i)
		for {
			r := s.next(s.rand())
			sum += float64(r.out)
			if !s.answered(&r) {
				break
			}
		}
	}
	return sum / n
}

// turn sends a session's next request.
func (w *world) turn(i int32) {
	if w.now >= w.cfg.Seconds {
		return
	}
	s := w.sessions.at(i)
	rng := s.rand()
	ri, r := w.requests.add()
	*r = s.next(rng)
	r.session, r.at, r.sort = i, w.now, w.cfg.Sort
	class, gateway := rng.Float64(), int32(rng.IntN(w.cfg.Gateways))
	if w.cfg.Mixed {
		switch {
		case class < 0.2:
			r.sort = router.Price
		case class > 0.8:
			r.sort = router.Throughput
		}
	}
	if w.cfg.Spread {
		r.gateway = gateway
	}
	r.reference = cost(w.median, float64(r.prompt), 0, float64(r.out))
	w.res.offer(w, r)
	w.start(ri)
}

// over tells a session that its answer is there; it goes on after a thought.
func (w *world) over(r *request) {
	s := w.sessions.at(r.session)
	think := s.rand().ExpFloat64() * thinkMean
	if s.answered(r) {
		w.q.push(w.now+think, evTurn, r.session, 0)
	}
}

// hashes are the blocks of a request's prompt: those of the system prompt are the tenant's, the others the session's.
func (w *world) hashes(r *request) []prefix.Block {
	if r.blocks != nil {
		return r.blocks
	}
	s := w.sessions.at(r.session)
	n := int(r.bytes / prefix.BlockBytes)
	shared := int(float64(r.sys) * s.bytes / prefix.BlockBytes)
	for k := len(s.hashed); k < n; k++ {
		of := uint64(r.session)
		if k < shared {
			of = uint64(r.group) | 1<<63
		}
		s.hashed = append(s.hashed, prefix.Block(prefix.Mix(prefix.Mix(of)+uint64(k))))
	}
	r.blocks = s.hashed[:n:n]
	return r.blocks
}

// home is the hash of what a conversation keeps, the same on all gateways.
func (r *request) home() uint64 { return prefix.Mix(uint64(r.session)<<20 ^ uint64(r.tenant)) }
