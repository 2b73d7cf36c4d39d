package worker

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"
)

func newGate(slots, queue int) *gate {
	return &gate{slots: slots, queue: queue, changed: func() {}}
}

func TestGateIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1, 3)
		if err := g.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []int
		for i := range 3 {
			go func() {
				if err := g.enter(t.Context()); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
			}()
			synctest.Wait() // so that they stand in line in this order
		}
		if err := g.enter(t.Context()); !errors.Is(err, errFull) {
			t.Errorf("enter() into a full gate = %v", err)
		}
		for range 3 {
			g.leave()
			synctest.Wait()
		}
		if !slices.Equal(order, []int{0, 1, 2}) {
			t.Errorf("order is %v", order)
		}
		g.leave()
		if r, q := g.load(); r != 0 || q != 0 {
			t.Errorf("load is %d, %d at the end", r, q)
		}
	})
}

func TestGateCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1, 2)
		_ = g.enter(t.Context())
		ctx, cancel := context.WithCancel(t.Context())
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- g.enter(ctx) }()
		synctest.Wait()
		go func() { second <- g.enter(t.Context()) }()
		synctest.Wait()
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("enter() = %v", err)
		}
		if r, q := g.load(); r != 1 || q != 1 {
			t.Errorf("load is %d, %d after one gave up", r, q)
		}
		g.leave()
		if err := <-second; err != nil {
			t.Errorf("the one behind: %v", err)
		}
	})
}

func TestGateResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(0, 2)
		done := make(chan error, 2)
		for range 2 {
			go func() { done <- g.enter(t.Context()) }()
		}
		synctest.Wait()
		g.resize(2, 0)
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		g.resize(1, 0)
		if r, _ := g.load(); r != 2 {
			t.Errorf("%d run, want those who did to go on", r)
		}
		g.leave()
		if err := g.enter(t.Context()); !errors.Is(err, errFull) {
			t.Errorf("enter() = %v with as many running as slots", err)
		}
		if g.capacity() != 1 {
			t.Errorf("capacity is %d", g.capacity())
		}
	})
}

// TestGateModel holds the gate to a model: who runs, who waits, in which order.
func TestGateModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			slots, queue := rapid.IntRange(1, 3).Draw(rt, "slots"), rapid.IntRange(0, 3).Draw(rt, "queue")
			g := newGate(slots, queue)
			running := 0
			var waiting []context.CancelFunc
			for range rapid.IntRange(0, 30).Draw(rt, "steps") {
				switch rapid.IntRange(0, 2).Draw(rt, "step") {
				case 0:
					ctx, cancel := context.WithCancel(t.Context())
					full := make(chan bool, 1)
					go func() { full <- errors.Is(g.enter(ctx), errFull) }()
					synctest.Wait()
					switch {
					case running < slots && len(waiting) == 0:
						running++
					case len(waiting) < queue:
						waiting = append(waiting, cancel)
					case !<-full:
						t.Fatal("let in beyond its limits")
					}
					defer cancel()
				case 1:
					if running == 0 {
						continue
					}
					g.leave()
					synctest.Wait()
					if running--; len(waiting) > 0 {
						running, waiting = running+1, waiting[1:]
					}
				case 2:
					if len(waiting) == 0 {
						continue
					}
					i := rapid.IntRange(0, len(waiting)-1).Draw(rt, "who")
					waiting[i]()
					waiting = slices.Delete(waiting, i, i+1)
					synctest.Wait()
				}
				if r, q := g.load(); r != running || q != len(waiting) {
					t.Fatalf("load is %d, %d, want %d, %d", r, q, running, len(waiting))
				}
			}
		})
	})
}

// TestGateShut: nobody gets in any more, and who is in or in line goes on.
func TestGateShut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1, 2)
		if err := g.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		waited := make(chan error)
		go func() { waited <- g.enter(t.Context()) }()
		synctest.Wait()
		g.shutOut(true)
		if err := g.enter(t.Context()); !errors.Is(err, errFull) {
			t.Errorf("enter() = %v, want errFull", err)
		}
		if running, waiting := g.load(); running != 1 || waiting != 1 {
			t.Errorf("%d run, %d wait", running, waiting)
		}
		g.leave()
		if err := <-waited; err != nil {
			t.Errorf("who was in line: %v", err)
		}
		if err := g.enter(t.Context()); !errors.Is(err, errFull) {
			t.Errorf("enter() = %v, want errFull", err)
		}
		g.leave()
		if err := g.enter(t.Context()); !errors.Is(err, errFull) {
			t.Errorf("enter() into a gate that is shut and empty = %v", err)
		}
		g.shutOut(false)
		if err := g.enter(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
