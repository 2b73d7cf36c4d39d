package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"cocoon/billing/ton"
	"cocoon/internal/nanoton"
)

const moneyUsage = `
Money. The gateway's side, with its URL and your API key as above:
  cocoon account    what you have there, and where to send TON to have more
  cocoon withdraw --to ADDRESS --ton 1.5 [--id ID]
                    have TON sent to a wallet; with the same ID it is done once, however often you try
  cocoon withdrawals
Your own wallet, a sealed file (wallet V5R1):
  cocoon wallet create | import   import reads 24 words, or 64 hex digits, from the terminal or standard input
  cocoon wallet show [--network FILE]
  cocoon wallet send --to ADDRESS --ton 1.5 [--comment TEXT] [--yes] --network FILE
  --wallet FILE             the wallet; default wallet.key
  --passphrase-file FILE    holds its passphrase; else you are asked
  --network FILE            the network's global.config.json. What its servers say is taken with proofs only
  --network-id N            without --network: the network's number, default -239, which is mainnet
A tab is a contract that holds your money, which the gateway may draw its due from, and which you can close without it:
  cocoon tab open --owner ADDRESS [--limit TON]   have one that only the owner's wallet closes
  cocoon tab kit [--out FILE]     fetch the recovery kit from the gateway and check it; default tab-kit.json. Keep it
  cocoon tab show --kit FILE --network FILE
  cocoon tab close|finish --kit FILE   have the tab closed; after its delay, have the money sent to you
  cocoon tab limit --kit FILE --limit TON [--per-day TON]   raise what may be drawn in all, and by how much it grows
                    these show a link and a QR code for any wallet, or with --wallet FILE --network FILE send it
`

// Limits on what a gateway may answer about money.
const (
	moneyAnswerMax = 4 << 20
	moneyTimeout   = time.Minute
	shownMax       = 300 // characters of one text that are shown
)

// loose is a text, number or other value from the gateway, as text for a person.
type loose string

// UnmarshalJSON takes any value.
func (l *loose) UnmarshalJSON(text []byte) error {
	var s string
	if json.Unmarshal(text, &s) != nil {
		if s = string(text); s == "null" {
			s = ""
		}
	}
	*l = loose(printable(s, shownMax))
	return nil
}

// accountAnswer is what the gateway says of an account; what this program does not know is ignored.
type accountAnswer struct {
	Account   loose          `json:"account"`
	Balance   nanoton.Amount `json:"balance_nanoton"`
	Held      nanoton.Amount `json:"held_nanoton"`
	Available nanoton.Amount `json:"available_nanoton"`
	Suspended loose          `json:"suspended"`
	Deposit   *struct {
		Address ton.Address `json:"address"`
		Memo    string      `json:"memo"`
	} `json:"deposit"`
	Tab *struct {
		Address ton.Address    `json:"address"`
		Balance nanoton.Amount `json:"balance_nanoton"`
		Drawn   nanoton.Amount `json:"drawn_nanoton"`
		Closing loose          `json:"closing_at"`
	} `json:"tab"`
	USD *struct {
		RateID loose `json:"rate_id"`
		PerTON loose `json:"usd_per_ton"`
		Worth  loose `json:"balance"`
	} `json:"usd"`
}

// withdrawal is what the gateway says of one.
type withdrawal struct {
	ID     loose          `json:"id"`
	To     loose          `json:"to"`
	Amount nanoton.Amount `json:"nanoton"`
	State  loose          `json:"state"`
	Why    loose          `json:"why"`
}

// errRefusal says that asking the same again will not help.
var errRefusal = errors.New("refused")

// askMoney asks the gateway something with the API key and decodes the answer into v, unknown members aside. Redirects are
// not followed: the key is for this gateway.
func (a *account) askMoney(ctx context.Context, method, path string, body, v any) ([]byte, error) {
	if a.baseURL == "" {
		return nil, fmt.Errorf("no gateway: set OPENAI_BASE_URL or --base-url: %w", errUsage)
	}
	base, err := gatewayURL(a.baseURL)
	if err != nil {
		return nil, err
	}
	key, err := a.key()
	if err != nil {
		return nil, err
	}
	var text []byte
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, base.JoinPath(path).String(), bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	client := &http.Client{
		Timeout:       moneyTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		if sent, ok := errors.AsType[*url.Error](err); ok && errors.Is(err, context.Canceled) {
			return nil, errors.Join(context.Canceled, sent.Err)
		}
		return nil, reaching(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, moneyAnswerMax+1))
	switch {
	case err != nil:
		return nil, reaching(err)
	case len(answer) > moneyAnswerMax:
		return nil, fmt.Errorf("garbage from the gateway: its answer is longer than %d MiB", moneyAnswerMax>>20)
	case resp.StatusCode/100 == 4 && resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusRequestTimeout:
		return nil, fmt.Errorf("%w: %s", errRefusal, printable(refusal(resp, answer).Error(), shownMax))
	case resp.StatusCode/100 != 2:
		return nil, errors.New(printable(refusal(resp, answer).Error(), shownMax))
	}
	if v != nil {
		if err := json.Unmarshal(answer, v); err != nil {
			return nil, fmt.Errorf("garbage from the gateway: %w", err)
		}
	}
	return answer, nil
}

