package tally

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"cocoon/internal/durable"
	"cocoon/internal/receipt"
	"cocoon/internal/recordfile"
	"cocoon/internal/treeproof"
	"cocoon/router/offer"
)

const origin = "gateway.example.com/receipts"

func key(b byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, 32)) }

// made are receipts that were signed already: that takes long under the race detector.
var made sync.Map

// signed is a receipt of request n.
func signed(n int) *receipt.Signed {
	if s, ok := made.Load(n); ok {
		return s.(*receipt.Signed)
	}
	s, err := receipt.Sign(receipt.Receipt{
		Request: fmt.Sprintf("req_%032x", n), Worker: receipt.Digest{1}, Keyset: receipt.Digest{2}, Model: "tiny", Mode: receipt.Gateway,
		Kind: receipt.Final, Status: receipt.OK, Tokens: offer.Usage{In: 10, Out: int64(n)}, Req: receipt.Digest{3},
		Start: 1, End: 2,
	}, key(9))
	if err != nil {
		panic(err)
	}
	made.Store(n, s)
	return s
}

// id is what the log proves of a receipt.
func id(r *receipt.Signed) []byte { d := r.ID(); return d[:] }

func config(t testing.TB) Config { return Config{Dir: t.TempDir(), Origin: origin, Key: key(1)} }

