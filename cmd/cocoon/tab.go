package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"cocoon/billing/ton"
	"cocoon/billing/ton/tab"
	"cocoon/billing/ton/wallet"
	"cocoon/internal/durable"
	"cocoon/internal/nanoton"
)

// callValue goes with an owner's message to a tab: many times what it costs. The rest stays in the tab, or comes back.
const callValue = nanoton.PerTON / 20

// kitFileMax bounds a recovery kit's file, bytes.
const kitFileMax = 64 << 10

// tabOptions are the command line of tab.
type tabOptions struct {
	purse
	kitFile       string
	limit, perDay string
	yes           bool
}

func tabCommand(args []string, std streams) error {
	if len(args) == 0 {
		return fmt.Errorf("tab open, show, kit, close, finish or limit: %w", errUsage)
	}
	command, args := args[0], args[1:]
	switch command {
	case "open":
		return openCommand(args, std)
	case "kit":
		return kitCommand(args, std)
	}
	o := &tabOptions{purse: purse{std: std}}
	fs := flag.NewFlagSet("tab "+command, flag.ContinueOnError)
	o.flags(fs, "")
	fs.StringVar(&o.kitFile, "kit", "", "")
	fs.BoolVar(&o.yes, "yes", false, "")
	if command == "limit" {
		fs.StringVar(&o.limit, "limit", "", "")
		fs.StringVar(&o.perDay, "per-day", "", "")
	}
	if err := parse(fs, args, std.out); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("tab %s takes no arguments besides flags: %w", printable(command, shownMax), errUsage)
	}
	if o.kitFile == "" {
		return fmt.Errorf("which tab? --kit names its recovery kit, as 'cocoon tab kit' fetches it: %w", errUsage)
	}
	kit, err := readKit(o.kitFile)
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	switch command {
	case "show":
		return o.show(ctx, kit)
	case "close":
		return o.call(ctx, kit, ownerCall{"close the tab", wallet.Transfer{Body: tab.CloseBody()}, true})
	case "finish":
		what := "have the tab pay its owner all that is left"
		return o.call(ctx, kit, ownerCall{what, wallet.Transfer{Body: tab.FinishBody()}, false})
	case "limit":
		return o.raise(ctx, kit)
	}
	return fmt.Errorf("no command 'tab %s': %w", printable(command, shownMax), errUsage)
}

// readKit reads a recovery kit and checks that all in it follows from its terms.
func readKit(path string) (tab.Kit, error) {
	f, err := os.Open(path)
	if err != nil {
		return tab.Kit{}, fmt.Errorf("the kit: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, kitFileMax+1))
	if err != nil {
		return tab.Kit{}, fmt.Errorf("the kit: %w", err)
	}
	return tab.ParseKit(text)
}

// openCommand has the gateway take a wallet's owner for the account's, and a contract for its money.
func openCommand(args []string, std streams) error {
	var a account
	fs := flag.NewFlagSet("tab open", flag.ContinueOnError)
	a.flags(fs)
	owner := fs.String("owner", "", "")
	limit := fs.String("limit", "", "")
	if err := parse(fs, args, std.out); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("tab open takes no arguments besides flags: %w", errUsage)
	}
	address, err := ton.ParseAddress(*owner)
	if err != nil {
		return fmt.Errorf("--owner: %w: %w", err, errUsage)
	}
	asked := struct {
		Owner ton.Address    `json:"owner"`
		Limit nanoton.Amount `json:"limit_nanoton"`
	}{Owner: address}
	if *limit != "" {
		if asked.Limit, err = nanoton.ParseTON(*limit); err != nil || asked.Limit <= 0 {
			return fmt.Errorf("--limit wants TON, such as 1.5: %w", errUsage)
		}
	}
	ctx, stop := interruptible()
	defer stop()
	var got struct {
		Address ton.Address `json:"address"`
		Owner   ton.Address `json:"owner"`
	}
	if _, err := a.askMoney(ctx, http.MethodPost, "cocoon/v1/account/tab", asked, &got); err != nil {
		return err
	}
	if got.Owner != address {
		return fmt.Errorf("the gateway says that the tab's owner is %v", got.Owner)
	}
	_, err = fmt.Fprintf(std.out, "tab  %v\nBefore you send TON there: 'cocoon tab kit' fetches and checks what you need to have it back "+
		"without the gateway.\n", got.Address)
	return err
}

// kitCommand fetches the recovery kit, while the gateway is there.
func kitCommand(args []string, std streams) error {
	var a account
	fs := flag.NewFlagSet("tab kit", flag.ContinueOnError)
	a.flags(fs)
	out := fs.String("out", "tab-kit.json", "")
	if err := parse(fs, args, std.out); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("tab kit takes no arguments besides flags: %w", errUsage)
	}
	if _, err := os.Lstat(*out); err == nil {
		return fmt.Errorf("there is a file already: %s", *out)
	}
	ctx, stop := interruptible()
	defer stop()
	text, err := a.askMoney(ctx, http.MethodGet, "cocoon/v1/account/tab/kit", nil, nil)
	if err != nil {
		return err
	}
	kit, err := tab.ParseKit(text)
	if err != nil {
		return fmt.Errorf("garbage from the gateway: %w", err)
	}
	var got accountAnswer
	if _, err := a.askMoney(ctx, http.MethodGet, "cocoon/v1/account", nil, &got); err != nil {
		return err
	}
	if got.Tab != nil && got.Tab.Address != kit.Address {
		return fmt.Errorf("the gateway says that your tab is %v, and gives the kit of %v", got.Tab.Address, kit.Address)
	}
	if err := durable.Publish(filepath.Clean(*out), text); err != nil {
		return fmt.Errorf("keeping the kit: %w", err)
	}
	if _, err := fmt.Fprintf(std.out, "%s holds all that its owner needs to close this tab without the gateway.\n"+
		"Check that the owner is a wallet of yours:\n", *out); err != nil {
		return err
	}
	return printTerms(std, kit.Address, kit.Tab())
}

