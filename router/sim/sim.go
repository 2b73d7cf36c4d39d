// Package sim is a market in a simulator: GPUs of all kinds, clients with conversations, gateways with the real
// router.Table, failures and liars, in discrete events. It is for tests and measurements only.
package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"cocoon/router"
	"cocoon/router/offer"
)

// Lie is a way to cheat.
type Lie uint8

// The lies. The worker does not run a request worse than others; it wants more of them, or more for them.
const (
	LieLoad       Lie = iota // reports no load
	LieCapacity              // claims to take any number of requests
	LieFailFast              // answers everything with an error at once
	LieBait                  // asks five times its price as soon as it has won, for two seconds
	LieIdentities            // is Count workers on one machine
	// LieNoneButDear is none: always five times the price, to compare LieBait with.
	LieNoneButDear
	LieCached     // never tells what it has cached: that is billed as if it had been read
	LieCachedHalf // tells half of it
	// LieNoneButFull is none: it asks as much for cached tokens as for others, to compare LieCached with.
	LieNoneButFull
)

// Liar is a worker that cheats from the start.
type Liar struct {
	Worker int32
	Lie    Lie
	Count  int32 // identities
}

// Act is what happens to a worker.
type Act uint8

// The acts.
const (
	ActFail     Act = iota // connections break, new ones too
	ActFailFast            // every request is an error at once
	ActHang                // nothing comes any more
	ActSlow                // Factor times slower
	ActBack                // as before it failed, with an empty cache
	ActJoin                // is there from now on only
	ActDrain               // finishes what runs, takes nothing new
	ActAsk                 // Factor times the price
)

// Step is an entry of a script.
type Step struct {
	At     float64 // seconds
	Act    Act
	Worker int32
	Factor float64
}

// Config is a market and its hour.
type Config struct {
	Seed     uint64
	Policy   string  // see Policies
	Workers  int     // default 16
	Gateways int     // default 1
	Spread   bool    // each request comes to a gateway by chance; else a tenant's all come to one
	Load     float64 // sessions per second
	Steady   bool    // no bursts
	Seconds  float64 // of arrivals; default 400
	Warm     float64 // of them before anything is measured: conversations take their time; default 180, at most half
	Sort     router.Sort
	Mixed    bool // a fifth of the requests is :floor, a fifth :nitro
	Equal    bool // all GPUs and prices are the same
	Mute     bool // no engine tells what it has cached: all of a prompt is billed in full
	Uncached bool // no engine keeps prompts
	Liars    []Liar
	Script   []Step
	Weights  router.Weights
}

// drainTime is how long a run goes on after the last arrival, seconds.
const drainTime = 120

// world is a run.
type world struct {
	cfg      Config
	now      float64
	q        queue
	engines  []engine
	workers  []worker
	ways     []float64 // half a round trip, by gateway and worker
	gateways []gateway
	sessions slab[session]
	requests slab[request]
	attempts slab[attempt]
	arrivals *rand.Rand
	phase    float64 // of the bursts
	median   offer.Price

	engineTokens int64
	events       int64
	res          *Result
}

func (c *Config) defaults() {
	if c.Workers == 0 {
		c.Workers = 16
	}
	if c.Gateways == 0 {
		c.Gateways = 1
	}
	if c.Seconds == 0 {
		c.Seconds = 400
	}
	if c.Warm == 0 {
		c.Warm = min(180, c.Seconds/2)
	}
	switch c.Policy {
	case "":
		c.Policy = Ours
	case OursFloor:
		c.Sort = router.Price
	case OursNitro:
		c.Sort = router.Throughput
	}
}

// Run simulates. The same configuration gives the same result.
func Run(c Config) (*Result, error) {
	c.defaults()
	w, err := newWorld(c)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	w.loop()
	w.res.finish(w, time.Since(start))
	return w.res, nil
}

// newWorld is the market before its first event.
func newWorld(c Config) (*world, error) {
	w := &world{cfg: c, arrivals: rand.New(rand.NewPCG(c.Seed, 0x61727269766573)), res: newResult(c)}
	w.populate()
	w.phase = w.arrivals.Float64() * (burstOn + burstOff)
	w.median = w.medianPrice()
	for _, s := range c.Script {
		if s.Act == ActJoin {
			w.workers[s.Worker].present = false
		}
	}
	for range c.Gateways {
		p, err := newPolicy(w, len(w.gateways))
		if err != nil {
			return nil, err
		}
		w.gateways = append(w.gateways, gateway{policy: p, budget: retryMost})
		for i := range w.workers {
			if w.workers[i].present {
				p.update(w, int32(i))
			}
		}
		p.tend(w)
	}
	for i, s := range c.Script {
		w.q.push(s.At, evScript, int32(i), 0)
	}
	w.q.push(0, evTick, 0, 0)
	w.q.push(0, evSession, 0, 0)
	return w, nil
}

func (w *world) medianPrice() offer.Price {
	var in, out []int64
	for i := range w.workers {
		in = append(in, int64(w.workers[i].price.In))
		out = append(out, int64(w.workers[i].price.Out))
	}
	slices.Sort(in)
	slices.Sort(out)
	p := w.workers[0].price
	p.In, p.Out = p.In*0+amount(in[len(in)/2]), amount(out[len(out)/2])
	return p
}

// loop runs until nothing happens any more, or drainTime after the last arrival.
func (w *world) loop() { w.until(w.cfg.Seconds + drainTime) }

func (w *world) until(end float64) {
	for len(w.q.heap) > 0 {
		e := w.q.pop()
		if e.at > end {
			return
		}
		w.now = max(w.now, e.at)
		w.events++
		switch e.kind {
		case evSession:
			w.arrive()
		case evTurn:
			w.turn(e.who)
		case evAgain:
			w.start(e.who)
		case evArrive:
			w.reach(e.who)
		case evStep:
			if w.engines[e.who].gen == e.gen {
				w.finish(e.who)
			}
		case evFirst:
			w.first(e.who)
		case evDone:
			w.served(e.who)
		case evError:
			w.broke(e.who)
		case evProgress:
			w.progress(e.who)
		case evPatience:
			w.impatient(e.who)
		case evCancel:
			w.cancel(e.who)
		case evTick:
			w.tick()
		case evScript:
			w.act(w.cfg.Script[e.who])
		case evPrice:
			w.workers[e.who].dear = false
			w.publish(e.who)
		}
	}
}

func (w *world) act(s Step) {
	x := &w.workers[s.Worker]
	e := &w.engines[x.engine]
	switch s.Act {
	case ActFail:
		x.down = true
		w.crash(x.engine, true)
	case ActFailFast:
		x.failFast = true
		w.crash(x.engine, true)
	case ActHang:
		w.hang(x.engine)
	case ActSlow:
		w.cut(x.engine)
		e.slowdown = s.Factor
	case ActBack:
		w.crash(x.engine, e.hung)
		x.down, x.failFast, e.hung, e.slowdown = false, false, false, 1
		w.publish(s.Worker)
	case ActJoin:
		x.present = true
		w.publish(s.Worker)
	case ActDrain:
		x.draining = true
		w.publish(s.Worker)
	case ActAsk:
		x.price = times(x.price, s.Factor)
		w.publish(s.Worker)
	default:
		panic(fmt.Sprintf("act %d", s.Act))
	}
}
