// Command cocoon-worker offers the models of an inference engine to Cocoon gateways and serves their requests.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"cocoon/attest/device"
	"cocoon/internal/daemon"
	"cocoon/worker"
)

// version is stamped at link time (-ldflags "-X main.version=..."); without a stamp the commit is used.
var version string

const usage = `cocoon-worker offers the models of an inference engine to Cocoon gateways.

usage: cocoon-worker [command] [--config worker.yaml]

commands:
  run           serve (the default)
  doctor        check machine, GPUs, engine, models, key, clock and gateways, and say what to do; changes nothing, disturbs
                nobody. With --policy policy.yaml also which checks of that policy this machine would fail
  drain         finish what runs and take nothing new, before a stop; wait until it is safe. 'drain -h' says how
  price         show, set or unset what this worker asks; a running worker takes it up at once. 'price -h' says how
  market        what gateways tell of demand, and which prices would win; a running worker is asked. 'market -h' says how
  vouchers      what gateways signed that contracts on the chain pay, and claim it without them. 'vouchers -h' says how
  receipts      what gateways have not acknowledged yet, so not paid
  id            print this worker's ID, for the gateway's operator to approve
  check-config  check the configuration file
  version       print the version
  help          print this

Each field of the configuration is described in configs/worker.yaml.
`

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is main without the process.
func run(args []string, stdout, stderr io.Writer) int {
	name := "run"
	if len(args) > 0 && (len(args[0]) == 0 || args[0][0] != '-') {
		name, args = args[0], args[1:]
	}
	own := map[string]func([]string, io.Writer, io.Writer) int{
		"drain": drain, "market": market, "price": price, "vouchers": vouchers,
	}
	if command, ok := own[name]; ok {
		return command(args, stdout, stderr)
	}
	flags := flag.NewFlagSet("cocoon-worker "+name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	path := flags.String("config", "worker.yaml", "configuration `file`")
	policy := flags.String("policy", "", "of the doctor: appraisal policy `file`")
	if exit, ok := parse(flags, args, usage); !ok {
		return exit
	}
	switch name {
	case "version":
		fmt.Fprintln(stdout, "cocoon-worker", daemon.Version(version))
		return exitOK
	case "help":
		fmt.Fprint(stdout, usage)
		return exitOK
	}
	commands := map[string]func(context.Context, worker.Config, io.Writer, io.Writer) error{
		"run": serve, "doctor": doctor, "id": printID, "check-config": checkConfig,
		"receipts": receipts,
	}
	command, ok := commands[name]
	if !ok {
		fmt.Fprintf(stderr, "no command %q\n\n%s", name, usage)
		return exitUsage
	}
	ctx, stop := daemon.Context()
	defer stop()
	config, err := worker.LoadConfig(*path)
	config.Policy = cmp.Or(*policy, config.Policy)
	if err == nil {
		err = command(ctx, config, stdout, stderr)
	} else if name == "doctor" {
		show(stdout, worker.Check{Name: "config", Result: worker.Fail, Detail: err.Error() + ". See configs/worker.yaml for each field"})
		err = errUnwell
	}
	if err != nil {
		fmt.Fprintln(stderr, "cocoon-worker:", err)
		return exitFailed
	}
	return exitOK
}

// errUnwell is the doctor's verdict; the lines above it say why.
var errUnwell = errors.New("something must be put right before this worker can serve")

func serve(ctx context.Context, c worker.Config, _, stderr io.Writer) error {
	log := daemon.Logger(stderr, c.LogLevel)
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	machine, err := device.Open(device.Config{Log: log})
	if err != nil {
		return fmt.Errorf("%w. A worker without a confidential machine can't be admitted anywhere; 'cocoon-dev worker' simulates one, for development", err)
	}
	if c, err = worker.Resolve(ctx, c, log); err != nil {
		return err
	}
	w, err := worker.New(c, machine, log, reg)
	if err != nil {
		return err
	}
	log.Info("starting", "version", daemon.Version(version))
	return w.Run(ctx)
}

// parse reads a command's flags, after which nothing may come; if it does not go on, exit is how it ends.
func parse(flags *flag.FlagSet, args []string, usage string) (exit int, ok bool) {
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitOK, false
	case err != nil:
		return exitUsage, false
	case flags.NArg() > 0:
		fmt.Fprintf(flags.Output(), "unexpected argument %q\n\n%s", flags.Arg(0), usage)
		return exitUsage, false
	}
	return exitOK, true
}
