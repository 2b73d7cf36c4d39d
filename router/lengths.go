package router

import (
	"math"
	"sync/atomic"

	"cocoon/router/prefix"
)

const (
	// lengthSlots is how many tenants' answers are told apart; beyond it some share a mean, which does little harm.
	lengthSlots = 4096
	lengthKeep  = 0.9
)

// lengths remembers how long answers are, by tenant and model.
type lengths [lengthSlots]atomic.Uint64 // float64 bits; 0: nothing known

func (l *lengths) slot(tenant, model uint64) *atomic.Uint64 {
	return &l[prefix.Mix(tenant^model)%lengthSlots]
}

// expect is how many tokens an answer will have: the tenant's mean, or the model's, and no more than allowed.
func (l *lengths) expect(tenant, model uint64, mean float64, most int64) float64 {
	if tenant != 0 {
		if known := l.slot(tenant, model).Load(); known != 0 {
			mean = math.Float64frombits(known)
		}
	}
	if most > 0 {
		mean = min(mean, float64(most))
	}
	return max(mean, 1)
}

// learn takes an answer's length in.
func (l *lengths) learn(tenant, model uint64, tokens, mean float64) {
	if tenant == 0 {
		return
	}
	slot := l.slot(tenant, model)
	slot.CompareAndSwap(0, math.Float64bits(mean))
	fold(slot, lengthKeep, max(tokens, 1))
}
