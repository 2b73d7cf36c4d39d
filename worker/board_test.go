package worker

import (
	"context"
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/router/offer"
)

func decode(t *testing.T, text []byte) offer.Sheet {
	t.Helper()
	var s offer.Sheet
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil {
		t.Fatalf("gateways would refuse this sheet: %v", err)
	}
	return s
}

func someOffer(model string) offer.Offer {
	return offer.Offer{Model: model, ContextTokens: 10, Features: []string{"chat"}, Slots: 1, Capacity: 1}
}

func TestBoardWakesReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard("w", func() offer.Load { return offer.Load{} })
		version, text := b.report(t.Context(), 0)
		if s := decode(t, text); version != 1 || s.Version != 1 || s.Offers == nil || len(s.Offers) != 0 {
			t.Errorf("first sheet is %d %s", version, text)
		}
		type result struct {
			version uint64
			text    []byte
		}
		got := make(chan result)
		go func() {
			v, text := b.report(t.Context(), 1)
			got <- result{v, text}
		}()
		synctest.Wait()
		b.set(nil) // no change
		select {
		case r := <-got:
			t.Fatalf("woken by nothing: %+v", r)
		default:
		}
		b.set([]offer.Offer{someOffer("m")})
		if r := <-got; r.version != 2 || decode(t, r.text).Offers[0].Model != "m" {
			t.Errorf("got %d %s", r.version, r.text)
		}
		b.drain()
		if v, text := b.report(t.Context(), 2); v != 3 || !decode(t, text).Draining {
			t.Errorf("got %d %s", v, text)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if v, text := b.report(ctx, 3); v != 3 || text != nil {
			t.Errorf("report() = %d %s after its context ended, want what the caller has", v, text)
		}
	})
}

func TestBoardThrottlesLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		load := offer.Load{}
		b := newBoard("w", func() offer.Load { return load })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go b.run(ctx)
		version := func() uint64 {
			synctest.Wait()
			v, _ := b.report(ctx, 0)
			return v
		}
		start := version()
		load.Running = 1
		b.touch()
		if v := version(); v != start+1 {
			t.Errorf("version %d, want a sheet for the first change at once", v)
		}
		for range 100 {
			load.Running++
			b.touch()
			time.Sleep(loadGap / 1000)
		}
		if v := version(); v != start+1 {
			t.Errorf("version %d within the gap", v)
		}
		time.Sleep(loadGap)
		if v := version(); v != start+2 {
			t.Errorf("version %d after the gap, want one sheet for all changes", v)
		}
		if _, text := b.report(ctx, 0); decode(t, text).Load.Running != 101 {
			t.Errorf("load is not the last: %s", text)
		}
		b.touch() // nothing changed
		time.Sleep(2 * loadGap)
		if v := version(); v != start+2 {
			t.Errorf("version %d without a change", v)
		}
		b.set([]offer.Offer{someOffer("m")}) // offers don't wait
		if v := version(); v != start+3 {
			t.Errorf("version %d after a change of offers", v)
		}
	})
}
