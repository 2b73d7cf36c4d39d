package hist

import (
	"math"
	"sync"
	"testing"
	"time"
)

func TestBucketsAreNarrowAndInOrder(t *testing.T) {
	last := -1
	for v := uint64(0); v < 1<<40; v += 1 + v/150 {
		i := bucket(v)
		if i < last {
			t.Fatalf("bucket(%d) = %d, below the bucket of a smaller value, %d", v, i, last)
		}
		last = i
		if off := math.Abs(float64(middle(i)) - float64(v)); off > float64(v)*0.016 {
			t.Fatalf("middle(bucket(%d)) = %d, off by more than 1.6 %%", v, middle(i))
		}
	}
	if i := bucket(math.MaxInt64); i >= buckets {
		t.Fatalf("bucket of the largest duration is %d, there are %d", i, buckets)
	}
}

func TestSummary(t *testing.T) {
	var h Histogram
	var all sync.WaitGroup
	for part := range 4 {
		all.Go(func() {
			for i := part + 1; i <= 1000; i += 4 {
				h.Add(time.Duration(i) * time.Millisecond)
			}
		})
	}
	all.Wait()
	s := h.Summary()
	if s.N != 1000 || s.Max != 1e6 || s.Mean != 500_500 {
		t.Errorf("n %d, max %v, mean %v; want 1000, 1e6, 500500", s.N, s.Max, s.Mean)
	}
	for _, q := range []struct {
		name      string
		got, want float64
	}{
		{"p50", s.P50, 501e3}, {"p90", s.P90, 901e3}, {"p99", s.P99, 991e3}, {"p99.9", s.P999, 1000e3},
	} {
		if math.Abs(q.got-q.want) > q.want*0.016 {
			t.Errorf("%s = %v, want %v within 1.6 %%", q.name, q.got, q.want)
		}
	}
}

func TestEdges(t *testing.T) {
	var h Histogram
	if got := h.Summary(); got != (Summary{}) {
		t.Errorf("empty summary = %+v", got)
	}
	h.Add(-time.Second)
	if h.N() != 1 || h.Quantile(1) != 0 {
		t.Errorf("a negative duration: n %d, quantile %v; want 1 and 0", h.N(), h.Quantile(1))
	}
	h.Add(math.MaxInt64)
	if got := h.Quantile(1); got != math.MaxInt64 {
		t.Errorf("quantile(1) = %d, want the maximum", got)
	}
}
