package treasury

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	"cocoon/internal/nanoton"
)

// recorder keeps what was sent.
type recorder struct {
	*ton.Client
	messages [][]byte
}

func (r *recorder) Send(ctx context.Context, message []byte) error {
	r.messages = append(r.messages, message)
	return r.Client.Send(ctx, message)
}

// backupRounds is how long the first life is.
const backupRounds = 12

// entitled is what each may get in the first life, and so in both lives together.
func (s *scene) entitled() map[string]nanoton.Amount {
	return map[string]nanoton.Amount{
		s.name + "early": tonCoin / 2, s.name + "late": 2 * tonCoin, s.name + "three": tonCoin / 4, s.name + "home": tonCoin,
	}
}

// event is what happens in a round of the first life.
func (s *scene) event(l Ledger, x *Treasury, round int) {
	ask := func(id string, account ledger.Account, amount nanoton.Amount) {
		if err := x.Ask(s.t.Context(), Payout{ID: id, Account: account, To: someone(s.name + id), Amount: amount}); err != nil {
			s.t.Fatal(err)
		}
	}
	switch round {
	case 0:
		s.give("operator", 20*tonCoin, MemoCapital)
		for _, name := range []string{"early", "late"} {
			payee(s.t, l, workerHex(name), Payee{Address: someone(s.name + name), Min: tonCoin / 10})
		}
		earn(s.t, l, workerHex("early"), tonCoin/2)
		earn(s.t, l, workerHex("three"), tonCoin/4)
	case 2:
		s.give("a", 3*tonCoin, ton.Memo("alice"))
		ask("three", ledger.Account("worker:"+workerHex("three")), tonCoin/4)
	case 4:
		move(s.t, l, "late 1", accountNetwork, ledger.Account("worker:"+workerHex("late")), tonCoin)
	case 6:
		ask("home", "customer:alice", tonCoin)
	case 8:
		move(s.t, l, "late 2", accountNetwork, ledger.Account("worker:"+workerHex("late")), tonCoin)
	}
}

// A ledger that is restored from a backup of any moment, with all payments since executed, or still on their way: the
// treasury notices before it signs anything, Repair places what fits, the operator the rest, and nobody is paid twice.
func TestOldBackup(t *testing.T) {
	w := newWorld(t, devnet.Options{})
	noticed := 0
	for _, flying := range []bool{false, true} {
		for moment := range backupRounds {
			if (testing.Short() || raced) && moment%6 != 0 {
				continue
			}
			t.Run(fmt.Sprintf("%d %v", moment, flying), func(t *testing.T) {
				s := w.scene(t)
				backup, sent := s.firstLife(moment, flying)
				noticed += s.secondLife(backup, sent, flying)
			})
		}
	}
	if noticed < 4 {
		t.Errorf("only %d old backups were noticed", noticed)
	}
}

// firstLife runs until the end, or for some rounds after the backup with all messages on their way.
func (s *scene) firstLife(moment int, flying bool) (backup string, sent [][]byte) {
	l := s.open()
	c := &recorder{Client: s.client}
	x := s.treasury(l, c)
	for round := range backupRounds {
		if round == moment {
			backup = s.path + ".backup"
			s.copyLedger(s.path, backup)
			if flying {
				c.messages = nil
				s.net.Faults().DropExternals(1 << 20)
			}
		}
		s.event(l, x, round)
		step(s.t, x)
		s.skew(2 * time.Second) // for the schedule of earnings
		if flying && round == moment+2 {
			break
		}
	}
	if !flying {
		s.run(x)
	}
	if err := l.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.net.Faults().DropExternals(0)
	return backup, c.messages
}

// copyLedger copies an open ledger that nobody writes to.
func (s *scene) copyLedger(from, to string) {
	s.t.Helper()
	copyFile(s.t, from, to)
	if _, err := os.Stat(from + "-wal"); err == nil {
		copyFile(s.t, from+"-wal", to+"-wal")
	}
}

// secondLife goes on with the backup, some minutes later. It gives 1 if payments turned up that the ledger did not know.
func (s *scene) secondLife(backup string, sent [][]byte, flying bool) (noticed int) {
	s.path = backup
	s.skew(3 * time.Minute)
	l := s.open()
	x := s.treasury(l, s.client)
	before := s.net.Stats().ExternalsIn
	st := step(s.t, x)
	if st.Stopped == "" && x.books.version != 0 && s.net.Stats().ExternalsIn != before {
		s.t.Errorf("it sent at once: %+v", st)
	}
	for _, message := range sent {
		_ = s.net.SendExternal(message)
	}
	s.mine()
	for range 3 {
		st = step(s.t, x)
		s.mine()
	}
	if st.Unmatched > 0 {
		noticed = 1
		if st.Stopped == "" || st.Difference != 0 {
			s.t.Errorf("status: %+v", st)
		}
	}
	s.skew(3 * time.Hour) // batches that the ledger knows expire, if they were not executed
	st = step(s.t, x)
	s.repair(l)
	s.run(x)
	for name, most := range s.entitled() {
		got := s.got(name)
		if got > most || !flying && got != most {
			s.t.Errorf("%s got %v, should get %v", name, got, most)
		}
	}
	s.books(l)
	return noticed
}

