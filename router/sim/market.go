package sim

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	"cocoon/internal/nanoton"
	"cocoon/router/offer"
	"cocoon/router/prefix"
)

// modelName is what all workers sell.
const modelName = "sim"

// class is a kind of GPU.
type class struct {
	share float64 // of the market
	speed float64
	slots int32
	kv    int32
}

// classes are the kinds of GPU on the market, from an old card at home to the newest in a data centre.
func classes() []class {
	return []class{
		{0.15, 0.3, 8, 24_000},
		{0.25, 0.7, 16, 60_000},
		{0.30, 1.0, 32, 160_000},
		{0.20, 1.8, 48, 300_000},
		{0.10, 3.0, 64, 600_000},
	}
}

// What a GPU of speed 1 asks, nanoTON per million tokens: about 0.1 TON to read, 0.4 TON to make.
const (
	priceIn  = 100_000_000
	priceOut = 400_000_000
	// cachedPart is the price of a cached token as a part of one that is read.
	cachedPart = 0.25
	// priceSlope is how prices grow with speed: a card twice as fast asks less than twice.
	priceSlope = 0.8
	// priceNoise is the spread of prices (of logarithms) among equal cards, speedNoise that of speeds.
	priceNoise = 0.25
	speedNoise = 0.08
)

// contextTokens is every worker's window.
const contextTokens = 32_768

// worker is one identity on the market; several may share an engine.
type worker struct {
	engine  int32
	class   int32
	region  int32
	machine string
	price   offer.Price
	dear    bool // a bait's price is up

	sheet    *offer.Sheet
	present  bool
	down     bool
	failFast bool
	draining bool
	lieLoad  bool
	lieRoom  bool
	bait     bool
	mute     bool // tells no cached tokens
	mumbles  bool // tells half of them

	revenue float64
	tokens  int64
	won     int64
	served  int64
}

func workerID(i int32) (id [32]byte) {
	x := prefix.Mix(uint64(i) + 0x5eed)
	for k := range 4 {
		x = prefix.Mix(x + uint64(k))
		binary.LittleEndian.PutUint64(id[8*k:], x)
	}
	return id
}

// priceAt is what a card asks that is noise times as dear as others of its speed.
func priceAt(speed, noise float64) offer.Price {
	f := math.Pow(speed, priceSlope) * noise
	in := nanoton.Amount(priceIn * f)
	return offer.Price{In: in, Cached: nanoton.Amount(float64(in) * cachedPart), Out: nanoton.Amount(priceOut * f)}
}

// times is a price that is f times as high.
func times(p offer.Price, f float64) offer.Price {
	return offer.Price{
		In: nanoton.Amount(float64(p.In) * f), Cached: nanoton.Amount(float64(p.Cached) * f), Out: nanoton.Amount(float64(p.Out) * f),
	}
}

// regions is in how many places workers and gateways are.
const regions = 3

// populate makes the market.
func (w *world) populate() {
	rng := rand.New(rand.NewPCG(w.cfg.Seed, 0x6d61726b6574))
	kinds := classes()
	for i := range int32(w.cfg.Workers) {
		c := pickClass(kinds, (float64(i)+rng.Float64())/float64(w.cfg.Workers))
		speedF, priceF := math.Exp(speedNoise*rng.NormFloat64()), math.Exp(priceNoise*rng.NormFloat64())
		if w.cfg.Equal {
			c, speedF, priceF = 2, 1, 1
		}
		k := kinds[c]
		e := engine{speed: k.speed * speedF, slowdown: 1, slots: k.slots, kv: k.kv, room: 2 * k.slots, cache: newLRU(), forgets: w.cfg.Uncached}
		w.engines = append(w.engines, e)
		w.workers = append(w.workers, worker{
			engine: i, class: c, region: int32(rng.IntN(regions)), price: priceAt(k.speed, priceF), present: true, mute: w.cfg.Mute,
		})
	}
	for _, l := range w.cfg.Liars {
		w.addLiar(l)
	}
	for g := range int32(w.cfg.Gateways) {
		for i := range w.workers {
			near := 0.002 + 0.015*rng.Float64()
			if w.workers[i].region != g%regions {
				near += 0.06 + 0.06*rng.Float64()
			}
			w.ways = append(w.ways, near/2)
		}
	}
	for i := range w.workers {
		w.renew(int32(i))
	}
}

func pickClass(kinds []class, x float64) int32 {
	for c, k := range kinds {
		if x -= k.share; x < 0 {
			return int32(c)
		}
	}
	return int32(len(kinds) - 1)
}

// addLiar turns a worker into a liar, or gives it more identities.
func (w *world) addLiar(l Liar) {
	x := &w.workers[l.Worker]
	switch l.Lie {
	case LieLoad:
		x.lieLoad = true
	case LieCapacity:
		x.lieRoom = true
	case LieFailFast:
		x.failFast = true
	case LieBait:
		x.bait = true
	case LieNoneButDear:
		x.dear = true
	case LieCached:
		x.mute = true
	case LieCachedHalf:
		x.mumbles = true
	case LieNoneButFull:
		x.price.Cached = x.price.In
	case LieIdentities:
		x.machine = fmt.Sprintf("chip-%d", l.Worker)
		for range l.Count - 1 {
			w.workers = append(w.workers, w.workers[l.Worker])
		}
	}
}

// baitFactor is how much more a bait asks once it has won.
const baitFactor = 5

// renew makes a worker's sheet anew.
func (w *world) renew(i int32) {
	x := &w.workers[i]
	e := &w.engines[x.engine]
	o := offer.Offer{
		Model: modelName, Engine: "sim 1", ContextTokens: contextTokens, Features: []string{offer.FeatureChat},
		Price: x.price, Slots: int(e.slots), Capacity: int(e.room),
	}
	if x.dear {
		o.Price = times(x.price, baitFactor)
	}
	if x.lieRoom {
		o.Slots, o.Capacity = offer.CapacityMax, offer.CapacityMax
	}
	s := &offer.Sheet{
		V: offer.Version, Version: 1, Name: fmt.Sprintf("w%d", i), Draining: x.draining, Offers: []offer.Offer{o},
	}
	if x.sheet != nil {
		s.Version = x.sheet.Version + 1
	}
	s.Load = w.loadOf(x)
	x.sheet = s
}

func (w *world) loadOf(x *worker) offer.Load {
	if x.lieLoad {
		return offer.Load{}
	}
	e := &w.engines[x.engine]
	return offer.Load{Running: len(e.run), Queued: int(e.waiting)}
}

// report gives the worker a sheet that differs in its load only; false: nothing changed.
func (w *world) report(i int32) bool {
	x := &w.workers[i]
	l := w.loadOf(x)
	if l == x.sheet.Load {
		return false
	}
	s := *x.sheet
	s.Load = l
	s.Version++
	x.sheet = &s
	return true
}

// tells is how many cached tokens of a prompt the worker says that there were.
func (x *worker) tells(cached int32) int32 {
	switch {
	case x.mute:
		return 0
	case x.mumbles:
		return cached / 2
	}
	return cached
}

// cost is what a usage costs at a price, nanoTON: exact money is billing's business, this is for averages.
func cost(p offer.Price, fresh, cached, out float64) float64 {
	return (fresh*float64(p.In) + cached*float64(p.Cached) + out*float64(p.Out)) / 1e6
}
