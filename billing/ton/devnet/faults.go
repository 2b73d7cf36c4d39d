package devnet

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// seenMax bounds the messages that LoseFirst remembers: it's for tests.
const seenMax = 1 << 16

// Faults are what a real network does to its clients. Those of a Network hold for all its liteservers, those of a
// Server for it alone. The zero value has none. Its methods may be called at any time.
type Faults struct {
	mx        sync.Mutex
	dropNext  int
	loseFirst bool
	seen      map[[32]byte]struct{}
	rate      float64
	random    *rand.Rand
	lag       uint32
	history   uint32
	mute      bool
	delay     time.Duration
	hook      func(q tl.Serializable) (resp tl.Serializable, done bool)
	alter     func(q, resp tl.Serializable) tl.Serializable
	lies      map[lie]bool
}

// lie is what a lying liteserver lies about.
type lie int

const (
	lieBalance lie = iota
	lieState
	lieSignature
	lieMethod
	lieHistory
)

// Faults are those of all liteservers, and of SendExternal.
func (n *Network) Faults() *Faults { return &n.faults }

func (f *Faults) set(change func()) {
	f.mx.Lock()
	defer f.mx.Unlock()
	change()
}

// DropExternals loses the next k external messages that are accepted: their senders are told that all is well.
func (f *Faults) DropExternals(k int) { f.set(func() { f.dropNext = k }) }

// LoseFirst loses each external message the first time it comes; sent again, it arrives.
func (f *Faults) LoseFirst(on bool) {
	f.set(func() { f.loseFirst, f.seen = on, map[[32]byte]struct{}{} })
}

// FailRandomly answers that share of queries, 0 to 1, with one of the errors that overloaded liteservers give. Which
// ones is decided by the seed.
func (f *Faults) FailRandomly(rate float64, seed uint64) {
	f.set(func() { f.rate, f.random = rate, rand.New(rand.NewPCG(seed, 0)) })
}

// Lag has the liteserver know nothing of the newest k masterchain blocks; it's as good as any for what is older.
func (f *Faults) Lag(k uint32) { f.set(func() { f.lag = k }) }

// History has the liteserver know no transactions from before the last k masterchain blocks: "lt not in db". 0: all.
func (f *Faults) History(k uint32) { f.set(func() { f.history = k }) }

// Mute has queries get no answer at all, as behind a broken connection.
func (f *Faults) Mute(on bool) { f.set(func() { f.mute = on }) }

// Delay has answers take that long.
func (f *Faults) Delay(d time.Duration) { f.set(func() { f.delay = d }) }

// Hook sees each query first; where it says done, its response is the answer, and nil is none.
func (f *Faults) Hook(fn func(q tl.Serializable) (resp tl.Serializable, done bool)) {
	f.set(func() { f.hook = fn })
}

// Alter changes answers: what it makes of a query's response is sent instead, and nil is no answer.
func (f *Faults) Alter(fn func(q, resp tl.Serializable) tl.Serializable) {
	f.set(func() { f.alter = fn })
}

// LieBalance answers states of accounts with 1000 TON, and with the proof of what they really have.
func (f *Faults) LieBalance(on bool) { f.lie(lieBalance, on) }

// LieState answers states of accounts as they were at the beginning of the chain, with the proofs of that, for the block
// that was asked for.
func (f *Faults) LieState(on bool) { f.lie(lieState, on) }

// LieSignature forges the validator's signatures in proofs of blocks.
func (f *Faults) LieSignature(on bool) { f.lie(lieSignature, on) }

// LieMethod answers get-methods with the number 31337 and with genuine proofs: these prove the account's state, not what
// its code makes of it.
func (f *Faults) LieMethod(on bool) { f.lie(lieMethod, on) }

// LieHistory leaves the second transaction out of lists of more than one.
func (f *Faults) LieHistory(on bool) { f.lie(lieHistory, on) }

func (f *Faults) lie(what lie, on bool) {
	f.set(func() {
		if f.lies == nil {
			f.lies = map[lie]bool{}
		}
		f.lies[what] = on
	})
}

// lose tells whether an external message is lost.
func (f *Faults) lose(hash []byte) bool {
	f.mx.Lock()
	defer f.mx.Unlock()
	if f.loseFirst && len(f.seen) < seenMax {
		if _, again := f.seen[[32]byte(hash)]; !again {
			f.seen[[32]byte(hash)] = struct{}{}
			return true
		}
	}
	if f.dropNext > 0 {
		f.dropNext--
		return true
	}
	return false
}

