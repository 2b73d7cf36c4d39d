package billing

import (
	"crypto/rand"
	"fmt"
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
	transfer ledger.Transfer
	cost     nanoton.Amount
	written  bool // it is in the journal; owned by the poster
}

// newBatch makes a batch of requests that are settled on one account. They belong to it from now on.
func newBatch(a *account, requests []*request) *batch {
	b := &batch{at: time.UnixMilli(time.Now().UnixMilli()).UTC(), account: a, requests: requests}
	_, _ = rand.Read(b.id[:]) // never fails
	for _, r := range requests {
		r.mu.Lock() // whoever writes the settlement again meanwhile sees it in a batch or not
		r.batch = b
		r.mu.Unlock()
	}
	b.seal()
	return b
}

// seal makes the transfer.
func (b *batch) seal() {
	sums := newSums(b.account.name)
	for _, r := range b.requests {
		sums.add(&r.settlement, r.at)
	}
	b.cost, b.transfer = sums.cost, transfer(b.id, b.at, b.account.source, sums)
}

// record is the batch as the journal gets it.
func (b *batch) record() []byte {
	size := batchFixed + len(b.account.source) + len(b.requests)*len(ledger.ID{})
	record := appendBatch(make([]byte, 0, size), b.id, b.at, b.account.source, nil)
	for _, r := range b.requests {
		record = append(record, r.settlement.Request[:]...)
	}
	return record
}

// transfer is a batch as the ledger gets it: what the account pays for all of it, what each worker gets, and the fees.
func transfer(id ledger.ID, at time.Time, source ledger.Account, sums *sums) ledger.Transfer {
	legs := append(make([]ledger.Leg, 0, 2+len(sums.workers)), ledger.Leg{Account: source, Amount: -sums.cost})
	legs = append(append(legs, sums.workers...), ledger.Leg{Account: "fees", Amount: sums.fees})
	ref := fmt.Sprintf("%d requests", sums.count)
	return ledger.Transfer{ID: id, Kind: kindSettle, At: at, Ref: ref, Legs: legs, Usage: sums.lines}
}

// sums are what the settlements of a batch add up to. The same settlements in the same order give the same.
type sums struct {
	customer   ledger.Account
	count      int
	cost, fees nanoton.Amount
	workers    []ledger.Leg
	lines      []ledger.UsageLine
	worker     map[ledger.Account]int // where in workers
	line       map[lineKey]int        // where in lines
	last       lineKey                // of the last one: the next is often the same
	lastAt     int
}

// lineKey is what requests are counted under.
type lineKey struct {
	day             int64 // since 1970
	key, item, user string
}

func newSums(customer ledger.Account) *sums {
	return &sums{customer: customer, worker: map[ledger.Account]int{}, line: map[lineKey]int{}}
}

// add adds a settlement of that time.
func (t *sums) add(s *Settlement, at time.Time) {
	t.count++
	t.cost, t.fees = t.cost+s.Cost, t.fees+s.Fee
	if s.Share != 0 {
		i, ok := t.worker[s.Worker]
		if !ok {
			i = len(t.workers)
			t.worker[s.Worker] = i
			t.workers = append(t.workers, ledger.Leg{Account: s.Worker})
		}
		t.workers[i].Amount += s.Share
	}
	if s.Line != (Line{}) {
		t.addLine(s, at)
	}
}

func (t *sums) addLine(s *Settlement, at time.Time) {
	l := &s.Line
	k := lineKey{at.Unix() / (24 * 60 * 60), l.Key, l.Item, l.User}
	i, ok := t.lastAt, len(t.lines) > 0 && k == t.last
	if !ok {
		i, ok = t.line[k]
	}
	if !ok {
		i = len(t.lines)
		t.line[k] = i
		t.lines = append(t.lines, ledger.UsageLine{
			Day: at.UTC().Format(time.DateOnly), Customer: t.customer, Key: l.Key, Item: l.Item, User: l.User,
		})
	}
	t.last, t.lastAt = k, i
	u := &t.lines[i]
	u.Requests++
	u.Cost += s.Cost
	for n, count := range l.Counts {
		u.Counts[n] += count
	}
}
