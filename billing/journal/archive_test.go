package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// What Trim takes out is in the archive, and Scan finds all of it in order; Prune removes what is old.
func TestArchive(t *testing.T) {
	dir := t.TempDir()
	o := Options{Every: -1, SegmentBytes: 1, Archive: true}
	j := open(t, dir, o)
	for i := range 6 {
		add(t, j, fmt.Sprint(i))
	}
	scan := func() (records string, archived int) {
		err := Scan(dir, func(s Scanned) error {
			if records += string(s.Record); s.Archived {
				archived++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return records, archived
	}
	if err := j.Trim(3); err != nil {
		t.Fatal(err)
	}
	if records, archived := scan(); records != "012345" || archived != 3 {
		t.Errorf("scanned %s, %d of the archive", records, archived)
	}
	_ = j.Close()
	j = open(t, dir, o)
	if got := all(t, j); len(got) != 3 {
		t.Errorf("replayed %v", got)
	}
	archive := segmentFiles(t, archiveDir(dir))
	// A crash between the names: the segment is in both folders, or the next Trim finds it moved.
	data, err := os.ReadFile(archive[2])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, filepath.Base(archive[2])), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if records, archived := scan(); records != "012345" || archived != 2 {
		t.Errorf("scanned %s, %d of the archive", records, archived)
	}
	long := time.Now().Add(-time.Hour)
	for _, file := range archive[:2] {
		if err := os.Chtimes(file, long, long); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Prune(long); err != nil || len(segmentFiles(t, archiveDir(dir))) != 3 {
		t.Errorf("pruned too much: %v", err)
	}
	if err := j.Prune(long.Add(time.Minute)); err != nil || len(segmentFiles(t, archiveDir(dir))) != 1 {
		t.Errorf("pruned too little: %v", err)
	}
	if records, _ := scan(); records != "2345" {
		t.Errorf("scanned %s", records)
	}
	data[40] ^= 1
	if err := os.WriteFile(archive[2], data, 0o600); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(dir, filepath.Base(archive[2])))
	var damage *DamageError
	if err := Scan(dir, func(Scanned) error { return nil }); !errors.As(err, &damage) || !strings.Contains(damage.File, archiveName) {
		t.Errorf("a damaged archive: %v", err)
	}
}

// The records of one call lie side by side, in their order, and share one sync.
func TestAppendMany(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, fast())
	if err := j.Append(t.Context()); err != nil || j.Last() != 0 {
		t.Errorf("nothing: %v, %d records", err, j.Last())
	}
	var wg sync.WaitGroup
	for c := range 20 {
		wg.Go(func() {
			letter := []byte{byte('a' + c)}
			if err := j.Append(t.Context(), letter, letter, letter); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got := strings.Join(all(t, j), "")
	for c := range 20 {
		if letter := string(byte('a' + c)); !strings.Contains(got, strings.Repeat(letter, 3)) {
			t.Errorf("%s lacks three %s in a row", got, letter)
		}
	}
	for _, bad := range [][][]byte{{[]byte("x"), nil}, {[]byte("x"), make([]byte, RecordMax+1)}, slices.Repeat([][]byte{make([]byte, RecordMax)}, 17)} {
		if err := j.Append(t.Context(), bad...); !errors.Is(err, ErrSize) {
			t.Errorf("got %v", err)
		}
	}
	if len(all(t, j)) != 60 {
		t.Errorf("%d records", len(all(t, j)))
	}
}

// An archive that can't be written to is an error, and nothing leaves the journal; with a good one it goes on.
func TestArchiveFails(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{Every: -1, SegmentBytes: 1, Archive: true})
	add(t, j, "a", "b", "c")
	if err := os.WriteFile(archiveDir(dir), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := j.Trim(2); err == nil {
		t.Error("a file for a folder is no error")
	}
	if got := strings.Join(all(t, j), ""); got != "abc" || len(segmentFiles(t, dir)) != 3 {
		t.Errorf("left %s", got)
	}
	if err := os.Remove(archiveDir(dir)); err != nil {
		t.Fatal(err)
	}
	if err := j.Trim(2); err != nil || len(segmentFiles(t, dir)) != 1 || len(segmentFiles(t, archiveDir(dir))) != 2 {
		t.Errorf("trimmed: %v", err)
	}
}
