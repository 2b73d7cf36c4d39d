// Package tabs is the Keeper of tabs: it holds money in contracts on the chain, of customers who prepay and for workers who
// earn, to the ledger.
//
// A tab is a contract of billing/ton/tab. What it holds is an asset beside the treasury's wallet, so it has an account of
// its own in the ledger, whose balance is always the negative of what the chain proves: "tab:<customer>" or
// "collateral:<worker>". Each transaction of a tab becomes one transfer, in one commit with the document that keeps the
// place in the tab's history. After each scan the proven balance and the ledger's must agree to the nanoTON; a tab where
// they do not is left alone until an operator has looked.
//
// # Customers' tabs
//
//	owner's or anybody's top-up of X    tab -X, customer +X
//	draw of D with fees f               tab +(D+f), transit -D, customer -f
//	R back to the owner                 tab +R, customer -R
//
// What the customer may spend is his account, as with money paid to the treasury. Not all that a tab holds is there: what
// the gateway could not draw is locked. It is counted in the tab's document and held in the account suspense:
//
//	locked = max(reserve, balance - (limit now - drawn)); all of it while the tab is closing
//
// So nothing is served that the owner's limit does not let us draw; the reserve is what the contract keeps back, and a
// draw's fees come out of it. Money goes under lock through the Desk only (Config.Withdraw), so never what a request
// holds; what the customer lacks then is advanced by fees, and collected when he has it.
//
// What is to be drawn is what was spent of the tab's money:
//
//	undrawn = max(0, balance - locked - what the customer has)
//
// A customer may have other money in his account too, such as deposits at the treasury: that is spent first, as the
// formula has it. A payout from such an account is spending as well.
//
// A voucher is in the document before it is sent, and goes out as it is until it was seen on the chain or has expired by
// the chain's clock. The chain's drawn is the truth: a draw beyond every voucher that the ledger knows says that the ledger
// is an older copy. The money is then taken out of the customer's account and locked, until the ledger shows the
// spending again.
//
// # Workers' tabs
//
//	collateral of X from the treasury   collateral -X, transit +X
//	payout of D through the tab         worker +V-D, collateral -(V-D-f), network -f: the treasury took V from worker
//	claim of D                          collateral +(D+f), worker -D, network -f
//	R back to the treasury              collateral +R, transit -R
//
// A voucher says what was drawn and what is owed. It never goes down. A worker that claims and is paid in another way at the
// same time got an advance: fees bear it, and it is kept back from what the worker earns next.
package tabs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/billing/ton/wallet"
	"cocoon/internal/nanoton"
)

// Kinds of the documents in the ledger.
const (
	TabKind        = "tab"        // a customer's; the ID is his name
	CollateralKind = "collateral" // a worker's; the ID is 64 hex digits
)

const (
	// CustomerDelay is how long a customer's tab takes to close against our will: a draw has to get through in it.
	CustomerDelay = 24 * time.Hour
	// WorkerDelay is the same of a worker's tab, whose payee has to claim in it. A weekend.
	WorkerDelay = 72 * time.Hour
	// DrawValidity is of a voucher that we send ourselves. After it, what it was for is signed anew.
	DrawValidity = time.Hour
	// VoucherValidity is of one that a worker keeps: it may be needed when this gateway is gone.
	VoucherValidity = 30 * 24 * time.Hour
	// DrawEvery is how often a tab is drawn at least, if it is worth it.
	DrawEvery = 24 * time.Hour
	// DrawMax is what is never left undrawn for longer: a lost ledger loses no more a customer, or a part of his tab.
	DrawMax = nanoton.PerTON
	// DrawPart is that part: one in so many.
	DrawPart = 4
	// FeePart bounds a draw's fees: one in so many of what it draws (5 %). Else it waits, unless the tab is closing.
	FeePart = 20
	// DefaultInterval is between two looks at the chain: a block takes less, but each tab is a question.
	DefaultInterval = 5 * time.Second

	// moveMin is what is worth a transfer between a customer's account and what is locked of it.
	moveMin = nanoton.PerTON / 1000
	// voucherMin is by how much a worker's voucher grows: less can't be claimed anyway.
	voucherMin = nanoton.PerTON / 100
	// voucherEvery is how often it is signed anew at most: it is a write to the ledger, for each worker.
	voucherEvery = time.Minute
	// pageMax is how many transactions of a tab are in memory at once.
	pageMax = 64
	// attemptsMax bounds how often a change is tried that lost against another one.
	attemptsMax = 10
)

var (
	// ErrOwner says that a customer's tab is open for another owner.
	ErrOwner = errors.New("the tab is open for another owner")
	// ErrPayee says that a worker's tab pays another address.
	ErrPayee = errors.New("the worker's tab is for another payout address")
	// ErrNone says that there is no such tab.
	ErrNone = errors.New("there is no such tab")
	// ErrMismatch says that chain and ledger disagree about a tab.
	ErrMismatch = errors.New("chain and ledger disagree")
	// ErrOlder says that the ledger is older than what this gateway has signed: a backup was restored.
	ErrOlder = errors.New("the ledger is older than a voucher of this gateway")
	// ErrVoucher marks a voucher that is none of ours for that tab.
	ErrVoucher = errors.New("no voucher of this gateway for that tab")
)

// Ledger is what the Keeper needs of *ledger.Ledger.
type Ledger interface {
	Commit(ctx context.Context, transfers []ledger.Transfer, documents []ledger.Document) (versions []int64, err error)
	Document(ctx context.Context, kind, id string) (ledger.Document, error)
	DocumentsOf(ctx context.Context, kind string, after int64, f func(ledger.Document) error) error
	Balance(ctx context.Context, account ledger.Account) (nanoton.Amount, error)
	Allotted(ctx context.Context, customer ledger.Account) (map[ledger.Account]nanoton.Amount, error)
}

