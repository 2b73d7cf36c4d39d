package channel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/attest"
)

// factory makes evidence that is its nonce, in a second, and notes when.
type factory struct {
	mu     sync.Mutex
	starts []time.Time
	ctxs   []context.Context
	takes  time.Duration
	fail   func(call int) error
}

func (f *factory) make(ctx context.Context, nonce attest.Digest) ([]byte, error) {
	f.mu.Lock()
	call := len(f.starts)
	f.starts, f.ctxs = append(f.starts, time.Now()), append(f.ctxs, ctx)
	f.mu.Unlock()
	select {
	case <-time.After(f.takes):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if f.fail != nil {
		if err := f.fail(call); err != nil {
			return nil, err
		}
	}
	return nonce[:], nil
}

// call is when a Make began, and its context.
func (f *factory) call(i int) (time.Time, context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.starts[i], f.ctxs[i]
}

func (f *factory) calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.starts)
}

func bubble(t *testing.T, gap time.Duration, most int, fn func(t *testing.T, b *Batcher, f *factory)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &factory{takes: time.Second}
		fn(t, &Batcher{Make: f.make, Gap: gap, Max: most}, f)
	})
}

// get asks, and checks that the answer is for its own nonce.
func get(t *testing.T, ctx context.Context, b *Batcher) (Proof, error) {
	t.Helper()
	nonce := attest.NewNonce()
	evidence, proof, err := b.Get(ctx, nonce)
	if err != nil {
		if evidence != nil || proof.Size != 0 {
			t.Errorf("%v, and an answer", err)
		}
		return proof, err
	}
	root, err := proof.Root(nonce)
	if err != nil || !slices.Equal(root[:], evidence) {
		t.Errorf("evidence over %x, proof %+v leads to %s, %v", evidence, proof, root, err)
	}
	return proof, nil
}

// rests tells whether nobody waits and nothing is made.
func (b *Batcher) rests() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.next == nil && b.busy == nil
}

func TestBatches(t *testing.T) {
	bubble(t, 2*time.Second, 1000, func(t *testing.T, b *Batcher, f *factory) {
		began := time.Now()
		if p, err := get(t, t.Context(), b); err != nil || p.Size != 1 || time.Since(began) != time.Second {
			t.Errorf("the first: %+v, %v, after %v", p, err, time.Since(began))
		}
		var all sync.WaitGroup
		for i := range 300 { // for 3 s one each 10 ms
			all.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				if _, err := get(t, t.Context(), b); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if f.calls() != 3 {
			t.Fatalf("%d times made", f.calls())
		}
		// The second Make waits for the gap; what comes after its start is for the third.
		for i, want := range []time.Duration{0, 3 * time.Second, 6 * time.Second} {
			if at, _ := f.call(i); at.Sub(began) != want {
				t.Errorf("%d made after %v, want %v", i, at.Sub(began), want)
			}
		}
	})
}

// TestEvidenceIsFresh: evidence that was begun before a nonce came does not answer it.
func TestEvidenceIsFresh(t *testing.T) {
	bubble(t, 0, 10, func(t *testing.T, b *Batcher, f *factory) {
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 400 * time.Millisecond)
				asked := time.Now()
				if p, err := get(t, t.Context(), b); err != nil || p.Size != []int{1, 2, 2}[i] {
					t.Errorf("%d: %+v, %v", i, p, err)
				}
				if begun, _ := f.call(min(i, 1)); begun.Before(asked) {
					t.Errorf("%d asked at %v, made from %v", i, asked, begun)
				}
			})
		}
		all.Wait()
	})
}

func TestBatcherIsBounded(t *testing.T) {
	bubble(t, time.Second, 5, func(t *testing.T, b *Batcher, f *factory) {
		var all sync.WaitGroup
		var busy atomic.Int64
		ask := func(n int) {
			for range n {
				all.Go(func() {
					switch _, err := get(t, t.Context(), b); {
					case errors.Is(err, ErrBusy):
						busy.Add(1)
					case err != nil:
						t.Error(err)
					}
				})
			}
			synctest.Wait()
		}
		ask(1)
		ask(8) // the machine is busy: five may wait
		if busy.Load() != 3 {
			t.Errorf("%d are told to come back, want 3", busy.Load())
		}
		all.Wait()
		ask(5) // and five again
		all.Wait()
		if busy.Load() != 3 || f.calls() != 3 {
			t.Errorf("%d are told to come back, %d made", busy.Load(), f.calls())
		}
	})
	if _, _, err := (&Batcher{}).Get(t.Context(), attest.NewNonce()); !errors.Is(err, ErrBusy) {
		t.Errorf("without Max: %v", err)
	}
}

