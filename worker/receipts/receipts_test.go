package receipts

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"cocoon/internal/durable"
	"cocoon/internal/receipt"
	"cocoon/internal/recordfile"
	"cocoon/router/offer"
)

func key() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)) }

// signed is a receipt of request n.
func signed(t testing.TB, n, seq int, kind receipt.Kind) *receipt.Signed {
	t.Helper()
	r := receipt.Receipt{
		Request: fmt.Sprintf("req_%032x", n), Worker: receipt.Digest{1}, Keyset: receipt.Digest{2}, Model: "tiny", Mode: receipt.Gateway,
		Seq: uint64(seq), Kind: kind, Status: receipt.OK, Tokens: offer.Usage{In: 10, Out: int64(seq)}, Req: receipt.Digest{3},
		Start: 1, End: 2 + int64(seq),
	}
	if seq > 0 {
		r.Prev = receipt.Digest{4}
	}
	s, err := receipt.Sign(r, key())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t testing.TB, c Config) *Store {
	t.Helper()
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// list is what the store keeps, as request/seq.
func list(t testing.TB, s *Store) []string {
	t.Helper()
	names := []string{}
	for r, err := range s.Unacknowledged() {
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Verify(key().Public().(ed25519.PublicKey)); err != nil {
			t.Fatal(err)
		}
		names = append(names, name(r))
	}
	return names
}

func name(r *receipt.Signed) string {
	return fmt.Sprintf("%s/%d", strings.TrimLeft(r.Request, "req_0"), r.Seq)
}

// keep has the store sign what is signed already, for the test to know it.
func keep(s *Store, r *receipt.Signed) error {
	got, err := s.Sign(r.Receipt, key())
	if err == nil && (got.ID() != r.ID() || got.Verify(key().Public().(ed25519.PublicKey)) != nil) {
		return fmt.Errorf("%s was to be kept, and %s was", r.ID(), got.ID())
	}
	return err
}

func add(t testing.TB, s *Store, receipts ...*receipt.Signed) {
	t.Helper()
	for _, r := range receipts {
		if err := keep(s, r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStore(t *testing.T) {
	c := Config{Dir: filepath.Join(t.TempDir(), "new", "folder")}
	s := open(t, c)
	one, two := signed(t, 1, 0, receipt.Interim), signed(t, 1, 1, receipt.Interim)
	add(t, s, one, signed(t, 2, 0, receipt.Final), two, two)
	if got, want := list(t, s), []string{"2/0", "1/1"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for _, late := range []*receipt.Signed{one, signed(t, 2, 1, receipt.Interim), signed(t, 2, 1, receipt.Final)} {
		if err := keep(s, late); !errors.Is(err, ErrLate) {
			t.Errorf("%s: %v", name(late), err)
		}
	}
	end := signed(t, 1, 7, receipt.Final) // what came between may be missing
	add(t, s, end)
	if err := s.Ack(receipt.Digest{9}, two.ID()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(c); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("open twice: %v", err)
	}
	for range 2 {
		if got, want := list(t, s), []string{"2/0", "1/7"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		if got := s.Stats(); got.Receipts != 2 || got.Finals != 2 || got.Max != DefaultMax {
			t.Errorf("%+v", got)
		}
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}
		s = open(t, c)
	}
	if err := s.Ack(end.ID()); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	if s = open(t, c); !slices.Equal(list(t, s), []string{"2/0"}) {
		t.Errorf("%q", list(t, s))
	}
	for r := range s.Unacknowledged() {
		if err := s.Ack(r.ID()); err != nil { // while it is being read
			t.Error(err)
		}
	}
	if got := s.Stats(); got.Receipts != 0 || got.Live != 0 {
		t.Errorf("%+v", got)
	}
}

// A full store takes no interim receipt, gives up interim ones for final ones, and says no before it drops a final one.
func TestFull(t *testing.T) {
	var log bytes.Buffer
	c := Config{Dir: t.TempDir(), Max: MinMax, Log: slog.New(slog.NewTextHandler(&log, nil))}
	s := open(t, c)
	n := 0
	for ; ; n++ {
		if err := keep(s, signed(t, n, 0, receipt.Interim)); err != nil {
			if !errors.Is(err, ErrFull) {
				t.Fatal(err)
			}
			break
		}
	}
	if n < 10 {
		t.Fatalf("full with %d", n)
	}
	if err := keep(s, signed(t, 0, 1, receipt.Interim)); err != nil {
		t.Errorf("in place of one: %v", err)
	}
	finals := []receipt.Digest{}
	for {
		f := signed(t, 1000+len(finals), 0, receipt.Final)
		if err := keep(s, f); err != nil {
			if !errors.Is(err, ErrFull) {
				t.Fatal(err)
			}
			break
		}
		finals = append(finals, f.ID())
	}
	if got := s.Stats(); got.Finals != len(finals) || got.Receipts != len(finals) || got.Live > MinMax || len(finals) < n-1 {
		t.Errorf("%+v, %d finals", got, len(finals))
	}
	if !strings.Contains(log.String(), "interim ones go") {
		t.Errorf("log: %s", log.String())
	}
	_ = s.Close()
	s = open(t, c)
	if got := s.Stats(); got.Finals != len(finals) || got.Receipts != len(finals) {
		t.Errorf("after a restart: %+v", got)
	}
	if err := s.Ack(finals[0]); err != nil {
		t.Fatal(err)
	}
	if err := keep(s, signed(t, 5000, 0, receipt.Final)); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if _, err := Open(Config{Dir: t.TempDir(), Max: MinMax - 1}); err == nil {
		t.Error("a store of no size opens")
	}
}

func TestCompaction(t *testing.T) {
	c := Config{Dir: t.TempDir()}
	s := open(t, c)
	one := signed(t, 0, 0, receipt.Final)
	add(t, s, one)
	var wg sync.WaitGroup
	most := int64(0)
	var mu sync.Mutex
	for w := range 16 {
		wg.Go(func() {
			for i := range 120 {
				r := signed(t, 1+w*1000+i, 0, receipt.Final)
				if err := errors.Join(keep(s, r), s.Ack(r.ID())); err != nil {
					t.Error(err)
					return
				}
				size := s.Stats().File
				mu.Lock()
				most = max(most, size)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if most > compactMin+compactMin/2 || s.Stats().File > most {
		t.Errorf("the file grew to %d bytes", most)
	}
	for range 2 {
		if got := list(t, s); !slices.Equal(got, []string{"/0"}) {
			t.Errorf("%q", got)
		}
		_ = s.Close()
		s = open(t, c)
	}
}

// faults fail the n-th operation of each kind of disk, and all after it until mended.
type faults struct {
	mu   sync.Mutex
	left int // operations until then
	dead bool
	half bool // a write that fails is done by half
}

var errFault = fmt.Errorf("injected: %w", syscall.ENOSPC)

func (f *faults) fail() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left--; f.left == 0 {
		f.dead = true
	}
	return f.dead
}

func (f *faults) mend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = false
}

type faultDisk struct {
	*os.File
	f *faults
}

func (d faultDisk) WriteAt(b []byte, at int64) (int, error) {
	if d.f.fail() {
		if d.f.half {
			_, _ = d.File.WriteAt(b[:len(b)/2], at)
		}
		return 0, errFault
	}
	return d.File.WriteAt(b, at)
}

func (d faultDisk) Sync() error {
	if d.f.fail() {
		return errFault
	}
	return d.File.Sync()
}

func (d faultDisk) Truncate(n int64) error {
	if d.f.fail() {
		return errFault
	}
	return d.File.Truncate(n)
}

// The store and a map say the same, whatever is done and whatever fails.
func TestModel(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		f := &faults{half: rapid.Bool().Draw(t, "half")}
		c := Config{Dir: filepath.Join(dir, fmt.Sprint(n)), Max: MinMax, Wrap: func(file *os.File) recordfile.Disk { return faultDisk{file, f} }}
		s, err := Open(c)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		want := map[int]*receipt.Signed{}   // the last of each request
		unsure := map[receipt.Digest]bool{} // what was done with it failed, but may turn out to be on disk
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			request := rapid.IntRange(0, 4).Draw(t, "request")
			last := want[request]
			switch rapid.IntRange(0, 6).Draw(t, "step") {
			case 0, 1, 2:
				kind := rapid.SampledFrom([]receipt.Kind{receipt.Interim, receipt.Final}).Draw(t, "kind")
				seq := 0
				if last != nil {
					seq = int(last.Seq) + rapid.IntRange(0, 2).Draw(t, "ahead")
				}
				r := signedModel(request, seq, kind)
				fits := last == nil || last.ID() == r.ID() || last.Kind == receipt.Interim && r.Seq > last.Seq
				switch err := keep(s, r); {
				case err == nil && fits:
					want[request] = r
				case err == nil || fits && !errors.Is(err, errFault) || !fits && !errors.Is(err, ErrLate):
					t.Fatalf("add: %v, fits %v", err, fits)
				case errors.Is(err, errFault):
					unsure[r.ID()] = true
				}
			case 3:
				if last != nil {
					if err := s.Ack(last.ID()); err == nil {
						delete(want, request)
					} else if unsure[last.ID()] = true; !errors.Is(err, errFault) {
						t.Fatal(err)
					}
				}
			case 4:
				f.mu.Lock()
				f.left = rapid.IntRange(1, 4).Draw(t, "left")
				f.mu.Unlock()
			case 5:
				f.mend()
			case 6: // a new process
				f.mend()
				f.left = 0
				_ = s.Close()
				if s, err = Open(c); err != nil {
					t.Fatal(err)
				}
				settle(want, unsure, s)
			}
			got := kept(s)
			for _, r := range want {
				if got[r.Request] == nil || got[r.Request].ID() != r.ID() {
					t.Fatalf("%s is gone", name(r))
				}
			}
			if len(got) != len(want) {
				t.Fatalf("%d receipts, want %d", len(got), len(want))
			}
		}
	})
}

// kept is what is in the store, by request.
func kept(s *Store) map[string]*receipt.Signed {
	got := map[string]*receipt.Signed{}
	for r, err := range s.Unacknowledged() {
		if err != nil {
			panic(err)
		}
		got[r.Request] = r
	}
	return got
}

// settle takes over from a store that was opened again what nobody could be sure of.
func settle(want map[int]*receipt.Signed, unsure map[receipt.Digest]bool, s *Store) {
	got := kept(s)
	for request := range 5 {
		r, last := got[fmt.Sprintf("req_%032x", request)], want[request]
		switch {
		case r == nil && last != nil && unsure[last.ID()]:
			delete(want, request)
		case r != nil && unsure[r.ID()]:
			want[request] = r
		}
	}
}

// signedModel is signed without a test.
func signedModel(n, seq int, kind receipt.Kind) *receipt.Signed {
	return signed(new(testing.T), n, seq, kind)
}

// A failed compaction costs nothing.
func TestCompactionFails(t *testing.T) {
	for left := 1; left <= 4; left++ {
		var log bytes.Buffer
		f := new(faults)
		c := Config{
			Dir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&log, nil)),
			Wrap: func(file *os.File) recordfile.Disk { return faultDisk{file, f} },
		}
		s := open(t, c)
		add(t, s, signed(t, 1, 0, receipt.Final))
		s.slack = -1 << 30
		f.left = 2 + left // one write and one sync come before
		add(t, s, signed(t, 2, 0, receipt.Final))
		f.mend()
		f.left = 0
		if !strings.Contains(log.String(), "writing the file of receipts anew failed") {
			t.Errorf("%d: %s", left, log.String())
		}
		add(t, s, signed(t, 3, 0, receipt.Final))
		for range 2 {
			if got := list(t, s); !slices.Equal(got, []string{"1/0", "2/0", "3/0"}) {
				t.Errorf("%d: %q", left, got)
			}
			_ = s.Close()
			s = open(t, c)
		}
	}
}

func TestDamage(t *testing.T) {
	c := Config{Dir: t.TempDir()}
	s := open(t, c)
	add(t, s, signed(t, 1, 0, receipt.Final), signed(t, 2, 0, receipt.Final))
	_ = s.Close()
	path := filepath.Join(c.Dir, fileName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"first record": append(bytes.Clone(text[:60]), append([]byte{text[60] ^ 1}, text[61:]...)...),
		"magic":        append([]byte("cocoon-worker-receipts/v2\n"), text[len(magic):]...),
	} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := Open(c); err == nil {
			t.Errorf("%s: opens with %q", name, list(t, s))
		}
	}
	if err := os.WriteFile(path, text[:len(text)-1], 0o600); err != nil { // torn
		t.Fatal(err)
	}
	if s = open(t, c); !slices.Equal(list(t, s), []string{"1/0"}) {
		t.Errorf("%q", list(t, s))
	}
	_ = s.Close()
	f, err := recordfile.Open(path, recordfile.Options{Magic: magic})
	if err != nil {
		t.Fatal(err)
	}
	for _, record := range []string{"ack\nhalf an ID", "what is this"} {
		if _, err := f.Append([]byte(record)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(c); !errors.Is(err, recordfile.ErrDamaged) {
			t.Errorf("%q: %v", record, err)
		}
	}
	_ = f.Close()
}
