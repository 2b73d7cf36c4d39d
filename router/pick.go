package router

import (
	"cmp"
	"math"
	"slices"
	"time"

	"cocoon/router/prefix"
)

const (
	// topMax is how many of the best are kept while scanning: enough to choose among equals, and to go on when one fills up
	// meanwhile.
	topMax = 4
	// alike is how close scores count as equal: then the one that was picked longest ago is taken, or those of equal price
	// and speed would starve.
	alike = 1.05
	// explore is how many picks in a thousand may go to a worker that is not known well, if it promises at most exploreMost
	// times the best score.
	explore     = 30
	exploreMost = 3.0
	// exploreFrom is the first pick of a model that may explore: before it all are unknown, and get their turn anyway.
	exploreFrom = 100
	// coldMost is how many seconds a request may have to wait at a worker that has to read its prompt whole, or coldAnswers times
	// as long as its own answer takes; cachedMost and cachedAnswers the same for a prompt that is cached, and in between for a part.
	// Beyond that a worker with waitFew requests or more counts as full: an answer that comes too late is work for nothing,
	// and when not all can be served, those are that cost least.
	coldMost      = 2.0
	coldAnswers   = 0.25
	cachedMost    = 5.0
	cachedAnswers = 1.0
	waitFew       = 12
	// retakes is how often a pick begins anew when everything it chose filled up meanwhile.
	retakes = 3
	// scanBusy is how many picks share one look at all of a large market when the chosen part of it is busy: to look at all
	// takes as long as two hundred other picks.
	scanBusy = 16
)

// top is the best endpoints of a scan, best first.
type top struct {
	n     int
	at    [topMax]int32
	score [topMax]float64
}

// add takes a score in that is among the best.
func (t *top) add(at int32, score float64) {
	t.n = min(t.n, topMax-1)
	i := t.n
	for ; i > 0 && t.score[i-1] > score; i-- {
		t.at[i], t.score[i] = t.at[i-1], t.score[i-1]
	}
	t.at[i], t.score[i] = at, score
	t.n++
}

// scan is the state of one pick.
type scan struct {
	query
	best    top
	bids    [topMax]bid // of the best, before one of them is claimed
	hits    [hitsMax]prefix.Hit
	nhits   int
	home    int32 // the conversation's home, -1 if it has none
	chance  uint64
	lookat  [2*scanMax + hitsMax]int32 // of a large market
	nlook   int
	removed [Reasons]uint16
	seen    int
	strayed bool // it explored
	probe   time.Duration
}

// query prepares what is the same for all endpoints.
func (t *table) query(r *Request, m *model) query {
	q := query{Request: r, wish: r.Wish, model: m, market: m.market.Load(), now: r.Now}
	if r.Wish != nil {
		q.sort = min(r.Wish.Sort, sorts-1)
	}
	q.weight = t.cfg.Weights[q.sort]
	q.tokens = float64(r.Bytes) / math.Float64frombits(m.ratio.Load())
	q.out = t.lengths.expect(r.Tenant, m.seed, math.Float64frombits(m.out.Load()), r.MaxOut)
	q.reference()
	return q
}

// pick is Pick.
func (t *table) pick(r *Request, l *Grant) error {
	m := (*t.models.Load())[r.Model]
	if m == nil {
		return ErrUnknownModel
	}
	for range retakes {
		s := scan{query: t.query(r, m), home: -1}
		if len(s.market.endpoints) == 0 {
			return ErrUnknownModel
		}
		s.chance = prefix.Mix(m.seed ^ m.turn.Add(1))
		if len(r.Prefix) > 0 {
			s.nhits = t.index.Find(r.Prefix, s.hits[:])
		}
		s.run(t.cfg.Shared)
		if s.best.n == 0 {
			return s.nobody()
		}
		if place, ok := s.take(); ok {
			t.lease(&s, place, l)
			return nil
		}
	}
	return ErrBusy
}

