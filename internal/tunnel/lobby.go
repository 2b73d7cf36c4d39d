package tunnel

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"
)

// lobby bounds the connections that have not said who they are. When it is full a newcomer waits, and may push out
// the one that has been there longest, but only after a time in which an honest one is through: so silent connections
// can't lock workers out, and a rush of honest ones after a restart is served in order, not pushed out half-way.
type lobby struct {
	places chan struct{}
	mu     sync.Mutex
	guests []*guest // oldest first
}

type guest struct {
	conn  net.Conn
	since time.Time
}

func newLobby(n int) *lobby { return &lobby{places: make(chan struct{}, n)} }

// enter waits for a place. leave gives it back, and may be called more than once. ok is false if ctx ended.
func (l *lobby) enter(ctx context.Context, c net.Conn, patience time.Duration) (leave func(), ok bool) {
	for {
		select {
		case l.places <- struct{}{}:
			return l.admit(c), true
		default:
		}
		timer := time.NewTimer(l.pushOut(patience))
		select {
		case l.places <- struct{}{}:
			timer.Stop()
			return l.admit(c), true
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, false
		}
	}
}

func (l *lobby) admit(c net.Conn) (leave func()) {
	g := &guest{conn: c, since: time.Now()}
	l.mu.Lock()
	l.guests = append(l.guests, g)
	l.mu.Unlock()
	return sync.OnceFunc(func() {
		l.remove(g)
		<-l.places
	})
}

func (l *lobby) remove(g *guest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.guests, g); i >= 0 {
		l.guests = slices.Delete(l.guests, i, i+1)
	}
}

// pushOut closes the oldest guest's connection if its time is up, which makes it leave; else it returns how long its
// time still is.
func (l *lobby) pushOut(patience time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.guests) == 0 {
		return patience
	}
	g := l.guests[0]
	if left := patience - time.Since(g.since); left > 0 {
		return left
	}
	l.guests = slices.Delete(l.guests, 0, 1)
	_ = g.conn.Close() // it said nothing in its time
	return patience
}
