package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"cocoon/billing/ledger"
	"cocoon/gateway/accounts"
	"cocoon/internal/nanoton"
)

// ledgerTimeout bounds what a command waits for the ledger: a running gateway writes to it, too.
const ledgerTimeout = time.Minute

// flagsOf names the flags that a command takes besides --config and --data.
func flagsOf(command string) []string {
	limits := []string{"rpm", "tpm", "concurrent"}
	key := append([]string{"name", "scopes", "models", "budget", "reset", "price-cap-in", "price-cap-out", "expires", "provider"}, limits...)
	switch command {
	case "accounts create", "accounts limit":
		return limits
	case "accounts suspend":
		return []string{"reason"}
	case "accounts grant":
		return []string{"id"}
	case "keys create":
		return append(key, "account")
	case "keys update":
		return key
	case "keys list":
		return []string{"account"}
	case "keys rotate":
		return []string{"grace"}
	case "wallet create", "wallet import", "wallet show":
		return []string{"passphrase-file"}
	case "payouts list":
		return []string{"account", "all"}
	case "payouts ask":
		return []string{"id"}
	case "payouts hold", "payouts cancel":
		return []string{"reason"}
	case "usage":
		return []string{"account", "key", "from", "to", "by", "csv"}
	}
	return nil
}

// addFlags lets a flag set take the flags of all commands.
func (o *options) addFlags(fs *flag.FlagSet) {
	o.flags = map[string]string{}
	for _, command := range []string{"accounts create", "accounts suspend", "accounts grant", "keys create", "keys rotate", "usage", "payouts list", "wallet create"} {
		for _, name := range flagsOf(command) {
			set := func(v string) error { o.flags[name] = v; return nil }
			switch {
			case fs.Lookup(name) != nil:
			case name == "csv", name == "all":
				fs.BoolFunc(name, "", set)
			default:
				fs.Func(name, "", set)
			}
		}
	}
}

// checkFlags refuses flags that a command does not take.
func (o *options) checkFlags(command string) error {
	if len(o.words) > 0 && slices.Contains([]string{"accounts", "keys", "payouts", "suspense", "wallet"}, command) {
		command += " " + o.words[0]
	}
	for name := range o.flags {
		if !slices.Contains(flagsOf(command), name) {
			return fmt.Errorf("'%s' takes no --%s: %w", command, name, errUsage)
		}
	}
	return nil
}

// args are the arguments that a command takes, by what they are.
func (o *options) args(what ...string) ([]string, error) {
	if len(o.words)-1 != len(what) {
		return nil, fmt.Errorf("'%s' takes %s: %w", o.words[0], strings.Join(what, " and "), errUsage)
	}
	return o.words[1:], nil
}

// withBook opens the ledger and the book of accounts and keys for f. A gateway may run beside it.
func withBook(o *options, f func(ctx context.Context, b *accounts.Book) error) error {
	cfg, err := o.gateway()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), ledgerTimeout)
	defer cancel()
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("making the data folder: %w", err)
	}
	l, err := ledger.Open(ctx, cfg.LedgerURL())
	if err != nil {
		return err
	}
	defer l.Close() // nothing is buffered
	b, err := accounts.Open(ctx, accounts.Config{Store: l, TestMoney: cfg.TestMoney})
	if err != nil {
		return err
	}
	return f(ctx, b)
}

func manageAccounts(o *options, stdout io.Writer) error {
	if len(o.words) == 0 {
		return fmt.Errorf("accounts create, list, show, limit, suspend, resume or grant: %w", errUsage)
	}
	if o.words[0] == "list" {
		return withBook(o, func(ctx context.Context, b *accounts.Book) error { return listAccounts(ctx, b, stdout) })
	}
	return withBook(o, func(ctx context.Context, b *accounts.Book) error { return manageAccount(ctx, b, o, stdout) })
}

