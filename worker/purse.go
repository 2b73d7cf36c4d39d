package worker

import (
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"cocoon/internal/receipt"
	"cocoon/router/offer"
	"cocoon/worker/vouchers"
)

// voucherLogEvery is between two lines about vouchers that are of no use.
const voucherLogEvery = time.Minute

// purse keeps what gateways promise to pay, and tells them where to and what they promised.
type purse struct {
	store *vouchers.Store
	board *board
	to    *offer.Payout
	log   *slog.Logger

	mu     sync.Mutex
	logged time.Time
}

// VouchersDir is where the worker of a configuration keeps its vouchers.
func VouchersDir(c Config) string { return filepath.Join(c.DataDir, "vouchers") }

// openPurse opens the vouchers of a configuration; nil if no address is named to pay to.
func openPurse(c *Config, b *board, log *slog.Logger) (*purse, error) {
	payee, err := c.payee()
	if err != nil || c.Payout == nil {
		return nil, err
	}
	store, err := vouchers.Open(vouchers.Config{Dir: VouchersDir(*c), Payout: payee, Log: log})
	if err != nil {
		return nil, err
	}
	p := &purse{store: store, board: b, to: c.Payout, log: log}
	p.show()
	return p, nil
}

// show puts the newest vouchers into the sheet.
func (p *purse) show() {
	var list [][]byte
	for _, k := range p.store.List() {
		if len(list) < offer.VouchersMax && len(k.Body) <= offer.VoucherMax {
			list = append(list, k.Body)
		}
	}
	p.board.pay(p.to, list)
}

// keep keeps a voucher that a gateway sent.
func (p *purse) keep(gateway string, v *receipt.Voucher) {
	err := p.store.Keep(gateway, v)
	if err == nil {
		p.show()
		return
	}
	p.mu.Lock()
	quiet := time.Since(p.logged) < voucherLogEvery
	if !quiet {
		p.logged = time.Now()
	}
	p.mu.Unlock()
	if !quiet && !errors.Is(err, vouchers.ErrLower) {
		p.log.Warn("a gateway's voucher is not kept", "gateway", gateway, "err", err)
	}
}
