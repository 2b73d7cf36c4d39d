package billing

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"cocoon/billing/journal"
	"cocoon/billing/ledger"
)

// A disk that is full, under journal and ledger: holds are refused with the reason, and when there is room again all
// goes on by itself; what was accepted is in the ledger, and the rest costs nothing.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("desk", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("mounting a small file system: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	l, err := ledger.Open(t.Context(), "sqlite:"+filepath.Join(dir, "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	deposit(t, l, rich)
	d := desk(t, Config{Ledger: l, Dir: filepath.Join(dir, "journal"), Journal: journal.Options{SegmentBytes: 64 << 10}})
	stop := run(t, d)
	first := hold0(t, d)
	rest, err := os.Create(filepath.Join(dir, "rest"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(rest, io.LimitReader(zeros{}, 4<<20)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	_ = rest.Close()
	accepted := 0
	for tries := 0; ; tries++ {
		h := Hold{Request: testID(), Account: c0, Ceiling: 100, Note: make([]byte, NoteMax)}
		if err = d.Hold(t.Context(), h); err != nil {
			break
		}
		accepted++
		if tries > 1000 {
			t.Fatal("the disk does not get full")
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk: %v", err)
	}
	s := costOf(first)
	s.Line.User = "a name that does not fit into the room that is left on a page of the disk, however short it may be said"
	for err = nil; err == nil; err = d.Hold(t.Context(), Hold{Request: testID(), Account: c0, Ceiling: 1}) {
		accepted++ // the last bytes
	}
	accepted--
	if err := d.Settle(t.Context(), s); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk: %v", err)
	}
	if len(d.Recovered()) != 1 {
		t.Error("a hold whose settlement failed has no deadline")
	}
	if err := os.Remove(rest.Name()); err != nil {
		t.Fatal(err)
	}
	if err := d.Settle(t.Context(), s); err != nil {
		t.Errorf("with room again: %v", err)
	}
	for deadline := time.Now().Add(20 * time.Second); d.Stats().Unposted > 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	if s := d.Stats(); s.Open != accepted || s.Unposted != 0 {
		t.Errorf("%+v, %d holds were accepted", s, accepted)
	}
	report, err := Audit(t.Context(), l, AuditConfig{Dir: filepath.Join(dir, "journal")})
	if err != nil || !report.OK() || report.Settled != 1 || report.Open != accepted {
		t.Errorf("%+v, %v", report, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	readOnly(t, l, dir)
}

// readOnly sees what Open says of a disk that can't be written to.
func readOnly(t *testing.T, l *ledger.Ledger, dir string) {
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("desk", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Logf("mounting it read-only: %v", err)
		return
	}
	if _, err := Open(t.Context(), Config{Ledger: newFake(), Dir: filepath.Join(dir, "journal")}); !errors.Is(err, syscall.EROFS) {
		t.Errorf("a read-only disk: %v", err)
	}
}

func hold0(t *testing.T, d *Desk) ledger.ID {
	id := testID()
	if err := d.Hold(t.Context(), Hold{Request: id, Account: c0, Ceiling: 100}); err != nil {
		t.Fatal(err)
	}
	return id
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
