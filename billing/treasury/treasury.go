// Package treasury is the gateway's wallet on the chain: what comes in is credited once, what is owed is paid once.
//
// Everything that it knows is in the ledger: money in accounts, the rest in documents. Each transaction of the wallet is
// applied by one [ledger.Ledger.Commit], which moves the scanner's cursor along. A payment is signed, then committed with
// its signed message, then sent, any number of times, until the chain shows what became of it. So a process may die
// anywhere, and several gateways may run one treasury on one ledger: the one whose commit comes second reads anew.
//
// The account "chain" is always the other side of what the wallet holds: at the cursor, its balance below zero is the
// proven balance of the wallet, to the nanoTON. Where it is not, payouts stop.
package treasury

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/billing/ton/wallet"
	"cocoon/internal/nanoton"
)

// Accounts of the ledger that the treasury posts to by itself.
const (
	accountChain      ledger.Account = "chain"
	accountTransit    ledger.Account = "transit"
	accountCold       ledger.Account = "cold"
	accountNetwork    ledger.Account = "network"
	accountCollateral                = "collateral:" // of each worker
	accountFees       ledger.Account = "fees"
	accountPayouts    ledger.Account = "payouts"
	accountSuspense   ledger.Account = "suspense"
	accountTest       ledger.Account = "test"
)

// MemoCapital is the comment of money that the operator puts in to pay the network's fees from.
const MemoCapital = "capital"

// DefaultKeepMin is Config.KeepMin if that is zero: some sixty times what sending money back costs at the fees of May 2026,
// ten times what it cost before.
const DefaultKeepMin = nanoton.PerTON / 100

// DefaultInterval is Config.Interval if that is zero.
const DefaultInterval = time.Minute

const (
	// margin is how long after a message's end it counts as expired: a shard block may be older than the masterchain block
	// that has it.
	margin = time.Minute
	// heartbeat is how often the chain document is written if nothing happens, by the chain's clock.
	heartbeat = time.Minute
	// freshMax is how old the chain document may be at the start, by the chain's clock: a ledger that was last written
	// before may be a backup, whose later life signed messages that it does not know.
	freshMax = 2 * heartbeat
	// pageMax is how many transactions are in memory at once.
	pageMax = 100
	// retryLeast and retryMost bound the pause of Run after a failed step.
	retryLeast, retryMost = time.Second, 30 * time.Second
	// changedPause is the pause of Run after a step that others were faster than.
	changedPause = 50 * time.Millisecond
	// changedMax is how many such steps there are before something must be wrong.
	changedMax = 100
)

// What callers branch on.
var (
	// ErrInvalid marks a payout or a reason that breaks its rule.
	ErrInvalid = errors.New("not valid")
	// ErrTooSmall marks a payout below Config.PayoutMin.
	ErrTooSmall = errors.New("too small to pay out")
	// ErrTaken marks an ID that another payout has.
	ErrTaken = errors.New("the ID is that of another payout")
	// ErrUnknown says that there is no such payout, payee or sum in suspense.
	ErrUnknown = errors.New("there is none")
	// ErrFinal says that it is too late to change it.
	ErrFinal = errors.New("it cannot be changed any more")
	// ErrWallet says that the ledger is that of another wallet.
	ErrWallet = errors.New("the ledger belongs to another treasury wallet")
	// ErrBehind says that the liteserver shows the wallet as it was before what is applied already.
	ErrBehind = errors.New("the liteserver is behind the ledger")
)

// Ledger is what the treasury needs of *ledger.Ledger.
type Ledger interface {
	Documents
	Balance(ctx context.Context, account ledger.Account) (nanoton.Amount, error)
	Balances(ctx context.Context, prefix string) (map[ledger.Account]nanoton.Amount, error)
}

// Chain is what the treasury needs of *ton.Client.
type Chain interface {
	Head(ctx context.Context) (ton.Head, error)
	Next(ctx context.Context, after uint32) (ton.Head, error)
	Account(ctx context.Context, h ton.Head, a ton.Address) (ton.State, error)
	Transactions(ctx context.Context, s ton.State, after ton.Cursor, most int) ([]*ton.Transaction, error)
	Send(ctx context.Context, message []byte) error
}