func printTerms(std streams, address ton.Address, t tab.Terms) error {
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "tab\t%v\n", address)
	fmt.Fprintf(w, "owner\t%v\n", t.Owner)
	fmt.Fprintf(w, "paid from it\t%v\n", t.Payee)
	fmt.Fprintf(w, "close delay\t%v\n", t.CloseDelay)
	fmt.Fprintf(w, "limit\t%s\n", limitText(t))
	return w.Flush()
}

func limitText(t tab.Terms) string {
	if t.Rate == 0 {
		return fmt.Sprintf("%v in all", t.Base)
	}
	return fmt.Sprintf("%v in all, and %v more each second since %s", t.Base, t.Rate, t.Since.UTC().Format(time.RFC3339))
}

// now reads the tab's proven state. Until it is deployed its terms are the kit's, and nothing was drawn.
func now(ctx context.Context, c *ton.Client, h ton.Head, kit tab.Kit) (state tab.State, deployed bool, err error) {
	s, err := c.Account(ctx, h, kit.Address)
	if err != nil {
		return tab.State{}, false, err
	}
	state, err = tab.ParseState(s)
	if errors.Is(err, tab.ErrUndeployed) {
		return tab.State{Terms: kit.Tab(), Address: kit.Address, Balance: s.Balance}, false, nil
	}
	return state, true, err
}

func (o *tabOptions) show(ctx context.Context, kit tab.Kit) error {
	c, h, err := o.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close() // nothing is kept
	s, deployed, err := now(ctx, c, h, kit)
	if err != nil {
		return err
	}
	if err := printTerms(o.std, kit.Address, s.Terms); err != nil {
		return err
	}
	w := tabwriter.NewWriter(o.std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "balance\t%v, at %s\n", s.Balance, h.Time.UTC().Format(time.RFC3339))
	switch {
	case !deployed:
		fmt.Fprintf(w, "state\tnot deployed yet: nothing was drawn\n")
	case s.CloseAt.IsZero():
		fmt.Fprintf(w, "drawn\t%v\n", s.Drawn)
		fmt.Fprintf(w, "state\topen\n")
	case h.Time.Before(s.CloseAt):
		fmt.Fprintf(w, "drawn\t%v\n", s.Drawn)
		fmt.Fprintf(w, "state\tclosing: it can be finished after %s\n", s.CloseAt.UTC().Format(time.RFC3339))
	default:
		fmt.Fprintf(w, "drawn\t%v\n", s.Drawn)
		fmt.Fprintf(w, "state\tclosed: 'cocoon tab finish' has the rest paid out\n")
	}
	return w.Flush()
}

