package ton

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// DefaultMaxAge is how old the newest block may be. Blocks come every 0.4 s; a liteserver's view of the shards may lag by
// some 15 s behind the masterchain.
const DefaultMaxAge = 30 * time.Second

// DefaultAnswer is how long one liteserver may take for one answer.
const DefaultAnswer = 4 * time.Second

// Config says which network to ask and how.
type Config struct {
	// Network is the network's global.config.json: its liteservers, and a block to start to trust from.
	Network []byte
	// Dir is a folder of this client's own, which keeps the last proven block: so a restart trusts nothing older. Two
	// clients cannot share it. Empty: nothing is kept, and trust starts at the network's init block.
	Dir string
	// MaxAge is the age of the oldest head that counts. Zero: DefaultMaxAge.
	MaxAge time.Duration
	// Answer is how long a liteserver may take for one answer before another one is asked. Zero: DefaultAnswer.
	Answer time.Duration
	// Now is the clock that heads are compared with. Nil: time.Now.
	Now func() time.Time
	// Log gets a line for each answer that was of no use, which names the liteserver. Nil: nothing is logged.
	Log *slog.Logger
}

// Client asks liteservers, and gives out what it has proofs for. Its methods may be called at the same time. Each question
// is asked of one liteserver with a deadline, then of another one; the errors name those that were silent or wrong.
type Client struct {
	maxAge  time.Duration
	now     func() time.Time
	log     *slog.Logger
	servers []*server
	keep    *keeper
	life    context.Context
	end     context.CancelCauseFunc
	closing sync.Once

	mu     sync.Mutex
	closed bool
	busy   sync.WaitGroup // methods and what they left running
	turn   int            // the server to begin with
	known  Head           // newest proven block; without time: the network's init block
	config *config        // of the newest key block that was asked for
	trails map[Address]*trail
}

// Open connects to all liteservers of the network, and returns when it has one. It fails with ErrUnreachable if it gets
// none before ctx ends, and with durable.ErrLocked if the folder is in use.
func Open(ctx context.Context, c Config) (*Client, error) {
	n, err := parseNetwork(c.Network)
	if err != nil {
		return nil, err
	}
	if c.MaxAge == 0 {
		c.MaxAge = DefaultMaxAge
	}
	if c.Answer == 0 {
		c.Answer = DefaultAnswer
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	t := &Client{maxAge: c.MaxAge, now: c.Now, log: c.Log, trails: map[Address]*trail{}}
	if t.keep, t.known, err = openKeeper(c.Dir, n); err != nil {
		return nil, err
	}
	t.life, t.end = context.WithCancelCause(context.Background())
	for i := range n.Liteservers {
		addr, key := n.server(i)
		t.servers = append(t.servers, newServer(t.life, addr, key, c.Answer))
	}
	if err := t.connect(ctx); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// connect waits for the first connection.
func (c *Client) connect(ctx context.Context) error {
	ctx, done, err := c.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	results := make(chan error, len(c.servers))
	for _, s := range c.servers {
		c.busy.Go(func() {
			_, err := s.connect(ctx)
			if err != nil {
				err = fmt.Errorf("liteserver %s: %w", s.name, err)
			}
			results <- err
		})
	}
	var all []error
	for range c.servers {
		err := <-results
		if err == nil {
			return nil
		}
		all = append(all, err)
	}
	return fmt.Errorf("connecting: %w: %w", ErrUnreachable, errors.Join(all...))
}

// Close ends all questions in progress, with an error, and the connections.
func (c *Client) Close() error {
	c.closing.Do(func() {
		c.mu.Lock()
		c.closed = true
		c.mu.Unlock()
		c.end(errClosed)
		for _, s := range c.servers {
			s.close()
		}
		c.busy.Wait()
	})
	return c.keep.close()
}

// enter begins a method: ctx ends with the client, too.
func (c *Client) enter(ctx context.Context) (context.Context, func(), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, errClosed
	}
	c.busy.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.life, func() { cancel(errClosed) })
	return ctx, func() { stop(); cancel(nil); c.busy.Done() }, nil
}

// order is the servers in the order to ask: those without recent failures first, each time beginning at another one.
func (c *Client) order() []*server {
	c.mu.Lock()
	c.turn++
	turn := c.turn
	c.mu.Unlock()
	var first, last []*server
	for i := range c.servers {
		s := c.servers[(i+turn)%len(c.servers)]
		if s.suspect() {
			last = append(last, s)
		} else {
			first = append(first, s)
		}
	}
	return append(first, last...)
}

// ask puts a question to one server after the other until one has a good answer.
func (c *Client) ask(ctx context.Context, what string, f func(*server) error) error {
	var all []error
	for _, s := range c.order() {
		err := s.try(f)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		}
		c.log.Warn("liteserver passed over", "doing", what, "error", err)
		if errors.Is(err, ErrAmount) { // proven, so the others say the same
			return fmt.Errorf("%s: %w", what, err)
		}
		all = append(all, err)
	}
	return fmt.Errorf("%s: %w: %w", what, ErrUnreachable, &failures{all})
}

// failures are what was wrong with each server, in a bounded text.
type failures struct{ all []error }

func (f *failures) Unwrap() []error { return f.all }

func (f *failures) Error() string {
	var text strings.Builder
	for i, err := range f.all {
		if i > 0 {
			text.WriteString("; ")
		}
		if text.WriteString(err.Error()); len(text.String()) > 4000 {
			return text.String()[:4000]
		}
	}
	return text.String()
}

// makeDir makes the client's folder.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("folder of the chain client: %w", err)
	}
	return nil
}
