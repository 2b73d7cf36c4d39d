package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// abandon leaves a journal as a killed process does: the kernel has what was written, and closes the files.
func abandon(j *Journal) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed = true; j.timer != nil && j.timer.Stop() {
		j.lazies.Done()
	}
	_ = j.active.Close()
	_ = j.lock.Close()
}

// spill gives to the system what a journal has in its ring alone, as a Sync does before its fsync.
func spill(t interface{ Fatal(...any) }, f file) {
	if wrapped, ok := f.(*faulty); ok {
		f = wrapped.file
	}
	if err := f.(*staged).flush(); err != nil {
		t.Fatal(err)
	}
}

// powerCut leaves a journal as a machine does whose power fails: of what is not known to be on disk, some is. It gives how
// many of all records are left, at least, and whether there may be more of them, in what the disk has of the ring.
func powerCut(t *rapid.T, j *Journal, all []string) (left int, more bool) {
	last := j.segments[len(j.segments)-1]
	spill(t, j.active)
	abandon(j)
	if more = rapid.Bool().Draw(t, "the ring is there"); !more {
		_ = os.Remove(filepath.Join(j.dir, ringName))
	}
	left, end := int(j.durable), int64(headSize)
	for _, r := range all[last.first-1 : left] {
		end += recordHead + int64(len(r))
	}
	path := last.path(j.dir)
	data, err := os.ReadFile(path)
	if err != nil || int64(len(data)) != j.size {
		t.Fatalf("%v: %d bytes, want %d", err, len(data), j.size)
	}
	if end == j.size {
		return left, more
	}
	at := int(end) + rapid.IntRange(0, len(data)-int(end)-1).Draw(t, "at")
	if rapid.Bool().Draw(t, "hole") { // a page of zeros, and what is behind it reached the disk
		hole := rapid.IntRange(1, len(data)-at).Draw(t, "bytes")
		data[at] = ^data[at] // it was no zero
		clear(data[at+1 : at+hole])
	} else {
		data = data[:at]
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for left < len(all) {
		if end += recordHead + int64(len(all[left])); end > int64(at) {
			break
		}
		left++
	}
	return left, more
}

// What is written survives the process, before any fsync; so does a record behind one that failed.
func TestWriteSurvivesTheProcess(t *testing.T) {
	dir, d := t.TempDir(), &disk{}
	o := fast()
	o.wrap = d.wrap
	j := open(t, dir, o)
	before := d.syncs
	if err := j.Write([]byte("a"), []byte("b")); err != nil {
		t.Fatal(err)
	}
	d.write = func(f file, p []byte, off int64) (int, error) {
		n, _ := f.WriteAt(p[:len(p)/2], off)
		return n, syscall.ENOSPC
	}
	if err := j.Write([]byte("failed")); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	d.write = nil
	if err := j.Write([]byte("c")); err != nil {
		t.Fatal(err)
	}
	if d.syncs != before || j.Last() != 3 {
		t.Errorf("%d fsyncs, last record %d", d.syncs-before, j.Last())
	}
	if got := all(t, j); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("replayed %q", got)
	}
	abandon(j)
	j = open(t, dir, fast())
	if got := all(t, j); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("%q", got)
	}
	for _, bad := range []int{0, RecordMax + 1} {
		if err := j.Write(make([]byte, bad)); !errors.Is(err, ErrSize) {
			t.Errorf("a record of %d bytes: %v", bad, err)
		}
	}
	_ = j.Close()
	if err := j.Write([]byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("Write after Close: %v", err)
	}
	if err := j.Sync(t.Context()); err != nil {
		t.Errorf("Sync after Close, which synced: %v", err)
	}
}

// One fsync comes by itself, Lazy after the first record that has none; none after somebody else's; Close does it at once.
func TestLazySync(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		j := open(t, dir, Options{wrap: d.wrap})
		write := func() {
			if err := j.Write([]byte("record")); err != nil {
				t.Error(err)
			}
		}
		syncs := func(after time.Duration, want int, why string) {
			d.mu.Lock()
			before := d.syncs
			d.mu.Unlock()
			time.Sleep(after)
			synctest.Wait()
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.syncs-before != want {
				t.Errorf("%s: %d fsyncs, want %d", why, d.syncs-before, want)
			}
		}
		for range 100 {
			write()
		}
		syncs(DefaultLazy-1, 0, "before its time")
		syncs(1, 1, "at its time")
		syncs(time.Hour, 0, "nothing new")
		write()
		add(t, j, "durable")
		syncs(time.Hour, 0, "after an Append")
		write()
		if err := j.Sync(t.Context()); err != nil {
			t.Error(err)
		}
		syncs(time.Hour, 0, "after a Sync")
		write()
		syncs(DefaultLazy/2, 0, "before its time, again")
		write()
		syncs(DefaultLazy/2, 1, "at the first one's time")
		syncs(time.Hour, 0, "it was for both")
		write()
		d.syncs = 0
		if err := j.Close(); err != nil || d.syncs != 1 {
			t.Errorf("Close: %v, %d fsyncs", err, d.syncs)
		}
	})
	if got := len(all(t, open(t, dir, fast()))); got != 106 {
		t.Errorf("%d records", got)
	}
}

