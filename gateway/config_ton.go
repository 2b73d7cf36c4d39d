package gateway

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"cocoon/billing/ton"
	"cocoon/billing/ton/wallet"
	"cocoon/internal/nanoton"
)

// TONConfig is the gateway's side of the chain. Amounts are nanoTON: 1000000000 is 1 TON.
type TONConfig struct {
	// Network is the file of the network's global configuration, with its liteservers: the more of them are yours, the
	// fewer can slow you down; none can lie, since all is proved. Required.
	Network string `yaml:"network"`
	// PassphraseFile opens the sealed keys in DataDir, treasury.key and metering.key, which "cocoon-gateway wallet create"
	// makes. Keep it where backups of DataDir don't go; under systemd, LoadCredential. Required.
	PassphraseFile string `yaml:"passphrase_file"`
	// Cold is an address of yours whose key is not here. What the treasury holds above HotMax goes there, and what comes
	// from there is no deposit. Default none.
	Cold string `yaml:"cold"`
	// HotMax is the most that the treasury keeps, so that is what a thief of its key could take. Needs Cold. Default 0: all.
	HotMax nanoton.Amount `yaml:"hot_max_nanoton"`
	// OutflowMax is the most that is paid out in an hour; more waits. It bounds what an error can cost before somebody
	// looks. Default 1000 TON.
	OutflowMax nanoton.Amount `yaml:"outflow_max_nanoton"`
	// PayoutMin is the least that is paid out at once. A payout costs the treasury some 0.0002 to 0.001 TON of fees.
	// Default 0.1 TON.
	PayoutMin nanoton.Amount `yaml:"payout_min_nanoton"`
	// PayoutTimeout is how long a signed payout can be executed, a minute to 48 days. What was not executed by then is signed
	// anew; after a stop of more than two minutes payouts wait that long, since a lost ledger may have signed some. It is part
	// of the treasury's address: never change it while the treasury holds money. Default 1h.
	PayoutTimeout time.Duration `yaml:"payout_timeout"`
	// MaxAge is how old the newest block may be that a decision about money rests on. Default 30s.
	MaxAge time.Duration `yaml:"max_age"`
	// TabMax lets customers keep their money in contracts of their own, from which this gateway draws what they spent: it
	// is the most that it may draw from one before the owner raises it. Default 0: no tabs.
	TabMax nanoton.Amount `yaml:"tab_max_nanoton"`
	// Collateral is what is locked for each worker whose earnings have reached as much, so that it can claim its vouchers
	// without us. Default 0: workers get none.
	Collateral nanoton.Amount `yaml:"collateral_nanoton"`
	// AllowTestMoney pays out although some accounts were given test money: real coins would go out for it. For
	// development only. Default false.
	AllowTestMoney bool `yaml:"allow_test_money"`

	// Treasury and Metering are keys that are open already, in place of the files. Not of the file.
	Treasury wallet.Signer `yaml:"-"`
	Metering wallet.Signer `yaml:"-"`
}

// DefaultTON is the section of an empty one.
func DefaultTON() TONConfig {
	return TONConfig{OutflowMax: 1000 * nanoton.PerTON, PayoutMin: nanoton.PerTON / 10, PayoutTimeout: wallet.DefaultTimeout, MaxAge: ton.DefaultMaxAge}
}

// UnmarshalYAML fills in the defaults of what is left out.
func (c *TONConfig) UnmarshalYAML(unmarshal func(any) error) error {
	type plain TONConfig
	p := plain(DefaultTON())
	if err := unmarshal(&p); err != nil {
		return err
	}
	*c = TONConfig(p)
	return nil
}

func (c *TONConfig) validate() error {
	switch {
	case c.Network == "":
		return errors.New("network: missing; name the file of the network's global configuration")
	case c.PassphraseFile == "" && (c.Treasury == nil || c.Metering == nil):
		return errors.New("passphrase_file: missing; name the file that opens the keys in data_dir")
	case c.HotMax < 0 || c.OutflowMax <= 0 || c.PayoutMin <= 0 || c.TabMax < 0 || c.Collateral < 0:
		return errors.New("amounts: outflow_max_nanoton and payout_min_nanoton must be above zero, the others not below")
	case c.HotMax > 0 && c.Cold == "":
		return errors.New("cold: missing; hot_max_nanoton needs an address for what is above it")
	case c.MaxAge <= 0:
		return errors.New("max_age: must be above zero")
	}
	if err := (wallet.HighloadOptions{Timeout: c.PayoutTimeout}).Check(); err != nil {
		return fmt.Errorf("payout_timeout: %w", err)
	}
	_, err := c.cold()
	return err
}

// cold is the cold address, or zero.
func (c *TONConfig) cold() (ton.Address, error) {
	if c.Cold == "" {
		return ton.Address{}, nil
	}
	a, err := ton.ParseAddress(c.Cold)
	if err != nil {
		return a, fmt.Errorf("cold: %w", err)
	}
	return a, nil
}

// Names of sealed keys in the data folder.
const (
	TreasuryKeyFile = "treasury.key" // pays; the one that must not be lost or stolen
	MeteringKeyFile = "metering.key" // signs what customers owe and workers are owed; can pay nobody else
	chainDir        = "chain"        // the last proved block
)

// TreasuryKey is the path of the key that pays.
func (c *Config) TreasuryKey() string { return filepath.Join(c.DataDir, TreasuryKeyFile) }

// MeteringKey is the path of the key that signs draws and vouchers.
func (c *Config) MeteringKey() string { return filepath.Join(c.DataDir, MeteringKeyFile) }
