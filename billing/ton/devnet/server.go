package devnet

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/xssnick/tonutils-go/liteclient"
	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/ton"

	"cocoon/internal/durable"
	"cocoon/internal/strictjson"
)

const (
	// connectionsMax bounds a liteserver's clients.
	connectionsMax = 1024
	// queriesMax bounds the queries of a liteserver that are being answered; more are told to come again.
	queriesMax = 1024
	// waitMax bounds how long a query may wait for a block.
	waitMax = time.Minute
	// listenTries: between a port's being found and its being taken, another may take it.
	listenTries = 5
	portsName   = "ports.json" // file in Options.Dir
)

// Server is a liteserver of a network. Its methods may be called at the same time.
type Server struct {
	n      *Network
	number int
	key    ed25519.PrivateKey
	faults Faults
	slots  chan struct{}

	mx      sync.Mutex
	addr    netip.AddrPort
	srv     *liteclient.Server // nil: stopped
	clients map[*liteclient.ServerClient]struct{}
	wg      sync.WaitGroup
}

// Listen has one more liteserver, as Serve does.
func (n *Network) Listen(addr string) error {
	_, err := n.Serve(addr)
	return err
}

// Serve has one more liteserver, on an IPv4 address such as 127.0.0.1:0. Its key, and its port if that is 0 here and still
// free, are those that the network's liteserver of that number had when Options.Dir was last used.
func (n *Network) Serve(addr string) (*Server, error) {
	want, err := netip.ParseAddrPort(addr)
	if err != nil || !want.Addr().Is4() {
		return nil, fmt.Errorf("%q: want an IPv4 address with a port", addr)
	}
	n.mx.Lock()
	defer n.mx.Unlock()
	if errors.Is(n.err, ErrClosed) {
		return nil, n.err
	}
	number := len(n.servers)
	seed := sha256.Sum256(binary.LittleEndian.AppendUint64(append([]byte("liteserver"), n.secret...), uint64(number)))
	s := &Server{
		n: n, number: number, addr: want, key: ed25519.NewKeyFromSeed(seed[:]), slots: make(chan struct{}, queriesMax),
		clients: map[*liteclient.ServerClient]struct{}{},
	}
	ports, err := n.ports()
	if err != nil {
		return nil, err
	}
	if want.Port() == 0 && number < len(ports) {
		s.addr = netip.AddrPortFrom(want.Addr(), ports[number])
		err = s.Resume()
	}
	if s.srv == nil {
		s.addr = want
		err = s.Resume()
	}
	if err != nil {
		return nil, err
	}
	n.servers = append(n.servers, s)
	if err := n.keepPort(ports, s); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// ports are what the liteservers had.
func (n *Network) ports() (ports []uint16, err error) {
	if n.opts.Dir == "" {
		return nil, nil
	}
	text, err := os.ReadFile(filepath.Join(n.opts.Dir, portsName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = strictjson.Decode(text, &ports)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the liteservers' ports: %w", err)
	}
	return ports, nil
}

func (n *Network) keepPort(ports []uint16, s *Server) error {
	if n.opts.Dir == "" {
		return nil
	}
	for len(ports) <= s.number {
		ports = append(ports, 0)
	}
	if ports[s.number] == s.addr.Port() {
		return nil
	}
	ports[s.number] = s.addr.Port()
	text, err := json.Marshal(ports)
	if err != nil {
		return err
	}
	return durable.Replace(filepath.Join(n.opts.Dir, portsName), text)
}

// Servers are the network's liteservers, in the order of Listen and Serve.
func (n *Network) Servers() []*Server {
	n.mx.Lock()
	defer n.mx.Unlock()
	return slices.Clone(n.servers)
}

// Faults are this liteserver's own.
func (s *Server) Faults() *Faults { return &s.faults }

// Addr is where it listens, or did before Stop.
func (s *Server) Addr() netip.AddrPort {
	s.mx.Lock()
	defer s.mx.Unlock()
	return s.addr
}

// Key is its public key, which clients know it by.
func (s *Server) Key() ed25519.PublicKey { return ed25519.PublicKey(s.key[32:]) }

// Stop has it be gone: its connections are cut, and its port is closed. It waits for the queries that it's answering.
func (s *Server) Stop() {
	s.mx.Lock()
	srv := s.srv
	s.srv = nil
	for c := range s.clients {
		c.Close()
	}
	clear(s.clients)
	s.mx.Unlock()
	if srv != nil {
		_ = srv.Close() // a listener; its connections are closed
	}
	s.wg.Wait()
}

// Resume has it be there again after Stop, with the same key on the same port.
func (s *Server) Resume() error {
	s.mx.Lock()
	defer s.mx.Unlock()
	if s.srv != nil {
		return nil
	}
	for i := 0; ; i++ {
		addr, err := s.listen()
		if err == nil {
			s.addr = addr
			return nil
		}
		if i == listenTries || s.addr.Port() != 0 {
			return fmt.Errorf("a liteserver: %w", err)
		}
	}
}

// listen starts it. The library's server tells neither its port nor when it's there: so a port is found first, and then
// called until it answers.
func (s *Server) listen() (netip.AddrPort, error) {
	l, err := net.Listen("tcp4", s.addr.String())
	if err != nil {
		return s.addr, err
	}
	tcp, ok := l.Addr().(*net.TCPAddr)
	if err := l.Close(); err != nil || !ok {
		return s.addr, fmt.Errorf("finding a port: %w", err)
	}
	addr := netip.AddrPortFrom(s.addr.Addr(), uint16(tcp.Port))
	srv := liteclient.NewServer([]ed25519.PrivateKey{s.key})
	ready := make(chan struct{})
	var once sync.Once
	srv.SetConnectionHook(func(c *liteclient.ServerClient) error {
		once.Do(func() { close(ready) })
		return s.connected(srv, c)
	})
	srv.SetDisconnectHook(s.disconnected)
	srv.SetQueryHandler(s.handle)
	failed := make(chan error, 1)
	s.wg.Go(func() { failed <- srv.Listen(addr.String()) })
	for range 400 {
		select {
		case err := <-failed:
			return s.addr, err
		case <-time.After(5 * time.Millisecond):
		}
		if c, err := net.Dial("tcp4", addr.String()); err == nil {
			<-ready // before that Close would not end it
			s.srv = srv
			return addr, c.Close()
		}
	}
	return s.addr, errors.Join(errors.New("it did not start"), srv.Close())
}

func (s *Server) connected(srv *liteclient.Server, c *liteclient.ServerClient) error {
	s.mx.Lock()
	defer s.mx.Unlock()
	if s.srv != srv || len(s.clients) >= connectionsMax {
		return errors.New("no more connections")
	}
	s.clients[c] = struct{}{}
	return nil
}

func (s *Server) disconnected(c *liteclient.ServerClient) {
	s.mx.Lock()
	defer s.mx.Unlock()
	delete(s.clients, c)
}

// handle is called in a connection's read loop: what takes time goes on beside it.
func (s *Server) handle(ctx context.Context, c *liteclient.ServerClient, id []byte, q tl.Serializable) {
	id = slices.Clone(id) // only lent
	s.mx.Lock()
	defer s.mx.Unlock()
	if s.srv == nil {
		return
	}
	select {
	case s.slots <- struct{}{}:
	default:
		c.Answer(id, ton.LSError{Code: 228, Text: "too many queries at once"})
		return
	}
	s.wg.Go(func() {
		defer func() { <-s.slots }()
		if resp := s.answer(ctx, q); resp != nil {
			c.Answer(id, resp)
		}
	})
}

// answer answers a query: nil is no answer.
func (s *Server) answer(ctx context.Context, q tl.Serializable) tl.Serializable {
	if list, ok := q.([]tl.Serializable); ok {
		wait, ok := ton.WaitMasterchainSeqno{}, false
		if len(list) == 2 {
			wait, ok = list[0].(ton.WaitMasterchainSeqno)
		}
		if !ok {
			return ton.LSError{Code: -400, Text: "bad query prefix"}
		}
		if resp, done := s.await(ctx, wait); done {
			return resp
		}
		q = list[1]
	}
	faults := []*Faults{&s.n.faults, &s.faults}
	for _, f := range faults {
		if resp, done := f.before(ctx, q); done {
			return resp
		}
	}
	v := s.n.view(faults...)
	var resp tl.Serializable
	var err error
	if m, ok := q.(ton.SendMessage); ok {
		resp, err = s.sendMessage(m)
	} else {
		resp, err = v.query(q)
	}
	if err != nil {
		if e, ok := errors.AsType[ton.LSError](err); ok {
			return e
		}
		return ton.LSError{Code: -400, Text: err.Error()}
	}
	for _, f := range faults {
		if resp = f.after(v, q, resp); resp == nil {
			return nil
		}
	}
	return resp
}

// await waits for a block to be seen here; done if it was not.
func (s *Server) await(ctx context.Context, w ton.WaitMasterchainSeqno) (resp tl.Serializable, done bool) {
	deadline := time.NewTimer(min(time.Duration(uint32(w.Timeout))*time.Millisecond, waitMax))
	defer deadline.Stop()
	for {
		s.n.mx.Lock()
		next := s.n.newBlk
		s.n.mx.Unlock()
		if s.n.view(&s.n.faults, &s.faults).head.id.SeqNo >= uint32(w.Seqno) {
			return nil, false
		}
		select {
		case <-next:
			if s.n.Err() != nil { // no more will come
				return ton.LSError{Code: 652, Text: "no more blocks"}, true
			}
		case <-deadline.C:
			return ton.LSError{Code: 652, Text: "timeout"}, true
		case <-s.n.stop:
			return nil, true
		case <-ctx.Done():
			return nil, true
		}
	}
}

// Config is the network's global config, with all its liteservers.
func (n *Network) Config() *liteclient.GlobalConfig { return n.ConfigOf(n.Servers()...) }

// ConfigOf is the network's global config with these liteservers alone.
func (n *Network) ConfigOf(servers ...*Server) *liteclient.GlobalConfig {
	c := &liteclient.GlobalConfig{
		Type: "config.global",
		Validator: liteclient.ValidatorConfig{
			Type: "validator.config.global",
			ZeroState: liteclient.ConfigBlock{
				Workchain: master, Shard: shardInt(), RootHash: n.zero.RootHash, FileHash: n.zero.FileHash,
			},
			InitBlock: liteclient.ConfigBlock{
				Workchain: master, Shard: shardInt(), SeqNo: 1, RootHash: n.first.id.RootHash, FileHash: n.first.id.FileHash,
			},
		},
	}
	for _, s := range servers {
		addr := s.Addr()
		ip := addr.Addr().As4()
		c.Liteservers = append(c.Liteservers, liteclient.LiteserverConfig{
			IP: int64(int32(binary.BigEndian.Uint32(ip[:]))), Port: int(addr.Port()),
			ID: liteclient.ServerID{Type: "pub.ed25519", Key: base64.StdEncoding.EncodeToString(s.Key())},
		})
	}
	return c
}

// ConfigJSON is Config as the text of a global.config.json.
func (n *Network) ConfigJSON() ([]byte, error) {
	text, err := json.MarshalIndent(n.Config(), "", "  ")
	return append(text, '\n'), err
}

// Dial connects a liteclient to the liteservers.
func (n *Network) Dial(ctx context.Context) (*liteclient.ConnectionPool, error) {
	pool := liteclient.NewConnectionPool()
	return pool, pool.AddConnectionsFromConfig(ctx, n.Config())
}
