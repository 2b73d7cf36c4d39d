package billing

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"cocoon/billing/journal"
	"cocoon/billing/ledger"
)

// state is where a request is in its life.
type state uint8

const (
	fresh   state = iota // being held
	open                 // held
	settled              // in the journal, not in the ledger
	gone                 // closed for good, or never held: not in the map any more, look it up again
)

// request is one request that is open, or settled and not in the ledger.
type request struct {
	mu         sync.Mutex // held over a record's way to the disk: who comes with the same request waits
	state      state
	hold       Hold
	account    *account   // while open or settled
	batch      *batch     // that it is posted with; set once
	settlement Settlement // when settled; does not change any more
	at         time.Time  // of the settlement
}

// outcome is what is remembered of a request that is closed for good.
type outcome uint64

const voided outcome = 0 // any other one is a settlement's

// shard is a part of the requests, by their IDs.
type shard struct {
	mu       sync.Mutex
	requests map[ledger.ID]*request
	queue    []*request // settled, for the poster
	// The requests that are remembered, the last ones and those before. They are known by hashes of 64 bits, with a seed
	// that nobody can know: that one of 131,072 is taken for another is less likely than that the machine fails. So the
	// maps are small, and hold nothing for the garbage collector.
	closed, older map[uint64]outcome
}

// scratch is memory for records on their way to the journal, which copies them.
type scratch struct {
	buf     []byte
	records [][]byte
	order   []place
	doing   []taken
}

func (d *Desk) borrow() *scratch {
	if w, _ := d.scratch.Get().(*scratch); w != nil {
		return w
	}
	return &scratch{}
}

func (d *Desk) putBack(w *scratch) {
	clear(w.doing)
	w.buf, w.records, w.order, w.doing = w.buf[:0], w.records[:0], w.order[:0], w.doing[:0]
	d.scratch.Put(w)
}

// check says what is wrong with a hold.
func (h *Hold) check() error {
	if h.Ceiling < 0 || h.Request == (ledger.ID{}) || len(h.Note) > NoteMax || h.Account.Kind() != "customer" {
		return fmt.Errorf("%w: hold of %d nanoTON on %.80q with a note of %d bytes",
			ErrInvalid, int64(h.Ceiling), string(h.Account), len(h.Note))
	}
	if err := h.Account.Check(); err != nil {
		return fmt.Errorf("%w: hold: %w", ErrInvalid, err)
	}
	return nil
}

// check says what is wrong with a settlement.
func (s *Settlement) check() error {
	// Share <= Cost first: their difference can't overflow then.
	if s.Share < 0 || s.Fee < 0 || s.Share > s.Cost || s.Cost-s.Share != s.Fee {
		return fmt.Errorf("%w: cost %d is not share %d + fee %d nanoTON",
			ErrInvalid, int64(s.Cost), int64(s.Share), int64(s.Fee))
	}
	if err := s.Line.check(); err != nil {
		return err
	}
	if s.Worker == "" && s.Share == 0 {
		return nil
	}
	if err := s.Worker.Check(); err != nil || s.Worker.Kind() != "worker" {
		return fmt.Errorf("%w: settlement to %.80q", ErrInvalid, string(s.Worker))
	}
	return nil
}

// outcome is what is remembered of it: the same for the same content, and for no other that anybody comes with.
func (d *Desk) outcome(s *Settlement) outcome {
	return outcome(maphash.Comparable(d.seed, *s) | 1)
}

