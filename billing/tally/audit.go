package tally

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"cocoon/internal/receipt"
)

// Each calls f for the receipts from an index on, in order, up to those that the log has when it is called. Each is
// read from disk and compared with its leaf. An error of f ends it.
func (l *Log) Each(ctx context.Context, from int64, f func(at int64, r *receipt.Signed) error) error {
	for at, n := from, l.index.size(); at < n; at++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := l.Get(at)
		if err != nil {
			return err
		}
		if err := f(at, r); err != nil {
			return err
		}
	}
	return nil
}

// Audit reads all of the log: each receipt is whole and adds up, no two have an ID, each is found by its ID, and the
// tree over them is the one that was signed. It returns how many there are; the error says what the first difference
// is.
func (l *Log) Audit(ctx context.Context) (int64, error) {
	text, err := l.Head()
	if err != nil {
		return 0, err
	}
	l.heads.Lock()
	h := l.head
	l.heads.Unlock()
	t := make(tree)
	checked := int64(0)
	err = l.Each(ctx, 0, func(at int64, r *receipt.Signed) error {
		if at == h.Tree.N {
			return errEnough
		}
		if err := r.Arithmetic(); err != nil {
			return fmt.Errorf("receipt %d: %w", at, err)
		}
		if found, err := l.find(r.ID()); err != nil || found != at {
			return fmt.Errorf("receipt %d: by its ID %v is found %d: %w", at, r.ID(), found, errors.Join(err, ErrRewritten))
		}
		checked++
		return t.add(at, r)
	})
	if err != nil && !errors.Is(err, errEnough) {
		return checked, err
	}
	root, err := tlog.TreeHash(checked, t)
	if err == nil && (root != h.Tree.Hash || checked != h.Tree.N) {
		err = fmt.Errorf("%w: %q", ErrRewritten, text)
	}
	return checked, err
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

// tree is the hashes that the root over what was added needs: those of the whole subtrees at its right edge.
type tree map[int64]tlog.Hash

func (t tree) add(n int64, r *receipt.Signed) error {
	hashes, err := tlog.StoredHashes(n, r.Wire(), t)
	if err != nil {
		return err
	}
	at := tlog.StoredHashIndex(0, n)
	for i, h := range hashes {
		t[at+int64(i)] = h
	}
	for level := 0; n&1 == 1; level, n = level+1, n>>1 { // two halves are one now
		delete(t, tlog.StoredHashIndex(level, n-1))
		delete(t, tlog.StoredHashIndex(level, n))
	}
	return nil
}

// ReadHashes is for package tlog.
func (t tree) ReadHashes(at []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(at))
	for i, n := range at {
		h, ok := t[n]
		if !ok {
			return nil, fmt.Errorf("no hash %d", n)
		}
		hashes[i] = h
	}
	return hashes, nil
}
