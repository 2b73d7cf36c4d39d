package journal

import (
	"bytes"
	"context"
	"encoding/binary"
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

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("COCOON_JOURNAL_CHILD"); dir != "" {
		child(dir)
	}
	goleak.VerifyTestMain(m)
}

const segmentMin = 2 << 20 // 31 of the largest records

// fast has no pause between fsyncs.
func fast() Options { return Options{Every: -1, SegmentBytes: segmentMin} }

func open(t testing.TB, dir string, o Options) *Journal {
	t.Helper()
	j, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func add(t testing.TB, j *Journal, records ...string) {
	t.Helper()
	for _, r := range records {
		if err := j.Append(t.Context(), []byte(r)); err != nil {
			t.Fatalf("Append(%.20q): %v", r, err)
		}
	}
}

func all(t testing.TB, j *Journal) []string {
	t.Helper()
	var got []string
	want := uint64(0)
	err := j.Replay(func(seq uint64, r []byte) error {
		if want != 0 && seq != want {
			t.Errorf("record %d after %d", seq, want-1)
		}
		want = seq + 1
		got = append(got, string(r))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func segmentFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestAppendReopenReplay(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, fast())
	if j.Last() != 0 {
		t.Errorf("a new journal's last record is %d", j.Last())
	}
	add(t, j, "a", "b", strings.Repeat("c", RecordMax))
	for _, bad := range []int{0, RecordMax + 1} {
		if err := j.Append(t.Context(), make([]byte, bad)); !errors.Is(err, ErrSize) {
			t.Errorf("a record of %d bytes: %v", bad, err)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := j.Append(gone, []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is done: %v", err)
	}
	if _, err := Open(dir, fast()); !errors.Is(err, ErrLocked) {
		t.Errorf("a second Open: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(t.Context(), []byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("Append after Close: %v", err)
	}
	j = open(t, dir, fast())
	add(t, j, "d")
	if got := all(t, j); len(got) != 4 || got[0] != "a" || got[3] != "d" || j.Last() != 4 {
		t.Errorf("%d records, last %d", len(got), j.Last())
	}
	stop := errors.New("stop")
	if err := j.Replay(func(uint64, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("Replay hides its function's error: %v", err)
	}
}

func TestTrimKeepsWhatIsNeeded(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, fast())
	big := strings.Repeat("x", RecordMax)
	for range 100 { // 31 a segment
		add(t, j, big)
	}
	files := segmentFiles(t, dir)
	if len(files) != 4 {
		t.Fatalf("%d segments, want 4", len(files))
	}
	var sum int64
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		sum += info.Size()
	}
	if j.Size() != sum {
		t.Errorf("Size() = %d, the files have %d", j.Size(), sum)
	}
	second := j.segments[1].first
	for _, step := range []struct {
		seq  uint64
		want int
	}{{0, 4}, {second - 2, 4}, {second - 1, 3}, {^uint64(0), 1}} {
		if err := j.Trim(step.seq); err != nil {
			t.Fatal(err)
		}
		if got := len(segmentFiles(t, dir)); got != step.want {
			t.Errorf("after Trim(%d): %d segments, want %d", step.seq, got, step.want)
		}
	}
	_ = j.Close()
	j = open(t, dir, fast())
	if j.Last() != 100 {
		t.Errorf("the numbers start anew after a trim: last %d", j.Last())
	}
}

func TestTornTailIsCutAtEveryByte(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, fast())
	add(t, j, "first", "second")
	durable := j.Size()
	add(t, j, "the third one")
	file := segmentFiles(t, dir)[0]
	_ = j.Close()
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for cut := durable; cut <= int64(len(whole)); cut++ {
		for _, junk := range []string{"", string(make([]byte, 2*recordHead)), "junk"} {
			if err := os.WriteFile(file, append(bytes.Clone(whole[:cut]), junk...), 0o600); err != nil {
				t.Fatal(err)
			}
			j := open(t, dir, fast())
			want := []string{"first", "second"}
			if cut == int64(len(whole)) {
				want = append(want, "the third one")
			}
			if got := all(t, j); !slices.Equal(got, want) {
				t.Fatalf("cut at %d, then %q: %q", cut, junk, got)
			}
			add(t, j, "next")
			if got := all(t, j); !slices.Equal(got, append(want, "next")) {
				t.Fatalf("cut at %d, then %q, then Append: %q", cut, junk, got)
			}
			_ = j.Close()
		}
	}
}

// Every flipped bit is either an error that names the place, or costs nothing but the last batch.
func TestDamageIsNamed(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, fast())
	add(t, j, "one", "two", "three")
	file := segmentFiles(t, dir)[0]
	_ = j.Close()
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lastAt := len(whole) - recordHead - len("three")
	for at := range whole {
		bad := bytes.Clone(whole)
		bad[at] ^= 0x41
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := Open(dir, fast())
		var damage *DamageError
		switch {
		case at >= lastAt:
			if err != nil {
				t.Fatalf("byte %d of the last record: %v", at, err)
			}
			if got := all(t, j); !slices.Equal(got, []string{"one", "two"}) {
				t.Fatalf("byte %d: %q", at, got)
			}
			_ = j.Close()
		case errors.As(err, &damage):
			if damage.File != file || at >= headSize && (damage.Offset > int64(at) || int64(at)-damage.Offset > recordHead+3) {
				t.Errorf("byte %d: %v", at, err)
			}
		case at >= 8 && at < 12 && errors.Is(err, ErrNewer):
		default:
			t.Fatalf("byte %d: %v", at, err)
		}
	}
}

func TestDamageInAnOlderSegment(t *testing.T) {
	big := strings.Repeat("x", RecordMax)
	for name, harm := range map[string]func(t *testing.T, files []string){
		"a byte": func(t *testing.T, files []string) {
			data, err := os.ReadFile(files[0])
			if err != nil {
				t.Fatal(err)
			}
			data[len(data)-1]++
			if err := os.WriteFile(files[0], data, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"cut at a record": func(t *testing.T, files []string) {
			if err := os.Truncate(files[0], headSize+RecordMax+recordHead); err != nil {
				t.Fatal(err)
			}
		},
		"junk behind": func(t *testing.T, files []string) {
			f, err := os.OpenFile(files[0], os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			if _, err := f.WriteString("junk"); err != nil {
				t.Fatal(err)
			}
		},
		"missing": func(t *testing.T, files []string) {
			if err := os.Remove(files[1]); err != nil {
				t.Fatal(err)
			}
		},
		"another's name": func(t *testing.T, files []string) {
			name := strings.Repeat("0", nameDigits-2) + "33" + suffix
			if err := os.Rename(files[1], filepath.Join(filepath.Dir(files[1]), name)); err != nil {
				t.Fatal(err)
			}
		},
		"no name": func(t *testing.T, files []string) {
			if err := os.Rename(files[1], filepath.Join(filepath.Dir(files[1]), "x"+suffix)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j := open(t, dir, fast())
			for range 70 {
				add(t, j, big)
			}
			_ = j.Close()
			harm(t, segmentFiles(t, dir))
			j, err := Open(dir, fast())
			if err == nil {
				err = j.Replay(func(uint64, []byte) error { return nil })
				_ = j.Close()
			}
			var damage *DamageError
			if !errors.As(err, &damage) || !strings.Contains(err.Error(), dir) {
				t.Fatalf("got %v, want a DamageError with the file's name", err)
			}
			if err := Scan(dir, func(Scanned) error { return nil }); !errors.As(err, &damage) {
				t.Errorf("Scan: %v", err)
			}
		})
	}
}

func TestNewerFormatRefuses(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, fast())
	_ = j.Close()
	file := segmentFiles(t, dir)[0]
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint32(data[8:], version+1)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, fast()); !errors.Is(err, ErrNewer) {
		t.Fatalf("got %v, want ErrNewer", err)
	}
}

func TestConcurrentAppendKeepsEachCallersOrder(t *testing.T) {
	dir := t.TempDir()
	o := fast()
	o.SegmentBytes = 4096
	j := open(t, dir, o)
	const callers, each = 64, 100
	var wg, trims sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				add(t, j, fmt.Sprintf("%d %d", c, i))
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	trims.Go(func() {
		for ctx.Err() == nil {
			if err := j.Trim(min(j.Last(), callers*each/2)); err != nil || j.Size() < headSize {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	cancel()
	trims.Wait()
	next := map[int]int{}
	for _, r := range all(t, j) {
		var c, i int
		_, err := fmt.Sscan(r, &c, &i)
		if want, ok := next[c]; err != nil || ok && i != want {
			t.Fatalf("%q, want %d (%v)", r, want, err)
		}
		next[c] = i + 1
	}
	for c, n := range next { // those whose last records were not trimmed
		if n != each {
			t.Errorf("caller %d: %d records", c, n)
		}
	}
	if j.Last() != callers*each || len(next) == 0 {
		t.Errorf("last %d, %v", j.Last(), next)
	}
}

// A group waits for the pause and shares one fsync; a lone record after a quiet time doesn't wait.
func TestOneSyncForAllThatWait(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		disk := &disk{}
		j := open(t, dir, Options{wrap: disk.wrap})
		before := disk.syncs
		start := time.Now()
		add(t, j, "first")
		if time.Since(start) != 0 {
			t.Errorf("the first record waited %v", time.Since(start))
		}
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() { add(t, j, fmt.Sprint(i)) })
		}
		wg.Wait()
		if waited := time.Since(start); waited != DefaultEvery {
			t.Errorf("a group waited %v, want %v", waited, DefaultEvery)
		}
		if got := disk.syncs - before; got != 2 {
			t.Errorf("%d fsyncs, want 2", got)
		}
		_ = j.Close()
	})
}

// disk is a file system with faults.
type disk struct {
	mu    sync.Mutex
	syncs int
	delay time.Duration
	write func(f file, p []byte, off int64) (int, error) // instead of WriteAt
	cut   func(f file, size int64) error                 // instead of Truncate
	sync  func(f file) error                             // instead of Sync
}

func (d *disk) wrap(f file) file { return &faulty{f, d} }

type faulty struct {
	file
	d *disk
}

func (f *faulty) WriteAt(p []byte, off int64) (int, error) {
	if f.d.write != nil {
		return f.d.write(f.file, p, off)
	}
	return f.file.WriteAt(p, off)
}

func (f *faulty) Truncate(size int64) error {
	if f.d.cut != nil {
		return f.d.cut(f.file, size)
	}
	return f.file.Truncate(size)
}

func (f *faulty) Sync() error {
	f.d.mu.Lock()
	f.d.syncs++
	f.d.mu.Unlock()
	time.Sleep(f.d.delay)
	if f.d.sync != nil {
		return f.d.sync(f.file)
	}
	return f.file.Sync()
}

// ways are how a record gets onto the disk, with an error when it may not have.
func ways() map[string]func(j *Journal, record string) error {
	return map[string]func(j *Journal, record string) error{
		"Append": func(j *Journal, record string) error { return j.Append(context.Background(), []byte(record)) },
		"Write, Sync": func(j *Journal, record string) error {
			if err := j.Write([]byte(record)); err != nil {
				return err
			}
			return j.Sync(context.Background())
		},
	}
}

// Each fault of the write of one record: what its caller is told, whether the journal goes on, and what is there after.
func TestFaultTable(t *testing.T) {
	for _, c := range []struct {
		name   string
		fault  func(d *disk)
		want   error
		broken bool
		after  []string // after a reopen, before anything new
	}{
		{"write fails", func(d *disk) {
			d.write = func(file, []byte, int64) (int, error) { return 0, syscall.EROFS }
		}, syscall.EROFS, false, []string{"a"}},
		{"write is torn, disk full", func(d *disk) {
			d.write = func(f file, p []byte, off int64) (int, error) {
				n, _ := f.WriteAt(p[:len(p)/2], off)
				return n, syscall.ENOSPC
			}
		}, syscall.ENOSPC, false, []string{"a"}},
		{"write is torn and can't be undone", func(d *disk) {
			d.write = func(f file, p []byte, off int64) (int, error) {
				n, _ := f.WriteAt(p[:len(p)/2], off)
				return n, syscall.ENOSPC
			}
			d.cut = func(file, int64) error { return syscall.EIO }
		}, syscall.ENOSPC, false, []string{"a"}},
		{"write fails but persisted", func(d *disk) {
			d.write = func(f file, p []byte, off int64) (int, error) {
				n, _ := f.WriteAt(p, off)
				_ = f.(*staged).flush()
				return n, syscall.EIO
			}
			d.cut = func(file, int64) error { return syscall.EIO }
		}, syscall.EIO, false, []string{"a", "b"}},
		{"fsync fails", func(d *disk) {
			d.sync = func(f file) error {
				_ = f.Truncate(int64(headSize + recordHead + 1)) // what the disk never got
				return syscall.EIO
			}
		}, syscall.EIO, true, []string{"a"}},
		{"fsync fails but persisted", func(d *disk) {
			d.sync = func(f file) error { _ = f.Sync(); return syscall.EIO }
		}, syscall.EIO, true, []string{"a", "b"}},
	} {
		for way, write := range ways() {
			for i := range 4 {
				reopen, ring := i&1 != 0, -(i >> 1)
				t.Run(fmt.Sprintf("%s/%s/%v/%v", c.name, way, reopen, ring), func(t *testing.T) {
					dir, d := t.TempDir(), &disk{}
					o := fast()
					o.wrap, o.ring = d.wrap, ring
					j := open(t, dir, o)
					add(t, j, "a")
					c.fault(d)
					err := write(j, "b")
					if !errors.Is(err, c.want) || errors.Is(err, ErrBroken) != c.broken {
						t.Fatalf("%v", err)
					}
					if c.broken {
						err := write(j, "c")
						if d.sync = nil; !errors.Is(err, ErrBroken) || j.Broken() == nil || j.Sync(t.Context()) == nil {
							t.Fatalf("after a failed fsync: %v", err)
						}
					}
					want := c.after
					if !reopen && !c.broken { // the disk is well again: what failed must not come back
						err := write(j, "still ill")
						if err == nil {
							t.Fatal("no error while the disk is ill")
						}
						d.write, d.cut = nil, nil
						add(t, j, "c")
						want = []string{"a", "c"}
					}
					_ = j.Close()
					if got := all(t, open(t, dir, fast())); !slices.Equal(got, want) {
						t.Errorf("reopened at once %v: %q, want %q", reopen, got, want)
					}
				})
			}
		}
	}
}

// What a failed write left is cut before anything is written in its place, or nothing is written.
func TestFailedWriteIsUndoneFirst(t *testing.T) {
	dir, d := t.TempDir(), &disk{}
	o := fast()
	o.wrap = d.wrap
	j := open(t, dir, o)
	add(t, j, "a")
	d.write = func(f file, p []byte, off int64) (int, error) {
		n, _ := f.WriteAt(p, off)
		return n, syscall.EIO
	}
	d.cut = func(file, int64) error { return syscall.EROFS }
	if err := j.Append(t.Context(), []byte("failed")); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	d.write = nil
	if err := j.Append(t.Context(), []byte("b")); !errors.Is(err, syscall.EROFS) {
		t.Fatalf("written over a failed write: %v", err)
	}
	d.cut = nil
	add(t, j, "b")
	if info, err := os.Stat(segmentFiles(t, dir)[0]); err != nil || info.Size() != j.Size() {
		t.Errorf("%v, %v, want %d bytes", info.Size(), err, j.Size())
	}
}

// A segment that can't be started leaves the one before it, and all that was acknowledged.
func TestFaultWhenASegmentStarts(t *testing.T) {
	dir, d := t.TempDir(), &disk{}
	o := fast()
	o.wrap = d.wrap
	j := open(t, dir, o)
	big := strings.Repeat("x", RecordMax)
	for range 31 {
		add(t, j, big)
	}
	d.write = func(file, []byte, int64) (int, error) { return 0, syscall.ENOSPC }
	if err := j.Append(t.Context(), []byte(big)); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrBroken) {
		t.Fatalf("got %v", err)
	}
	d.write = nil
	add(t, j, big)
	if got := len(all(t, j)); got != 32 || len(segmentFiles(t, dir)) != 2 {
		t.Errorf("%d records in %d segments", got, len(segmentFiles(t, dir)))
	}
	for range 30 {
		add(t, j, big)
	}
	d.sync = func(file) error { return syscall.EIO }
	if err := j.Append(t.Context(), []byte(big)); !errors.Is(err, ErrBroken) {
		t.Fatalf("got %v", err)
	}
	_ = j.Close()
	if got := len(all(t, open(t, dir, fast()))); got != 62 {
		t.Errorf("%d records, want 62", got)
	}
}

// numbered gives records as they lie in a segment, from a number on; what is up to durable was on disk before.
func numbered(s segment, seq, durable uint64, records ...string) (b []byte) {
	for i, r := range records {
		n := seq + uint64(i)
		b = appendRecord(b, s.seed(), n, uint32(n-durable-1), []byte(r))
	}
	return b
}

// A batch whose pages reached the disk out of order is torn; one with a later batch behind it is damaged.
func TestHoleInTheLastBatch(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, fast())
	add(t, j, "one")
	s := j.segments[0]
	_ = j.Close()
	file := segmentFiles(t, dir)[0]
	base, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	group := numbered(s, 2, 1, "two", "three")
	group[recordHead]++ // in "two"
	later := numbered(s, 4, 3, "four")
	if err := os.WriteFile(file, slices.Concat(base, group), 0o600); err != nil {
		t.Fatal(err)
	}
	j = open(t, dir, fast())
	if got := all(t, j); !slices.Equal(got, []string{"one"}) {
		t.Errorf("%q", got)
	}
	_ = j.Close()
	if err := os.WriteFile(file, slices.Concat(base, group, later), 0o600); err != nil {
		t.Fatal(err)
	}
	var damage *DamageError
	if _, err := Open(dir, fast()); !errors.As(err, &damage) || damage.Offset != int64(len(base)) {
		t.Errorf("got %v", err)
	}
}

// Whatever the bytes of the last segment are: no panic, and what opens can be used.
func FuzzOpen(f *testing.F) {
	s := segment{first: 1}
	good := numbered(s, 1, 0, "two", "three")
	f.Add(slices.Concat(s.head(), good))
	f.Add(slices.Concat(s.head(), good[:30]))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir, err := os.MkdirTemp(ram(), "journal")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		if err := os.WriteFile(s.path(dir), data, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := Open(dir, fast())
		if err != nil {
			return
		}
		before := all(t, j)
		add(t, j, "new")
		_ = j.Close()
		if got := all(t, open(t, dir, fast())); !slices.Equal(got, append(before, "new")) {
			t.Errorf("%q, want %q and one more", got, before)
		}
	})
}

// ram is a folder of the system's memory if there is one: for tests that need no real disk.
func ram() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}