// manageAccount does what concerns one account, and shows it.
func manageAccount(ctx context.Context, b *accounts.Book, o *options, stdout io.Writer) error {
	what := []string{"an account's name"}
	if o.words[0] == "grant" {
		what = append(what, "an amount of TON")
	}
	args, err := o.args(what...)
	if err != nil {
		return err
	}
	switch name := args[0]; o.words[0] {
	case "create":
		var l accounts.Limits
		if err = o.limits(&l); err == nil {
			_, err = b.CreateAccount(ctx, name, l)
		}
	case "show":
	case "limit":
		err = limitAccount(ctx, b, o, name)
	case "suspend":
		err = b.SuspendAccount(ctx, name, o.flags["reason"])
	case "resume":
		err = b.ResumeAccount(ctx, name)
	case "grant":
		var amount nanoton.Amount
		if amount, err = readTON(args[1]); err == nil {
			err = b.Grant(ctx, name, amount, o.flags["id"])
		}
	default:
		return fmt.Errorf("no command 'accounts %s': %w", o.words[0], errUsage)
	}
	if err != nil {
		return err
	}
	return showAccount(ctx, b, args[0], stdout)
}

func limitAccount(ctx context.Context, b *accounts.Book, o *options, name string) error {
	a, err := b.Account(name)
	if err != nil {
		return err
	}
	if err := o.limits(&a.Limits); err != nil {
		return err
	}
	return b.LimitAccount(ctx, name, a.Limits)
}

func listAccounts(ctx context.Context, b *accounts.Book, stdout io.Writer) error {
	balances, err := b.Balances(ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tBALANCE\tNANOTON\tCREATED\tSUSPENDED")
	for _, a := range b.Accounts() {
		balance := balances[a.Name]
		fmt.Fprintf(w, "%s\t%v\t%d\t%s\t%s\n", a.Name, balance, balance, a.Created.Format(time.RFC3339), suspension(a))
	}
	return w.Flush()
}

func suspension(a accounts.Account) string {
	if a.Suspended.IsZero() {
		return "-"
	}
	return a.Suspended.Format(time.RFC3339) + ": " + a.Reason
}

func showAccount(ctx context.Context, b *accounts.Book, name string, stdout io.Writer) error {
	a, err := b.Account(name)
	if err != nil {
		return err
	}
	balance, err := b.Balance(ctx, name)
	if err != nil {
		return err
	}
	live := 0
	keys := b.Keys(name)
	for _, k := range keys {
		if state(k, time.Now()) == "live" {
			live++
		}
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "name\t%s\n", a.Name)
	fmt.Fprintf(w, "created\t%s\n", a.Created.Format(time.RFC3339))
	fmt.Fprintf(w, "suspended\t%s\n", suspension(a))
	fmt.Fprintf(w, "balance\t%s\n", money(balance))
	fmt.Fprintf(w, "keys\t%d, %d of them live\n", len(keys), live)
	fmt.Fprintf(w, "limits of each key\t%s\n", limitsText(a.Limits))
	return w.Flush()
}

// limits reads the flags of limits into l; one that was not given stays.
func (o *options) limits(l *accounts.Limits) error {
	for name, to := range map[string]*int64{"rpm": &l.RequestsPerMinute, "tpm": &l.TokensPerMinute, "concurrent": &l.Concurrent} {
		text, given := o.flags[name]
		switch n, err := strconv.ParseInt(text, 10, 64); {
		case !given:
		case text == "none":
			*to = 0
		case err != nil || n < 1:
			return fmt.Errorf("--%s: want a number above zero, or none: %w", name, errUsage)
		default:
			*to = n
		}
	}
	return nil
}

func limitsText(l accounts.Limits) string {
	var parts []string
	for _, p := range []struct {
		n    int64
		what string
	}{{l.RequestsPerMinute, "requests/min"}, {l.TokensPerMinute, "tokens/min"}, {l.Concurrent, "at once"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	if parts == nil {
		return "-"
	}
	return strings.Join(parts, ", ")
}

// readTON reads an amount of TON.
func readTON(text string) (nanoton.Amount, error) {
	a, err := nanoton.ParseTON(strings.TrimSuffix(text, " TON"))
	if err != nil {
		return 0, fmt.Errorf("%w: want TON, such as 1.5: %w", err, errUsage)
	}
	return a, nil
}

// money shows an amount in both units.
func money(a nanoton.Amount) string { return fmt.Sprintf("%v (%d nanoTON)", a, int64(a)) }
