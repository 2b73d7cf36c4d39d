// Package hist is a latency histogram of fixed size that many goroutines may fill at once.
package hist

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// perOctave is the number of buckets in each power of two: with 64 a bucket is at most 1.6 % wide, well below
// what two runs on a shared machine differ by.
const perOctave = 64

// buckets covers every non-negative int64: the linear part below perOctave and 57 octaves above it.
const buckets = perOctave * (64 - 6)

// Histogram counts durations. The zero value is empty and ready; it must not be copied once in use.
type Histogram struct {
	counts [buckets]atomic.Uint64
	n, sum atomic.Uint64
	max    atomic.Uint64
}

// Summary is a histogram in figures. Durations are in microseconds.
type Summary struct {
	N    uint64  `json:"n"`
	Mean float64 `json:"mean_us"`
	P50  float64 `json:"p50_us"`
	P90  float64 `json:"p90_us"`
	P99  float64 `json:"p99_us"`
	P999 float64 `json:"p999_us"`
	Max  float64 `json:"max_us"`
}

// Add counts one duration. A negative one, which only a clock that was set back can give, counts as zero.
func (h *Histogram) Add(d time.Duration) {
	v := uint64(max(d, 0))
	h.counts[bucket(v)].Add(1)
	h.n.Add(1)
	h.sum.Add(v)
	for {
		m := h.max.Load()
		if v <= m || h.max.CompareAndSwap(m, v) {
			return
		}
	}
}

// N is how many durations were counted.
func (h *Histogram) N() uint64 { return h.n.Load() }

// Quantile is the duration that a share q (0 to 1) of all counted ones don't exceed, to the width of a bucket.
func (h *Histogram) Quantile(q float64) time.Duration {
	target, seen := uint64(q*float64(h.n.Load())), uint64(0)
	for i := range h.counts {
		if seen += h.counts[i].Load(); seen > target {
			return time.Duration(min(middle(i), h.max.Load()))
		}
	}
	return time.Duration(h.max.Load())
}

// Summary is what the histogram holds now.
func (h *Histogram) Summary() Summary {
	n := h.n.Load()
	if n == 0 {
		return Summary{}
	}
	micros := func(q float64) float64 { return float64(h.Quantile(q)) / 1e3 }
	return Summary{
		N: n, Mean: float64(h.sum.Load()) / float64(n) / 1e3,
		P50: micros(.5), P90: micros(.9), P99: micros(.99), P999: micros(.999), Max: float64(h.max.Load()) / 1e3,
	}
}

// bucket is the index of v: below perOctave each value has its own, above it the top 7 bits decide.
func bucket(v uint64) int {
	if v < perOctave {
		return int(v)
	}
	shift := bits.Len64(v) - 7
	return (shift+1)*perOctave + int(v>>shift) - perOctave
}

// middle is the middle of bucket i.
func middle(i int) uint64 {
	if i < perOctave {
		return uint64(i)
	}
	shift := i/perOctave - 1
	return uint64(i%perOctave+perOctave)<<shift + uint64(1)<<shift/2
}
