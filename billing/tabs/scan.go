package tabs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/billing/ton/tab"
	"cocoon/internal/nanoton"
)

// Step looks at the chain once: it posts what happened to each tab, moves what may be spent, and draws. A tab that fails
// does not keep the others from their turn; the error is the first one's.
func (k *Keeper) Step(ctx context.Context) error {
	k.step.Lock()
	defer k.step.Unlock()
	if err := k.refresh(ctx); err != nil {
		return err
	}
	turn := &turn{k: k, status: Status{Stopped: map[ledger.Account]string{}}}
	var err error
	if turn.head, err = k.c.Chain.Head(ctx); err != nil {
		return fmt.Errorf("asking for the newest block: %w", err)
	}
	fees, err := k.c.Chain.Fees(ctx, turn.head)
	if err != nil {
		return fmt.Errorf("asking for the network's prices: %w", err)
	}
	turn.costs, turn.status.At = tab.CostsAt(fees), turn.head.Time
	var first error
	for _, t := range k.list() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := turn.visit(ctx, t); err != nil {
			turn.status.Failed++
			if first == nil {
				first = fmt.Errorf("%s: %w", t.account(), err)
			}
		}
		turn.count(t)
		k.keep(t)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status = turn.status
	return first
}

// list gives copies of all tabs, in order.
func (k *Keeper) list() []*pot {
	k.mu.Lock()
	defer k.mu.Unlock()
	list := make([]*pot, 0, len(k.tabs))
	for _, t := range k.tabs {
		list = append(list, t.clone())
	}
	slices.SortFunc(list, func(a, b *pot) int { return strings.Compare(string(a.account()), string(b.account())) })
	return list
}

// keep takes note of what a turn made of a tab, unless somebody was faster.
func (k *Keeper) keep(t *pot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if old := k.tabs[t.key]; old != nil && old.version <= t.version {
		k.tabs[t.key] = t
	}
}

// turn is one look at the chain.
type turn struct {
	k      *Keeper
	head   ton.Head
	costs  tab.Costs
	status Status
}

// count adds a tab to the status.
func (u *turn) count(t *pot) {
	if t.stopped != "" {
		u.status.Stopped[t.account()] = t.stopped
	}
	if t.kind == CollateralKind {
		u.status.Workers++
		u.status.Pledged += t.Balance
		u.status.Advanced += t.Advance
		return
	}
	u.status.Tabs++
	u.status.Held += t.Balance
	u.status.Locked += t.Locked
	u.status.Owed += t.Owed
	if t.CloseAt != 0 {
		u.status.Closing++
	}
}

// visit gives a tab its turn.
func (u *turn) visit(ctx context.Context, t *pot) error {
	s, err := u.k.c.Chain.Account(ctx, u.head, t.Address)
	if err != nil {
		return fmt.Errorf("asking for its state: %w", err)
	}
	if s.Last.LT < t.LT {
		return nil // another gateway has seen a newer block
	}
	version := t.version
	if err := u.scan(ctx, t, s); err != nil {
		return raced(err)
	}
	if t.version != version && t.kind == TabKind {
		u.k.c.Credited(t.party())
	}
	sound, err := u.compare(ctx, t, s)
	if err != nil || !sound {
		return raced(err)
	}
	if t.kind == CollateralKind {
		return raced(u.keepWorker(ctx, t))
	}
	return raced(u.keepCustomer(ctx, t))
}

// raced makes nothing of an error that says that another gateway, or a command, was faster: there is a next turn.
func raced(err error) error {
	if errors.Is(err, ledger.ErrChanged) || errors.Is(err, ledger.ErrOverdrawn) {
		return nil
	}
	return err
}

// scan posts the tab's transactions up to the state.
func (u *turn) scan(ctx context.Context, t *pot, s ton.State) error {
	st, err := tab.ParseState(s)
	if errors.Is(err, tab.ErrUndeployed) {
		err = nil
	}
	if err != nil { // it could only be ours by a hash collision: the address is that of our code
		return err
	}
	for t.cursor() != s.Last {
		list, err := u.k.c.Chain.Transactions(ctx, s, t.cursor(), pageMax)
		if err != nil {
			return fmt.Errorf("asking for its transactions: %w", err)
		}
		if len(list) == 0 {
			return fmt.Errorf("%w: nothing follows", ton.ErrGap)
		}
		for _, tx := range list {
			if tx.Prev != t.cursor() {
				return fmt.Errorf("%w: transaction %d follows %d, not %d", ton.ErrGap, tx.LT, tx.Prev.LT, t.LT)
			}
			if err := u.apply(ctx, t, tx, s, st); err != nil {
				return fmt.Errorf("posting transaction %d: %w", tx.LT, err)
			}
		}
	}
	return nil
}

