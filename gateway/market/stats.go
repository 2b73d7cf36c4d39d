package market

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cocoon/internal/nanoton"
	"cocoon/router"
)

// Observation is what became of one request.
type Observation struct {
	// Model is the name that served it, or was to: one that some worker offered.
	Model string
	// Worker is who served it, or failed last; zeros if nobody was asked.
	Worker router.ID
	Result Result
	// Streamed tells that the answer was asked for as a stream. Only a stream's TTFT and speed count.
	Streamed bool
	// TTFT is from the request to the first content that the client was sent, 0 if there was none; Total to the end.
	TTFT, Total time.Duration
	// In, Cached and Out are tokens, of the receipt or of the usage that the engine reported; Cached is part of In.
	In, Cached, Out int64
	// Cost is what the customer pays, as far as it is known at the end.
	Cost nanoton.Amount
}

// Stats are the live statistics of all models. Its methods may be called concurrently: requests of different models share no
// lock, and those of one model share one for the time of some additions.
type Stats struct {
	models  atomic.Pointer[map[string]*model] // replaced whole
	mu      sync.Mutex                        // held by whoever replaces models
	workers atomic.Int64                      // records of workers in all models
}

// NewStats is empty statistics.
func NewStats() *Stats {
	s := new(Stats)
	s.models.Store(&map[string]*model{})
	return s
}

// Observe counts a request that ended. It allocates nothing but for the first request of a model, and of a worker in it.
func (s *Stats) Observe(now time.Duration, o *Observation) {
	m := s.model(now, o.Model)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.move(now)
	m.used.Store(int64(now))
	m.short.now().observe(o)
	if o.Result == Gone || o.Result == Refused || o.Worker == (router.ID{}) {
		return
	}
	w := m.worker(s, o.Worker)
	if o.Result != Served {
		return // Failed told of it
	}
	w.tallies.slot(m.medium.at).served++
	if w.speeds.slots == nil {
		return // the others
	}
	g := w.speeds.now()
	observeStream(o, &g.ttft, &g.tokenRate)
}

// Failed counts an attempt that a worker's fault ended, whether or not another worker made up for it.
func (s *Stats) Failed(now time.Duration, name string, worker router.ID) {
	m := s.model(now, name)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.move(now)
	m.worker(s, worker).tallies.slot(m.medium.at).failed++
}

