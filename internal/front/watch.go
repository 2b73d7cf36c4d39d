package front

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// watchAfter is how old a request is when its client begins to be watched: older than it, and younger than twice that.
// Most requests that engines don't work on are over by then; of the others the client's leaving is known in time.
const watchAfter = 25 * time.Millisecond

// watches share out the connections, so that no lock is everybody's.
const watches = 16

type watchState uint8

const (
	unwatched watchState = iota
	queued               // its body was read
	watching             // a goroutine reads beside the handler
)

// watch notices that clients go away while they wait: their requests' contexts end. It reads from connections whose
// requests take long, in a goroutine each; what it reads is one byte of the next request, or the end.
type watch struct {
	mu         sync.Mutex
	young, old []*exchange // queued since the last tick, and before it; those that are over are among them
}

// pulse is the one timer of all watches: each tick wakes a processor. It runs only while some request is young.
type pulse struct {
	watches [watches]watch
	ticking atomic.Bool
	timer   *time.Timer
}

func (p *pulse) init() {
	p.timer = time.AfterFunc(time.Hour, p.tick)
	p.timer.Stop()
}

// start makes it tick.
func (p *pulse) start() {
	if !p.ticking.Load() && p.ticking.CompareAndSwap(false, true) {
		p.timer.Reset(watchAfter)
	}
}

func (p *pulse) tick() {
	more := false
	for i := range p.watches {
		more = p.watches[i].tick() || more
	}
	if more {
		p.timer.Reset(watchAfter)
		return
	}
	p.ticking.Store(false)
	for i := range p.watches { // who came meanwhile may have seen it tick
		if p.watches[i].waits() {
			p.start()
		}
	}
}

// begin is called when a request's body was read. The pulse is to be started after it.
func (w *watch) begin(x *exchange) {
	w.mu.Lock()
	x.watched = queued
	w.young = append(w.young, x)
	w.mu.Unlock()
}

// waits tells whether there is something for the next tick.
func (w *watch) waits() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.young)+len(w.old) > 0
}

// tick watches those that are old; true if it is to come again.
func (w *watch) tick() (more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range w.old {
		if x.watched == queued {
			x.watched, x.seen = watching, make(chan struct{})
			_ = x.c.net.SetReadDeadline(time.Time{}) // fails only on a dead connection, which look notices
			go x.look()
		}
	}
	clear(w.old)
	w.old, w.young = w.young, w.old[:0]
	return len(w.old) > 0
}

// end ends the watch of a request; true if there was one.
func (w *watch) end(x *exchange) bool {
	w.mu.Lock()
	was := x.watched
	x.watched = unwatched
	w.mu.Unlock()
	if was != watching {
		return false
	}
	_ = x.c.net.SetReadDeadline(time.Unix(1, 0)) // wakes look; fails only on a dead connection
	<-x.seen
	_ = x.c.net.SetReadDeadline(time.Time{})
	x.c.armed = time.Time{}
	return true
}

// look waits for the client to say something, or to leave.
func (x *exchange) look() {
	defer close(x.seen)
	n, err := x.c.net.Read(x.first[:])
	x.early = n == 1
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		x.life.end()
	}
}