// apply posts one transaction.
func (u *turn) apply(ctx context.Context, t *pot, tx *ton.Transaction, s ton.State, st tab.State) error {
	f, err := flowOf(t, tx)
	if err != nil {
		return err
	}
	post := func(ctx context.Context, legs func(n *pot) []ledger.Leg) error {
		n := t.clone()
		transfer := ledger.Transfer{
			ID: transferID(t.key, "transaction", tx.LT, tx.Hash), Kind: t.kind, At: tx.At,
			Ref: fmt.Sprintf("%s transaction %d %x", t.Address, tx.LT, tx.Hash),
		}
		n.LT, n.Hash = tx.LT, tx.Hash
		n.Balance += f.change
		transfer.Legs = legs(n)
		if f.paid > 0 {
			n.Drawn, n.DrawnAt = f.drawn, tx.At.Unix()
		}
		if tx.Cursor == s.Last {
			n.sync(s, st)
		}
		if err := u.k.commit(ctx, n, transfer); err != nil {
			return err
		}
		*t = *n
		return nil
	}
	if t.kind == CollateralKind {
		return u.applyWorker(ctx, t, f, post)
	}
	return u.applyCustomer(ctx, t, f, post)
}

// sync takes over what the contract's state says beside the balance.
func (t *pot) sync(s ton.State, st tab.State) {
	if t.Active = s.Active; !s.Active {
		return
	}
	t.Base, t.Rate, t.Since = st.Base, st.Rate, 0
	if !st.Since.IsZero() {
		t.Since = st.Since.Unix()
	}
	t.CloseAt = 0
	if !st.CloseAt.IsZero() {
		t.CloseAt = st.CloseAt.Unix()
	}
}

// compare tells whether the proven state, the document and the ledger agree. If not, the tab is left alone.
func (u *turn) compare(ctx context.Context, t *pot, s ton.State) (sound bool, err error) {
	booked, err := u.k.c.Ledger.Balance(ctx, t.account())
	if err != nil {
		return false, err
	}
	why := ""
	st, err := tab.ParseState(s)
	switch {
	case s.Balance != t.Balance || booked != -t.Balance:
		why = fmt.Sprintf("%v: it holds %v, its transactions come to %v, and the ledger has %v",
			ErrMismatch, s.Balance, t.Balance, -booked)
	case err == nil && st.Drawn != t.Drawn:
		why = fmt.Sprintf("%v: %v were drawn, its transactions come to %v", ErrMismatch, st.Drawn, t.Drawn)
	default:
		t.stopped = ""
		return true, nil
	}
	if now, err := u.k.read(ctx, t.key); err != nil || now.version != t.version {
		return false, err // another gateway is at it
	}
	if t.stopped != why {
		u.k.log.Error("a tab is left alone", "tab", string(t.account()), "address", t.Address.String(), "why", why)
	}
	t.stopped = why
	return false, nil
}

// flow is what a transaction of a tab moved.
type flow struct {
	change nanoton.Amount // of the tab's balance
	in     nanoton.Amount // came with a message
	fees   nanoton.Amount
	paid   nanoton.Amount // to the payee, as a draw
	back   nanoton.Amount // to the owner
	other  nanoton.Amount // to others
	drawn  nanoton.Amount // by the contract afterwards, if something was paid
	signed bool           // by a voucher
	owner  bool           // by a message of the owner
	push   bool           // that asked for a payment to the payee
}

func flowOf(t *pot, tx *ton.Transaction) (f flow, err error) {
	terms, err := tab.FromWire(t.Terms)
	if err != nil {
		return flow{}, err
	}
	f = flow{change: tx.Change(), fees: tx.Fees}
	if tx.In != nil {
		f.in, f.signed = tx.In.Amount, tx.In.External
		f.owner = !tx.In.External && tx.In.From == terms.Owner
		f.push = f.owner && isPush(tx.In)
	}
	for _, m := range tx.Out {
		f.fees += m.Fee
		notice, ok := tab.ParseNotice(m)
		switch {
		case ok && !notice.Refund && m.To == terms.Payee:
			f.paid += m.Amount
			f.drawn = notice.Cumulative
		case m.To == terms.Owner:
			f.back += m.Amount
		default:
			f.other += m.Amount
		}
	}
	if f.change != f.in-f.fees-f.paid-f.back-f.other {
		return flow{}, fmt.Errorf("%w: it changed the balance by %v, and its parts sum to another amount", ErrMismatch, f.change)
	}
	return f, nil
}

// opPush begins the body that tab.PayBody makes.
const opPush = 0x7ab50004

// isPush tells whether the owner's message asks for a payment through the tab.
func isPush(m *ton.Message) bool {
	if m.Body == nil || m.Bounced {
		return false
	}
	s, err := m.Body.BeginParse()
	if err != nil {
		return false
	}
	op, err := s.LoadUInt(32)
	return err == nil && op == opPush
}

// transferID names a transfer of a tab: by the chain's transaction, or by the version of the document that it replaces.
func transferID(name key, what string, n uint64, hash [32]byte) ledger.ID {
	b := []byte("cocoon/tabs/v1\x00" + name.kind + "\x00" + name.id + "\x00" + what + "\x00")
	b = binary.BigEndian.AppendUint64(b, n)
	return sha256.Sum256(append(b, hash[:]...))
}

// limit is what the contract lets the signer draw in all, at that time.
func (t *pot) limit(at time.Time) nanoton.Amount {
	terms := tab.Terms{Base: t.Base, Rate: t.Rate}
	if t.Since != 0 {
		terms.Since = time.Unix(t.Since, 0)
	}
	return terms.LimitAt(at)
}
