package registry

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"

	"github.com/xssnick/tonutils-go/tvm/cell"
)

// chunk is how many bytes one cell of a document holds.
const chunk = 127

// snake puts a text into cells, each of which holds the next one.
func snake(text []byte) (*cell.Cell, error) {
	var next *cell.Cell
	parts := slices.Collect(slices.Chunk(text, chunk))
	slices.Reverse(parts)
	for _, part := range parts {
		b := cell.BeginCell().MustStoreSlice(part, 8*uint(len(part)))
		if next != nil {
			if err := b.StoreRef(next); err != nil {
				return nil, err
			}
		}
		next = b.EndCell()
	}
	return next, nil
}

// unsnake reads what snake wrote, of at most DocumentMax bytes.
func unsnake(c *cell.Cell) ([]byte, error) {
	var text []byte
	for c != nil {
		s, err := c.BeginParse()
		if err != nil {
			return nil, err
		}
		r := reader{s: s}
		n := s.BitsLeft()
		if n == 0 || n%8 != 0 || s.RefsNum() > 1 {
			return nil, fmt.Errorf("a cell of a document has %d bits and %d references", n, s.RefsNum())
		}
		text = append(text, r.bytes(n)...)
		if c = nil; s.RefsNum() == 1 {
			c = r.ref()
		}
		if err := r.end(); err != nil {
			return nil, err
		}
		if len(text) > DocumentMax {
			return nil, fmt.Errorf("a document is longer than %d bytes", DocumentMax)
		}
	}
	return text, nil
}

// reader reads a cell, and keeps the first error.
type reader struct {
	s   *cell.Slice
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) uint(bits uint) uint64 {
	if r.err != nil {
		return 0
	}
	v, err := r.s.LoadUInt(bits)
	r.fail(err)
	return v
}

func (r *reader) bytes(bits uint) []byte {
	if r.err != nil {
		return nil
	}
	v, err := r.s.LoadSlice(bits)
	r.fail(err)
	return v
}

// ref is nil after an error.
func (r *reader) ref() *cell.Cell {
	if r.err != nil {
		return nil
	}
	c, err := r.s.LoadRefCell()
	if r.fail(err); r.err != nil {
		return nil
	}
	return c
}

// maybe is a reference that may not be there: nil.
func (r *reader) maybe() *cell.Cell {
	if r.uint(1) == 0 {
		return nil
	}
	return r.ref()
}

// dict reads a dictionary of at most limit items, in ascending order of keys.
func (r *reader) dict(bits uint, limit int) []cell.DictItem {
	root := r.maybe()
	if root == nil || r.err != nil {
		return nil
	}
	it, err := root.AsDict(bits).Iterator(false, false)
	if err != nil {
		r.fail(fmt.Errorf("dictionary: %w", err))
		return nil
	}
	// Few cells can stand for more items than memory holds: one that is both halves of another doubles each level.
	var items []cell.DictItem
	for it.Next() {
		if items = append(items, it.Item()); len(items) > limit {
			r.fail(fmt.Errorf("a dictionary has more than %d items", limit))
			return nil
		}
	}
	r.fail(it.Err())
	return items
}

// keys reads a list of signers, as the contract checks it before it takes one.
func (r *reader) keys() []ed25519.PublicKey {
	n, c := int(r.uint(8)), r.ref()
	if r.err != nil {
		return nil
	}
	if n > SignersMax {
		r.fail(fmt.Errorf("%d signers", n))
		return nil
	}
	var out []ed25519.PublicKey
	for c != nil && r.err == nil {
		s, err := c.BeginParse()
		if err != nil {
			r.fail(err)
			return nil
		}
		part := reader{s: s}
		for range min(keysInCell, n-len(out)) {
			out = append(out, ed25519.PublicKey(part.bytes(256)))
		}
		if c = nil; len(out) < n {
			c = part.ref()
		}
		r.fail(part.end())
	}
	if !slices.IsSortedFunc(out, func(a, b ed25519.PublicKey) int { return bytes.Compare(a, b) }) {
		r.fail(errors.New("signers are not in order"))
	}
	return out
}

// key is an item's key, nil after an error.
func (r *reader) key(item cell.DictItem) []byte {
	s, err := item.Key.BeginParse()
	if err != nil {
		r.fail(err)
		return nil
	}
	k, err := s.LoadSlice(s.BitsLeft())
	r.fail(err)
	return k
}

// end is the first error, or that something is left.
func (r *reader) end() error {
	if r.err == nil && (r.s.BitsLeft() > 0 || r.s.RefsNum() > 0) {
		r.err = errors.New("more than there should be in a cell")
	}
	return r.err
}
