// Command cocoon is the user's program: it talks to a gateway, and verifies what is behind it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"cocoon/internal/daemon"
)

// version is stamped at link time.
var version string

const usage = `cocoon: talk to a Cocoon gateway.

  cocoon chat [--model M] [--temperature T] [PROMPT...]
                    ask, and print the answer as it is made; without a prompt: standard input, or a conversation
                    if that is a terminal
  cocoon models     list the models that are served now
  cocoon verify URL|FILE
                    judge the attestation evidence of a gateway, of workers behind it, or in a file
  cocoon receipts verify FILE... [--evidence FILE]
                    check workers' receipts without asking anybody: signature, sums, order, proof of the log; and, by
                    evidence that verify --save kept, the machine that signed them. --policy, --collateral, --cache and
                    --json as below; --log-key KEY demands a proof of that log
  cocoon version
  cocoon help

Where the gateway is and who asks, for chat and models:
  --base-url URL    such as http://127.0.0.1:8080/v1; else the environment's OPENAI_BASE_URL
  --key-file FILE   holds the API key; else the environment's OPENAI_API_KEY

What verify judges, and how (docs/verify.md explains it all):
  --worker ID       ask the gateway for this worker's evidence, not for its own
  --model M         or for that of the workers that serve a model
  --policy FILE     what you trust; default policy.yaml
  --registry ADDRESS --network FILE
                    take the releases from that contract on the chain; without --policy its policy too
  --save FILE       keep the evidence; 'cocoon verify FILE [--at TIME]' judges it again, as of then
  --collateral FILE judge by what vendors said that is in this bundle or came with the evidence: fetch nothing
  --bundle-out FILE write such a bundle
  --fetch=false     fetch nothing; --cache DIR is where fetched things stay, by default in your cache folder
  --json            print one object, with everything in full
It ends with 0 if all machines are verified, 10 if one is not (or simulated), 20 if one can't be judged, 30 if nothing
was judged.

With the development network running ('make run'), '. data/dev/env' sets both.
chat does not attest the worker that reads your prompt: verify looks at machines, and binds no request to them yet.
`

// Exit codes.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130 // as shells report it
)

// errUsage means that the command line made no sense.
var errUsage = errors.New("see 'cocoon help'")

func main() {
	os.Exit(run(os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
}

// streams are where the program reads and writes.
type streams struct {
	in       *os.File
	out, err *os.File
}

func run(args []string, std streams) int {
	err := dispatch(args, std)
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	own, ok := errors.AsType[*statusError](err)
	if !ok || own.err != nil {
		fmt.Fprintln(std.err, "cocoon:", err)
	}
	switch {
	case ok:
		return own.status
	case errors.Is(err, errUsage):
		return exitUsage
	}
	return exitFailed
}

func dispatch(args []string, std streams) error {
	command := "help"
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	switch command {
	case "chat":
		return chatCommand(args, std)
	case "models":
		return modelsCommand(args, std)
	case "verify":
		return verifyCommand(args, std)
	case "receipts":
		return receiptsCommand(args, std)
	case "account":
		return accountCommand(args, std)
	case "withdraw":
		return withdrawCommand(args, std)
	case "withdrawals":
		return withdrawalsCommand(args, std)
	case "wallet":
		return walletCommand(args, std)
	case "tab":
		return tabCommand(args, std)
	case "version", "--version":
		_, err := fmt.Fprintln(std.out, "cocoon", daemon.Version(version))
		return err
	case "help", "--help", "-h":
		_, err := fmt.Fprint(std.out, usage, moneyUsage)
		return err
	}
	return fmt.Errorf("no command %q: %w", command, errUsage)
}

// parse reads a command's flags; --help prints the usage.
func parse(fs *flag.FlagSet, args []string, out io.Writer) error {
	fs.SetOutput(io.Discard)
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(out, usage, moneyUsage)
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: %w", err, errUsage)
	}
	return nil
}
