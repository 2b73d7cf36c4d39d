package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	"cocoon/billing/ton/wallet"
	"cocoon/gateway"
	"cocoon/gateway/accounts"
	"cocoon/internal/durable"
	"cocoon/internal/nanoton"
	"cocoon/router/offer"
)

const (
	// devMoney is what the account begins with, on the local chain: enough for days of play.
	devMoney = 1000 * nanoton.PerTON
	// devCapital is the operator's own, for the network's fees.
	devCapital = 10 * nanoton.PerTON
	// creditPatience is how long the first deposit may take until it can be spent: some blocks.
	creditPatience = 20 * time.Second
	// devCollateral is locked for a worker that has earned as much.
	devCollateral = nanoton.PerTON / 10
	// devPayout is the least that is paid out: a few answers of the tiny model, and less than a payout costs. The coins are free.
	devPayout = nanoton.Amount(10_000)
)

// Names in the chain's folder.
const (
	treasurySeed = "treasury.seed"
	meteringSeed = "metering.seed"
	workerSeed   = "worker.seed"
)

// loadKey reads a key to play money, which is made at the first start: its seed lies in the open.
func loadKey(path string) (*wallet.Key, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		seed := make([]byte, ed25519.SeedSize)
		_, _ = rand.Read(seed) // it never fails
		text = []byte(hex.EncodeToString(seed) + "\n")
		err = durable.Publish(path, text)
	}
	if err != nil {
		return nil, err
	}
	seed, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("%s is not %d hex digits", path, 2*ed25519.SeedSize)
	}
	return wallet.KeyFromSeed(seed), nil
}

// purse is the network's money: the local chain, and the keys on it.
type purse struct {
	*chain
	treasury, metering *wallet.Key
	payout             ton.Address // of the worker
}

// openPurse starts the chain of a folder.
func openPurse(dir string, log *slog.Logger) (*purse, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	c, err := startChain(dir, log)
	if err != nil {
		return nil, err
	}
	p := &purse{chain: c}
	worker, err := loadKey(filepath.Join(dir, workerSeed))
	if err == nil {
		p.payout = wallet.NewPersonal(worker, devnet.GlobalID).Address()
		p.treasury, err = loadKey(filepath.Join(dir, treasurySeed))
	}
	if err == nil {
		p.metering, err = loadKey(filepath.Join(dir, meteringSeed))
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return p, nil
}

// ton is the gateway's side of it.
func (p *purse) ton() *gateway.TONConfig {
	c := gateway.DefaultTON()
	c.Network, c.Treasury, c.Metering = p.config, p.treasury, p.metering
	c.MaxAge, c.PayoutTimeout = 3*heartbeat, time.Minute // after a break of some minutes nobody wants to wait for an hour
	c.PayoutMin, c.TabMax, c.Collateral = devPayout, devMoney, devCollateral
	c.AllowTestMoney = true // of folders from before there was a chain
	return &c
}

// wants is how the worker wants to be paid.
func (p *purse) wants() *offer.Payout {
	return &offer.Payout{Address: p.payout.String(), MinNanoTON: devPayout, EverySeconds: 60}
}

// treasury is the address of the gateway's wallet.
func (n *network) treasury() string {
	d, _ := n.gateway.Deposit(accounts.DefaultAccount)
	return d.Address.String()
}

// fund pays in for an account that has nothing, as its owner would, and waits until it can be spent; false if that takes
// too long.
func (n *network) fund(ctx context.Context, name string) (bool, error) {
	balance, err := n.gateway.Book().Balance(ctx, name)
	if err != nil || balance > 0 {
		return true, err
	}
	d, ok := n.gateway.Deposit(name)
	if !ok {
		return false, errors.New("the gateway takes no deposits")
	}
	if _, err := n.purse.network.Pay(ctx, d.Address.String(), devCapital, d.Capital); err != nil {
		return false, err
	}
	if _, err := n.purse.network.Pay(ctx, d.Address.String(), devMoney, d.Memo); err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, creditPatience)
	defer cancel()
	tick := time.NewTicker(readyPeriod)
	defer tick.Stop()
	for {
		if balance, err = n.gateway.Book().Balance(ctx, name); err == nil && balance > 0 {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-tick.C:
		}
	}
}
