// Package clerk takes workers' receipts to the Desk: it holds money before a request goes out, checks what the worker
// signs about it, settles or voids, waits for receipts that did not come in band, and acknowledges them. It speaks no
// HTTP.
//
// # The path of one request
//
// Hold writes the terms of the request into the Desk's hold. Take checks each receipt that comes with the answer, but
// for its signature. Close says how it ended; what follows is off the request's path: the signatures of the receipts that
// came together are checked, with one of the worker's for many, receipts go into the log (package tally), then the hold
// is settled or voided, in batches, and only then the worker hears that it may forget the receipt.
//
//	signature, hold on disk  ->  receipt in the log  ->  settlement in the journal  ->  acknowledgement
//
// Whatever fails is tried again, in that order. A crash between the first two is mended by Run: a hold that a crash
// left over and whose receipt is in the log is settled by it. A crash between the last two costs nothing: the worker
// presents the receipt again, and it is found in the log.
//
// # Outcomes
//
//	Done, the final receipt in hand    settled
//	Done without it                    voided: the worker's fault
//	Failed                             voided, whatever the receipt says
//	Cut, the final receipt in hand     settled
//	Cut without it                     the worker's final receipt settles; an interim one says that it made no final one,
//	                                   and voids, and so does its silence, once it is back, and patience
//	Left, the final receipt in hand    settled
//	Left without it                    the worker's last receipt settles, interim or final; when patience ends, the last
//	                                   one that came in band; else it is voided
//	gateway died                       the worker's final receipt settles; an interim one voids, and the Desk's deadline
//
// A final receipt with status error settles for nothing, and the request is not counted in the account's usage.
package clerk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"cocoon/billing"
	"cocoon/billing/ledger"
	"cocoon/billing/tally"
	"cocoon/internal/receipt"
)

const (
	// DefaultPatience is how long a worker may stay away with a receipt that it owes: it restarts, loads a model, and is
	// back by then. The customer's money is held meanwhile.
	DefaultPatience = 10 * time.Minute
	// BacklogMax bounds the requests that wait for a receipt or for the disk: about 60 MB. It is seconds of full load
	// while the disk fails, and far more broken connections than there are in DefaultPatience.
	BacklogMax = 20_000

	tick = time.Second // of looks at what waits
	// quiet is how long a worker that is there may say nothing of a request whose connection broke, until that means
	// that there is nothing: it notices a broken connection when it next writes, and presents no receipt within 5 s of
	// having sent it.
	quiet = 30 * time.Second
)

var (
	// ErrKeyset says that a keyset is not known, is another worker's, or does not name the model.
	ErrKeyset = errors.New("clerk: no such keyset, worker or model")
	// ErrBacklog says that too many requests wait for receipts or for the disk.
	ErrBacklog = errors.New("clerk: too many requests are not settled yet")
	// ErrInvalid says that terms are none.
	ErrInvalid = errors.New("clerk: invalid terms")
	// ErrAbsent says that there is no such receipt or evidence.
	ErrAbsent = errors.New("clerk: not here")
)

// Desk is what the clerk needs of *billing.Desk.
type Desk interface {
	Hold(ctx context.Context, h billing.Hold) error
	SettleAll(ctx context.Context, s []billing.Settlement) []error
	Void(ctx context.Context, request ledger.ID) error
	Sync(ctx context.Context) error
	Lookup(request ledger.ID) (billing.Hold, bool)
	Recovered() []billing.Recovered
}

// Config is what a Clerk is made of.
type Config struct {
	Desk Desk
	Log  *tally.Log // of receipts
	Dir  string     // folder of keysets and their evidence; made if it is missing
	// Tag is in each request's ID: bytes 8 to 11. Receipts with another one are of another gateway's requests.
	Tag      [4]byte
	Patience time.Duration // zero: DefaultPatience
	// Voucher is a worker's newest voucher, which goes along with acknowledgements; nil if there is none. It does not wait
	// for the chain. May be nil.
	Voucher func(ctx context.Context, worker receipt.Digest) *receipt.Voucher
	Logger  *slog.Logger // nil: nothing is logged
}

// Clerk is an open clerk. Its methods may be called concurrently.
type Clerk struct {
	c       Config
	log     *slog.Logger
	keysets *keysets
	pipe    pipeline
	shards  [shards]shard

	mu      sync.Mutex // taken before a shard's
	workers map[receipt.Digest]*worker
	fresh   []*peer // attached, for Run; guarded by mu
	kick    chan struct{}
	waiting atomic.Int64 // bills that wait for a receipt
	spare   sync.Pool    // of *Bill

	counts counts
}

// shards is in how many parts the bills are kept: requests do not wait for each other then.
const shards = 64

// shard is a part of the bills, by their requests' IDs.
type shard struct {
	mu    sync.Mutex
	bills map[ledger.ID]*Bill // open, waiting or queued
	queue []*entry            // decided, for the pipeline
}

// shard returns that of a request.
func (c *Clerk) shard(id ledger.ID) *shard { return &c.shards[id[0]%shards] }

