// Package registry is the contract that says in public what the network trusts: releases, gateways, parameters.
//
// Nothing in it changes overnight: an order, signed by a threshold of the owner's keys, proposes a change, which counts
// when a public delay is over and anyone has applied it. Readers take it from the proven state of the chain, and keep the
// proof, so that they can go on for a while without the chain: see Reader. The documents are bytes here: what they mean
// is for those who read them.
package registry

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"cocoon/billing/ton"
	"cocoon/billing/ton/contracts"
	"cocoon/internal/nanoton"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// Limits of the contract, which refuses what is beyond them.
const (
	SignersMax   = 16
	ThresholdMax = 5                   // signatures that there is gas for before the contract has accepted to pay
	DelayMax     = 90 * 24 * time.Hour // a longer one would shut the owner out
	EntriesMax   = 64
	PendingMax   = 16
	DocumentMax  = 8 << 10 // bytes
	NameMax      = 64      // bytes
)

// FloorMin is the shortest floor that Terms may have: changes that nobody had the time to see are no better than none at
// all. The contract takes any.
const FloorMin = time.Minute

// ErrTerms marks terms that no registry can have.
var ErrTerms = errors.New("no terms of a registry")

// Kind is what a document is about.
type Kind uint8

// The kinds. A contract may hold kinds that this program does not know: they have no name.
const (
	Release Kind = 1 // software: reference values, weights
	Gateway Kind = 2 // where it is, and its keys
	Params  Kind = 3 // of the network
	Policy  Kind = 4 // the rest of an appraisal policy: hardware, minimum versions
)

// kinds are all that have a name, in order.
func kinds() []string { return []string{"release", "gateway", "params", "policy"} }

// String is the kind's name, or kind-N.
func (k Kind) String() string {
	if names := kinds(); k >= 1 && int(k) <= len(names) {
		return names[k-1]
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// ParseKind reads a kind's name.
func ParseKind(text string) (Kind, error) {
	if i := slices.Index(kinds(), text); i >= 0 {
		return Kind(i + 1), nil
	}
	return 0, fmt.Errorf("no kind %.40q of entries, want one of %s", text, strings.Join(kinds(), ", "))
}

// Title names an entry: there is one of each kind and name.
type Title struct {
	Kind Kind
	Name string // 1 to NameMax letters, digits, dots, dashes and underscores
}

// String is kind/name.
func (t Title) String() string { return t.Kind.String() + "/" + t.Name }

// check refuses titles that people could not tell from others.
func (t Title) check() error {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r)
	}
	switch {
	case t.Kind == 0:
		return errors.New("title without a kind")
	case t.Name == "" || len(t.Name) > NameMax:
		return fmt.Errorf("name has %d characters, want 1 to %d", len(t.Name), NameMax)
	case strings.ContainsFunc(t.Name, func(r rune) bool { return !plain(r) }):
		return fmt.Errorf("name %.80q, want letters, digits, dots, dashes and underscores", t.Name)
	}
	return nil
}

// cell is the title's form in the contract, whose hash is the entry's key.
func (t Title) cell() *cell.Cell {
	return cell.BeginCell().MustStoreUInt(uint64(t.Kind), 8).MustStoreSlice([]byte(t.Name), 8*uint(len(t.Name))).EndCell()
}

// Key is what the contract calls the entry.
func (t Title) Key() [32]byte { return [32]byte(t.cell().Hash()) }

// Entry is one document, with the time that it holds.
type Entry struct {
	Title
	NotBefore time.Time // zero: from the beginning
	NotAfter  time.Time // zero: without end
	Document  []byte    // at most DocumentMax
	Since     time.Time // when the change was applied; zero in a change
}

// Holds tells whether the entry holds at a time: from NotBefore until NotAfter, which is no longer in it.
func (e *Entry) Holds(at time.Time) bool {
	return !at.Before(e.NotBefore) && (e.NotAfter.IsZero() || at.Before(e.NotAfter))
}

// Terms are what a registry begins with. Its address depends on all of them.
type Terms struct {
	Signers   []ed25519.PublicKey // 1 to SignersMax different keys, in any order
	Threshold int                 // of them must sign: 1 to ThresholdMax
	Delay     time.Duration       // Floor to DelayMax, in whole seconds
	Floor     time.Duration       // least delay that can ever be set: FloorMin to DelayMax, in whole seconds
	Salt      uint64              // tells registries of the same terms apart
}

