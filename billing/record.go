package billing

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

// The kinds of journal records. Integers are big-endian, texts have their length before them.
const (
	holdRecord    = 'H' // request[32] ceiling[8] account note
	settleRecord  = 'S' // request[32] cost share fee unix_ms[8 each] receipt[32] counts[32] account worker key item user
	carriedRecord = 'C' // batch[32] and a settlement: one that is in that batch already, written again
	voidRecord    = 'V' // request[32]
	batchRecord   = 'B' // batch[32] unix_ms[8] source requests[32 each]
)

// Bytes of records without their texts.
const (
	settleFixed = 1 + 2*32 + 4*8 + 32 + 4*8 + 5*2 // of a carried one
	voidSize    = 1 + 32
	batchFixed  = 1 + 32 + 8 + 2
)

// errRecord says that a journal record is none of the Desk's.
var errRecord = errors.New("billing: not a record of the journal")

// record is a journal record.
type record struct {
	kind       byte
	hold       Hold           // Request of all but a batch, and Account of all but a void
	source     ledger.Account // of a batch: what it is posted from
	settlement Settlement
	at         time.Time   // of a settlement or a batch
	batch      ledger.ID   // of a batch or a carried settlement
	requests   []ledger.ID // of a batch
}

func appendHold(b []byte, h *Hold) []byte {
	b = append(append(b, holdRecord), h.Request[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Ceiling))
	b = appendText(b, h.Account)
	return appendText(b, h.Note)
}

func settleSize(account ledger.Account, s *Settlement) int {
	return settleFixed + len(account) + len(s.Worker) + len(s.Line.Key) + len(s.Line.Item) + len(s.Line.User)
}

// appendSettle appends a settlement, as a carried one if it is in a batch.
func appendSettle(b []byte, account ledger.Account, s *Settlement, at time.Time, batch ledger.ID) []byte {
	if batch == (ledger.ID{}) {
		b = append(b, settleRecord)
	} else {
		b = append(append(b, carriedRecord), batch[:]...)
	}
	b = append(b, s.Request[:]...)
	for _, n := range [...]int64{int64(s.Cost), int64(s.Share), int64(s.Fee), at.UnixMilli()} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	b = append(b, s.Receipt[:]...)
	for _, n := range s.Line.Counts {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	b = appendText(b, account)
	b = appendText(b, s.Worker)
	b = appendText(b, s.Line.Key)
	b = appendText(b, s.Line.Item)
	return appendText(b, s.Line.User)
}

func appendVoid(b []byte, request ledger.ID) []byte {
	return append(append(b, voidRecord), request[:]...)
}

func appendBatch(b []byte, id ledger.ID, at time.Time, source ledger.Account, requests []ledger.ID) []byte {
	b = append(append(b, batchRecord), id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(at.UnixMilli()))
	b = appendText(b, source)
	for i := range requests {
		b = append(b, requests[i][:]...)
	}
	return b
}

func appendText[T string | []byte | ledger.Account](b []byte, s T) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// parseRecord reads a record and copies what it keeps. It accepts what the append functions write, nothing else.
func parseRecord(b []byte) (rec record, err error) {
	var r reader
	if len(b) > 0 {
		rec.kind, r.rest = b[0], b[1:]
	}
	switch rec.kind {
	case holdRecord:
		rec.hold.Request = r.id()
		rec.hold.Ceiling = nanoton.Amount(r.int())
		rec.hold.Account = ledger.Account(r.text())
		if note := r.text(); note != "" {
			rec.hold.Note = []byte(note)
		}
		err = rec.hold.check()
	case carriedRecord, settleRecord:
		if rec.kind == carriedRecord {
			if rec.batch = r.id(); rec.batch == (ledger.ID{}) {
				err = fmt.Errorf("%w: no batch", ErrInvalid)
			}
		}
		err = errors.Join(err, rec.readSettlement(&r))
	case voidRecord:
		rec.hold.Request = r.id()
	case batchRecord:
		err = rec.readBatch(&r)
	default:
		return rec, fmt.Errorf("%w: unknown kind", errRecord)
	}
	if r.short || len(r.rest) != 0 {
		return rec, fmt.Errorf("%w: wrong length", errRecord)
	}
	if err != nil {
		return rec, fmt.Errorf("%w: %w", errRecord, err)
	}
	return rec, nil
}

func (rec *record) readSettlement(r *reader) error {
	s := &rec.settlement
	s.Request = r.id()
	rec.hold.Request = s.Request
	s.Cost, s.Share, s.Fee = nanoton.Amount(r.int()), nanoton.Amount(r.int()), nanoton.Amount(r.int())
	rec.at = time.UnixMilli(r.int()).UTC()
	s.Receipt = r.id()
	for i := range s.Line.Counts {
		s.Line.Counts[i] = r.int()
	}
	rec.hold.Account, s.Worker = ledger.Account(r.text()), ledger.Account(r.text())
	s.Line.Key, s.Line.Item, s.Line.User = r.text(), r.text(), r.text()
	if err := rec.hold.check(); err != nil {
		return err
	}
	return s.check()
}

func (rec *record) readBatch(r *reader) error {
	rec.batch = r.id()
	rec.at = time.UnixMilli(r.int()).UTC()
	rec.source = ledger.Account(r.text())
	rec.hold.Account = customer(rec.source)
	for len(r.rest) > 0 && !r.short {
		rec.requests = append(rec.requests, r.id())
	}
	if err := rec.source.Check(); err != nil || rec.hold.Account == "" {
		return fmt.Errorf("%w: batch on %.80q", ErrInvalid, string(rec.source))
	}
	if n := len(rec.requests); n == 0 || n > batchRequests || rec.batch == (ledger.ID{}) {
		return fmt.Errorf("%w: batch of %d requests", ErrInvalid, n)
	}
	return nil
}

// reader takes fields off a record.
type reader struct {
	rest  []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.rest) {
		r.short, r.rest = true, nil
		return nil
	}
	field := r.rest[:n]
	r.rest = r.rest[n:]
	return field
}

func (r *reader) id() (id ledger.ID) {
	copy(id[:], r.take(len(id)))
	return id
}

func (r *reader) int() int64 {
	if f := r.take(8); f != nil {
		return int64(binary.BigEndian.Uint64(f))
	}
	return 0
}

func (r *reader) text() string {
	if f := r.take(2); f != nil {
		return string(r.take(int(binary.BigEndian.Uint16(f))))
	}
	return ""
}
