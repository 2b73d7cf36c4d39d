package router

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"cocoon/router/offer"
)

const (
	// slowStart is the share of its capacity that a machine gets to begin with, and rampPerServed what each request
	// that it serves adds, while others have room.
	slowStart     = 0.1
	rampPerServed = 2
	// backOff is what remains of the learned capacity when a machine says that it is full.
	backOff = 0.9
	// fullFor is how long it counts that a worker said that it is full.
	fullFor = 30 * time.Second
	// reportSlack is how many requests of a worker's report may be ours beyond those that we know of, and an eighth of these.
	reportSlack = 1
	// silenceMin is how long a machine with streams may show no sign of life before picks avoid it, and silenceToll what
	// its score is multiplied by then.
	silenceMin  = 3 * time.Second
	silenceToll = 4
)

// machine is one confidential machine and what runs on it, whoever says to be it. It outlives its workers' sessions for
// a while, so that coming back does not mend a name.
type machine struct {
	// What every pick reads.
	inflight atomic.Int64 // leases of this table
	pending  atomic.Int64 // prompt tokens of leases without a first token
	others   atomic.Int64 // requests of others, as last reported
	ahead    atomic.Int64 // their prompt tokens that wait, in the mean
	soft     atomic.Int64 // what slow start allows
	silent   atomic.Bool
	used     atomic.Int64 // when it was last picked (time.Duration)
	heard    atomic.Int64 // when a stream last made progress
	streams  atomic.Int64 // leases with a first token

	mu       sync.Mutex // of served and capacity
	capacity int64      // the largest on offer
	served   int64

	// These are the table's, under its mu.
	speeds  map[string]*speed
	workers int // in the table
	left    time.Duration
}

// capacity is how many requests a machine takes for one model: what is offered, and less if it says so earlier.
type capacity struct {
	offered int64
	learned float64
	served  int64 // since the learned one grew
	full    time.Duration
}

func newMachine() *machine { return &machine{speeds: map[string]*speed{}} }

// offers sets the capacity on offer: of several workers the last one's, for it is one machine.
func (m *machine) offers(capacity int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = capacity
	m.publish()
}

// reported takes in what a worker says of its load. What this table sent there is not counted twice; less than that is
// not believed. A report is a moment old: what is a bit more than ours is ours, or else those who report nothing would
// look idler than others.
func (m *machine) reported(l offer.Load, prompt float64) {
	own := m.inflight.Load()
	others := max(int64(l.Running)+int64(l.Queued)-own-reportSlack-own/8, 0)
	m.others.Store(others)
	m.ahead.Store(int64(float64(min(int64(l.Queued), others)) * prompt))
}

// speed finds or makes what is known of a model on this machine. The caller holds the table's mu.
func (m *machine) speed(model string, priors uint64, number func() uint32) *speed {
	s := m.speeds[model]
	if s == nil {
		rate, step := unpack(priors)
		s = newSpeed(number(), rate, step)
		m.speeds[model] = s
	}
	return s
}

// publish shows picks what slow start allows. The caller holds mu.
func (m *machine) publish() {
	m.soft.Store(max(2, int64(slowStart*float64(m.capacity))+rampPerServed*m.served))
}

// ended counts what the machine serves.
func (m *machine) ended(o Outcome) {
	if o != Served {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.served++
	m.publish()
}

// ended learns from how a lease ended: the capacity that a model has grows by one for each round of requests that it serves,
// and shrinks when the worker says that it is full, which is forgotten after a while.
func (c *capacity) ended(now time.Duration, o Outcome, inflight int64) {
	switch o {
	case Served:
		if c.served++; c.learned < float64(c.offered) && float64(c.served) >= c.learned {
			c.learned, c.served = c.learned+1, 0
		}
	case WorkerBusy:
		c.learned = max(1, math.Floor(min(c.learned, float64(inflight))*backOff))
		c.served, c.full = 0, now
	}
}

// limit is the capacity to go by.
func (c *capacity) limit(now time.Duration) int64 {
	if now-c.full > fullFor {
		c.learned = math.Inf(1)
	}
	return int64(min(c.learned, float64(c.offered)))
}

// settle looks whether the machine is silent with streams on it.
func (m *machine) settle(now time.Duration) {
	m.silent.Store(m.streams.Load() > 0 && now-time.Duration(m.heard.Load()) > silenceMin)
}
