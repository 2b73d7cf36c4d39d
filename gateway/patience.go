package gateway

import (
	"time"

	"cocoon/router"
)

const (
	// wholePatience is how long an answer that is not streamed may take at least, and wholeFactor times the expected time of
	// the whole, before another worker is looked for: nothing is known of it before it is whole.
	wholePatience = 30 * time.Second
	wholeFactor   = 4
	// patienceMore is how much longer a worker is waited for at least when nobody promises more.
	patienceMore = time.Second
	// hedgeFactor times the expected wait for the first token is how long who hedges waits for a worker, hedgeMin at least.
	hedgeFactor = 2
	hedgeMin    = time.Second
)

// patience is how long the worker at hand is waited for, from when it was asked, before another one is looked for.
func (c *call) patience() time.Duration {
	first, whole := c.up.lease.Expected()
	switch {
	case c.head.Stream && c.wish.Hedge && !c.hedged:
		return max(hedgeMin, hedgeFactor*first)
	case c.head.Stream:
		return c.up.lease.Patience()
	}
	return max(wholePatience, wholeFactor*whole)
}

// elsewhere looks for a worker that promises an answer sooner than the one at hand has been waited for. If there is one the
// attempt ends, and the next one has its lease; nil: there is none, and this one is waited for on.
func (c *call) elsewhere(now time.Time) *failure {
	waited := now.Sub(c.sent)
	if p := c.parked; p != nil && now.Sub(p.sent) >= p.patience { // both are slow
		c.drop(c.outrun(now))
	}
	if c.parked == nil && c.attempts+1 < attemptsMax && !c.single() && c.s.retries.enough() {
		if c.wish.Hedge && c.head.Stream && !c.hedged {
			if f := c.hedge(waited); f != nil {
				return f
			}
			c.stream.patience = waited + max(waited/2, patienceMore)
			return nil
		}
		if lease := c.faster(waited); lease != nil {
			if c.s.retries.take() {
				c.next = lease
				return c.tooSlow(waited)
			}
			lease.Release(c.s.clock(), router.Done{Outcome: router.Unused})
		}
	}
	c.stream.patience = waited + max(waited/2, patienceMore)
	return nil
}

// faster leases another worker that promises an answer within so long; nil if there is none.
func (c *call) faster(within time.Duration) *router.Lease[*member] {
	tried := c.want.Tried
	c.want.Tried = append(tried, c.up.lease.Worker)
	c.want.Now = c.s.clock()
	lease, err := c.s.table.Pick(&c.want)
	c.want.Tried = tried
	if err != nil {
		return nil
	}
	first, whole := lease.Expected()
	if c.head.Stream && first < within || !c.head.Stream && whole < within {
		return &lease
	}
	lease.Release(c.s.clock(), router.Done{Outcome: router.Unused})
	return nil
}
