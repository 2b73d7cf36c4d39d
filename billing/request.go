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
	"cocoon/internal/nanoton"
)

// state is where a request is in its life.
type state uint8

const (
	fresh   state = iota // being held
	open                 // held
	settled              // in the journal, not in the ledger
	gone                 // closed for good, or never held: not in the map any more, look it up again
)

// request is one request that is open, or settled and not in the ledger. There are many, so it has each thing once; what
// the garbage collector follows is together.
type request struct {
	mu      sync.Mutex // held over a record's way to the disk: who comes with the same request waits
	state   state
	account *account // while open or settled
	batch   *batch   // that it is posted with; set once
	note    []byte   // while open
	ceiling nanoton.Amount

	// When settled; they do not change any more.
	worker           ledger.Account
	line             Line
	cost, share, fee nanoton.Amount
	at               int64 // Unix time, ms
	receipt          [32]byte

	id ledger.ID // never changes
}

// asked is the hold of a request that is open. The lock is held.
func (r *request) asked() Hold {
	return Hold{Request: r.id, Account: r.account.name, Ceiling: r.ceiling, Note: r.note}
}

// settlement is that of a settled request, and when it was settled.
func (r *request) settlement() (Settlement, time.Time) {
	return Settlement{
		Request: r.id, Worker: r.worker, Cost: r.cost, Share: r.share, Fee: r.fee, Line: r.line, Receipt: r.receipt,
	}, time.UnixMilli(r.at).UTC()
}

// settle sets the settlement. The lock is held.
func (r *request) settle(s *Settlement, at time.Time) {
	r.worker, r.line, r.receipt = s.Worker, s.Line, s.Receipt
	r.cost, r.share, r.fee, r.at = s.Cost, s.Share, s.Fee, at.UnixMilli()
	r.state, r.note = settled, nil // the note is large
}

// outcome is what is remembered of a request that is closed for good.
type outcome uint64

const voided outcome = 0 // any other one is a settlement's

// shard is a part of the requests, by their IDs. They are known by hashes of 64 bits, with a seed that nobody can know:
// that one of some 100,000 is taken for another is less likely than that the machine fails.
type shard struct {
	mu       sync.Mutex
	requests map[uint64]*request
	closed   *past // what is remembered of closed requests; nil: nothing
}

// scratch is memory for records on their way to the journal, which copies them.
type scratch struct {
	buf     []byte
	records [][]byte
	order   []place
	doing   []taken
	settled []queued
}

func (d *Desk) borrow() *scratch {
	if w, _ := d.scratch.Get().(*scratch); w != nil {
		return w
	}
	return &scratch{}
}

func (d *Desk) putBack(w *scratch) {
	clear(w.doing)
	clear(w.settled)
	w.buf, w.records, w.order, w.doing, w.settled = w.buf[:0], w.records[:0], w.order[:0], w.doing[:0], w.settled[:0]
	d.scratch.Put(w)
}

// check says what is wrong with a hold.
func (h *Hold) check() error {
	if err := h.Account.Check(); err != nil || h.Account.Kind() != "customer" {
		return fmt.Errorf("%w: hold on %.80q", ErrInvalid, string(h.Account))
	}
	return h.checkRest()
}

// checkRest checks all but the account.
func (h *Hold) checkRest() error {
	if h.Ceiling < 0 || h.Request == (ledger.ID{}) || len(h.Note) > NoteMax {
		return fmt.Errorf("%w: hold of %d nanoTON on %s with a note of %d bytes",
			ErrInvalid, int64(h.Ceiling), h.Account, len(h.Note))
	}
	return nil
}

// check says what is wrong with a settlement.
func (s *Settlement) check() error {
	if err := s.checkNumbers(); err != nil {
		return err
	}
	if !s.Line.isPlain() {
		return fmt.Errorf("%w: a line's text", ErrInvalid)
	}
	return s.checkWorker()
}

func (s *Settlement) checkNumbers() error {
	// Share <= Cost first: their difference can't overflow then.
	if s.Share < 0 || s.Fee < 0 || s.Share > s.Cost || s.Cost-s.Share != s.Fee {
		return fmt.Errorf("%w: cost %d is not share %d + fee %d nanoTON",
			ErrInvalid, int64(s.Cost), int64(s.Share), int64(s.Fee))
	}
	for _, n := range s.Line.Counts {
		if n < 0 || n > ledger.UsageCountMax {
			return fmt.Errorf("%w: a count of %d", ErrInvalid, n)
		}
	}
	return nil
}

func (s *Settlement) checkWorker() error {
	if s.Worker == "" && s.Share == 0 {
		return nil
	}
	if err := s.Worker.Check(); err != nil || s.Worker.Kind() != "worker" {
		return fmt.Errorf("%w: settlement to %.80q", ErrInvalid, string(s.Worker))
	}
	return nil
}

