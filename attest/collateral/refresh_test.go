package collateral_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/attest"
	simsnp "cocoon/attest/simtee/snp"
)

// What may change is renewed daily or earlier, the rest when most of its life is over.
func TestRefresh(t *testing.T) {
	w := newWorld(t)
	c := w.config()
	c.Dir = t.TempDir()
	s := newStore(t, c)
	gpu, intel := w.withGPU(), w.tdxOnly()
	w.complete(s, gpu, simNow)
	w.complete(s, intel, simNow)
	refresh := func(now time.Time, want map[string]int) {
		t.Helper()
		w.change(func() { w.now = now; clear(w.asked) })
		if err := s.Refresh(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, w.asked); d != "" {
			t.Error(now, d)
		}
	}
	refresh(simNow.Add(15*hour), map[string]int{})
	refresh(simNow.Add(16*hour), map[string]int{"ocsp": 5})
	refresh(simNow.Add(24*hour), map[string]int{"crl": 1, "tcb": 1, "qe": 1, "pckcrl": 1, "rootcrl": 1})
	refresh(simNow.Add(32*hour), map[string]int{"ocsp": 5})
	w.change(func() { w.now = simNow.Add(6 * day) })
	w.complete(s, gpu, simNow.Add(6*day))
	w.complete(s, intel, simNow.Add(6*day))
	if w.total("vcek", "rim") > 0 {
		t.Error("a certificate was asked for again")
	}
	// Two thirds of the RIMs' life, which is their signer's of two years.
	late := simNow.AddDate(0, 0, 2*365*2/3+1)
	w.change(func() { w.now = late })
	w.complete(s, gpu, late)
	refresh(late.Add(2*hour), map[string]int{"rim": 2})

	t.Run("idle", func(t *testing.T) {
		refresh(late.Add(8*day), map[string]int{})
		left := map[attest.Kind]int{}
		for _, st := range s.Status(late.Add(8 * day)) {
			left[st.Kind]++
		}
		// Whatever has not ended stays, and Intel's, for what it says about its predecessors.
		want := map[attest.Kind]int{
			attest.SNPKey: 1, attest.SNPChain: 1, attest.GPURIM: 2, attest.TDXCollateral: 1,
		}
		if d := cmp.Diff(want, left); d != "" || len(files(t, c.Dir)) != 5 {
			t.Error(d, files(t, c.Dir))
		}
	})
}

func TestRefreshFailure(t *testing.T) {
	w := newWorld(t)
	var l log
	c := w.config()
	c.Log = l.logger()
	s := newStore(t, c)
	e := w.snpOnly()
	w.complete(s, e, simNow)
	w.down()
	now := simNow.Add(25 * hour)
	for i := range 3 {
		wantError(t, s.Refresh(t.Context(), now.Add(time.Duration(i)*time.Minute)), "no revocation list", "HTTP status 502")
	}
	w.complete(s, e, now)
	w.change(func() { w.fault = nil; w.now = now })
	if err := s.Refresh(t.Context(), now.Add(hour)); err != nil {
		t.Fatal(err)
	}
	got := l.String()
	for _, line := range []string{"collateral is missing", "collateral is there again"} {
		if n := strings.Count(got, line); n != 1 {
			t.Errorf("%q is %d times in the log:\n%s", line, n, got)
		}
	}
	for _, st := range s.Status(now.Add(hour)) {
		if st.Err != nil {
			t.Errorf("%+v", st)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Refresh(ended, now.Add(3*day)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// within answers from the world without a network, for bubbles of time.
func (w *world) within() *http.Client {
	return &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, r)
		return rec.Result(), nil
	})}
}

// bubble runs a test from simNow on, in a time of its own.
func (w *world) bubble(t *testing.T, test func(t *testing.T)) {
	defer func(outer testing.TB) { w.t = outer }(w.t)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		time.Sleep(time.Until(simNow)) // a bubble begins in 2000
		test(t)
	})
}

func TestRun(t *testing.T) {
	w := newWorld(t)
	w.bubble(t, func(t *testing.T) {
		c := w.config()
		c.Client, c.Log = w.within(), nil
		s := newStore(t, c)
		e := w.snpOnly()
		w.complete(s, e, time.Now())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(3*day + hour)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := w.total("crl"); n != 4 {
			t.Errorf("%d questions in three days", n)
		}
	})
}

// Invented chips make us ask so often and no more.
func TestInventedChips(t *testing.T) {
	w := newWorld(t)
	var evidence []*attest.Evidence
	for i := range 80 {
		chip := must[*simsnp.Chip](t)(w.amd.NewChip())
		cpu := must[[]byte](t)(chip.Report(simsnp.ReportConfig{TCB: w.tcb, GuestSVN: uint32(i)}))
		evidence = append(evidence, &attest.Evidence{TEE: attest.SNP, CPU: cpu, Devices: []byte("[]")})
	}
	w.bubble(t, func(t *testing.T) {
		c := w.config()
		c.Client, c.Log = w.within(), nil
		s := newStore(t, c)
		var wg sync.WaitGroup
		for _, e := range evidence {
			wg.Go(func() { w.fails(s, e, simNow, "no VCEK of Genoa chip") })
		}
		wg.Wait()
		if n := w.total(); n < 20 || n > 20+2*10 {
			t.Errorf("%d questions", n)
		}
		if took := time.Since(simNow); took > 25*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

// A service that hangs doesn't hold anybody up for longer than an attestation may take.
func TestHanging(t *testing.T) {
	w := newWorld(t)
	e := w.tdxOnly()
	w.bubble(t, func(t *testing.T) {
		c := w.config()
		c.Log = nil
		c.Client = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})}
		s := newStore(t, c)
		w.fails(s, e, simNow, "deadline exceeded")
		if took := time.Since(simNow); took != 10*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}
