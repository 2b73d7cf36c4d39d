package ton

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cocoon/billing/ton/devnet"
	"cocoon/internal/nanoton"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/liteclient"
	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/ton/wallet"
	"github.com/xssnick/tonutils-go/tvm/cell"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// chain is a devnet with liteservers of its own in front of it.
type chain struct {
	*devnet.Network
	t      testing.TB
	pool   *liteclient.ConnectionPool // to the devnet
	api    *ton.APIClient             // for tonutils' wallets
	skew   atomic.Int64
	fronts []*front
	logs   logs
	own    *Client
}

// logs collects log lines.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logs) has(part string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), part)
}

func newChain(t testing.TB, o devnet.Options, fronts int) *chain {
	t.Helper()
	n, err := devnet.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	n.Start()
	t.Cleanup(n.Close)
	k := &chain{Network: n, t: t}
	if k.pool, err = n.Dial(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.pool.Stop)
	k.api = ton.NewAPIClient(k.pool)
	for range fronts {
		k.fronts = append(k.fronts, newFront(t, k.pool))
	}
	return k
}

// network is the config with the liteservers in front, or with the devnet's own if there are none.
func (k *chain) network() []byte {
	conf := k.Config()
	if len(k.fronts) > 0 {
		conf.Liteservers = nil
	}
	for _, f := range k.fronts {
		host, port := f.hostPort()
		conf.Liteservers = append(conf.Liteservers, liteclient.LiteserverConfig{
			IP: int64(int32(host)), Port: port,
			ID: liteclient.ServerID{Key: base64.StdEncoding.EncodeToString(f.key.Public().(ed25519.PublicKey))},
		})
	}
	text, err := json.Marshal(conf)
	if err != nil {
		k.t.Fatal(err)
	}
	return text
}

func (k *chain) config() Config {
	return Config{
		Network: k.network(), Answer: time.Second, Now: func() time.Time { return time.Now().Add(time.Duration(k.skew.Load())) },
		Log: slog.New(slog.NewTextHandler(&k.logs, nil)),
	}
}

func (k *chain) open(c Config) *Client {
	k.t.Helper()
	t, err := Open(k.t.Context(), c)
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() {
		if err := t.Close(); err != nil {
			k.t.Error(err)
		}
	})
	return t
}

func (k *chain) client() *Client {
	k.t.Helper()
	return k.open(k.config())
}

// advance moves the chain's clock, and the client's.
func (k *chain) advance(d time.Duration) {
	k.skew.Add(int64(d))
	k.SkewClock(d)
}

func (k *chain) mine() {
	k.t.Helper()
	if err := k.Mine(); err != nil {
		k.t.Fatal(err)
	}
}

// fund sends money from nowhere.
func (k *chain) fund(a Address, amount nanoton.Amount, comment string) {
	k.t.Helper()
	if err := k.Faucet(a.Std(), tlb.FromNanoTONU(uint64(amount)), comment); err != nil {
		k.t.Fatal(err)
	}
}

