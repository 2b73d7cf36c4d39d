package ton

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// Bounds of walking through an account's past.
const (
	pageSize   = 16      // transactions in one answer: liteservers give no more
	trailMax   = 1 << 20 // pages walked through: 16 million transactions, 40 MB of cursors
	trailsKept = 8       // accounts whose walk is kept between calls
)

// trail is a walk back through an account's proven transactions: of each page the newest one's cursor, newest page first.
// Asked for a page's cursor, a liteserver gives transactions that lead to the next page's.
type trail struct {
	pages []Cursor
	end   Cursor // what the last page leads to
}

// Transactions gives what happened to the account after the cursor, up to s.Last, oldest first and complete: each one's
// hash is computed anew, and is what the one after it, or s, has as its predecessor's; the first one's predecessor is the
// cursor. It gives at most limit, the oldest ones; call it with the last one's Cursor until that is s.Last. So a long backlog
// is walked back once, keeping one cursor a page, and then read forward: the client remembers the walk between the calls,
// and memory is bounded by limit transactions and 40 bytes for 16 transactions of backlog.
//
// Errors: ErrGap if the chain does not lead to the cursor, which is one of another chain then, or newer than s; ErrHistory;
// ErrMany beyond 16 million transactions; ErrAmount; ErrUnreachable.
func (c *Client) Transactions(ctx context.Context, s State, after Cursor, limit int) ([]*Transaction, error) {
	if after == s.Last || limit <= 0 {
		return nil, nil
	}
	if after.LT >= s.Last.LT {
		return nil, fmt.Errorf("transactions of %s: %w: it is at %d, the account at %d", s.Address, ErrGap, after.LT, s.Last.LT)
	}
	ctx, done, err := c.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	w := &walk{c: c, of: s.Address, seen: map[Cursor][]*Transaction{}, keep: limit/pageSize + 2}
	t, err := w.back(ctx, s.Last, after, c.oldTrail(s.Address))
	if err == nil {
		c.keepTrail(s.Address, t)
		var all []*Transaction
		if all, err = w.forward(ctx, t, after, limit); err == nil {
			return all, nil
		}
	}
	return nil, fmt.Errorf("transactions of %s: %w", s.Address, err)
}

// oldTrail is the walk of the last call.
func (c *Client) oldTrail(a Address) *trail {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trails[a]
}

func (c *Client) keepTrail(a Address, t *trail) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.trails[a] == nil && len(c.trails) == trailsKept {
		for other := range c.trails { // any: it costs a walk
			delete(c.trails, other)
			break
		}
	}
	c.trails[a] = t
}

// walk is one call's way through an account's transactions.
type walk struct {
	c     *Client
	of    Address
	seen  map[Cursor][]*Transaction // pages that were read on the way back, the oldest ones of them
	order []Cursor
	keep  int // pages to keep in seen
}

// back walks from the newest transaction to the cursor. Where it meets the walk of an earlier call it takes that over.
func (w *walk) back(ctx context.Context, last, after Cursor, old *trail) (*trail, error) {
	if old != nil && (old.end.LT > after.LT || len(old.pages) == 0) {
		old = nil
	}
	t := &trail{end: after}
	for at := last; ; {
		if old != nil {
			if i, ok := slices.BinarySearchFunc(old.pages, at, newestFirst); ok && old.pages[i] == at {
				t.end = old.end
				if rest := old.pages[i:]; len(t.pages) == 0 {
					t.pages = rest // shared, as nothing is ever added to it
				} else {
					t.pages = append(t.pages, rest...)
				}
				return t.cut(after), nil
			}
		}
		if len(t.pages) == trailMax {
			return nil, fmt.Errorf("%w: more than %d pages", ErrMany, trailMax)
		}
		t.pages = append(t.pages, at)
		page, err := w.c.page(ctx, w.of, at)
		if err != nil {
			return nil, err
		}
		w.note(at, page)
		stop := func(x *Transaction) bool {
			return x.Prev == after || old != nil && x.Prev == old.pages[0] || x.Prev.LT <= after.LT
		}
		i := slices.IndexFunc(page, stop)
		if i < 0 {
			at = page[len(page)-1].Prev
			continue
		}
		if page[i].Prev == after {
			return t, nil
		}
		if page[i].Prev.LT <= after.LT {
			return nil, fmt.Errorf("%w: it is at %d, but there is nothing between %d and %d", ErrGap, after.LT, page[i].Prev.LT,
				page[i].LT)
		}
		at = page[i].Prev // where the earlier walk began
	}
}

