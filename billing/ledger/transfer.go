package ledger

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"strings"
	"time"

	"cocoon/internal/nanoton"
)

const (
	// NameMax bounds a customer's and a gateway's name: enough for an e-mail address or a host name, short in an index.
	NameMax = 64
	// KindMax bounds the kind of a transfer, which is a word of the program.
	KindMax = 32
	// RefMax bounds a transfer's reference: a chain transaction, a request, a few words of an admin.
	RefMax = 256
	// LegsMax bounds the legs of one transfer: a batch of 250 payouts needs about as many.
	LegsMax = 1000
	// BatchMax bounds the transfers of one Post, which is one transaction in memory and in the database.
	BatchMax = 10_000

	// nameEnd is after every character that a name may have, so [p, p+nameEnd) are the names that start with p.
	nameEnd = "\x7f"
)

// ID names a transfer. Its maker chooses it and stores it before posting, so that it can post again after a crash.
type ID [32]byte

// String gives 64 lower-case hex digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Compare orders IDs by their bytes.
func (id ID) Compare(other ID) int { return bytes.Compare(id[:], other[:]) }

// MarshalText gives what String gives.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what ParseID reads.
func (id *ID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseID(string(text))
	return err
}

// ParseID reads 64 lower-case hex digits.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != hex.EncodedLen(len(id)) || strings.ToLower(s) != s {
		return ID{}, fmt.Errorf("transfer ID %w: want 64 lower-case hex digits", ErrInvalid)
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, fmt.Errorf("transfer ID %w: want 64 lower-case hex digits", ErrInvalid)
	}
	return id, nil
}

// newID makes an ID for what the ledger itself moves.
func newID() (id ID) {
	rand.Read(id[:]) // never fails
	return id
}

// Account is the name of an account, kind[:name].
//
// What never goes below zero is what others own: "customer:<name>", "worker:<64 hex>" and
// "allotment:<gateway>:<customer's name>". All others may:
//   - "chain", "cold", "transit", "tab:<customer's name>" and "collateral:<64 hex>" are the other side of money on the
//     chain, so an account is as far below zero as there is money: in the hot wallet, at the cold address, on its way
//     between two wallets, in a customer's tab, locked for a worker.
//   - "fees" is what the operator earned, "network" what is put aside for the network's fees, "payouts" what is about to
//     leave, "suspense" what came from nobody known, "test" money that is none.
//
// The names of customers and gateways are 1 to [NameMax] of A-Z a-z 0-9 . _ - + @.
type Account string

// Kind gives what is before the first colon.
func (a Account) Kind() string {
	kind, _, _ := strings.Cut(string(a), ":")
	return kind
}

// Check returns [ErrInvalid] with the reason unless the name has the form of its kind.
func (a Account) Check() error {
	kind, name, named := strings.Cut(string(a), ":")
	ok := false
	switch kind {
	case "chain", "suspense", "fees", "network", "payouts", "test", "transit", "cold":
		ok = !named
	case "customer", "tab":
		ok = isName(name)
	case "worker", "collateral":
		ok = isHex(name)
	case "allotment":
		gateway, customer, _ := strings.Cut(name, ":")
		ok = isName(gateway) && isName(customer)
	}
	if !ok {
		return fmt.Errorf("account name %w: %.200q", ErrInvalid, string(a))
	}
	return nil
}

// mayOwe says whether the account may go below zero. Its name has been checked.
func (a Account) mayOwe() bool {
	kind, _, named := strings.Cut(string(a), ":")
	return !named || kind == "tab" || kind == "collateral"
}

// AllotmentAccount names the account that holds what a gateway may spend of a customer's money.
func AllotmentAccount(gateway string, customer Account) (Account, error) {
	if !isName(gateway) {
		return "", fmt.Errorf("gateway name %w: %.200q", ErrInvalid, gateway)
	}
	if err := customer.Check(); err != nil {
		return "", err
	}
	name, ok := strings.CutPrefix(string(customer), "customer:")
	if !ok {
		return "", fmt.Errorf("account of an allotment %w: %s is no customer's", ErrInvalid, customer)
	}
	return Account(allotmentsOf(gateway) + name), nil
}

