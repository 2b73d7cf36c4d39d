// Package registrytest is a development chain with a registry on it, for tests.
package registrytest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	"cocoon/billing/ton/registry"
	"cocoon/billing/ton/wallet"
	"cocoon/internal/config"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/tlb"
	tonutils "github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// Delay is that of the registry.
const Delay = time.Minute

// behind is how far the chain's clock is behind at first: each change moves it forward by Delay.
const behind = 10 * time.Minute

// Chain is a chain with a registry of one signer. It makes blocks when it is told to.
type Chain struct {
	*devnet.Network
	// Address is the registry's.
	Address ton.Address
	// File is the network's global configuration.
	File string

	t      testing.TB
	config []byte
	owner  *wallet.Key
}

// Start makes the chain, some minutes in the past, with an empty registry.
func Start(t testing.TB) *Chain {
	t.Helper()
	n, err := devnet.New(devnet.Options{Clock: func() time.Time { return time.Now().Add(-behind) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	if err := n.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	c := &Chain{
		Network: n, t: t, owner: wallet.KeyFromSeed(bytes.Repeat([]byte{1}, 32)),
		File: filepath.Join(t.TempDir(), "global.config.json"),
	}
	if c.config, err = n.ConfigJSON(); err == nil {
		err = os.WriteFile(c.File, c.config, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	terms := registry.Terms{Signers: []ed25519.PublicKey{c.owner.Public()}, Threshold: 1, Delay: Delay, Floor: Delay}
	init, err := terms.Init()
	if err != nil {
		t.Fatal(err)
	}
	if c.Address, err = terms.Address(); err != nil {
		t.Fatal(err)
	}
	err = n.Inject(&tlb.InternalMessage{
		IHRDisabled: true, SrcAddr: address.NewAddress(0, 0, make([]byte, 32)), DstAddr: c.Address.Std(),
		Amount: tlb.MustFromTON("5"), StateInit: init, Body: cell.BeginCell().EndCell(),
	})
	if err != nil {
		t.Fatal(err)
	}
	c.mine()
	return c
}

func (c *Chain) mine() {
	c.t.Helper()
	if err := c.Mine(); err != nil {
		c.t.Fatal(err)
	}
}

// send has an external message accepted.
func (c *Chain) send(message []byte, err error) {
	c.t.Helper()
	if err == nil {
		err = c.SendExternal(message)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.mine()
}

// Read is the registry now, by the chain's own clock.
func (c *Chain) Read() *registry.Copy {
	c.t.Helper()
	r, err := registry.NewReader(registry.Config{Network: c.config, Address: c.Address, Now: c.Now})
	if err != nil {
		c.t.Fatal(err)
	}
	defer r.Close() // it only asked
	copied, err := r.Read(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	return copied
}

// Propose has the owner propose changes: they are pending then.
func (c *Chain) Propose(changes ...*registry.Change) {
	c.t.Helper()
	for _, change := range changes {
		r := c.Read()
		p, err := registry.NewProposal(&registry.Order{
			Registry: c.Address, Seqno: r.Seqno, ValidUntil: r.At.Time.Add(time.Hour), Change: change,
		})
		if err == nil {
			err = p.Sign(context.Background(), c.owner)
		}
		if err != nil {
			c.t.Fatal(err)
		}
		c.send(p.Message(r.Registry))
	}
}

// Apply lets the delay pass, and has all that is pending applied.
func (c *Chain) Apply() {
	c.t.Helper()
	c.SkewClock(Delay)
	c.mine()
	for _, p := range c.Read().Pending {
		c.send(registry.ApplyMessage(c.Address, p.ID))
	}
}

// Put has entries in the registry.
func (c *Chain) Put(entries ...*registry.Entry) {
	c.t.Helper()
	for _, e := range entries {
		c.Propose(&registry.Change{Put: e})
	}
	c.Apply()
}

// Remove has an entry no longer in the registry.
func (c *Chain) Remove(t registry.Title) {
	c.t.Helper()
	c.Propose(&registry.Change{Remove: t.Key()})
	c.Apply()
}

// CatchUp moves the chain's clock to now, so that those read it who go by the wall clock.
func (c *Chain) CatchUp() {
	c.t.Helper()
	c.SkewClock(time.Since(c.Now()))
	c.mine()
}

// Gone has the liteserver answer nothing but errors.
func (c *Chain) Gone() {
	c.Faults().Hook(func(tl.Serializable) (tl.Serializable, bool) {
		return tonutils.LSError{Code: -400, Text: "out of order"}, true
	})
}

// Back ends Gone.
func (c *Chain) Back() { c.Faults().Hook(nil) }

// Releases are a policy's releases as entries, with more fields in each document.
func Releases(t testing.TB, policy []byte, more map[string]any) []*registry.Entry {
	t.Helper()
	var p struct {
		Releases []map[string]any `yaml:"releases"`
		Rest     map[string]any   `yaml:",inline"`
	}
	if err := config.Decode(policy, &p); err != nil {
		t.Fatal(err)
	}
	var out []*registry.Entry
	for _, r := range p.Releases {
		maps.Copy(r, more)
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		name, _ := r["name"].(string)
		out = append(out, &registry.Entry{Title: registry.Title{Kind: registry.Release, Name: name}, Document: text})
	}
	return out
}