// newestFirst is the order of a trail's pages.
func newestFirst(a, b Cursor) int { return cmp.Compare(b.LT, a.LT) }

// note keeps a page for the way forward, and forgets the newest one if there are too many.
func (w *walk) note(at Cursor, page []*Transaction) {
	w.seen[at] = page
	if w.order = append(w.order, at); len(w.order) > w.keep {
		delete(w.seen, w.order[0])
		w.order = w.order[1:]
	}
}

// cut leaves out the pages that are wholly up to the cursor.
func (t *trail) cut(after Cursor) *trail {
	for n := len(t.pages); n > 0 && t.pages[n-1].LT <= after.LT; n-- {
		t.end, t.pages = t.pages[n-1], t.pages[:n-1]
	}
	return t
}

// forward reads from the cursor on.
func (w *walk) forward(ctx context.Context, t *trail, after Cursor, most int) ([]*Transaction, error) {
	var all []*Transaction
	at := after
	for i := len(t.pages) - 1; i >= 0 && len(all) < most; i-- {
		page, err := w.whole(ctx, t.pages[i], at)
		if err != nil {
			return nil, err
		}
		for _, x := range page {
			if len(all) < most {
				all = append(all, x)
			}
		}
		at = t.pages[i]
	}
	return all, nil
}

// whole gives the transactions from one that is known back to another one, not included, oldest first. They are one page,
// but for a liteserver that gives fewer in an answer than the one that was asked before.
func (w *walk) whole(ctx context.Context, from, to Cursor) ([]*Transaction, error) {
	var all []*Transaction
	page := w.seen[from]
	for at := from; at != to; {
		if page == nil {
			var err error
			if page, err = w.c.page(ctx, w.of, at); err != nil {
				return nil, err
			}
		}
		for _, x := range page {
			if at == to {
				break
			}
			all = append(all, x)
			if at = x.Prev; at != to && (at.LT <= to.LT || len(all) == pageSize) {
				return nil, fmt.Errorf("%w: nothing at %d", ErrGap, to.LT)
			}
		}
		page = nil
	}
	slices.Reverse(all)
	return all, nil
}

// page asks for the transaction and some before it, newest first. At least one comes.
func (c *Client) page(ctx context.Context, of Address, at Cursor) (page []*Transaction, err error) {
	old := 0
	err = c.ask(ctx, "transactions", func(s *server) (err error) {
		page, err = s.page(ctx, of, at)
		var e *serverError
		if errors.As(err, &e) && strings.Contains(e.text, "not in db") {
			old++
		}
		return err
	})
	if err != nil && old == len(c.servers) {
		return nil, fmt.Errorf("%w: %w", ErrHistory, err)
	}
	return page, err
}

func (s *server) page(ctx context.Context, of Address, at Cursor) ([]*Transaction, error) {
	answer, err := s.ask(ctx, 0, ton.GetTransactions{
		Limit: pageSize, AccID: &ton.AccountID{Workchain: int32(of.Workchain), ID: of.Hash[:]},
		LT: int64(at.LT), TxHash: at.Hash[:],
	})
	if err != nil {
		return nil, err
	}
	list, ok := answer.(ton.TransactionList)
	if !ok {
		return nil, errOther
	}
	roots, err := cell.FromBOCMultiRoot(list.Transactions)
	if err != nil || len(roots) == 0 || len(roots) > pageSize {
		return nil, fmt.Errorf("%w: %d transactions (%v)", ErrProof, len(roots), err)
	}
	page := make([]*Transaction, 0, len(roots))
	for _, root := range roots {
		if root.HashKey() != at.Hash {
			return nil, fmt.Errorf("%w: another transaction than the one at %d", ErrProof, at.LT)
		}
		x, err := parseTransaction(root, of)
		if err != nil {
			return nil, err
		}
		if x.Cursor != at || x.Prev.LT >= x.LT {
			return nil, fmt.Errorf("%w: a transaction at %d instead of %d", ErrProof, x.LT, at.LT)
		}
		page = append(page, x)
		at = x.Prev
	}
	return page, nil
}
