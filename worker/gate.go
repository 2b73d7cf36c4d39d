package worker

import (
	"container/list"
	"context"
	"errors"
	"sync"
)

// errFull means that all slots are taken and the queue is full, or that the worker drains.
var errFull = errors.New("worker is full")

// gate lets so many requests through to the engine as it has slots; so many more may wait, first come first served.
type gate struct {
	changed func() // called, without the lock, whenever load may have changed

	mu      sync.Mutex
	slots   int
	queue   int
	shut    bool // nobody else gets in
	running int
	waiting list.List // of chan struct{}, closed when its owner may run
}

// enter waits for a slot. The error is errFull at once, or the context's.
func (g *gate) enter(ctx context.Context) error {
	g.mu.Lock()
	if g.shut {
		g.mu.Unlock()
		return errFull
	}
	if g.running < g.slots && g.waiting.Len() == 0 {
		g.running++
		g.mu.Unlock()
		g.changed()
		return nil
	}
	if g.waiting.Len() >= g.queue {
		g.mu.Unlock()
		return errFull
	}
	ready := make(chan struct{})
	place := g.waiting.PushBack(ready)
	g.mu.Unlock()
	g.changed()
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	select {
	case <-ready: // both at once: the slot goes to the next
		g.running--
	default:
		g.waiting.Remove(place)
	}
	g.admit()
	g.mu.Unlock()
	g.changed()
	return ctx.Err()
}

// leave gives the slot back.
func (g *gate) leave() {
	g.mu.Lock()
	g.running--
	g.admit()
	g.mu.Unlock()
	g.changed()
}

// resize sets the limits. Requests that run or wait beyond them stay.
func (g *gate) resize(slots, queue int) {
	g.mu.Lock()
	g.slots, g.queue = slots, queue
	g.admit()
	g.mu.Unlock()
	g.changed()
}

// shutOut refuses whoever comes from now on, or lets them in again. Requests that run or wait go on.
func (g *gate) shutOut(all bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = all
}

// admit lets those in that waited longest. The lock is held.
func (g *gate) admit() {
	for g.running < g.slots && g.waiting.Len() > 0 {
		g.running++
		close(g.waiting.Remove(g.waiting.Front()).(chan struct{}))
	}
}

func (g *gate) load() (running, waiting int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running, g.waiting.Len()
}

// capacity is how many requests may be here at once.
func (g *gate) capacity() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.slots + g.queue
}
