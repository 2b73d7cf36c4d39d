package router

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"cocoon/internal/nanoton"
	"cocoon/router/offer"
	"cocoon/router/prefix"
)

// at is a moment on the tests' clock.
func at(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

func id(n int) ID { return ID{byte(prefix.Mix(uint64(n))), byte(n), byte(n >> 8), 1} }

// selling is a worker named wN that offers models at a price of so many nanoTON per million tokens.
func selling(n int, price nanoton.Amount, models ...string) Worker[int] {
	s := &offer.Sheet{V: offer.Version, Version: 1, Name: fmt.Sprintf("w%d", n)}
	for _, m := range models {
		s.Offers = append(s.Offers, offer.Offer{
			Model: m, ContextTokens: 8192, Slots: 16, Capacity: 16, Features: []string{offer.FeatureChat, offer.FeatureTools},
			Price: offer.Price{In: price, Cached: price / 4, Out: 3 * price},
		})
	}
	return Worker[int]{ID: id(n), Handle: n, Sheet: s, Trust: Gateway}
}

// market is a table with n workers of model "m" that all ask the same.
func marketOf(n int) *Table[int] {
	t := New[int](Config{Seed: 1})
	for i := range n {
		t.Update(0, selling(i, 1000, "m"))
	}
	return t
}

// pick leases or fails the test.
func pick(t *testing.T, table *Table[int], r Request) Lease[int] {
	t.Helper()
	l, err := table.Pick(&r)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serve plays a request to its end: first token after ttft, then tokens at a pace, seconds a token.
func serve(l Lease[int], now time.Duration, ttft, pace float64, tokens int64) {
	l.First(now + at(ttft))
	end := now + at(ttft+pace*float64(tokens))
	l.Progress(end, tokens)
	l.Release(end, Done{Outcome: Served, In: 1000, Out: tokens})
}

func int64ToAmount(n int) nanoton.Amount { return nanoton.Amount(n) }

func contains(list []int, n int) bool { return slices.Contains(list, n) }