// Hold reserves the ceiling, in memory and in the journal, whose disk it does not wait for: see Sync. A second one with the
// same content is no error while the request is open. The errors are a *FundsError, ErrConflict, ErrBacklog,
// ErrUnavailable, ErrInvalid, the context's, and the journal's; after any of them nothing is held, but if the disk is ill
// a restart may find the hold.
func (d *Desk) Hold(ctx context.Context, h Hold) error {
	if err := h.check(); err != nil {
		return err
	}
	r, _, was := d.enter(h.Request, true)
	if was {
		return fmt.Errorf("%w: %s is closed", ErrConflict, h.Request)
	}
	defer r.mu.Unlock()
	switch r.state {
	case fresh:
	case open:
		if h.Account == r.hold.Account && h.Ceiling == r.hold.Ceiling && bytes.Equal(h.Note, r.hold.Note) {
			return nil
		}
		return fmt.Errorf("%w: %s is held", ErrConflict, h.Request)
	default:
		return fmt.Errorf("%w: %s is closed", ErrConflict, h.Request)
	}
	if err := d.hold(ctx, r, &h); err != nil {
		d.forget(r, h.Request)
		return err
	}
	r.state, r.hold = open, h
	return nil
}

// hold reserves the money and writes the record, or does neither.
func (d *Desk) hold(ctx context.Context, r *request, h *Hold) (err error) {
	if d.live.Add(1) > int64(d.c.Backlog) {
		err = fmt.Errorf("%w: %d", ErrBacklog, d.c.Backlog)
	} else if r.account, err = d.reserve(ctx, h); err == nil {
		if err = d.passHold(h); err != nil {
			r.account.unhold(h.Ceiling, 0)
		}
	}
	if err != nil {
		d.live.Add(-1)
	}
	return err
}

// passHold writes a hold's record, and does not wait for the disk.
func (d *Desk) passHold(h *Hold) error {
	w := d.borrow()
	defer d.putBack(w)
	w.buf = appendHold(w.buf, h)
	w.records = append(w.records, w.buf)
	return d.noticed(d.pass(w.records...))
}

// Lookup gives an open hold, with its note; the caller does not change it. A request that is being held or closed at
// this moment is waited for.
func (d *Desk) Lookup(request ledger.ID) (Hold, bool) {
	r, _, _ := d.enter(request, false)
	if r == nil {
		return Hold{}, false
	}
	defer r.mu.Unlock()
	return r.hold, r.state == open
}

// Settle closes a hold with what it cost. It does not end with its context: the money is owed. Once it has returned nil
// the settlement reaches the ledger, whatever happens. A second one with the same content is no error, another is
// ErrConflict. See ErrCeiling and ErrUnknown for the others; after an error of the journal call it again.
func (d *Desk) Settle(ctx context.Context, s Settlement) error {
	return d.SettleAll(ctx, []Settlement{s})[0]
}

// settleOnce is how many settlements are written at once at most: their records are far below what the journal takes.
const settleOnce = 500

// SettleAll settles each as Settle does, and writes them to the journal at once. It gives an error or nil for each.
func (d *Desk) SettleAll(ctx context.Context, all []Settlement) []error {
	ctx = context.WithoutCancel(ctx)
	errs, w := make([]error, len(all)), d.borrow()
	defer d.putBack(w)
	given := true
	for i := range all {
		if line := all[i].Line.clean(); line != all[i].Line {
			if given { // the caller's stay as they are
				all, given = slices.Clone(all), false
			}
			all[i].Line = line
		}
		if errs[i] = all[i].check(); errs[i] == nil {
			w.order = append(w.order, place{binary.BigEndian.Uint64(all[i].Request[:]), i})
		}
	}
	// Whoever locks several requests does so in the order of their IDs.
	slices.SortFunc(w.order, func(a, b place) int {
		if a.start != b.start {
			return cmp.Compare(a.start, b.start)
		}
		return cmp.Or(all[a.i].Request.Compare(all[b.i].Request), cmp.Compare(a.i, b.i))
	})
	for part := range slices.Chunk(w.order, settleOnce) {
		d.settleSome(ctx, w, all, part, errs)
	}
	return errs
}

// place is where a settlement is in its order.
type place struct {
	start uint64 // of its request's ID: what nearly always decides
	i     int
}

// taken is an open request on its way to be settled. Its lock is held.
type taken struct {
	i int
	r *request
}

