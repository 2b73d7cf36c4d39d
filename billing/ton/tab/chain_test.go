package tab

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"math/big"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	liteapi "github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	"cocoon/internal/nanoton"
)

const (
	mega = nanoton.PerTON
	day  = 24 * time.Hour
)

// key is a signer made from a word.
type key struct{ ed25519.PrivateKey }

func newKey(word string) key {
	seed := sha256.Sum256([]byte(word))
	return key{ed25519.NewKeyFromSeed(seed[:])}
}

func (k key) Public() ed25519.PublicKey { return k.PrivateKey.Public().(ed25519.PublicKey) }

func (k key) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(k.PrivateKey, message), nil
}

// account is some address of the basechain, with no contract at it.
func account(word string) ton.Address { return ton.Address{Hash: sha256.Sum256([]byte(word))} }

// testingT is of testing and of rapid.
type testingT interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
	Logf(string, ...any)
}

// chain is a devnet whose clock only moves when it is told to.
type chain struct {
	n      *devnet.Network
	api    *liteapi.APIClient
	start  time.Time
	skew   time.Duration
	prices prices
	read   struct { // the last account that was read
		seqno   uint32
		of      ton.Address
		account *tlb.Account
	}
}

// today is the network's configuration of 2026-05-14; before 2026-04-29 its prices were six times as high.
const (
	today  = "mainnet-config-2026-05-14.boc"
	before = "mainnet-config-2026-04-17.boc"
)

func configBOC(t *testing.T, name string) []byte {
	t.Helper()
	boc, err := os.ReadFile("../devnet/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return boc
}

// dearer multiplies the prices of gas, messages and storage in the basechain.
func dearer(t *testing.T, boc []byte, factor uint64) []byte {
	t.Helper()
	root, err := cell.FromBOC(boc)
	if err != nil {
		t.Fatal(err)
	}
	config := root.AsDict(32)
	// each is a cell of a tag of 8 bits and numbers of 64: which of them are prices
	for param, layout := range map[int64]string{
		21: "8 64 64* 8 64* 64 64 64 64 64 64", 25: "8 64* 64* 64* 32 16 16",
	} {
		key := big.NewInt(param)
		value, err := config.LoadValueByIntKey(key)
		if err != nil {
			t.Fatal(err)
		}
		s := value.MustLoadRef()
		b := cell.BeginCell()
		for field := range strings.FieldsSeq(layout) {
			bits, err := strconv.Atoi(strings.TrimSuffix(field, "*"))
			if err != nil {
				t.Fatal(err)
			}
			v := s.MustLoadUInt(uint(bits))
			if strings.HasSuffix(field, "*") {
				v *= factor
			}
			b.MustStoreUInt(v, uint(bits))
		}
		if s.BitsLeft() != 0 {
			t.Fatalf("parameter %d has %d bits more", param, s.BitsLeft())
		}
		if err := config.SetIntKey(key, cell.BeginCell().MustStoreRef(b.EndCell()).EndCell()); err != nil {
			t.Fatal(err)
		}
	}
	return config.AsCell().ToBOC()
}

func newChain(t *testing.T, configFile string) *chain {
	t.Helper()
	return newChainOf(t, configBOC(t, configFile))
}

func newChainOf(t *testing.T, boc []byte) *chain {
	t.Helper()
	c := &chain{start: time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)}
	var err error
	if c.n, err = devnet.New(devnet.Options{Clock: func() time.Time { return c.start }, ConfigBOC: boc}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.n.Close)
	if err = c.n.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	pool, err := c.n.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Stop)
	c.api = liteapi.NewAPIClient(pool, liteapi.ProofCheckPolicyUnsafe)
	root, err := cell.FromBOC(boc)
	if err != nil {
		t.Fatal(err)
	}
	c.prices = prices{tlb.BlockchainConfig{Root: root}, t}
	return c
}

func (c *chain) now() time.Time { return c.start.Add(c.skew) }

func (c *chain) wait(d time.Duration) {
	c.skew += d
	c.n.SkewClock(d)
}

func (c *chain) mine(t testingT) {
	t.Helper()
	if err := c.n.Mine(); err != nil {
		t.Fatal(err)
	}
}

func (c *chain) balance(a ton.Address) nanoton.Amount {
	return nanoton.Amount(c.n.Balance(a.Std()).Int64())
}

// raw reads an account's newest state as the library has it, once a block.
func (c *chain) raw(t testingT, a ton.Address) *tlb.Account {
	t.Helper()
	if c.read.seqno == c.n.Seqno() && c.read.of == a {
		return c.read.account
	}
	ctx := context.Background()
	b, err := c.api.GetMasterchainInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	acc, err := c.api.GetAccount(ctx, b, a.Std())
	if err != nil {
		t.Fatal(err)
	}
	c.read.seqno, c.read.of, c.read.account = b.SeqNo, a, acc
	return acc
}

func (c *chain) state(t testingT, a ton.Address) ton.State {
	t.Helper()
	acc := c.raw(t, a)
	s := ton.State{Address: a, Balance: c.balance(a), Exists: acc.IsActive}
	if acc.State != nil && acc.State.Status == tlb.AccountStatusActive {
		s.Active, s.Code, s.Data = true, acc.Code, acc.Data
	}
	return s
}