// Config says what a treasury works with. Ledger, Chain, Wallet and Customer are required.
type Config struct {
	Ledger Ledger
	Chain  Chain
	Wallet *wallet.Highload
	// Withdraw takes money from a customer's account while post runs, which takes it from the ledger: billing.Desk.Withdraw.
	// nil: post alone decides.
	Withdraw func(ctx context.Context, account ledger.Account, amount nanoton.Amount, post func(context.Context) error) error
	// Credited is told which customer's account got money. nil: nobody is.
	Credited func(account ledger.Account)
	// Customer tells whether there is a customer of that name.
	Customer func(name string) bool
	// Source tells through which account money from an address comes, if it is of our own contracts. nil: there are none.
	Source func(from ton.Address) (ledger.Account, bool)

	// Route says how a worker's earnings reach him through a contract: to what address, with what body; false: directly. nil:
	// always directly.
	Route func(
		ctx context.Context, worker ledger.Account, to ton.Address, amount nanoton.Amount,
	) (via ton.Address, body []byte, ok bool, err error)

	Cold       ton.Address    // money above HotMax goes there, and what comes from there is ours; zero: none
	HotMax     nanoton.Amount // what the wallet keeps beside what it owes; zero: any amount
	OutflowMax nanoton.Amount // per hour, sweeps to Cold aside; zero: any amount
	PayoutMin  nanoton.Amount // least amount of a payout, refunds aside
	KeepMin    nanoton.Amount // less from nobody known is not kept for its sender; zero: DefaultKeepMin
	Interval   time.Duration  // how often workers' earnings are looked at, by the chain's clock; zero: DefaultInterval
	TestMoney  bool           // payouts although there is test money in the ledger: for development
	Name       string         // of the gateway, for the log
	Log        *slog.Logger   // nil: nothing is logged
}

// Treasury watches and moves a wallet. Its methods may be called from many goroutines.
type Treasury struct {
	c       Config
	address ton.Address
	log     *slog.Logger

	mu     sync.Mutex // held by a step
	books  *books
	sent   map[uint32]uint32 // by query: the head's seqno at which its message was last sent
	looked time.Time         // when earnings were last looked at, by the chain's clock
	opened bool              // the first step is done
	backup bool              // the ledger is one for sure

	statusMu sync.Mutex
	status   Status // guarded by statusMu
}

// Status is what the last step saw.
type Status struct {
	Address ton.Address
	Head    uint32    // seqno of the masterchain block
	At      time.Time // of that block
	Error   string    // why the last step failed; empty: it went well, and what follows is of its block

	Balance    nanoton.Amount // of the wallet, proven
	Books      nanoton.Amount // what the ledger says it holds
	Difference nanoton.Amount // Balance - Books; not zero: payouts have stopped
	Network    nanoton.Amount // what is put aside for the network's fees; below zero: they were paid from others' money

	Stopped string    // why there are no payouts; empty: there are
	Quiet   time.Time // until when payouts wait for messages of a lost ledger to expire; zero: they don't

	Asked, Queued, Batched, Held int            // payouts
	Owed                         nanoton.Amount // in payouts that are queued or batched
	Waiting                      string         // why queued payouts wait that could leave; empty: none does
	Suspense                     int            // sums that came from nobody known and are not settled
	Unmatched                    int            // payments on the chain that the ledger does not know
}

// Deposit is how a customer pays in.
type Deposit struct {
	Address ton.Address
	Memo    string // to be sent along as the comment
	Link    string // ton://transfer/...
}

