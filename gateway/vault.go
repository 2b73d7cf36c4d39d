package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"cocoon/billing/ledger"
	"cocoon/billing/tabs"
	"cocoon/billing/ton"
	"cocoon/billing/ton/wallet"
	"cocoon/billing/treasury"
	"cocoon/internal/config"
	"cocoon/internal/nanoton"
	"cocoon/internal/passphrase"
)

// vault is the gateway's side of the chain: what comes in there, and what goes out.
type vault struct {
	cfg      *TONConfig
	link     *link
	treasury *treasury.Treasury
	tabs     *tabs.Keeper // nil: there are no tabs
	ledger   *ledger.Ledger
	hearsay  hearsay
	told     told
	log      *slog.Logger
}

// openVault makes the vault of what is on disk; the chain is asked once it runs.
func (m *money) openVault(ctx context.Context, c *Config, log *slog.Logger) error {
	network, err := config.ReadFile(c.TON.Network, config.Max)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	pays, meters, err := openKeys(c)
	if err != nil {
		return err
	}
	cold, err := c.TON.cold()
	if err != nil {
		return err
	}
	dir := filepath.Join(c.DataDir, chainDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the chain's folder: %w", err)
	}
	v := &vault{
		cfg: c.TON, log: log, ledger: m.ledger,
		hearsay: newHearsay(),
		link:    &link{c: ton.Config{Network: network, Dir: dir, MaxAge: c.TON.MaxAge, Log: log}},
	}
	hot := wallet.NewHighload(pays, wallet.HighloadOptions{Timeout: c.TON.PayoutTimeout})
	if c.TON.TabMax > 0 || c.TON.Collateral > 0 {
		if err := v.openTabs(m, c, hot, meters); err != nil {
			return err
		}
	}
	t := treasury.Config{
		Ledger: m.ledger, Chain: v.link, Wallet: hot, Withdraw: m.desk.Withdraw, Credited: m.desk.Credited,
		Customer: func(name string) bool { _, err := m.book.Account(name); return err == nil },
		Cold:     cold, HotMax: c.TON.HotMax, OutflowMax: c.TON.OutflowMax, PayoutMin: c.TON.PayoutMin,
		TestMoney: c.TON.AllowTestMoney, Name: c.Name, Log: log,
	}
	if v.tabs != nil {
		t.Source, t.Route = v.tabs.Source, v.route
	}
	if v.treasury, err = treasury.Open(ctx, t); err != nil {
		return err
	}
	m.vault = v
	return nil
}

// openKeys opens the key that pays and the one that signs what is owed.
func openKeys(c *Config) (pays, meters wallet.Signer, err error) {
	if pays, meters = c.TON.Treasury, c.TON.Metering; pays != nil && meters != nil {
		return pays, meters, nil
	}
	words, err := passphrase.Source{File: c.TON.PassphraseFile}.Read("the gateway's keys")
	if err != nil {
		return nil, nil, fmt.Errorf("passphrase_file: %w", err)
	}
	if pays, err = openKey(c.TreasuryKey(), words); err != nil {
		return nil, nil, err
	}
	meters, err = openKey(c.MeteringKey(), words)
	return pays, meters, err
}

func openKey(path string, words []byte) (*wallet.Key, error) {
	key, err := wallet.OpenKey(path, words)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: make it with \"cocoon-gateway wallet create\"", err)
	}
	return key, err
}

// openTabs makes the keeper of customers' and workers' tabs.
func (v *vault) openTabs(m *money, c *Config, hot *wallet.Highload, meters wallet.Signer) (err error) {
	v.tabs, err = tabs.Open(context.Background(), tabs.Config{
		Ledger: m.ledger, Chain: v.link, Treasury: hot.Address(), Signer: meters, Name: hot.Address().String(),
		Withdraw: m.desk.Withdraw, Credited: m.desk.Credited,
		Ask:  func(ctx context.Context, o tabs.Order) error { return v.order(ctx, o) },
		Root: m.log.Root,
		Closing: func(customer ledger.Account, at time.Time) {
			if v.told.first("closing " + string(customer) + at.String()) {
				v.log.Warn("a customer closes his tab", "account", string(customer), "at", at)
			}
		},
		Log: v.log,
	})
	return err
}

// run keeps books with the chain until ctx ends.
func (v *vault) run(ctx context.Context) error {
	defer v.link.close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { v.listen(ctx); return nil })
	group.Go(func() error {
		if !v.link.connect(ctx, v.log) {
			return nil
		}
		v.log.Info("the chain is there", "treasury", v.treasury.Address().String())
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return v.treasury.Run(ctx) })
		if v.tabs != nil {
			group.Go(func() error { return v.tabs.Run(ctx) })
		}
		return group.Wait()
	})
	return group.Wait()
}

// route says how a worker's earnings reach him so that they count as drawn from his tab, if he has one.
func (v *vault) route(
	ctx context.Context, worker ledger.Account, to ton.Address, amount nanoton.Amount,
) (via ton.Address, body []byte, ok bool, err error) {
	o, ok, err := v.tabs.Route(ctx, worker, to, amount)
	return o.To, o.Body, ok, err
}

// order has the treasury pay what a tab needs.
func (v *vault) order(ctx context.Context, o tabs.Order) error {
	return v.treasury.Ask(ctx, treasury.Payout{
		ID: o.ID, Account: o.Account, To: o.To, Amount: o.Amount, Body: o.Body, Init: o.Init, Reason: o.Reason,
	})
}