// raise raises the limit. What the contract would refuse is not asked of it: by its proven state, or else by the kit.
func (o *tabOptions) raise(ctx context.Context, kit tab.Kit) error {
	if o.limit == "" {
		return fmt.Errorf("want --limit TON: what may be drawn in all: %w", errUsage)
	}
	base, err := readTON("--limit", o.limit)
	if err != nil {
		return err
	}
	terms := kit.Tab()
	if o.networkFile != "" {
		c, h, err := o.connect(ctx)
		if err != nil {
			return err
		}
		s, _, err := now(ctx, c, h, kit)
		if err = errors.Join(err, c.Close()); err != nil {
			return err
		}
		terms = s.Terms
	}
	rate := terms.Rate
	if o.perDay != "" {
		if rate, err = readTON("--per-day", o.perDay); err != nil {
			return err
		}
		rate = perDay(rate)
	}
	since := time.Now().Truncate(time.Second)
	if rate == 0 {
		since = time.Time{}
	}
	if base < terms.LimitAt(time.Now()) || rate < terms.Rate {
		return fmt.Errorf("a limit can only be raised, and it is %s", limitText(terms))
	}
	what := fmt.Sprintf("raise the tab's limit to %s", limitText(tab.Terms{Base: base, Rate: rate, Since: since}))
	return o.call(ctx, kit, ownerCall{what, wallet.Transfer{Body: tab.LimitBody(base, rate, since)}, true})
}

// ownerCall is a message to a tab: what it does, its body, and whether it has to come from the owner.
type ownerCall struct {
	what     string
	transfer wallet.Transfer
	owner    bool
}

// call shows a message as a link that any wallet opens, or sends it from a wallet file.
func (o *tabOptions) call(ctx context.Context, kit tab.Kit, q ownerCall) error {
	if o.file == "" {
		link := ton.PayLink(kit.Address, callValue, "", q.transfer.Body.ToBOC(), kit.Init)
		from := "any wallet"
		if q.owner {
			from = "the owner's wallet, " + kit.Terms.Owner.String()
		}
		fmt.Fprintf(o.std.out, "To %s, open this with %s:\n%s\n", q.what, from, link)
		return showQR(o.std.out, link)
	}
	if err := o.ready(o.yes); err != nil {
		return err
	}
	k, err := o.open()
	if err != nil {
		return err
	}
	c, h, err := o.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close() // nothing is kept
	if own := wallet.NewPersonal(k, int32(o.network)).Address(); q.owner && own != kit.Terms.Owner {
		return fmt.Errorf("the tab's owner is %v, and this wallet is %v", kit.Terms.Owner, own)
	}
	before, deployed, err := now(ctx, c, h, kit)
	if err != nil {
		return err
	}
	t := q.transfer
	t.To, t.Amount, t.Bounce = kit.Address, callValue, true
	if !deployed {
		if t.Init, err = kit.Tab().Init(); err != nil {
			return err
		}
	}
	if err := o.pay(ctx, payment{c, h, k, t, q.what, o.yes}); err != nil {
		return err
	}
	return o.result(ctx, c, kit, before)
}

// result waits until the tab has done what it was asked for, or has sent the message back.
func (o *tabOptions) result(ctx context.Context, c *ton.Client, kit tab.Kit, before tab.State) error {
	h, err := c.Head(ctx)
	if err != nil {
		return err
	}
	for end := h.Time.Add(validFor); h.Time.Before(end); {
		s, err := c.Account(ctx, h, kit.Address)
		if err != nil {
			return err
		}
		after, err := tab.ParseState(s)
		switch {
		case errors.Is(err, tab.ErrUndeployed):
		case err != nil:
			return err
		case !after.CloseAt.Equal(before.CloseAt) || after.Base != before.Base || after.Rate != before.Rate:
			return o.show(ctx, kit)
		}
		if h, err = c.Next(ctx, h.Seqno); err != nil {
			return err
		}
	}
	return errors.New("the tab did nothing of the kind: see 'cocoon tab show', and whether the money came back to the wallet")
}