func accountCommand(args []string, std streams) error {
	var a account
	fs := flag.NewFlagSet("account", flag.ContinueOnError)
	a.flags(fs)
	if err := parse(fs, args, std.out); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("account takes no arguments: %w", errUsage)
	}
	ctx, stop := interruptible()
	defer stop()
	var got accountAnswer
	if _, err := a.askMoney(ctx, http.MethodGet, "cocoon/v1/account", nil, &got); err != nil {
		return err
	}
	return got.print(std)
}

// print shows the account, and a QR code to pay by.
func (a *accountAnswer) print(std streams) error {
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	row("account", "%s", a.Account)
	if a.Suspended != "" {
		row("suspended", "%s", a.Suspended)
	}
	row("balance", "%v", a.Balance)
	row("held", "%v", a.Held)
	row("available", "%v", a.Available)
	if u := a.USD; u != nil {
		row("worth", "%s USD, at %s USD for a TON (rate %s)", u.Worth, u.PerTON, u.RateID)
	}
	if t := a.Tab; t != nil && !t.Address.IsZero() {
		row("tab", "%v", t.Address)
		row("tab's balance", "%v", t.Balance)
		row("drawn from it", "%v", t.Drawn)
		if t.Closing != "" {
			row("tab closes", "%s", t.Closing)
		}
	}
	link := ""
	if d := a.Deposit; d != nil && !d.Address.IsZero() {
		if _, err := ton.ParseMemo(d.Memo); err != nil {
			return fmt.Errorf("garbage from the gateway: the memo of deposits: %w", err)
		}
		link = ton.PayLink(d.Address, 0, d.Memo, nil, nil) // made here: it cannot pay to anything but what is shown
		row("send TON to", "%v", d.Address)
		row("with the comment", "%s", d.Memo)
		row("link", "%s", link)
	}
	if err := w.Flush(); err != nil || link == "" {
		return err
	}
	return showQR(std.out, link)
}

func withdrawCommand(args []string, std streams) error {
	var a account
	fs := flag.NewFlagSet("withdraw", flag.ContinueOnError)
	a.flags(fs)
	to := fs.String("to", "", "")
	amountText := fs.String("ton", "", "")
	id := fs.String("id", "", "")
	if err := parse(fs, args, std.out); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("withdraw takes no arguments: %w", errUsage)
	}
	address, amount, err := readPayment(*to, *amountText)
	if err != nil {
		return err
	}
	if *id == "" {
		*id = rand.Text()
	}
	ctx, stop := interruptible()
	defer stop()
	// The ID comes first: whatever happens now, the same command with it does not pay twice.
	if _, err := fmt.Fprintf(std.out, "id  %s\n", printable(*id, shownMax)); err != nil {
		return err
	}
	var got withdrawal
	asked := struct {
		ID      string      `json:"id"`
		To      ton.Address `json:"to"`
		Nanoton int64       `json:"nanoton"`
	}{*id, address, int64(amount)}
	if _, err := a.askMoney(ctx, http.MethodPost, "cocoon/v1/account/withdrawals", asked, &got); err != nil {
		if errors.Is(err, errRefusal) {
			return err // it was not asked for, and won't be by asking again
		}
		return fmt.Errorf("%w; to try again without paying twice, add --id %s", err, printable(*id, shownMax))
	}
	if got.To != loose(address.String()) || got.Amount != amount {
		return fmt.Errorf("the gateway says that %s is %v to %s: that ID is another withdrawal's", printable(*id, shownMax),
			got.Amount, got.To)
	}
	fmt.Fprintf(std.out, "%v to %v: %s\n", amount, address, got.state())
	return nil
}

func (w *withdrawal) state() string {
	if w.Why != "" {
		return string(w.State + ": " + w.Why)
	}
	return string(w.State)
}

func withdrawalsCommand(args []string, std streams) error {
	var a account
	fs := flag.NewFlagSet("withdrawals", flag.ContinueOnError)
	a.flags(fs)
	if err := parse(fs, args, std.out); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("withdrawals takes no arguments: %w", errUsage)
	}
	ctx, stop := interruptible()
	defer stop()
	var got struct {
		Withdrawals []withdrawal `json:"data"`
	}
	if _, err := a.askMoney(ctx, http.MethodGet, "cocoon/v1/account/withdrawals", nil, &got); err != nil {
		return err
	}
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tAMOUNT\tTO\tSTATE")
	for _, p := range got.Withdrawals {
		fmt.Fprintf(w, "%s\t%v\t%s\t%s\n", p.ID, p.Amount, p.To, p.state())
	}
	return w.Flush()
}

// readPayment reads whom to pay and how much.
func readPayment(to, amountText string) (ton.Address, nanoton.Amount, error) {
	if to == "" || amountText == "" {
		return ton.Address{}, 0, fmt.Errorf("want --to ADDRESS and --ton AMOUNT: %w", errUsage)
	}
	address, err := ton.ParseAddress(to)
	if err != nil {
		return ton.Address{}, 0, fmt.Errorf("--to: %w: %w", err, errUsage)
	}
	amount, err := readTON("--ton", amountText)
	if err == nil && amount == 0 {
		err = fmt.Errorf("--ton: nothing to pay: %w", errUsage)
	}
	return address, amount, err
}

// readTON reads an amount of TON from a flag.
func readTON(name, text string) (nanoton.Amount, error) {
	amount, err := nanoton.ParseTON(text)
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %w", name, err, errUsage)
	}
	if amount < 0 {
		return 0, fmt.Errorf("%s: %v is less than nothing: %w", name, amount, errUsage)
	}
	return amount, nil
}