// Against a list: appends, writes, reopens, crashes of process and machine that tear, trims.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(ram(), "journal")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		var model []string
		first := 0      // of the model that must be there
		quick := fast() // without fsync: only the order of bytes counts here
		quick.SegmentBytes = int64(rapid.SampledFrom([]int{1, 3000, segmentMin}).Draw(t, "segment"))
		quick.Lazy = -1
		quick.wrap = (&disk{sync: func(f file) error { spill(t, f); return nil }}).wrap
		quick.ring = rapid.SampledFrom([]int{-1, 100, 5000}).Draw(t, "ring")
		j, err := Open(dir, quick)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = j.Close() }()
		reopen := func(t *rapid.T) {
			if j, err = Open(dir, quick); err != nil {
				t.Fatal(err)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				times := rapid.SampledFrom([]int{1, 2000}).Draw(t, "times")
				r := strings.Repeat(rapid.StringN(1, 8, 32).Draw(t, "record"), times)
				if err := j.Append(context.Background(), []byte(r)); err != nil {
					t.Fatal(err)
				}
				model = append(model, r)
			},
			"write": func(t *rapid.T) {
				var records [][]byte
				for range rapid.IntRange(1, 3).Draw(t, "records") {
					times := rapid.SampledFrom([]int{1, 2000}).Draw(t, "times")
					r := strings.Repeat(rapid.StringN(1, 8, 32).Draw(t, "record"), times)
					records = append(records, []byte(r))
					model = append(model, r)
				}
				if err := j.Write(records...); err != nil {
					t.Fatal(err)
				}
			},
			"sync": func(t *rapid.T) {
				if err := j.Sync(context.Background()); err != nil || j.durable != j.next-1 {
					t.Fatal(err)
				}
			},
			"reopen": func(t *rapid.T) { _ = j.Close(); reopen(t) },
			"kill":   func(t *rapid.T) { abandon(j); reopen(t) },
			"power cut": func(t *rapid.T) {
				left, more := powerCut(t, j, model)
				reopen(t)
				if got := int(j.Last()); got < left || got > len(model) || got != left && !more {
					t.Fatalf("%d records are left, want %d", got, left)
				}
				model = model[:j.Last()]
			},
			"torn": func(t *rapid.T) {
				s := j.segments[len(j.segments)-1]
				_ = j.Close()
				r := numbered(s, uint64(len(model)+1), uint64(len(model)), "never acknowledged")
				f, err := os.OpenFile(s.path(dir), os.O_APPEND|os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = f.Write(r[:rapid.IntRange(0, len(r)-1).Draw(t, "bytes")])
				_ = f.Close()
				reopen(t)
			},
			"trim": func(t *rapid.T) {
				seq := rapid.IntRange(0, len(model)).Draw(t, "seq")
				if err := j.Trim(uint64(seq)); err != nil {
					t.Fatal(err)
				}
				first = max(first, seq)
			},
			"": func(t *rapid.T) {
				seen := 0
				err := j.Replay(func(seq uint64, r []byte) error {
					if seen == 0 && seq > uint64(first)+1 {
						t.Fatalf("record %d is gone, trimmed were %d", first+1, first)
					}
					if seen++; string(r) != model[seq-1] {
						t.Fatalf("record %d is %q, want %q", seq, r, model[seq-1])
					}
					return nil
				})
				if err != nil || j.Last() != uint64(len(model)) {
					t.Fatalf("last %d, want %d: %v", j.Last(), len(model), err)
				}
			},
		})
	})
}

func BenchmarkAppend(b *testing.B) {
	record := bytes.Repeat([]byte("r"), 120)
	b.Run("one", func(b *testing.B) {
		j := open(b, b.TempDir(), Options{})
		b.ReportAllocs()
		for b.Loop() {
			add(b, j, string(record))
		}
	})
	b.Run("many", func(b *testing.B) {
		j := open(b, b.TempDir(), Options{})
		b.ReportAllocs()
		b.SetParallelism(1024)
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				if err := j.Append(context.Background(), record); err != nil {
					b.Error(err)
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	})
}