// run looks at the endpoints.
func (s *scan) run(shared bool) {
	all := s.market.endpoints
	if len(all) <= scanMax {
		if shared && s.Home != 0 {
			s.home = s.highest()
		}
		first := below(s.chance, len(all))
		for i := first; i < len(all); i++ {
			s.look(int32(i))
		}
		for i := range first {
			s.look(int32(i))
		}
	} else {
		s.narrow(shared)
		for _, at := range s.lookat[:s.nlook] {
			s.look(at)
		}
		if s.wants() {
			s.best, s.removed, s.seen = top{}, [Reasons]uint16{}, 0
			for i := range all {
				s.look(int32(i))
			}
		}
	}
	if s.best.n == 0 {
		s.failOpen()
	}
}

// highest is the conversation's home: the endpoint with the highest hash together with it (rendezvous hashing).
func (s *scan) highest() (at int32) {
	var most uint64
	for i := range s.market.endpoints {
		if h := prefix.Mix(s.Home ^ s.market.endpoints[i].hash); h >= most {
			most, at = h, int32(i)
		}
	}
	return at
}

// wants tells whether all of a large market is to be looked at: for the caller's order, or since the part of it that was
// looked at has nobody.
func (s *scan) wants() bool {
	if s.wish != nil && len(s.wish.Order) > 0 {
		return true
	}
	return s.best.n == 0 && (s.removed[RemovedBusy] == 0 || s.wish != nil || s.chance%scanBusy == 0)
}

// narrow chooses whom to look at in a large market.
func (s *scan) narrow(shared bool) {
	all := s.market.endpoints
	add := func(at int32) {
		if s.nlook < len(s.lookat) && !slices.Contains(s.lookat[:s.nlook], at) {
			s.lookat[s.nlook] = at
			s.nlook++
		}
	}
	for _, h := range s.hits[:s.nhits] {
		if at, ok := s.market.at[h.Holder]; ok && int(at) < len(all) && all[at].holder == h.Holder {
			add(at)
		}
	}
	if shared && s.Home != 0 { // the next on the ring that the order by ID is
		at, _ := slices.BinarySearchFunc(all, s.Home, func(e endpoint, home uint64) int { return cmp.Compare(e.hash, home) })
		s.home = int32(at % len(all))
		add(s.home)
	}
	if short := s.model.short.Load(); short != nil {
		for _, at := range *short {
			if int(at) < len(all) {
				add(at)
			}
		}
	}
	for i := range randomMax {
		add(int32(below(prefix.Mix(s.chance+uint64(i)), len(all))))
	}
	if s.nlook < scanMax && s.model.short.Load() == nil { // before the first Tend
		for i := s.nlook; i < scanMax; i++ {
			add(int32(below(prefix.Mix(s.chance+uint64(i)), len(all))))
		}
	}
}

// look takes one endpoint's score in.
func (s *scan) look(at int32) {
	e := &s.market.endpoints[at]
	if reason, out := s.removes(e); out {
		s.removed[reason]++
		return
	}
	var b bid
	s.promise(e, at, &b)
	if b.wait >= coldMost && s.late(e, &b) {
		s.removed[RemovedBusy]++
		return
	}
	s.seen++
	if s.best.n < topMax || b.score < s.best.score[topMax-1] {
		s.best.add(at, b.score)
	}
}

// late tells whether a worker would let the request wait for too long.
func (s *scan) late(e *endpoint, b *bid) bool {
	if e.live.inflight.Load() < waitFew || e.speed.old.Load() { // of what is not known nothing is foretold
		return false
	}
	answer, warm := b.total-b.wait, b.cached/max(s.tokens, 1)
	cold := max(coldMost, coldAnswers*answer)
	return b.wait > cold+warm*(max(cachedMost, cachedAnswers*answer)-cold)
}

