package router

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"

	"cocoon/router/offer"
	"cocoon/router/prefix"
)

const (
	// scanMax is how many endpoints a pick looks at. Of a larger market it looks at those that have the prompt, the
	// conversation's home, the shortlist, and some at random.
	scanMax = 32
	// shortFor is how many of each sort are on the shortlist of a large market, and randomMax how many more are looked at.
	shortFor  = 8
	randomMax = 6
	hitsMax   = 8

	perMTok     = 1e6
	blockTokens = prefix.BlockBytes / 4
	// cacheMax bounds what a worker is taken to cache, tokens: slots and context are its own word.
	cacheMax = 8 << 20

	// typicalIn and typicalOut, tokens, are the request that shortlists are made for; meanOutFirst what an answer has
	// before any was seen.
	typicalIn    = 1000
	meanOutFirst = 250
	// bytesPerToken is that of English text, before anything was counted; and the least and most that is believed.
	bytesPerToken         = 4.0
	bytesLeast, bytesMost = 1.0, 8.0
	// wordsLeast and wordsMost bound how far the tokens of an answer are from those that its text is taken for.
	wordsLeast, wordsMost = 0.25, 4.0
	// meanFirst is how many answers what a model begins with counts for.
	meanFirst = 4
	// tellMost is the part of what the median worker tells to be cached that is as good as all: caches differ.
	tellMost = 0.9
	// meanKeep is what remains of a model's mean with each request.
	meanKeep = 0.99
)

// model is what is known of a model, whoever offers it.
type model struct {
	name   string
	seed   uint64
	market atomic.Pointer[market]
	turn   atomic.Uint64 // counts picks: where scans start, and what chance is made of
	ratio  atomic.Uint64 // float64: bytes a token
	words  atomic.Uint64 // float64: tokens of an answer for each that its text was taken for
	whole  atomic.Int64  // answers that the means have taken in
	prompt atomic.Uint64 // float64: tokens of a prompt that nobody had cached, in the mean
	cached atomic.Uint64 // float64: those that the worker had
	out    atomic.Uint64 // float64: tokens of an answer, in the mean
	priors atomic.Uint64 // rate and step of a worker that nothing is known of
	short  atomic.Pointer[[]int32]
}

// market is the endpoints of one model, in the order of their workers' IDs. It does not change once it is published.
type market struct {
	endpoints []endpoint
	at        map[prefix.Holder]int32 // of a large market only: where each holder is, or was
	stale     bool                    // at and the medians are of an earlier market
	in, out   float64                 // median prices, nanoTON a token
}

// endpoint is one worker's offer of one model, as picks see it.
type endpoint struct {
	live            *machine
	speed           *speed
	in, cached, out float64 // the customer's price, nanoTON a token
	slots           float64
	context         int64  // tokens
	hash            uint64 // the ID's first bytes: rises with it
	holder          prefix.Holder
	features        Features
	trust           Trust
	dear            float64     // its price by the median one, for a typical request
	price           offer.Price // the same per million tokens, exactly
	worker          *worker
	offer           *offer.Offer
}

func newModel(name string, seed uint64) *model {
	m := &model{name: name, seed: seed}
	m.market.Store(&market{})
	m.ratio.Store(math.Float64bits(bytesPerToken))
	m.words.Store(math.Float64bits(1))
	m.prompt.Store(math.Float64bits(typicalIn / 2))
	m.out.Store(math.Float64bits(meanOutFirst))
	m.priors.Store(pack(firstRate, firstStep))
	return m
}

// finish works out what belongs to the whole market. Of a large one it takes over what the market before had: that is
// worked out anew by the next Tend, since each worker that joins would do it.
func (k *market) finish(before *market) {
	if len(k.endpoints) > scanMax && before.at != nil {
		k.at, k.in, k.out, k.stale = before.at, before.in, before.out, true
		return
	}
	k.complete()
}

// complete works it out.
func (k *market) complete() {
	in, out := make([]float64, 0, len(k.endpoints)), make([]float64, 0, len(k.endpoints))
	seen := make(map[*machine]bool, len(k.endpoints))
	for i := range k.endpoints {
		if e := &k.endpoints[i]; !seen[e.live] {
			seen[e.live] = true
			in, out = append(in, e.in), append(out, e.out)
		}
	}
	if len(in) > 0 {
		k.in, k.out = middle(in), middle(out)
	}
	typical := typicalIn*k.in + meanOutFirst*k.out
	for i := range k.endpoints {
		e := &k.endpoints[i]
		if e.dear = 1; typical > 0 {
			e.dear = (typicalIn*e.in + meanOutFirst*e.out) / typical
		}
	}
	k.at = nil
	if len(k.endpoints) > scanMax {
		k.at = make(map[prefix.Holder]int32, len(k.endpoints))
		for i := range k.endpoints {
			k.at[k.endpoints[i].holder] = int32(i)
		}
	}
	k.stale = false
}

