package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// A disk that gets full: what was accepted before gets on it all the same; what is not accepted is an error that ends when
// there is room again.
func TestDiskFull(t *testing.T) {
	for _, segment := range []int64{64 << 10, segmentMin} {
		dir := t.TempDir()
		if err := syscall.Mount("journal", dir, "tmpfs", 0, "size=4m"); err != nil {
			t.Skipf("mounting a small file system: %v", err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		o := lazy()
		o.SegmentBytes = segment
		j := open(t, filepath.Join(dir, "journal"), o)
		var want []string
		next := func() []byte { return fmt.Appendf(nil, "%d %s", len(want), strings.Repeat("x", 500)) }
		accept := func(r []byte) { want = append(want, string(r)) }
		for range 20 {
			r := next()
			write(t, j, string(r))
			accept(r)
		}
		fill(t, filepath.Join(dir, "rest"))
		if err := j.Sync(t.Context()); err != nil {
			t.Fatalf("what was accepted before: %v", err)
		}
		var err error
		for err == nil && len(want) < 10_000 {
			r := next()
			if err = j.Write(r); err == nil {
				accept(r)
			}
		}
		if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrBroken) {
			t.Fatalf("after %d records: %v", len(want), err)
		}
		if err := j.Append(t.Context(), make([]byte, 5000)); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Append: %v", err)
		}
		if err := j.Sync(t.Context()); err != nil {
			t.Errorf("what was accepted when it got full: %v", err)
		}
		if err := os.Remove(filepath.Join(dir, "rest")); err != nil {
			t.Fatal(err)
		}
		for range 500 {
			r := next()
			write(t, j, string(r))
			accept(r)
		}
		if inner := j.active.(*staged); segment == segmentMin && inner.given.Load() == inner.end.Load() {
			t.Error("with room again the ring is not used")
		}
		abandon(j)
		if got := all(t, open(t, filepath.Join(dir, "journal"), o)); !slices.Equal(got, want) {
			t.Errorf("%d records, want %d", len(got), len(want))
		}
	}
}

// fill takes what is left of a disk.
func fill(t *testing.T, path string) {
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := io.Copy(f, strings.NewReader(strings.Repeat("x", 8<<20))); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}
