package tally

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"cocoon/internal/receipt"
	"cocoon/internal/recordfile"
)

// crashed is the config of a log in a copy of the folder, as a crash would leave it now.
func crashed(t *testing.T, c Config) Config {
	t.Helper()
	from := c.Dir
	for range 100 {
		c.Dir, c.Wrap = t.TempDir(), nil
		before := readState(from)
		err := os.CopyFS(c.Dir, os.DirFS(from))
		if readState(from).n == before.n && err == nil {
			return c
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) { // a file got its name meanwhile
			t.Fatal(err)
		}
	}
	t.Fatal("the files don't come to rest")
	return c
}

// gate is a disk that waits where keys are written.
type gate struct {
	recordfile.Disk
	open <-chan struct{}
	at   chan<- struct{}
}

func (g gate) Sync() error {
	g.at <- struct{}{}
	<-g.open
	return g.Disk.Sync()
}

// What Append returned for is there, whether it is in memory, on its way to the files, or in these; and after a crash at
// each of these times, with many batches that only the receipts' file has.
func TestUnwritten(t *testing.T) {
	c := config(t)
	c.every = 40
	opened, at := make(chan struct{}), make(chan struct{}, 100)
	c.Wrap = func(f *os.File) recordfile.Disk {
		if strings.Contains(f.Name(), keysName) {
			return gate{f, opened, at}
		}
		return f
	}
	l := open(t, c)
	for n := 0; n < 30; n += 3 { // less than is written
		fill(t, l, n, 3)
	}
	check(t, l, 30)
	check(t, open(t, crashed(t, c)), 30)
	if names, err := filepath.Glob(filepath.Join(c.Dir, keysName+"*")); err != nil || len(names) > 0 {
		t.Errorf("%v, %v", names, err)
	}
	for n := 30; n < 75; n += 5 { // more, but it does not come to disk
		fill(t, l, n, 5)
	}
	<-at
	check(t, l, 75)
	other := open(t, crashed(t, c))
	if other.index.found.n != 0 {
		t.Errorf("%d receipts are in files", other.index.found.n)
	}
	check(t, other, 75)
	close(opened)
	for n := 75; n < 200; n += 5 {
		fill(t, l, n, 5)
	}
	check(t, l, 200)
	check(t, open(t, crashed(t, c)), 200)
	_ = l.Close()
	check(t, open(t, c), 200)
}

// However many receipts there are, a crash leaves few to index again, and there are few files.
func TestBounds(t *testing.T) {
	c := config(t)
	c.every = 10
	l := open(t, c)
	const n, batch = 1200, 15
	for at := 0; at < n; at += batch {
		fill(t, l, at, batch)
		if mem := l.index.young.count(); mem >= 2*c.every+batch {
			t.Fatalf("%d receipts are in memory", mem)
		}
		if at%345 != 0 {
			continue
		}
		other := open(t, crashed(t, c))
		if from := other.index.found.n; int64(at+batch)-from > 4*c.every+2*batch {
			t.Errorf("%d of %d receipts are in files", from, at+batch)
		}
		if runs := len(other.index.runs); runs > 16 { // three of each size, and one
			t.Errorf("%d runs of %d receipts", runs, at)
		}
		_ = other.Close()
	}
	check(t, l, n)
	names, err := filepath.Glob(filepath.Join(c.Dir, keysName+"*"))
	if err != nil || len(names) > 2*16 {
		t.Errorf("%q, %v", names, err)
	}
	_ = l.Close()
	l = open(t, c)
	for _, r := range l.index.runs {
		r.filter = nil // as of old ones
	}
	check(t, l, n)
}