func (c *chain) tab(t testingT, a ton.Address) State {
	t.Helper()
	st, err := ParseState(c.state(t, a))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// step is what one message did to an account.
type step struct {
	exit, action int32 // of code and actions; exit is -1 if no code ran
	gas          int64
	fees         nanoton.Amount // all that left the account, but for the amounts of messages
	storage, in  nanoton.Amount
	out          []ton.Message
}

// last reads an account's newest transaction.
func (c *chain) last(t testingT, a ton.Address) step {
	t.Helper()
	acc := c.raw(t, a)
	list, err := c.api.ListTransactions(context.Background(), a.Std(), 1, acc.LastTxLT, acc.LastTxHash)
	if err != nil || len(list) != 1 {
		t.Fatalf("transactions: %d, %v", len(list), err)
	}
	tx := list[0]
	d := tx.Description.(tlb.TransactionDescriptionOrdinary)
	s := step{exit: -1, fees: amount(tx.TotalFees.Coins)}
	if d.StoragePhase != nil {
		s.storage = amount(d.StoragePhase.StorageFeesCollected)
	}
	if vm, ok := d.ComputePhase.Phase.(tlb.ComputePhaseVM); ok {
		s.exit, s.gas = vm.Details.ExitCode, vm.Details.GasUsed.Int64()
	}
	if d.ActionPhase != nil {
		s.action = d.ActionPhase.ResultCode
	}
	if tx.IO.In.MsgType == tlb.MsgTypeInternal {
		s.in = amount(tx.IO.In.AsInternal().Amount)
	}
	if tx.IO.Out == nil {
		return s
	}
	messages, err := tx.IO.Out.ToSlice()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		i := m.AsInternal()
		to, err := ton.FromStd(i.DstAddr)
		if err != nil {
			t.Fatal(err)
		}
		s.fees += amount(i.FwdFee)
		s.out = append(s.out, ton.Message{From: a, To: to, Bounced: i.Bounced, Amount: amount(i.Amount), Body: i.Body})
	}
	return s
}

func amount(c tlb.Coins) nanoton.Amount { return nanoton.Amount(c.Nano().Int64()) }

func coins(a nanoton.Amount) tlb.Coins { return tlb.FromNanoTON(big.NewInt(int64(a))) }

// send delivers an internal message; whom it comes from need not have the money.
func (c *chain) send(t testingT, from, to ton.Address, value nanoton.Amount, body *cell.Cell) step {
	t.Helper()
	c.post(t, &tlb.InternalMessage{SrcAddr: from.Std(), DstAddr: to.Std(), Amount: coins(value), Body: body, Bounce: true})
	return c.last(t, to)
}

// fund is a plain transfer, as to an address of the form UQ.
func (c *chain) fund(t testingT, to ton.Address, value nanoton.Amount, init *tlb.StateInit) {
	t.Helper()
	from := account("exchange").Std()
	c.post(t, &tlb.InternalMessage{SrcAddr: from, DstAddr: to.Std(), Amount: coins(value), StateInit: init})
}

func (c *chain) post(t testingT, m *tlb.InternalMessage) {
	t.Helper()
	m.IHRDisabled = true
	if err := c.n.Inject(m); err != nil {
		t.Fatal(err)
	}
	c.mine(t)
}

// bring sends a voucher's message; false: it was not accepted.
func (c *chain) bring(t testingT, to ton.Address, init *tlb.StateInit, body []byte) bool {
	t.Helper()
	root, err := cell.FromBOC(body)
	if err != nil {
		t.Fatal(err)
	}
	m, err := tlb.ToCell(&tlb.ExternalMessage{DstAddr: to.Std(), StateInit: init, Body: root})
	if err != nil {
		t.Fatal(err)
	}
	if c.n.SendExternal(m.ToBOC()) != nil {
		return false
	}
	c.mine(t)
	return true
}

// prices are a config's, reckoned here and not by the package ton.
type prices struct {
	config tlb.BlockchainConfig
	t      testingT
}

func (p prices) Gas(units uint64) nanoton.Amount {
	g, err := p.config.GetGasPrices(false)
	if err != nil {
		p.t.Fatal(err)
	}
	if units <= g.FlatGasLimit {
		return nanoton.Amount(g.FlatGasPrice)
	}
	over := new(big.Int).Mul(big.NewInt(int64(units-g.FlatGasLimit)), big.NewInt(int64(g.GasPrice)))
	return nanoton.Amount(g.FlatGasPrice) + ceil16(over)
}

func (p prices) Forward(bits, cells uint64) nanoton.Amount {
	m, err := p.config.GetMsgForwardPrices(false)
	if err != nil {
		p.t.Fatal(err)
	}
	return nanoton.Amount(m.LumpPrice) + ceil16(big.NewInt(int64(m.BitPrice*bits+m.CellPrice*cells)))
}

func (p prices) Storage(bits, cells uint64, d time.Duration) nanoton.Amount {
	s, err := p.config.GetStoragePrices(0)
	if err != nil {
		p.t.Fatal(err)
	}
	per := big.NewInt(int64(s.BitPrice*bits + s.CellPrice*cells))
	return ceil16(per.Mul(per, big.NewInt(int64(d/time.Second))))
}

func ceil16(n *big.Int) nanoton.Amount {
	return nanoton.Amount(new(big.Int).Rsh(n.Add(n, big.NewInt(1<<16-1)), 16).Int64())
}