// settleSome settles those in order, and sets their errors.
func (d *Desk) settleSome(ctx context.Context, w *scratch, all []Settlement, order []place, errs []error) {
	var again []place // the same request twice
	w.doing = w.doing[:0]
	for n, p := range order {
		s := &all[p.i]
		if n > 0 && all[order[n-1].i].Request == s.Request {
			again = append(again, p)
			continue
		}
		r, err := d.settleable(s)
		if errs[p.i] = err; r != nil {
			w.doing = append(w.doing, taken{p.i, r})
		}
	}
	if len(w.doing) > 0 {
		d.settleThese(ctx, w, all, errs)
	}
	for i := range again {
		d.settleSome(ctx, w, all, again[i:i+1], errs)
	}
}

// settleable locks the open request that a settlement closes, or says with what error it ends, which may be none.
func (d *Desk) settleable(s *Settlement) (*request, error) {
	r, was, closed := d.enter(s.Request, false)
	if r == nil && !closed {
		return nil, fmt.Errorf("%w: %s", ErrUnknown, s.Request)
	}
	if r == nil {
		if was != d.outcome(s) {
			return nil, fmt.Errorf("%w: %s is closed", ErrConflict, s.Request)
		}
		return nil, nil
	}
	var err error
	switch {
	case r.state != open && r.settlement != *s:
		err = fmt.Errorf("%w: %s is settled", ErrConflict, s.Request)
	case r.state != open:
	case s.Cost > r.hold.Ceiling:
		err = fmt.Errorf("%w: %s: cost %v, ceiling %v", ErrCeiling, s.Request, s.Cost, r.hold.Ceiling)
	default:
		return r, nil
	}
	r.mu.Unlock()
	return nil, err
}

// settleThese writes the settlements of open requests, whose locks are held, and unlocks them.
func (d *Desk) settleThese(ctx context.Context, w *scratch, all []Settlement, errs []error) {
	at := time.UnixMilli(time.Now().UnixMilli()).UTC() // as the journal gives it back
	size := 0
	for _, one := range w.doing {
		size += settleSize(one.r.hold.Account, &all[one.i])
	}
	w.buf, w.records = slices.Grow(w.buf[:0], size), w.records[:0]
	for _, one := range w.doing {
		from := len(w.buf)
		w.buf = appendSettle(w.buf, one.r.hold.Account, &all[one.i], at, ledger.ID{})
		w.records = append(w.records, w.buf[from:])
	}
	err := d.append(ctx, w.records...)
	for _, one := range w.doing {
		if errs[one.i] = err; err != nil {
			d.leave(one.r)
		} else {
			one.r.account.unhold(one.r.hold.Ceiling, all[one.i].Cost)
			d.settle(one.r, &all[one.i], at)
		}
		one.r.mu.Unlock()
	}
	if err == nil {
		d.wakePoster()
	}
}

// settle takes a settlement that is in the journal, and queues it for the poster. The request's lock is held.
func (d *Desk) settle(r *request, s *Settlement, at time.Time) {
	if s.Cost == 0 && s.Line == (Line{}) { // nothing to post
		d.live.Add(-1)
		d.retire(r, s.Request, d.outcome(s))
		return
	}
	r.settlement, r.at = *s, at
	r.state, r.hold.Note = settled, nil // the note is large
	d.unposted.Add(1)
	sh := d.at(s.Request)
	sh.mu.Lock()
	sh.queue = append(sh.queue, r)
	sh.mu.Unlock()
}

// wakePoster says that there is something to post.
func (d *Desk) wakePoster() {
	if !d.kicked.Load() && d.kicked.CompareAndSwap(false, true) { // a look is cheaper than the channel that all share
		select {
		case d.kick <- struct{}{}:
		default:
		}
	}
}

// Void closes a hold that costs nothing. Like Settle it does not end with its context, and a second one is no error.
func (d *Desk) Void(ctx context.Context, id ledger.ID) error {
	r, was, closed := d.enter(id, false)
	switch {
	case r != nil:
		defer r.mu.Unlock()
		return d.void(context.WithoutCancel(ctx), r)
	case !closed:
		return fmt.Errorf("%w: %s", ErrUnknown, id)
	case was != voided:
		return fmt.Errorf("%w: %s is settled", ErrConflict, id)
	}
	return nil
}