// model finds a model's statistics, or begins them.
func (s *Stats) model(now time.Duration, name string) *model {
	if m := (*s.models.Load())[name]; m != nil {
		return m
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := *s.models.Load()
	if m := old[name]; m != nil {
		return m
	}
	next := make(map[string]*model, len(old)+1)
	var oldest *model
	for n, m := range old {
		next[n] = m
		if oldest == nil || m.used.Load() < oldest.used.Load() {
			oldest = m
		}
	}
	if len(next) >= ModelsMax {
		delete(next, oldest.name)
		oldest.end(s)
	}
	m := newModel(strings.Clone(name), now)
	next[m.name] = m
	s.models.Store(&next)
	return m
}

// slot is what happened in some time.
type slot struct {
	results                [results]uint32
	in, cached, out        int64
	cost                   nanoton.Amount
	ttft, total, tokenRate histogram
}

func (s *slot) observe(o *Observation) {
	s.results[min(o.Result, results-1)]++
	s.in += believed(o.In)
	s.cached += min(believed(o.Cached), believed(o.In))
	s.out += believed(o.Out)
	s.cost += min(max(o.Cost, 0), costMax)
	if o.Result == Served {
		s.total.duration(o.Total)
	}
	observeStream(o, &s.ttft, &s.tokenRate)
}

func believed(tokens int64) int64 { return min(max(tokens, 0), tokensMax) }

// observeStream counts how fast a stream was. That its client left early says nothing against the time of its first token.
func observeStream(o *Observation, ttft, rate *histogram) {
	if !o.Streamed || o.TTFT <= 0 {
		return
	}
	ttft.duration(o.TTFT)
	if after := believed(o.Out) - 1; o.Result == Served && after >= RateTokensMin && o.Total > o.TTFT {
		rate.speed(after, o.Total-o.TTFT)
	}
}

func (s *slot) add(o *slot) {
	for i := range o.results {
		s.results[i] += o.results[i]
	}
	s.in, s.cached, s.out, s.cost = s.in+o.in, s.cached+o.cached, s.out+o.out, s.cost+o.cost
	s.ttft.add(&o.ttft)
	s.total.add(&o.total)
	s.tokenRate.add(&o.tokenRate)
}

// model is one model's statistics. A request is counted in the running short slot only. When that is over it is added to
// the medium slot that it is part of, and so is that to the long one.
type model struct {
	name string
	used atomic.Int64 // now of the last request

	mu      sync.Mutex
	short   ring[slot]
	medium  ring[slot]
	long    ring[slot]
	workers map[router.ID]*worker
	others  worker
	swept   int64 // the medium slot in which workers that serve nothing were forgotten last
	ended   bool  // the model was forgotten: its workers don't count any more
}

// What each window has: its slots, and the one that runs.
const (
	shortSlots  = int(Short/shortSlot) + 1
	mediumSlots = int(Medium/mediumSlot) + 1
	longSlots   = int(Long/longSlot) + 1
	speedSlots  = int(Medium/speedSlot) + 1

	shortPerMedium = int64(mediumSlot / shortSlot)
	mediumPerLong  = int64(longSlot / mediumSlot)
	mediumPerSpeed = int64(speedSlot / mediumSlot)
)

func newModel(name string, now time.Duration) *model {
	at := int64(max(now, 0) / shortSlot)
	m := &model{
		name: name, short: newRing[slot](shortSlots, at), medium: newRing[slot](mediumSlots, at/shortPerMedium),
		long: newRing[slot](longSlots, at/shortPerMedium/mediumPerLong), workers: map[router.ID]*worker{},
	}
	m.others.tallies = newRing[tally](mediumSlots, m.medium.at)
	m.used.Store(int64(now))
	return m
}

// move goes on in time. The caller holds mu.
func (m *model) move(now time.Duration) {
	at := int64(now / shortSlot)
	if at <= m.short.at {
		return
	}
	m.medium.now().add(m.short.now())
	if medium := at / shortPerMedium; medium > m.medium.at {
		m.long.now().add(m.medium.now())
		m.long.move(medium / mediumPerLong)
		m.medium.move(medium)
		m.others.move(medium)
		for _, w := range m.workers {
			w.move(medium)
		}
	}
	m.short.move(at)
}

// worker is what one worker does in one model.
type worker struct {
	tallies ring[tally] // by medium slots
	speeds  ring[speed] // nil of the others
}

type tally struct{ served, failed uint32 }

type speed struct{ ttft, tokenRate histogram }

func (w *worker) move(medium int64) {
	w.tallies.move(medium)
	if w.speeds.slots != nil {
		w.speeds.move(medium / mediumPerSpeed)
	}
}

// sum is what it did within the window.
func (w *worker) sum() (t tally) {
	for _, s := range w.tallies.slots {
		t.served += s.served
		t.failed += s.failed
	}
	return t
}

// worker finds a worker's part, or begins it: the others' if there is no room. The caller holds mu.
func (m *model) worker(s *Stats, id router.ID) *worker {
	if w := m.workers[id]; w != nil {
		return w
	}
	if m.swept < m.medium.at { // once a slot
		m.sweep(s)
	}
	if m.ended || len(m.workers) >= WorkersMax {
		return &m.others
	}
	if s.workers.Add(1) > WorkersAll {
		s.workers.Add(-1)
		return &m.others
	}
	w := &worker{
		tallies: newRing[tally](mediumSlots, m.medium.at), speeds: newRing[speed](speedSlots, m.medium.at/mediumPerSpeed),
	}
	m.workers[id] = w
	return w
}

// sweep forgets workers that did nothing within the window. The caller holds mu.
func (m *model) sweep(s *Stats) {
	m.swept = m.medium.at
	for id, w := range m.workers {
		if w.sum() == (tally{}) {
			delete(m.workers, id)
			s.workers.Add(-1)
		}
	}
}

// end gives back what the model counted of the workers.
func (m *model) end(s *Stats) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	s.workers.Add(-int64(len(m.workers)))
	clear(m.workers)
}

// Window is what happened to a model's requests in a window. Tokens and cost count however a request ended.
type Window struct {
	Served, Busy, Fault, Gone, Refused int64
	In, Cached, Out                    int64
	Cost                               nanoton.Amount
	// TTFT and Total are in seconds: of streams to their first token, and of served requests to their end. Rate is tokens a
	// second of one stream, after its first token.
	TTFT, Total, Rate Spread
}

