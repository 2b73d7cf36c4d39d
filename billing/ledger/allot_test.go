package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/nanoton"
)

func mustAllot(t testing.TB, l *Ledger, a Allotment) nanoton.Amount {
	t.Helper()
	has, err := l.Allot(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	return has
}

func TestAllot(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		l := mustOpen(t, url)
		mustPost(t, l, pay("in", "chain", "customer:ann", 100))
		ask := Allotment{ID: idOf("a1"), Gateway: "g1", Customer: "customer:ann", Want: 30, Until: epoch}
		for _, c := range []struct {
			name string
			ask  Allotment
			want nanoton.Amount
		}{
			{"first", ask, 30},
			{"again", ask, 30},
			{"nothing", Allotment{ID: idOf("a0"), Gateway: "g1", Customer: "customer:ann", Want: 0}, 30},
			{"more", Allotment{ID: idOf("a2"), Gateway: "g1", Customer: "customer:ann", Want: 10}, 40},
			{"another gateway", Allotment{ID: idOf("a3"), Gateway: "g2", Customer: "customer:ann", Want: 50}, 50},
			{"more than there is", Allotment{ID: idOf("a4"), Gateway: "g1", Customer: "customer:ann", Want: 1 << 62}, 50},
			{"when nothing is left", Allotment{ID: idOf("a5"), Gateway: "g1", Customer: "customer:ann", Want: 1}, 50},
			{"of a customer without money", Allotment{ID: idOf("a6"), Gateway: "g1", Customer: "customer:bob", Want: 1}, 0},
		} {
			if has := mustAllot(t, l, c.ask); has != c.want {
				t.Errorf("%s: allotted %d, want %d", c.name, has, c.want)
			}
		}
		mustPost(t, l, pay("spend", "allotment:g1:ann", "fees", 20))
		wantBalances(t, l, map[Account]nanoton.Amount{"chain": -100, "allotment:g1:ann": 30, "allotment:g2:ann": 50, "fees": 20})
		allotted, err := l.Allotted(t.Context(), "customer:ann")
		if want := map[Account]nanoton.Amount{"allotment:g1:ann": 30, "allotment:g2:ann": 50}; err != nil || !maps.Equal(allotted, want) {
			t.Errorf("ann's allotments are %v, %v, want %v", allotted, err, want)
		}
		if none, err := l.Allotted(t.Context(), "customer:nn"); err != nil || len(none) != 0 {
			t.Errorf("nn's allotments are %v, %v, want none", none, err)
		}
		if _, err := l.Allotted(t.Context(), "fees"); !errors.Is(err, ErrInvalid) {
			t.Errorf("allotments of fees: %v", err)
		}

		for name, bad := range map[string]Allotment{
			"no ID":              {Gateway: "g1", Customer: "customer:ann"},
			"negative":           {ID: idOf("x"), Gateway: "g1", Customer: "customer:ann", Want: -1},
			"no gateway":         {ID: idOf("x"), Customer: "customer:ann"},
			"no customer":        {ID: idOf("x"), Gateway: "g1", Customer: "fees"},
			"ID of another kind": {ID: idOf("spend"), Gateway: "g1", Customer: "customer:ann"},
			"ID of another's":    {ID: ask.ID, Gateway: "g2", Customer: "customer:ann", Want: 30},
		} {
			if _, err := l.Allot(t.Context(), bad); !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrConflict) {
				t.Errorf("%s: %v", name, err)
			}
		}
		for range 2 {
			if err := l.Release(t.Context(), "g1", "customer:ann"); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Release(t.Context(), "g3", "customer:nobody"); err != nil {
			t.Fatal(err)
		}
		if err := l.Release(t.Context(), "g1", "fees"); !errors.Is(err, ErrInvalid) {
			t.Errorf("Release of no customer: %v", err)
		}
		wantBalances(t, l, map[Account]nanoton.Amount{"chain": -100, "customer:ann": 30, "allotment:g2:ann": 50, "fees": 20})
		if err := l.Heartbeat(t.Context(), "a:b", epoch); !errors.Is(err, ErrInvalid) {
			t.Errorf("Heartbeat of no name: %v", err)
		}
		wantSound(t, l)
	})
}