// outcome is what is remembered of it: the same for the same content, and for no other that anybody comes with. The
// request is not in it: it is remembered by that.
func (d *Desk) outcome(s *Settlement) outcome {
	const numbers = 3 + len(s.Line.Counts) + 4
	var b [len(s.Receipt) + 8*numbers]byte
	rest := b[copy(b[:], s.Receipt[:]):]
	put := func(n uint64) {
		binary.LittleEndian.PutUint64(rest, n)
		rest = rest[8:]
	}
	put(uint64(s.Cost))
	put(uint64(s.Share))
	put(uint64(s.Fee))
	for _, n := range s.Line.Counts {
		put(uint64(n))
	}
	put(maphash.String(d.seed, string(s.Worker)))
	put(maphash.String(d.seed, s.Line.Key))
	put(maphash.String(d.seed, s.Line.Item))
	put(maphash.String(d.seed, s.Line.User))
	return outcome(maphash.Bytes(d.seed, b[:]) | 1)
}

// Hold reserves the ceiling, in memory and in the journal, whose disk it does not wait for: see Sync. A second one with the
// same content is no error while the request is open. The errors are a *FundsError, ErrConflict, ErrBacklog,
// ErrUnavailable, ErrInvalid, the context's, and the journal's; after any of them nothing is held, but if the disk is ill
// a restart may find the hold.
func (d *Desk) Hold(ctx context.Context, h Hold) error {
	a := d.accounts.load(h.Account)
	var err error
	if a != nil { // its name was checked when it came into memory
		err = h.checkRest()
	} else {
		err = h.check()
	}
	if err != nil {
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
		if h.Account == r.account.name && h.Ceiling == r.ceiling && bytes.Equal(h.Note, r.note) {
			return nil
		}
		return fmt.Errorf("%w: %s is held", ErrConflict, h.Request)
	default:
		return fmt.Errorf("%w: %s is closed", ErrConflict, h.Request)
	}
	if a, err = d.hold(ctx, a, &h); err != nil {
		d.forget(r)
		return err
	}
	r.state, r.account, r.ceiling, r.note = open, a, h.Ceiling, h.Note
	return nil
}

// hold reserves the money and writes the record, or does neither. The account is that in memory, or nil; it returns the
// one that has the money.
func (d *Desk) hold(ctx context.Context, a *account, h *Hold) (_ *account, err error) {
	if d.live.Add(1) > int64(d.c.Backlog) {
		err = fmt.Errorf("%w: %d", ErrBacklog, d.c.Backlog)
	} else if a, err = d.reserve(ctx, a, h); err == nil {
		if err = d.passHold(h); err != nil {
			a.unhold(h.Ceiling, 0)
		}
	}
	if err != nil {
		d.live.Add(-1)
	}
	return a, err
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
	return r.asked(), r.state == open
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
	all = checkAll(all, errs)
	for from := 0; from < len(all); from += settleOnce {
		to := min(from+settleOnce, len(all))
		some, errs := all[from:to], errs[from:to]
		w.order = w.order[:0]
		for i := range some {
			if errs[i] == nil {
				w.order = append(w.order, some[i].place(i))
			}
		}
		sortPlaces(w.order, some)
		d.settleSome(ctx, w, some, w.order, errs)
	}
	return errs
}

// checkAll checks settlements, and gives them with their texts made plain.
func checkAll(all []Settlement, errs []error) []Settlement {
	given, good := true, ledger.Account("") // good is a worker that was checked: the next is often the same
	for i := range all {
		s := &all[i]
		if !s.Line.isPlain() {
			if given { // the caller's stay as they are
				all, given = slices.Clone(all), false
				s = &all[i]
			}
			s.Line = s.Line.clean()
			errs[i] = s.check()
		} else if errs[i] = s.checkNumbers(); errs[i] == nil && (s.Worker == "" || s.Worker != good) {
			if errs[i] = s.checkWorker(); errs[i] == nil {
				good = s.Worker
			}
		}
	}
	return all
}

// place is where a settlement is among some, and the beginning of its request's ID: that sorts fast.
type place uint64

const placeMask = 1<<9 - 1 // of where it is: settleOnce is less

func (s *Settlement) place(i int) place {
	return place(binary.BigEndian.Uint64(s.Request[:])&^placeMask | uint64(i))
}

func (p place) i() int { return int(p & placeMask) }

