//go:build linux

// Command bench measures the gateway side by side with nginx and a bare httputil.ReverseProxy on loopback, in front
// of a mock engine that costs next to nothing. docs/benchmark.md says how, and how to read the table.
//
// It is one program in several roles: "run" starts itself again as engine, proxy and load generator.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"cocoon/internal/bench/load"
	"cocoon/internal/bench/mock"
)

// main keeps its thread: the kernel ends the processes that it starts when the thread that started them ends.
func main() {
	runtime.LockOSThread()
	os.Exit(bench(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// The roles.
const (
	roleRun    = "run"
	roleMock   = "mock"
	roleWorker = "worker"
	roleProxy  = "proxy"
	roleLoad   = "load"
	roleJoin   = "join"
)

const usageText = `usage: bench [run] [flags]      measure; "bench run -h" lists the flags
       bench join [flags]        what it costs that a thousand workers join; "bench join -h" lists the flags
       bench mock -listen ADDR   the mock engine
       bench worker -h           the mock engine as a worker of the gateway
       bench proxy -h            a bare httputil.ReverseProxy
       bench load                a load given as JSON on stdin
`

func bench(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	role := roleRun
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		role, args = args[0], args[1:]
	}
	var err error
	switch role {
	case roleRun:
		err = runMain(ctx, args, stdout, stderr)
	case roleJoin:
		err = joinMain(ctx, args, stdout, stderr)
	case roleMock:
		err = mockMain(ctx, args, stderr)
	case roleWorker:
		err = workerMain(ctx, args, stderr)
	case roleProxy:
		err = proxyMain(ctx, args, stderr)
	case roleLoad:
		err = loadMain(ctx, stdin, stdout)
	default:
		fmt.Fprint(stderr, usageText)
		return 2
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		return 2
	}
	fmt.Fprintln(stderr, "bench:", err)
	return 1
}

// flags is the flag set of a role; its errors and help go to stderr.
func flags(role string, stderr io.Writer) *flag.FlagSet {
	f := flag.NewFlagSet("bench "+role, flag.ContinueOnError)
	f.SetOutput(stderr)
	return f
}

func mockMain(ctx context.Context, args []string, stderr io.Writer) error {
	f := flags(roleMock, stderr)
	listen := f.String("listen", "127.0.0.1:9000", "address")
	models := f.String("models", "mock", "models to list, with commas between them; every other works too")
	if err := f.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	return (&mock.Raw{Models: strings.Split(*models, ",")}).Serve(ctx, l)
}

// The events that a load reports, one JSON object a line.
const (
	eventStarted = "started" // connections are there, the first request is next
	eventHolding = "holding" // every stream is open; they end when stdin does
	eventDone    = "done"    // with the result
)

type loadEvent struct {
	Event  string       `json:"event"`
	Result *load.Result `json:"result,omitempty"`
	Error  string       `json:"error,omitempty"`
}

// loadMain reads one load from stdin, puts it on and reports on stdout.
func loadMain(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	in := bufio.NewReader(stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("reading the load: %w", err)
	}
	var c load.Config
	if err := json.Unmarshal(line, &c); err != nil {
		return fmt.Errorf("reading the load: %w", err)
	}
	out := json.NewEncoder(stdout)
	c.Started = func() { _ = out.Encode(loadEvent{Event: eventStarted}) } // a runner that is gone has no use for it
	c.Holding = func() { _ = out.Encode(loadEvent{Event: eventHolding}) }
	release := make(chan struct{})
	c.Release = release
	go func() {
		_, _ = io.Copy(io.Discard, in)
		close(release)
	}()
	result, err := load.Run(ctx, c)
	e := loadEvent{Event: eventDone, Result: &result}
	if err != nil {
		e.Error = err.Error()
	}
	return out.Encode(e)
}