func open(t testing.TB, c Config) *Log {
	t.Helper()
	l, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// fill appends receipts of requests from and up.
func fill(t testing.TB, l *Log, from, n int) {
	t.Helper()
	var list []*receipt.Signed
	for i := range n {
		list = append(list, signed(from+i))
	}
	indexes, err := l.Append(list...)
	if err != nil {
		t.Fatal(err)
	}
	for i, at := range indexes {
		if at != int64(from+i) {
			t.Fatalf("request %d is at %d", from+i, at)
		}
	}
}

// audited signs a log and reads all of it, as an audit beside it does.
func audited(l *Log) (int64, error) {
	if _, err := l.Head(); err != nil {
		return 0, err
	}
	r, err := OpenReader(l.c.Dir)
	if err != nil {
		return 0, err
	}
	report, err := r.Audit(context.Background(), l.verifier, nil)
	if err == nil && report.Signed != report.Receipts {
		err = fmt.Errorf("%d of %d are signed", report.Signed, report.Receipts)
	}
	return report.Receipts, errors.Join(err, r.Close())
}

// check looks at all of a log that fill filled.
func check(t testing.TB, l *Log, n int) {
	t.Helper()
	if l.Size() != int64(n) {
		t.Fatalf("%d receipts, want %d", l.Size(), n)
	}
	for i := range n {
		want := signed(i)
		got, err := l.Get(int64(i))
		if err != nil || got.ID() != want.ID() {
			t.Fatalf("receipt %d: %v", i, err)
		}
		if at, err := l.Find(want.ID()); err != nil || at != int64(i) {
			t.Fatalf("receipt %d is found at %d, %v", i, at, err)
		}
		if at, err := l.FindRequest(want.Request); err != nil || at != int64(i) {
			t.Fatalf("receipt %d is found by its request at %d, %v", i, at, err)
		}
	}
	if at, err := l.Find(signed(n).ID()); !errors.Is(err, ErrAbsent) {
		t.Errorf("a receipt that is not there is found at %d, %v", at, err)
	}
	if at, err := l.FindRequest(signed(n).Request); !errors.Is(err, ErrAbsent) {
		t.Errorf("a receipt that is not there is found by its request at %d, %v", at, err)
	}
	if got, err := audited(l); err != nil || got != int64(n) {
		t.Errorf("audit: %d, %v", got, err)
	}
}

func TestLog(t *testing.T) {
	c := config(t)
	l := open(t, c)
	check(t, l, 0)
	fill(t, l, 0, 3)
	fill(t, l, 3, 1)
	again, err := l.Append(signed(1), signed(4), signed(4), signed(0))
	if want := "[1 4 4 0]"; err != nil || fmt.Sprint(again) != want {
		t.Errorf("duplicates: %v, %v, want %s", again, err, want)
	}
	if _, err := Open(c); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("open twice: %v", err)
	}
	for range 2 {
		check(t, l, 5)
		if err := errors.Join(l.Close(), l.Close()); err != nil {
			t.Fatal(err)
		}
		l = open(t, c)
	}
	for _, at := range []int64{-1, 5, 1 << 40} {
		if _, err := l.Get(at); !errors.Is(err, ErrAbsent) {
			t.Errorf("index %d: %v", at, err)
		}
	}
	if _, err := l.Prove(signed(77).ID()); !errors.Is(err, ErrAbsent) {
		t.Error(err)
	}
	before, err := l.Root()
	fill(t, l, 5, 1)
	root, err2 := l.Root()
	text, err3 := os.ReadFile(filepath.Join(c.Dir, headName))
	if err := errors.Join(err, err2, err3); err != nil || root == before || !strings.Contains(string(text), base64.StdEncoding.EncodeToString(root[:])) {
		t.Errorf("root %x after %x, %v, not in the signed head %q", root, before, err, text)
	}
	_ = l.Close()
	if _, err := l.Append(signed(9)); !errors.Is(err, recordfile.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// Each proof proves its receipt and no other, and each tree continues each that was before.
func TestProofs(t *testing.T) {
	l := open(t, config(t))
	v, err := treeproof.NewVerifier(origin, key(1).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	const most = 21
	var heads []tlog.Tree
	for n := range most {
		fill(t, l, n, 1)
		text, err := l.Head()
		if err != nil {
			t.Fatal(err)
		}
		h, err := treeproof.ParseHead(text, v)
		if err != nil || h.Tree.N != int64(n+1) {
			t.Fatalf("%+v, %v", h, err)
		}
		heads = append(heads, h.Tree)
		for i := range n + 1 {
			p, err := l.Prove(signed(i).ID())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Check(id(signed(i)), v); err != nil || p.Index != int64(i) {
				t.Fatalf("%d of %d: %v", i, n+1, err)
			}
			if _, err := p.Check(id(signed((i+1)%(n+2))), v); !errors.Is(err, treeproof.ErrInclusion) {
				t.Fatalf("%d of %d proves another: %v", i, n+1, err)
			}
		}
	}
	for i, a := range heads {
		for _, b := range heads[i:] {
			p, err := l.ProveGrowth(b.N, a.N)
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.CheckTree(p, b.N, b.Hash, a.N, a.Hash); err != nil {
				t.Fatalf("%d to %d: %v", a.N, b.N, err)
			}
			bad := a.Hash
			bad[0] ^= 1
			if tlog.CheckTree(p, b.N, b.Hash, a.N, bad) == nil {
				t.Fatalf("%d to %d: another tree passes", a.N, b.N)
			}
		}
	}
	for _, g := range [][2]int64{{0, 0}, {5, 0}, {5, 6}, {most + 1, 1}} {
		if _, err := l.ProveGrowth(g[0], g[1]); err == nil {
			t.Errorf("growth from %d to %d", g[1], g[0])
		}
	}
}

// tiles reads a log by its tiles alone, as a mirror does.
type tiles struct{ l *Log }

func (r tiles) Height() int { return TileHeight }
func (r tiles) ReadTiles(list []tlog.Tile) ([][]byte, error) {
	var data [][]byte
	for _, t := range list {
		b, err := r.l.Tile(t)
		if err != nil {
			return nil, err
		}
		data = append(data, b)
	}
	return data, nil
}
func (r tiles) SaveTiles([]tlog.Tile, [][]byte) {}

// TestGrown is a log of more than one tile, and of more IDs than the first table holds.
func TestGrown(t *testing.T) {
	c := config(t)
	l := open(t, c)
	const n = slotsMin*8 + 100
	for from := 0; from < n; from += 100 {
		fill(t, l, from, min(100, n-from))
	}
	check(t, l, n)
	text, err := l.Head()
	if err != nil {
		t.Fatal(err)
	}
	h, err := treeproof.ParseHead(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := tlog.TileHashReader(h.Tree, tiles{l})
	for _, i := range []int64{0, 255, 256, n - 1} {
		p, err := tlog.ProveRecord(n, i, r)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckRecord(p, n, h.Tree.Hash, i, leaf(signed(int(i)))); err != nil {
			t.Errorf("receipt %d by tiles: %v", i, err)
		}
	}
	for _, bad := range []tlog.Tile{
		{H: 8, L: 0, N: n >> 8, W: n&255 + 1},
		{H: 8, L: 1, N: 1, W: 1},
		{H: 4, L: 0, N: 0, W: 1},
		{H: 8, L: -1, N: 0, W: 1},
		{H: 8, L: 0, N: 0, W: 257},
		{H: 8, L: 0, N: 1 << 62, W: 1},
		{H: 8, L: 60, N: 0, W: 1},
		{H: 8, L: 0, N: -1, W: 1},
	} {
		if _, err := l.Tile(bad); !errors.Is(err, ErrAbsent) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	_ = l.Close()
	check(t, open(t, c), n)
}

// What stands beside the receipts may be lost or spoilt: it is made anew.
func TestIndexMadeAnew(t *testing.T) {
	for _, name := range []string{hashesName, offsetsName, runName(0, 20), stateName} {
		for how, spoil := range map[string]func(path string) error{
			"gone":  os.Remove,
			"empty": func(path string) error { return os.WriteFile(path, nil, 0o600) },
			"short": func(path string) error { return os.Truncate(path, 40) },
			"zeros": func(path string) error {
				info, err := os.Stat(path)
				if err != nil {
					return err
				}
				return os.WriteFile(path, make([]byte, info.Size()), 0o600)
			},
		} {
			if how == "zeros" && (name == offsetsName || name == runName(0, 20)) {
				continue // for Audit: see TestAudit
			}
			c := config(t)
			l := open(t, c)
			fill(t, l, 0, 20)
			if _, err := l.Head(); err != nil {
				t.Fatal(err)
			}
			_ = l.Close()
			if err := spoil(filepath.Join(c.Dir, name)); err != nil {
				t.Fatal(err)
			}
			l, err := Open(c)
			if err != nil {
				t.Errorf("%s %s: %v", name, how, err)
				continue
			}
			check(t, l, 20)
			fill(t, l, 20, 5)
			check(t, l, 25)
			_ = l.Close()
		}
	}
}

// What was durable is missed also if no tree head was signed, and at every try to open the log.
func TestShorter(t *testing.T) {
	c := config(t)
	l := open(t, c)
	fill(t, l, 0, 5)
	end := l.file.Size()
	fill(t, l, 5, 5)
	_ = l.Close()
	path := filepath.Join(c.Dir, receiptsName)
	text, err := os.ReadFile(path)
	if err == nil {
		err = os.Truncate(path, end)
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := Open(c); !errors.Is(err, ErrRewritten) {
			t.Errorf("half a log: %v", err)
		}
	}
	if err := os.WriteFile(path, text, 0o600); err != nil { // its operator found the rest
		t.Fatal(err)
	}
	check(t, open(t, c), 10)
}

// A log that is not the one that was signed does not open, and stays as it is.
func TestRewritten(t *testing.T) {
	c := config(t)
	l := open(t, c)
	fill(t, l, 0, 10)
	end := l.file.Size()
	fill(t, l, 10, 10)
	if _, err := l.Head(); err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	path := filepath.Join(c.Dir, receiptsName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	stateText, err := os.ReadFile(filepath.Join(c.Dir, stateName))
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"shorter":       text[:end],
		"a torn end":    text[:len(text)-1],
		"spoilt end":    append(bytes.Clone(text[:len(text)-5]), "hello"...),
		"nothing":       nil,
		"only its head": text[:len(magic)],
		"spoilt inside": append(append(bytes.Clone(text[:100]), text[100]^1), text[101:]...),
	} {
		for _, state := range []bool{true, false} {
			statePath := filepath.Join(c.Dir, stateName)
			if err := os.WriteFile(statePath, stateText, 0o600); err != nil {
				t.Fatal(err)
			}
			if !state {
				_ = os.Remove(statePath)
			}
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := Open(c)
			if err == nil {
				if strings.HasPrefix(name, "spoilt") && state { // what is durable is not read again when it opens
					if _, err := audited(l); err == nil {
						t.Errorf("%s: the audit finds nothing", name)
					}
				} else {
					t.Errorf("%s: opens with %d", name, l.Size())
				}
				_ = l.Close()
			} else if !errors.Is(err, ErrRewritten) && !errors.Is(err, recordfile.ErrDamaged) {
				t.Errorf("%s: %v", name, err)
			}
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, bad) && len(bad) > 0 {
				t.Errorf("%s: the file was changed", name)
			}
		}
	}
	other := config(t) // others of the same number
	l = open(t, other)
	for i := range 20 {
		if _, err := l.Append(signed(i + 5)); err != nil {
			t.Fatal(err)
		}
	}
	_ = l.Close()
	for _, name := range []string{receiptsName, hashesName, offsetsName, runName(0, 20), stateName} {
		text, err := os.ReadFile(filepath.Join(other.Dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(c.Dir, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(c); !errors.Is(err, ErrRewritten) {
		t.Errorf("another log under this head: %v", err)
	}
}

func TestOtherKey(t *testing.T) {
	c := config(t)
	l := open(t, c)
	fill(t, l, 0, 1)
	if _, err := l.Head(); err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	for _, change := range []func(*Config){
		func(c *Config) { c.Key = key(2) }, func(c *Config) { c.Origin = "other" }, func(c *Config) { c.Key = nil },
		func(c *Config) { c.Origin = "not a name" },
	} {
		other := c
		change(&other)
		if _, err := Open(other); err == nil {
			t.Errorf("opens as %q", other.Origin)
		}
	}
	check(t, open(t, c), 1)
}

func TestAudit(t *testing.T) {
	filter := (&run{to: 20}).filterAt()
	for _, spoil := range []struct {
		name     string
		at, size int64
	}{
		{hashesName, 0, 32 * 30},
		{offsetsName, 0, 8 * 20},
		{runName(0, 20), 0, 20 * keySize},
		{runName(0, 20), filter, filterBlock},
		{runName(0, 20), 2 * 20 * keySize, filter - 2*20*keySize},
	} {
		c := config(t)
		l := open(t, c)
		fill(t, l, 0, 20)
		_ = l.Close() // so that what is beside the receipts counts
		f, err := os.OpenFile(filepath.Join(c.Dir, spoil.name), os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt(make([]byte, spoil.size), spoil.at)
		}
		if err != nil || f.Close() != nil {
			t.Fatal(err)
		}
		r, err := OpenReader(c.Dir)
		if err != nil {
			t.Fatal(err)
		}
		if report, err := r.Audit(t.Context(), nil, nil); !errors.Is(err, ErrRewritten) && !errors.Is(err, recordfile.ErrDamaged) {
			t.Errorf("%+v: %+v, %v", spoil, report, err)
		}
		_ = r.Close()
	}
}

// A reader sees what comes into the log after it was opened, and audits beside a writer.
func TestReader(t *testing.T) {
	for _, every := range []int64{3, stateEvery} {
		readerOf(t, every)
	}
}

func readerOf(t *testing.T, every int64) {
	c := config(t)
	c.every = every
	l := open(t, c)
	fill(t, l, 0, 5)
	_ = l.Close()
	l = open(t, c)
	fill(t, l, 5, 2)
	r, err := OpenReader(c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, l, 7, 3)
	for i := range 10 {
		if s, err := r.Find(signed(i).ID()); err != nil || s.Request != signed(i).Request {
			t.Errorf("receipt %d: %v", i, err)
		}
	}
	if _, err := r.Find(signed(10).ID()); !errors.Is(err, ErrAbsent) {
		t.Error(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 200 {
			if _, err := l.Append(signed(10 + i)); err != nil {
				t.Error(err)
			}
			if i%10 == 0 {
				if _, err := l.Head(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 20 {
		seen := int64(0)
		report, err := r.Audit(t.Context(), l.verifier, func(at int64, s *receipt.Signed) error {
			if at != seen || s.ID() != signed(int(at)).ID() {
				return fmt.Errorf("another receipt")
			}
			seen++
			return nil
		})
		if err != nil || report.Receipts != seen || report.Signed > seen || seen < 10 {
			t.Fatalf("%+v, %v, %d seen", report, err, seen)
		}
		other, err := OpenReader(c.Dir) // while files are replaced
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Audit(t.Context(), l.verifier, nil); err != nil {
			t.Fatal(err)
		}
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := OpenReader(t.TempDir()); err == nil {
		t.Error("there is no log")
	}
}

func TestConcurrent(t *testing.T) {
	c := config(t)
	l := open(t, c)
	var wg sync.WaitGroup
	const writers, each = 16, 40
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				n := (w/2)*each + i // each receipt by two writers
				r := signed(n)
				at, err := l.Append(r)
				if err != nil {
					t.Error(err)
					return
				}
				p, err := l.Prove(r.ID())
				if err != nil || p.Index != at[0] {
					t.Errorf("request %d: at %d, %+v, %v", n, at[0], p, err)
					return
				}
				if _, err := p.Check(id(r), nil); err != nil {
					t.Errorf("request %d: %v", n, err)
				}
			}
		})
	}
	wg.Wait()
	if n, err := audited(l); err != nil || n != writers*each/2 {
		t.Errorf("audit: %d, %v", n, err)
	}
}

// faults fail an operation, in one way, and then all until mended.
type faults struct {
	mu          sync.Mutex
	left        int
	after, half bool
	once        bool
	dead        bool
}

var errFault = fmt.Errorf("injected: %w", syscall.ENOSPC)

// set sets how many operations are left before one fails, and whether all do.
func (f *faults) set(left int, dead bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left, f.dead = left, dead
}

func (f *faults) do(do, half func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left--; f.left == 0 {
		f.dead = !f.once
		switch {
		case f.after:
			_ = do()
		case f.half:
			_ = half()
		}
		return errFault
	}
	if f.dead {
		return errFault
	}
	return do()
}

type faultDisk struct {
	*os.File
	f *faults
}

func (d faultDisk) WriteAt(b []byte, at int64) (int, error) {
	return len(b), d.f.do(func() error { _, err := d.File.WriteAt(b, at); return err },
		func() error { _, err := d.File.WriteAt(b[:len(b)/2], at); return err })
}

func (d faultDisk) Sync() error { return d.f.do(d.File.Sync, func() error { return nil }) }

func (d faultDisk) Truncate(n int64) error {
	return d.f.do(func() error { return d.File.Truncate(n) }, func() error { return nil })
}

// Each write to any file of the log fails in each way, once or from then on. What was appended stays, the retry of what
// failed works when the disk does, and the log opens again and is whole.
func TestFaults(t *testing.T) {
	for i := range 8 * 24 {
		if i&3 == 3 {
			continue // done whole, and by half
		}
		for _, every := range []int64{1, stateEvery} {
			t.Run(fmt.Sprint(i, " ", every), func(t *testing.T) {
				t.Parallel()
				faultsOf(t, i, every)
			})
		}
	}
}

func faultsOf(t *testing.T, i int, every int64) {
	f := &faults{left: 1 + i/8, after: i&1 != 0, half: i&2 != 0, once: i&4 != 0}
	name := fmt.Sprintf("op %d, after %v, half %v, once %v, every %d", f.left, f.after, f.half, f.once, every)
	c := config(t)
	c.every = every
	c.Wrap = func(file *os.File) recordfile.Disk { return faultDisk{file, f} }
	l, err := Open(c)
	if err != nil {
		f.set(0, false)
		if l, err = Open(c); err != nil {
			t.Errorf("%s: making it failed, and opening it again too: %v", name, err)
			return
		}
	}
	acked := 0
	for n := range 3 {
		at, err := l.Append(signed(n))
		if err != nil {
			if !errors.Is(err, errFault) {
				t.Errorf("%s: %v", name, err)
			}
			break
		}
		if at[0] != int64(n) {
			t.Errorf("%s: request %d at %d", name, n, at[0])
		}
		acked++
	}
	if (i/8)%2 == 0 { // go on
		f.set(0, false)
		for n := acked; n < 5; n++ {
			if at, err := l.Append(signed(n)); err != nil || at[0] != int64(n) {
				t.Errorf("%s: request %d at %d, %v", name, n, at, err)
			}
		}
		acked = 5
	}
	f.set(0, true)
	_ = l.Close()
	f.set(0, false)
	l, err = Open(c)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if n := int(l.Size()); n != acked && n != acked+1 {
		t.Errorf("%s: %d receipts, want %d", name, n, acked)
	}
	for n := range 7 {
		if at, err := l.Append(signed(n)); err != nil || at[0] != int64(n) {
			t.Errorf("%s: in the end request %d at %d, %v", name, n, at, err)
		}
	}
	check(t, l, 7)
	_ = l.Close()
}

// The log and a list say the same, whatever is appended, and however often it is opened.
func TestModel(t *testing.T) {
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		c := Config{Dir: filepath.Join(dir, fmt.Sprint(runs)), Origin: origin, Key: key(1)}
		c.every = rapid.Int64Range(1, 9).Draw(rt, "every")
		l, err := Open(c)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		want := map[int]int64{}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			switch rapid.IntRange(0, 3).Draw(rt, "step") {
			case 0, 1:
				var list []*receipt.Signed
				names := rapid.SliceOfN(rapid.IntRange(0, 20), 1, 5).Draw(rt, "requests")
				for _, n := range names {
					list = append(list, signed(n))
				}
				got, err := l.Append(list...)
				if err != nil {
					rt.Fatal(err)
				}
				for i, n := range names {
					if _, ok := want[n]; !ok {
						want[n] = int64(len(want))
					}
					if got[i] != want[n] {
						rt.Fatalf("request %d at %d, want %d", n, got[i], want[n])
					}
				}
			case 2:
				if _, err := l.Head(); err != nil {
					rt.Fatal(err)
				}
			case 3:
				_ = l.Close()
				if rapid.Bool().Draw(rt, "without index") {
					_ = os.Remove(filepath.Join(c.Dir, stateName))
				}
				if l, err = Open(c); err != nil {
					rt.Fatal(err)
				}
			}
		}
		if n, err := audited(l); err != nil || n != int64(len(want)) {
			rt.Fatalf("audit: %d, %v, want %d", n, err, len(want))
		}
	})
}

func TestNoFolder(t *testing.T) {
	c := config(t)
	c.Dir = filepath.Join(c.Dir, "file")
	if err := os.WriteFile(c.Dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(c); err == nil || !strings.Contains(err.Error(), "making the folder of the log of receipts") {
		t.Error(err)
	}
}
