package e2e_test

import (
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"cocoon/internal/nanoton"
)

// diskSize is the room that the gateway of TestDiskFull has.
const diskSize = "size=16m"

// TestDiskFull lets a gateway's disk run full under load, and then makes room. What can't be booked is not served, with a
// clear error; afterwards it serves again by itself, and nothing is lost.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "", "auto", quietMax, testMoney)
	data := filepath.Join(filepath.Dir(g.config), "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", data, "tmpfs", 0, diskSize+",mode=0700"); err != nil {
		t.Skipf("a small disk can't be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(data, syscall.MNT_DETACH) })
	g.restart(t)
	g.key = g.newKey(t)
	g.startWorkerWith(t, "one", startEcho(t, "m"), outcomePrice)
	g.serves(t, startMax, "m")
	before := g.books(t)
	if r := g.ask(t, prompt("m", "hi")); r.status != http.StatusOK {
		t.Fatalf("before: status %d", r.status)
	}
	filler := filepath.Join(data, "filler")
	fill(t, filler)
	served, refused := 1, 0
	eventually(t, askMax, "requests are refused", func() bool {
		r, err := g.chat(t.Context(), prompt("m", "hi"))
		switch {
		case err != nil:
			return !g.running()
		case r.status == http.StatusOK:
			served++
		case r.status >= 500 && r.fault != nil:
			refused++
		default:
			t.Errorf("on a full disk: status %d, %+v", r.status, r.fault)
		}
		return refused > 20
	})
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if !g.running() { // a supervisor would
		g.restart(t)
	}
	eventually(t, askMax, "requests are served again", func() bool {
		r, err := g.chat(t.Context(), prompt("m", "hi"))
		if err == nil && r.status == http.StatusOK {
			served++
			return true
		}
		return false
	})
	g.settled(t)
	now, each := g.books(t), cost(3, 0, 2)
	if spent := before.customer - now.customer; spent != each.customer*nanoton.Amount(served) {
		t.Errorf("%d requests were served, the customer paid %v, want %d nanoTON each", served, spent, int64(each.customer))
	}
	g.audits(t)
}

// fill takes all the room that is left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 1; size /= 16 {
		for {
			if _, err := f.Write(make([]byte, size)); err != nil {
				break
			}
		}
	}
}
