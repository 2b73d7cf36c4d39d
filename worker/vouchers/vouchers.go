// Package vouchers is a worker's store of vouchers: signed promises of gateways that a tab on the chain pays what they owe,
// whatever becomes of them.
//
// A folder holds one small file for each tab. A gateway has one tab for a payout address; after the address was changed it
// has another one, and what the older one owes stays. A voucher replaces the one before it if it promises as much, for as long.
package vouchers

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"cocoon/billing/ton"
	"cocoon/billing/ton/tab"
	"cocoon/internal/durable"
	"cocoon/internal/receipt"
	"cocoon/internal/strictjson"
)

const (
	// GatewayMax bounds the name of a gateway, bytes: its ID or its address.
	GatewayMax = 300
	// PerGateway bounds the tabs of one gateway, so that none can fill the disk.
	PerGateway = 8
	// FilesMax bounds those of all.
	FilesMax = 1024
	// DelayMin is how long a gateway's tab takes to close, at least: else it could take the money back before we claim.
	DelayMin = 24 * time.Hour

	fileMax     = 8 << 10 // bytes; one takes about 1 kB
	fileVersion = 1
	suffix      = ".json"
)

var (
	// ErrVoucher marks a voucher that is of no use to this worker; the text says why. The gateway errs, or cheats.
	ErrVoucher = errors.New("the voucher is of no use")
	// ErrLower says that a voucher promises less than one that is kept, or for a shorter time. That one stays.
	ErrLower = errors.New("the voucher promises less than the one before")
	// ErrFull says that the gateway has shown too many tabs.
	ErrFull = errors.New("there are too many tabs")
)

// Config is what a Store is made of.
type Config struct {
	Dir    string      // made if it is not there
	Payout ton.Address // of this worker: no voucher for another is kept. Zero: none is
	Now    func() time.Time
	Log    *slog.Logger // nil: nothing is logged
}

// Store keeps vouchers. Its methods may be called concurrently; another process may read the folder meanwhile.
type Store struct {
	c Config

	mu    sync.Mutex
	known map[string]Kept // by file name
}

// Kept is a voucher that is kept.
type Kept struct {
	Gateway string
	Terms   tab.Terms
	Voucher tab.Voucher
	Body    []byte    // what the contract takes, a bag of cells
	At      time.Time // when it was kept
}

// file is Kept on disk.
type file struct {
	V       int             `json:"v"`
	Gateway string          `json:"gateway"`
	At      int64           `json:"at"` // seconds since 1970
	Voucher receipt.Voucher `json:"voucher"`
}

// Open opens the folder. A file that can't be read is an error: it may be worth money.
func Open(c Config) (*Store, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening vouchers: %w", err)
	}
	s := &Store{c: c, known: map[string]Kept{}}
	kept, err := read(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("opening vouchers: %w", err)
	}
	for _, k := range kept {
		s.known[fileOf(k.Gateway, k.Voucher.Tab)] = k
	}
	return s, nil
}

// Read gives what a folder holds, by gateway and time, and changes nothing. Without the folder it is nothing.
func Read(dir string) ([]Kept, error) {
	kept, err := read(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading vouchers: %w", err)
	}
	return kept, nil
}

func read(dir string) ([]Kept, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []Kept
	for _, e := range list {
		if !strings.HasSuffix(e.Name(), suffix) {
			continue // one that was being written
		}
		if len(all) == FilesMax {
			return nil, fmt.Errorf("%w in %s", ErrFull, dir)
		}
		k, err := load(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, e.Name()), err)
		}
		if fileOf(k.Gateway, k.Voucher.Tab) != e.Name() {
			return nil, fmt.Errorf("%s: %w: it is another one's file", filepath.Join(dir, e.Name()), ErrVoucher)
		}
		all = append(all, k)
	}
	slices.SortFunc(all, order)
	return all, nil
}

func load(path string) (Kept, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Kept{}, err
	}
	if info.Size() > fileMax {
		return Kept{}, fmt.Errorf("%w: %d bytes", ErrVoucher, info.Size())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Kept{}, err
	}
	return parseFile(text)
}

func parseFile(text []byte) (Kept, error) {
	var f file
	if err := strictjson.Decode(text, &f); err != nil {
		return Kept{}, fmt.Errorf("%w: %w", ErrVoucher, err)
	}
	if f.V != fileVersion || !validGateway(f.Gateway) {
		return Kept{}, fmt.Errorf("%w: form %d, gateway %.80q", ErrVoucher, f.V, f.Gateway)
	}
	k, err := parse(f.Gateway, &f.Voucher)
	k.At = time.Unix(f.At, 0).UTC()
	return k, err
}

