package sim

import (
	"cmp"
	"math"
	"slices"
	"time"

	"cocoon/router"
)

// Sample is a request that was answered.
type Sample struct {
	At, First, Total float32 // seconds: when it came, to its first and to its last token
	Cost, J          float32 // nanoTON; price and time in one, as the router's default weighs them
	In, Cached, Out  int32
	Worker           int32
	Sort             router.Sort
	// What ours promised: seconds from when it was sent to its worker, tokens. FromSent is the first token's true time.
	Promised Promise
	FromSent float32
}

// Promise is what the router expected of a request.
type Promise struct{ First, Step, Cached float32 }

// Share is what one worker got.
type Share struct {
	Class    int32
	Revenue  float64 // nanoTON
	Tokens   int64
	Requests int64
	Won      int64 // attempts, answered or not
}

// Result is a run's outcome. Whatever it counts came between Config.Warm and Config.Seconds.
type Result struct {
	Config   Config
	Samples  []Sample
	Shares   []Share // by worker
	Offered  int
	Shed     int     // told to come later
	Failed   int     // broken without an answer, or in the midst of it
	Left     int     // clients that went
	Tokens   float64 // per second, of answers that were complete in the time
	Goodput  float64 // likewise, of those whose first token came within ten seconds
	Demanded float64 // tokens per second of answers that were asked for
	Took     time.Duration
	Events   int64

	retries, moves, left int
	tokens, good, asked  int64
}

func newResult(c Config) *Result { return &Result{Config: c} }

func (s *Result) measured(at float64) bool { return at >= s.Config.Warm && at < s.Config.Seconds }

func (s *Result) offer(_ *world, r *request) {
	if s.measured(r.at) {
		s.Offered++
		s.asked += int64(r.out)
	}
}

func (s *Result) shed(_ *world, r *request) {
	if s.measured(r.at) {
		s.Shed++
	}
}

func (s *Result) fail(_ *world, r *request) {
	if s.measured(r.at) {
		s.Failed++
	}
}

func (s *Result) serve(w *world, r *request, a *attempt) {
	first := a.firstAt - r.at
	if s.measured(w.now) {
		s.tokens += int64(r.out)
		if first <= goodFirst {
			s.good += int64(r.out)
		}
	}
	cached := r.prompt - a.need
	x := &w.workers[a.worker]
	told := x.tells(cached)
	c := cost(a.choice.price, float64(r.prompt-told), float64(told), float64(r.out))
	if !s.measured(r.at) {
		return
	}
	x.revenue += c
	x.tokens += int64(r.out)
	x.served++
	total := w.now - r.at
	s.Samples = append(s.Samples, Sample{
		At: float32(r.at), First: float32(first), Total: float32(total), Cost: float32(c),
		J:  float32(c/r.reference + perSecond*(firstWeight*first+total-first)),
		In: r.prompt, Cached: cached, Out: r.out, Worker: a.worker, Sort: r.sort,
		FromSent: float32(a.firstAt - a.sentAt), Promised: Promise{
			First: float32(a.choice.first), Step: float32((a.choice.whole - a.choice.first) / max(a.choice.out, 1)),
			Cached: float32(a.choice.cached),
		},
	})
}

func (s *Result) finish(w *world, took time.Duration) {
	span := s.Config.Seconds - s.Config.Warm
	s.Tokens, s.Goodput, s.Demanded = float64(s.tokens)/span, float64(s.good)/span, float64(s.asked)/span
	s.Took, s.Events, s.Left = took, w.events, s.left
	for i := range w.workers {
		x := &w.workers[i]
		s.Shares = append(s.Shares, Share{x.class, x.revenue, x.tokens, x.served, x.won})
	}
}

// Summary is a result in a few numbers.
type Summary struct {
	First50, First95, First99 float64 // seconds
	Total50, Total99          float64
	Demanded, Tokens, Goodput float64 // per second
	Cost                      float64 // TON per thousand requests
	Hit                       float64 // part of the prompts' tokens that was cached
	J                         float64 // mean
	TotalMean                 float64
	Shed, Failed              float64 // part of the requests
	Retried, Moved            float64 // part of the requests: after a failure, for want of patience
	Jain                      float64 // of revenue, among workers of the same class; 1 is equal
	Starved                   float64 // part of the workers with less than a twentieth of their class's mean

	// How well ours predicts: the median of promised by measured for the first token and for a token's time, how far off half
	// of them are (as a factor), and tokens promised as cached by those that were.
	FirstBias, FirstOff, StepBias, StepOff, CachedBias float64
	Promised                                           float64 // part of the prompts' tokens that was promised as cached
}

// Summarize is the summary of a result; only samples that keep is true for count for times and cost, nil keeps all.
func (s *Result) Summarize(keep func(*Sample) bool) Summary {
	var first, total []float64
	var money, in, cached, j, sum float64
	for i := range s.Samples {
		x := &s.Samples[i]
		if keep != nil && !keep(x) {
			continue
		}
		first, total = append(first, float64(x.First)), append(total, float64(x.Total))
		money += float64(x.Cost)
		in += float64(x.In)
		cached += float64(x.Cached)
		j += float64(x.J)
		sum += float64(x.Total)
	}
	slices.Sort(first)
	slices.Sort(total)
	n := float64(max(len(first), 1))
	all := float64(max(s.Offered, 1))
	m := Summary{
		First50: Quantile(first, 0.5), First95: Quantile(first, 0.95), First99: Quantile(first, 0.99),
		Total50: Quantile(total, 0.5), Total99: Quantile(total, 0.99),
		Demanded: s.Demanded, Tokens: s.Tokens, Goodput: s.Goodput, Cost: money / n * 1000 / 1e9, Hit: cached / max(in, 1), J: j / n,
		TotalMean: sum / n, Shed: float64(s.Shed) / all, Failed: float64(s.Failed) / all,
		Retried: float64(s.retries) / all, Moved: float64(s.moves) / all,
	}
	m.Jain, m.Starved = s.fairness()
	s.predictions(&m)
	return m
}

