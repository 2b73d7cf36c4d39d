package clerk

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"sync"
	"time"

	"cocoon/internal/receipt"
)

const (
	// shareMin is from how many receipts of a worker on it is asked for one signature: a question costs about as much as
	// three verifications.
	shareMin = 8
	// shareMax bounds the receipts of one signature. With more, each has a longer way to the root: 65 bytes whenever they
	// double.
	shareMax = 256
	// shareTimeout is what a worker has for its answer: others' settlements wait meanwhile.
	shareTimeout = 2 * time.Second
	// aloneFor is how long a worker is not asked again that did not answer, or not well.
	aloneFor = time.Minute
)

// vouch sees to the signatures of receipts that came in band and are to be paid. The worker has signed each, but to
// verify one costs more than all else about a request. So it is asked to sign those of a moment again, together; where
// it does not, or they are few, each is verified by itself. One that does not verify is refused, and its bill is void.
func (c *Clerk) vouch(ctx context.Context, list []*entry) {
	by := map[*keyset][]*entry{}
	for _, e := range list {
		if e.paid != nil && !e.vouched {
			by[e.b.keyset] = append(by[e.b.keyset], e)
		}
	}
	var wg sync.WaitGroup
	for k, all := range by {
		wg.Go(func() {
			for part := range slices.Chunk(all, shareMax) { // a worker signs one at a time
				if !c.share(ctx, k, part) {
					c.vouchEach(k, part)
				}
			}
		})
	}
	wg.Wait()
}

// vouchEach verifies receipts one by one.
func (c *Clerk) vouchEach(k *keyset, list []*entry) {
	for _, e := range list {
		if err := k.verifier.Verify(e.paid); err != nil {
			e.refused, e.why, e.paid = e.paid, BadSignature, nil
			continue
		}
		e.vouched = true
	}
	c.counts.vouch(len(list), false)
}

// share verifies receipts of a keyset by one signature, if the worker gives it: the receipts have that one then.
func (c *Clerk) share(ctx context.Context, k *keyset, list []*entry) bool {
	p := c.sharer(k.worker)
	if p == nil || len(list) < shareMin {
		return false
	}
	receipts := make([]*receipt.Signed, len(list))
	for i, e := range list {
		receipts[i] = e.paid
	}
	if err := p.countersign(ctx, k, receipts); err != nil {
		if ctx.Err() == nil && p.ctx.Err() == nil {
			c.leaveAlone(k.worker, err)
		}
		return false
	}
	for _, e := range list {
		e.vouched = true
	}
	c.counts.vouch(len(list), true)
	return true
}

// sharer is the worker that can be asked for a signature; nil if it can't.
func (c *Clerk) sharer(id receipt.Digest) *peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.workers[id]
	if w == nil || w.peer == nil || w.peer.link.Countersign == nil || time.Now().Before(w.alone) {
		return nil
	}
	return w.peer
}

// leaveAlone notes that a worker did not sign.
func (c *Clerk) leaveAlone(id receipt.Digest, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.worker(id)
	w.alone = time.Now().Add(aloneFor)
	if w.mayLog() {
		c.log.Warn("a worker does not sign its receipts together: each is verified by itself for a while", "worker", id.String(), "error", why)
	}
}

// countersign asks for one signature over receipts of a keyset, and gives it to them.
func (p *peer) countersign(ctx context.Context, k *keyset, list []*receipt.Signed) error {
	ctx, cancel := context.WithTimeout(ctx, shareTimeout)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	answer, err := p.link.Countersign(ctx, receipt.CountersignBody(list[0].Keyset, list))
	if err != nil {
		return err
	}
	if len(answer) != ed25519.SignatureSize {
		return fmt.Errorf("a signature of %d bytes", len(answer))
	}
	if err := k.verifier.Share(list, [ed25519.SignatureSize]byte(answer)); err != nil {
		return fmt.Errorf("checking its signature: %w", err)
	}
	return nil
}
