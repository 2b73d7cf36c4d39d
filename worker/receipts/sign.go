package receipts

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"

	"cocoon/internal/receipt"
)

// order is a receipt that somebody waits for.
type order struct {
	receipt receipt.Receipt
	key     ed25519.PrivateKey
	signed  *receipt.Signed
	wire    []byte // of signed
	err     error
}

// group is orders that are signed and written together.
type group struct {
	orders []*order
	done   chan struct{}
}

// Sign signs a receipt and keeps it, and returns when it is on disk. Those who come while others are being written
// share one signature and one fsync. If the very receipt is there already, that one is returned. After any other error
// it is not kept, and may be signed again. ErrFull means that gateways have to acknowledge first.
func (s *Store) Sign(r receipt.Receipt, key ed25519.PrivateKey) (*receipt.Signed, error) {
	if err := errors.Join(r.Validate(), r.Arithmetic()); err != nil { // it would spoil the others' batch
		return nil, fmt.Errorf("signing a receipt: %w", err)
	}
	o := &order{receipt: r, key: key}
	g, first := s.join(o)
	if first {
		s.serve(g)
		s.tidy()
	}
	<-g.done
	if o.err != nil {
		return nil, fmt.Errorf("keeping a receipt: %w", o.err)
	}
	return o.signed, nil
}

// join puts an order into the group that is next; first if it makes that group.
func (s *Store) join(o *order) (g *group, first bool) {
	s.joining.Lock()
	defer s.joining.Unlock()
	if first = s.next == nil; first {
		s.next = &group{done: make(chan struct{})}
	}
	g = s.next
	if g.orders = append(g.orders, o); len(g.orders) == receipt.BatchMax {
		s.next = nil // who comes now makes another
	}
	return g, first
}

// serve signs and writes a group. While it waits for the one before, others join the group.
func (s *Store) serve(g *group) {
	s.signing.Lock()
	defer s.signing.Unlock()
	defer close(g.done)
	s.joining.Lock()
	if s.next == g {
		s.next = nil
	}
	s.joining.Unlock()
	orders := signEach(s.admitEach(g.orders))
	orders, drop := s.room(orders)
	s.keep(orders, drop)
}

// admitEach gives the orders that fit what is there. The others have their answers.
func (s *Store) admitEach(orders []*order) (fit []*order) {
	for _, o := range orders {
		id := o.receipt.ID()
		s.mu.Lock()
		err, kept := s.admit(&o.receipt, id), s.entries[id]
		s.mu.Unlock()
		switch {
		case err == nil:
			fit = append(fit, o)
		case !errors.Is(err, errKept):
			o.err = err
		default:
			if o.signed, o.err = s.read(kept); o.signed == nil && o.err == nil { // acknowledged at this moment
				fit = append(fit, o)
			}
		}
	}
	return fit
}

// signEach signs the orders: those of one key, which are all but when a worker changes its keys, with one signature. It
// gives those that are signed.
func signEach(orders []*order) (done []*order) {
	for len(orders) > 0 {
		var batch []receipt.Receipt
		var these, others []*order
		for _, o := range orders {
			if o.key.Equal(orders[0].key) {
				batch, these = append(batch, o.receipt), append(these, o)
			} else {
				others = append(others, o)
			}
		}
		signed, err := receipt.SignBatch(batch, orders[0].key)
		for i, o := range these {
			if o.err = err; err == nil {
				o.signed, o.wire, done = signed[i], signed[i].Wire(), append(done, o)
			}
		}
		orders = others
	}
	return done
}

// room gives the orders that there is room for; drop are the interim receipts that make it.
func (s *Store) room(orders []*order) (fit []*order, drop []receipt.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	free := s.c.Max - s.live
	var interim []*entry // that can go, oldest first
	for _, o := range orders {
		need := int64(len(o.wire))
		if last := s.requests[o.receipt.Request]; last != nil {
			need -= last.size
		}
		if need > free && o.receipt.Kind == receipt.Final {
			if interim == nil {
				interim = s.expendable(orders)
			}
			n, more := 0, free
			for ; n < len(interim) && need > more; n++ {
				more += interim[n].size
			}
			if need <= more {
				for _, e := range interim[:n] {
					drop = append(drop, e.id)
				}
				free, interim = more, interim[n:]
			}
		}
		if need > free {
			o.err = ErrFull
			continue
		}
		free -= need
		fit = append(fit, o)
	}
	if len(drop) > 0 {
		s.c.Log.Warn("the store of receipts is full: interim ones go", "receipts", len(drop))
	}
	return fit, drop
}

// expendable are the interim receipts of requests that no order is about, oldest first.
func (s *Store) expendable(orders []*order) []*entry {
	about := make(map[string]bool, len(orders))
	for _, o := range orders {
		about[o.receipt.Request] = true
	}
	return slices.DeleteFunc(s.sorted(), func(e *entry) bool { return e.final || about[e.request] })
}

// keep writes the orders' receipts, and lets go what makes room for them.
func (s *Store) keep(orders []*order, drop []receipt.Digest) {
	if len(orders) == 0 {
		return
	}
	records := ackRecords(drop)
	acks := len(records)
	for _, o := range orders {
		records = append(records, o.wire)
	}
	err := s.append(records, func(offsets []int64) {
		for _, id := range drop {
			s.remove(s.entries[id])
		}
		for i, o := range orders { // of one request's at the same time the last stays, as when the file is read
			if o.err = s.admit(&o.receipt, o.signed.ID()); o.err == nil {
				s.put(o.signed, offsets[acks+i], int64(len(o.wire)))
			} else if errors.Is(o.err, errKept) {
				o.err = nil
			}
		}
	})
	for _, o := range orders {
		if err != nil {
			o.err = err
		}
	}
}
