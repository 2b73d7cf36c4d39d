package front

import (
	"context"
	"slices"
	"sync"
	"time"
)

// life is the context of a request: it ends when the request is over, or its client gone. It does what
// context.WithCancel's does, and makes nothing before somebody asks for it: most requests only have [life.AfterFunc].
type life struct {
	mu   sync.Mutex
	err  error
	done chan struct{} // nil until somebody asks

	first last    // the first that was asked for
	more  []*last // those after it that were not stopped
}

// last is what is to be done at the end of a life.
type last struct {
	of *life
	f  func() // nil: it runs, or was stopped
}

// Deadline implements context.Context: there is none.
func (*life) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value implements context.Context: there are none.
func (*life) Value(any) any { return nil }

// Done implements context.Context.
func (l *life) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.done = make(chan struct{})
		if l.err != nil {
			close(l.done)
		}
	}
	return l.done
}

// Err implements context.Context.
func (l *life) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// AfterFunc is what context.AfterFunc and derived contexts look for: it has f called at the end, in a goroutine of its
// own. Stop is true if that kept f from being called.
func (l *life) AfterFunc(f func()) (stop func() bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		go f()
		return func() bool { return false }
	}
	x := &l.first
	if x.of != nil {
		x = new(last)
		l.more = append(l.more, x)
	}
	x.of, x.f = l, f
	return x.stop
}

func (x *last) stop() bool {
	x.of.mu.Lock()
	defer x.of.mu.Unlock()
	if x.f == nil {
		return false
	}
	x.f = nil
	x.of.more = slices.DeleteFunc(x.of.more, func(o *last) bool { return o == x })
	return true
}

// end ends it; once is enough.
func (l *life) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = context.Canceled
	if l.done != nil {
		close(l.done)
	}
	l.first.run()
	for _, x := range l.more {
		x.run()
	}
	l.more = nil
}

func (x *last) run() {
	if x.f != nil {
		go x.f()
		x.f = nil
	}
}
