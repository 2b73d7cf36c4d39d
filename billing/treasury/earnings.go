package treasury

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

// workerPrefix is what the names of workers' accounts start with.
const workerPrefix = "worker:"

// earningsID is the ID of a worker's payout by its number.
func earningsID(worker string, number int64) string {
	return PayoutID("earnings", worker, fmt.Sprint(number))
}

// earnings makes payouts of what workers have earned, where it is due.
func (t *Treasury) earnings(ctx context.Context, now time.Time) error {
	urgent := false
	for _, day := range t.books.paydays {
		urgent = urgent || day.Now
	}
	if !urgent && now.Sub(t.looked) < t.c.Interval || len(t.books.payees) == 0 {
		return nil
	}
	earned, err := t.c.Ledger.Balances(ctx, workerPrefix)
	if err != nil {
		return err
	}
	for worker, payee := range t.books.payees {
		balance := earned[ledger.Account(workerPrefix+worker)]
		if day := t.books.paydays[worker]; t.due(payee, day, balance, now) {
			err = t.payday(ctx, worker, payee, balance, now)
		} else if day.Now {
			err = t.notNow(ctx, worker)
		}
		if errors.Is(err, ledger.ErrOverdrawn) {
			err = nil // it was taken meanwhile
		}
		if err != nil {
			return fmt.Errorf("paying worker %s: %w", worker, err)
		}
	}
	t.looked = now
	return nil
}

// due says whether a worker is to be paid what it has.
func (t *Treasury) due(payee Payee, day payday, balance nanoton.Amount, now time.Time) bool {
	switch {
	case payee.Address.IsZero() || payee.Address == t.address || balance <= 0 || balance < t.c.PayoutMin:
		return false
	case day.Now:
		return true
	}
	return balance >= payee.Min && now.Sub(time.Unix(day.At, 0)) >= time.Duration(payee.Every)*time.Second
}

// payday queues the payout of a worker's earnings.
func (t *Treasury) payday(ctx context.Context, worker string, payee Payee, amount nanoton.Amount, now time.Time) error {
	day := t.books.paydays[worker]
	p := Payout{
		ID: earningsID(worker, day.Number), Account: ledger.Account(workerPrefix + worker), To: payee.Address, Amount: amount,
		Reason: "earnings", State: Queued, Asked: now.UTC(),
	}
	if t.c.Route != nil {
		via, body, ok, err := t.c.Route(ctx, p.Account, p.To, amount)
		if err != nil {
			return err
		}
		if ok {
			p.To, p.Body = via, body
		}
	}
	made, err := p.document()
	if err != nil {
		return err
	}
	day.Number, day.At, day.Now = day.Number+1, now.Unix(), false
	next, err := document(kindPayday, worker, day.version, day)
	if err != nil {
		return err
	}
	return t.commit(ctx, []ledger.Transfer{p.aside()}, []ledger.Document{made, next})
}

// notNow drops the wish of RunNow that there is nothing for.
func (t *Treasury) notNow(ctx context.Context, worker string) error {
	day := t.books.paydays[worker]
	day.Now = false
	d, err := document(kindPayday, worker, day.version, day)
	if err != nil {
		return err
	}
	return t.commit(ctx, nil, []ledger.Document{d})
}

// RunNow has a worker be paid what it has earned, whatever its schedule and its own minimum say; Config.PayoutMin counts.
// The worker is the 64 hex digits of its account. Without a payee document there is nowhere to pay to: ErrUnknown.
func RunNow(ctx context.Context, l Documents, worker string) error {
	if _, err := l.Document(ctx, kindPayee, worker); err != nil {
		if errors.Is(err, ledger.ErrNoDocument) || errors.Is(err, ledger.ErrInvalid) {
			err = fmt.Errorf("payee %.70q: %w", worker, ErrUnknown)
		}
		return err
	}
	return edit(ctx, l, kindPayday, worker, func(day *payday, _ int64) ([]ledger.Transfer, []ledger.Document, error) {
		day.Now = true
		return nil, nil, nil
	})
}

// RunAllNow is RunNow for all workers.
func RunAllNow(ctx context.Context, l Documents) error {
	var workers []string
	err := l.DocumentsOf(ctx, kindPayee, 0, func(d ledger.Document) error {
		if d.Body != nil {
			workers = append(workers, d.ID)
		}
		return nil
	})
	for _, worker := range workers {
		if err == nil {
			err = RunNow(ctx, l, worker)
		}
	}
	return err
}

// SetPayee has a worker's earnings go where p says from here on. The worker is the 64 hex digits of its account.
func SetPayee(ctx context.Context, l Documents, worker string, p Payee) error {
	d, err := l.Document(ctx, kindPayee, worker)
	if err != nil && !errors.Is(err, ledger.ErrNoDocument) {
		return err
	}
	next, err := document(kindPayee, worker, d.Version, p)
	if err != nil || bytes.Equal(next.Body, d.Body) {
		return err
	}
	_, err = l.Commit(ctx, nil, []ledger.Document{next})
	return err
}

// Payees gives where workers' earnings go, by the 64 hex digits of their accounts.
func Payees(ctx context.Context, l Documents) (map[string]Payee, error) {
	all := map[string]Payee{}
	return all, l.DocumentsOf(ctx, kindPayee, 0, func(d ledger.Document) error { return takeInto(all, d) })
}
