package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"sync/atomic"
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
		b.drain(true)
		if v, text := b.report(t.Context(), 2); v != 3 || !decode(t, text).Draining {
			t.Errorf("got %d %s", v, text)
		}
		b.drain(false)
		if v, text := b.report(t.Context(), 3); v != 4 || decode(t, text).Draining {
			t.Errorf("got %d %s", v, text)
		}
		b.end()
		b.drain(false) // it stops all the same
		if v, text := b.report(t.Context(), 4); v != 5 || !decode(t, text).Draining {
			t.Errorf("got %d %s", v, text)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if v, text := b.report(ctx, 5); v != 5 || text != nil {
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

// TestBoardEncodes holds what is put together by hand against the sheet, of which every field has a value.
func TestBoardEncodes(t *testing.T) {
	load := offer.Load{Running: 3, Queued: 1}
	b := newBoard("w", func() offer.Load { return load })
	full := someOffer("m")
	full.Quantization, full.WeightsDigest, full.Engine, full.Price = "int4", "", "e <&> 1", offer.Price{In: 1, Cached: 2, Out: 3}
	b.set([]offer.Offer{full, someOffer("n")})
	b.pay(&offer.Payout{Address: "UQ", MinNanoTON: 7, EverySeconds: 8}, [][]byte{{1, 2}, {255}})
	b.drain(true)
	var before []byte
	for range 3 {
		_, text := b.report(t.Context(), 0)
		got := decode(t, text)
		if !reflect.DeepEqual(got, b.sheet) || got.Load != load || got.Version != b.sheet.Version {
			t.Errorf("%s is not %+v", text, b.sheet)
		}
		if kept := bytes.Clone(before); before != nil && !bytes.Equal(kept, before) {
			t.Error("a text that a reader has was written to")
		}
		v := reflect.ValueOf(got)
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("%s has no value: this test says nothing about it", v.Type().Field(i).Name)
			}
		}
		before = text
		load.Running++
		b.reload()
	}
	if v, _ := b.report(t.Context(), 0); v != 7 {
		t.Errorf("version %d", v)
	}
	b.reload() // nothing changed
	if v, _ := b.report(t.Context(), 0); v != 7 {
		t.Errorf("version %d without a change", v)
	}
}

// TestBoardReachesAll: a change of load is with every gateway within loadGap, whatever was there before.
func TestBoardReachesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running atomic.Int64
		b := newBoard("w", func() offer.Load { return offer.Load{Running: int(running.Load())} })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go b.run(ctx)
		var late atomic.Int64
		var set atomic.Pointer[time.Time]
		for range gatewaysMax {
			go func() {
				for after := uint64(1); ; {
					v, text := b.report(ctx, after)
					if ctx.Err() != nil {
						return
					}
					if after = v; int64(decode(t, text).Load.Running) == running.Load() {
						late.Store(max(late.Load(), int64(time.Since(*set.Load()))))
					}
				}
			}()
		}
		for i := range 40 {
			now := time.Now()
			set.Store(&now)
			running.Add(1)
			b.touch()
			time.Sleep(loadGap + 1 + time.Duration(i)*time.Millisecond)
		}
		if d := time.Duration(late.Load()); d > loadGap {
			t.Errorf("a gateway heard after %v", d)
		}
	})
}

// BenchmarkBoardLoad is what a change of load costs, reports to 64 gateways included.
func BenchmarkBoardLoad(b *testing.B) {
	for _, models := range []int{3, offer.OffersMax} {
		b.Run(fmt.Sprint(models), func(b *testing.B) {
			running := 0
			board := newBoard("w", func() offer.Load { return offer.Load{Running: running} })
			var offers []offer.Offer
			for i := range models {
				o := someOffer(fmt.Sprint("org/model-", i))
				o.WeightsDigest = fmt.Sprintf("sha256:%064x", i)
				offers = append(offers, o)
			}
			board.set(offers)
			b.ReportAllocs()
			for b.Loop() {
				running++
				board.reload()
				for range gatewaysMax {
					if _, text := board.report(b.Context(), 1); len(text) == 0 {
						b.Fatal("nothing")
					}
				}
			}
		})
	}
}