// The lease of a dead gateway ends, and what it had goes back; a gateway that lives keeps what it has, whatever the
// clocks say.
func TestReclaim(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		ctx := t.Context()
		l, other := mustOpen(t, url), mustOpen(t, url)
		mustPost(t, l, pay("in", "chain", "customer:ann", 100), pay("in2", "chain", "customer:bob", 100))
		until := epoch.Add(30 * time.Second)
		for i, customer := range []Account{"customer:ann", "customer:bob", "customer:ann"} {
			gateway := []string{"dead", "dead", "live"}[i]
			mustAllot(t, l, Allotment{ID: idOf(fmt.Sprint(i)), Gateway: gateway, Customer: customer, Want: 40, Until: until})
		}
		mustPost(t, l, pay("spend", "allotment:dead:ann", "fees", 15))
		want := func(now time.Time, want ...Reclaimed) {
			t.Helper()
			got, err := l.Reclaim(ctx, now)
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Fatalf("Reclaim: %v (-want +got)\n%s", err, diff)
			}
		}
		// The live one renews just before each look, with a clock that is a day late.
		look := func(after time.Duration, reclaimed ...Reclaimed) {
			t.Helper()
			if err := l.Heartbeat(ctx, "live", epoch.Add(-24*time.Hour)); err != nil {
				t.Fatal(err)
			}
			want(epoch.Add(after), reclaimed...)
		}
		look(0)
		look(ReclaimGrace - 1)
		if err := l.Heartbeat(ctx, "dead", until); err != nil { // a last sign of life
			t.Fatal(err)
		}
		look(ReclaimGrace)
		look(2*ReclaimGrace - 1)
		look(2*ReclaimGrace, Reclaimed{"dead", "customer:ann", 25}, Reclaimed{"dead", "customer:bob", 40})
		look(3 * ReclaimGrace)
		balances := map[Account]nanoton.Amount{
			"chain": -200, "customer:ann": 45, "customer:bob": 100, "allotment:live:ann": 40, "fees": 15,
		}
		wantBalances(t, l, balances)

		// It was not dead: it is told, and can't spend what it has no more, until it asks again.
		for range 2 {
			if err := other.Heartbeat(ctx, "dead", epoch.Add(time.Hour)); !errors.Is(err, ErrReclaimed) {
				t.Fatalf("Heartbeat after Reclaim: %v", err)
			}
		}
		late := pay("late", "allotment:dead:ann", "fees", 10)
		if err := other.Post(ctx, []Transfer{late}); !errors.Is(err, ErrOverdrawn) {
			t.Fatalf("Post after Reclaim: %v", err)
		}
		if has := mustAllot(t, other, Allotment{ID: idOf("back"), Gateway: "dead", Customer: "customer:ann", Want: 10}); has != 10 {
			t.Fatalf("allotted %d after Reclaim", has)
		}
		mustPost(t, other, late)
		if err := other.Heartbeat(ctx, "dead", epoch); err != nil {
			t.Fatal(err)
		}
		balances["customer:ann"], balances["fees"] = 35, 25
		wantBalances(t, l, balances)

		// A lease that a clock wrote far into the future is believed for LeaseMax.
		if err := l.Heartbeat(ctx, "live", epoch.Add(24*time.Hour)); err != nil {
			t.Fatal(err)
		}
		want(epoch.Add(time.Hour))
		want(epoch.Add(time.Hour + LeaseMax - 1))
		want(epoch.Add(time.Hour+LeaseMax), Reclaimed{"live", "customer:ann", 40})
		wantSound(t, l)
	})
}

// A wall clock that jumps does not make a lease end: time.Now carries the monotonic clock.
func TestReclaimClockJump(t *testing.T) {
	l := mustOpen(t, "sqlite:"+t.TempDir()+"/ledger.db")
	mustPost(t, l, pay("in", "chain", "customer:ann", 100))
	mustAllot(t, l, Allotment{ID: idOf("a"), Gateway: "g", Customer: "customer:ann", Want: 40, Until: epoch})
	for range 3 {
		if back, err := l.Reclaim(t.Context(), time.Now()); len(back) > 0 || err != nil {
			t.Fatalf("Reclaim = %v, %v", back, err)
		}
	}
	// Backwards is harmless, too.
	if back, err := l.Reclaim(t.Context(), epoch.Add(-time.Hour)); len(back) > 0 || err != nil {
		t.Fatalf("Reclaim = %v, %v", back, err)
	}
}

// Reclaim and a renewal at the same time: either the lease is renewed and nothing is taken, or all is taken and the
// gateway is told.
func TestReclaimRace(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		gateway, reclaimer := mustOpen(t, url), mustOpen(t, url)
		mustPost(t, gateway, pay("in", "chain", "customer:ann", 1000))
		for i := range 30 {
			now := epoch.Add(time.Duration(i) * 24 * time.Hour)
			ask := Allotment{ID: idOf(fmt.Sprint(i)), Gateway: "g", Customer: "customer:ann", Want: 10, Until: now}
			has := mustAllot(t, gateway, ask)
			if _, err := reclaimer.Reclaim(t.Context(), now); err != nil {
				t.Fatal(err)
			}
			var renewed error
			var wg sync.WaitGroup
			wg.Go(func() { renewed = gateway.Heartbeat(context.Background(), "g", now.Add(time.Hour)) })
			back, err := reclaimer.Reclaim(t.Context(), now.Add(ReclaimGrace))
			wg.Wait()
			if err != nil || renewed != nil && !errors.Is(renewed, ErrReclaimed) || len(back) == 1 != (renewed != nil) {
				t.Fatalf("reclaimed %v, %v; renewed: %v", back, err, renewed)
			}
			if len(back) == 1 && back[0].Amount != has {
				t.Fatalf("reclaimed %v of %d", back, has)
			}
		}
		wantSound(t, gateway)
	})
}