// parse checks what a voucher says of itself: that its tab is what the terms make, and that the terms' key signed it.
func parse(gateway string, w *receipt.Voucher) (Kept, error) {
	k := Kept{Gateway: gateway, Body: w.Body}
	var err error
	if k.Terms, err = tab.FromWire(w.Terms); err != nil {
		return Kept{}, fmt.Errorf("%w: %w", ErrVoucher, err)
	}
	if k.Voucher, err = tab.ParseVoucher(w.Body, k.Terms.Signer); err != nil {
		return Kept{}, fmt.Errorf("%w: %w", ErrVoucher, err)
	}
	address, err := k.Terms.Address()
	if err != nil {
		return Kept{}, fmt.Errorf("%w: %w", ErrVoucher, err)
	}
	if k.Voucher.Tab != address {
		return Kept{}, fmt.Errorf("%w: it is for the tab %s, and the terms make %s", ErrVoucher, k.Voucher.Tab, address)
	}
	return k, nil
}

// Keep checks a voucher that a gateway sent, and keeps it if it is better than the one before. It is on disk when Keep
// returns. One that is known already changes nothing. What it is worth depends on what the tab holds, which only the chain tells.
// Errors: ErrVoucher, ErrLower, ErrFull, or the disk's.
func (s *Store) Keep(gateway string, w *receipt.Voucher) error {
	k, err := s.check(gateway, w)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name := fileOf(gateway, k.Voucher.Tab)
	old, ok := s.known[name]
	switch {
	case ok && old.Voucher == k.Voucher:
		return nil
	case ok && k.Voucher.Cumulative < old.Voucher.Cumulative:
		return fmt.Errorf("%w: %v, not %v", ErrLower, k.Voucher.Cumulative, old.Voucher.Cumulative)
	case ok && k.Voucher.ValidUntil.Before(old.Voucher.ValidUntil): // or a good one could be replaced by one for a minute
		return fmt.Errorf("%w: it ends sooner", ErrLower)
	case !ok && s.full(gateway):
		return fmt.Errorf("%w of %.80q", ErrFull, gateway)
	}
	text, err := json.Marshal(file{
		V: fileVersion, Gateway: gateway, At: k.At.Unix(), Voucher: receipt.Voucher{Body: k.Body, Terms: k.Terms.Wire()},
	})
	if err != nil {
		return err
	}
	if err := durable.Replace(filepath.Join(s.c.Dir, name), append(text, '\n')); err != nil {
		return fmt.Errorf("keeping a voucher: %w", err)
	}
	s.known[name] = k
	if !ok {
		s.c.Log.Info("a gateway gave a first voucher",
			"gateway", gateway, "tab", k.Voucher.Tab.String(), "sum", k.Voucher.Cumulative.String())
	}
	return nil
}

// check tells whether a voucher is of use to this worker.
func (s *Store) check(gateway string, w *receipt.Voucher) (Kept, error) {
	if !validGateway(gateway) {
		return Kept{}, fmt.Errorf("%w: a gateway named %.80q", ErrVoucher, gateway)
	}
	k, err := parse(gateway, w)
	if err != nil {
		return Kept{}, err
	}
	k.At = s.c.Now().UTC().Truncate(time.Second)
	v := k.Voucher
	switch {
	case s.c.Payout.IsZero() || k.Terms.Payee != s.c.Payout:
		return Kept{}, fmt.Errorf("%w: it pays %s, which is not this worker's address", ErrVoucher, k.Terms.Payee)
	case k.Terms.CloseDelay < DelayMin:
		return Kept{}, fmt.Errorf("%w: the tab closes within %v", ErrVoucher, k.Terms.CloseDelay)
	case !v.ValidUntil.After(k.At):
		return Kept{}, fmt.Errorf("%w: it was valid until %s", ErrVoucher, v.ValidUntil.Format(time.RFC3339))
	}
	return k, nil
}

// full tells whether there is no room for another tab. The lock is held.
func (s *Store) full(gateway string) bool {
	n := 0
	for _, k := range s.known {
		if k.Gateway == gateway {
			n++
		}
	}
	return n >= PerGateway || len(s.known) >= FilesMax
}

// List gives what is kept, by gateway and time.
func (s *Store) List() []Kept {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Kept, 0, len(s.known))
	for _, k := range s.known {
		all = append(all, k)
	}
	slices.SortFunc(all, order)
	return all
}

// order is by gateway and time.
func order(a, b Kept) int {
	return cmp.Or(cmp.Compare(a.Gateway, b.Gateway), a.At.Compare(b.At), bytes.Compare(a.Voucher.Tab.Hash[:], b.Voucher.Tab.Hash[:]))
}

// fileOf names the file of a gateway's tab.
func fileOf(gateway string, address ton.Address) string {
	sum := sha256.Sum256([]byte(gateway + "\x00" + address.Raw()))
	return hex.EncodeToString(sum[:16]) + suffix
}

// validGateway tells whether a text is printable, and short.
func validGateway(s string) bool {
	return s != "" && len(s) <= GatewayMax && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}
