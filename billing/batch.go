package billing

import (
	"crypto/rand"
	"slices"
	"strconv"
	"time"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

const (
	// batchRequests bounds the requests of one batch: their IDs fit into one record of the journal, and so do their lines
	// of usage and their workers' legs into one transfer.
	batchRequests = 900

	kindSettle = "settle"
)

// batch is settlements of one account that are one transfer in the ledger. What it is made of never changes: it is in
// the journal before it is posted, so that a crash posts exactly this transfer again.
type batch struct {
	id       ledger.ID
	at       time.Time
	account  *account
	requests []*request
	closings []closing // of the requests, for when it is posted
	transfer ledger.Transfer
	cost     nanoton.Amount
	written  bool // it is in the journal; owned by the poster
}

// newBatch makes a batch of requests that are settled on one account. They belong to it from now on.
func (d *Desk) newBatch(a *account, requests []*request) *batch {
	b := &batch{at: time.UnixMilli(time.Now().UnixMilli()).UTC(), account: a, requests: requests}
	_, _ = rand.Read(b.id[:]) // never fails
	d.seal(b)
	return b
}

// seal puts the requests into the batch and makes the transfer.
func (d *Desk) seal(b *batch) {
	b.closings = make([]closing, len(b.requests))
	sums := newSums(b.account.name)
	for i, r := range b.requests {
		r.mu.Lock() // whoever writes the settlement again meanwhile sees it in a batch or not
		r.batch = b
		s, at := r.settlement()
		r.mu.Unlock()
		sums.add(&s, at)
		b.closings[i] = closing{d.hash(r.id), d.outcome(&s)}
	}
	b.cost, b.transfer = sums.cost, transfer(b.id, b.at, b.account.source, sums)
}

// recordSize is how many bytes appendRecord appends.
func (b *batch) recordSize() int {
	return batchFixed + len(b.account.source) + len(b.requests)*len(ledger.ID{})
}

// appendRecord appends the batch as the journal gets it.
func (b *batch) appendRecord(to []byte) []byte {
	to = appendBatch(slices.Grow(to, b.recordSize()), b.id, b.at, b.account.source, nil)
	for _, r := range b.requests {
		to = append(to, r.id[:]...)
	}
	return to
}

// transfer is a batch as the ledger gets it: what the account pays for all of it, what each worker gets, and the fees.
func transfer(id ledger.ID, at time.Time, source ledger.Account, sums *sums) ledger.Transfer {
	sums.legs[0] = ledger.Leg{Account: source, Amount: -sums.cost}
	legs := append(sums.legs, ledger.Leg{Account: "fees", Amount: sums.fees})
	ref := strconv.Itoa(sums.count) + " requests"
	return ledger.Transfer{ID: id, Kind: kindSettle, At: at, Ref: ref, Legs: legs, Usage: sums.lines}
}

// sums are what the settlements of a batch add up to. The same settlements in the same order give the same.
type sums struct {
	customer   ledger.Account
	count      int
	cost, fees nanoton.Amount
	legs       []ledger.Leg // the workers', from the second on
	lines      []ledger.UsageLine
	worker     numbering[ledger.Account] // where in legs, from the second on
	line       numbering[lineKey]        // where in lines
}

// lineKey is what requests are counted under.
type lineKey struct {
	day             int64 // since 1970
	key, item, user string
}

func newSums(customer ledger.Account) *sums {
	return &sums{customer: customer, legs: make([]ledger.Leg, 1, 3)}
}

// add adds a settlement of that time.
func (t *sums) add(s *Settlement, at time.Time) {
	t.count++
	t.cost, t.fees = t.cost+s.Cost, t.fees+s.Fee
	if s.Share != 0 {
		i := t.worker.find(s.Worker)
		if i+1 == len(t.legs) {
			t.legs = append(t.legs, ledger.Leg{Account: s.Worker})
		}
		t.legs[i+1].Amount += s.Share
	}
	if s.Line != (Line{}) {
		t.addLine(s, at)
	}
}

func (t *sums) addLine(s *Settlement, at time.Time) {
	l := &s.Line
	i := t.line.find(lineKey{at.Unix() / (24 * 60 * 60), l.Key, l.Item, l.User})
	if i == len(t.lines) {
		t.lines = append(t.lines, ledger.UsageLine{
			Day: at.UTC().Format(time.DateOnly), Customer: t.customer, Key: l.Key, Item: l.Item, User: l.User,
		})
	}
	u := &t.lines[i]
	u.Requests++
	u.Cost += s.Cost
	for n, count := range l.Counts {
		u.Counts[n] += count
	}
}

// numberedFew is how many are looked through one by one: a map costs more to make than it spares.
const numberedFew = 8

// numbering gives each of different things its number, from 0 on, in the order in which they first come.
type numbering[T comparable] struct {
	all  []T
	last int       // the number of the one before: the next is often the same
	by   map[T]int // when there are many
}

// find gives the number of a thing; it is new if that is how many there were.
func (p *numbering[T]) find(one T) int {
	if p.last < len(p.all) && p.all[p.last] == one {
		return p.last
	}
	i, ok := -1, false
	if p.by != nil {
		i, ok = p.by[one]
	} else {
		i = slices.Index(p.all, one)
		ok = i >= 0
	}
	if !ok {
		i = len(p.all)
		p.all = append(p.all, one)
		p.note(i)
	}
	p.last = i
	return i
}

// note has the map know a new number, if there is a map.
func (p *numbering[T]) note(i int) {
	if p.by == nil && i >= numberedFew {
		p.by = make(map[T]int, 2*numberedFew)
		for n, was := range p.all {
			p.by[was] = n
		}
	} else if p.by != nil {
		p.by[p.all[i]] = i
	}
}