// before is what becomes of a query without its being asked: done with nil is no answer.
func (f *Faults) before(ctx context.Context, q tl.Serializable) (resp tl.Serializable, done bool) {
	f.mx.Lock()
	hook, mute, delay := f.hook, f.mute, f.delay
	failure := f.rate > 0 && f.random.Float64() < f.rate
	kind := 0
	if failure {
		kind = f.random.IntN(4)
	}
	f.mx.Unlock()
	if hook != nil {
		if resp, done := hook(q); done {
			return resp, true
		}
	}
	if mute {
		return nil, true
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, true
		}
	}
	if !failure {
		return nil, false
	}
	return []ton.LSError{
		{Code: 228, Text: "ratelimit exceeded"},
		{Code: 651, Text: "block is not applied"},
		{Code: 652, Text: "timeout"},
		{Code: -400, Text: "cannot load block"},
	}[kind], true
}

func (f *Faults) view() (lag, history uint32) {
	f.mx.Lock()
	defer f.mx.Unlock()
	return f.lag, f.history
}

// after makes a lie of an answer.
func (f *Faults) after(v *view, q, resp tl.Serializable) tl.Serializable {
	f.mx.Lock()
	alter, lies := f.alter, make([]lie, 0, len(f.lies))
	for l, on := range f.lies {
		if on {
			lies = append(lies, l)
		}
	}
	f.mx.Unlock()
	for _, l := range lies {
		if lied, err := l.tell(v, q, resp); err == nil {
			resp = lied
		}
	}
	if alter != nil {
		resp = alter(q, resp)
	}
	return resp
}

// tell makes the lie of an answer that it's about; other answers stay.
func (l lie) tell(v *view, q, resp tl.Serializable) (tl.Serializable, error) {
	switch r := resp.(type) {
	case ton.AccountState:
		ask, ok := q.(ton.GetAccountState)
		if !ok {
			return resp, nil
		}
		switch {
		case l == lieBalance && r.State != nil:
			return richer(r)
		case l == lieState:
			return younger(v, ask, r)
		}
	case ton.PartialBlockProof:
		if l == lieSignature {
			return forged(r), nil
		}
	case ton.RunMethodResult:
		if l == lieMethod && r.Result != nil {
			st := tlb.NewStack()
			st.Push(int64(31337))
			c, err := st.ToCell()
			r.Result = c
			return r, err
		}
	case ton.TransactionList:
		if l == lieHistory && len(r.IDs) > 1 {
			return shorter(r)
		}
	}
	return resp, nil
}

func richer(r ton.AccountState) (tl.Serializable, error) {
	var st tlb.AccountState
	if err := tlb.Parse(&st, r.State); err != nil {
		return nil, err
	}
	st.Balance = tlb.MustFromTON("1000")
	c, err := tlb.ToCell(&st)
	r.State = c
	return r, err
}

func younger(v *view, q ton.GetAccountState, r ton.AccountState) (tl.Serializable, error) {
	old, err := v.accountState(v.first.id, q.Account)
	if err != nil {
		return nil, err
	}
	st, ok := old.(ton.AccountState)
	if !ok {
		return r, nil
	}
	st.ID, st.Shard = r.ID, r.Shard
	return st, nil
}

func forged(r ton.PartialBlockProof) tl.Serializable {
	steps := make([]any, len(r.Steps))
	for i, s := range r.Steps {
		if f, ok := s.(ton.BlockLinkForward); ok {
			if set, ok := f.SignatureSet.(ton.SignatureSetOrdinary); ok && len(set.Signatures) > 0 {
				bad := make([]byte, len(set.Signatures[0].Signature))
				copy(bad, set.Signatures[0].Signature)
				bad[5] ^= 1
				set.Signatures = []ton.Signature{{NodeIDShort: set.Signatures[0].NodeIDShort, Signature: bad}}
				f.SignatureSet = set
			}
			s = f
		}
		steps[i] = s
	}
	r.Steps = steps
	return r
}

func shorter(r ton.TransactionList) (tl.Serializable, error) {
	cells, err := cell.FromBOCMultiRoot(r.Transactions)
	if err != nil || len(cells) < 2 {
		return r, err
	}
	cells = append(cells[:1:1], cells[2:]...)
	r.IDs = append(r.IDs[:1:1], r.IDs[2:]...)
	r.Transactions = cell.ToBOCWithOptions(cells, cell.BOCSerializeOptions{})
	return r, nil
}
