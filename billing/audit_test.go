package billing

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/billing/journal"
	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

// books are a journal and a ledger that a test writes by itself.
type books struct {
	t *testing.T
	l *ledger.Ledger
	j *journal.Journal
}

var auditTime = time.UnixMilli(1_700_000_000_000).UTC()

const c0 = ledger.Account("customer:c0")

func (b *books) write(record []byte) {
	b.t.Helper()
	if err := b.j.Append(b.t.Context(), record); err != nil {
		b.t.Fatal(err)
	}
}

func (b *books) hold(n byte, ceiling nanoton.Amount) {
	b.write(appendHold(nil, &Hold{Request: ledger.ID{n}, Account: c0, Ceiling: ceiling, Note: []byte("note")}))
}

func (b *books) settle(n byte, cost nanoton.Amount) {
	s := charge(ledger.ID{n}, workerA, cost, cost-1, 1)
	b.write(appendSettle(nil, c0, &s, auditTime, ledger.ID{}))
}

func (b *books) batch(n byte, requests ...ledger.ID) {
	b.write(appendBatch(nil, ledger.ID{n, 1}, auditTime, c0, requests))
}

func (b *books) post(n byte, ref string, legs ...ledger.Leg) {
	b.t.Helper()
	t := ledger.Transfer{ID: ledger.ID{n, 1}, Kind: kindSettle, At: auditTime, Ref: ref, Legs: legs}
	if err := b.l.Post(b.t.Context(), []ledger.Transfer{t}); err != nil {
		b.t.Fatal(err)
	}
}

// two writes and posts a batch of two requests.
func (b *books) two() {
	b.hold(1, 10)
	b.hold(2, 10)
	b.settle(2, 10)
	b.settle(1, 5)
	b.batch(9, ledger.ID{1}, ledger.ID{2})
	b.post(9, "2 requests", ledger.Leg{Account: c0, Amount: -15}, ledger.Leg{Account: workerA, Amount: 13}, ledger.Leg{Account: "fees", Amount: 2})
}

// archive moves all to the archive but the last record.
func (b *books) archive() {
	if err := b.j.Trim(b.j.Last()); err != nil {
		b.t.Fatal(err)
	}
}

