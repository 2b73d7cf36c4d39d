// Package billing is the Desk: it holds money of a customer's account before a request goes out, and settles or voids
// the hold exactly once, whatever happens. It knows accounts and nanoTON, no models and no tokens.
//
// # The path of one request
//
// Hold and Settle work on memory and write one record each to the journal; no SQL. Settle waits until it is on disk, Hold
// does not: see "Crashes". A background poster (Run) folds the
// settlements into ledger transfers: one for each account and each second of traffic, whose ID and
// requests are in the journal before it is posted, so that posting again changes nothing.
//
//	free = what the ledger says the account has - holds - what is settled but not posted - what is being withdrawn
//
// Only where an account seems to lack the money, or is not known yet, does a request ask the ledger, once, before it is
// refused: a FundsError is never false while the money is there.
//
// # One gateway or several
//
// Without Config.Gateway the Desk is the only one that spends on its ledger, from the customers' accounts themselves.
// With it, it spends from allotments: money that the ledger moved to an account of this gateway and customer. They are
// refilled in the background before they run out, go back when idle, and are taken back by others after this gateway's
// lease has ended. A Desk whose lease has ended believes nothing that it knows and asks again.
//
// # Money that comes and goes otherwise
//
// What takes money from a customer's account beside requests does it within Withdraw, which sees to it that it is free:
// what a request holds can't be withdrawn, and what is withdrawn can't be held. What comes in is seen when it is
// needed, and after Credited within a second. Neither leaves anything to recover: the ledger has it or not.
//
// # Crashes
//
// Open replays the journal. A hold without a settlement or a void is open again and is in Recovered: receipts settle
// it, or it is voided when Config.Deadline has passed since Open. A process that dies loses none. A machine that dies may
// lose the holds of its last moments (journal.Options.Lazy): then nothing is charged, and whoever presents a receipt gets
// ErrUnknown. What is settled or voided is on disk, and its hold with it. Sync returns when all holds are: whoever keeps
// something elsewhere that must not outlive its hold calls it first. A batch of settlements that the ledger lacks is
// posted as it was, and what is in no batch comes into a new one. To a caller that got an error from Settle or Void the
// outcome is open: it asks again with the same content, now or after a restart. When an fsync has failed, Run ends with
// journal.ErrBroken and the process should start anew.
//
// Times that decide anything (leases, deadlines) are the monotonic clock's: jumps of the wall clock only show in the
// times of transfers.
//
// The journal is trimmed when it is large: what is still open is written again at its end, and older segments become an
// archive, against which Audit checks the ledger, request by request.
package billing

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cocoon/billing/journal"
	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

const (
	// NoteMax is the largest note of a hold in bytes.
	NoteMax = 1024
	// DefaultBacklog bounds the requests that are open or not posted: half an hour of a database's absence at 100
	// requests a second, and about 100 MB of memory.
	DefaultBacklog = 200_000
	// DefaultDeadline is how long a hold that a crash left over waits for its receipt: workers reconnect in seconds, but
	// one that restarts loads a model first.
	DefaultDeadline = time.Hour
	// DefaultLease is how long a gateway's allotments are its own without a sign of life.
	DefaultLease = time.Minute

	// DefaultKeep is how long the archive of the journal is kept: bills are disputed within a quarter.
	DefaultKeep = 90 * 24 * time.Hour

	// remembered is how many closed requests' outcome is remembered. A duplicate receipt comes soon.
	remembered = 1 << 17

	shards     = 64               // locks of the requests: many more than cores
	askMax     = 5 * time.Second  // a request waits no longer for the ledger before it is turned away
	postMax    = 30 * time.Second // a post that takes longer is tried again
	journalMax = 32 << 20         // bytes of the journal beyond which it is trimmed
	tick       = time.Second      // of the keeper
)

var (
	// ErrFunds says that an account lacks the money; the error is a *FundsError.
	ErrFunds = errors.New("billing: not enough money")
	// ErrElsewhere says that the money is there, but allotted to other gateways for the moment; a *FundsError too.
	ErrElsewhere = errors.New("billing: the money is allotted to another gateway, try again")
	// ErrConflict says that the request is known with other content: another ceiling, cost or worker, or closed otherwise.
	ErrConflict = errors.New("billing: the request is known with other content")
	// ErrCeiling says that a settlement costs more than was held.
	ErrCeiling = errors.New("billing: the cost is above the ceiling that was held")
	// ErrUnknown says that no hold of that request is known: there was none, it was closed long ago (many thousands of
	// requests), or another gateway has it.
	ErrUnknown = errors.New("billing: no hold of that request")
	// ErrBacklog says that too many requests are open or not posted, because the ledger does not answer.
	ErrBacklog = errors.New("billing: too many requests are not in the ledger yet")
	// ErrUnavailable says that the ledger could not be asked whether the money is there.
	ErrUnavailable = errors.New("billing: the ledger can't be asked now")
	// ErrInvalid says that a hold or a settlement is not one.
	ErrInvalid = errors.New("billing: invalid")
)