// Requests is how many say something about the market: all but those that their clients left, or got wrong.
func (w *Window) Requests() int64 { return w.Served + w.Busy + w.Fault }

// Success is the part of the requests that was served: 0 to 1, and 0 without any.
func (w *Window) Success() float64 { return part(w.Served, w.Requests()) }

func part(n, of int64) float64 {
	if of <= 0 {
		return 0
	}
	return float64(n) / float64(of)
}

// Worker is one worker's part of a model over Medium.
type Worker struct {
	ID     router.ID
	Served int64 // requests
	Failed int64 // attempts that its faults ended
	// Share is its part of the requests served, 0 to 1.
	Share float64
	// TTFT is in seconds, Rate in tokens a second of one stream; both go back up to 45 minutes.
	TTFT, Rate Spread
}

// Uptime is the part of its attempts that did not fail, 0 to 1; known is false without any.
func (w *Worker) Uptime() (up float64, known bool) {
	n := w.Served + w.Failed
	return part(w.Served, n), n > 0
}

// Model is what is known of one model.
type Model struct {
	Name                string
	Short, Medium, Long Window
	// Workers did something within Medium, those that served most first. Others is what workers beyond WorkersMax served, and
	// such as are forgotten.
	Workers []Worker
	Others  int64
}

// Model is a snapshot of one model; false if it is not known.
func (s *Stats) Model(now time.Duration, name string) (Model, bool) {
	m := (*s.models.Load())[name]
	if m == nil {
		return Model{}, false
	}
	return m.snapshot(now), true
}

// Models is a snapshot of all, by name. It takes some 20 us for each.
func (s *Stats) Models(now time.Duration) []Model {
	models := *s.models.Load()
	list := make([]Model, 0, len(models))
	for _, m := range models {
		list = append(list, m.snapshot(now))
	}
	slices.SortFunc(list, func(a, b Model) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func (m *model) snapshot(now time.Duration) Model {
	v := Model{Name: m.name}
	workers := m.sums(now, &v)
	v.Others = v.Medium.Served
	for i, w := range workers {
		v.Workers[i].Share = part(v.Workers[i].Served, v.Medium.Served)
		v.Workers[i].TTFT, v.Workers[i].Rate = m.speeds(w)
		v.Others -= v.Workers[i].Served
	}
	slices.SortFunc(v.Workers, func(a, b Worker) int {
		return cmp.Or(cmp.Compare(b.Served, a.Served), slices.Compare(a.ID[:], b.ID[:]))
	})
	return v
}

// sums adds up all that must be of one moment, and returns the workers.
func (m *model) sums(now time.Duration, v *Model) (workers []*worker) {
	var short, medium, long slot
	m.mu.Lock()
	m.move(now)
	for i := range m.short.slots {
		short.add(&m.short.slots[i])
	}
	for i := range m.medium.slots {
		medium.add(&m.medium.slots[i])
	}
	for i := range m.long.slots {
		long.add(&m.long.slots[i])
	}
	long.add(m.medium.now())
	medium.add(m.short.now())
	long.add(m.short.now())
	v.Workers = make([]Worker, 0, len(m.workers))
	for id, w := range m.workers {
		if t := w.sum(); t != (tally{}) {
			v.Workers = append(v.Workers, Worker{ID: id, Served: int64(t.served), Failed: int64(t.failed)})
			workers = append(workers, w)
		}
	}
	m.mu.Unlock()
	v.Short, v.Medium, v.Long = short.window(), medium.window(), long.window()
	return workers
}

// speeds reads off how fast a worker was. It takes the lock for each worker anew, so that no request waits for long.
func (m *model) speeds(w *worker) (ttft, rate Spread) {
	var s speed
	m.mu.Lock()
	for i := range w.speeds.slots {
		s.ttft.add(&w.speeds.slots[i].ttft)
		s.tokenRate.add(&w.speeds.slots[i].tokenRate)
	}
	m.mu.Unlock()
	return s.ttft.seconds(), s.tokenRate.speeds()
}

// window reads a slot off.
func (s *slot) window() Window {
	return Window{
		Served: int64(s.results[Served]), Busy: int64(s.results[Busy]), Fault: int64(s.results[Fault]),
		Gone: int64(s.results[Gone]), Refused: int64(s.results[Refused]),
		In: s.in, Cached: s.cached, Out: s.out, Cost: s.cost,
		TTFT: s.ttft.seconds(), Total: s.total.seconds(), Rate: s.tokenRate.speeds(),
	}
}
