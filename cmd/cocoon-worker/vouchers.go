package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"cocoon/billing/ton"
	"cocoon/internal/config"
	"cocoon/internal/daemon"
	"cocoon/worker"
	vouchersof "cocoon/worker/vouchers"
)

const vouchersUsage = `usage: cocoon-worker vouchers [list] [--network FILE] [--config worker.yaml]
       cocoon-worker vouchers claim --network FILE [--gateway G] [--config worker.yaml]

A voucher is a gateway's signed promise that a contract on the TON chain, its tab for this worker, pays what the gateway
owes. The worker keeps the newest of each gateway in data_dir. While all is well there is nothing to do: payouts come by
themselves.

list shows them; with --network also what each is worth on the chain now. claim brings them to the chain, those of one
gateway or all, and says what was paid, to the payout address in the voucher. It needs no gateway, no wallet and no fee of yours.
FILE is the network's global.config.json, from whoever runs liteservers that you trust to be there; what they say is proven.
`

const (
	claimMax = 2 * time.Minute // for each voucher: blocks come in under a second
)

// vouchers is the command.
func vouchers(args []string, stdout, stderr io.Writer) int {
	verb := "list"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		verb, args = args[0], args[1:]
	}
	if verb != "list" && verb != "claim" {
		fmt.Fprintf(stderr, "no command \"vouchers %s\"\n\n%s", verb, vouchersUsage)
		return exitUsage
	}
	flags := flag.NewFlagSet("cocoon-worker vouchers "+verb, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, vouchersUsage) }
	path := flags.String("config", "worker.yaml", "configuration `file`")
	network := flags.String("network", "", "the network's global.config.json, a `file`")
	gateway := flags.String("gateway", "", "only this one's, by the `name` that list shows")
	if exit, ok := parse(flags, args, vouchersUsage); !ok {
		return exit
	}
	switch {
	case verb == "claim" && *network == "":
		fmt.Fprintf(stderr, "--network is missing\n\n%s", vouchersUsage)
		return exitUsage
	}
	ctx, stop := daemon.Context()
	defer stop()
	c, err := worker.LoadConfig(*path)
	if err == nil {
		err = vouchersIn(ctx, stdout, voucherTask{
			dir: worker.VouchersDir(c), network: *network, gateway: *gateway, claim: verb == "claim",
		})
	}
	if err != nil {
		fmt.Fprintln(stderr, "cocoon-worker:", err)
		return exitFailed
	}
	return exitOK
}

// voucherTask is what is to be done with vouchers.
type voucherTask struct {
	dir, network, gateway string
	claim                 bool
}

func vouchersIn(ctx context.Context, stdout io.Writer, task voucherTask) error {
	kept, err := vouchersof.Read(task.dir)
	if err != nil {
		return err
	}
	var chosen []vouchersof.Kept
	for _, k := range kept {
		if task.gateway == "" || task.gateway == k.Gateway {
			chosen = append(chosen, k)
		}
	}
	if len(chosen) == 0 {
		if task.gateway != "" {
			return fmt.Errorf("there are no vouchers of a gateway %q in %s", task.gateway, task.dir)
		}
		fmt.Fprintln(stdout, "there are no vouchers: no gateway has given one")
		return nil
	}
	var chain *ton.Client
	if task.network != "" {
		text, err := config.ReadFile(task.network, config.Max)
		if err != nil {
			return err
		}
		if chain, err = ton.Open(ctx, ton.Config{Network: text}); err != nil {
			return err
		}
		defer chain.Close()
	}
	if task.claim {
		return claimVouchers(ctx, stdout, chain, chosen)
	}
	return listVouchers(ctx, stdout, chain, chosen)
}

// listVouchers shows vouchers, and what they are worth on a chain, if there is one.
func listVouchers(ctx context.Context, stdout io.Writer, chain *ton.Client, kept []vouchersof.Kept) error {
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "GATEWAY\tTAB\tPROMISED IN ALL\tVALID UNTIL")
	if chain != nil {
		fmt.Fprint(w, "\tPAID\tIN THE TAB\tCAN BE CLAIMED")
	}
	fmt.Fprintln(w)
	for _, k := range kept {
		until := k.Voucher.ValidUntil.UTC().Format(time.RFC3339)
		fmt.Fprintf(w, "%s\t%s\t%v\t%s", k.Gateway, k.Voucher.Tab, k.Voucher.Cumulative, until)
		if chain != nil {
			o, err := vouchersof.Look(ctx, chain, k)
			if err != nil {
				return err
			}
			claim := o.Claim.String()
			if o.Why != "" {
				claim = "nothing: " + o.Why
			} else if !o.CloseAt.IsZero() {
				claim += ", until " + o.CloseAt.UTC().Format(time.RFC3339) + ": the gateway is closing the tab"
			}
			fmt.Fprintf(w, "\t%v\t%v\t%s", o.Drawn, o.Balance, claim)
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

// errClaims says that not all claims were paid; the lines above it say why.
var errClaims = errors.New("not all vouchers were paid")

// claimVouchers claims one after the other. One that fails does not keep the others from their turn.
func claimVouchers(ctx context.Context, stdout io.Writer, chain *ton.Client, kept []vouchersof.Kept) error {
	failed := false
	for _, k := range kept {
		paid, err := claimOne(ctx, chain, k)
		switch {
		case err == nil:
			fmt.Fprintf(stdout, "%s: %v paid to %s\n", k.Gateway, paid, k.Terms.Payee)
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			failed = true
			fmt.Fprintf(stdout, "%s: nothing paid: %v\n", k.Gateway, err)
		}
	}
	if failed {
		return errClaims
	}
	return nil
}

func claimOne(ctx context.Context, chain *ton.Client, k vouchersof.Kept) (paid fmt.Stringer, err error) {
	ctx, cancel := context.WithTimeout(ctx, claimMax)
	defer cancel()
	amount, err := vouchersof.Claim(ctx, chain, k)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("the chain has not shown it within %v; it may still be paid: %w", claimMax, err)
	}
	return amount, err
}