// state is the account at the newest block.
func (k *chain) state(c *Client, a Address) State {
	k.t.Helper()
	h, err := c.Head(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	s, err := c.Account(k.t.Context(), h, a)
	if err != nil {
		k.t.Fatal(err)
	}
	return s
}

func seed(name string) ed25519.PrivateKey {
	h := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(h[:])
}

func someone(name string) Address { return Address{Hash: sha256.Sum256([]byte(name))} }

func std(t testing.TB, a *address.Address) Address {
	t.Helper()
	out, err := FromStd(a)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// personal is a V5 wallet of tonutils.
func (k *chain) personal(name string) *wallet.Wallet {
	k.t.Helper()
	w, err := wallet.FromPrivateKey(k.api, seed(name), wallet.ConfigV5R1Final{NetworkGlobalID: devnet.GlobalID})
	if err != nil {
		k.t.Fatal(err)
	}
	spec := w.GetSpec().(*wallet.SpecV5R1Final)
	spec.SetMessagesTTL(1 << 30)                                               // the chain's clock may be years ahead
	spec.SetSeqnoFetcher(func(ctx context.Context, _ uint32) (uint32, error) { // tonutils' own one is up to a second old
		c := k.reader()
		s := k.state(c, std(k.t, w.WalletAddress()))
		if !s.Active {
			return 0, nil
		}
		out, err := c.Get(ctx, s, "seqno")
		if err != nil {
			return 0, err
		}
		return uint32(out[0].(*big.Int).Uint64()), nil
	})
	return w
}

// reader is a client for the test's own ends.
func (k *chain) reader() *Client {
	if k.own == nil {
		k.own = k.client()
	}
	return k.own
}

// highload is a highload wallet of tonutils.
func (k *chain) highload(name string) *wallet.Wallet {
	k.t.Helper()
	var id uint32
	w, err := wallet.FromPrivateKey(k.api, seed(name), wallet.ConfigHighloadV3{
		MessageTTL: 3600, MessageBuilder: func(context.Context, uint32) (uint32, int64, error) {
			id++
			return id, time.Now().Add(time.Duration(k.skew.Load())).Unix() - 30, nil
		},
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return w
}

// front is a liteserver that passes questions on, and does to the answers what a test says.
type front struct {
	t    testing.TB
	addr string
	key  ed25519.PrivateKey
	pool *liteclient.ConnectionPool

	mu    sync.Mutex
	srv   *liteclient.Server
	done  chan struct{}
	peers []*liteclient.ServerClient
	hook  func(q tl.Serializable, pass func() tl.Serializable) tl.Serializable // nil result: no answer
	asked int
}

func newFront(t testing.TB, pool *liteclient.ConnectionPool) *front {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{t: t, addr: l.Addr().String(), key: key, pool: pool}
	_ = l.Close()
	f.start()
	t.Cleanup(f.stop)
	return f
}

func (f *front) hostPort() (uint32, int) {
	a, err := net.ResolveTCPAddr("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	return binary.BigEndian.Uint32(a.IP.To4()), a.Port
}

func (f *front) start() {
	f.t.Helper()
	srv, done := liteclient.NewServer([]ed25519.PrivateKey{f.key}), make(chan struct{})
	srv.SetQueryHandler(func(ctx context.Context, c *liteclient.ServerClient, id []byte, q tl.Serializable) {
		id = append([]byte(nil), id...)
		go func() {
			if answer := f.serve(ctx, q); answer != nil {
				c.Answer(id, answer)
			}
		}()
	})
	srv.SetConnectionHook(func(c *liteclient.ServerClient) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.peers = append(f.peers, c)
		return nil
	})
	f.mu.Lock()
	f.srv, f.done = srv, done
	f.mu.Unlock()
	go func() {
		defer close(done)
		_ = srv.Listen(f.addr)
	}()
	for range 400 {
		if c, err := net.Dial("tcp", f.addr); err == nil {
			_ = c.Close()
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	f.t.Fatal("the liteserver does not start")
}

// stop ends it with its connections.
func (f *front) stop() {
	f.mu.Lock()
	srv, done, peers := f.srv, f.done, f.peers
	f.srv, f.peers = nil, nil
	f.mu.Unlock()
	if srv != nil {
		_ = srv.Close() // the listener only
		<-done
		for _, c := range peers {
			c.Close()
		}
	}
}

func (f *front) set(hook func(q tl.Serializable, pass func() tl.Serializable) tl.Serializable) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

func (f *front) questions() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

// serve answers. The hook sees the question without the prefix that says for which block to wait.
func (f *front) serve(ctx context.Context, q tl.Serializable) tl.Serializable {
	f.mu.Lock()
	hook := f.hook
	f.asked++
	f.mu.Unlock()
	inner := q
	if list, ok := q.([]tl.Serializable); ok && len(list) == 2 {
		inner = list[1]
	}
	pass := func() tl.Serializable {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		var answer tl.Serializable
		if err := f.pool.QueryLiteserver(ctx, raw(q), &answer); err != nil {
			return nil
		}
		return answer
	}
	if hook == nil {
		return pass()
	}
	return hook(inner, pass)
}

// raw puts a question that came with a prefix together again.
func raw(q tl.Serializable) tl.Serializable {
	list, ok := q.([]tl.Serializable)
	if !ok {
		return q
	}
	var all []byte
	for _, part := range list {
		b, err := tl.Serialize(part, true)
		if err != nil {
			panic(err)
		}
		all = append(all, b...)
	}
	return tl.Raw(all)
}

// silent never answers.
func silent(tl.Serializable, func() tl.Serializable) tl.Serializable { return nil }

func body(text string) *cell.Cell {
	b := cell.BeginCell().MustStoreUInt(0, 32)
	if err := b.StoreStringSnake(text); err != nil {
		panic(err)
	}
	return b.EndCell()
}