// allotmentsOf is what the names of a gateway's allotment accounts start with.
func allotmentsOf(gateway string) string { return "allotment:" + gateway + ":" }

func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("._-+@", c) >= 0) {
			return false
		}
	}
	return s != "" && len(s) <= NameMax
}

func isHex(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// Leg is one side of a transfer: a positive amount is what the account gets.
type Leg struct {
	Account Account
	Amount  nanoton.Amount
}

// Transfer moves money between accounts, once and for good.
type Transfer struct {
	ID   ID
	Kind string    // 1 to KindMax of a-z 0-9 - _
	At   time.Time // when it happened, by its maker's clock; to the nanosecond, in no time zone
	Ref  string    // what it stands for: up to RefMax printable ASCII characters; never a prompt or a key
	Legs []Leg     // 2 to LegsMax, the sum is zero; an account may come twice, all amounts may be zero
	// Usage is added to the sums of [Ledger.Usage] when the transfer is new: up to UsageLinesMax lines. It is no part of
	// what the transfer is: two that differ in it alone are the same.
	Usage []UsageLine
}

// Check returns [ErrInvalid] with the reason unless all fields are as documented.
func (t Transfer) Check() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("transfer %s %w: %s", t.ID, ErrInvalid, fmt.Sprintf(format, args...))
	}
	if t.ID == (ID{}) {
		return fail("its ID is all zero")
	}
	if !isKind(t.Kind) {
		return fail("kind %.100q", t.Kind)
	}
	if nano := time.Unix(0, t.At.UnixNano()); !nano.Equal(t.At) {
		return fail("time %d is too far away", t.At.Unix())
	}
	if len(t.Ref) > RefMax || strings.ContainsFunc(t.Ref, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fail("the reference is longer than %d or not printable ASCII", RefMax)
	}
	if len(t.Legs) < 2 || len(t.Legs) > LegsMax {
		return fail("%d legs, want 2 to %d", len(t.Legs), LegsMax)
	}
	if len(t.Usage) > UsageLinesMax {
		return fail("%d lines of usage, at most %d", len(t.Usage), UsageLinesMax)
	}
	for i := range t.Usage {
		if err := t.Usage[i].Check(); err != nil {
			return fail("%v", err)
		}
	}
	sum := nanoton.Amount(0)
	for _, leg := range t.Legs {
		if err := leg.Account.Check(); err != nil {
			return fail("%v", err)
		}
		var ok bool
		if sum, ok = add(sum, leg.Amount); !ok {
			return fail("the sum of its legs overflows")
		}
	}
	if sum != 0 {
		return fail("its legs sum to %d nanoTON, want 0", int64(sum))
	}
	return nil
}

func isKind(s string) bool {
	return s != "" && len(s) <= KindMax && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// digest is SHA-256 over all of the content but the usage: two transfers are the same if their digests are.
func (t Transfer) digest() [sha256.Size]byte {
	b := make([]byte, 0, 512)
	b = append(b, "cocoon/transfer/v1\x00"...)
	b = append(b, t.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(t.At.UnixNano()))
	b = appendText(b, t.Kind)
	b = appendText(b, t.Ref)
	b = binary.BigEndian.AppendUint32(b, uint32(len(t.Legs)))
	for _, leg := range t.Legs {
		b = appendText(b, string(leg.Account))
		b = binary.BigEndian.AppendUint64(b, uint64(leg.Amount))
	}
	return sha256.Sum256(b)
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// add gives a+b, and false if 64 bits don't hold it.
func add(a, b nanoton.Amount) (nanoton.Amount, bool) {
	sum := a + b
	return sum, (sum > a) == (b > 0)
}

// clampNano gives nanoseconds since 1970, or the nearest that there are.
func clampNano(t time.Time) int64 {
	if nano := t.UnixNano(); time.Unix(0, nano).Equal(t) {
		return nano
	}
	if t.Unix() < 0 {
		return math.MinInt64
	}
	return math.MaxInt64
}
