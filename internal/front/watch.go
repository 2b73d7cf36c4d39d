package front

import (
	"errors"
	"os"
	"sync"
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
//
// There is one timer for all requests of a watch, and it runs only while some are young.
type watch struct {
	mu         sync.Mutex
	young, old []*exchange // queued since the last tick, and before it; those that are over are among them
	ticking    bool
	timer      *time.Timer
}

func (w *watch) init() {
	w.timer = time.AfterFunc(time.Hour, w.tick)
	w.timer.Stop()
}

// begin is called when a request's body was read.
func (w *watch) begin(x *exchange) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x.watched = queued
	w.young = append(w.young, x)
	if !w.ticking {
		w.ticking = true
		w.timer.Reset(watchAfter)
	}
}

func (w *watch) tick() {
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
	if w.ticking = len(w.old) > 0; w.ticking {
		w.timer.Reset(watchAfter)
	}
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
		x.cancel()
	}
}
