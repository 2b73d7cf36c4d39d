// Command cocoon-gateway is the gateway daemon and the operator's commands.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"cocoon/internal/daemon"
)

// version is stamped at link time.
var version string

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// errUsage means that the command line made no sense; what is wrong was said already or is its text.
var errUsage = errors.New("see 'cocoon-gateway help'")

func run(args []string, stdout, stderr io.Writer) int {
	err := dispatch(args, stdout, stderr)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprintln(stderr, "cocoon-gateway:", err)
		return 2
	}
	fmt.Fprintln(stderr, "cocoon-gateway:", err)
	return 1
}

// options are the flags that every command takes.
type options struct {
	config, data string
	configGiven  bool
	flags        map[string]string // those of some commands, by name, if given
	words        []string          // what is left: the command's own arguments
}

func parse(args []string, stdout io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("cocoon-gateway", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&o.config, "config", "gateway.yaml", "")
	fs.StringVar(&o.data, "data", "", "")
	o.addFlags(fs)
	for rest := args; ; rest = fs.Args()[1:] { // flags may stand anywhere
		if err := fs.Parse(rest); errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(stdout, usage)
			return o, err
		} else if err != nil {
			return o, fmt.Errorf("%w: %w", err, errUsage)
		}
		if fs.NArg() == 0 {
			fs.Visit(func(f *flag.Flag) { o.configGiven = o.configGiven || f.Name == "config" })
			return o, nil
		}
		o.words = append(o.words, fs.Arg(0))
	}
}

func dispatch(args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "registry" { // has flags of its own
		return registryCommand(args[1:], stdout)
	}
	o, err := parse(args, stdout)
	if err != nil {
		return err
	}
	command := "run"
	if len(o.words) > 0 {
		command, o.words = o.words[0], o.words[1:]
	}
	if err := o.checkFlags(command); err != nil {
		return err
	}
	switch command {
	case "run":
		return serve(o, stderr)
	case "check-config":
		return checkConfig(o, stdout)
	case "keys":
		return manageKeys(&o, stdout)
	case "accounts":
		return manageAccounts(&o, stdout)
	case "usage":
		return showUsage(&o, stdout)
	case "wallet":
		return manageWallet(&o, os.Stdin, stdout, stderr)
	case "payouts":
		return payouts(&o, stdout)
	case "suspense":
		return suspense(&o, stdout)
	case "audit":
		return audit(&o, stdout)
	case "workers":
		return workers(o, stdout)
	case "id":
		return printID(o, stdout)
	case "version":
		_, err = fmt.Fprintln(stdout, "cocoon-gateway", daemon.Version(version))
	case "help":
		_, err = fmt.Fprint(stdout, usage)
	default:
		err = fmt.Errorf("no command %q: %w", command, errUsage)
	}
	return err
}