// middle is the median, of an even number the lower one. It sorts the list.
func middle(list []float64) float64 {
	slices.Sort(list)
	return list[(len(list)-1)/2]
}

// featuresOf reads the words of an offer; unknown ones are no use to a pick.
func featuresOf(words []string) (f Features) {
	for i, name := range featureNames() {
		if slices.Contains(words, name) {
			f |= 1 << i
		}
	}
	return f
}

// tend is Tend for one model. The caller holds the table's mu.
func (m *model) tend(now time.Duration, c *Config) {
	k := m.market.Load()
	if k.stale {
		k = &market{endpoints: k.endpoints}
		k.complete()
		m.market.Store(k)
	}
	n := len(k.endpoints)
	rates, steps, told := make([]float64, 0, n), make([]float64, 0, n), make([]float64, n)
	for i := range k.endpoints {
		e := &k.endpoints[i]
		rate, step, share, sampled := e.speed.settle(now)
		if told[i] = share; sampled {
			rates, steps = append(rates, rate), append(steps, step)
		}
		e.speed.demand.fade(now)
	}
	m.compare(k, told)
	if len(rates) > 0 {
		m.priors.Store(pack(middle(rates), middle(steps)))
	}
	if len(k.endpoints) > scanMax {
		m.shorten(now, k, c)
	}
}

// compare says of each endpoint how dear its cached tokens make it: what it bills for the mean request, by what that would be
// at the market's usual discount. Conversations would else pay any price for what is cached of them. Told is which part of what
// was promised each told to be cached: who tells less than others bills the rest in full.
func (m *model) compare(k *market, told []float64) {
	if len(told) == 0 {
		return
	}
	enough := tellMost * middle(slices.Clone(told))
	each, discounts := make([]float64, len(told)), make([]float64, 0, len(told))
	for i := range k.endpoints {
		e := &k.endpoints[i]
		if each[i] = e.cached; told[i] < enough {
			each[i] = e.in - (e.in-e.cached)*told[i]/enough
		}
		if e.in > 0 {
			discounts = append(discounts, each[i]/e.in)
		}
	}
	discount := 1.0
	if len(discounts) > 0 {
		discount = middle(discounts)
	}
	fresh, cached, out := m.promptMean(), math.Float64frombits(m.cached.Load()), math.Float64frombits(m.out.Load())
	for i := range k.endpoints {
		e := &k.endpoints[i]
		rest, dearer := fresh*e.in+out*e.out, 1.0
		if usual := rest + cached*e.in*discount; usual > 0 {
			dearer = (rest + cached*each[i]) / usual
		}
		e.speed.dearer.Store(math.Float64bits(dearer))
	}
}

// shorten makes a large market's shortlist: for each sort those that are best for a typical request now.
func (m *model) shorten(now time.Duration, k *market, c *Config) {
	type entry struct {
		at    int32
		score float64
	}
	picked := map[int32]bool{}
	list := make([]entry, len(k.endpoints))
	for sort := range sorts {
		q := query{Request: &Request{}, model: m, market: k, now: now, tokens: typicalIn, out: math.Float64frombits(m.out.Load()), weight: c.Weights[sort]}
		q.sort = sort
		q.reference()
		for i := range k.endpoints {
			e := &k.endpoints[i]
			var b bid
			if q.bid(e, 0, &b); e.speed.open.Load() > int64(now) {
				b.score = math.Inf(1)
			}
			list[i] = entry{int32(i), b.score}
		}
		slices.SortFunc(list, func(a, b entry) int { return cmp.Compare(a.score, b.score) })
		for _, e := range list[:min(shortFor, len(list))] {
			picked[e.at] = true
		}
	}
	short := make([]int32, 0, len(picked))
	for at := range picked {
		short = append(short, at)
	}
	slices.Sort(short)
	m.short.Store(&short)
}

// below is a number from 0 to n-1, of a mixed one.
func below(x uint64, n int) int {
	hi, _ := bits.Mul64(x, uint64(n))
	return int(hi)
}

// fold moves a mean towards a sample. It may lose a sample to another that comes at the same moment.
func fold(mean *atomic.Uint64, kept, sample float64) {
	old := mean.Load()
	mean.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)*kept+sample*(1-kept)))
}