// repair is what the operator does.
func (s *scene) repair(l *ledger.Ledger) {
	s.t.Helper()
	ctx := s.t.Context()
	left, err := Repair(ctx, l)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, u := range left {
		switch u.Peer {
		case someone(s.name + "home"):
			err = Settle(ctx, l, u.ID, "customer:alice")
		case someone(s.name + "three"): // asked for after the backup
			err = Settle(ctx, l, u.ID, ledger.Account("worker:"+workerHex("three")))
		case someone(s.name + "late"): // what was earned after the backup is found in the worker's receipts
			move(s.t, l, "found "+u.ID, accountNetwork, ledger.Account("worker:"+workerHex("late")), u.Amount)
		case someone(s.name + "early"):
			// The backup is from before it earned anything; its address is not there either.
			err = Settle(ctx, l, u.ID, accountNetwork)
		default:
			s.t.Errorf("left: %+v", u)
		}
		if errors.Is(err, ledger.ErrOverdrawn) { // the same of what was earned
			err = Settle(ctx, l, u.ID, accountNetwork)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	if left, err = Repair(ctx, l); err != nil {
		s.t.Fatal(err)
	}
	for _, u := range left {
		if err := Settle(ctx, l, u.ID, accountNetwork); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := Settle(ctx, l, "none", accountNetwork); !errors.Is(err, ErrUnknown) {
		s.t.Errorf("settling what is not there: %v", err)
	}
}

func TestRefund(t *testing.T) {
	s, l, x := funded(t, newWorld(t, devnet.Options{}), nil)
	ctx := t.Context()
	s.give("stranger", 2*tonCoin, "hello")
	s.give("friend", 3*tonCoin, "for alice")
	s.mine()
	step(t, x)
	open, err := Unsettled(ctx, l)
	if err != nil || len(open) != 2 {
		t.Fatal(open, err)
	}
	if open[0].Amount > open[1].Amount {
		open[0], open[1] = open[1], open[0]
	}
	id, err := Refund(ctx, l, open[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := Settle(ctx, l, open[1].ID, "customer:alice"); err != nil {
		t.Fatal(err)
	}
	for _, u := range open {
		if _, err := Refund(ctx, l, u.ID); !errors.Is(err, ErrFinal) {
			t.Errorf("again: %v", err)
		}
		if err := Settle(ctx, l, u.ID, "customer:bob"); !errors.Is(err, ErrFinal) {
			t.Errorf("again: %v", err)
		}
	}
	if _, err := Refund(ctx, l, "none"); !errors.Is(err, ErrUnknown) {
		t.Errorf("unknown: %v", err)
	}
	if err := Cancel(ctx, l, id, "no"); !errors.Is(err, ErrFinal) {
		t.Errorf("a refund taken back: %v", err)
	}
	s.run(x)
	if got := s.got("stranger"); got != 2*tonCoin {
		t.Errorf("refunded %v", got)
	}
	all := s.books(l)
	if all["customer:alice"] != 3*tonCoin || find(t, l, id).State != Paid {
		t.Errorf("alice has %v, the refund is %+v", all["customer:alice"], find(t, l, id))
	}
}

// What stops payouts, and nothing else: test money, books that are wrong, another wallet, a ledger that goes back.
func TestStops(t *testing.T) {
	s, l, x := funded(t, newWorld(t, devnet.Options{}), func(c *Config) { c.TestMoney = false })
	ctx := t.Context()
	if err := x.Ask(ctx, Payout{ID: "one", Account: "fees", To: someone("one"), Amount: tonCoin}); err != nil {
		t.Fatal(err)
	}
	stopped := func(what string) {
		t.Helper()
		s.give("a", tonCoin, ton.Memo("alice"))
		for range 3 {
			s.mine()
			if st := step(t, x); st.Stopped == "" || st.Asked+st.Queued != 1 || st.Batched != 0 {
				t.Fatalf("%s: %+v", what, st)
			}
		}
	}
	move(t, l, "test", "test", "customer:bob", tonCoin)
	stopped("test money")
	move(t, l, "test back", "customer:bob", "test", tonCoin)
	move(t, l, "wrong", "chain", "network", 1)
	stopped("one nanoTON too much in the books")
	if st := x.Status(); st.Difference != -1 {
		t.Errorf("status: %+v", st)
	}
	if got, err := l.Balance(ctx, "customer:alice"); err != nil || got != 2*tonCoin {
		t.Errorf("deposits while payouts are stopped: %v, %v", got, err)
	}
	move(t, l, "right", "network", "chain", 1)
	backup := s.path + ".old"
	s.copyLedger(s.path, backup)
	s.run(x)
	if got := s.got("one"); got != tonCoin {
		t.Errorf("paid %v", got)
	}
	// The running treasury finds itself on the older ledger.
	s.path = backup
	x.c.Ledger = s.open()
	if st := step(t, x); st.Unmatched != 1 || st.Quiet.IsZero() {
		t.Errorf("status: %+v", st)
	}
	if left, err := Repair(ctx, x.c.Ledger); err != nil || len(left) != 0 {
		t.Errorf("repair: %v, %v", left, err)
	}
	s.skew(2 * time.Hour)
	if st := s.run(x); st.Stopped != "" || s.got("one") != tonCoin {
		t.Errorf("status: %+v", st)
	}
	other := s.chainWorld.scene(t)
	other.config.Ledger, other.config.Chain = l, s.client
	if _, err := Open(ctx, other.config); !errors.Is(err, ErrWallet) {
		t.Errorf("another wallet: %v", err)
	}
}
