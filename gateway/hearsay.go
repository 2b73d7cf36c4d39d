package gateway

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"cocoon/billing/ledger"
	"cocoon/billing/tabs"
	"cocoon/billing/ton"
	"cocoon/billing/treasury"
	"cocoon/internal/receipt"
	"cocoon/router/offer"
)

const (
	// wordsMax bounds the workers whose payout addresses wait to be written, or are remembered.
	wordsMax = 10_000
	// toldMax bounds what is remembered of what was said.
	toldMax = 10_000
	// pledgeEvery is between two looks at who has earned a tab of his own.
	pledgeEvery = 10 * time.Second
)

// word is what a worker's sheet says of money: where its earnings go, and what this gateway promised it.
type word struct {
	payout   offer.Payout
	vouchers [][]byte
}

func (a word) same(b word) bool {
	return a.payout == b.payout && slices.EqualFunc(a.vouchers, b.vouchers, bytes.Equal)
}

// hearsay is what workers' sheets say, on their way into the ledger.
type hearsay struct {
	wake chan struct{}

	mu      sync.Mutex
	heard   map[receipt.Digest]word // written down
	waiting map[receipt.Digest]word
}

func newHearsay() hearsay {
	return hearsay{wake: make(chan struct{}, 1), heard: map[receipt.Digest]word{}, waiting: map[receipt.Digest]word{}}
}

// note takes what a worker's sheet says. It does not wait.
func (w *hearsay) note(worker receipt.Digest, s *offer.Sheet) {
	if s.Payout == nil {
		return
	}
	said := word{*s.Payout, s.Vouchers}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.heard[worker].same(said) || len(w.waiting) >= wordsMax {
		return
	}
	w.waiting[worker] = said
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take gives what waits.
func (w *hearsay) take() map[receipt.Digest]word {
	w.mu.Lock()
	defer w.mu.Unlock()
	todo := w.waiting
	w.waiting = map[receipt.Digest]word{}
	return todo
}

// keep remembers what is written down.
func (w *hearsay) keep(worker receipt.Digest, said word) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.heard) >= wordsMax {
		clear(w.heard)
	}
	w.heard[worker] = said
}

// listen writes down what workers say until ctx ends, and has them promised what they earn.
func (v *vault) listen(ctx context.Context) {
	tick := time.NewTicker(pledgeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.hearsay.wake:
		case <-tick.C:
			if err := v.pledge(ctx); err != nil && ctx.Err() == nil {
				v.log.Warn("looking after workers' tabs failed", "err", err)
			}
			continue
		}
		for worker, said := range v.hearsay.take() {
			if err := v.hear(ctx, worker, said); err != nil { // it comes again with the worker's next sheet
				if ctx.Err() == nil {
					v.log.Error("writing down what a worker says of money failed", "worker", worker.String(), "err", err)
				}
				continue
			}
			v.hearsay.keep(worker, said)
		}
	}
}

// hear has the treasury pay a worker as it wants, and looks at what it says that we promised.
func (v *vault) hear(ctx context.Context, worker receipt.Digest, said word) error {
	to, err := ton.ParseAddress(said.payout.Address)
	if err != nil {
		return err
	}
	p := treasury.Payee{Address: to, Min: said.payout.MinNanoTON, Every: said.payout.EverySeconds}
	if err := treasury.SetPayee(ctx, v.ledger, worker.String(), p); err != nil {
		return err
	}
	if v.tabs == nil {
		return nil
	}
	for _, voucher := range said.vouchers {
		err := v.tabs.Presented(ctx, workerAccount(worker), voucher)
		if err != nil && !errors.Is(err, tabs.ErrVoucher) && !errors.Is(err, tabs.ErrNone) && !errors.Is(err, tabs.ErrOlder) {
			return err // those are of others, or were logged
		}
	}
	return nil
}

func workerAccount(id receipt.Digest) ledger.Account { return ledger.Account("worker:" + id.String()) }

// pledge has each worker's tab hold the collateral, once the worker has earned as much.
func (v *vault) pledge(ctx context.Context) error {
	if v.tabs == nil || v.cfg.Collateral == 0 {
		return nil
	}
	earned, err := v.ledger.Balances(ctx, "worker:")
	if err != nil {
		return err
	}
	own, err := treasury.Own(ctx, v.ledger)
	if err != nil {
		return err
	}
	payees, err := treasury.Payees(ctx, v.ledger)
	if err != nil {
		return err
	}
	for id, payee := range payees {
		worker := ledger.Account("worker:" + id)
		if earned[worker] < v.cfg.Collateral {
			continue
		}
		p, err := v.tabs.Pledge(ctx, worker)
		if err != nil && !errors.Is(err, tabs.ErrNone) {
			return err
		}
		lacks := max(v.cfg.Collateral-p.Balance, 0)
		if lacks > own {
			if v.told.first("poor") {
				v.log.Warn("workers' tabs are not filled: the operator's own money does not cover them; put in capital", "own", own.String())
			}
			continue
		}
		own -= lacks
		if _, err := v.tabs.Collateral(ctx, worker, payee.Address, v.cfg.Collateral); err != nil && v.told.first(id+err.Error()) {
			v.log.Warn("a worker gets no collateral", "worker", id, "err", err)
		}
	}
	return nil
}

// told remembers what the log has said, for what comes again and again.
type told struct {
	mu   sync.Mutex
	said map[string]bool
}

// first says whether it is for the first time.
func (t *told) first(what string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.said == nil || len(t.said) >= toldMax {
		t.said = map[string]bool{}
	}
	was := t.said[what]
	t.said[what] = true
	return !was
}

// voucher is the newest for a worker; nil if there is none.
func (v *vault) voucher(ctx context.Context, worker receipt.Digest) *receipt.Voucher {
	if v == nil || v.tabs == nil {
		return nil
	}
	voucher, err := v.tabs.Voucher(ctx, workerAccount(worker))
	if err != nil && ctx.Err() == nil {
		v.log.Warn("signing a worker's voucher failed", "worker", worker.String(), "err", err)
	}
	return voucher
}
