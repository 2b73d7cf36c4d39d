package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"cocoon/billing/ledger"
	"cocoon/gateway"
	"cocoon/gateway/clerk"
	"cocoon/internal/daemon"
)

// errDifference says that an audit found one, which it printed.
var errDifference = errors.New("the audit found a difference")

// audit compares all that the gateway keeps about money. It succeeds only if all of it holds.
func audit(o *options, stdout io.Writer) error {
	if len(o.words) > 0 {
		return fmt.Errorf("'audit' takes no arguments: %w", errUsage)
	}
	cfg, err := o.gateway()
	if err != nil {
		return err
	}
	ctx, stop := daemon.Context()
	defer stop()
	if path, ok := strings.CutPrefix(cfg.LedgerURL(), "sqlite:"); ok {
		if _, err := os.Stat(path); err != nil { // opening it would make one
			return err
		}
	}
	opening, cancel := context.WithTimeout(ctx, ledgerTimeout)
	defer cancel()
	l, err := ledger.Open(opening, cfg.LedgerURL())
	if errors.Is(err, ledger.ErrCorrupt) {
		fmt.Fprintf(stdout, "audit: a difference: ledger: %v\n", err)
		return errDifference
	}
	if err != nil {
		return err
	}
	defer l.Close() // it was only read
	c := clerk.AuditConfig{
		Ledger: l, Journal: filepath.Join(cfg.DataDir, gateway.JournalDir), Receipts: filepath.Join(cfg.DataDir, gateway.ReceiptsDir),
		Keysets: filepath.Join(cfg.DataDir, gateway.KeysetsDir),
	}
	if cfg.Ledger != "" { // on a shared ledger, the part that is this gateway's
		c.Gateway = cfg.Name
	}
	report, err := clerk.Audit(ctx, c)
	if err != nil {
		return err
	}
	return printAudit(&report, stdout)
}

// printAudit prints what was found, the sum of it last.
func printAudit(r *clerk.AuditReport, stdout io.Writer) error {
	j := r.Journal
	fmt.Fprintf(stdout, "ledger    %d accounts, %d transfers, %d legs\n", r.Ledger.Accounts, r.Ledger.Transfers, r.Ledger.Legs)
	fmt.Fprintf(stdout, "journal   %d holds, %d settled, %d voided, %d open\n", j.Holds, j.Settled, j.Voided, j.Open)
	fmt.Fprintf(stdout, "          %d batches in the ledger, %d on their way, %d requests in none yet\n", j.Batches, j.Pending, j.Unbatched)
	fmt.Fprintf(stdout, "          customers paid %d nanoTON: workers' %d, fees %d\n", int64(j.Cost), int64(j.Share), int64(j.Fee))
	if j.Unheld+j.Incomplete > 0 {
		fmt.Fprintf(stdout, "          %d requests and %d batches began before the archive does, and were not compared\n", j.Unheld, j.Incomplete)
	}
	fmt.Fprintf(stdout, "receipts  %d in the log, %d under its signed tree head; %d signatures checked of those settled\n",
		r.Receipts.Receipts, r.Receipts.Signed, r.Signatures)
	if r.Difference != "" {
		fmt.Fprintf(stdout, "audit: a difference: %s\n", r.Difference)
		return errDifference
	}
	_, err := fmt.Fprintln(stdout, "audit: all of it holds")
	return err
}
