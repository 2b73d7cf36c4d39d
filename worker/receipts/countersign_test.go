package receipts

import (
	"crypto/ed25519"
	"errors"
	"slices"
	"sync"
	"testing"

	"cocoon/internal/receipt"
)

// A worker signs again what it keeps and nothing else, also after it was started anew.
func TestCountersign(t *testing.T) {
	c := Config{Dir: t.TempDir()}
	s := open(t, c)
	var all []*receipt.Signed
	var ids []receipt.Digest
	for n := range 9 {
		kind := receipt.Final
		if n%3 == 2 {
			kind = receipt.Interim
		}
		r := signed(t, n, 0, kind)
		all, ids = append(all, r), append(ids, r.ID())
	}
	add(t, s, all...)
	other := signed(t, 100, 0, receipt.Final).Receipt
	other.Keyset = receipt.Digest{5}
	strange, err := s.Sign(other, key())
	if err != nil {
		t.Fatal(err)
	}
	keyset, v := all[0].Keyset, receipt.NewVerifier(key().Public().(ed25519.PublicKey))
	check := func() {
		t.Helper()
		signature, err := s.Countersign(keyset, ids, key())
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Share(all, signature); err != nil || all[3].Verify(key().Public().(ed25519.PublicKey)) != nil {
			t.Errorf("it does not verify: %v", err)
		}
	}
	check()
	_ = s.Close()
	s = open(t, c)
	check()
	with := func(id receipt.Digest) []receipt.Digest { return append(slices.Clone(ids), id) }
	refused := map[string][]receipt.Digest{
		"never kept":        with(receipt.Digest{9}),
		"no ID":             with(receipt.Digest{}),
		"another keyset's":  with(strange.ID()),
		"twice":             with(ids[4]),
		"twice in a row":    {ids[0], ids[0]},
		"its request's":     with(receipt.Digest([]byte(all[0].Request)[:32])),
		"of another keyset": {strange.ID(), ids[0]},
	}
	for name, list := range refused {
		if signature, err := s.Countersign(keyset, list, key()); !errors.Is(err, ErrAbsent) || signature != [64]byte{} {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Countersign(receipt.Digest{5}, ids, key()); !errors.Is(err, ErrAbsent) {
		t.Errorf("under another keyset: %v", err)
	}
	for _, list := range [][]receipt.Digest{nil, ids[:1], make([]receipt.Digest, receipt.BatchMax+1)} {
		if _, err := s.Countersign(keyset, list, key()); err == nil {
			t.Errorf("signed %d", len(list))
		}
	}
	check()                                    // what was refused has no part in it
	add(t, s, signed(t, 2, 1, receipt.Final))  // in place of the interim one
	if err := s.Ack(all[7].ID()); err != nil { // gone
		t.Fatal(err)
	}
	for _, gone := range []int{2, 7} {
		if _, err := s.Countersign(keyset, []receipt.Digest{ids[0], ids[gone]}, key()); !errors.Is(err, ErrAbsent) {
			t.Errorf("%d is gone: %v", gone, err)
		}
	}
}

// It goes on while others sign, acknowledge and ask the same.
func TestCountersignMeanwhile(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	a, b := signed(t, 1, 0, receipt.Final), signed(t, 2, 0, receipt.Final)
	add(t, s, a, b)
	var all sync.WaitGroup
	for n := range 4 {
		all.Go(func() {
			for i := range 10 {
				r := signed(t, 10+10*n+i, 0, receipt.Final)
				if err := errors.Join(keep(s, r), s.Ack(r.ID())); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() {
			v := receipt.NewVerifier(key().Public().(ed25519.PublicKey))
			for range 20 {
				signature, err := s.Countersign(a.Keyset, []receipt.Digest{b.ID(), a.ID()}, key())
				if err == nil {
					mine, also := *b, *a // others have them too
					err = v.Share([]*receipt.Signed{&mine, &also}, signature)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}
