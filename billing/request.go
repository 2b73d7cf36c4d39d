package billing

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
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
	posted               // in the ledger, or settled for nothing
	voided
	gone // not in the map any more: look it up again
)

// request is one request that the Desk knows.
type request struct {
	mu         sync.Mutex // held over a record's way to the disk: who comes with the same request waits
	state      state
	hold       Hold
	account    *account   // while open or settled
	settlement Settlement // when settled; does not change any more
	at         time.Time  // of the settlement
}

// shard is a part of the requests, by their IDs.
type shard struct {
	mu       sync.Mutex
	requests map[ledger.ID]*request
	queue    []*request // settled, for the poster
	closed   []*request // ring of the requests that are remembered
	oldest   int        // place in the ring
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
	if s.Worker == "" && s.Share == 0 {
		return nil
	}
	if err := s.Worker.Check(); err != nil || s.Worker.Kind() != "worker" {
		return fmt.Errorf("%w: settlement to %.80q", ErrInvalid, string(s.Worker))
	}
	return nil
}

// Hold reserves the ceiling, in memory and in the journal. A second one with the same content is no error while the
// request is open. The errors are a *FundsError, ErrConflict, ErrBacklog, ErrUnavailable, ErrInvalid, the context's,
// and the journal's; after any of them nothing is held, but after a failed fsync a restart may find the hold.
func (d *Desk) Hold(ctx context.Context, h Hold) error {
	if err := h.check(); err != nil {
		return err
	}
	r := d.enter(h.Request, true)
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
		if err = d.append(ctx, appendHold(make([]byte, 0, 192), h)); err != nil {
			r.account.unhold(h.Ceiling, 0)
		}
	}
	if err != nil {
		d.live.Add(-1)
	}
	return err
}

// Settle closes a hold with what it cost. It does not end with its context: the money is owed. Once it has returned nil
// the settlement reaches the ledger, whatever happens. A second one with the same content is no error, another is
// ErrConflict. See ErrCeiling, ErrUnknown and ErrSettled for the others; after an error of the journal call it again.
func (d *Desk) Settle(ctx context.Context, s Settlement) error {
	ctx = context.WithoutCancel(ctx)
	if err := s.check(); err != nil {
		return err
	}
	r := d.enter(s.Request, false)
	if r == nil {
		return d.missing(ctx, s.Request)
	}
	defer r.mu.Unlock()
	if r.state != open {
		if r.state != voided && r.settlement == s {
			return nil
		}
		return fmt.Errorf("%w: %s is closed", ErrConflict, s.Request)
	}
	if s.Cost > r.hold.Ceiling {
		return fmt.Errorf("%w: %s: cost %v, ceiling %v", ErrCeiling, s.Request, s.Cost, r.hold.Ceiling)
	}
	at := time.UnixMilli(time.Now().UnixMilli()).UTC() // as the journal gives it back
	if err := d.append(ctx, appendSettle(make([]byte, 0, 288), r.hold.Account, &s, at)); err != nil {
		d.leave(r)
		return err
	}
	r.account.unhold(r.hold.Ceiling, s.Cost)
	d.settle(r, s, at)
	return nil
}

// settle takes a settlement that is in the journal, and hands it to the poster.
func (d *Desk) settle(r *request, s Settlement, at time.Time) {
	r.settlement, r.at = s, at
	if s.Cost == 0 { // nothing to post
		d.live.Add(-1)
		d.retire(r, posted)
		return
	}
	r.state, r.hold.Note = settled, nil
	d.unposted.Add(1)
	sh := d.at(s.Request)
	sh.mu.Lock()
	sh.queue = append(sh.queue, r)
	sh.mu.Unlock()
	if !d.kicked.Load() && d.kicked.CompareAndSwap(false, true) { // a look is cheaper than the channel that all share
		select {
		case d.kick <- struct{}{}:
		default:
		}
	}
}

// Void closes a hold that costs nothing. Like Settle it does not end with its context, and a second one is no error.
func (d *Desk) Void(ctx context.Context, id ledger.ID) error {
	ctx = context.WithoutCancel(ctx)
	r := d.enter(id, false)
	if r == nil {
		return d.missing(ctx, id)
	}
	defer r.mu.Unlock()
	return d.void(ctx, r)
}

// void voids a request whose lock is held.
func (d *Desk) void(ctx context.Context, r *request) error {
	switch r.state {
	case open:
	case voided:
		return nil
	default:
		return fmt.Errorf("%w: %s is settled", ErrConflict, r.hold.Request)
	}
	if err := d.append(ctx, appendVoid(make([]byte, 0, 64), r.hold.Request)); err != nil {
		d.leave(r)
		return err
	}
	r.account.unhold(r.hold.Ceiling, 0)
	d.live.Add(-1)
	d.retire(r, voided)
	return nil
}

// missing says what is known of a request that is not in memory.
func (d *Desk) missing(ctx context.Context, id ledger.ID) error {
	ctx, cancel := context.WithTimeout(ctx, askMax)
	defer cancel()
	has, err := d.c.Ledger.Has(ctx, TransferID(kindSettle, id))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if has[0] {
		return fmt.Errorf("%w: %s", ErrSettled, id)
	}
	return fmt.Errorf("%w: %s", ErrUnknown, id)
}

// append writes a record and notices when the journal breaks.
func (d *Desk) append(ctx context.Context, record []byte) error {
	err := d.write(ctx, record)
	if errors.Is(err, journal.ErrBroken) {
		d.breakOnce.Do(func() { close(d.broken) })
	}
	return err
}

// at returns the shard of a request.
func (d *Desk) at(id ledger.ID) *shard {
	return &d.shard[binary.LittleEndian.Uint64(id[:])%shards]
}

// enter finds a request and locks it. An unknown one it makes, or returns nil.
func (d *Desk) enter(id ledger.ID, create bool) *request {
	for {
		sh := d.at(id)
		sh.mu.Lock()
		r := sh.requests[id]
		if r == nil && create {
			r = &request{}
			sh.requests[id] = r
		}
		sh.mu.Unlock()
		if r == nil {
			return nil
		}
		r.mu.Lock()
		if r.state != gone && (create || r.state != fresh) {
			return r
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
func (d *Desk) retire(r *request, s state) {
	id := r.hold.Request
	r.state, r.account, r.hold = s, nil, Hold{Request: id}
	sh := d.at(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if len(sh.closed) < remembered/shards {
		sh.closed = append(sh.closed, r)
		return
	}
	if old := sh.closed[sh.oldest]; sh.requests[old.hold.Request] == old { // its ID never changes
		delete(sh.requests, old.hold.Request)
	}
	sh.closed[sh.oldest] = r
	sh.oldest = (sh.oldest + 1) % len(sh.closed)
}

// leave notes an open request that may stay open, so that it is voided in the end. Its lock is held.
func (d *Desk) leave(r *request) {
	d.leftMu.Lock()
	defer d.leftMu.Unlock()
	if _, ok := d.left[r.hold.Request]; !ok {
		d.left[r.hold.Request] = left{r, time.Now().Add(d.c.Deadline)}
	}
}