// promise works out what an endpoint promises, and how far behind others it is to be put.
func (s *scan) promise(e *endpoint, at int32, b *bid) {
	cached := 0.0
	if s.nhits > 0 || at == s.home {
		cached = s.has(e, at)
	}
	s.bid(e, cached, b)
	if at == s.home && !s.History {
		b.score *= homeDraw
	}
	if e.speed.open.Load() != 0 { // half open: worth a probe only if it would be wanted
		_, toll := unpack(e.speed.way.Load())
		b.score /= toll
	}
	b.score += s.rank(e, b) * rankStep
}

// has is how many tokens of the prompt an endpoint is thought to have in its cache.
func (s *scan) has(e *endpoint, at int32) float64 {
	for i := range s.nhits {
		if s.hits[i].Holder != e.holder {
			continue
		}
		return min(s.promised(&s.hits[i])*math.Float64frombits(e.speed.warm[ageOf(s.hits[i].Age)].Load()), max(s.tokens-1, 0))
	}
	if at == s.home && s.History && s.nhits == 0 {
		return homeWarm * max(s.tokens-s.model.promptMean(), 0)
	}
	return 0
}

// promised is how many tokens of the prompt a hit stands for.
func (s *scan) promised(h *prefix.Hit) float64 {
	return min(float64(h.Blocks*prefix.BlockBytes)/math.Float64frombits(s.model.ratio.Load()), max(s.tokens-1, 0))
}

// promptMean is how many tokens of a prompt are new, in the mean.
func (m *model) promptMean() float64 { return math.Float64frombits(m.prompt.Load()) }

// failOpen lets those in whose breakers are open, if that is all that is wrong: to try is better than to refuse.
func (s *scan) failOpen() {
	if s.removed[RemovedBroken] == 0 || s.removed[RemovedBusy] > 0 {
		return
	}
	now := s.now
	s.now = math.MaxInt64 // every breaker has waited long enough
	s.removed, s.seen = [Reasons]uint16{}, 0
	for i := range s.market.endpoints {
		s.look(int32(i))
	}
	s.now = now
}

// nobody is why nobody is left.
func (s *scan) nobody() error {
	switch {
	case s.removed[RemovedBusy] > 0 || s.removed[RemovedBroken] > 0:
		return ErrBusy
	case s.removed[RemovedTried] > 0:
		return ErrExhausted
	}
	return ErrNoMatch
}

// take claims the best endpoint that still has room: among equals the one that was picked longest ago.
func (s *scan) take() (place int, ok bool) {
	if at, ok := s.explored(); ok {
		return at, true
	}
	for i := 1; i < s.best.n && s.best.score[i] <= s.best.score[0]*alike; i++ {
		if s.at(i).live.used.Load() < s.at(0).live.used.Load() {
			s.best.at[0], s.best.at[i] = s.best.at[i], s.best.at[0]
		}
	}
	for i := range s.best.n {
		s.promise(s.at(i), s.best.at[i], &s.bids[i])
	}
	for i := range s.best.n {
		if s.claim(s.at(i)) {
			return i, true
		}
	}
	return 0, false
}

func (s *scan) at(i int) *endpoint { return &s.market.endpoints[s.best.at[i]] }

// claim takes a place on an endpoint's machine, and the probe if its breaker is half open.
func (s *scan) claim(e *endpoint) bool {
	if float64(e.live.inflight.Add(1)) > s.room(e) && e.live.inflight.Load() > 1 {
		e.live.inflight.Add(-1)
		return false
	}
	open := e.speed.open.Load()
	if open == 0 || open > int64(s.now) {
		return true
	}
	if !e.speed.open.CompareAndSwap(open, int64(s.now+probeMax)) {
		e.live.inflight.Add(-1)
		return false
	}
	s.probe = s.now + probeMax
	return true
}

