package router

import (
	"fmt"
	"testing"
	"time"

	"cocoon/internal/nanoton"
	"cocoon/router/prefix"
)

// BenchmarkPick picks and releases in a market of workers of different prices and speeds, for conversations of 8 KiB of
// which some workers have a part.
func BenchmarkPick(b *testing.B) {
	for _, n := range []int{1, 8, 64, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			t := New[int](Config{Seed: 1})
			for i := range n {
				t.Update(0, selling(i, nanoton.Amount(800+i%400), "m"))
			}
			prompts := make([]Request, 256)
			text := make([]byte, 8<<10)
			for i := range prompts {
				text[0], text[1] = byte(i), byte(i>>8)
				prompts[i] = Request{Model: "m", Tenant: uint64(i), Bytes: int64(len(text)), Home: prefix.Mix(uint64(i)), Prefix: t.index.Hash(nil, uint64(i), text)}
			}
			now := time.Duration(0)
			t.Tend(now)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				r := &prompts[i%len(prompts)]
				now += time.Millisecond
				r.Now = now
				l, err := t.Pick(r)
				if err != nil {
					b.Fatal(err)
				}
				l.Release(now, Done{Outcome: Unused})
			}
		})
	}
}

// BenchmarkTend looks after a large market.
func BenchmarkTend(b *testing.B) {
	t := marketOf(10_000)
	for i := range b.N {
		t.Tend(time.Duration(i) * TendEvery)
	}
}