// There are few runs of any number of receipts, none is too large, and a key is rarely written.
func TestAbsorbed(t *testing.T) {
	var runs []*run
	written, most, n := int64(0), 0, int64(0)
	for i := int64(0); n < 200<<20; i++ {
		more := stateEvery + i*i%stateEvery
		left := len(runs) - absorbed(runs, stateEvery, more)
		r := &run{from: n, to: n + more}
		for _, old := range runs[left:] {
			r.from = min(r.from, old.from)
		}
		if r.count() > runMax {
			t.Fatalf("a run of %d receipts", r.count())
		}
		runs, n, written = append(runs[:left], r), r.to, written+r.count()
		most = max(most, len(runs))
	}
	if most > 27 || written > 6*n {
		t.Errorf("up to %d runs, and %d keys written for %d", most, written, n)
	}
}

// Opening and closing often leaves few files too.
func TestOftenOpened(t *testing.T) {
	c := config(t)
	for n := range 60 {
		l := open(t, c)
		fill(t, l, n, 1)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	l := open(t, c)
	if runs := len(l.index.runs); runs > 3 {
		t.Errorf("%d runs", runs)
	}
	check(t, l, 60)
}

// A left-over file of keys goes; a reader takes none that is not named.
func TestLeftOver(t *testing.T) {
	c := config(t)
	l := open(t, c)
	fill(t, l, 0, 20)
	_ = l.Close()
	left := filepath.Join(c.Dir, runName(0, 10))
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	l = open(t, c)
	check(t, l, 20)
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// When the files beside the receipts can't be written, the log takes as many as memory is meant for, and then more when
// the disk does.
func TestIndexDiskFull(t *testing.T) {
	c := config(t)
	c.every = 10
	f := &faults{}
	c.Wrap = func(file *os.File) recordfile.Disk {
		if strings.HasSuffix(file.Name(), receiptsName) {
			return file
		}
		return faultDisk{file, f}
	}
	l := open(t, c)
	f.set(0, true)
	n := 0
	for ; n < 100; n++ {
		if _, err := l.Append(signed(n)); err != nil {
			if !errors.Is(err, errFault) {
				t.Error(err)
			}
			break
		}
	}
	if n != 30 {
		t.Errorf("%d receipts are taken, want 30", n)
	}
	check(t, l, n)
	check(t, open(t, crashed(t, c)), n)
	f.set(0, false)
	for ; n < 60; n++ {
		fill(t, l, n, 1)
	}
	check(t, l, n)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	check(t, open(t, c), n)
}

// The first of several receipts of a request is found, wherever they are.
func TestFirst(t *testing.T) {
	c := config(t)
	c.every = 2
	l := open(t, c)
	for i := range 30 {
		r := signed(0).Receipt
		r.Start, r.End = int64(1+i), int64(2+i)
		s, err := receipt.Sign(r, key(9))
		if err != nil {
			t.Fatal(err)
		}
		if at, err := l.Append(s); err != nil || at[0] != int64(i) {
			t.Fatalf("%d, %v", at, err)
		}
		if at, err := l.Find(s.ID()); err != nil || at != int64(i) {
			t.Fatalf("%d, %v", at, err)
		}
		if at, err := l.FindRequest(r.Request); err != nil || at != 0 {
			t.Fatalf("%d, %v", at, err)
		}
	}
}

// Readers see all that was appended while it moves from memory to files, and these are merged.
func TestMoving(t *testing.T) {
	c := config(t)
	c.every = 16
	l := open(t, c)
	fill(t, l, 0, 1)
	var wg sync.WaitGroup
	done := make(chan struct{})
	for w := range 4 {
		wg.Go(func() {
			for i := w; ; i += 7 {
				select {
				case <-done:
					return
				default:
				}
				n := i % int(l.Size())
				if at, err := l.Find(signed(n).ID()); err != nil || at != int64(n) {
					t.Errorf("receipt %d is found at %d, %v", n, at, err)
					return
				}
				if _, err := l.Prove(signed(n).ID()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for n := 1; n < 600; n += 5 {
		fill(t, l, n, 5)
	}
	close(done)
	wg.Wait()
}

// Keys with the same first bits, or all of them, are all found.
func TestCollisions(t *testing.T) {
	c := config(t)
	c.Wrap = func(f *os.File) recordfile.Disk { return f }
	var runs []*run
	p, want := new(part), map[uint64][]int64{}
	add := func(hash uint64) {
		n := p.first + p.count()
		p.offsets = append(p.offsets, 0)
		p.tables[ids].add(hash)
		p.tables[requests].add(^hash)
		want[hash] = append(want[hash], n)
	}
	for i := range 3 {
		if i > 0 {
			r, err := writeRun(&c, runs, p)
			if err != nil {
				t.Fatal(err)
			}
			if other, err := openRun(c.Dir, r.from, r.to, true); err != nil || !slices.Equal(other.filter, r.filter) {
				t.Fatalf("%v", err)
			}
			runs = []*run{r}
			p.begin(p.first+p.count(), 0, 1)
		}
		for k := range 700 {
			switch k % 3 {
			case 0:
				add(^uint64(0) - uint64(k%50))
			case 1:
				add(7<<40 + uint64(k%150))
			case 2:
				add(uint64(k) * 0x9e3779b97f4a7c15)
			}
		}
		for hash, list := range want {
			for kind, h := range []uint64{hash, ^hash} {
				var found []int64
				for _, r := range runs {
					var err error
					if found, err = r.find(kind, h, found); err != nil {
						t.Fatal(err)
					}
				}
				if found = p.find(kind, h, found); !slices.Equal(found, list) {
					t.Fatalf("key %x of kind %d: %v, want %v", h, kind, found, list)
				}
			}
		}
	}
}

// A filter says of few keys that are not there that they may be.
func TestFilter(t *testing.T) {
	const n = 100_000
	filter := make([]byte, (&run{to: n}).filterSize())
	hash := func(i int) uint64 { return prefix(requestKey(fmt.Sprint(i))) }
	for i := range n {
		set(filter, hash(i))
	}
	wrong := 0
	for i := range n {
		if !has(filter, hash(i)) {
			t.Fatalf("key %d is not there", i)
		}
		if has(filter, hash(n+i)) {
			wrong++
		}
	}
	if wrong > n/200 {
		t.Errorf("%d of %d are looked up in vain", wrong, n)
	}
}

// FuzzState reads any state file: nothing, or one that is written like that.
func FuzzState(f *testing.F) {
	f.Add(state{}.String())
	f.Add(state{30, 4000, 31, []int64{10, 20, 30}}.String())
	f.Add("cocoon-tally-state/v2\n007 4000 31\n7\n")
	f.Add("cocoon-tally-state/v2\n2 1 3")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(filepath.Join(dir, stateName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if s := readState(dir); s.String() != text && (s.n != 0 || s.floor != 0 || s.ends != nil) {
			t.Errorf("%q is read as %+v", text, s)
		}
	})
}

// FuzzRun looks in any file of keys, and merges it: an error, but no harm.
func FuzzRun(f *testing.F) {
	f.Add(uint8(3), []byte{1, 2, 3}, uint64(5))
	f.Add(uint8(200), []byte(strings.Repeat("\xff", 300)), uint64(1<<63))
	f.Fuzz(func(t *testing.T, n uint8, b []byte, hash uint64) {
		c := Config{Dir: t.TempDir(), Wrap: func(f *os.File) recordfile.Disk { return f }}
		r := &run{to: int64(n) + 1}
		b = append(b, make([]byte, r.size())...)[:r.size()]
		if err := os.WriteFile(filepath.Join(c.Dir, runName(0, r.to)), b, 0o600); err != nil {
			t.Fatal(err)
		}
		runs, err := openRuns(c.Dir, []int64{r.to})
		if err != nil {
			t.Fatal(err)
		}
		for kind := range kinds {
			_, _ = runs[0].find(kind, hash, nil)
		}
		p := new(part)
		p.begin(r.to, 0, 1)
		p.offsets = append(p.offsets, 0)
		p.tables[ids].add(hash)
		p.tables[requests].add(hash)
		if merged, err := writeRun(&c, runs, p); err == nil {
			_ = merged.close()
		}
		_ = closeRuns(runs)
	})
}
