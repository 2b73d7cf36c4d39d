package registry

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/xssnick/tonutils-go/tvm/cell"
)

// Numbers of changes in the contract.
const (
	opPut     = 1
	opRemove  = 2
	opSigners = 3
	opDelay   = 4
)

// ErrChange marks a change that can't be made, or is none.
var ErrChange = errors.New("no change of a registry")

// Change is what an order proposes: one of the fields is set.
type Change struct {
	Put     *Entry   // add the entry, or replace the one of the same title; Since is not part of it
	Remove  [32]byte // take away the entry with this key; that it is not there is no error
	Signers *Signers // other keys
	Delay   time.Duration
}

// Signers are keys of which a threshold must sign.
type Signers struct {
	Keys      []ed25519.PublicKey // in ascending order, where the contract has them
	Threshold int
}

// cell is the change in the contract's form. Whether the delay is not below the floor is not known here.
func (c *Change) cell() (*cell.Cell, error) {
	b, n := cell.BeginCell(), 0
	if c.Put != nil {
		n++
		if err := putCell(b, c.Put); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrChange, err)
		}
	}
	if c.Remove != [32]byte{} {
		n++
		b.MustStoreUInt(opRemove, 8).MustStoreSlice(c.Remove[:], 256)
	}
	if c.Signers != nil {
		n++
		d, err := signersCell(c.Signers.Keys, c.Signers.Threshold)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrChange, err)
		}
		b.MustStoreUInt(opSigners, 8).MustStoreUInt(uint64(c.Signers.Threshold), 8).
			MustStoreUInt(uint64(len(c.Signers.Keys)), 8).MustStoreRef(d)
	}
	if c.Delay != 0 {
		n++
		if err := checkDelay(c.Delay, time.Second); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrChange, err)
		}
		b.MustStoreUInt(opDelay, 8).MustStoreUInt(seconds(c.Delay), 32)
	}
	if n != 1 {
		return nil, fmt.Errorf("%w: it does %d things, want one", ErrChange, n)
	}
	return b.EndCell(), nil
}

func putCell(b *cell.Builder, e *Entry) error {
	if err := e.check(); err != nil {
		return err
	}
	document, err := snake(e.Document)
	if err != nil {
		return err
	}
	from, err := unix(e.NotBefore)
	if err != nil {
		return err
	}
	until, err := unix(e.NotAfter)
	if err != nil {
		return err
	}
	b.MustStoreUInt(opPut, 8).MustStoreUInt(from, 32).MustStoreUInt(until, 32).MustStoreRef(e.cell()).MustStoreRef(document)
	return nil
}

func (e *Entry) check() error {
	if err := e.Title.check(); err != nil {
		return err
	}
	if len(e.Document) == 0 || len(e.Document) > DocumentMax {
		return fmt.Errorf("document has %d bytes, want 1 to %d", len(e.Document), DocumentMax)
	}
	if !e.NotAfter.IsZero() && !e.NotBefore.Before(e.NotAfter) {
		return fmt.Errorf("it holds until %s, which is not after %s", stamp(e.NotAfter), stamp(e.NotBefore))
	}
	return nil
}

// parseChange reads a change out of a state or an order. It is what a quorum signed, and may still be nonsense.
func parseChange(c *cell.Cell) (*Change, error) {
	s, err := c.BeginParse()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrChange, err)
	}
	r := reader{s: s}
	out := new(Change)
	switch op := r.uint(8); op {
	case opPut:
		e := &Entry{NotBefore: fromUnix(r.uint(32)), NotAfter: fromUnix(r.uint(32))}
		title, document := r.ref(), r.ref()
		if r.err == nil {
			e.Title, e.Document, r.err = parseDocument(title, document)
		}
		if r.err == nil {
			r.err = e.check()
		}
		out.Put = e
	case opRemove:
		copy(out.Remove[:], r.bytes(256))
		if out.Remove == [32]byte{} && r.err == nil {
			r.err = errors.New("the key of an entry is zero")
		}
	case opSigners:
		out.Signers = &Signers{Threshold: int(r.uint(8)), Keys: r.keys()}
		if r.err == nil {
			r.err = checkSigners(out.Signers.Keys, out.Signers.Threshold)
		}
	case opDelay:
		out.Delay = time.Duration(r.uint(32)) * time.Second
		if r.err == nil {
			r.err = checkDelay(out.Delay, time.Second)
		}
	default:
		r.fail(fmt.Errorf("it has the number %d", op))
	}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrChange, err)
	}
	return out, nil
}

// parseDocument reads an entry's title and document.
func parseDocument(title, document *cell.Cell) (Title, []byte, error) {
	s, err := title.BeginParse()
	if err != nil {
		return Title{}, nil, err
	}
	r := reader{s: s}
	t := Title{Kind: Kind(r.uint(8))}
	if n := s.BitsLeft(); n%8 != 0 || n > 8*NameMax {
		return Title{}, nil, fmt.Errorf("a title's name of %d bits", n)
	}
	t.Name = string(r.bytes(s.BitsLeft()))
	if err := r.end(); err != nil {
		return Title{}, nil, err
	}
	if err := t.check(); err != nil {
		return Title{}, nil, err
	}
	text, err := unsnake(document)
	return t, text, err
}

// String says what the change does, on one line, without the document.
func (c *Change) String() string {
	switch {
	case c.Put != nil:
		sum := sha256.Sum256(c.Put.Document)
		return fmt.Sprintf("put %s, %s: document of %d bytes, sha256 %x", c.Put.Title, c.Put.Window(), len(c.Put.Document), sum)
	case c.Signers != nil:
		var keys []string
		for _, k := range c.Signers.Keys {
			keys = append(keys, fmt.Sprintf("%x", []byte(k)))
		}
		return fmt.Sprintf("set signers: %d of %s", c.Signers.Threshold, strings.Join(keys, ", "))
	case c.Delay != 0:
		return fmt.Sprintf("set delay to %s", c.Delay)
	}
	return fmt.Sprintf("remove the entry with the key %x", c.Remove)
}

// Window says in words when the entry holds.
func (e *Entry) Window() string {
	switch {
	case e.NotBefore.IsZero() && e.NotAfter.IsZero():
		return "valid without end"
	case e.NotBefore.IsZero():
		return "valid until " + stamp(e.NotAfter)
	case e.NotAfter.IsZero():
		return "valid from " + stamp(e.NotBefore)
	}
	return "valid from " + stamp(e.NotBefore) + " until " + stamp(e.NotAfter)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