// Gateways take and spend one customer's money all at once, through handles of their own.
func TestAllotConcurrently(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		const gateways, money = 3, 3000
		first := mustOpen(t, url)
		mustPost(t, first, pay("in", "chain", "customer:ann", money))
		var spent atomic.Int64
		var wg sync.WaitGroup
		for g := range gateways {
			l := mustOpen(t, url)
			wg.Go(func() { spent.Add(int64(spendAll(t, l, fmt.Sprintf("g%d", g), 70))) })
		}
		wg.Wait()
		if spent.Load() != money {
			t.Errorf("spent %d of %d", spent.Load(), money)
		}
		wantBalances(t, first, map[Account]nanoton.Amount{"chain": -money, "fees": money})
		wantSound(t, first)
	})
}

// spendAll allots and spends until the customer ann has no more, giving some back on the way.
func spendAll(t interface{ Errorf(string, ...any) }, l *Ledger, gateway string, want nanoton.Amount) nanoton.Amount {
	ctx := context.Background()
	spent := nanoton.Amount(0)
	for i := 0; ; i++ {
		name := fmt.Sprint(gateway, "-", i)
		has, err := l.Allot(ctx, Allotment{ID: idOf(name), Gateway: gateway, Customer: "customer:ann", Want: want, Until: epoch})
		if err != nil {
			t.Errorf("%s: %v", gateway, err)
			return spent
		}
		if has == 0 {
			return spent
		}
		if i%5 == 0 {
			if err := l.Release(ctx, gateway, "customer:ann"); err != nil {
				t.Errorf("%s: %v", gateway, err)
			}
			continue
		}
		from := Account("allotment:" + gateway + ":ann")
		if err := l.Post(ctx, []Transfer{pay("too much "+name, from, "fees", has+1)}); !errors.Is(err, ErrOverdrawn) {
			t.Errorf("%s overdrew its allotment: %v", gateway, err)
		}
		if err := l.Post(ctx, []Transfer{pay("spend "+name, from, "fees", has)}); err != nil {
			t.Errorf("%s: %v", gateway, err)
		}
		spent += has
	}
}

// Writers that share accounts, in every order, and post the same transfers, don't lock each other out.
func TestPostConcurrently(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		const writers, rounds = 4, 12
		first := mustOpen(t, url)
		mustPost(t, first, pay("in", "chain", "customer:ann", 1))
		accounts := []Account{"fees", "network", "payouts", "suspense", "test", "customer:x", "customer:y", workerAccount(1)}
		var wg sync.WaitGroup
		for w := range writers {
			l := mustOpen(t, url)
			wg.Go(func() {
				for r := range rounds {
					var batch []Transfer
					for i := range accounts {
						to := accounts[(i*(2*w+1)+r)%len(accounts)]
						batch = append(batch, pay(fmt.Sprintf("own %d %d %s", w, r, to), "chain", to, 1))
						// All post these, with an order of their own.
						to = accounts[(i+w)%len(accounts)]
						batch = append(batch, pay(fmt.Sprintf("all %d %s", r, to), "chain", to, 100))
					}
					if err := l.Post(context.Background(), batch); err != nil {
						t.Errorf("writer %d: %v", w, err)
					}
					// The same ID with other accounts is posted once.
					odd := pay(fmt.Sprint("odd ", r), accounts[w%4], "chain", 1)
					if err := l.Post(context.Background(), []Transfer{odd}); err != nil && !errors.Is(err, ErrConflict) {
						t.Errorf("writer %d: %v", w, err)
					}
				}
			})
		}
		wg.Wait()
		report := wantSound(t, first)
		if want := 1 + rounds*len(accounts)*(writers+1) + rounds; report.Transfers != want {
			t.Errorf("%d transfers, want %d", report.Transfers, want)
		}
		if balance, err := first.Balance(t.Context(), "customer:x"); balance != rounds*(writers+100) || err != nil {
			t.Errorf("Balance = %d, %v", balance, err)
		}
	})
}

func TestOpenConcurrently(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				l, err := Open(context.Background(), url)
				if err != nil {
					t.Error(err)
					return
				}
				defer l.Close()
				mustPost(failer{t}, l, pay(strings.Repeat("x", i+1), "chain", "fees", 1))
			})
		}
		wg.Wait()
		wantBalances(t, mustOpen(t, url), map[Account]nanoton.Amount{"chain": -6, "fees": 6})
	})
}

// failer lets a goroutine of a test use what is written for the test's own.
type failer struct{ *testing.T }

func (f failer) Fatal(args ...any)                 { f.Error(args...) }
func (f failer) Fatalf(format string, args ...any) { f.Errorf(format, args...) }
