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
	limit    atomic.Int64 // the capacity that was learned: at most what is offered
	soft     atomic.Int64 // what slow start allows
	silent   atomic.Bool
	used     atomic.Int64 // when it was last picked (time.Duration)
	heard    atomic.Int64 // when a stream last made progress
	streams  atomic.Int64 // leases with a first token

	mu       sync.Mutex // of what follows
	speeds   map[string]*speed
	capacity int64   // offered
	learned  float64 // capacity
	served   int64
	since    int64 // served since the learned capacity grew
	workers  int   // in the table
	left     time.Duration
}

func newMachine() *machine { return &machine{speeds: map[string]*speed{}, learned: math.Inf(1)} }

// offers sets the capacity on offer: of several workers the last one's, for it is one machine.
func (m *machine) offers(capacity int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = capacity
	m.publish()
}

// reported takes in what a worker says of its load. What this table sent there is not counted twice; less than that is
// not believed.
func (m *machine) reported(l offer.Load, prompt float64) {
	others := max(int64(l.Running)+int64(l.Queued)-m.inflight.Load(), 0)
	m.others.Store(others)
	m.ahead.Store(int64(float64(min(int64(l.Queued), others)) * prompt))
}

// speed finds or makes what is known of a model on this machine. The caller holds the table's mu.
func (m *machine) speed(model string, priors uint64, number func() uint32) *speed {
	s := m.speeds[model]
	if s == nil {
		rate, step := unpack(priors)
		s = newSpeed(model, number(), rate, step)
		m.speeds[model] = s
	}
	return s
}

// publish shows picks the limits. The caller holds mu.
func (m *machine) publish() {
	m.limit.Store(int64(min(m.learned, float64(m.capacity))))
	m.soft.Store(max(2, int64(slowStart*float64(m.capacity))+rampPerServed*m.served))
}

// ended learns from how a lease ended: the capacity that a machine has grows by one for each round of requests that it
// serves near it, and shrinks when it says that it is full.
func (m *machine) ended(o Outcome, inflight int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch o {
	case Served:
		m.served++
		if m.since++; m.learned < float64(m.capacity) && float64(m.since) >= m.learned {
			m.learned, m.since = m.learned+1, 0
		}
	case WorkerBusy:
		m.learned = max(1, math.Floor(min(m.learned, float64(inflight))*backOff))
		m.since = 0
	default:
		return
	}
	m.publish()
}

// settle looks whether the machine is silent with streams on it.
func (m *machine) settle(now time.Duration) {
	m.silent.Store(m.streams.Load() > 0 && now-time.Duration(m.heard.Load()) > silenceMin)
}