// explored takes, now and then, an endpoint that is not known well instead of the best. It takes the last place of the
// best.
func (s *scan) explored() (place int, ok bool) {
	if s.chance>>54 >= explore || s.model.turn.Load() < exploreFrom { // of 1024
		return 0, false
	}
	all := s.market.endpoints
	first := below(prefix.Mix(s.chance), len(all))
	for i := range min(len(all), scanMax) {
		at := int32((first + i) % len(all))
		e := &all[at]
		if !e.speed.old.Load() || e.live.inflight.Load() > 0 {
			continue
		}
		if _, out := s.removes(e); out {
			continue
		}
		var b bid
		if s.promise(e, at, &b); b.score > s.best.score[0]*exploreMost {
			continue
		}
		place = min(s.best.n, topMax-1)
		for i := range place {
			s.promise(s.at(i), s.best.at[i], &s.bids[i])
		}
		if !s.claim(e) {
			continue
		}
		s.best.at[place], s.best.score[place], s.bids[place] = at, b.score, b
		s.best.n, s.strayed = place+1, true
		return place, true
	}
	return 0, false
}

// lease makes the lease of what was claimed.
func (t *table) lease(s *scan, place int, l *Grant) {
	e, b := s.at(place), &s.bids[place]
	beside := e.live.inflight.Load() - 1
	s.why(place, &l.Why)
	if s.chance>>3&demandMask == 0 {
		s.demand(place)
	}
	fresh := int64(max(s.tokens-b.cached, 0))
	l.Worker, l.Offer, l.Price, l.handle = e.worker.id, e.offer, e.price, e.worker.handle
	l.table, l.model, l.live, l.speed = t, s.model, e.live, e.speed
	l.sent, l.work, l.cold, l.timed = s.now, b.work, b.work+b.cached, math.NaN()
	l.fresh, l.ttft, l.total = fresh, b.ttft, b.total
	l.tenant, l.bytes, l.beside = s.Tenant, s.Bytes, beside
	for i := range s.nhits {
		if s.hits[i].Holder == e.holder {
			l.promised, l.age = s.promised(&s.hits[i]), s.hits[i].Age
		}
	}
	l.probe = s.probe
	l.queued = float64(beside+e.live.others.Load()) >= e.slots
	e.live.pending.Add(fresh)
	e.live.used.Store(int64(s.now))
	if len(s.Prefix) > 0 {
		l.blocks, l.mark = s.Prefix, t.index.Add(e.holder, s.Prefix)
	}
}

// why says what was looked at.
func (s *scan) why(place int, w *Why) {
	w.Candidates, w.Considered, w.Removed, w.Picked = len(s.market.endpoints), s.seen, s.removed, -1
	w.Sort, w.Explored, w.Tops = s.sort, s.strayed, min(s.best.n, ChoicesMax)
	w.Tokens, w.Out, w.Reference = s.tokens, s.out, s.refer
	for i := range w.Tops {
		e, b := s.at(i), &s.bids[i]
		w.Top[i] = Choice{
			Worker: e.worker.id, Score: b.score, Price: b.price, TTFT: b.ttft, Total: b.total, Cached: b.cached,
			Inflight: e.live.inflight.Load(),
		}
	}
	if place < w.Tops {
		w.Picked = place
		w.Top[place].Inflight-- // but for this one
	}
}

// Retry is how long a client is to wait before it asks again for a model whose workers are all busy: about until one
// of them ends a request, and longer for those that pay least.
func (t *table) Retry(name string, sort Sort) time.Duration {
	d := time.Second
	if m := (*t.models.Load())[name]; m != nil {
		k := m.market.Load()
		var ends float64 // requests a second
		for i := range k.endpoints {
			e := &k.endpoints[i]
			perToken, step := unpack(e.speed.pace.Load())
			slope, _ := unpack(e.speed.way.Load())
			n := min(float64(e.live.inflight.Load()+e.live.others.Load()), e.slots)
			ends += n / (m.promptMean()*perToken + math.Float64frombits(m.out.Load())*step*(1+slope*n))
		}
		if ends > 0 {
			d = seconds(1 / ends)
		}
	}
	if sort == Price {
		d *= 4
	}
	return min(max(d, time.Second), 30*time.Second)
}