// Whatever is wrong between journal and ledger is found, and said.
func TestAuditFinds(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(b *books)
		want string // in the difference; empty: none
	}{
		"nothing":        {func(*books) {}, ""},
		"all is well":    {(*books).two, ""},
		"well, archived": {func(b *books) { b.two(); b.hold(7, 1); b.archive() }, ""},
		"written again": {func(b *books) {
			b.hold(3, 10)
			b.hold(3, 10)
			b.settle(3, 5)
			b.settle(3, 5)
			s := charge(ledger.ID{1}, workerA, 5, 4, 1)
			b.two()
			b.write(appendSettle(nil, c0, &s, auditTime, ledger.ID{9, 1}))
			b.batch(9, ledger.ID{1}, ledger.ID{2})
		}, ""},
		"above the hold":     {func(b *books) { b.hold(1, 10); b.settle(1, 11) }, "costs 11 nanoTON, and 10 were held"},
		"never held":         {func(b *books) { b.settle(1, 11) }, "settled and was never held"},
		"void, never held":   {func(b *books) { b.write(appendVoid(nil, ledger.ID{1})) }, "voided and was never held"},
		"twice":              {func(b *books) { b.hold(1, 10); b.settle(1, 5); b.settle(1, 6) }, "settled twice"},
		"twice, in a batch":  {func(b *books) { b.two(); b.settle(1, 5) }, "settled after it was closed"},
		"held again":         {func(b *books) { b.two(); b.hold(1, 10) }, "held after it was closed"},
		"settled and voided": {func(b *books) { b.hold(1, 10); b.settle(1, 5); b.write(appendVoid(nil, ledger.ID{1})) }, "voided after"},
		"voided and settled": {func(b *books) { b.hold(1, 10); b.write(appendVoid(nil, ledger.ID{1})); b.settle(1, 5) }, "settled after"},
		"in two batches":     {func(b *books) { b.two(); b.batch(8, ledger.ID{1}) }, "is not settled on customer:c0, or in another batch"},
		"not settled":        {func(b *books) { b.hold(1, 10); b.batch(8, ledger.ID{1}) }, "is not settled on customer:c0"},
		"on its way":         {func(b *books) { b.hold(1, 10); b.settle(1, 5); b.batch(8, ledger.ID{1}) }, ""},
		"lost":               {func(b *books) { b.hold(1, 10); b.settle(1, 5); b.batch(8, ledger.ID{1}); b.hold(2, 1); b.archive() }, "its transfer is not in the ledger"},
		"a transfer of nobody": {func(b *books) {
			b.two()
			b.post(8, "1 requests", ledger.Leg{Account: c0, Amount: -1}, ledger.Leg{Account: "fees", Amount: 1})
		}, "no batch of the journal"},
		"another amount": {func(b *books) {
			b.hold(1, 10)
			b.settle(1, 5)
			b.batch(8, ledger.ID{1})
			b.post(8, "1 requests", ledger.Leg{Account: c0, Amount: -5}, ledger.Leg{Account: workerB, Amount: 4}, ledger.Leg{Account: "fees", Amount: 1})
		}, "is not what its requests add up to"},
		"what the caller knows": {func(b *books) { b.hold(66, 10); b.settle(66, 5) }, "no receipt"},
		"no record":             {func(b *books) { b.write([]byte("X")) }, "record 1 of the journal"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			j, err := journal.Open(dir, journal.Options{Every: -1, SegmentBytes: 1, Archive: true})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = j.Close() }()
			b := &books{t, sqlite(t, 1), j}
			c.do(b)
			check := func(h Hold, s Settlement) error {
				if h.Request != s.Request || string(h.Note) != "note" {
					t.Errorf("checks %+v of %+v", s, h)
				}
				if s.Request[0] == 66 {
					return errors.New("no receipt")
				}
				return nil
			}
			report, err := Audit(t.Context(), b.l, AuditConfig{Dir: dir, Check: check})
			if err != nil || report.OK() != (c.want == "") || !strings.Contains(report.Difference, c.want) {
				t.Errorf("%+v, %v, want %q", report, err, c.want)
			}
		})
	}
}

