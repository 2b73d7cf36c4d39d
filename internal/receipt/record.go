package receipt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"cocoon/internal/nanoton"
)

// The record form is a receipt in a file of one's own: a third of the text, and written quickly. It is
//
//	version[1] have[1] mode[1] kind[1] status[1] request[16] worker[32] keyset[32] req[32] resp[32]
//	of route, weights, engine and prev those that there are: [32] each; have has a bit for each
//	uvarints: epoch seq, tokens in cached out reasoning, price in cached out, cost ttft_ms start, end since start
//	model, its length before it as a uvarint
//	signature[64], and of a batch its size, else 0, as a uvarint
//	of a batch the index as a uvarint, and the path's hashes: [32] each
//
// A mode, kind or status is its place in the lists below.
const recordVersion = 1

// RecordMax bounds a record, bytes: numbers at their longest, the longest name and the longest path make 1,100.
const RecordMax = 1152

// recordUsual is room for a receipt in a batch of some hundreds, unless its model has a very long name.
const recordUsual = 640

// What is there stays in its place.
func modes() []Mode      { return []Mode{Sealed, Gateway, Simulated, Unprotected} }
func kinds() []Kind      { return []Kind{Interim, Final} }
func statuses() []Status { return []Status{OK, ClientAbort, Length, Error} }

// optional are the digests that there need not be.
func (r *Receipt) optional() [4]*Digest {
	return [...]*Digest{&r.Route, &r.Weights, &r.Engine, &r.Prev}
}

// certain are the digests that there are always.
func (r *Receipt) certain() [4]*Digest { return [...]*Digest{&r.Worker, &r.Keyset, &r.Req, &r.Resp} }

// AppendRecord appends the record form of a valid receipt.
func (s *Signed) AppendRecord(b []byte) []byte {
	var have byte
	for i, d := range s.optional() {
		if !d.IsZero() {
			have |= 1 << i
		}
	}
	b = append(slices.Grow(b, recordUsual), recordVersion, have, byte(slices.Index(modes(), s.Mode)),
		byte(slices.Index(kinds(), s.Kind)), byte(slices.Index(statuses(), s.Status)))
	request := s.requestBytes()
	b = append(b, request[:]...)
	for _, d := range s.certain() {
		b = append(b, d[:]...)
	}
	for _, d := range s.optional() {
		if !d.IsZero() {
			b = append(b, d[:]...)
		}
	}
	for _, n := range [...]uint64{
		s.Epoch, s.Seq, uint64(s.Tokens.In), uint64(s.Tokens.Cached), uint64(s.Tokens.Out), uint64(s.Tokens.Reasoning),
		uint64(s.Price.In), uint64(s.Price.Cached), uint64(s.Price.Out), uint64(s.Cost),
		uint64(s.TTFT), uint64(s.Start), uint64(s.End - s.Start), uint64(len(s.Model)),
	} {
		b = binary.AppendUvarint(b, n)
	}
	b = append(append(b, s.Model...), s.signature[:]...)
	if b = binary.AppendUvarint(b, uint64(s.place.size)); s.place.size == 0 {
		return b
	}
	b = binary.AppendUvarint(b, uint64(s.place.index))
	s.place.siblings(func(sibling *Digest, _ bool) { b = append(b, sibling[:]...) })
	return b
}

// requestBytes are what the request's name says in hex.
func (r *Receipt) requestBytes() (b [requestDigits / 2]byte) {
	var digits [requestDigits]byte
	copy(digits[:], r.Request[len(r.Request)-requestDigits:])
	readHex(b[:], digits[:])
	return b
}

// ParseRecord reads what AppendRecord wrote, and nothing else; it does not verify the signature. It keeps nothing of it.
// Errors are ErrForm.
func ParseRecord(record []byte) (*Signed, error) {
	s, r := &Signed{}, recordReader{rest: record}
	if head := r.take(5); head != nil {
		r.short = head[0] != recordVersion || int(head[2]) >= len(modes()) || int(head[3]) >= len(kinds()) ||
			int(head[4]) >= len(statuses())
		if !r.short {
			s.Mode, s.Kind, s.Status = modes()[head[2]], kinds()[head[3]], statuses()[head[4]]
			r.receipt(&s.Receipt, head[1])
		}
	}
	copy(s.signature[:], r.take(len(s.signature)))
	r.place(&s.place)
	if r.short || len(r.rest) > 0 {
		return nil, fmt.Errorf("%w: not a record of this version", ErrForm)
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if !bytes.Equal(s.AppendRecord(make([]byte, 0, RecordMax)), record) {
		return nil, fmt.Errorf("%w: a record in another spelling", ErrForm)
	}
	s.id = s.Receipt.ID()
	return s, nil
}

// recordReader reads a record from its start. short: it met what it can't read.
type recordReader struct {
	rest  []byte
	short bool
}

func (r *recordReader) take(n int) []byte {
	if r.short = r.short || n > len(r.rest); r.short {
		return nil
	}
	field := r.rest[:n]
	r.rest = r.rest[n:]
	return field
}

func (r *recordReader) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	r.take(max(size, 0))
	r.short = r.short || size <= 0
	return n
}

// receipt reads it, but for its head and signature.
func (r *recordReader) receipt(into *Receipt, have byte) {
	into.Request = string(appendHex([]byte("req_"), r.take(requestDigits/2)))
	for _, d := range into.certain() {
		copy(d[:], r.take(len(d)))
	}
	for i, d := range into.optional() {
		if have>>i&1 == 1 {
			copy(d[:], r.take(len(d)))
		}
	}
	into.Epoch, into.Seq = r.number(), r.number()
	for _, n := range [...]*int64{&into.Tokens.In, &into.Tokens.Cached, &into.Tokens.Out, &into.Tokens.Reasoning} {
		*n = int64(r.number())
	}
	for _, n := range [...]*nanoton.Amount{&into.Price.In, &into.Price.Cached, &into.Price.Out, &into.Cost} {
		*n = nanoton.Amount(r.number())
	}
	into.TTFT, into.Start = int64(r.number()), int64(r.number())
	into.End = into.Start + int64(r.number())
	into.Model = string(r.take(int(min(r.number(), ModelMax+1))))
}

// place reads that in a batch.
func (r *recordReader) place(into *place) {
	size := r.number()
	if size == 0 {
		return
	}
	index := r.number()
	if r.short = r.short || size < 2 || size > BatchMax || index >= size; r.short {
		return
	}
	*into = placeToRead(int(index), int(size))
	for i := range into.path {
		copy(into.path[i][:], r.take(len(into.path[i])))
	}
}
