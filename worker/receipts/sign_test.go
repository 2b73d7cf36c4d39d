package receipts

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cocoon/internal/receipt"
	"cocoon/internal/recordfile"
)

// slow is a disk whose syncs wait for the test, and are counted.
type slow struct {
	*os.File
	syncs *atomic.Int64
	gate  chan struct{} // closed: nobody waits
}

func (d slow) Sync() error {
	<-d.gate
	d.syncs.Add(1)
	return d.File.Sync()
}

// Who comes while the disk is busy shares one signature and one sync with all others who do.
func TestSignTogether(t *testing.T) {
	var syncs atomic.Int64
	gate := make(chan struct{}, 1)
	gate <- struct{}{} // of the file's making
	s := open(t, Config{Dir: t.TempDir(), Wrap: func(f *os.File) recordfile.Disk { return slow{f, &syncs, gate} }})
	syncs.Store(0)
	const n = 40
	var got [n]*receipt.Signed
	var wg sync.WaitGroup
	sign := func(i int) {
		wg.Go(func() {
			var err error
			if got[i], err = s.Sign(signed(t, i+1, 0, receipt.Final).Receipt, key()); err != nil {
				t.Error(err)
			}
		})
	}
	waiting := func() int { // those of the next group
		s.joining.Lock()
		defer s.joining.Unlock()
		if s.next == nil {
			return 0
		}
		return len(s.next.orders)
	}
	sign(0)
	busy := func() bool {
		free := s.signing.TryLock()
		if free {
			s.signing.Unlock()
		}
		return !free
	}
	for !busy() || waiting() > 0 { // until the first one is being written
		runtime.Gosched()
	}
	for i := 1; i < n; i++ {
		sign(i)
	}
	for waiting() < n-1 {
		runtime.Gosched()
	}
	close(gate)
	wg.Wait()
	if syncs.Load() != 2 {
		t.Errorf("%d syncs, want 2", syncs.Load())
	}
	end := func(r *receipt.Signed) string { return string(r.Wire()[len(r.Wire())-90:]) }
	for i, r := range got {
		if err := r.Verify(key().Public().(ed25519.PublicKey)); err != nil {
			t.Error(err)
		}
		if bytes.Contains(r.Wire(), []byte("\nbatch ")) != (i > 0) || (end(r) == end(got[1])) != (i > 0) {
			t.Errorf("receipt %d:\n%s", i, r.Wire())
		}
	}
	if names := list(t, s); len(names) != n {
		t.Errorf("%q", names)
	}
}

// serve has the store serve receipts as one group, and gives each one's answer.
func serve(s *Store, keys []ed25519.PrivateKey, receipts ...*receipt.Signed) []*order {
	g := &group{done: make(chan struct{})}
	for i, r := range receipts {
		g.orders = append(g.orders, &order{receipt: r.Receipt, key: keys[i%len(keys)]})
	}
	s.serve(g)
	<-g.done
	return g.orders
}

// In a group each gets an answer of its own.
func TestGroup(t *testing.T) {
	c := Config{Dir: t.TempDir()}
	s := open(t, c)
	add(t, s, signed(t, 1, 5, receipt.Interim), signed(t, 2, 0, receipt.Final))
	answers := serve(s, []ed25519.PrivateKey{key()},
		signed(t, 1, 4, receipt.Interim), // late
		signed(t, 1, 6, receipt.Final),
		signed(t, 1, 7, receipt.Final), // after the final one of this very group
		signed(t, 2, 0, receipt.Final), // there already
		signed(t, 3, 0, receipt.Interim),
		signed(t, 3, 1, receipt.Interim), // replaces the one before
		signed(t, 4, 0, receipt.Final),
		signed(t, 4, 0, receipt.Final), // twice in the group
	)
	for i, late := range []bool{true, false, true, false, false, false, false, false} {
		o := answers[i]
		if errors.Is(o.err, ErrLate) != late || !late && o.err != nil {
			t.Errorf("%d: %v", i, o.err)
		}
		if !late && (o.signed.ID() != o.receipt.ID() || o.signed.Verify(key().Public().(ed25519.PublicKey)) != nil) {
			t.Errorf("%d: another receipt", i)
		}
	}
	want := []string{"2/0", "1/6", "3/1", "4/0"}
	for range 2 {
		if got := list(t, s); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		_ = s.Close()
		s = open(t, c)
	}
	if answers := serve(s, []ed25519.PrivateKey{key()}, signed(t, 2, 0, receipt.Final)); answers[0].err != nil {
		t.Errorf("nothing to write: %v", answers[0].err)
	}
}

