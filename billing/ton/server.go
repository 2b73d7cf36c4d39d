package ton

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/xssnick/tonutils-go/liteclient"
	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/ton"
)

// reconnectAfter is how long a liteserver is left alone after a connection to it failed, and how long one that answered
// wrongly is asked last.
const reconnectAfter = 2 * time.Second

// Codes of liteservers' errors.
const (
	codeNotApplied = 651 // does not have the block, yet
	codeTimeout    = 652 // waited for the block in vain
)

var (
	errDown     = errors.New("no connection")
	errGone     = errors.New("the connection broke")
	errNoAnswer = errors.New("no answer in time")
	errOther    = errors.New("an answer to another question")
	errBehind   = errors.New("is behind")
	// errClosed marks a question to a Client that is closed.
	errClosed = errors.New("the chain client is closed")
)

// serverError is an error that a liteserver answered with.
type serverError struct {
	code int32
	text string
}

func (e *serverError) Error() string { return fmt.Sprintf("error %d: %q", e.code, clip(e.text)) }

// server is one liteserver. It holds one connection, made when it is needed: the pool's own way to reconnect goes on after
// the pool has stopped, and a request does not notice that its connection broke.
type server struct {
	name   string // for errors and logs
	addr   string
	key    string
	answer time.Duration
	pool   *liteclient.ConnectionPool
	api    *ton.APIClient // for proofs of blocks and the config; it asks through this server
	life   context.Context

	mu      sync.Mutex
	dialing chan struct{}           // closed when the attempt in progress is over
	gone    context.Context         // of the connection; nil: there is none
	cut     context.CancelCauseFunc // ends gone
	failed  time.Time               // of the last attempt to connect
	wrong   time.Time               // of the last useless answer
	wg      sync.WaitGroup
}

func newServer(life context.Context, addr, key string, answer time.Duration) *server {
	s := &server{addr: addr, key: key, answer: answer, pool: liteclient.NewConnectionPool(), life: life}
	s.name = addr + " (" + key[:min(8, len(key))] + ")"
	s.pool.SetOnDisconnect(func(_, _ string) { s.drop(errGone) })
	s.api = ton.NewAPIClient(s, ton.ProofCheckPolicySecure)
	return s
}

func (s *server) close() {
	s.pool.Stop()
	s.drop(errClosed)
	s.wg.Wait()
	s.pool.Stop() // closes what an attempt in progress had still added
}

// drop forgets a connection that broke.
func (s *server) drop(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone != nil {
		s.cut(why)
		s.gone = nil
	}
}

// connect returns the context of the connection, which ends with it. An attempt goes on when ctx ends.
func (s *server) connect(ctx context.Context) (context.Context, error) {
	s.mu.Lock()
	if s.gone != nil || s.life.Err() != nil || s.dialing == nil && time.Since(s.failed) < reconnectAfter {
		defer s.mu.Unlock()
		if s.life.Err() != nil {
			return nil, errClosed
		}
		if s.gone == nil {
			return nil, errDown
		}
		return s.gone, nil
	}
	if s.dialing == nil {
		s.dialing = make(chan struct{})
		s.wg.Go(s.dial)
	}
	done := s.dialing
	s.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
		return nil, fmt.Errorf("connecting: %w", ctx.Err())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone == nil {
		return nil, errDown
	}
	return s.gone, nil
}

func (s *server) dial() {
	ctx, cancel := context.WithTimeout(s.life, s.answer)
	defer cancel()
	err := s.pool.AddConnection(ctx, s.addr, s.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && s.life.Err() == nil {
		s.gone, s.cut = context.WithCancelCause(context.Background())
	} else {
		s.failed = time.Now()
	}
	close(s.dialing)
	s.dialing = nil
}

// QueryLiteserver asks, with a deadline of its own. With the four methods below it makes a server what tonutils' client of
// the lite API asks through.
func (s *server) QueryLiteserver(ctx context.Context, question, result tl.Serializable) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.answer, errNoAnswer)
	defer cancel()
	gone, err := s.connect(ctx)
	if err != nil {
		return err
	}
	asked, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	defer context.AfterFunc(gone, func() { cut(context.Cause(gone)) })()
	err = s.pool.QueryLiteserver(asked, question, result)
	if errors.Is(err, liteclient.ErrNoActiveConnections) {
		s.drop(errGone) // it broke before anybody was told
		return errGone
	}
	if cause := context.Cause(asked); err != nil && cause != nil {
		return cause
	}
	return err
}

// StickyContext changes nothing: there is one server.
func (s *server) StickyContext(ctx context.Context) context.Context { return ctx }

// StickyContextNextNode fails: there is one server.
func (s *server) StickyContextNextNode(ctx context.Context) (context.Context, error) {
	return ctx, liteclient.ErrNoNodesLeft
}

// StickyContextNextNodeBalanced fails: there is one server.
func (s *server) StickyContextNextNodeBalanced(ctx context.Context) (context.Context, error) {
	return ctx, liteclient.ErrNoNodesLeft
}

// StickyNodeID is zero: there is one server.
func (s *server) StickyNodeID(context.Context) uint32 { return 0 }

// ask puts one question. With a seqno the server answers when it has that masterchain block.
func (s *server) ask(ctx context.Context, seqno uint32, question tl.Serializable) (tl.Serializable, error) {
	if seqno != 0 {
		wait := s.answer - s.answer/8 // it says so in time when it does not get the block
		prefix, err := tl.Serialize(ton.WaitMasterchainSeqno{Seqno: int32(seqno), Timeout: int32(wait.Milliseconds())}, true)
		if err != nil {
			return nil, err
		}
		suffix, err := tl.Serialize(question, true)
		if err != nil {
			return nil, err
		}
		question = tl.Raw(append(prefix, suffix...))
	}
	var answer tl.Serializable
	if err := s.QueryLiteserver(ctx, question, &answer); err != nil {
		return nil, err
	}
	if e, ok := answer.(ton.LSError); ok {
		return nil, &serverError{e.Code, e.Text}
	}
	return answer, nil
}

// try runs a question and the check of its answer. What a liteserver sends is hostile: the proofs are parsed by a library
// that takes some of their form for granted, so a panic is a wrong answer.
func (s *server) try(f func(*server) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: it cannot be parsed: %s; %s", ErrProof, clip(fmt.Sprint(p)), firstFrames(debug.Stack()))
		}
		if err != nil {
			err = fmt.Errorf("liteserver %s: %w", s.name, err)
			s.mu.Lock()
			s.wrong = time.Now()
			s.mu.Unlock()
		}
	}()
	return f(s)
}

// firstFrames cuts a stack to what tells where it is from.
func firstFrames(stack []byte) string { return string(stack[:min(len(stack), 2000)]) }

// suspect tells whether the server is better asked last.
func (s *server) suspect() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.wrong) < reconnectAfter || time.Since(s.failed) < reconnectAfter
}