// Open makes a treasury of what is in the ledger; the chain is not asked yet. A ledger that another wallet was used with
// is ErrWallet. An older backup shows in the first steps: see [Treasury.Step].
func Open(ctx context.Context, c Config) (*Treasury, error) {
	if c.Ledger == nil || c.Chain == nil || c.Wallet == nil || c.Customer == nil {
		return nil, errors.New("opening the treasury: a part is missing")
	}
	if c.KeepMin == 0 {
		c.KeepMin = DefaultKeepMin
	}
	if c.Interval == 0 {
		c.Interval = DefaultInterval
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	t := &Treasury{
		c: c, address: c.Wallet.Address(), log: c.Log.With("treasury", c.Wallet.Address().String()),
		books: newBooks(), sent: map[uint32]uint32{},
	}
	if t.address.IsZero() {
		return nil, errors.New("opening the treasury: the wallet has no address")
	}
	t.status.Address = t.address
	if err := t.refresh(ctx); err != nil {
		return nil, fmt.Errorf("opening the treasury: %w", err)
	}
	return t, nil
}

// Deposit says how a customer pays in.
func (t *Treasury) Deposit(name string) Deposit {
	memo := ton.Memo(name)
	return Deposit{Address: t.address, Memo: memo, Link: ton.PayLink(t.address, 0, memo, nil, nil)}
}

// Address is the wallet's.
func (t *Treasury) Address() ton.Address { return t.address }

// Status gives what the last step saw.
func (t *Treasury) Status() Status {
	t.statusMu.Lock()
	defer t.statusMu.Unlock()
	return t.status
}

// Run steps on every new block until ctx ends. Failed steps are logged and tried again.
func (t *Treasury) Run(ctx context.Context) error {
	pause, changed := retryLeast, 0
	for {
		err := t.Step(ctx)
		if err == nil {
			pause, changed = retryLeast, 0
			_, err = t.c.Chain.Next(ctx, t.Status().Head)
		}
		if ctx.Err() != nil {
			return nil
		}
		wait := pause
		switch {
		case err == nil:
			continue
		case errors.Is(err, ledger.ErrChanged) && changed < changedMax: // another gateway, or a command, was faster
			changed++
			wait = changedPause
		default:
			t.log.Warn("the treasury's step failed and is tried again", "error", err, "pause", pause)
			pause = min(2*pause, retryMost)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// Step does what there is to do as of the newest block: it applies the wallet's new transactions, compares the books with
// the chain, sets asked payouts' money aside, makes payouts of due earnings, gives up messages that have expired, and
// signs and sends. After an error the next step goes on where this one was.
//
// Payouts stop where money could be paid twice or the books are wrong: the chain holds another sum than the ledger says;
// the wallet sent what the ledger does not know, so the ledger is an older backup (see [Repair]); there is test money in
// the ledger. They wait as long as messages of a lost life of the ledger could still be executed, if it was last written
// a while before the first step. What comes in is credited all the same.
func (t *Treasury) Step(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := Status{Address: t.address}
	err := t.step(ctx, &s)
	t.count(&s)
	if err != nil {
		s.Error = err.Error()
		err = fmt.Errorf("treasury: %w", err)
	}
	t.statusMu.Lock()
	defer t.statusMu.Unlock()
	if s.Head == 0 {
		s.Head, s.At = t.status.Head, t.status.At
	}
	if s.Stopped != t.status.Stopped {
		t.log.Warn("payouts", "stopped", s.Stopped)
	}
	t.status = s
	return err
}

func (t *Treasury) step(ctx context.Context, s *Status) error {
	if err := t.refresh(ctx); err != nil {
		return err
	}
	state, err := t.look(ctx, s)
	if err != nil {
		return err
	}
	if err := t.open(ctx, state); err != nil {
		return err
	}
	if err := t.scan(ctx, state); err != nil {
		return err
	}
	if err := t.beat(ctx, state.At.Time); err != nil {
		return err
	}
	if err := t.reconcile(ctx, state, s); err != nil {
		return err
	}
	if err := t.expire(ctx, state.At.Time); err != nil {
		return err
	}
	if s.Difference == 0 && len(t.books.unmatched) == 0 { // what is asked for can't be spent any more, even if it has to wait
		if err := t.setAside(ctx); err != nil {
			return err
		}
	}
	if s.Stopped != "" {
		return nil
	}
	if err := t.earnings(ctx, state.At.Time); err != nil {
		return err
	}
	if err := t.sweep(ctx, state); err != nil {
		return err
	}
	return t.pay(ctx, state, s)
}

// look reads the newest block and the wallet's state in it.
func (t *Treasury) look(ctx context.Context, s *Status) (ton.State, error) {
	head, err := t.c.Chain.Head(ctx)
	if err != nil {
		return ton.State{}, err
	}
	state, err := t.c.Chain.Account(ctx, head, t.address)
	if err != nil {
		return ton.State{}, fmt.Errorf("reading the wallet: %w", err)
	}
	state.At = head
	s.Head, s.At, s.Balance = head.Seqno, head.Time, state.Balance
	return state, nil
}

// open decides at the first step whether the ledger may have had a later life that is lost. If so, messages that it does
// not know may be executed until they expire.
func (t *Treasury) open(ctx context.Context, state ton.State) error {
	if t.opened {
		return nil
	}
	r, now := t.books.chain, state.At.Time
	lost := t.backup || now.Sub(time.Unix(r.At, 0)) > freshMax
	if t.books.version == 0 {
		lost = state.Active // it has sent before, for another ledger
	}
	if lost {
		r.Quiet = max(r.Quiet, t.quietUntil(now))
		t.log.Info("payouts wait until messages of a lost ledger would have expired", "until", time.Unix(r.Quiet, 0).UTC())
	}
	if lost || t.books.version == 0 {
		if err := t.write(ctx, &r, now, nil); err != nil {
			return err
		}
	}
	t.opened, t.backup = true, false
	return nil
}

// quietUntil is when a message that was signed by then has expired.
func (t *Treasury) quietUntil(now time.Time) int64 {
	return t.c.Wallet.Expires(now).Add(margin).Unix()
}

// beat keeps the chain document fresh.
func (t *Treasury) beat(ctx context.Context, now time.Time) error {
	if now.Sub(time.Unix(t.books.chain.At, 0)) < heartbeat {
		return nil
	}
	r := t.books.chain
	return t.write(ctx, &r, now, nil)
}

// write commits the chain document as it is in r, with other documents.
func (t *Treasury) write(ctx context.Context, r *record, now time.Time, more []ledger.Document) error {
	d, err := t.chainDocument(r, now)
	if err != nil {
		return err
	}
	return t.commit(ctx, nil, append(more, d))
}

// chainDocument is the change of the chain document to r, as of a block's time.
func (t *Treasury) chainDocument(r *record, now time.Time) (ledger.Document, error) {
	r.Wallet, r.At, r.Settled = t.address, max(r.At, now.Unix()), t.books.settled()
	return document(kindChain, chainID, t.books.version, r)
}

// commit writes to the ledger, and then to the books in memory.
func (t *Treasury) commit(ctx context.Context, transfers []ledger.Transfer, documents []ledger.Document) error {
	versions, err := t.c.Ledger.Commit(ctx, transfers, documents)
	if errors.Is(err, ledger.ErrConflict) { // another gateway did the same a moment earlier
		return fmt.Errorf("%w: %w", ledger.ErrChanged, err)
	}
	if err != nil {
		return err
	}
	for i, d := range documents {
		d.Version = versions[i]
		if err := t.books.take(d); err != nil {
			return err
		}
	}
	return nil
}

// reconcile compares the ledger with the chain and decides whether there may be payouts.
func (t *Treasury) reconcile(ctx context.Context, state ton.State, s *Status) error {
	chain, err := t.c.Ledger.Balance(ctx, accountChain)
	if err != nil {
		return err
	}
	if s.Network, err = t.c.Ledger.Balance(ctx, accountNetwork); err != nil {
		return err
	}
	test, err := t.c.Ledger.Balance(ctx, accountTest)
	if err != nil {
		return err
	}
	// The balance belongs to the cursor only if no other gateway went on meanwhile.
	d, err := t.c.Ledger.Document(ctx, kindChain, chainID)
	if err != nil {
		return err
	}
	if d.Version != t.books.version {
		return fmt.Errorf("comparing the books: %w", ledger.ErrChanged)
	}
	s.Books, s.Difference = -chain, state.Balance+chain
	now, r := state.At.Time, &t.books.chain
	if now.Unix() < r.Quiet {
		s.Quiet = time.Unix(r.Quiet, 0).UTC()
	}
	switch {
	case len(t.books.unmatched) > 0:
		s.Stopped = fmt.Sprintf("the wallet made %d payments that the ledger does not know: it is an older backup",
			len(t.books.unmatched))
	case s.Difference != 0:
		s.Stopped = fmt.Sprintf("the wallet holds %v, and the ledger says %v", s.Balance, s.Books)
	case test != 0 && !t.c.TestMoney:
		s.Stopped = "there is test money in the ledger"
	case r.Hold != "":
		s.Stopped = "held: " + r.Hold
	case !s.Quiet.IsZero():
		s.Stopped = fmt.Sprintf("until %s messages of a lost ledger may be executed", s.Quiet.Format(time.RFC3339))
	}
	return nil
}

// count fills in how many payouts there are.
func (t *Treasury) count(s *Status) {
	for _, p := range t.books.payouts {
		switch p.State {
		case Asked:
			s.Asked++
		case Queued:
			s.Queued++
			s.Owed += p.Amount
		case Batched:
			s.Batched++
			s.Owed += p.Amount
		}
		if p.Held != "" {
			s.Held++
		}
	}
	s.Suspense, s.Unmatched = len(t.books.unsettled), len(t.books.unmatched)
}
