package clerk

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/billing"
	"cocoon/billing/ledger"
	"cocoon/internal/receipt"
	"cocoon/router/offer"
)

func (o *office) audit() AuditReport {
	o.t.Helper()
	report, err := Audit(context.Background(), AuditConfig{
		Ledger: o.ledger, Journal: filepath.Join(o.dir, "journal"), Receipts: filepath.Join(o.dir, "receipts"),
		Keysets: filepath.Join(o.dir, "keysets"),
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return report
}

// An audit beside a running gateway finds that all holds, whatever is on its way.
func TestAudit(t *testing.T) {
	inBubble(t, func(t *testing.T, o *office, w *fakeWorker) {
		for n := range 6 {
			b, j := o.begin(w, w.terms(n))
			switch n {
			case 0:
				b.Close(Failed)
			case 1:
				take(t, b, j.sign(receipt.Final, receipt.Error, offer.Usage{}))
				b.Close(Failed)
			case 2:
				take(t, b, j.sign(receipt.Final, receipt.ClientAbort, offer.Usage{}))
				b.Close(Left)
			default:
				take(t, b, j.final(int64(n)))
				b.Close(Done)
			}
			if n == 3 {
				sleep(time.Second)
			}
			if report := o.audit(); report.Difference != "" {
				t.Errorf("%d: %+v", n, report)
			}
		}
		sleep(time.Second)
		r := o.audit()
		if j := r.Journal; r.Difference != "" || j.Holds != 6 || j.Voided != 1 || j.Settled != 5 || j.Open != 0 || r.Signatures != 5 ||
			r.Receipts.Receipts != 5 || j.Cost != cost(3)+cost(4)+cost(5) {
			t.Errorf("%+v", r)
		}
		if err := os.RemoveAll(filepath.Join(o.dir, "keysets")); err != nil {
			t.Fatal(err)
		}
		if r := o.audit(); r.Difference != "" || r.Signatures != 0 {
			t.Errorf("without keysets: %+v", r)
		}
	})
}

// An audit of nothing holds.
func TestAuditNothing(t *testing.T) {
	l, err := ledger.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	none := filepath.Join(t.TempDir(), "none")
	if r, err := Audit(t.Context(), AuditConfig{Ledger: l, Journal: none, Receipts: none, Keysets: none}); err != nil || r.Difference != "" {
		t.Errorf("%+v, %v", r, err)
	}
}

// An audit finds a settlement that its receipt does not say, and a log that was changed.
func TestAuditFinds(t *testing.T) {
	for what, c := range map[string]struct {
		settle func(s *billing.Settlement)
		spoil  func(t *testing.T, dir string)
		want   string
	}{
		"another cost":    {settle: func(s *billing.Settlement) { s.Cost, s.Fee = s.Cost+1, s.Fee+1 }, want: "and it is settled as"},
		"another share":   {settle: func(s *billing.Settlement) { s.Share, s.Fee = s.Share+1, s.Fee-1 }, want: "and it is settled as"},
		"another worker":  {settle: func(s *billing.Settlement) { s.Worker = workerAccount(receipt.Digest{8}) }, want: "and it is settled as"},
		"other tokens":    {settle: func(s *billing.Settlement) { s.Line.Counts[2]++ }, want: "and it is settled as"},
		"no receipt":      {settle: func(s *billing.Settlement) { s.Receipt = [32]byte{} }, want: "not in the log"},
		"another receipt": {settle: func(s *billing.Settlement) { s.Receipt[0] ^= 1 }, want: "not in the log"},
		"a spoilt log": {spoil: func(t *testing.T, dir string) {
			path := filepath.Join(dir, "receipts", "receipts")
			text, err := os.ReadFile(path)
			if err == nil {
				text[len(text)/2] ^= 1
				err = os.WriteFile(path, text, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}, want: "not in the log"},
		"a shorter log": {spoil: func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, "receipts", "receipts"), 16); err != nil {
				t.Fatal(err)
			}
		}, want: "not in the log"},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, w := newOffice(t, 1_000_000), newWorker(t, 1)
				w.meet(o.clerk)
				b, j := o.begin(w, w.terms(1))
				final := j.final(7)
				if c.settle == nil {
					take(t, b, final)
					b.Close(Done)
				} else {
					if _, err := o.log.Append(final); err != nil {
						t.Fatal(err)
					}
					s := (&entry{b: b, paid: final, cost: b.cost(final)}).settlement()
					c.settle(&s)
					if err := o.desk.SettleAll(t.Context(), []billing.Settlement{s})[0]; err != nil {
						t.Fatal(err)
					}
				}
				sleep(time.Second)
				if c.spoil != nil {
					c.spoil(t, o.dir)
				}
				if r := o.audit(); !strings.Contains(r.Difference, c.want) {
					t.Errorf("%+v, want %q", r, c.want)
				}
				o.faults.set(func(f *faults) { f.dead = true })
				o.stop()
			})
		})
	}
}
