package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"cocoon/billing/ton"
	"cocoon/internal/config"
	"cocoon/internal/nanoton"
	"cocoon/worker/vouchers"
)

const (
	// claimsEvery is between two looks at what vouchers are worth: a tab takes days to close.
	claimsEvery = 30 * time.Minute
	// claimMax bounds one claim: blocks come in under a second.
	claimMax = 2 * time.Minute
	// claimsMax bounds one look, claims and all.
	claimsMax = 20 * time.Minute
)

// Claims says how the worker looks after its vouchers by itself.
type Claims struct {
	// Network is the file of the TON network's global configuration. Required.
	Network string `yaml:"network"`
	// Gone is how long a gateway has to be out of reach until its voucher is claimed. One whose gateway closes the contract,
	// or that is about to expire, is claimed at once. Default 72h.
	Gone time.Duration `yaml:"gone"`
	// Least is what is worth a claim, nanoTON: it costs the contract fees. Default 0.1 TON.
	Least nanoton.Amount `yaml:"least_nanoton"`
}

// UnmarshalYAML fills in the defaults of what is left out.
func (c *Claims) UnmarshalYAML(unmarshal func(any) error) error {
	type plain Claims
	p := plain{Gone: 72 * time.Hour, Least: nanoton.PerTON / 10}
	if err := unmarshal(&p); err != nil {
		return err
	}
	*c = Claims(p)
	return nil
}

func (c *Claims) check() error {
	switch {
	case c.Network == "":
		return errors.New("network: missing; name the file of the network's global configuration")
	case c.Gone <= 0 || c.Least <= 0:
		return errors.New("gone and least_nanoton must be above zero")
	}
	return nil
}

// claims looks at the vouchers until ctx ends.
func (w *Worker) claims(ctx context.Context) {
	t := w.till.Load()
	if w.config.Claims == nil || t.purse == nil {
		return
	}
	there := map[string]time.Time{} // when gateways were last in reach
	for _, g := range w.config.Gateways {
		there[g.Address] = time.Now()
	}
	tick := time.NewTicker(claimsEvery)
	defer tick.Stop()
	for {
		for i, d := range w.dialers {
			if d.Status().Connected {
				there[w.config.Gateways[i].Address] = time.Now()
			}
		}
		if err := w.claimDue(ctx, t.purse.store.List(), there); err != nil && ctx.Err() == nil {
			w.log.Warn("looking after vouchers failed, trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// claimDue claims what is due. there says when gateways were last in reach; one that it does not have is configured no more,
// and gone for good.
func (w *Worker) claimDue(ctx context.Context, list []vouchers.Kept, there map[string]time.Time) error {
	if len(list) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, claimsMax)
	defer cancel()
	network, err := config.ReadFile(w.config.Claims.Network, config.Max)
	if err != nil {
		return fmt.Errorf("claims.network: %w", err)
	}
	dir := filepath.Join(w.config.DataDir, "chain")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	chain, err := ton.Open(ctx, ton.Config{Network: network, Dir: dir, Log: w.log})
	if err != nil {
		return err
	}
	defer chain.Close() // it keeps what it needs as it goes
	policy := vouchers.Policy{Gone: w.config.Claims.Gone, Least: w.config.Claims.Least}
	var failed error
	for _, k := range list {
		o, err := vouchers.Look(ctx, chain, k)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("voucher of %s: %w", k.Gateway, err))
			continue
		}
		gone := policy.Gone
		if at, ok := there[k.Gateway]; ok {
			gone = time.Since(at)
		}
		why := policy.Due(k, o, gone, time.Now())
		if why == "" {
			continue
		}
		claiming, cancel := context.WithTimeout(ctx, claimMax)
		paid, err := vouchers.Claim(claiming, chain, k)
		cancel()
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("claiming from %s: %w", k.Gateway, err))
			continue
		}
		w.log.Info("voucher claimed", "gateway", k.Gateway, "why", why, "paid", paid.String(), "tab", k.Voucher.Tab.String())
	}
	return failed
}
