package daemon

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The heap may grow by an eighth of what lives in it before the next collection, but by 16 MiB at least: a process
// that holds little collects rarely, one that holds thousands of streams does not double its memory.
const (
	heapHeadroomMin = 16 << 20
	heapHeadroomDiv = 8
	gcPercentMax    = 800
	gcPacePeriod    = 250 * time.Millisecond
)

// PaceGC adapts the garbage collector's target to what lives, until ctx ends. The environment's GOGC has precedence.
func PaceGC(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}}
	tick := time.NewTicker(gcPacePeriod)
	defer tick.Stop()
	for set := 0; ; {
		metrics.Read(live)
		want := gcPercent(live[0].Value.Uint64() + live[1].Value.Uint64())
		if d := want - set; d > set/8 || -d > set/8 { // setting it stops the world for a moment
			debug.SetGCPercent(want)
			set = want
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// gcPercent is the GOGC that lets the heap grow from live bytes by the headroom.
func gcPercent(live uint64) int {
	live = max(live, 1)
	return int(min(max(heapHeadroomMin, live/heapHeadroomDiv)*100/live, gcPercentMax))
}
