// Command cocoon-dev runs the whole network on one machine: a gateway, a worker, and an engine if there is none.
// It is what "make run" starts, and what scripts start to have something to talk to.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"cocoon/internal/daemon"
)

// version is stamped at link time.
var version string

const usage = `cocoon-dev: the whole network on this machine, for development. SIMULATED, NOT CONFIDENTIAL.

  cocoon-dev [flags]                                   gateway, worker and engine
  cocoon-dev worker --simulated DIR [--config FILE]    a worker by itself, in a simulated confidential machine
  cocoon-dev policy --simulated DIR                    print the policy that admits such machines, and nothing else

DIR holds the simulated vendor, and is made at the first use: workers and policy have to share it.

Flags of the first:

  --data DIR        where everything is kept: key, log, state of gateway and worker, engine (default data/dev)
  --listen ADDR     where apps connect (default 127.0.0.1:8080)
  --ops ADDR        metrics, health and profiles (default 127.0.0.1:9090)
  --engine URL      the engine; one that ends in /v1 is OpenAI-compatible, else it is an Ollama. Default: the
                    environment's COCOON_ENGINE_URL, else an Ollama with models on 127.0.0.1:11434, else one that
                    cocoon-dev builds and starts by itself, with a tiny model
  --bin DIR         where the engine of its own is built (default bin)
  --version

When requests can be served it prints the line "ready" and has written DIR/env for shells: OPENAI_BASE_URL,
OPENAI_API_KEY, COCOON_OPS_URL. SIGINT and SIGTERM end it, and all that it started, within 5 seconds.
`

// options are the command line.
type options struct {
	data, listen, ops, engine, bin string
}

// errDone means that the command line asked for words only, and they were printed.
var errDone = errors.New("done")

func main() {
	os.Exit(run(os.Args[1:], os.Getenv("COCOON_ENGINE_URL")))
}

func run(args []string, engineURL string) int {
	ctx, stop := daemon.Context()
	defer stop()
	if len(args) > 0 && (args[0] == "worker" || args[0] == "policy") {
		return report(command(ctx, args[0], args[1:]))
	}
	opts, err := parse(args, engineURL, os.Stdout)
	if errors.Is(err, errDone) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cocoon-dev:", err, "(cocoon-dev --help)")
		return 2
	}
	return report(start(ctx, opts, screen{os.Stdout, os.Stderr}))
}

// command is one of those that run no network.
func command(ctx context.Context, name string, args []string) error {
	if name == "worker" {
		return runWorker(ctx, args)
	}
	return runPolicy(args)
}

// report ends the program with a line about what went wrong.
func report(err error) int {
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, "cocoon-dev:", err)
		return 1
	}
	return 0
}

func parse(args []string, engineURL string, out io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("cocoon-dev", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&o.data, "data", filepath.Join("data", "dev"), "")
	fs.StringVar(&o.listen, "listen", "127.0.0.1:8080", "")
	fs.StringVar(&o.ops, "ops", "127.0.0.1:9090", "")
	fs.StringVar(&o.engine, "engine", engineURL, "")
	fs.StringVar(&o.bin, "bin", "bin", "")
	tell := fs.Bool("version", false, "")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(out, usage)
		return o, errDone
	case err != nil:
		return o, err
	case *tell:
		fmt.Fprintln(out, "cocoon-dev", daemon.Version(version))
		return o, errDone
	case fs.NArg() > 0:
		return o, fmt.Errorf("no argument %q", fs.Arg(0))
	}
	return o, nil
}