// A worker that changes its keys signs each receipt with its own.
func TestGroupKeys(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	keys := []ed25519.PrivateKey{key(), ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))}
	var all []*receipt.Signed
	for n := range 7 {
		all = append(all, signed(t, n, 0, receipt.Final))
	}
	for i, o := range serve(s, keys, all...) {
		if o.err != nil || o.signed.Verify(keys[i%2].Public().(ed25519.PublicKey)) != nil || o.signed.ID() != all[i].ID() {
			t.Errorf("%d: %v", i, o.err)
		}
	}
	if got := s.Stats(); got.Receipts != 7 {
		t.Errorf("%+v", got)
	}
}

// A receipt that is not fit is nobody else's trouble.
func TestSignRefused(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	bad := signed(t, 1, 0, receipt.Final).Receipt
	bad.Cost++
	if r, err := s.Sign(bad, key()); err == nil || r != nil {
		t.Errorf("%v, %v", r, err)
	}
	bad = signed(t, 1, 0, receipt.Final).Receipt
	bad.Model = "a b"
	if r, err := s.Sign(bad, key()); !errors.Is(err, receipt.ErrForm) || r != nil {
		t.Errorf("%v, %v", r, err)
	}
}

// If the disk fails, all of the group hear it, and all of it can be signed again.
func TestGroupFails(t *testing.T) {
	f := new(faults)
	s := open(t, Config{Dir: t.TempDir(), Wrap: func(file *os.File) recordfile.Disk { return faultDisk{file, f} }})
	all := []*receipt.Signed{signed(t, 1, 0, receipt.Final), signed(t, 2, 0, receipt.Interim), signed(t, 3, 0, receipt.Final)}
	for left := 1; left <= 2; left++ { // the write, the sync
		f.left = left
		for i, o := range serve(s, []ed25519.PrivateKey{key()}, all...) {
			if !errors.Is(o.err, errFault) {
				t.Errorf("%d: %v", i, o.err)
			}
		}
		if got := list(t, s); len(got) != 0 {
			t.Errorf("%q", got)
		}
		f.mend()
	}
	for i, o := range serve(s, []ed25519.PrivateKey{key()}, all...) {
		if o.err != nil {
			t.Errorf("%d, again: %v", i, o.err)
		}
	}
	if got := list(t, s); !slices.Equal(got, []string{"1/0", "2/0", "3/0"}) {
		t.Errorf("%q", got)
	}
}

// A group fits into the room that there is: what one takes is not given to another.
func TestGroupFull(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir(), Max: MinMax})
	n := 0
	for ; keep(s, signed(t, n, 0, receipt.Interim)) == nil; n++ {
	}
	var all []*receipt.Signed
	for i := range 2 * n {
		kind := receipt.Final
		if i%4 == 3 {
			kind = receipt.Interim
		}
		all = append(all, signed(t, 1000+i, 0, kind))
	}
	all = append(all, signed(t, n-1, 1, receipt.Final)) // in place of one, which is not given to others
	kept := 0
	for i, o := range serve(s, []ed25519.PrivateKey{key()}, all...) {
		switch {
		case o.err == nil && o.receipt.Kind == receipt.Final:
			kept++
		case !errors.Is(o.err, ErrFull):
			t.Errorf("%d: %v", i, o.err)
		}
	}
	got := s.Stats()
	if got.Finals != kept || got.Live > MinMax || got.Live < MinMax-1500 || kept < n/2 {
		t.Errorf("%d kept, %+v", kept, got)
	}
	last := func(s string) bool { return s == fmt.Sprintf("%x/0", n-1) || s == fmt.Sprintf("%x/1", n-1) }
	if names := list(t, s); !slices.Contains(names, "3e8/0") || !slices.ContainsFunc(names, last) || len(names) != got.Receipts {
		t.Errorf("%q", names)
	}
}

// A group has its bound.
func TestGroupMax(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	var groups []*group
	for range 2*receipt.BatchMax + 1 {
		if g, first := s.join(new(order)); first {
			groups = append(groups, g)
		}
	}
	if len(groups) != 3 || len(groups[0].orders) != receipt.BatchMax || len(groups[2].orders) != 1 {
		t.Errorf("%d groups", len(groups))
	}
	s.next = nil
}

// cpu is what the process has used, user and system.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkSign(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			var syncs, n atomic.Int64
			gate := make(chan struct{})
			close(gate)
			s := open(b, Config{Dir: b.TempDir(), Wrap: func(f *os.File) recordfile.Disk { return slow{f, &syncs, gate} }})
			r := signed(b, 1, 0, receipt.Final).Receipt
			key := key()
			b.SetParallelism(writers)
			b.ReportAllocs()
			before := cpu()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					r := r
					r.Request = fmt.Sprintf("req_%032x", n.Add(1))
					if _, err := s.Sign(r, key); err != nil {
						b.Error(err)
					}
				}
			})
			after := cpu()
			b.ReportMetric(float64((after-before).Nanoseconds())/float64(n.Load()), "cpu-ns/op")
			b.ReportMetric(float64(n.Load())/float64(syncs.Load()), "receipts/sync")
		})
	}
}
