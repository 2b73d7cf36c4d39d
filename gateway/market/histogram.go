package market

import (
	"math"
	"math/bits"
	"time"
)

// Buckets grow by 2^(1/4), and each stands for its middle: a percentile is off by 9.1 % at most (2^(1/8)), within the range.
const (
	perOctave = 4
	octaves   = 22
	// lowBits is where the range begins: at 2^20.
	lowBits = 20
	// buckets are those of the range, one below and one above it.
	buckets = perOctave*octaves + 2
	// Durations are counted in nanoseconds: from 1.05 ms to 73 minutes. Speeds are in 2^-24 of a token a second: from 1/16 to
	// 262,144 tokens a second.
	speedUnit = 1 << 24
)

// Marks of the quarters of an octave: 2^63 times 2^(1/4), 2^(1/2), 2^(3/4).
const (
	quarter1 = 0x9837f0518db8a970
	quarter2 = 0xb504f333f9de6485
	quarter3 = 0xd744fccad69d6af5
)

// histogram counts values by the logarithm of their size.
type histogram [buckets]uint32

// bucketOf is where a value is counted.
func bucketOf(v uint64) int {
	octave := bits.Len64(v) - 1 - lowBits
	switch {
	case octave < 0:
		return 0
	case octave >= octaves:
		return buckets - 1
	}
	b := 1 + perOctave*octave
	switch m := v << bits.LeadingZeros64(v); {
	case m >= quarter3:
		return b + 3
	case m >= quarter2:
		return b + 2
	case m >= quarter1:
		return b + 1
	}
	return b
}

// valueOf is what a bucket stands for; what is out of the range stands for its nearer end.
func valueOf(bucket int) float64 {
	middle := float64(bucket-1) + .5
	switch bucket {
	case 0:
		middle = 0
	case buckets - 1:
		middle = perOctave * octaves
	}
	return math.Exp2(lowBits + middle/perOctave)
}

func (h *histogram) duration(d time.Duration) { h[bucketOf(uint64(max(d, 0)))]++ }

// speed counts tokens made in some time, above zero.
func (h *histogram) speed(tokens int64, d time.Duration) {
	v := float64(tokens) / d.Seconds() * speedUnit
	h[bucketOf(uint64(min(v, 1<<62)))]++
}

func (h *histogram) add(o *histogram) {
	for i := range o {
		h[i] += o[i]
	}
}

// Spread is how values are spread: how many there are, and percentiles of them, each the smallest that so many percent don't
// exceed. It is off by 9.1 % at most, between 1.05 ms and 73 minutes, and between 1/16 and 262,144 tokens a second. All is zero if
// there are none.
type Spread struct {
	N                       int64
	P50, P75, P90, P95, P99 float64
}

// spread reads a histogram off, in units of so many of its own.
func (h *histogram) spread(unit float64) Spread {
	var s Spread
	for _, n := range h {
		s.N += int64(n)
	}
	if s.N == 0 {
		return s
	}
	marks := [...]struct {
		percent int64
		to      *float64
	}{{50, &s.P50}, {75, &s.P75}, {90, &s.P90}, {95, &s.P95}, {99, &s.P99}}
	next, seen := 0, int64(0)
	for i, n := range h {
		seen += int64(n)
		for next < len(marks) && seen >= (s.N*marks[next].percent+99)/100 {
			*marks[next].to = valueOf(i) / unit
			next++
		}
	}
	return s
}

// seconds and speeds read off histograms of durations and of speeds.
func (h *histogram) seconds() Spread { return h.spread(1e9) }
func (h *histogram) speeds() Spread  { return h.spread(speedUnit) }