// An archive that was pruned is audited from where it begins; one that lost a part of its middle is not.
func TestAuditOfPrunedArchive(t *testing.T) {
	dir := t.TempDir()
	j, err := journal.Open(dir, journal.Options{Every: -1, SegmentBytes: 1, Archive: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = j.Close() }()
	b := &books{t, sqlite(t, 1), j}
	b.two() // 5 segments
	b.hold(3, 1)
	b.archive()
	files, err := filepath.Glob(filepath.Join(dir, "archive", "*"))
	if err != nil || len(files) != 5 {
		t.Fatalf("%v, %v", files, err)
	}
	want := []AuditReport{
		{Holds: 2, Settled: 2, Unheld: 1, Batches: 1, Open: 1, Cost: 15, Share: 13, Fee: 2},
		{Holds: 1, Settled: 2, Unheld: 2, Batches: 1, Open: 1, Cost: 15, Share: 13, Fee: 2},
		{Holds: 1, Settled: 1, Unheld: 1, Batches: 1, Incomplete: 1, Open: 1, Cost: 5, Share: 4, Fee: 1},
		{Holds: 1, Batches: 1, Incomplete: 1, Open: 1},
	}
	for i, want := range want {
		if err := os.Remove(files[i]); err != nil {
			t.Fatal(err)
		}
		if got, err := Audit(t.Context(), b.l, AuditConfig{Dir: dir}); err != nil || got != want {
			t.Errorf("without %d segments: %+v, %v, want %+v", i+1, got, err, want)
		}
	}
	if err := os.Remove(files[4]); err != nil {
		t.Fatal(err)
	}
	b.hold(4, 1)
	b.hold(5, 1)
	b.archive()
	files, _ = filepath.Glob(filepath.Join(dir, "archive", "*"))
	if err := os.Remove(files[1]); err != nil {
		t.Fatal(err)
	}
	if got, err := Audit(t.Context(), b.l, AuditConfig{Dir: dir}); err != nil || !strings.Contains(got.Difference, "is missing") {
		t.Errorf("with a hole: %+v, %v", got, err)
	}
}

// Audits run beside a Desk that holds, settles, posts and trims, and find nothing; in the end they have seen all of it.
func TestAuditBesideTheDesk(t *testing.T) {
	dir := t.TempDir()
	l := sqlite(t, 4)
	d := desk(t, Config{Ledger: l, Dir: dir, Journal: journal.Options{SegmentBytes: 8192}})
	working, done := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { newPoster(d).run(working) })
	wg.Go(func() {
		for working.Err() == nil {
			d.trimAt = 1
			if err := d.trim(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	audits := 0
	wg.Go(func() {
		for ; working.Err() == nil || audits == 0; audits++ {
			report, err := Audit(t.Context(), l, AuditConfig{Dir: dir})
			if err != nil || !report.OK() {
				t.Errorf("%+v, %v", report, err)
				return
			}
		}
	})
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 150 {
				id := testID()
				h := Hold{Request: id, Account: ledger.Account("customer:c" + string('0'+id[0]%4)), Ceiling: 100}
				if err := d.Hold(t.Context(), h); err != nil {
					t.Error(err)
				}
				finishQuietly(t, d, id)
			}
		})
	}
	callers.Wait()
	done()
	wg.Wait()
	_ = d.Close() // the poster was stopped on its way, as by a crash
	run(t, desk(t, Config{Ledger: l, Dir: dir, Journal: journal.Options{SegmentBytes: 8192}}))()
	report, err := Audit(t.Context(), l, AuditConfig{Dir: dir})
	if err != nil || !report.OK() || report.Holds != 1200 || report.Settled+report.Voided != 1200 ||
		report.Pending+report.Unbatched+report.Open != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	t.Logf("%d audits, %d batches", audits, report.Batches)
}

func finishQuietly(t *testing.T, d *Desk, id ledger.ID) {
	var err error
	if id[1]%4 == 0 {
		err = d.Void(t.Context(), id)
	} else {
		err = d.Settle(t.Context(), costOf(id))
	}
	if err != nil {
		t.Error(err)
	}
}

// A clock that jumps shows in the times of transfers and the days of usage, nowhere else.
func TestTimesOfAJumpingClock(t *testing.T) {
	dir := t.TempDir()
	j, err := journal.Open(dir, journal.Options{Every: -1})
	if err != nil {
		t.Fatal(err)
	}
	b := &books{t, sqlite(t, 1), j}
	for n, year := range []int{2200, 1970, 2026} {
		b.hold(byte(n+1), 10)
		s := charge(ledger.ID{byte(n + 1)}, workerA, 10, 9, 1)
		s.Line.Key = "k"
		b.write(appendSettle(nil, c0, &s, time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC), ledger.ID{}))
	}
	b.write(appendBatch(nil, ledger.ID{9}, time.Date(1969, 12, 31, 0, 0, 0, 0, time.UTC), c0, []ledger.ID{{1}, {2}}))
	_ = j.Close()
	d := desk(t, Config{Ledger: b.l, Dir: dir})
	run(t, d)()
	if s := d.Stats(); s.Unposted != 0 {
		t.Errorf("%+v", s)
	}
	if report, err := Audit(t.Context(), b.l, AuditConfig{Dir: dir}); err != nil || !report.OK() || report.Batches != 2 {
		t.Errorf("%+v, %v", report, err)
	}
	var days []string
	err = b.l.Usage(t.Context(), ledger.UsageQuery{}, func(u ledger.UsageLine) error {
		days = append(days, u.Day)
		return nil
	})
	if err != nil || strings.Join(days, " ") != "1970-01-01 2026-01-01 2200-01-01" {
		t.Errorf("%v, %v", days, err)
	}
}