func (s *Result) predictions(m *Summary) {
	var first, step []float64
	var promised, found, in float64
	for i := range s.Samples {
		x := &s.Samples[i]
		if x.Promised.Step <= 0 || x.Out < 20 {
			continue
		}
		first = append(first, math.Log(float64(x.Promised.First/x.FromSent)))
		step = append(step, math.Log(float64(x.Promised.Step*float32(x.Out-1)/(x.Total-x.First))))
		in += float64(x.In)
		promised += float64(x.Promised.Cached)
		found += float64(x.Cached)
	}
	if len(first) == 0 {
		return
	}
	m.FirstBias, m.FirstOff = spread(first)
	m.StepBias, m.StepOff = spread(step)
	m.CachedBias, m.Promised = promised/max(found, 1), promised/in
}

// spread is the median of logarithms as a factor, and the factor that half of them are within of 1.
func spread(logs []float64) (bias, off float64) {
	slices.Sort(logs)
	bias = math.Exp(Quantile(logs, 0.5))
	for i, l := range logs {
		logs[i] = math.Abs(l)
	}
	slices.Sort(logs)
	return bias, math.Exp(Quantile(logs, 0.5))
}

// Quantile is a quantile of sorted numbers, NaN of none.
func Quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

// fairness compares workers of the same class.
func (s *Result) fairness() (jain, starved float64) {
	by := slices.Clone(s.Shares)
	slices.SortFunc(by, func(a, b Share) int { return cmp.Compare(a.Class, b.Class) })
	for i := 0; i < len(by); {
		k := i
		sum, squares := 0.0, 0.0
		for ; k < len(by) && by[k].Class == by[i].Class; k++ {
			sum += by[k].Revenue
			squares += by[k].Revenue * by[k].Revenue
		}
		n := float64(k - i)
		if squares > 0 {
			jain += sum * sum / squares
		}
		for _, x := range by[i:k] {
			if x.Revenue < sum/n/20 || sum == 0 {
				starved++
			}
		}
		i = k
	}
	return jain / float64(len(by)), starved / float64(len(by))
}

// Capacity is how many tokens of answers a second the market makes at most: the best of two policies that spread well and
// keep conversations together, over loads around what the engines could make with nothing to read.
func Capacity(c Config) (float64, error) {
	c.defaults()
	c.Liars, c.Script, c.Sort, c.Mixed, c.Steady, c.Gateways = nil, nil, router.Balanced, false, true, 1
	c.Seconds, c.Warm = 300, 150
	guess := 0.0
	w := world{cfg: c}
	w.populate()
	for i := range w.engines {
		e := &w.engines[i]
		n := float64(e.slots)
		guess += n * e.speed / (stepBase + n*perRequest + n*promptGuess*perContext)
	}
	best := 0.0
	for _, name := range []string{LMetricRate, LLMD} {
		for _, part := range []float64{0.6, 0.75, 0.9} {
			c.Policy, c.Load = name, LoadAt(c.Seed, guess, part)
			r, err := Run(c)
			if err != nil {
				return 0, err
			}
			best = max(best, r.Tokens)
		}
	}
	return best, nil
}

// promptGuess is about how long prompts are, tokens.
const promptGuess = 3000

// LoadAt is the sessions per second whose answers are a part of a capacity.
func LoadAt(seed uint64, capacity, part float64) float64 { return capacity * part / perSession(seed) }

// Mean is the mean of summaries, field by field.
func Mean(all []Summary) (m Summary) {
	n := float64(len(all))
	for i := range all {
		to := m.fields()
		for k, v := range all[i].fields() {
			*to[k] += *v / n
		}
	}
	return m
}

func (s *Summary) fields() []*float64 {
	return []*float64{
		&s.First50, &s.First95, &s.First99, &s.Total50, &s.Total99, &s.Demanded, &s.Tokens, &s.Goodput, &s.Cost, &s.Hit,
		&s.J, &s.TotalMean,
		&s.Shed, &s.Failed, &s.Retried, &s.Moved, &s.Jain, &s.Starved, &s.FirstBias,
		&s.FirstOff, &s.StepBias, &s.StepOff, &s.CachedBias, &s.Promised,
	}
}

// Regret is how much more a policy took than the oracle, as a part: of price and time in one, of time, of money.
type Regret struct{ J, Total, Cost float64 }

// Against compares runs with the oracle's of the same seeds.
func Against(all, oracle []Summary) (r Regret) {
	n := float64(len(all))
	for i := range all {
		r.J += (all[i].J/oracle[i].J - 1) / n
		r.Total += (all[i].TotalMean/oracle[i].TotalMean - 1) / n
		r.Cost += (all[i].Cost/oracle[i].Cost - 1) / n
	}
	return r
}
