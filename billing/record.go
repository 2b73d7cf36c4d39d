package billing

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"cocoon/billing/journal"
	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

// The kinds of journal records. Integers are big-endian, texts have their length before them.
const (
	holdRecord   = 'H' // request[32] ceiling[8] account note
	settleRecord = 'S' // request[32] cost[8] share[8] fee[8] unix_ms[8] account worker
	voidRecord   = 'V' // request[32]
)

// errRecord says that a journal record is none of the Desk's.
var errRecord = errors.New("billing: not a record of the journal")

// Entry is one record of a Desk's journal. A record may come more than once.
type Entry struct {
	Request  ledger.ID
	Hold     *Hold            // set for a hold
	Transfer *ledger.Transfer // set for a settlement that moves money: what the ledger must have, sooner or later
	Void     bool             // set for a void
}

// Scan gives f the records of the journal in a folder, oldest first, and changes nothing: for an audit beside a running
// Desk. The oldest settlements are already gone. The gateway is that of Config.
func Scan(dir, gateway string, f func(Entry) error) error {
	return journal.Scan(dir, func(seq uint64, b []byte) error {
		rec, err := parseRecord(b)
		if err != nil {
			return fmt.Errorf("record %d: %w", seq, err)
		}
		e := Entry{Request: rec.hold.Request, Void: rec.kind == voidRecord}
		switch {
		case rec.kind == holdRecord:
			e.Hold = &rec.hold
		case rec.kind == settleRecord && rec.settlement.Cost > 0:
			t := transfer(source(gateway, rec.hold.Account), rec.settlement, rec.at)
			e.Transfer = &t
		}
		return f(e)
	})
}

// TransferID returns the ID of the transfer of a kind for a request; "settle" is the only kind that the Desk posts.
func TransferID(kind string, request ledger.ID) ledger.ID {
	b := append(make([]byte, 0, 96), "cocoon/transfer/v1\x00"...)
	b = append(append(b, kind...), 0)
	return sha256.Sum256(append(b, request[:]...))
}

const kindSettle = "settle"

// transfer is a settlement as the ledger gets it.
func transfer(source ledger.Account, s Settlement, at time.Time) ledger.Transfer {
	legs := append(make([]ledger.Leg, 0, 3), ledger.Leg{Account: source, Amount: -s.Cost})
	if s.Share != 0 {
		legs = append(legs, ledger.Leg{Account: s.Worker, Amount: s.Share})
	}
	if s.Fee != 0 {
		legs = append(legs, ledger.Leg{Account: "fees", Amount: s.Fee})
	}
	id := TransferID(kindSettle, s.Request)
	return ledger.Transfer{ID: id, Kind: kindSettle, At: at, Ref: s.Request.String(), Legs: legs}
}

// record is a parsed journal record: a hold's fields are those of its kind.
type record struct {
	kind       byte
	hold       Hold // of a settlement and a void: only Request, and Account of a settlement
	settlement Settlement
	at         time.Time // of a settlement
}

func appendHold(b []byte, h *Hold) []byte {
	b = append(append(b, holdRecord), h.Request[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Ceiling))
	b = appendText(b, string(h.Account))
	return appendText(b, string(h.Note))
}

func appendSettle(b []byte, account ledger.Account, s *Settlement, at time.Time) []byte {
	b = append(append(b, settleRecord), s.Request[:]...)
	for _, n := range [...]int64{int64(s.Cost), int64(s.Share), int64(s.Fee), at.UnixMilli()} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	b = appendText(b, string(account))
	return appendText(b, string(s.Worker))
}

func appendVoid(b []byte, request ledger.ID) []byte {
	return append(append(b, voidRecord), request[:]...)
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// parseRecord reads a record and copies what it keeps. It accepts what the append functions write, nothing else.
func parseRecord(b []byte) (rec record, err error) {
	var r reader
	if len(b) > 0 {
		rec.kind, r.rest = b[0], b[1:]
	}
	copy(rec.hold.Request[:], r.take(len(rec.hold.Request)))
	switch rec.kind {
	case holdRecord:
		rec.hold.Ceiling = nanoton.Amount(r.int())
		rec.hold.Account = ledger.Account(r.text())
		if note := r.text(); note != "" {
			rec.hold.Note = []byte(note)
		}
		err = rec.hold.check()
	case settleRecord:
		s := &rec.settlement
		s.Request = rec.hold.Request
		s.Cost, s.Share, s.Fee = nanoton.Amount(r.int()), nanoton.Amount(r.int()), nanoton.Amount(r.int())
		rec.at = time.UnixMilli(r.int()).UTC()
		rec.hold.Account, s.Worker = ledger.Account(r.text()), ledger.Account(r.text())
		if err = rec.hold.check(); err == nil {
			err = s.check()
		}
	case voidRecord:
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
