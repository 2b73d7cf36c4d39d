package gateway

import "sync/atomic"

// The retry budget: a retry costs what five requests bring in, so that retries add at most a fifth to the load when
// everything fails; a hundred are there to begin with. A request gets at most three attempts.
const (
	attemptsMax  = 3
	retryCost    = 5
	retryStart   = 100 * retryCost
	retryBalance = 1000 * retryCost // most that quiet times can save up
)

// retryBudget keeps the failure of many workers from multiplying the load on the rest.
type retryBudget struct{ balance atomic.Int64 }

// request pays in for one request.
func (b *retryBudget) request() {
	if b.balance.Load() < retryBalance {
		b.balance.Add(1)
	}
}

// take pays for one retry, if there is enough.
func (b *retryBudget) take() bool {
	for {
		n := b.balance.Load()
		if n < retryCost {
			return false
		}
		if b.balance.CompareAndSwap(n, n-retryCost) {
			return true
		}
	}
}

// enough tells whether take would find enough now.
func (b *retryBudget) enough() bool { return b.balance.Load() >= retryCost }