// Chain is what the Keeper needs of *ton.Client.
type Chain interface {
	Head(ctx context.Context) (ton.Head, error)
	Account(ctx context.Context, h ton.Head, a ton.Address) (ton.State, error)
	Transactions(ctx context.Context, s ton.State, after ton.Cursor, max int) ([]*ton.Transaction, error)
	Send(ctx context.Context, message []byte) error
	Fees(ctx context.Context, h ton.Head) (ton.Fees, error)
}

// Order is a payment that the treasury's wallet is asked for.
type Order struct {
	ID      string         // of the treasury's payout: asking again changes nothing
	Account ledger.Account // who pays it in the ledger
	To      ton.Address
	Amount  nanoton.Amount
	Body    []byte // what the message carries, a bag of cells; nil: nothing
	Init    []byte // what deploys the receiver, a bag of cells; nil: nothing
	Reason  string
}

// Config is what a Keeper is made of.
type Config struct {
	Ledger   Ledger
	Chain    Chain
	Treasury ton.Address   // payee of customers' tabs, owner of workers'
	Signer   wallet.Signer // the metering key: it can move a tab's money to owner and payee only
	Name     string        // of this gateway or network, that tabs of one owner differ: part of each new tab's address
	// Withdraw is the Desk's: it has post take an amount of a customer's free money. Nil: nobody holds money of customers.
	Withdraw func(ctx context.Context, account ledger.Account, amount nanoton.Amount, post func(context.Context) error) error
	// Credited tells the Desk that a customer has more. Nil: nobody is told.
	Credited func(ledger.Account)
	// Ask has the treasury pay. It is asked again until the money is seen, so it goes by the ID. Nil: no collateral.
	Ask func(context.Context, Order) error
	// Root is that of the log of receipts, which each draw commits to. Nil: zero.
	Root func() ([32]byte, error)
	// Closing hears, at every look, of a customer's tab that its owner is closing: an alert. Nil: nobody does.
	Closing func(customer ledger.Account, at time.Time)
	// Interval is between two looks at the chain. Zero: DefaultInterval.
	Interval time.Duration
	Log      *slog.Logger // nil: nothing is logged
}

// Keeper keeps the tabs of one gateway. Several gateways on one ledger may each have one, with the same signer. Its methods may
// be called concurrently.
type Keeper struct {
	c   Config
	log *slog.Logger

	step    sync.Mutex // held by Step
	reading sync.Mutex // held by refresh, which alone uses seen
	seen    map[string]int64

	mu     sync.Mutex
	tabs   map[key]*pot // what documents said last
	status Status
}

// key names a tab's document.
type key struct{ kind, id string }

// account is the ledger's name of what the tab holds.
func (k key) account() ledger.Account { return ledger.Account(k.kind + ":" + k.id) }

// party is the account of whom the tab is for.
func (k key) party() ledger.Account {
	if k.kind == TabKind {
		return ledger.Account("customer:" + k.id)
	}
	return ledger.Account("worker:" + k.id)
}

// keyOf finds the tab of a customer's or worker's account.
func keyOf(kind string, account ledger.Account) (key, error) {
	if err := account.Check(); err != nil {
		return key{}, err
	}
	_, id, _ := strings.Cut(string(account), ":")
	k := key{kind, id}
	if k.party() != account {
		return key{}, fmt.Errorf("account %w: %s has no tab of that kind", ledger.ErrInvalid, account)
	}
	return k, nil
}

// Status is what the last look at the chain found.
type Status struct {
	At       time.Time                 // the chain's time of that look; zero: there was none
	Tabs     int                       // customers'
	Workers  int                       // workers'
	Closing  int                       // customers' tabs that their owners are closing
	Held     nanoton.Amount            // in customers' tabs
	Undrawn  nanoton.Amount            // of that, spent and not drawn
	Locked   nanoton.Amount            // of that, not to be spent
	Owed     nanoton.Amount            // by customers to fees
	Advanced nanoton.Amount            // by workers to fees
	Pledged  nanoton.Amount            // in workers' tabs
	Stopped  map[ledger.Account]string // tabs that are left alone, and why
	Failed   int                       // tabs whose turn failed: they have another one the next time
}

// Status gives it.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status
}

// Open makes a Keeper, and reads which tabs there are.
func Open(ctx context.Context, c Config) (*Keeper, error) {
	if c.Ledger == nil || c.Chain == nil || c.Signer == nil || c.Treasury.IsZero() {
		return nil, errors.New("tabs: ledger, chain, signer and treasury are needed")
	}
	if c.Interval == 0 {
		c.Interval = DefaultInterval
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Root == nil {
		c.Root = func() (root [32]byte, err error) { return root, nil }
	}
	if c.Credited == nil {
		c.Credited = func(ledger.Account) {}
	}
	k := &Keeper{c: c, log: c.Log, tabs: map[key]*pot{}, seen: map[string]int64{}}
	return k, k.refresh(ctx)
}

// Run looks at the chain again and again until ctx ends. Errors are logged and tried again.
func (k *Keeper) Run(ctx context.Context) error {
	failures := 0
	for {
		err := k.Step(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			failures = 0
		default:
			if failures++; failures == 1 {
				k.log.Warn("keeping tabs failed, trying again", "error", err)
			}
		}
		timer := time.NewTimer(k.c.Interval << min(failures, 4))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}
