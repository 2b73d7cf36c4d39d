//go:build linux

package load

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// stuckMax is how long an open loop waits for a free connection before it gives up.
const stuckMax = 10 * time.Second

var (
	errNoConn   = errors.New("no free connection: the peer stopped answering")
	errNoAnswer = errors.New("no answer by the end")
)

// openConn is one connection of an open loop. The dispatcher writes requests, a goroutine of its own always reads:
// were it woken for each request, its own waking would be in the figures.
type openConn struct {
	mu      sync.Mutex // holds off a replacement of the connection while a request is sent
	k       *conn
	due     time.Time // of the request under way; zero if there is none
	stopped bool
}

// take sends a request that was due then.
func (o *openConn) take(request []byte, due time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.due = due
	if o.k.send(request) != nil {
		o.k.close() // the reader sees it and counts the loss
	}
}

// release says that the request under way is over, and when it was due; zero if there was none.
func (o *openConn) release() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	due := o.due
	o.due = time.Time{}
	return due
}

// stop ends the reader, and says whether a request was under way.
func (o *openConn) stop() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stopped = true
	o.k.close()
	return !o.due.IsZero()
}

// renew replaces a connection that ended, and says when the request under way on it was due. It fails at the end.
func (g *generator) renew(ctx context.Context, o *openConn) (due time.Time, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stopped {
		return time.Time{}, net.ErrClosed
	}
	due, o.due = o.due, time.Time{}
	o.k.close()
	k, err := dial(ctx, g.Address, g.deadline)
	if err != nil {
		return due, err
	}
	o.k = k
	return due, nil
}

// open is the mode Open. One thread of its own writes each request when it is due, so that neither the
// scheduler's nor the poller's coarse timers are in the figures.
func (g *generator) open(ctx context.Context) error {
	conns, err := g.dialAll(ctx)
	if err != nil {
		return err
	}
	free := make(chan *openConn, len(conns))
	var readers sync.WaitGroup
	all := make([]*openConn, 0, len(conns))
	for _, k := range conns {
		o := &openConn{k: k}
		all = append(all, o)
		free <- o
		readers.Go(func() { g.read(ctx, o, free) })
	}
	g.started()
	dispatched := make(chan error, 1)
	go func() { dispatched <- g.dispatch(ctx, free) }()
	err = <-dispatched
	g.drain(ctx, free)
	for _, o := range all {
		if o.stop() {
			g.failed(errNoAnswer)
		}
	}
	readers.Wait()
	return err
}

// drain waits until every connection is free: its last answer is there.
func (g *generator) drain(ctx context.Context, free <-chan *openConn) {
	limit := time.After(stuckMax)
	for range g.Conns {
		select {
		case <-free:
		case <-limit:
			return
		case <-ctx.Done():
			return
		}
	}
}

// dispatch sends the requests, each when it is due or as soon as there is a connection.
func (g *generator) dispatch(ctx context.Context, free <-chan *openConn) error {
	runtime.LockOSThread() // and never unlocked: the thread's timers are changed, it ends with the goroutine
	sharpTimers()
	// The same arrivals for every peer: a Poisson process of a fixed seed.
	random := rand.New(rand.NewPCG(1, 2))
	after := time.Duration(0)
	for {
		after += time.Duration(random.ExpFloat64() / g.Rate * float64(time.Second))
		if after > g.Length {
			return ctx.Err()
		}
		due := g.start.Add(after)
		sleepUntil(due)
		var o *openConn
		select {
		case o = <-free:
		default:
			g.late.Add(1)
			select {
			case o = <-free:
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(stuckMax):
				return errNoConn
			}
		}
		o.take(g.request, due)
	}
}

// read takes the answers of one connection and gives it back for the next request.
func (g *generator) read(ctx context.Context, o *openConn, free chan<- *openConn) {
	scratch := make([]byte, 0, len(g.Want)+1)
	k := o.k // only this goroutine replaces it
	for {
		kept, over, err := g.answer(k, scratch)
		scratch = kept
		now := time.Now()
		var due time.Time
		var renewErr error
		if over {
			due, renewErr = g.renew(ctx, o)
			k = o.k
		} else {
			due = o.release()
		}
		switch {
		case due.IsZero() && over:
			// Closed by the peer between two requests, or by stop: nothing is lost, and the connection is in free.
			if renewErr != nil {
				return
			}
			continue
		case due.IsZero():
			if !g.failed(wrong("an answer without a request")) {
				return
			}
			continue
		case err != nil:
			if !g.failed(err) {
				return
			}
		default:
			g.right(due, now)
		}
		if renewErr != nil {
			return
		}
		free <- o
	}
}

// sharpTimers lets this thread's sleeps end on time: the kernel's default adds up to 50 us of slack.
func sharpTimers() {
	const prSetTimerSlack = 29
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, prSetTimerSlack, 1, 0)
}

// sleepUntil blocks the thread, not just the goroutine.
func sleepUntil(t time.Time) {
	for {
		d := time.Until(t)
		if d <= 0 {
			return
		}
		ts := syscall.NsecToTimespec(int64(d))
		_ = syscall.Nanosleep(&ts, nil) // interrupted: the loop sleeps the rest
	}
}
