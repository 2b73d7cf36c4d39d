package billing

import (
	"bytes"
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
	account    *account    // while open or settled
	settlement *Settlement // when settled; does not change any more
	at         time.Time   // of the settlement
	batch      *batch      // that it is posted with; set once
}

// outcome is what is remembered of a request that is closed for good.
type outcome uint64

const voided outcome = 0 // any other one is a settlement's

// shard is a part of the requests, by their IDs.
type shard struct {
	mu       sync.Mutex
	requests map[ledger.ID]*request
	queue    []*request            // settled, for the poster
	closed   map[ledger.ID]outcome // of the requests that are remembered
	ring     []ledger.ID           // of them
	oldest   int                   // place in the ring
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

// Hold reserves the ceiling, in memory and in the journal. A second one with the same content is no error while the
// request is open. The errors are a *FundsError, ErrConflict, ErrBacklog, ErrUnavailable, ErrInvalid, the context's,
// and the journal's; after any of them nothing is held, but after a failed fsync a restart may find the hold.
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
		if err = d.appendHold(ctx, h); err != nil {
			r.account.unhold(h.Ceiling, 0)
		}
	}
	if err != nil {
		d.live.Add(-1)
	}
	return err
}

// appendHold writes a hold's record.
func (d *Desk) appendHold(ctx context.Context, h *Hold) error {
	buf, _ := d.buffers.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	*buf = appendHold((*buf)[:0], h)
	err := d.append(ctx, *buf) // the journal has copied it
	d.buffers.Put(buf)
	return err
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
	errs := make([]error, len(all))
	order := make([]int, 0, len(all))
	all = slices.Clone(all)
	for i := range all {
		all[i].Line = all[i].Line.clean()
		if errs[i] = all[i].check(); errs[i] == nil {
			order = append(order, i)
		}
	}
	// Whoever locks several requests does so in the order of their IDs.
	slices.SortStableFunc(order, func(i, j int) int { return all[i].Request.Compare(all[j].Request) })
	for part := range slices.Chunk(order, settleOnce) {
		d.settleSome(ctx, all, part, errs)
	}
	return errs
}

// settling is a settlement on its way to the journal.
type settling struct {
	i int
	r *request
}

// settleSome settles those of the indexes in order, and sets their errors.
func (d *Desk) settleSome(ctx context.Context, all []Settlement, order []int, errs []error) {
	var again []int // the same request twice
	doing := make([]settling, 0, len(order))
	for n, i := range order {
		if n > 0 && all[order[n-1]].Request == all[i].Request {
			again = append(again, i)
			continue
		}
		r, err := d.settleable(&all[i])
		if errs[i] = err; r != nil {
			doing = append(doing, settling{i, r})
		}
	}
	if len(doing) > 0 {
		d.settleThese(ctx, all, doing, errs)
	}
	for _, i := range again {
		d.settleSome(ctx, all, []int{i}, errs)
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
	case r.state != open && *r.settlement != *s:
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
func (d *Desk) settleThese(ctx context.Context, all []Settlement, doing []settling, errs []error) {
	at := time.UnixMilli(time.Now().UnixMilli()).UTC() // as the journal gives it back
	size := 0
	for _, one := range doing {
		size += settleSize(one.r.hold.Account, &all[one.i])
	}
	buf, records := make([]byte, 0, size), make([][]byte, len(doing))
	for n, one := range doing {
		from := len(buf)
		buf = appendSettle(buf, one.r.hold.Account, &all[one.i], at, ledger.ID{})
		records[n] = buf[from:]
	}
	err := d.append(ctx, records...)
	for _, one := range doing {
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
	r.settlement, r.at = s, at
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
	if err := d.append(ctx, appendVoid(make([]byte, 0, voidSize), id)); err != nil {
		d.leave(r)
		return err
	}
	r.account.unhold(r.hold.Ceiling, 0)
	d.live.Add(-1)
	d.retire(r, id, voided)
	return nil
}

// append writes records and notices when the journal breaks.
func (d *Desk) append(ctx context.Context, records ...[]byte) error {
	err := d.write(ctx, records...)
	if errors.Is(err, journal.ErrBroken) {
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
	for {
		sh := d.at(id)
		sh.mu.Lock()
		if r = sh.requests[id]; r == nil {
			was, closed = sh.closed[id]
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
	sh.remember(id, as)
}

// remember keeps what became of a request. The shard's lock is held.
func (sh *shard) remember(id ledger.ID, as outcome) {
	if _, ok := sh.closed[id]; ok {
		sh.closed[id] = as
		return
	}
	sh.closed[id] = as
	if len(sh.ring) < remembered/shards {
		sh.ring = append(sh.ring, id)
		return
	}
	delete(sh.closed, sh.ring[sh.oldest])
	sh.ring[sh.oldest] = id
	sh.oldest = (sh.oldest + 1) % len(sh.ring)
}

// leave notes an open request that may stay open, so that it is voided in the end. Its lock is held.
func (d *Desk) leave(r *request) {
	d.leftMu.Lock()
	defer d.leftMu.Unlock()
	if _, ok := d.left[r.hold.Request]; !ok {
		d.left[r.hold.Request] = left{r, time.Now().Add(d.c.Deadline)}
	}
}
