package treasury

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	"cocoon/internal/nanoton"
)

var crashAll = flag.Bool("crash-all", false, "each crash point with each network, not with one of them")

// crashed is the panic that stands for the death of the process.
type crashed struct{ at string }

var errFault = errors.New("fault")

// fault says what goes wrong, and where: at the how-manyeth call of its kind.
type fault struct {
	call string // commit or send; empty: nothing
	at   int
	mode int
}

// What goes wrong at a call.
const (
	diesBefore = iota
	diesAfter
	fails     // nothing was done
	failsDone // it was done, but that is not known
	modes
)

func (f fault) String() string {
	return fmt.Sprintf("%s %d %s", f.call, f.at, []string{"dies before", "dies after", "fails", "fails but done"}[f.mode])
}

// counter counts calls over the lives of a process.
type counter struct {
	fault          fault
	commits, sends int
	failed         int // steps
}

// do runs a call, or what the fault makes of it.
func (c *counter) do(call string, count *int, f func() error) error {
	*count++
	if c.fault.call != call || c.fault.at != *count {
		return f()
	}
	switch c.fault.mode {
	case diesBefore:
		panic(crashed{call})
	case fails:
		return errFault
	}
	err := f()
	if c.fault.mode == diesAfter {
		panic(crashed{call})
	}
	return errors.Join(errFault, err)
}

// faultLedger is a ledger that fails.
type faultLedger struct {
	*ledger.Ledger
	c *counter
}

func (l faultLedger) Commit(ctx context.Context, t []ledger.Transfer, d []ledger.Document) (versions []int64, err error) {
	err = l.c.do("commit", &l.c.commits, func() error {
		versions, err = l.Ledger.Commit(ctx, t, d)
		return err
	})
	if err != nil {
		versions = nil
	}
	return versions, err
}

// faultChain is a client whose messages fail.
type faultChain struct {
	*ton.Client
	c *counter
}

func (x faultChain) Send(ctx context.Context, message []byte) error {
	return x.c.do("send", &x.c.sends, func() error { return x.Client.Send(ctx, message) })
}

// networks are what the chain does to its clients.
func networks() []string {
	return []string{"good", "lost once", "lost until expiry", "errors", "lagging", "lying"}
}

// crashScene is what happens in one run: deposits of all kinds, four payouts that were asked for, two of earnings, one
// that nobody has the money for.
type crashScene struct {
	*scene
	l       *ledger.Ledger // the real one
	network string
	count   counter
	x       *Treasury
}

// start opens ledger and treasury, as a new process does.
func (s *crashScene) start() (err error) {
	if s.l, err = ledger.Open(s.t.Context(), "sqlite:"+s.path); err != nil {
		return err
	}
	config := s.config
	config.Ledger, config.Chain = faultLedger{s.l, &s.count}, faultChain{s.client, &s.count}
	s.x, err = Open(s.t.Context(), config)
	return err
}

// life runs a process for some rounds. It says whether all was settled; dead says that it died.
func (s *crashScene) life(rounds *int) (done, dead bool) {
	defer func() {
		if s.l != nil {
			_ = s.l.Close()
		}
		if r := recover(); r != nil {
			if _, ok := r.(crashed); !ok {
				panic(r)
			}
			dead = true
		}
	}()
	if err := s.start(); err != nil {
		s.t.Fatal(err)
	}
	for ; *rounds < 150; *rounds++ {
		s.weather(*rounds)
		err := s.ask()
		if err == nil {
			err = s.x.Step(s.t.Context())
		}
		if err != nil {
			s.count.failed++
		}
		st := s.x.Status()
		if err == nil && *rounds > 6 && st.Asked+st.Queued+st.Batched == 0 && s.quiet(st) && s.asked() {
			return true, false
		}
		if !st.Quiet.IsZero() {
			s.net.SkewClock(90 * time.Minute)
		}
		s.mine()
	}
	return false, false
}

// quiet says whether nothing has to be done after a step.
func (s *crashScene) quiet(st Status) bool { return st.Stopped == "" && st.Difference == 0 }

// asked says whether all payouts are in the ledger.
func (s *crashScene) asked() bool {
	all, err := Payouts(s.t.Context(), s.l, Filter{})
	return err == nil && len(all) == 7
}

func (s *crashScene) ask() error {
	ctx := s.t.Context()
	alice, err := s.l.Balance(ctx, "customer:alice")
	if err != nil {
		return err
	}
	if _, err := Find(ctx, s.l, "withdrawal"); alice < 2*tonCoin && errors.Is(err, ErrUnknown) {
		return nil // her deposit is not there yet
	}
	ask := func(id string, account ledger.Account, amount nanoton.Amount) error {
		if _, err := Find(ctx, s.l, id); !errors.Is(err, ErrUnknown) {
			return err
		}
		return s.x.Ask(ctx, Payout{ID: id, Account: account, To: someone(s.name + id), Amount: amount})
	}
	return errors.Join(
		ask("withdrawal", "customer:alice", tonCoin), ask("one", "fees", tonCoin/10), ask("two", "fees", tonCoin/5),
		ask("three", ledger.Account("worker:"+workerHex("three")), tonCoin/4), ask("poor", "customer:carol", 100*tonCoin),
	)
}

