package recordfile

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

const testMagic = "test-file/v1\n"

// open opens a file and gives its records.
func open(t testing.TB, path string, wrap func(*os.File) Disk) (*File, [][]byte) {
	t.Helper()
	f, records, err := tryOpen(path, wrap)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f, records
}

func tryOpen(path string, wrap func(*os.File) Disk) (f *File, records [][]byte, err error) {
	f, err = Open(path, Options{Magic: testMagic, Wrap: wrap, Each: func(_ int64, r []byte) error {
		records = append(records, bytes.Clone(r))
		return nil
	}})
	return f, records, err
}

func record(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%d,", i), 1+i%50) }

func same(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

func TestAppend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f, _ := open(t, path, nil)
	var want [][]byte
	for i := range 20 {
		pair := [][]byte{record(2 * i), record(2*i + 1)}
		offsets, err := f.Append(pair...)
		if err != nil {
			t.Fatal(err)
		}
		for k, o := range offsets {
			if got, err := f.Read(o); err != nil || !bytes.Equal(got, pair[k]) {
				t.Fatalf("%q, %v", got, err)
			}
		}
		want = append(want, pair...)
	}
	for _, o := range []int64{-1, 0, 14, f.Size(), f.Size() + 1} {
		if r, err := f.Read(o); !errors.Is(err, ErrDamaged) {
			t.Errorf("read at %d: %q, %v", o, r, err)
		}
	}
	for _, r := range [][]byte{nil, make([]byte, RecordMax+1)} {
		if _, err := f.Append(record(1), r); err == nil {
			t.Errorf("a record of %d bytes is taken", len(r))
		}
	}
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Append(record(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
	f, got := open(t, path, nil)
	if !same(got, want) || f.Cut() != 0 {
		t.Errorf("%d records, want %d; %d bytes cut", len(got), len(want), f.Cut())
	}
}

// countDisk counts syncs.
type countDisk struct {
	Disk
	syncs atomic.Int64
}

func (d *countDisk) Sync() error { d.syncs.Add(1); return d.Disk.Sync() }

func TestManyWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	var disk *countDisk
	f, _ := open(t, path, func(f *os.File) Disk { disk = &countDisk{Disk: f}; return disk })
	const writers, each = 64, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				r := fmt.Appendf(nil, "%d/%d", w, i)
				offsets, err := f.Append(r)
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := f.Read(offsets[0]); err != nil || !bytes.Equal(got, r) {
					t.Errorf("%q, %v, want %q", got, err, r)
				}
			}
		})
	}
	wg.Wait()
	_ = f.Close()
	_, got := open(t, path, nil)
	next := map[int]int{}
	for _, r := range got {
		var w, i int
		if _, err := fmt.Sscanf(string(r), "%d/%d", &w, &i); err != nil || next[w] != i {
			t.Fatalf("record %q, want %d of its writer", r, next[w])
		}
		next[w]++
	}
	if len(got) != writers*each {
		t.Errorf("%d records", len(got))
	}
	if n := disk.syncs.Load(); n > writers*each/4 {
		t.Errorf("%d syncs for %d records: writers share none", n, len(got))
	}
}

// Whatever part of the last batch a crash left, what was there before stays, and what is left of the batch is its
// beginning.
func TestTorn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	f, _ := open(t, path, nil)
	before := [][]byte{record(1), record(49), record(3)}
	if _, err := f.Append(before...); err != nil {
		t.Fatal(err)
	}
	size := f.Size()
	last := [][]byte{record(4), record(5), record(6)}
	if _, err := f.Append(last...); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(name string, text []byte) {
		t.Helper()
		p := filepath.Join(dir, "torn")
		if err := os.WriteFile(p, text, 0o600); err != nil {
			t.Fatal(err)
		}
		f, got, err := tryOpen(p, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer f.Close()
		all := append(append([][]byte{}, before...), last...)
		if len(got) < len(before) || len(got) > len(all) || !same(got, all[:len(got)]) {
			t.Fatalf("%s: %d records: %q", name, len(got), got)
		}
		if _, err := f.Append(record(7)); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		if f, again, err := tryOpen(p, nil); err != nil || len(again) != len(got)+1 || f.Close() != nil {
			t.Fatalf("%s: after one more: %d records, %v", name, len(again), err)
		}
	}
	for i := size; i < int64(len(whole)); i++ {
		check(fmt.Sprint("cut at ", i), whole[:i])
		zeros := append(bytes.Clone(whole[:i]), make([]byte, len(whole)-int(i))...)
		check(fmt.Sprint("zeros from ", i), zeros)
		hole := bytes.Clone(whole)
		for k := i; k < min(i+8, int64(len(whole))); k++ {
			hole[k] = 0
		}
		check(fmt.Sprint("a hole at ", i), hole)
		check(fmt.Sprint("more after ", i), append(bytes.Clone(whole[:i]), bytes.Repeat([]byte{0xa5}, 100)...))
	}
}

func TestDamageRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	f, _ := open(t, path, nil)
	for i := range 3 {
		if _, err := f.Append(record(i), record(i+10)); err != nil {
			t.Fatal(err)
		}
	}
	_ = f.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lastBatch := len(whole) - 2*FrameSize - len(record(2)) - len(record(12))
	for i := len(testMagic); i < lastBatch; i++ {
		bad := bytes.Clone(whole)
		bad[i] ^= 0x10
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, got, err := tryOpen(path, nil); !errors.Is(err, ErrDamaged) {
			t.Fatalf("byte %d: %d records, %v", i, len(got), err)
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, bad) {
			t.Fatalf("byte %d: the file was changed", i)
		}
	}
	for _, text := range []string{"test-file/v2\nmore", "x", "test-file/v1 \n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := tryOpen(path, nil); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := os.WriteFile(path, []byte(testMagic[:5]), 0o600); err != nil { // killed when it was made
		t.Fatal(err)
	}
	if f, _, err := tryOpen(path, nil); err != nil || f.Close() != nil {
		t.Error(err)
	}
	if _, err := Open(path, Options{Magic: testMagic, From: 1000}); !errors.Is(err, ErrDamaged) {
		t.Errorf("from beyond the end: %v", err)
	}
}

// faultDisk fails at one operation, in one way.
type faultDisk struct {
	Disk
	op    int  // this one fails, counted from 0
	after bool // but is done before that
	torn  bool // half of a write is
	n     int
	dead  bool // and so do all that follow
	kill  bool
}

var errFault = fmt.Errorf("injected: %w", syscall.ENOSPC)

func (d *faultDisk) fault(do func() error, half func() error) error {
	if d.dead {
		return errFault
	}
	d.n++
	if d.n-1 != d.op {
		return do()
	}
	d.dead = d.kill
	switch {
	case d.after:
		_ = do()
	case d.torn:
		_ = half()
	}
	return errFault
}

func (d *faultDisk) WriteAt(b []byte, at int64) (n int, err error) {
	err = d.fault(func() error { _, err := d.Disk.WriteAt(b, at); return err },
		func() error { _, err := d.Disk.WriteAt(b[:len(b)/2], at); return err })
	return len(b), err
}

func (d *faultDisk) Sync() error {
	return d.fault(d.Disk.Sync, func() error { return nil })
}

func (d *faultDisk) Truncate(n int64) error {
	return d.fault(func() error { return d.Disk.Truncate(n) }, func() error { return nil })
}

// Each operation on the disk fails in each way. What Append said to be on disk is there afterwards, in order; what it
// said not to be there may be only if the process died or the file was poisoned.
func TestFaults(t *testing.T) {
	dir := t.TempDir()
	for i := range 2 * 2 * 2 * 24 {
		op, after, torn, kill := i/8, i&1 != 0, i&2 != 0, i&4 != 0
		name := fmt.Sprintf("op %d, done %v, torn %v, killed %v", op, after, torn, kill)
		path := filepath.Join(dir, fmt.Sprint(i))
		f, _, err := tryOpen(path, func(f *os.File) Disk { return &faultDisk{Disk: f, op: op, after: after, torn: torn, kill: kill} })
		if err != nil {
			if f, _, err := tryOpen(path, nil); err != nil || f.Close() != nil {
				t.Errorf("%s: making the file failed, and opening it again too: %v", name, err)
			}
			continue
		}
		var acked [][]byte
		open := 0
		for k := range 8 {
			r := record(k)
			if _, err := f.Append(r); err == nil {
				acked = append(acked, r)
			} else {
				open++
				if !errors.Is(err, errFault) {
					t.Errorf("%s: %v", name, err)
				}
				if errors.Is(f.Err(), ErrPoisoned) {
					if _, err := f.Append(r); !errors.Is(err, ErrPoisoned) {
						t.Errorf("%s: a poisoned file takes more: %v", name, err)
					}
					if err := f.Recover(); (err == nil) == kill {
						t.Errorf("%s: recover: %v", name, err)
					}
				}
			}
		}
		if !kill && open > 1 {
			t.Errorf("%s: %d appends failed", name, open)
		}
		_ = f.Close()
		f, got, err := tryOpen(path, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_ = f.Close()
		if !same(got, acked) && (!kill || len(got) != len(acked)+1 || !same(got[:len(acked)], acked)) {
			t.Errorf("%s: %d records, want %d", name, len(got), len(acked))
		}
	}
}

func TestCutRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f, _ := open(t, path, nil)
	if _, err := f.Append(record(1)); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	text, _ := os.ReadFile(path)
	text = text[:len(text)-1]
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	no := errors.New("no")
	if _, err := Open(path, Options{Magic: testMagic, Cut: func() error { return no }}); !errors.Is(err, no) {
		t.Errorf("cut: %v", err)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, text) {
		t.Error("the file was changed")
	}
}