// bill finds one.
func (c *Clerk) bill(id ledger.ID) *Bill {
	sh := c.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.bills[id]
}

// Open reads the folder of keysets, and takes the holds that a crash left over into the line of those that wait for a
// receipt. Run has to be started for anything to be settled.
func Open(c Config) (*Clerk, error) {
	if c.Patience == 0 {
		c.Patience = DefaultPatience
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	k, err := openKeysets(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("opening the folder of keysets: %w", err)
	}
	cl := &Clerk{
		c: c, log: c.Logger, keysets: k, pipe: newPipeline(),
		workers: map[receipt.Digest]*worker{}, kick: make(chan struct{}, 1), counts: newCounts(),
	}
	for i := range cl.shards {
		cl.shards[i].bills = map[ledger.ID]*Bill{}
	}
	cl.recover()
	return cl, nil
}

// Reason says why a receipt was refused or a hold voided: a closed set, for metrics.
type Reason string

// Why receipts are refused, and holds voided.
const (
	BadForm      Reason = "form"      // not a receipt
	BadSignature Reason = "signature" // not the keyset's
	BadKeyset    Reason = "keyset"    // of a keyset that this gateway never attested, or has forgotten
	BadTerms     Reason = "terms"     // not what was agreed on, above the caps, or wrongly added up
	BadChain     Reason = "chain"     // does not fit the receipts before it
	NotOwn       Reason = "not_own"   // another worker's
	NoHold       Reason = "no_hold"   // there is no hold of the request, any more or at all
	NotFinal     Reason = "not_final" // an interim receipt, where only a final one is paid

	WorkerFault Reason = "fault"      // the answer failed, or nothing of it was delivered
	NoReceipt   Reason = "no_receipt" // the answer was complete, and no final receipt came with it
	NoWord      Reason = "no_word"    // the worker is there, and says nothing of the request
	Patience    Reason = "patience"   // the worker stayed away
)

// Stats are numbers for metrics. Counts are since Open.
type Stats struct {
	Open    int // requests that run, or whose end is on its way to the disk
	Waiting int // requests that wait for a receipt
	Queued  int // requests that wait for the disk
	Settled int64
	Interim int64 // of these: by an interim receipt
	Voided  map[Reason]int64
	Refused map[Reason]int64 // receipts
	Retries int64            // of failed writes to the disk
	// Shared and Single are receipts whose signature was checked: with many others at once, and by its own.
	Shared, Single int64
	Workers        map[receipt.Digest]WorkerStats
}

// WorkerStats are a worker's part of them.
type WorkerStats struct {
	Attached    bool
	Settled     int64
	Refused     int64
	Implausible int64 // settled, but for more tokens than what was relayed can have
	Tokens      int64 // made and not of reasoning, by receipts that came in band
	Events      int64 // relayed with them
	Bytes       int64
	Acks        int // that are on their way
}

// Stats counts.
func (c *Clerk) Stats() Stats {
	s := c.counts.stats()
	s.Waiting, s.Queued = int(c.waiting.Load()), int(c.pipe.queued.Load())
	for i := range c.shards {
		sh := &c.shards[i]
		sh.mu.Lock()
		s.Open += len(sh.bills)
		sh.mu.Unlock()
	}
	s.Open = max(0, s.Open-s.Waiting)
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Workers = make(map[receipt.Digest]WorkerStats, len(c.workers))
	for id, w := range c.workers {
		ws := w.stats
		ws.Attached = w.peer != nil
		if w.peer != nil {
			ws.Acks = len(w.peer.acks.Settled) + len(w.peer.acks.Refused)
		}
		s.Workers[id] = ws
	}
	return s
}

// counts are the clerk's counters.
type counts struct {
	mu sync.Mutex
	s  Stats // only what is counted
}

func newCounts() counts {
	return counts{s: Stats{
		Voided: map[Reason]int64{WorkerFault: 0, NoReceipt: 0, NoWord: 0, NotFinal: 0, Patience: 0, NoHold: 0},
		Refused: map[Reason]int64{
			BadForm: 0, BadSignature: 0, BadKeyset: 0, BadTerms: 0, BadChain: 0, NotOwn: 0, NoHold: 0, NotFinal: 0, WorkerFault: 0,
		},
	}}
}

func (n *counts) stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.s
	s.Voided, s.Refused = maps.Clone(s.Voided), maps.Clone(s.Refused)
	return s
}

// over counts bills that are closed on disk.
func (n *counts) over(list []*entry) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range list {
		switch {
		case e.paid == nil:
			n.s.Voided[e.why]++
		case e.paid.Kind == receipt.Interim:
			n.s.Interim++
			n.s.Settled++
		default:
			n.s.Settled++
		}
	}
}

func (n *counts) retry() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.s.Retries++
}

// vouch counts receipts whose signature was checked.
func (n *counts) vouch(receipts int, shared bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if shared {
		n.s.Shared += int64(receipts)
	} else {
		n.s.Single += int64(receipts)
	}
}

func (n *counts) refuse(why Reason) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.s.Refused[why]++
}
