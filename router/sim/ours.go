package sim

import (
	"time"

	"cocoon/router"
	"cocoon/router/prefix"
)

// ours is the real table, called as the gateway calls it.
type ours struct {
	table  *router.Table[int32]
	leases []router.Lease[int32]
	free   []int32
	wishes [4]router.Wish
	tried  []router.ID
}

func newOurs(w *world, gateway int) *ours {
	o := &ours{table: router.New[int32](router.Config{
		Seed: w.cfg.Seed<<8 | uint64(gateway), Shared: w.cfg.Gateways > 1, Weights: w.cfg.Weights,
	})}
	for i := range o.wishes {
		o.wishes[i] = router.NoWish()
		o.wishes[i].Sort = router.Sort(i)
	}
	return o
}

// clock is a simulated moment for the table; its zero is never a moment.
func clock(at float64) time.Duration { return time.Hour + time.Duration(at*float64(time.Second)) }

func (o *ours) update(w *world, i int32) {
	x := &w.workers[i]
	o.table.Update(clock(w.now), router.Worker[int32]{
		ID: workerID(i), Handle: i, Sheet: x.sheet, Trust: router.Gateway, Machine: x.machine,
	})
}

func (o *ours) tend(w *world) { o.table.Tend(clock(w.now)) }

func (o *ours) pick(w *world, r *request) (choice, error) {
	o.tried = o.tried[:0]
	for _, i := range r.tried {
		o.tried = append(o.tried, workerID(i))
	}
	l, err := o.table.Pick(&router.Request{
		Now: clock(w.now), Model: modelName, Tenant: prefix.Mix(uint64(r.tenant)), Home: r.home(), History: r.turn > 0,
		Prefix: w.hashes(r), Bytes: r.bytes, MaxOut: int64(r.maxOut), Wish: &o.wishes[r.sort], Tried: o.tried,
	})
	if err != nil {
		return choice{}, err
	}
	n := int32(len(o.leases))
	if k := len(o.free); k > 0 {
		n, o.free = o.free[k-1], o.free[:k-1]
		o.leases[n] = l
	} else {
		o.leases = append(o.leases, l)
	}
	first, whole := l.Expected()
	c := choice{worker: l.Handle, lease: n, price: l.Price, first: first.Seconds(), whole: whole.Seconds(), out: l.Why.Out}
	if p := l.Why.Picked; p >= 0 {
		c.cached = l.Why.Top[p].Cached
	}
	return c, nil
}

func (o *ours) patience(a *attempt) float64 { return o.leases[a.choice.lease].Patience().Seconds() }

func (o *ours) first(w *world, a *attempt) { o.leases[a.choice.lease].First(clock(w.now)) }

func (o *ours) progress(w *world, a *attempt) {
	o.leases[a.choice.lease].Progress(clock(w.now), a.seen)
}

func (o *ours) release(w *world, a *attempt, outcome router.Outcome) {
	d := router.Done{Outcome: outcome}
	if outcome == router.Served {
		r := w.requests.at(a.req)
		d.In, d.Cached, d.Out = int64(r.prompt), int64(w.workers[a.worker].tells(r.prompt-a.need)), int64(r.out)
	}
	o.leases[a.choice.lease].Release(clock(w.now), d)
	o.free = append(o.free, a.choice.lease)
}
