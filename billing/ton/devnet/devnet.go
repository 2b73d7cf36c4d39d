// Package devnet is a TON network in this process, for development and tests: the real virtual machine under the
// mainnet's configuration, real blocks, and liteservers with proofs.
//
// It keeps a masterchain and one basechain shard. Every transaction is executed by the TVM of tonutils-go; what comes
// out is packed into Block and ShardState cells, which are served over the lite protocol (ADNL over TCP) with Merkle
// proofs and a validator's signatures. An ordinary client works against it with every proof checked.
//
// Time is the caller's: see Options.Clock, SkewClock and SetClock. What goes wrong on a real network is had by Faults.
// With Options.Dir the chain outlives the process, to the last block that anybody saw.
//
// It's no full node: there is one shard that never splits, nobody but the faucet makes money, messages between
// accounts have no queue on chain, and one signature is a consensus.
package devnet

import (
	"bytes"
	"context"
	"crypto/ed25519"
	_ "embed"
	"errors"
	"log/slog"
	"math"
	"math/big"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// mainnetConfig is the dictionary of the mainnet's parameters as of 2026-05-14, with the fees since 2026-04-29.
//
//go:embed testdata/mainnet-config-2026-05-14.boc
var mainnetConfig []byte

const (
	// GlobalID is the network's number, in parameter 19: what is signed for it, as wallets V5 do, counts nowhere else.
	// The mainnet's is -239.
	GlobalID = int32(-217)
	// ltStep is the distance of logical times between blocks: more than a block of ours has messages.
	ltStep = 1_000_000
	// txMax is the default of Options.MaxTxPerBlock: two seconds' work.
	txMax = 5000
	// master and base are the workchains that there are.
	master, base = int32(-1), int32(0)
	// shardPrefix is the one shard of either.
	shardPrefix = uint64(1) << 63
)

// Errors that callers tell apart.
var (
	// ErrNotAccepted is what becomes of an external message that no contract pays for. Liteservers say so with code 0.
	ErrNotAccepted = errors.New("external message was not accepted")
	// ErrMessage marks a message that is none, is too large, or is not for an account that can be here.
	ErrMessage = errors.New("not a message for an account here")
	// ErrClosed is what a closed network answers.
	ErrClosed = errors.New("the network is closed")
)

// Options of a network. The zero value is usable: blocks by Mine alone, wall clock, in memory.
type Options struct {
	// ConfigBOC is a dictionary of the chain's parameters; nil: the mainnet's of 2026-05-14.
	ConfigBOC []byte
	// BlockInterval, if not zero, is how often Start mines a block, empty or not: its heartbeat.
	BlockInterval time.Duration
	// AutoMine has Start mine as soon as there is a message, too.
	AutoMine bool
	// Clock is what the blocks' clock goes by; nil: time.Now. SkewClock and SetClock move the blocks' clock against it.
	Clock func() time.Time
	// MaxTxPerBlock bounds a block's transactions: what is left goes into the next; 0: 5000.
	MaxTxPerBlock int
	// NextBlockDelivery has messages between accounts take a block, as between shards; else they arrive in the same.
	NextBlockDelivery bool
	// HistoryBlocks, if not zero, is how far back liteservers know transactions: older ones are "lt not in db".
	HistoryBlocks uint32
	// Seed decides the validator's key and what contracts draw by lot.
	Seed int64
	// Dir, if not empty, is the folder that keeps the chain. It belongs to one network at a time. What decides the chain
	// (ConfigBOC, MaxTxPerBlock, NextBlockDelivery, Seed) must stay the same: else New says ErrOtherChain.
	Dir string
	// Log is told when the network can't go on and what it had to drop; nil: nobody.
	Log *slog.Logger
}

// account is one account's newest state, ready for the next transaction.
type account struct {
	prepared *tvm.PreparedAccount
	stat     *cell.Cell
}

// shard is one chain: the masterchain, or the only shard of the basechain.
type shard struct {
	wc       int32
	accounts map[[32]byte]*account
	dict     *tlb.ShardAccountsAugDict
	head     *block
	queue    []tvm.OutMessage // internal messages that wait for delivery
}

// txRef is a transaction and where it stands.
type txRef struct {
	cell     *cell.Cell
	lt       uint64
	prevLT   uint64
	prevHash [32]byte
	acc      [32]byte
	hash     [32]byte
	block    *block
}

// block is a block and the state after it. It never changes once it's published.
type block struct {
	id       *ton.BlockIDExt
	root     *cell.Cell
	state    *cell.Cell
	utime    uint32
	startLT  uint64
	endLT    uint64
	key      bool
	mcSeqno  uint32   // the masterchain block that includes it
	txs      []*txRef // by account and lt, as the block's dictionary has them
	shardTop *block   // of masterchain blocks: the basechain block that they include
}

// pooled is an external message that waits for its block.
type pooled struct {
	msg *tvm.PreparedMessage
	dst *address.Address
}

// Network is a network. Its methods may be called at the same time.
type Network struct {
	opts    Options
	log     *slog.Logger
	machine *tvm.TVM
	cfgRoot *cell.Cell
	cfg     *tvm.PreparedBlockchainConfig
	version tlb.GlobalVersion
	cfgAddr []byte
	valKey  ed25519.PrivateKey
	valHash uint32
	secret  []byte // liteservers' keys derive from it
	zero    *ton.ZeroStateIDExt
	first   *block // seqno 1, the only key block

	mx      sync.Mutex
	mc, bc  *shard
	pool    []*pooled
	blocks  map[string]*block // by root hash
	bySeqno map[int32][]*block
	txs     map[[32]byte]*txRef // by hash
	prevMC  *cell.AugmentedDictionary
	minted  uint64 // messages from nowhere since the newest block
	pending int    // bytes of messages from outside since then
	awaited map[[32]byte][]chan uint32
	landed  []chan uint32
	journal *journal
	stats   Stats
	err     error         // why there are no more blocks
	newBlk  chan struct{} // closed and replaced with every block
	servers []*Server

	skew   atomic.Int64
	head   atomic.Pointer[block] // the newest masterchain block
	faults Faults

	starting, closing sync.Once
	stop              chan struct{}
	kick              chan struct{}
	wg                sync.WaitGroup
}

// Stats are counters since the chain's beginning, but for what was refused or lost on the way: since New.
type Stats struct {
	// Blocks are masterchain blocks, Transactions those of all accounts.
	Blocks, Transactions uint64
	// ExternalsIn are external messages that came, ExternalsDropped those that were accepted and then lost, or refused
	// by the contract when their block was made.
	ExternalsIn, ExternalsDropped uint64
	// Minted are messages from nowhere: of the faucet and of Inject.
	Minted uint64
}

// New makes a network with its first blocks, or continues the one in Options.Dir. It serves nobody yet: see Listen.
func New(opts Options) (*Network, error) {
	n, err := build(opts)
	if err != nil {
		return nil, err
	}
	if opts.Dir == "" {
		h, err := n.newHeader()
		if err != nil {
			return nil, err
		}
		return n, n.begin(h)
	}
	if err := n.openJournal(); err != nil {
		return nil, err
	}
	return n, nil
}

// build makes a network without a block.
func build(opts Options) (*Network, error) {
	if opts.ConfigBOC == nil {
		opts.ConfigBOC = mainnetConfig
	}
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	if opts.MaxTxPerBlock <= 0 {
		opts.MaxTxPerBlock = txMax
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	n := &Network{
		opts: opts, log: opts.Log, machine: tvm.NewTVM(), valKey: validatorKey(opts.Seed),
		blocks: map[string]*block{}, bySeqno: map[int32][]*block{}, txs: map[[32]byte]*txRef{},
		awaited: map[[32]byte][]chan uint32{},
		newBlk:  make(chan struct{}), stop: make(chan struct{}), kick: make(chan struct{}, 1),
	}
	if err := n.prepareConfig(); err != nil {
		return nil, err
	}
	var err error
	if n.prevMC, err = cell.NewAugDict(32, oldMcBlocksAug{}); err != nil {
		return nil, err
	}
	if n.mc, err = newShard(master); err != nil {
		return nil, err
	}
	n.bc, err = newShard(base)
	return n, err
}

func newShard(wc int32) (*shard, error) {
	dict, err := tlb.NewShardAccountsAugDict()
	return &shard{wc: wc, accounts: map[[32]byte]*account{}, dict: dict}, err
}

// Start makes blocks by itself, as BlockInterval and AutoMine say, until Close. If it can't go on, Err says why.
func (n *Network) Start() {
	n.starting.Do(func() { n.wg.Go(n.produceAll) })
}

func (n *Network) produceAll() {
	var tick <-chan time.Time
	if n.opts.BlockInterval > 0 {
		t := time.NewTicker(n.opts.BlockInterval)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-n.stop:
			return
		case <-tick:
		case <-n.kick:
		}
		if err := n.Mine(); err != nil {
			return // it's logged
		}
	}
}

// Close stops making blocks and serving, and closes the files. It may be called twice.
func (n *Network) Close() {
	n.closing.Do(func() {
		close(n.stop)
		n.wg.Wait()
		for _, s := range n.Servers() {
			s.Stop()
		}
		n.mx.Lock()
		defer n.mx.Unlock()
		if n.err == nil {
			n.err = ErrClosed
		}
		if n.journal != nil {
			n.journal.close(n.log)
		}
	})
}

// Err is why there are no more blocks: nil while there are, ErrClosed after Close.
func (n *Network) Err() error {
	n.mx.Lock()
	defer n.mx.Unlock()
	return n.err
}

// Now is the blocks' clock. A block's time is never before the last one's, and in whole seconds.
func (n *Network) Now() time.Time { return n.opts.Clock().Add(time.Duration(n.skew.Load())) }

// unix is Now as blocks have it: up to the year 2106.
func (n *Network) unix() uint32 { return uint32(max(0, min(n.Now().Unix(), math.MaxUint32))) }

// SkewClock moves the blocks' clock, such as past a timeout. The next block's time has it, and so has a restarted
// network, once there was a block.
func (n *Network) SkewClock(d time.Duration) { n.skew.Add(int64(d)) }

// SetClock sets the blocks' clock, which goes on from there as Options.Clock does. Blocks never go back in time: set
// to the past, their time stands still.
func (n *Network) SetClock(t time.Time) { n.skew.Store(int64(t.Sub(n.opts.Clock()))) }

// Stats are the counters.
func (n *Network) Stats() Stats {
	n.mx.Lock()
	defer n.mx.Unlock()
	return n.stats
}

// Seqno is the newest masterchain block's.
func (n *Network) Seqno() uint32 { return n.head.Load().id.SeqNo }

// BlockTime is the newest masterchain block's time.
func (n *Network) BlockTime() time.Time { return time.Unix(int64(n.head.Load().utime), 0) }

// Wait waits for the masterchain block of that seqno, or a later one.
func (n *Network) Wait(ctx context.Context, seqno uint32) error {
	for {
		n.mx.Lock()
		next, err := n.newBlk, n.err
		n.mx.Unlock()
		if n.Seqno() >= seqno {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-next:
		case <-n.stop:
			return ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Mine makes one basechain block and one masterchain block of what waits. After an error there are no more blocks.
func (n *Network) Mine() error {
	n.mx.Lock()
	defer n.mx.Unlock()
	return n.mineLocked()
}

// Balance is an account's in the newest block, in nanoTON; 0 if there is no such account.
func (n *Network) Balance(a *address.Address) *big.Int {
	n.mx.Lock()
	defer n.mx.Unlock()
	acc := n.shardOf(a.Workchain()).accounts[accountKey(a)]
	if acc == nil || acc.prepared.State() == nil || acc.prepared.State().Balance.Nano() == nil {
		return new(big.Int)
	}
	return new(big.Int).Set(acc.prepared.State().Balance.Nano())
}

func (n *Network) shardOf(wc int32) *shard {
	if wc == master {
		return n.mc
	}
	return n.bc
}

func accountKey(a *address.Address) (k [32]byte) {
	copy(k[:], a.Data())
	return k
}

// housed tells whether an account can be here.
func housed(a *address.Address) bool {
	return a != nil && a.Type() == address.StdAddress && a.Anycast() == nil && len(a.Data()) == 32 &&
		(a.Workchain() == master || a.Workchain() == base)
}

// byAccount orders transactions as a block's dictionary does.
func byAccount(a, b *txRef) int {
	if c := bytes.Compare(a.acc[:], b.acc[:]); c != 0 {
		return c
	}
	return int(int64(a.lt - b.lt)) //nolint:gosec // logical times of one block are near each other
}
