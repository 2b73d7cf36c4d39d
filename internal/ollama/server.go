package ollama

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// startTimeout is how long the server may take to answer; it needs 0.2 s on an idle machine.
	startTimeout = 30 * time.Second
	// pollPeriod is how often a starting server is asked.
	pollPeriod = 20 * time.Millisecond
	// stopGrace is how long it may take to end by itself when told to.
	stopGrace = 3 * time.Second
	// startTries is how often another free port is tried: between finding one and using it another process may.
	startTries = 3
	// defaultParallel is how many requests a model runs at once, unless the Config says otherwise.
	defaultParallel = 4
	// defaultContext is the window of each of them, tokens; the tiny model could take 4,096.
	defaultContext = 2048
	// keepAlive is how long an idle model stays loaded: for good.
	keepAlive = "-1"
	// logName is the server's log below the Config's Dir.
	logName = "ollama.log"
)

// ErrStopped is the reason of a server that Stop ended.
var ErrStopped = errors.New("stopped")

// Config says how Start runs the server.
type Config struct {
	// Binary is the path of ollama, such as Build returns. Required.
	Binary string
	// Dir holds all that the server writes: its home, its models, its log. Required; made if missing.
	Dir string
	// Addr is where it listens, host:port. Port 0 is a free one. Default 127.0.0.1:0.
	Addr string
	// Parallel is how many requests a model runs at once. Default 4.
	Parallel int
	// ContextTokens is the window of each of them. Default 2048.
	ContextTokens int
}

// Server is a running Ollama. It ends with Stop, and with the process that started it, however that ends.
type Server struct {
	url  string
	log  string
	pid  int
	once sync.Once     // for stopping
	stop chan struct{} // closed by Stop
	done chan struct{} // closed when the process and its children are gone
	err  error         // why; written before done is closed
}

// Start runs an Ollama with the models Tiny and TinyThink and returns when it answers. Errors are one line.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	if cfg.Parallel == 0 {
		cfg.Parallel = defaultParallel
	}
	if cfg.ContextTokens == 0 {
		cfg.ContextTokens = defaultContext
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	cfg.Dir = dir
	for _, d := range []string{"home", "models"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	var s *Server
	for range startTries {
		if s, err = start(ctx, cfg); !errors.Is(err, syscall.EADDRINUSE) || !strings.HasSuffix(cfg.Addr, ":0") {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("starting Ollama: %w", err)
	}
	if err := s.importModels(ctx); err != nil {
		s.Stop()
		return nil, fmt.Errorf("loading the tiny model into Ollama: %w", err)
	}
	return s, nil
}

// start runs the process once and waits until it answers.
func start(ctx context.Context, cfg Config) (*Server, error) {
	addr, err := freeAddr(ctx, cfg.Addr)
	if err != nil {
		return nil, err
	}
	s := &Server{
		url: "http://" + addr, log: filepath.Join(cfg.Dir, logName), stop: make(chan struct{}), done: make(chan struct{}),
	}
	if err := s.launch(cfg, addr); err != nil {
		return nil, err
	}
	if err := s.await(ctx); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// freeAddr turns port 0 into a free port, and tells early if another port is taken.
func freeAddr(ctx context.Context, addr string) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// launch starts the process and the goroutine that waits for it.
func (s *Server) launch(cfg Config, addr string) error {
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	cmd := exec.Command(cfg.Binary, "serve")
	cmd.Dir = cfg.Dir
	cmd.Stdout, cmd.Stderr = log, log
	// Nothing of the user's own Ollama gets in, and nothing of this one gets out: no cloud, no history, no updates.
	cmd.Env = []string{
		"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + filepath.Join(cfg.Dir, "home"), "OLLAMA_HOST=" + addr,
		"OLLAMA_MODELS=" + filepath.Join(cfg.Dir, "models"), "OLLAMA_NO_CLOUD=1", "OLLAMA_NOHISTORY=1",
		fmt.Sprintf("OLLAMA_NUM_PARALLEL=%d", cfg.Parallel), fmt.Sprintf("OLLAMA_CONTEXT_LENGTH=%d", cfg.ContextTokens),
		"OLLAMA_KEEP_ALIVE=" + keepAlive,
	}
	// A group of its own: a terminal's Ctrl-C is for us, and Stop reaches its runners too. SIGTERM and not SIGKILL
	// when this process dies: the server then ends its runners.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	started := make(chan error)
	go func() {
		// Pdeathsig is sent when the thread that started the child ends, so that thread stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			s.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			s.ended(cmd.Wait())
		}
	}()
	return errors.Join(<-started, log.Close())
}

// ended takes note of the process's end and clears away what it left.
func (s *Server) ended(err error) {
	_ = syscall.Kill(-s.pid, syscall.SIGKILL) // runners; there may be none
	select {
	case <-s.stop:
		s.err = ErrStopped
	default:
		if err == nil {
			err = errors.New("exit status 0")
		}
		s.err = fmt.Errorf("ollama ended: %w%s (log: %s)", err, s.lastWords(), s.log)
	}
	close(s.done)
}

// lastWords is the last line of the log.
func (s *Server) lastWords() string {
	text, err := os.ReadFile(s.log)
	if err != nil {
		return ""
	}
	last := lastLine(strings.Split(string(text), "\n"), "")
	if last == "" {
		return ""
	}
	return ": " + last
}

// await returns when the server answers, or the reason why it never will.
func (s *Server) await(ctx context.Context) error {
	late := time.NewTimer(startTimeout)
	defer late.Stop()
	for {
		err := s.call(ctx, http.MethodGet, "/api/version", nil)
		if err == nil {
			return nil
		}
		select {
		case <-s.done:
			if strings.Contains(s.err.Error(), "address already in use") {
				return errors.Join(s.err, syscall.EADDRINUSE)
			}
			return s.err
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			return fmt.Errorf("no answer within %s: %w (log: %s)", startTimeout, err, s.log)
		case <-time.After(pollPeriod):
		}
	}
}

// URL is the server's base URL, http://host:port.
func (s *Server) URL() string { return s.url }

// Log is the path of the server's log.
func (s *Server) Log() string { return s.log }

// Done is closed when the server has ended; Err then says why.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err is why the server ended: ErrStopped after Stop, else its last words. Nil while it runs.
func (s *Server) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Stop ends the server and everything it started, within stopGrace and a little.
func (s *Server) Stop() {
	s.once.Do(func() {
		close(s.stop)
		select {
		case <-s.done: // gone already: its number may be another's by now
			return
		default:
		}
		_ = syscall.Kill(-s.pid, syscall.SIGTERM) // it may have just ended
		select {
		case <-s.done:
		case <-time.After(stopGrace):
			_ = syscall.Kill(-s.pid, syscall.SIGKILL)
		}
	})
	<-s.done
}