// FundsError says what an account has and what a hold needs. It is ErrElsewhere if other gateways' allotments hold
// enough for it, else ErrFunds.
type FundsError struct {
	Account   ledger.Account
	Balance   nanoton.Amount // with what is held, without what is settled
	Held      nanoton.Amount // by open requests
	Needed    nanoton.Amount // by this one
	Elsewhere nanoton.Amount // in allotments of other gateways
}

// Error names the amounts.
func (e *FundsError) Error() string {
	text := fmt.Sprintf("%v: %s: balance %v, held %v, needed %v", e.kind(), e.Account, e.Balance, e.Held, e.Needed)
	if e.Elsewhere != 0 {
		text += fmt.Sprintf(", allotted to other gateways %v", e.Elsewhere)
	}
	return text
}

// Is matches ErrFunds or ErrElsewhere.
func (e *FundsError) Is(target error) bool { return target == e.kind() }

func (e *FundsError) kind() error {
	if short := e.Needed - (e.Balance - e.Held); short <= e.Elsewhere {
		return ErrElsewhere
	}
	return ErrFunds
}

// Ledger is what the Desk needs of *ledger.Ledger.
type Ledger interface {
	Post(ctx context.Context, transfers []ledger.Transfer) error
	Balance(ctx context.Context, account ledger.Account) (nanoton.Amount, error)
	Balances(ctx context.Context, prefix string) (map[ledger.Account]nanoton.Amount, error)
	Allotted(ctx context.Context, customer ledger.Account) (map[ledger.Account]nanoton.Amount, error)
	Has(ctx context.Context, ids ...ledger.ID) ([]bool, error)
	Allot(ctx context.Context, a ledger.Allotment) (nanoton.Amount, error)
	Release(ctx context.Context, gateway string, customer ledger.Account) error
	Heartbeat(ctx context.Context, gateway string, until time.Time) error
	Reclaim(ctx context.Context, now time.Time) ([]ledger.Reclaimed, error)
}

// Config is what a Desk is made of.
type Config struct {
	Ledger  Ledger
	Dir     string        // folder of the journal
	Gateway string        // name of this gateway on a shared ledger; empty: it is the only one
	Lease   time.Duration // zero: DefaultLease; too short loses allotments to a slow database
	// Deadline is how long a hold left over by a crash or a failed write waits for its settlement. Zero: DefaultDeadline.
	Deadline time.Duration
	// Keep is how long trimmed parts of the journal are kept as an archive for Audit, by their last change: some 700 bytes
	// a request. Zero: DefaultKeep. Negative: there is none.
	Keep    time.Duration
	Backlog int             // most requests that are open or not posted; zero: DefaultBacklog
	Journal journal.Options // zero is right
	Log     *slog.Logger    // nil: nothing is logged
}

// Hold asks for money before a request goes out.
type Hold struct {
	// Request names the request. Its maker, the gateway, must never use one twice: two requests with one name are
	// charged once.
	Request ledger.ID
	Account ledger.Account // of kind customer
	Ceiling nanoton.Amount // the most that the request can cost
	// Note is what the caller wants back with a recovered hold, such as the price: opaque, NoteMax bytes at most, no
	// secret. The Desk keeps the slice.
	Note []byte
}

// Settlement says what a request cost and who gets it. Cost = Share + Fee. Two are the same if all of it is.
type Settlement struct {
	Request ledger.ID
	Worker  ledger.Account // of kind worker; may be empty if Share is zero
	Cost    nanoton.Amount // from the hold's account; at most its ceiling
	Share   nanoton.Amount // to the worker
	Fee     nanoton.Amount // to the gateway's fees
	Line    Line           // what it is counted under; strange text in it is made plain
	Receipt [32]byte       // of what proves it; the Desk only keeps it
}

// Recovered is a hold that a crash or a failed write left open.
type Recovered struct {
	Hold
	Deadline time.Time // it is voided then
}

// Stats are numbers for metrics.
type Stats struct {
	Open      int // holds
	Unposted  int // settlements that are not in the ledger yet
	Stuck     int // of these: refused by the ledger, tried again now and then
	Conflicts int // settlements dropped since Open, because the ledger has their transfer with other content
	Journal   int64
}