// TestWhoLeaves: it hurts nobody, leaves its place to another, and the last one ends the work.
func TestWhoLeaves(t *testing.T) {
	bubble(t, time.Second, 3, func(t *testing.T, b *Batcher, f *factory) {
		var all sync.WaitGroup
		ask := func(ctx context.Context, want error, size int) {
			all.Go(func() {
				if p, err := get(t, ctx, b); !errors.Is(err, want) || p.Size != size {
					t.Errorf("%+v, %v, want %v, size %d", p, err, want, size)
				}
			})
			synctest.Wait()
		}
		gone := func() (context.Context, context.CancelFunc) { return context.WithCancel(t.Context()) }
		first, leaveFirst := gone()
		second, leaveSecond := gone()
		ask(first, context.Canceled, 0)
		for range 2 {
			ask(t.Context(), nil, 2)
		}
		ask(second, context.Canceled, 0)
		ask(t.Context(), ErrBusy, 0)
		leaveSecond() // from those that wait
		synctest.Wait()
		if _, made := f.call(0); made.Err() != nil {
			t.Error("the first evidence is given up")
		}
		leaveFirst() // the only one of its batch
		synctest.Wait()
		if _, made := f.call(0); made.Err() == nil {
			t.Error("evidence is made that nobody waits for")
		}
		all.Wait()
		third, leaveThird := gone()
		ask(third, context.Canceled, 0) // waits for the gap, alone
		leaveThird()
		synctest.Wait()
		if !b.rests() {
			t.Error("something is left")
		}
		ask(third, context.Canceled, 0) // gone before it came
		ask(t.Context(), nil, 1)
		all.Wait()
		if f.calls() != 3 {
			t.Errorf("%d times made, want 3", f.calls())
		}
	})
}

// TestOneLeavesInTheMiddle: while the evidence is made.
func TestOneLeavesInTheMiddle(t *testing.T) {
	bubble(t, 0, 3, func(t *testing.T, b *Batcher, f *factory) {
		var all sync.WaitGroup
		all.Go(func() { _, _ = get(t, t.Context(), b) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		for i := range 3 {
			all.Go(func() {
				asker, want := ctx, context.DeadlineExceeded
				if i > 0 {
					asker, want = t.Context(), nil
				}
				if _, err := get(t, asker, b); !errors.Is(err, want) {
					t.Errorf("%d: %v, want %v", i, err, want)
				}
			})
		}
		all.Wait()
		if f.calls() != 2 {
			t.Errorf("%d times made, want 2", f.calls())
		}
	})
}

// TestFailure: of one Make reaches all who wait for it, not the next ones, who come after the gap as ever.
func TestFailure(t *testing.T) {
	bubble(t, time.Second, 10, func(t *testing.T, b *Batcher, f *factory) {
		broken := errors.New("the GPU is gone")
		f.fail = func(call int) error {
			if call == 1 {
				return fmt.Errorf("making evidence: %w", broken)
			}
			return nil
		}
		began := time.Now()
		var all sync.WaitGroup
		wave := func(n int, want error) {
			for range n {
				all.Go(func() {
					if _, err := get(t, t.Context(), b); !errors.Is(err, want) {
						t.Errorf("%v, want %v", err, want)
					}
				})
			}
			synctest.Wait()
		}
		wave(1, nil)
		wave(3, broken) // from 2 s to 3 s
		time.Sleep(2500 * time.Millisecond)
		wave(3, nil) // from 4 s to 5 s
		all.Wait()
		if took := time.Since(began); took != 5*time.Second || f.calls() != 3 {
			t.Errorf("%d times made in %v", f.calls(), took)
		}
	})
}

// TestStorm has thousands come, leave and fail as they like.
func TestStorm(t *testing.T) {
	bubble(t, 10*time.Millisecond, 2000, func(t *testing.T, b *Batcher, f *factory) {
		f.takes = 5 * time.Millisecond
		broken := errors.New("broken")
		f.fail = func(call int) error {
			if call%5 == 4 {
				return broken
			}
			return nil
		}
		var all sync.WaitGroup
		var answered atomic.Int64
		for i := range 2000 {
			all.Go(func() {
				time.Sleep(time.Duration(i%97) * time.Millisecond)
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if i%3 == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(i%29)*time.Millisecond)
				}
				defer cancel()
				switch _, err := get(t, ctx, b); {
				case err == nil:
					answered.Add(1)
				case !errors.Is(err, broken) && !errors.Is(err, context.DeadlineExceeded):
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := answered.Load(); n < 500 || f.calls() > 20 {
			t.Errorf("%d answered, %d times made", n, f.calls())
		}
		synctest.Wait()
		if !b.rests() {
			t.Error("something is left")
		}
	})
}
