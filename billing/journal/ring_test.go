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
)

// lazy never syncs by itself.
func lazy() Options {
	o := fast()
	o.Lazy = -1
	return o
}

func write(t testing.TB, j *Journal, records ...string) {
	t.Helper()
	for _, r := range records {
		if err := j.Write([]byte(r)); err != nil {
			t.Fatalf("Write(%.20q): %v", r, err)
		}
	}
}

// What is written is in the ring alone, and there after the process died, also when it went around the ring. Close leaves no
// ring.
func TestRingOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, lazy())
	write(t, j, "a", "b")
	if info, err := os.Stat(segmentFiles(t, dir)[0]); err != nil || info.Size() != headSize {
		t.Fatalf("%d bytes are in the segment, %v", info.Size(), err)
	}
	want := []string{"a", "b"}
	for range 3 {
		for i := range 1000 {
			r := fmt.Sprint(i, strings.Repeat("x", i))
			write(t, j, r)
			want = append(want, r)
		}
		if got := all(t, j); !slices.Equal(got, want) {
			t.Fatalf("replayed %d records, want %d", len(got), len(want))
		}
		abandon(j)
		j = open(t, dir, lazy())
		if got := all(t, j); !slices.Equal(got, want) {
			t.Fatalf("%d records, want %d", len(got), len(want))
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, ringName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a ring after Close: %v", err)
	}
	if got := all(t, open(t, dir, lazy())); !slices.Equal(got, want) {
		t.Errorf("%d records, want %d", len(got), len(want))
	}
}

// Whatever the ring's size is: nothing in it is overwritten before the system has it.
func TestRingIsFullToTheByte(t *testing.T) {
	for size := recordHead + 1; size < 6*recordHead; size++ {
		dir, err := os.MkdirTemp(ram(), "journal")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		o := lazy()
		o.ring = size
		j := open(t, dir, o)
		var want []string
		for i := range 30 {
			want = append(want, fmt.Sprint(i, strings.Repeat("x", i%7)))
			write(t, j, want[i])
		}
		abandon(j)
		if got := all(t, open(t, dir, o)); !slices.Equal(got, want) {
			t.Errorf("a ring of %d bytes: %q", size, got)
		}
	}
}

// A process that dies while it gives the ring to the system leaves a part in the segment, and all of it in the ring.
func TestKilledWhileTheRingIsGiven(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, lazy())
	add(t, j, "durable")
	from := j.size
	write(t, j, "one", "two", "three")
	spill(t, j.active)
	abandon(j)
	file, ringFile := segmentFiles(t, dir)[0], filepath.Join(dir, ringName)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	recent, err := os.ReadFile(ringFile)
	if err != nil {
		t.Fatal(err)
	}
	for cut := from; cut <= int64(len(whole)); cut++ {
		if err := errors.Join(os.WriteFile(file, whole[:cut], 0o600), os.WriteFile(ringFile, recent, 0o600)); err != nil {
			t.Fatal(err)
		}
		n := 0
		if err := Scan(dir, func(Scanned) error { n++; return nil }); err != nil || n != 4 {
			t.Fatalf("cut at %d: scanned %d, %v", cut, n, err)
		}
		j := open(t, dir, lazy())
		if got := all(t, j); !slices.Equal(got, []string{"durable", "one", "two", "three"}) {
			t.Fatalf("cut at %d: %q", cut, got)
		}
		_ = j.Close()
	}
}

// A process that dies in the middle of a record, or a disk that has only a part of the ring: what is good up to there counts,
// and what lay behind it never comes back.
func TestRingIsTorn(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, lazy())
	add(t, j, "durable")
	write(t, j, "one")
	at := j.size
	write(t, j, "two", "three")
	abandon(j)
	ringFile := filepath.Join(dir, ringName)
	recent, err := os.ReadFile(ringFile)
	if err != nil {
		t.Fatal(err)
	}
	recent[at+recordHead]++
	if err := os.WriteFile(ringFile, recent, 0o600); err != nil {
		t.Fatal(err)
	}
	j = open(t, dir, lazy())
	if got := all(t, j); !slices.Equal(got, []string{"durable", "one"}) {
		t.Fatalf("%q", got)
	}
	write(t, j, "TWO") // ends where "three" began
	abandon(j)
	if got := all(t, open(t, dir, lazy())); !slices.Equal(got, []string{"durable", "one", "TWO"}) {
		t.Errorf("%q", got)
	}
}

// What an fsync was for is damaged if it is damaged: the ring's copy doesn't hide it.
func TestRingHidesNoDamage(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, lazy())
	add(t, j, "one", "two", "three")
	abandon(j)
	file := segmentFiles(t, dir)[0]
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[headSize+recordHead]++
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	damage := &DamageError{}
	if _, err := Open(dir, lazy()); !errors.As(err, &damage) || damage.Offset != headSize {
		t.Errorf("Open: %v", err)
	}
	if err := Scan(dir, func(Scanned) error { return nil }); !errors.As(err, &damage) || damage.Offset != headSize {
		t.Errorf("Scan: %v", err)
	}
}