// weather is what the network does in a round.
func (s *crashScene) weather(round int) {
	f := s.net.Faults()
	switch s.network {
	case "lost until expiry":
		if round == 4 {
			f.DropExternals(0)
			s.net.SkewClock(2 * time.Hour)
			s.mine()
		}
	case "lagging":
		f.Lag(uint32(round * 7 % 5))
	case "lying":
		f.LieBalance(round%5 == 1)
		f.LieState(round%5 == 2)
		f.LieHistory(round%5 == 3)
		f.LieSignature(round%5 == 4)
	}
}

func (s *crashScene) setup(fault fault) {
	f := s.net.Faults()
	f.DropExternals(0)
	f.LoseFirst(s.network == "lost once")
	f.FailRandomly(0, 0)
	f.Lag(0)
	for _, lie := range []func(bool){f.LieBalance, f.LieState, f.LieHistory, f.LieSignature} {
		lie(false)
	}
	switch s.network {
	case "lost until expiry":
		f.DropExternals(1 << 20)
	case "errors":
		f.FailRandomly(0.3, uint64(fault.at*modes+fault.mode))
	}
	l, err := ledger.Open(s.t.Context(), "sqlite:"+s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer l.Close()
	for _, name := range []string{"early", "late"} {
		payee(s.t, l, workerHex(name), Payee{Address: someone(s.name + name), Min: tonCoin / 10})
		earn(s.t, l, workerHex(name), tonCoin/2)
	}
	earn(s.t, l, workerHex("three"), tonCoin/4)
	s.give("a", 3*tonCoin, ton.Memo("alice"))
	s.give("operator", 20*tonCoin, MemoCapital)
	s.mine()
	s.give("b", 2*tonCoin, ton.Memo("bob"))
	s.give("c", 1*tonCoin, "hello")
	s.give("a", tonCoin/2, ton.Memo("alice"))
	s.inject(someone("d"), 7*tonCoin, nil, true)
	s.mine()
}

// crashRun is one scene from beginning to end. The counter says how many calls there were.
func crashRun(t *testing.T, w *chainWorld, network string, fault fault) counter {
	t.Helper()
	s := &crashScene{scene: w.scene(t), network: network, count: counter{fault: fault}}
	s.setup(fault)
	rounds, done, dead := 0, false, false
	for range 3 {
		if done, dead = s.life(&rounds); !dead {
			break
		}
	}
	if !done {
		t.Fatalf("%s, %s: not settled after %d rounds: %+v", network, fault, rounds, s.x.Status())
	}
	s.audit()
	if t.Failed() {
		t.Logf("%s, %s", network, fault)
	}
	return s.count
}

// audit compares the end with what it must be.
func (s *crashScene) audit() {
	l, err := ledger.Open(s.t.Context(), "sqlite:"+s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer l.Close()
	got := s.books(l)
	for account, want := range map[ledger.Account]nanoton.Amount{
		"customer:alice": tonCoin * 5 / 2, "customer:bob": 2 * tonCoin, "customer:carol": 0, "payouts": 0, "fees": -tonCoin * 3 / 10,
		ledger.Account("worker:" + workerHex("early")): 0, ledger.Account("worker:" + workerHex("late")): 0,
		ledger.Account("worker:" + workerHex("three")): 0,
	} {
		if got[account] != want {
			s.t.Errorf("%s has %d, want %d", account, got[account], want)
		}
	}
	for id, want := range map[string]nanoton.Amount{
		"withdrawal": tonCoin, "one": tonCoin / 10, "two": tonCoin / 5, "three": tonCoin / 4, "poor": 0, "early": tonCoin / 2,
		"late": tonCoin / 2,
	} {
		if paid := s.got(s.name + id); paid != want {
			s.t.Errorf("%s was paid %d, want %d", id, paid, want)
		}
	}
	report, err := l.Audit(s.t.Context())
	if err != nil {
		s.t.Errorf("audit: %v, %v", report, err)
	}
}

// Every crash point of scanner and outbox, with what a network may do: each deposit is credited once, each payout is paid
// once, the ledger sums to zero and says what the wallet holds. Each point goes with one of the networks, in turn, or with
// all of them.
func TestCrashEverywhere(t *testing.T) {
	for i, network := range networks() {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			w, runs := newWorld(t, devnet.Options{}), 0
			n := crashRun(t, w, network, fault{})
			for _, kind := range []struct {
				call  string
				calls int
			}{{"commit", n.commits}, {"send", n.sends}} {
				for at := 1; at <= kind.calls && !t.Failed(); at++ {
					for mode := range modes {
						if !*crashAll && ((at*modes+mode)%len(networks()) != i || raced && (at%4 != 0 || at/4%modes != mode)) {
							continue
						}
						runs++
						crashRun(t, w, network, fault{kind.call, at, mode})
					}
				}
			}
			t.Logf("%d runs; without a fault %d commits, %d messages, %d failed steps", runs, n.commits, n.sends, n.failed)
			if network != "good" && !strings.HasPrefix(network, "lost") && n.failed == 0 {
				t.Error("the network did nothing")
			}
		})
	}
}