// Init is the contract's code and first state. The error is ErrTerms, and says what is wrong with the terms.
func (t *Terms) Init() (*tlb.StateInit, error) {
	signers, err := signersCell(t.Signers, t.Threshold)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTerms, err)
	}
	if err := checkDelay(t.Floor, FloorMin); err != nil {
		return nil, fmt.Errorf("%w: floor: %w", ErrTerms, err)
	}
	if err := checkDelay(t.Delay, t.Floor); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTerms, err)
	}
	code, err := contracts.Registry()
	if err != nil {
		return nil, err
	}
	rules := cell.BeginCell().MustStoreUInt(uint64(t.Threshold), 8).MustStoreUInt(seconds(t.Delay), 32).
		MustStoreUInt(uint64(len(t.Signers)), 8).MustStoreRef(signers)
	data := cell.BeginCell().MustStoreUInt(0, 32).MustStoreUInt(seconds(t.Floor), 32).MustStoreUInt(t.Salt, 64).
		MustStoreRef(rules.EndCell()).MustStoreUInt(0, 1+1+16+8+32) // no entries, nothing pending
	return &tlb.StateInit{Code: code, Data: data.EndCell()}, nil
}

// Address is where the registry is, or will be.
func (t *Terms) Address() (ton.Address, error) {
	init, err := t.Init()
	if err != nil {
		return ton.Address{}, err
	}
	c, err := tlb.ToCell(init)
	if err != nil {
		return ton.Address{}, fmt.Errorf("registry: state init: %w", err)
	}
	return ton.Address{Hash: [32]byte(c.Hash())}, nil
}

// DeployLink is a ton://transfer link that puts the registry on the chain, with that amount for its rent and its gas.
func (t *Terms) DeployLink(amount nanoton.Amount) (string, error) {
	init, err := t.Init()
	if err != nil {
		return "", err
	}
	a, err := t.Address()
	if err != nil {
		return "", err
	}
	c, err := tlb.ToCell(init)
	if err != nil {
		return "", fmt.Errorf("registry: state init: %w", err)
	}
	return ton.PayLink(a, amount, "", nil, c.ToBOC()), nil
}

// keysInCell is how many keys one cell of a list of signers holds.
const keysInCell = 3

// signersCell is the contract's form of a set of keys: ascending, so that each counts once, three to a cell.
func signersCell(keys []ed25519.PublicKey, threshold int) (*cell.Cell, error) {
	if err := checkSigners(keys, threshold); err != nil {
		return nil, err
	}
	keys = slices.Clone(keys)
	slices.SortFunc(keys, func(a, b ed25519.PublicKey) int { return bytes.Compare(a, b) })
	var next *cell.Cell
	for _, some := range slices.Backward(slices.Collect(slices.Chunk(keys, keysInCell))) {
		b := cell.BeginCell()
		for _, k := range some {
			b.MustStoreSlice(k, 256)
		}
		if next != nil {
			b.MustStoreRef(next)
		}
		next = b.EndCell()
	}
	return next, nil
}

// checkSigners refuses what the contract would refuse, and keys of which one counts twice.
func checkSigners(keys []ed25519.PublicKey, threshold int) error {
	if len(keys) < 1 || len(keys) > SignersMax {
		return fmt.Errorf("%d signers, want 1 to %d", len(keys), SignersMax)
	}
	if threshold < 1 || threshold > min(len(keys), ThresholdMax) {
		return fmt.Errorf("threshold %d of %d signers, want 1 to %d", threshold, len(keys), min(len(keys), ThresholdMax))
	}
	for i, k := range keys {
		if len(k) != ed25519.PublicKeySize {
			return fmt.Errorf("signer %d is no Ed25519 key: it has %d bytes", i+1, len(k))
		}
		if slices.ContainsFunc(keys[:i], func(o ed25519.PublicKey) bool { return bytes.Equal(o, k) }) {
			return fmt.Errorf("signer %x is there twice", []byte(k))
		}
	}
	return nil
}

func checkDelay(d, least time.Duration) error {
	if d < least || d > DelayMax || d%time.Second != 0 {
		return fmt.Errorf("delay %s, want %s to %s, in whole seconds", d, least, DelayMax)
	}
	return nil
}

func seconds(d time.Duration) uint64 { return uint64(d / time.Second) }

// unix is a time in the contract's form, where 0 is none.
func unix(t time.Time) (uint64, error) {
	if t.IsZero() {
		return 0, nil
	}
	if s := t.Unix(); s < 1 || s > math.MaxUint32 || t.Nanosecond() != 0 {
		return 0, fmt.Errorf("time %s, want whole seconds from 1970 to 2106", t.UTC().Format(time.RFC3339Nano))
	}
	return uint64(t.Unix()), nil
}

func fromUnix(s uint64) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(int64(s), 0).UTC()
}