// Desk is an open Desk. Its methods may be called concurrently.
type Desk struct {
	c       Config
	log     *slog.Logger
	journal *journal.Journal
	write   func(ctx context.Context, records ...[]byte) error // onto the disk; tests put faults here
	pass    func(records ...[]byte) error                      // to the system, which puts them there; tests put faults here
	seed    maphash.Seed                                       // of what requests are known by

	scratch sync.Pool // of *scratch

	shard    [shards]shard
	accounts *accounts

	queueMu sync.Mutex
	queue   []queued // guarded by queueMu: settled, for the poster

	live      atomic.Int64 // requests that are open or not posted
	unposted  atomic.Int64
	stuck     atomic.Int64
	conflicts atomic.Int64

	sql       chan struct{} // holds one token: who has it talks to the ledger about balances
	uncertain bool          // a post failed and may have persisted; owned by who has sql

	lease     atomic.Int64 // end of the lease, in nanoseconds since start
	start     time.Time    // with the monotonic clock: jumps of the wall clock change nothing
	kicked    atomic.Bool
	kick      chan struct{} // there is something to post
	refills   chan *account
	broken    chan struct{} // closed when the journal broke
	breakOnce sync.Once

	batchMu   sync.Mutex
	batches   map[ledger.ID]*batch // guarded by batchMu: made, and not known to be posted
	recovered []*batch             // by Open, for the poster

	leftMu sync.Mutex
	left   map[ledger.ID]left // guarded by leftMu: open requests with a deadline
	trimAt int64              // size of the journal that is trimmed; owned by the keeper
}

// left is a request that nobody may come back for.
type left struct {
	r        *request
	deadline time.Time
}

// Open opens the journal, replays it against the ledger and returns a Desk that is ready for Hold. Run has to be
// started for anything to reach the ledger.
func Open(ctx context.Context, c Config) (*Desk, error) {
	if strings.Contains(c.Gateway, ":") {
		return nil, fmt.Errorf("%w: gateway name %q", ErrInvalid, c.Gateway)
	}
	if c.Lease == 0 {
		c.Lease = DefaultLease
	}
	if c.Deadline == 0 {
		c.Deadline = DefaultDeadline
	}
	if c.Backlog == 0 {
		c.Backlog = DefaultBacklog
	}
	if c.Keep == 0 {
		c.Keep = DefaultKeep
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Journal.Archive = c.Keep > 0
	j, err := journal.Open(c.Dir, c.Journal)
	if err != nil {
		return nil, err
	}
	d := &Desk{
		c: c, log: c.Log, journal: j, write: j.Append, pass: j.Write, seed: maphash.MakeSeed(),
		sql: make(chan struct{}, 1), start: time.Now(), kick: make(chan struct{}, 1),
		refills: make(chan *account, 1024), broken: make(chan struct{}), left: map[ledger.ID]left{}, trimAt: journalMax,
		batches: map[ledger.ID]*batch{}, accounts: newAccounts(),
	}
	d.sql <- struct{}{}
	for i := range d.shard {
		d.shard[i].requests = map[uint64]*request{}
	}
	if err := d.recover(ctx); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return d, nil
}

// Sync returns when the holds and all else that the Desk has accepted are on disk. It is free if they are. The error is
// journal.ErrBroken, or the context's.
func (d *Desk) Sync(ctx context.Context) error { return d.noticed(d.journal.Sync(ctx)) }

// Close closes the journal. Run must have ended. What was not posted is posted after the next Open.
func (d *Desk) Close() error { return d.journal.Close() }

// Balance returns what is known of an account: its balance with what is held, and what is held. With allotments it is
// this gateway's part of both. It is not ok if the account has not been used lately: then the ledger knows all of it.
func (d *Desk) Balance(name ledger.Account) (balance, held nanoton.Amount, ok bool) {
	a := d.accounts.load(name)
	if a == nil {
		return 0, 0, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	// What nobody uses is not read again: it may have been paid in meanwhile.
	fresh := a.held != 0 || a.unposted != 0 || time.Since(a.checked) < reread && !a.credited
	return a.base - a.unposted - a.leaving - a.unsure, a.held, a.known && fresh
}

// Recovered returns the holds that a crash or a failed write left open, and when they will be voided.
func (d *Desk) Recovered() []Recovered {
	d.leftMu.Lock()
	defer d.leftMu.Unlock()
	var all []Recovered
	for _, l := range d.left {
		if l.r.mu.TryLock() { // whoever has it is about to close it
			if l.r.state == open {
				all = append(all, Recovered{l.r.asked(), l.deadline})
			}
			l.r.mu.Unlock()
		}
	}
	return all
}

// Stats counts.
func (d *Desk) Stats() Stats {
	unposted := d.unposted.Load()
	return Stats{
		Open: int(max(0, d.live.Load()-unposted)), Unposted: int(unposted), Stuck: int(d.stuck.Load()),
		Conflicts: int(d.conflicts.Load()), Journal: d.journal.Size(),
	}
}
