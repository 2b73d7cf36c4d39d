package devnet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/ton/wallet"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// The tests in this file hold what tonutils-go and the wallets' contracts do, where one would think otherwise. Where
// one fails after an upgrade, code of ours that works around it may go.

func readTestdata(name string) ([]byte, error) { return os.ReadFile(filepath.Join("testdata", name)) }

func (e env) payouts(
	t testing.TB, hw *wallet.Wallet, k int, amount, comment string,
) (msgs []*wallet.Message, to []*address.Address) {
	t.Helper()
	for i := range k {
		to = append(to, stranger(fmt.Sprint("w", i)))
		c := ""
		if comment != "" {
			c = fmt.Sprint(comment, i)
		}
		m, err := hw.BuildTransfer(to[i], tlb.MustFromTON(amount), false, c)
		if err != nil {
			t.Fatal(err)
		}
		msgs = append(msgs, m)
	}
	return msgs, to
}

// paid counts who got nothing, one amount, and more.
func (e env) paid(to []*address.Address, amount int64) (none, once, more int) {
	for _, a := range to {
		switch b := e.n.Balance(a).Int64(); {
		case b == 0:
			none++
		case b == amount:
			once++
		default:
			more++
		}
	}
	return none, once, more
}

// One external message of a highload wallet pays 991 at most, by its 64 KiB; 710 with comments of 24 bytes or so.
func TestHighloadMaxBatch(t *testing.T) {
	e := start(t, Options{}, ton.ProofCheckPolicyUnsafe)
	hw := e.highload(t, "payout")
	fund(t, e.n, hw.WalletAddress(), "1000")
	for _, k := range []int{992, 991} {
		msgs, to := e.payouts(t, hw, k, "0.1", "")
		x, err := hw.PrepareExternalMessageForMany(e.ctx, true, msgs)
		if err != nil {
			t.Fatal(err)
		}
		err = e.n.SendExternal(must(tlb.ToCell(x)).ToBOCWithOptions(cell.BOCSerializeOptions{}))
		mine(t, e.n, 1)
		_, once, _ := e.paid(to, 100_000_000)
		if k == 992 && (!errors.Is(err, ErrMessage) || once != 0) || k == 991 && (err != nil || once != 991) {
			t.Errorf("%d: %v, %d are paid", k, err, once)
		}
	}
}

// The query's number is spent and nobody is paid when the balance is short.
func TestHighloadProcessedIsNotPaid(t *testing.T) {
	e := start(t, Options{}, ton.ProofCheckPolicyFast)
	hw := e.highload(t, "payout")
	fund(t, e.n, hw.WalletAddress(), "5")
	msgs, to := e.payouts(t, hw, 10, "1", "")
	if err := hw.SendMany(e.ctx, msgs); err != nil {
		t.Fatal(err)
	}
	mine(t, e.n, 1)
	head := must(e.api.GetMasterchainInfo(e.ctx))
	r := must(e.api.RunGetMethod(e.ctx, head, hw.WalletAddress(), "processed?", e.ids.Load(), 0))
	if none, _, _ := e.paid(to, 1e9); r.MustInt(0).Int64() != -1 || none != 10 {
		t.Errorf("processed? is %v, %d have nothing", r.MustInt(0), none)
	}
}

// The library's packActions appends to the caller's slice: a batch that is built twice pays some twice, others never.
func TestHighloadRebuildSameSlice(t *testing.T) {
	e := start(t, Options{}, ton.ProofCheckPolicyFast)
	hw := e.highload(t, "payout")
	fund(t, e.n, hw.WalletAddress(), "100000")
	msgs, to := e.payouts(t, hw, 300, "1", "")
	if _, err := hw.PrepareExternalMessageForMany(e.ctx, true, msgs); err != nil { // never sent
		t.Fatal(err)
	}
	if err := hw.SendMany(e.ctx, msgs); err != nil {
		t.Fatal(err)
	}
	mine(t, e.n, 3)
	if _, _, twice := e.paid(to, 1e9); twice != 46 {
		t.Errorf("%d of 300 are paid more than once; it was 46", twice)
	}
}

// A signed message can be sent any number of times, until its time is over.
func TestHighloadResendIsIdempotent(t *testing.T) {
	e := start(t, Options{}, ton.ProofCheckPolicyFast)
	hw := e.highload(t, "payout")
	fund(t, e.n, hw.WalletAddress(), "1000")
	msgs, to := e.payouts(t, hw, 20, "1", "")
	ext, err := hw.PrepareExternalMessageForMany(e.ctx, true, msgs)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for i := range 5 {
		if err := e.api.SendExternalMessage(e.ctx, ext); err != nil {
			if _, ok := errors.AsType[ton.LSError](err); !ok {
				t.Fatal(err)
			}
			refused++
		}
		mine(t, e.n, i%2)
	}
	mine(t, e.n, 1)
	if _, once, _ := e.paid(to, 1e9); once != 20 || refused != 3 {
		t.Errorf("%d are paid once, it was refused %d times", once, refused)
	}
	e.n.SkewClock(2 * time.Hour)
	mine(t, e.n, 1)
	if err := e.api.SendExternalMessage(e.ctx, ext); err == nil {
		t.Error("accepted after its time")
	}
}

// That a transaction is confirmed doesn't mean that money was sent: a V5 wallet refuses a mode without "ignore errors"
// after it has accepted the message and counted it.
func TestConfirmedIsNotSent(t *testing.T) {
	e := start(t, Options{BlockInterval: 100 * time.Millisecond, AutoMine: true}, ton.ProofCheckPolicySecure)
	a, b := e.v5(t, "alice"), e.v5(t, "bob")
	fund(t, e.n, a.WalletAddress(), "10")
	tx, _, err := a.SendWaitTransaction(e.ctx, &wallet.Message{
		Mode: wallet.PayGasSeparately,
		InternalMessage: &tlb.InternalMessage{
			IHRDisabled: true, DstAddr: b.WalletAddress(), Amount: tlb.MustFromTON("1"),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	d, ok := tx.Description.(tlb.TransactionDescriptionOrdinary)
	if !ok || d.Aborted || tx.OutMsgCount != 0 || e.n.Balance(b.WalletAddress()).Sign() != 0 {
		t.Errorf("aborted %v, %d messages, bob has %v", d.Aborted, tx.OutMsgCount, e.n.Balance(b.WalletAddress()))
	}
}

// SubscribeOnTransactions closes its channel for good, without a word, when the server has forgotten what it needs.
func TestSubscribeGivesUpSilently(t *testing.T) {
	e := start(t, Options{HistoryBlocks: 3}, ton.ProofCheckPolicyFast)
	gw := stranger("gateway")
	fund(t, e.n, gw, "1")
	mine(t, e.n, 10)
	ch := make(chan *tlb.Transaction)
	go e.api.SubscribeOnTransactions(e.ctx, gw, 0, ch)
	select {
	case tx, ok := <-ch:
		if ok {
			t.Error(tx)
		}
	case <-e.ctx.Done():
		t.Error("neither")
	}
}