// sortPlaces sorts by the IDs of the requests: whoever locks several does so in that order.
func sortPlaces(order []place, some []Settlement) {
	slices.Sort(order)
	for n := 1; n < len(order); n++ {
		a, b := order[n-1], order[n]
		if a|placeMask == b|placeMask && some[a.i()].Request != some[b.i()].Request { // alike, but not the same
			slices.SortFunc(order, func(a, b place) int {
				return cmp.Or(some[a.i()].Request.Compare(some[b.i()].Request), cmp.Compare(a, b))
			})
			return
		}
	}
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
		s := &all[p.i()]
		if n > 0 && all[order[n-1].i()].Request == s.Request {
			again = append(again, p)
			continue
		}
		r, err := d.settleable(s)
		if errs[p.i()] = err; r != nil {
			w.doing = append(w.doing, taken{p.i(), r})
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
	if r.state == open && s.Cost <= r.ceiling {
		return r, nil
	}
	defer r.mu.Unlock()
	if r.state == open {
		return nil, fmt.Errorf("%w: %s: cost %v, ceiling %v", ErrCeiling, s.Request, s.Cost, r.ceiling)
	}
	if was, _ := r.settlement(); was != *s {
		return nil, fmt.Errorf("%w: %s is settled", ErrConflict, s.Request)
	}
	return nil, nil
}

// settleThese writes the settlements of open requests, whose locks are held, and unlocks them.
func (d *Desk) settleThese(ctx context.Context, w *scratch, all []Settlement, errs []error) {
	at := time.UnixMilli(time.Now().UnixMilli()).UTC() // as the journal gives it back
	size := 0
	for _, one := range w.doing {
		size += settleSize(one.r.account.name, &all[one.i])
	}
	w.buf, w.records = slices.Grow(w.buf[:0], size), w.records[:0]
	for _, one := range w.doing {
		from := len(w.buf)
		w.buf = appendSettle(w.buf, one.r.account.name, &all[one.i], at, ledger.ID{})
		w.records = append(w.records, w.buf[from:])
	}
	err := d.append(ctx, w.records...)
	w.settled = w.settled[:0]
	for _, one := range w.doing {
		r, s := one.r, &all[one.i]
		if errs[one.i] = err; err != nil {
			d.leave(r)
			continue
		}
		r.account.unhold(r.ceiling, s.Cost)
		if s.empty() {
			d.live.Add(-1)
			d.retire(r, closing{d.hash(r.id), d.outcome(s)})
			continue
		}
		r.settle(s, at)
		w.settled = append(w.settled, queued{r, r.account})
	}
	d.enqueue(w.settled)
	for _, one := range w.doing {
		one.r.mu.Unlock()
	}
	if err == nil {
		d.wakePoster()
	}
}

// empty says whether there is nothing to post of a settlement.
func (s *Settlement) empty() bool { return s.Cost == 0 && s.Line == (Line{}) }

// queued is a settled request on its way to the poster.
type queued struct {
	r *request
	a *account // r's, at hand
}

// enqueue queues requests for the poster that are settled in the journal. Their locks are held.
func (d *Desk) enqueue(some []queued) {
	d.unposted.Add(int64(len(some)))
	d.queueMu.Lock()
	defer d.queueMu.Unlock()
	d.queue = append(d.queue, some...)
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
	if r.state != open {
		return fmt.Errorf("%w: %s is settled", ErrConflict, r.id)
	}
	w := d.borrow()
	defer d.putBack(w)
	w.buf = appendVoid(w.buf, r.id)
	w.records = append(w.records, w.buf)
	if err := d.append(ctx, w.records...); err != nil {
		d.leave(r)
		return err
	}
	r.account.unhold(r.ceiling, 0)
	d.live.Add(-1)
	d.retire(r, closing{d.hash(r.id), voided})
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

// at returns the shard of a request, by its hash: of other bits than those by which it is found there.
func (d *Desk) at(hash uint64) *shard { return &d.shard[hash>>32%shards] }

// enter finds a request and locks it. One that is closed for good gives its outcome. An unknown one it makes, or
// returns nil and false.
func (d *Desk) enter(id ledger.ID, create bool) (r *request, was outcome, closed bool) {
	hash := d.hash(id)
	sh := d.at(hash)
	for {
		sh.mu.Lock()
		if r = sh.requests[hash]; r == nil {
			was, closed = sh.closed.recall(hash)
			if create && !closed {
				r = &request{id: id}
				sh.requests[hash] = r
			}
		}
		sh.mu.Unlock()
		if r == nil {
			return nil, was, closed
		}
		if r.id != id { // with the same hash: that does not happen, and if it does one of them is turned away
			return nil, 0, create
		}
		r.mu.Lock()
		if r.state != gone && (create || r.state != fresh) {
			return r, 0, false
		}
		r.mu.Unlock()
	}
}

// forget removes a request that was never held. Its lock is held.
func (d *Desk) forget(r *request) {
	r.state = gone
	hash := d.hash(r.id)
	sh := d.at(hash)
	sh.mu.Lock()
	delete(sh.requests, hash)
	sh.mu.Unlock()
}

// retire closes a request for good. It is remembered until many others have come after it. Its lock is held.
func (d *Desk) retire(r *request, as closing) {
	r.state = gone
	sh := d.at(as.hash)
	sh.mu.Lock()
	delete(sh.requests, as.hash)
	sh.remember(as)
	sh.mu.Unlock()
}

// hash is what a request is known by, not 0.
func (d *Desk) hash(id ledger.ID) uint64 { return max(1, maphash.Bytes(d.seed, id[:])) }

// remember keeps what became of a request. The shard's lock is held.
func (sh *shard) remember(one closing) {
	if sh.closed == nil {
		sh.closed = &past{}
	}
	sh.closed.remember(one)
}

// leave notes an open request that may stay open, so that it is voided in the end. Its lock is held.
func (d *Desk) leave(r *request) {
	d.leftMu.Lock()
	defer d.leftMu.Unlock()
	if _, ok := d.left[r.id]; !ok {
		d.left[r.id] = left{r, time.Now().Add(d.c.Deadline)}
	}
}
