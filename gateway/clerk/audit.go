package clerk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"cocoon/billing"
	"cocoon/billing/ledger"
	"cocoon/billing/tally"
	"cocoon/internal/receipt"
)

// AuditConfig says what Audit compares.
type AuditConfig struct {
	Ledger   *ledger.Ledger
	Gateway  string // of the Desk's Config
	Journal  string // folder of the Desk's journal
	Receipts string // folder of the log of receipts
	Keysets  string // folder of keysets
}

// AuditReport says what an audit found. Nothing is compared after the first part that has a difference.
type AuditReport struct {
	Ledger   ledger.Report
	Journal  billing.AuditReport
	Receipts tally.Report
	// Signatures are the settled receipts whose signature was checked; the keysets of the others are forgotten.
	Signatures int
	Difference string // the first thing that is wrong, in words; empty if all of it holds
}

// Audit compares ledger, journal and log of receipts, beside a running gateway if need be, and changes nothing: the
// ledger is what its transfers make it; each settlement is in the ledger, below its hold, and what its receipt says at
// the price of its hold; the log of receipts is whole, and the one that was signed. An error says that the audit could
// not be done.
func Audit(ctx context.Context, c AuditConfig) (AuditReport, error) {
	var report AuditReport
	var err error
	if report.Ledger, err = c.Ledger.Audit(ctx); err != nil {
		return report, err
	}
	if !report.Ledger.OK() {
		report.Difference = "ledger: " + report.Ledger.Difference
		return report, nil
	}
	log, err := tally.OpenReader(c.Receipts)
	if errors.Is(err, fs.ErrNotExist) { // there was never a gateway that bills
		log, err = nil, nil
	}
	if err != nil {
		return report, err
	}
	if log != nil {
		defer func() { _ = log.Close() }() // it was only read
	}
	k := &auditor{log: log, keysets: &keysets{dir: c.Keysets, known: map[receipt.Digest]*keyset{}}}
	report.Journal, err = billing.Audit(ctx, c.Ledger, billing.AuditConfig{Dir: c.Journal, Gateway: c.Gateway, Check: k.check})
	if errors.Is(err, fs.ErrNotExist) && log == nil {
		return report, nil
	}
	report.Signatures = k.signatures
	if err != nil || !report.Journal.OK() {
		report.Difference = "journal: " + report.Journal.Difference
		return report, err
	}
	if log != nil {
		if report.Receipts, err = log.Audit(ctx, nil, nil); err != nil && ctx.Err() == nil {
			report.Difference, err = "log of receipts: "+err.Error(), nil
		}
	}
	return report, err
}

// auditor holds settlements against their receipts.
type auditor struct {
	log        *tally.Reader
	keysets    *keysets
	signatures int
}

// check says what is wrong with a settlement.
func (a *auditor) check(h billing.Hold, s billing.Settlement) error {
	t, err := parseNote(h.Request, h.Account, h.Note)
	if err != nil {
		return err
	}
	if a.log == nil {
		return errors.New("it is settled, and there is no log of receipts")
	}
	r, err := a.log.Find(s.Receipt)
	if err != nil {
		return fmt.Errorf("its receipt %x: %w", s.Receipt, err)
	}
	b := &Bill{t: *t, ceiling: h.Ceiling}
	k, err := a.keysets.get(r.Keyset)
	switch {
	case err == nil:
		if err := k.verifier.Verify(r); err != nil {
			return fmt.Errorf("its receipt %v: %w", r.ID(), err)
		}
		a.signatures++
	case errors.Is(err, ErrKeyset): // forgotten: what it said of the model is not known any more
		k = &keyset{epoch: r.Epoch, from: r.Start, to: r.End, models: map[string]model{t.Model: {r.Weights, r.Engine}}}
	default:
		return err
	}
	if err := b.check(k, &r.Receipt); err != nil {
		return fmt.Errorf("its receipt %v: %w", r.ID(), err)
	}
	b.how = Done
	if s.Line == (billing.Line{}) && s.Cost == 0 {
		b.how = Failed
	}
	e := &entry{b: b, paid: r, cost: b.cost(r)}
	b.id = h.Request
	if want := e.settlement(); want.Cost != s.Cost || want.Share != s.Share || want.Fee != s.Fee || want.Worker != s.Worker ||
		want.Line.Counts != s.Line.Counts || want.Line.Item != s.Line.Item {
		return fmt.Errorf("its receipt %v makes %d of %d nanoTON to the worker for %v tokens, and it is settled as %d of %d for %v",
			r.ID(), int64(want.Share), int64(want.Cost), want.Line.Counts, int64(s.Share), int64(s.Cost), s.Line.Counts)
	}
	return nil
}
