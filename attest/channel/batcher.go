package channel

import (
	"context"
	"slices"
	"sync"
	"time"

	"cocoon/attest"
)

// Batcher gives many askers fresh evidence of one machine at bounded cost. Nonces that come while the machine is busy,
// or within Gap of its last evidence, wait; evidence over the root of a Merkle tree of them answers all together.
type Batcher struct {
	// Make gets evidence over a nonce, which is the root. Its context ends when nobody waits for it any more. Required.
	Make func(ctx context.Context, nonce attest.Digest) ([]byte, error)
	// Gap is from the end of one Make to the start of the next, whether it failed or not.
	Gap time.Duration
	// Max is how many nonces may wait for the next Make, 65,536 at most. Required.
	Max int

	mu   sync.Mutex
	next *batch    // that nonces may join; nil: the next nonce makes one
	busy *batch    // that Make runs for
	last time.Time // when a Make ended
}

// batch is nonces that are answered together.
type batch struct {
	ctx    context.Context // ends when all askers are gone
	cancel context.CancelFunc
	done   chan struct{} // closed when the fields below are final
	askers []*asker      // Batcher.mu, until it is no longer next
	left   int           // Batcher.mu: askers that are there

	evidence []byte
	err      error
}

type asker struct {
	nonce attest.Digest
	proof Proof
}

// Get returns evidence that was begun after nonce was given, and the proof that it answers nonce. The evidence is
// shared: it must not be changed. Errors: ErrBusy, that of ctx, or that of Make.
func (b *Batcher) Get(ctx context.Context, nonce attest.Digest) ([]byte, Proof, error) {
	own := &asker{nonce: nonce}
	batch, err := b.join(ctx, own)
	if err != nil {
		return nil, Proof{}, err
	}
	defer b.leave(batch, own)
	select {
	case <-batch.done:
		return batch.evidence, own.proof, batch.err
	case <-ctx.Done():
		return nil, Proof{}, ctx.Err()
	}
}

func (b *Batcher) join(ctx context.Context, own *asker) (*batch, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next != nil && len(b.next.askers) >= min(b.Max, sizeMax) || b.Max < 1 {
		return nil, ErrBusy
	}
	if b.next == nil {
		b.next = &batch{done: make(chan struct{})}
		b.next.ctx, b.next.cancel = context.WithCancel(context.WithoutCancel(ctx)) // it is of all askers
		go b.run(b.next)
	}
	b.next.askers = append(b.next.askers, own)
	b.next.left++
	return b.next, nil
}

// leave takes an asker out: of the tree too, if it is not made yet.
func (b *Batcher) leave(from *batch, own *asker) {
	b.mu.Lock()
	defer b.mu.Unlock()
	from.left--
	if b.next == from {
		i := slices.Index(from.askers, own)
		from.askers = slices.Delete(from.askers, i, i+1)
	}
	if from.left == 0 {
		if b.next == from {
			b.next = nil
		}
		from.cancel()
	}
}

// run answers a batch when the machine is free. It ends soon after the batch's context.
func (b *Batcher) run(own *batch) {
	defer close(own.done)
	if own.err = b.await(own); own.err != nil {
		return
	}
	nonces := make([]attest.Digest, len(own.askers))
	for i, a := range own.askers {
		nonces[i] = a.nonce
	}
	root, proofs := tree(nonces)
	evidence, err := b.Make(own.ctx, root)
	if err == nil {
		own.evidence = evidence
		for i, a := range own.askers {
			a.proof = proofs[i]
		}
	}
	own.err = err
	b.mu.Lock()
	defer b.mu.Unlock()
	b.busy, b.last = nil, time.Now()
}

// await waits until the machine is free and has had its rest; then it is the batch's, which nobody may join any more.
func (b *Batcher) await(own *batch) error {
	for {
		b.mu.Lock()
		busy, rest := b.busy, time.Until(b.last.Add(b.Gap))
		switch {
		case own.ctx.Err() != nil: // then it is not next
			b.mu.Unlock()
			return own.ctx.Err()
		case busy == nil && rest <= 0:
			b.next, b.busy = nil, own
			b.mu.Unlock()
			return nil
		}
		b.mu.Unlock()
		if busy != nil {
			select {
			case <-busy.done:
			case <-own.ctx.Done():
			}
			continue
		}
		timer := time.NewTimer(rest)
		select {
		case <-timer.C:
		case <-own.ctx.Done():
			timer.Stop()
		}
	}
}
