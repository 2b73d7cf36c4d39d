package registry

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cocoon/billing/ton"
	"cocoon/billing/ton/contracts"
	"cocoon/internal/nanoton"
)

// ErrNoRegistry marks an account that is no registry.
var ErrNoRegistry = errors.New("there is no registry")

// Pending is a change that waits.
type Pending struct {
	ID          uint32    // the number of the order that proposed it; the least one is the next to be applied
	EffectiveAt time.Time // when it may be applied, if those before it are
	Change      *Change   // nil if it can't be read: Fault says why
	Fault       string
}

// Registry is a registry's state as of a proven block.
type Registry struct {
	Address   ton.Address
	Seqno     uint32 // of the next order
	Signers   []ed25519.PublicKey
	Threshold int
	Delay     time.Duration
	Floor     time.Duration // the delay can't become shorter
	Entries   []Entry       // by title
	Pending   []Pending     // by ID
	Faults    []string      // entries that can't be read: they are left out of Entries
	Balance   nanoton.Amount
	At        ton.Head

	counts counts
}

// counts are what the contract counted.
type counts struct{ entries, pending, cells int }

// ParseState reads the proven state of a registry's account. The error is ErrNoRegistry if there is none at the address,
// or a contract with other code; it says which. Entries that this program can't read are no error: see Faults.
func ParseState(s *ton.State) (*Registry, error) {
	if !s.Active || s.Code == nil || s.Data == nil {
		return nil, fmt.Errorf("%w at %s: the account has no code at block %d", ErrNoRegistry, s.Address, s.At.Seqno)
	}
	if got := hex.EncodeToString(s.Code.Hash()); got != contracts.RegistryHash {
		return nil, fmt.Errorf("%w at %s: its code has the hash %s, want %s", ErrNoRegistry, s.Address, got,
			contracts.RegistryHash)
	}
	data, err := s.Data.BeginParse()
	if err != nil {
		return nil, fmt.Errorf("%w at %s: %w", ErrNoRegistry, s.Address, err)
	}
	out := &Registry{Address: s.Address, Balance: s.Balance, At: s.At}
	r := reader{s: data}
	out.Seqno = uint32(r.uint(32))
	out.Floor = time.Duration(r.uint(32)) * time.Second
	r.uint(64) // salt
	out.readRules(&r)
	out.readEntries(&r)
	out.readPending(&r)
	out.counts = counts{int(r.uint(16)), int(r.uint(8)), int(r.uint(32))}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("%w at %s: state: %w", ErrNoRegistry, s.Address, err)
	}
	return out, nil
}

func (o *Registry) readRules(r *reader) {
	c := r.ref()
	if c == nil {
		return
	}
	s, err := c.BeginParse()
	if err != nil {
		r.fail(err)
		return
	}
	rules := reader{s: s}
	o.Threshold = int(rules.uint(8))
	o.Delay = time.Duration(rules.uint(32)) * time.Second
	o.Signers = rules.keys()
	if rules.err == nil {
		rules.err = checkSigners(o.Signers, o.Threshold)
	}
	r.fail(rules.end())
}

func (o *Registry) readEntries(r *reader) {
	// A few more than the contract lets in: it counts those that wait as new ones.
	for _, item := range r.dict(256, EntriesMax+PendingMax) {
		key := r.key(item)
		v := reader{s: item.Value}
		e := Entry{NotBefore: fromUnix(v.uint(32)), NotAfter: fromUnix(v.uint(32)), Since: fromUnix(v.uint(32))}
		v.uint(16) // cells
		title, document := v.ref(), v.ref()
		err := v.end()
		if err == nil {
			e.Title, e.Document, err = parseDocument(title, document)
		}
		if err == nil {
			err = e.check()
		}
		if k := e.Key(); err == nil && !bytes.Equal(k[:], key) {
			err = errors.New("its key is another")
		}
		if err != nil {
			o.Faults = append(o.Faults, fmt.Sprintf("entry %x can't be read: %v", key, err))
			continue
		}
		o.Entries = append(o.Entries, e)
	}
	slices.SortFunc(o.Entries, func(a, b Entry) int {
		if a.Kind != b.Kind {
			return int(a.Kind) - int(b.Kind)
		}
		return strings.Compare(a.Name, b.Name)
	})
}

func (o *Registry) readPending(r *reader) {
	for _, item := range r.dict(32, PendingMax) {
		var p Pending
		for _, b := range r.key(item) {
			p.ID = p.ID<<8 | uint32(b)
		}
		v := reader{s: item.Value}
		p.EffectiveAt = fromUnix(v.uint(32))
		v.uint(16) // cells
		change := v.ref()
		err := v.end()
		if err == nil {
			p.Change, err = parseChange(change)
		}
		if err != nil {
			p.Change, p.Fault = nil, err.Error()
		}
		o.Pending = append(o.Pending, p)
	}
}

// Of are the entries of a kind that hold at a time: old and new ones overlap as their owner planned it.
func (o *Registry) Of(kind Kind, at time.Time) []Entry {
	var out []Entry
	for _, e := range o.Entries {
		if e.Kind == kind && e.Holds(at) {
			out = append(out, e)
		}
	}
	return out
}

// Entry is the entry of a title, whether it holds or not.
func (o *Registry) Entry(t Title) (Entry, bool) {
	i := slices.IndexFunc(o.Entries, func(e Entry) bool { return e.Title == t })
	if i < 0 {
		return Entry{}, false
	}
	return o.Entries[i], true
}

// Ripe tells why a pending change can't be applied now, as of the block; nil: it can.
func (o *Registry) Ripe(id uint32) error {
	i := slices.IndexFunc(o.Pending, func(p Pending) bool { return p.ID == id })
	switch {
	case i < 0:
		return fmt.Errorf("%w: no change %d is pending", ErrOrder, id)
	case i > 0:
		return fmt.Errorf("%w: changes are applied in order, and %d is the next", ErrOrder, o.Pending[0].ID)
	case o.At.Time.Before(o.Pending[0].EffectiveAt):
		return fmt.Errorf("%w: change %d may be applied from %s, and the chain's time is %s", ErrOrder, id,
			stamp(o.Pending[0].EffectiveAt), stamp(o.At.Time))
	}
	return nil
}

// Describe says what a change does, with the name of the entry that is removed, where that is known.
func (o *Registry) Describe(c *Change) string {
	for i := range o.Entries {
		if e := &o.Entries[i]; c.Remove == e.Key() {
			return "remove " + e.Title.String()
		}
	}
	return c.String()
}