// void voids a request whose lock is held.
func (d *Desk) void(ctx context.Context, r *request) error {
	id := r.hold.Request
	if r.state != open {
		return fmt.Errorf("%w: %s is settled", ErrConflict, id)
	}
	w := d.borrow()
	defer d.putBack(w)
	w.buf = appendVoid(w.buf, id)
	w.records = append(w.records, w.buf)
	if err := d.append(ctx, w.records...); err != nil {
		d.leave(r)
		return err
	}
	r.account.unhold(r.hold.Ceiling, 0)
	d.live.Add(-1)
	d.retire(r, id, voided)
	return nil
}

// append puts records on disk.
func (d *Desk) append(ctx context.Context, records ...[]byte) error {
	return d.noticed(d.write(ctx, records...))
}

// noticed notices when the journal breaks.
func (d *Desk) noticed(err error) error {
	if err != nil && errors.Is(err, journal.ErrBroken) {
		d.breakOnce.Do(func() { close(d.broken) })
	}
	return err
}

// at returns the shard of a request.
func (d *Desk) at(id ledger.ID) *shard {
	return &d.shard[binary.LittleEndian.Uint64(id[:])%shards]
}

// enter finds a request and locks it. One that is closed for good gives its outcome. An unknown one it makes, or
// returns nil and false.
func (d *Desk) enter(id ledger.ID, create bool) (r *request, was outcome, closed bool) {
	sh, hash := d.at(id), d.hash(id)
	for {
		sh.mu.Lock()
		if r = sh.requests[id]; r == nil {
			was, closed = sh.recall(hash)
			if create && !closed {
				r = &request{}
				sh.requests[id] = r
			}
		}
		sh.mu.Unlock()
		if r == nil {
			return nil, was, closed
		}
		r.mu.Lock()
		if r.state != gone && (create || r.state != fresh) {
			return r, 0, false
		}
		r.mu.Unlock()
	}
}

// forget removes a request that was never held. Its lock is held.
func (d *Desk) forget(r *request, id ledger.ID) {
	r.state = gone
	sh := d.at(id)
	sh.mu.Lock()
	delete(sh.requests, id)
	sh.mu.Unlock()
}

// retire closes a request for good. It is remembered until many others have come after it. Its lock is held.
func (d *Desk) retire(r *request, id ledger.ID, as outcome) {
	r.state = gone
	sh := d.at(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	delete(sh.requests, id)
	sh.remember(d.hash(id), as)
}

// hash is what a closed request is known by.
func (d *Desk) hash(id ledger.ID) uint64 { return maphash.Bytes(d.seed, id[:]) }

// recall gives what became of a closed request, if that is remembered. The shard's lock is held.
func (sh *shard) recall(hash uint64) (as outcome, ok bool) {
	if as, ok = sh.closed[hash]; !ok {
		as, ok = sh.older[hash]
	}
	return as, ok
}

// remember keeps what became of a request. The shard's lock is held.
func (sh *shard) remember(hash uint64, as outcome) {
	if len(sh.closed) >= remembered/shards/2 {
		clear(sh.older)
		sh.closed, sh.older = sh.older, sh.closed
	}
	sh.closed[hash] = as
}

// unremember has a request not be closed any more. The shard's lock is held.
func (sh *shard) unremember(hash uint64) {
	delete(sh.closed, hash)
	delete(sh.older, hash)
}

// leave notes an open request that may stay open, so that it is voided in the end. Its lock is held.
func (d *Desk) leave(r *request) {
	d.leftMu.Lock()
	defer d.leftMu.Unlock()
	if _, ok := d.left[r.hold.Request]; !ok {
		d.left[r.hold.Request] = left{r, time.Now().Add(d.c.Deadline)}
	}
}
