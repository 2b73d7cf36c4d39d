package receipt

import (
	"bytes"
	"fmt"
	"testing"
)

// usual are receipts as a busy worker sends them with its answers: of a batch of 32, without their last line feed.
func usual(t testing.TB) (events [][]byte) {
	t.Helper()
	var rs []Receipt
	for i := range 32 {
		r := sample()
		for j, d := range []*Digest{&r.Worker, &r.Keyset, &r.Weights, &r.Engine, &r.Req, &r.Resp} {
			*d = digest(fmt.Appendf(nil, "%d", j))
		}
		r.Request, r.Route = fmt.Sprintf("req_%032x", i+1<<40), Digest{}
		r.Model, r.Epoch, r.TTFT = "Qwen/Qwen3-32B", 17, 345
		rs = append(rs, r)
	}
	all, err := SignBatch(rs, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		events = append(events, bytes.TrimSuffix(s.Wire(), []byte("\n")))
	}
	return events
}

// BenchmarkTake is what a gateway does with a receipt that came with an answer, but for its signature.
func BenchmarkTake(b *testing.B) {
	events := usual(b)
	var terms []Terms
	for _, e := range events {
		s, err := parseEvent(e)
		if err != nil {
			b.Fatal(err)
		}
		t := *s.terms()
		t.InMax, t.OutMax, t.Ceiling = 1000, 1000, 1000
		terms = append(terms, t)
	}
	b.Run("parse", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := parseEvent(events[i%len(events)]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("all", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			i %= len(events)
			s, err := parseEvent(events[i])
			if err == nil {
				err = s.Check(terms[i])
			}
			var c Chain
			if err == nil {
				err = c.Jump(s)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