// Open reads any file, or refuses it; what it takes it takes again.
func FuzzOpen(f *testing.F) {
	seed := filepath.Join(f.TempDir(), "seed")
	file, _ := open(f, seed, nil)
	for i := range 3 {
		if _, err := file.Append(record(i), record(i+1)); err != nil {
			f.Fatal(err)
		}
	}
	text, _ := os.ReadFile(seed)
	f.Add(text)
	f.Add(text[:len(text)-3])
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		file, got, err := tryOpen(path, nil)
		if err != nil {
			return
		}
		_ = file.Close()
		file, again, err := tryOpen(path, nil)
		if err != nil || !same(got, again) || file.Cut() != 0 {
			t.Fatalf("%d records, then %d, %v", len(got), len(again), err)
		}
		_ = file.Close()
	})
}

// The file and a list in memory say the same, whatever is done.
func TestModel(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprint(n))
		var want [][]byte
		f, _, err := tryOpen(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		for range rapid.IntRange(0, 12).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "append") {
				var records [][]byte
				for range rapid.IntRange(1, 4).Draw(t, "records") {
					records = append(records, record(rapid.IntRange(0, 300).Draw(t, "record")))
				}
				if _, err := f.Append(records...); err != nil {
					t.Fatal(err)
				}
				want = append(want, records...)
				continue
			}
			size := f.Size()
			_ = f.Close()
			if tail := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "tail"); len(tail) > 0 {
				h, err := os.OpenFile(path, os.O_WRONLY, 0)
				if err == nil {
					_, err = h.WriteAt(tail, size)
				}
				if err != nil || h.Close() != nil {
					t.Fatal(err)
				}
			}
			var got [][]byte
			if f, got, err = tryOpen(path, nil); err != nil || !same(got, want) {
				t.Fatalf("%d records, want %d, %v", len(got), len(want), err)
			}
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			f, _ := open(b, filepath.Join(b.TempDir(), "f"), nil)
			r := make([]byte, 1000)
			for i := range r {
				r[i] = byte(rand.Int())
			}
			b.ReportAllocs()
			b.SetParallelism(writers)
			if writers == 1 {
				for b.Loop() {
					if _, err := f.Append(r); err != nil {
						b.Fatal(err)
					}
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := f.Append(r); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// text appends itself.
type text []byte

func (t text) AppendRecord(b []byte) []byte { return append(b, t...) }

// A batch that is laid out by its owner is in the file as one that Append makes, between such ones, and can be written
// again after it failed.
func TestBatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	var disk *faultDisk
	f, _ := open(t, path, func(f *os.File) Disk {
		disk = &faultDisk{Disk: f, op: -1}
		return disk
	})
	var b Batch
	var want [][]byte
	for i := range 5 {
		if _, err := f.Append(record(i)); err != nil {
			t.Fatal(err)
		}
		want = append(want, record(i))
		b.Reset()
		for _, bad := range []int{0, RecordMax + 1} {
			if err := b.Add(text(make([]byte, bad))); err == nil || b.Len() != 0 {
				t.Errorf("a record of %d bytes: %v", bad, err)
			}
		}
		if at, err := f.AppendBatch(&b); err != nil || at != f.Size() {
			t.Errorf("an empty batch at %d: %v", at, err)
		}
		var offsets []int64
		for k := range 100 {
			offsets = append(offsets, b.Len())
			if err := b.Add(text(record(k))); err != nil {
				t.Fatal(err)
			}
			want = append(want, record(k))
		}
		disk.n, disk.op = 0, i%2 // a write, or a sync
		if _, err := f.AppendBatch(&b); !errors.Is(err, errFault) {
			t.Errorf("a fault: %v", err)
		}
		disk.op = -1
		if i%2 == 1 {
			if _, err := f.AppendBatch(&b); !errors.Is(err, ErrPoisoned) {
				t.Errorf("a poisoned file takes more: %v", err)
			}
			if err := f.Recover(); err != nil {
				t.Fatal(err)
			}
		}
		base, err := f.AppendBatch(&b)
		if err != nil {
			t.Fatal(err)
		}
		for k, o := range offsets {
			if got, err := f.Read(base + o); err != nil || !bytes.Equal(got, record(k)) {
				t.Fatalf("%q, %v", got, err)
			}
		}
	}
	if err := b.Add(text(make([]byte, RecordMax))); err != nil {
		t.Error(err)
	}
	for range 8 {
		if err := b.Add(text(make([]byte, RecordMax))); err != nil {
			t.Error(err)
		}
	}
	if b.Reset(); cap(b.buf) > spareMax || b.Len() != 0 {
		t.Errorf("%d bytes are kept", cap(b.buf))
	}
	_ = f.Close()
	if _, err := f.AppendBatch(&b); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed file: %v", err)
	}
	if _, got := open(t, path, nil); !same(got, want) {
		t.Errorf("%d records, want %d", len(got), len(want))
	}
}

// What Open found and a crash had left unsynced is on disk when Open returns.
func TestOpenSyncs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f, _ := open(t, path, nil)
	if _, err := f.Append(record(1)); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if f, _, err := tryOpen(path, func(f *os.File) Disk { return &faultDisk{Disk: f} }); !errors.Is(err, errFault) {
		t.Errorf("%v, %v", f, err)
	}
}