// An fsync that nobody waits for and that fails breaks the journal; whoever comes next hears of it.
func TestLazySyncFails(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		j := open(t, dir, Options{wrap: d.wrap})
		if err := j.Write([]byte("a")); err != nil {
			t.Fatal(err)
		}
		d.sync = func(file) error { return syscall.EIO }
		if err := j.Broken(); err != nil {
			t.Error(err)
		}
		time.Sleep(DefaultLazy)
		synctest.Wait()
		for name, err := range map[string]error{
			"Broken": j.Broken(), "Write": j.Write([]byte("b")), "Append": j.Append(t.Context(), []byte("b")),
			"Sync": j.Sync(t.Context()),
		} {
			if !errors.Is(err, ErrBroken) || !errors.Is(err, syscall.EIO) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := j.Close(); err != nil {
			t.Errorf("Close of a journal that is known to be broken: %v", err)
		}
	})
}

// Close tells of an fsync that fails there.
func TestCloseSyncFails(t *testing.T) {
	d := &disk{}
	o := fast()
	o.wrap = d.wrap
	j := open(t, t.TempDir(), o)
	if err := j.Write([]byte("a")); err != nil {
		t.Fatal(err)
	}
	d.sync = func(file) error { return syscall.EIO }
	if err := j.Close(); !errors.Is(err, ErrBroken) {
		t.Errorf("Close: %v", err)
	}
}

// Write goes on while an fsync is under way, and is not covered by it: Sync waits for another one. The next segment waits.
func TestWriteDuringSync(t *testing.T) {
	for _, how := range []string{"Sync", "Append", "a new segment"} {
		t.Run(how, func(t *testing.T) {
			dir, d := t.TempDir(), &disk{}
			o := fast()
			o.wrap, o.SegmentBytes = d.wrap, 4096
			j := open(t, dir, o)
			began, release := make(chan struct{}), make(chan struct{})
			var once sync.Once
			d.sync = func(f file) error {
				once.Do(func() {
					close(began)
					<-release
				})
				return f.Sync()
			}
			first := make(chan error, 1)
			go func() { first <- j.Append(t.Context(), []byte("first")) }()
			<-began
			if err := j.Write([]byte("second")); err != nil {
				t.Fatal(err)
			}
			j.mu.Lock()
			if d := j.durable; d != 0 {
				t.Errorf("%d records are taken for durable", d)
			}
			j.mu.Unlock()
			second := make(chan error, 1)
			go func() {
				switch how {
				case "Sync":
					second <- j.Sync(t.Context())
				case "Append":
					second <- j.Append(t.Context(), []byte("third"))
				default:
					second <- j.Write([]byte(strings.Repeat("third", 1000)))
				}
			}()
			select {
			case err := <-second:
				t.Fatalf("it did not wait: %v", err)
			case <-time.After(10 * time.Millisecond):
			}
			if err := j.Write([]byte("fourth")); err != nil { // whatever the others wait for
				t.Fatal(err)
			}
			close(release)
			if err := errors.Join(<-first, <-second); err != nil {
				t.Fatal(err)
			}
			j.mu.Lock()
			if j.durable < 2 {
				t.Errorf("%d records are durable", j.durable)
			}
			j.mu.Unlock()
			abandon(j)
			if got := len(all(t, open(t, dir, fast()))); got < 3 {
				t.Errorf("%d records", got)
			}
		})
	}
}