// A ring whose pages the system can't give is a signal to the process. It is an error, and only if records were in it.
func TestRingIsCut(t *testing.T) {
	for name, c := range map[string]struct {
		waits bool // a record is in the ring alone
		do    func(t *testing.T, j *Journal) error
		want  error
		after []string
	}{
		"nothing waits, Write":  {false, func(_ *testing.T, j *Journal) error { return j.Write([]byte("b")) }, nil, []string{"a", "b"}},
		"nothing waits, Append": {false, func(t *testing.T, j *Journal) error { return j.Append(t.Context(), []byte("b")) }, nil, []string{"a", "b"}},
		"a record waits, Write": {true, func(_ *testing.T, j *Journal) error { return j.Write([]byte("b")) }, ErrBroken, []string{"a"}},
		"a record waits, Sync":  {true, func(t *testing.T, j *Journal) error { return j.Sync(t.Context()) }, ErrBroken, []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j := open(t, dir, lazy())
			add(t, j, "a")
			if c.waits {
				write(t, j, "waits")
			}
			if err := os.Truncate(filepath.Join(dir, ringName), 0); err != nil {
				t.Fatal(err)
			}
			if err := c.do(t, j); !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if c.want == nil {
				write(t, j, "c") // without the ring
				c.after = append(c.after, "c")
			} else if err := j.Write([]byte("c")); !errors.Is(err, ErrBroken) || !errors.Is(j.Broken(), ErrBroken) {
				t.Errorf("after it: %v", err)
			}
			abandon(j)
			if got := all(t, open(t, dir, lazy())); !slices.Equal(got, c.after) {
				t.Errorf("%q, want %q", got, c.after)
			}
		})
	}
}

// Replay, and Scan beside the process, see at least what was written before they began, in order, however fast the ring turns
// and segments end meanwhile.
func TestReadersBesideAWriter(t *testing.T) {
	for _, ring := range []int{0, 20_000, -1} {
		dir := t.TempDir()
		o := fast()
		o.SegmentBytes, o.ring, o.Archive = 900<<10, ring, true
		j := open(t, dir, o)
		burst := func() { // a few turns of the ring
			for i := range 1000 {
				err := j.Write([]byte(strings.Repeat("r", 1+i*37%1500)))
				if i%400 == 399 {
					err = errors.Join(err, j.Sync(t.Context()))
				}
				if err != nil {
					t.Error(err)
				}
			}
		}
		for i := range readings {
			var writer sync.WaitGroup
			writer.Go(burst)
			before, last := j.Last(), uint64(0)
			see := func(seq uint64) error {
				if last != 0 && seq != last+1 {
					t.Errorf("record %d after %d", seq, last)
				}
				last = seq
				return nil
			}
			err := Scan(dir, func(s Scanned) error { return see(s.Seq) })
			if err != nil || last < before {
				t.Errorf("Scan: %v, up to %d, %d were written", err, last, before)
			}
			before, last = j.Last(), 0
			err = j.Replay(func(seq uint64, _ []byte) error { return see(seq) })
			if err != nil || last < before {
				t.Errorf("Replay: %v, up to %d, %d were written", err, last, before)
			}
			writer.Wait()
			if i%3 == 2 {
				if err := errors.Join(j.Trim(j.Last()), os.RemoveAll(archiveDir(dir))); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// Room on the disk is taken ahead, and given back when a segment ends and at Close; the file is as long as what is in it.
func TestRoomIsGivenBack(t *testing.T) {
	dir := t.TempDir()
	o := lazy()
	o.SegmentBytes = 128 << 10
	j := open(t, dir, o)
	blocks := func(file string) int64 {
		var s syscall.Stat_t
		if err := syscall.Stat(file, &s); err != nil {
			t.Fatal(err)
		}
		return s.Blocks * 512
	}
	write(t, j, "a")
	if got := blocks(segmentFiles(t, dir)[0]); got < o.SegmentBytes {
		t.Skipf("no room ahead here: %d bytes", got)
	}
	for range 3 {
		write(t, j, strings.Repeat("x", 50<<10))
	}
	files := segmentFiles(t, dir)
	if err := j.Close(); err != nil || len(files) != 2 {
		t.Fatal(len(files), err)
	}
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || blocks(file) > info.Size()+16<<10 {
			t.Errorf("%s: %d bytes take %d, %v", file, info.Size(), blocks(file), err)
		}
	}
}

// Whatever the bytes of the ring are: no panic, what the segment has is there, and what opens can be used.
func FuzzRing(f *testing.F) {
	s := segment{first: 1}
	base := slices.Concat(s.head(), numbered(s, 1, 0, "one"))
	f.Add(slices.Concat(base, numbered(s, 2, 1, "two", "three")), uint16(len(base)))
	f.Add(numbered(s, 2, 1, "two"), uint16(headSize))
	f.Add([]byte{1}, uint16(len(base)))
	f.Fuzz(func(t *testing.T, recent []byte, size uint16) {
		dir, err := os.MkdirTemp(ram(), "journal")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		content := base[:max(headSize, min(int(size), len(base)))]
		err = errors.Join(os.WriteFile(s.path(dir), content, 0o600), os.WriteFile(filepath.Join(dir, ringName), recent, 0o600))
		if err != nil {
			t.Fatal(err)
		}
		j := open(t, dir, lazy())
		before := all(t, j)
		if len(content) == len(base) && (len(before) == 0 || before[0] != "one") {
			t.Fatalf("%q", before)
		}
		write(t, j, "new")
		_ = j.Close()
		if got := all(t, open(t, dir, lazy())); !slices.Equal(got, append(before, "new")) {
			t.Errorf("%q, want %q and one more", got, before)
		}
	})
}
