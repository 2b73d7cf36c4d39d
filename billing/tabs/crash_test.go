package tabs

import (
	"context"
	"fmt"
	"testing"

	"cocoon/billing/ton/tab"
	"cocoon/internal/nanoton"
)

// script is a life of a customer's and a worker's tab. It gives what the outcome has to be, fees aside.
func script(w *world) {
	var asked Tab
	w.retry(func() (err error) {
		asked, err = w.keeper.Open(context.Background(), ann, addressFor("ann"), 100*perTON, 0)
		return err
	})
	w.retry(func() error {
		_, err := w.keeper.Collateral(context.Background(), worker, addressFor("worker"), 5*perTON)
		return err
	})
	w.net.send(w.t, addressFor("ann"), asked.Address, 10*perTON, nil)
	w.turns(2)
	w.payday()
	w.turns(2)
	w.post(ann, worker, 3*perTON)
	w.turns(3)
	for range 2 { // the first may be lost
		w.retry(func() error {
			_, err := w.keeper.Pay(context.Background(), worker)
			return err
		})
		w.turns(2)
	}
	w.net.send(w.t, addressFor("ann"), asked.Address, perTON, nil)
	w.turns(3)
	w.post(ann, worker, perTON/2)
	w.net.send(w.t, addressFor("ann"), asked.Address, perTON/20, tab.CloseBody())
	w.net.mine(w.t)
	w.turns(5) // a day, in which one crash and one lost message leave time for the last draw
	w.net.SkewClock(CustomerDelay)
	w.net.SkewClock(voucherEvery)
	w.net.mine(w.t)
	w.net.send(w.t, addressFor("ann"), asked.Address, perTON/20, tab.FinishBody())
	w.turns(3)
}

// retry does something until it works, with a new Keeper each time, as a program does that was restarted.
func (w *world) retry(f func() error) {
	w.t.Helper()
	for range 5 {
		if f() == nil {
			return
		}
		w.reopen()
		w.net.mine(w.t)
		_ = w.keeper.Step(context.Background())
	}
	w.t.Fatal("it never works")
}

// turns makes blocks and steps; a step that fails is the end of the program, which starts again.
func (w *world) turns(n int) {
	w.t.Helper()
	for range n {
		w.net.mine(w.t)
		if w.weather != nil {
			w.weather(true)
			if w.keeper.Step(context.Background()) != nil {
				w.net.spoiled++
				w.reopen()
			}
			w.weather(false)
		}
		if w.keeper.Step(context.Background()) != nil {
			w.reopen()
		}
	}
}

// weathers is how many there are.
const weathers = 5

// weather is what the network does at a crash point: nothing; it loses each message the first time; or, in a step before
// each that counts, it gives errors at random, shows an older state, or lies in one way or another.
func (n *network) weather(i int) func(bad bool) {
	f, turn := n.Faults(), 0
	f.LoseFirst(i%weathers == 1)
	lies := []func(bool){f.LieBalance, f.LieState, f.LieHistory, f.LieSignature}
	switch i % weathers {
	case 2:
		return func(bad bool) {
			rate := 0.0
			if bad {
				rate = 0.3
			}
			turn++
			f.FailRandomly(rate, uint64(i*1000+turn))
		}
	case 3:
		return func(bad bool) {
			turn++
			f.Lag(0)
			if bad {
				f.Lag(uint32(1 + turn%4))
			}
		}
	case 4:
		return func(bad bool) {
			if bad {
				turn++
			}
			lies[turn%len(lies)](bad)
		}
	}
	return nil
}

// TestCrashes fails at each commit and each message in turn, before it or after it, in all kinds of weather: the outcome is
// always the same.
func TestCrashes(t *testing.T) {
	n := newNetwork(t)
	run := func(name string, weather int, commit, send func() int) *world {
		w := newWorldOn(t, n, newLedger(t), name)
		w.weather = n.weather(weather)
		w.faults.commit, w.faults.send = commit, send
		script(w)
		w.faults.commit, w.faults.send = nil, nil
		w.settle()
		w.sound()
		return w
	}
	at := func(n, how int) (func() int, *int) {
		count := 0
		return func() int {
			if count++; count == n {
				return how
			}
			return 0
		}, &count
	}
	commit, commits := at(0, 0)
	send, sends := at(0, 0)
	right := run("right", 0, commit, send)
	if *commits < 10 || *sends < 3 {
		t.Fatalf("%d commits, %d messages", *commits, *sends)
	}
	want := outcome(right)
	t.Logf("%d commits, %d messages, %v", *commits, *sends, want)
	stride := 1
	if race { // ten times as slow
		stride = 8
	}
	for how, what := range map[int]string{1: "before", 2: "after"} {
		for i := 1; i <= *commits; i += stride {
			f, _ := at(i, how)
			if got := outcome(run(fmt.Sprintf("commit %d %s", i, what), i+how, f, nil)); !same(got, want) {
				t.Errorf("a crash %s commit %d, weather %d: %v, want %v", what, i, (i+how)%weathers, got, want)
			}
		}
		for i := 1; i <= *sends; i += stride {
			f, _ := at(i, how)
			if got := outcome(run(fmt.Sprintf("send %d %s", i, what), i+how+2, nil, f)); !same(got, want) {
				t.Errorf("a crash %s message %d, weather %d: %v, want %v", what, i, (i+how+2)%weathers, got, want)
			}
		}
	}
	if n.spoiled == 0 {
		t.Error("the weather spoiled nothing")
	}
}

// outcome is what everybody has in the end.
func outcome(w *world) map[string]nanoton.Amount {
	ann0, pledge := w.record(TabKind, "ann"), w.record(CollateralKind, string(worker)[7:])
	return map[string]nanoton.Amount{
		"drawn": ann0.Drawn, "owed": ann0.Owed, "customer": w.has(ann), "fees": w.has("fees"), "worker": w.has(worker),
		"paid": pledge.Drawn, "advance": pledge.Advance, "asked": nanoton.Amount(len(w.asked)), "unexplained": ann0.Unexplained,
		"treasury": w.net.balance(w.treasury),
	}
}

// same compares, rent aside.
func same(a, b map[string]nanoton.Amount) bool {
	for k := range b {
		if near(a[k], b[k]) > rent {
			return false
		}
	}
	return true
}