// A segment is on disk, all of it, before the next one begins; if it can't be, nothing more is accepted.
func TestSegmentIsSyncedBeforeTheNext(t *testing.T) {
	for _, fails := range []bool{false, true} {
		dir, d := t.TempDir(), &disk{}
		o := fast()
		o.wrap, o.Lazy = d.wrap, -1
		j := open(t, dir, o)
		big := []byte(strings.Repeat("x", RecordMax))
		for range 31 {
			if err := j.Write(big); err != nil {
				t.Fatal(err)
			}
		}
		if j.durable != 0 {
			t.Fatalf("%d records are durable", j.durable)
		}
		before := d.syncs
		d.sync = func(f file) error {
			if fails {
				return syscall.EIO
			}
			return f.Sync()
		}
		err := j.Write(big)
		if fails {
			if !errors.Is(err, ErrBroken) || len(segmentFiles(t, dir)) != 1 {
				t.Errorf("%v, %d segments", err, len(segmentFiles(t, dir)))
			}
			continue
		}
		if err != nil || d.syncs-before != 2 || j.durable != 31 || len(segmentFiles(t, dir)) != 2 {
			t.Errorf("%v, %d fsyncs, %d records are durable", err, d.syncs-before, j.durable)
		}
		if err := j.Trim(31); err != nil || len(segmentFiles(t, dir)) != 1 {
			t.Errorf("%v, %d segments", err, len(segmentFiles(t, dir)))
		}
		if got := len(all(t, j)); got != 1 {
			t.Errorf("%d records", got)
		}
	}
}

// Several writes that waited for one fsync: a hole in any of them is a torn tail, until a record is behind them that says
// that they were on disk.
func TestHoleAmongUnsyncedWrites(t *testing.T) {
	for _, synced := range []bool{false, true} {
		dir := t.TempDir()
		o := fast()
		o.Lazy = -1
		j := open(t, dir, o)
		add(t, j, "one")
		end := j.size
		for _, r := range []string{"two", "three", "four"} {
			if err := j.Write([]byte(r)); err != nil {
				t.Fatal(err)
			}
		}
		if synced {
			if err := j.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := j.Write([]byte("five")); err != nil {
			t.Fatal(err)
		}
		spill(t, j.active)
		abandon(j)
		if err := os.Remove(filepath.Join(dir, ringName)); err != nil { // the machine died
			t.Fatal(err)
		}
		file := segmentFiles(t, dir)[0]
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		data[end+recordHead]++
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err = Open(dir, fast())
		if synced {
			if damage, ok := errors.AsType[*DamageError](err); !ok || damage.Offset != end {
				t.Errorf("got %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := all(t, j); !slices.Equal(got, []string{"one"}) {
			t.Errorf("%q", got)
		}
		_ = j.Close()
	}
}

// Callers of all kinds at once: each one's records are in its order, and what Append or Sync returned for is durable.
func TestWritersAndAppendersAtOnce(t *testing.T) {
	dir := t.TempDir()
	o := fast()
	o.SegmentBytes, o.Lazy = 8192, time.Millisecond
	j := open(t, dir, o)
	const callers, each = 16, 200
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				var err error
				r := fmt.Appendf(nil, "%d %d", c, i)
				if i%50 == 49 {
					err = j.Append(t.Context(), r)
				} else {
					err = j.Write(r)
				}
				if err == nil && i%50 == 25 {
					err = j.Sync(t.Context())
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	abandon(j)
	next := map[int]int{}
	for _, r := range all(t, open(t, dir, fast())) {
		var c, i int
		if _, err := fmt.Sscan(r, &c, &i); err != nil || next[c] != i {
			t.Fatalf("%q, want %d (%v)", r, next[c], err)
		}
		next[c]++
	}
	for c := range callers {
		if next[c] != each {
			t.Errorf("caller %d: %d records", c, next[c])
		}
	}
}

// What a record of a request costs, fsyncs and all: flat out, and at a rate, of which the pauses cost too ("nothing").
func BenchmarkWrite(b *testing.B) {
	for _, c := range []struct {
		name string
		rate int // a second; 0: as fast as it goes
		ring int
		idle bool
	}{
		{"flat out", 0, 0, false},
		{"flat out, no ring", 0, -1, false},
		{"10000 a second", 10_000, 0, false},
		{"10000 a second, no ring", 10_000, -1, false},
		{"10000 a second, nothing", 10_000, -1, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			record := []byte(strings.Repeat("r", 250))
			j := open(b, b.TempDir(), Options{ring: c.ring})
			b.ReportAllocs()
			start, before := time.Now(), used(b)
			for i := 0; b.Loop(); i++ {
				if c.rate != 0 && i%50 == 0 {
					time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(c.rate))))
				}
				if c.idle {
					continue
				}
				if err := j.Write(record); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(used(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// used is the processor time of this process.
func used(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
