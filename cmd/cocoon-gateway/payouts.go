package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/billing/treasury"
)

// withLedger opens the ledger for f. A gateway may run beside it, and sees what f changes within seconds.
func withLedger(o *options, f func(ctx context.Context, l *ledger.Ledger) error) error {
	cfg, err := o.gateway()
	if err != nil {
		return err
	}
	if path, ok := strings.CutPrefix(cfg.LedgerURL(), "sqlite:"); ok {
		if _, err := os.Stat(path); err != nil { // opening it would make one
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), ledgerTimeout)
	defer cancel()
	l, err := ledger.Open(ctx, cfg.LedgerURL())
	if err != nil {
		return err
	}
	defer l.Close() // nothing is buffered
	return f(ctx, l)
}

// payouts lists and steers what goes out to the chain.
func payouts(o *options, stdout io.Writer) error {
	if len(o.words) == 0 {
		return fmt.Errorf("payouts list, ask, run, hold, release, cancel or repair: %w", errUsage)
	}
	return withLedger(o, func(ctx context.Context, l *ledger.Ledger) error {
		verb := o.words[0]
		switch verb {
		case "list":
			return listPayouts(ctx, l, o, stdout)
		case "ask":
			return askPayout(ctx, l, o, stdout)
		case "run":
			return runPayouts(ctx, l, o, stdout)
		case "hold", "release":
			return holdPayouts(ctx, l, o, stdout)
		case "cancel":
			args, err := o.args("a payout's ID")
			if err != nil {
				return err
			}
			if err := treasury.Cancel(ctx, l, args[0], o.flags["reason"]); err != nil {
				return err
			}
			_, err = fmt.Fprintf(stdout, "cancelled %s: its money is back in its account\n", args[0])
			return err
		case "repair":
			return repairPayouts(ctx, l, stdout)
		}
		return fmt.Errorf("no command 'payouts %s': %w", verb, errUsage)
	})
}

func listPayouts(ctx context.Context, l *ledger.Ledger, o *options, stdout io.Writer) error {
	_, all := o.flags["all"]
	list, err := treasury.Payouts(ctx, l, treasury.Filter{Account: ledger.Account(o.flags["account"]), Open: !all})
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tASKED\tSTATE\tAMOUNT\tACCOUNT\tTO\tNOTE")
	for i := range list {
		p := &list[i]
		note := p.Reason
		if p.Held != "" {
			note = "held: " + p.Held
		} else if p.Why != "" {
			note = p.Why
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%v\t%s\t%s\t%s\n", p.ID, p.Asked.Format(time.DateTime), p.State, p.Amount, p.Account, p.To, note)
	}
	return w.Flush()
}

// askPayout has money of an account go to an address: what a customer or worker asked for by other ways, or the operator's
// own.
func askPayout(ctx context.Context, l *ledger.Ledger, o *options, stdout io.Writer) error {
	args, err := o.args("an account such as fees or customer:NAME", "an address", "an amount of TON")
	if err != nil {
		return err
	}
	id := o.flags["id"]
	if id == "" {
		return fmt.Errorf("--id is missing: a name for this payout, the same if you ask again: %w", errUsage)
	}
	p := treasury.Payout{
		ID: treasury.PayoutID("operator", args[0], id), Account: ledger.Account(args[0]), Reason: "asked for by the operator",
	}
	if p.To, err = ton.ParseAddress(args[1]); err != nil {
		return err
	}
	if p.Amount, err = readTON(args[2]); err != nil {
		return err
	}
	if err := treasury.Ask(ctx, l, p); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s: %v to %s; 'payouts list' shows what becomes of it\n", p.ID, p.Amount, p.To)
	return err
}

// runPayouts pays one worker, or all, what they have earned, ahead of their schedules.
func runPayouts(ctx context.Context, l *ledger.Ledger, o *options, stdout io.Writer) (err error) {
	switch len(o.words) {
	case 1:
		err = treasury.RunAllNow(ctx, l)
	case 2:
		err = treasury.RunNow(ctx, l, o.words[1])
	default:
		return fmt.Errorf("'payouts run' takes one worker, or none for all: %w", errUsage)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, "the gateway pays what is due within a minute; 'payouts list' shows it")
	return err
}

// holdPayouts keeps one payout, or all, from leaving, and lets them go again.
func holdPayouts(ctx context.Context, l *ledger.Ledger, o *options, stdout io.Writer) (err error) {
	verb := o.words[0]
	if len(o.words) > 2 {
		return fmt.Errorf("'payouts %s' takes one payout's ID, or none for all: %w", verb, errUsage)
	}
	why := o.flags["reason"]
	if why == "" {
		why = "by the operator"
	}
	switch {
	case verb == "hold" && len(o.words) == 1:
		err = treasury.HoldAll(ctx, l, why)
	case verb == "hold":
		err = treasury.Hold(ctx, l, o.words[1], why)
	case len(o.words) == 1:
		err = treasury.ReleaseAll(ctx, l)
	default:
		err = treasury.Release(ctx, l, o.words[1])
	}
	if err != nil {
		return err
	}
	what := "all payouts"
	if len(o.words) == 2 {
		what = o.words[1]
	}
	_, err = fmt.Fprintf(stdout, "%s: %s\n", map[string]string{"hold": "held", "release": "released"}[verb], what)
	return err
}

// repairPayouts applies what the chain shows and the ledger does not know, as after an older backup was restored.
func repairPayouts(ctx context.Context, l *ledger.Ledger, stdout io.Writer) error {
	left, err := treasury.Repair(ctx, l)
	if err != nil {
		return err
	}
	if len(left) == 0 {
		_, err = fmt.Fprintln(stdout, "the ledger knows all payments that the chain shows")
		return err
	}
	fmt.Fprintln(stdout, "these could not be placed; 'suspense settle ID ACCOUNT' says whose they are:")
	return printSuspense(left, stdout)
}

// suspense lists sums that nobody known sent, sends them back, or says whose they are.
func suspense(o *options, stdout io.Writer) error {
	if len(o.words) == 0 {
		return fmt.Errorf("suspense list, refund or settle: %w", errUsage)
	}
	return withLedger(o, func(ctx context.Context, l *ledger.Ledger) error {
		switch o.words[0] {
		case "list":
			list, err := treasury.Unsettled(ctx, l)
			if err != nil {
				return err
			}
			return printSuspense(list, stdout)
		case "refund":
			args, err := o.args("an ID")
			if err != nil {
				return err
			}
			id, err := treasury.Refund(ctx, l, args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(stdout, "goes back to its sender as payout %s\n", id)
			return err
		case "settle":
			args, err := o.args("an ID", "an account such as customer:NAME")
			if err != nil {
				return err
			}
			if err := treasury.Settle(ctx, l, args[0], ledger.Account(args[1])); err != nil {
				return err
			}
			_, err = fmt.Fprintf(stdout, "%s is %s's\n", args[0], args[1])
			return err
		}
		return fmt.Errorf("no command 'suspense %s': %w", o.words[0], errUsage)
	})
}

func printSuspense(list []treasury.Suspense, stdout io.Writer) error {
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tWHEN\tWAY\tAMOUNT\tADDRESS\tWHY\tCOMMENT")
	for i := range list {
		s := &list[i]
		way := "in"
		if s.Out {
			way = "out"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%v\t%s\t%s\t%q\n", s.ID, s.At.Format(time.DateTime), way, s.Amount, s.Peer, s.Why, s.Comment)
	}
	return w.Flush()
}
