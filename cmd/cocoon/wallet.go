package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"cocoon/billing/ton"
	"cocoon/billing/ton/wallet"
	"cocoon/internal/nanoton"
	"cocoon/internal/passphrase"
	"cocoon/internal/terminal"
)

// How a message of a wallet is sent and watched.
const (
	networkFileMax = 4 << 20          // of a global.config.json: mainnet's has 100 kB
	connectTimeout = 30 * time.Second // to the network
	validFor       = 2 * time.Minute  // of the chain's time, for a message; then it is dead for sure
	deadMargin     = time.Minute      // a transaction's time is its shard's, which may be behind
	resendEvery    = 10               // blocks: messages get lost
	historyMax     = 100              // transactions looked through at a time
)

// purse is a wallet file, the network that it is used on, and what opens it.
type purse struct {
	file, passphraseFile, networkFile string
	network                           int
	std                               streams
}

func (p *purse) flags(fs *flag.FlagSet, defaultFile string) {
	fs.StringVar(&p.file, "wallet", defaultFile, "")
	fs.StringVar(&p.passphraseFile, "passphrase-file", "", "")
	fs.StringVar(&p.networkFile, "network", "", "")
	fs.IntVar(&p.network, "network-id", wallet.Mainnet, "")
}

func (p *purse) source() passphrase.Source {
	return passphrase.Source{File: p.passphraseFile, In: p.std.in, Out: p.std.err}
}

// open asks for the passphrase and opens the wallet's key.
func (p *purse) open() (*wallet.Key, error) {
	if _, err := os.Stat(p.file); err != nil { // before anybody types
		return nil, fmt.Errorf("the wallet: %w", err)
	}
	words, err := p.source().Read(p.file)
	if err != nil {
		return nil, err
	}
	return wallet.OpenKey(p.file, words)
}

// ready finds what is missing for a payment before anybody types a passphrase.
func (p *purse) ready(yes bool) error {
	if p.networkFile == "" {
		return fmt.Errorf("which network? --network names its global.config.json: %w", errUsage)
	}
	if !yes && !terminal.Is(p.std.in) {
		return fmt.Errorf("there is nobody to ask whether to do it: --yes says so: %w", errUsage)
	}
	return nil
}

// connect opens a client of the network.
func (p *purse) connect(ctx context.Context) (*ton.Client, ton.Head, error) {
	if p.networkFile == "" {
		return nil, ton.Head{}, p.ready(true)
	}
	f, err := os.Open(p.networkFile)
	if err != nil {
		return nil, ton.Head{}, fmt.Errorf("the network: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, networkFileMax))
	if err != nil {
		return nil, ton.Head{}, fmt.Errorf("the network: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	c, err := ton.Open(ctx, ton.Config{Network: text})
	if err != nil {
		return nil, ton.Head{}, err
	}
	h, err := c.Head(ctx)
	if err == nil {
		var network int32
		network, err = wallet.NetworkOf(ctx, c, h)
		p.network = int(network)
	}
	if err != nil {
		return nil, ton.Head{}, errors.Join(err, c.Close())
	}
	return c, h, nil
}

func walletCommand(args []string, std streams) error {
	if len(args) == 0 {
		return fmt.Errorf("wallet create, import, show or send: %w", errUsage)
	}
	command, args := args[0], args[1:]
	p := &purse{std: std}
	fs := flag.NewFlagSet("wallet "+command, flag.ContinueOnError)
	p.flags(fs, "wallet.key")
	var to, amount, comment string
	var yes bool
	if command == "send" {
		fs.StringVar(&to, "to", "", "")
		fs.StringVar(&amount, "ton", "", "")
		fs.StringVar(&comment, "comment", "", "")
		fs.BoolVar(&yes, "yes", false, "")
	}
	if err := parse(fs, args, std.out); err != nil {
		return err
	}
	if fs.NArg() > 0 { // what was typed is not repeated: it may be a secret
		return fmt.Errorf("wallet %s takes no arguments besides flags: %w", printable(command, shownMax), errUsage)
	}
	ctx, stop := interruptible()
	defer stop()
	switch command {
	case "create", "import":
		return p.make(ctx, command == "import")
	case "show":
		return p.show(ctx)
	case "send":
		return p.send(ctx, to, amount, comment, yes)
	}
	return fmt.Errorf("no command 'wallet %s': %w", printable(command, shownMax), errUsage)
}

// make writes a new wallet file: with a new key, or with that of another wallet.
func (p *purse) make(ctx context.Context, imported bool) error {
	if _, err := os.Lstat(p.file); err == nil {
		return fmt.Errorf("%w: %s", wallet.ErrExists, p.file)
	}
	var secret []byte
	var err error
	if imported {
		if secret, err = p.source().Secret("24 words, or 64 hex digits: "); err != nil {
			return err
		}
	}
	words, err := p.source().New(p.file)
	if err != nil {
		return err
	}
	var k *wallet.Key
	if imported {
		k, err = wallet.ImportKey(p.file, words, secret)
	} else {
		k, err = wallet.CreateKey(p.file, words)
	}
	if err != nil {
		return err
	}
	if p.networkFile != "" {
		c, _, err := p.connect(ctx)
		if err != nil {
			return err
		}
		defer c.Close() // nothing is kept
	}
	fmt.Fprintf(p.std.err, "Keep %s and its passphrase: nothing else opens the wallet.\n", p.file)
	return p.print(wallet.NewPersonal(k, int32(p.network)), nil)
}

// show prints the wallet's address, and its balance if there is a network to ask.
func (p *purse) show(ctx context.Context) error {
	k, err := p.open()
	if err != nil {
		return err
	}
	fmt.Fprintf(p.std.out, "key      %x\n", []byte(k.Public())) // signers of a registry are named by theirs
	if p.networkFile == "" {
		return p.print(wallet.NewPersonal(k, int32(p.network)), nil)
	}
	c, h, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close() // nothing is kept
	w := wallet.NewPersonal(k, int32(p.network))
	s, err := c.Account(ctx, h, w.Address())
	if err != nil {
		return err
	}
	return p.print(w, &s)
}

func (p *purse) print(w *wallet.Personal, s *ton.State) error {
	fmt.Fprintf(p.std.out, "address  %v\n", w.Address())
	network := fmt.Sprint(p.network)
	if p.network == wallet.Mainnet {
		network += " (mainnet)"
	}
	fmt.Fprintf(p.std.out, "network  %s\n", network)
	if s != nil {
		fmt.Fprintf(p.std.out, "balance  %v, at %s\n", s.Balance, s.At.Time.UTC().Format(time.RFC3339))
	}
	return showQR(p.std.out, ton.PayLink(w.Address(), 0, "", nil, nil))
}

// send pays somebody, and tells whether that happened.
func (p *purse) send(ctx context.Context, to, amountText, comment string, yes bool) error {
	address, amount, err := readPayment(to, amountText)
	if err != nil {
		return err
	}
	if err := p.ready(yes); err != nil {
		return err
	}
	k, err := p.open()
	if err != nil {
		return err
	}
	c, h, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close() // nothing is kept
	t := wallet.Transfer{To: address, Amount: amount, Comment: comment}
	question := fmt.Sprintf("send %v to %v", amount, address)
	if comment != "" {
		question += fmt.Sprintf(" with the comment %q", comment)
	}
	return p.pay(ctx, payment{c, h, k, t, question, yes})
}

// payment is one transfer of a wallet that a person asked for.
type payment struct {
	client   *ton.Client
	head     ton.Head
	key      *wallet.Key
	transfer wallet.Transfer
	question string
	yes      bool
}

// pay asks, signs, sends, and waits until the chain shows what became of it.
func (p *purse) pay(ctx context.Context, q payment) error {
	w := wallet.NewPersonal(q.key, int32(p.network))
	s, err := q.client.Account(ctx, q.head, w.Address())
	if err != nil {
		return err
	}
	if need := w.Need([]wallet.Transfer{q.transfer}); s.Balance < need { // before anybody is asked
		return &wallet.ShortError{Need: need, Have: s.Balance}
	}
	if err := p.confirm(fmt.Sprintf("From %v, which has %v:\n%s?", w.Address(), s.Balance, q.question), q.yes); err != nil {
		return err
	}
	// Again, as of now: a person may have thought about it.
	h, err := q.client.Head(ctx)
	if err != nil {
		return err
	}
	if s, err = q.client.Account(ctx, h, w.Address()); err != nil {
		return err
	}
	until := h.Time.Add(validFor)
	message, err := w.Message(ctx, s, until, []wallet.Transfer{q.transfer})
	if err != nil {
		return err
	}
	tx, err := watch(ctx, q.client, w, sending{s, message, until})
	if err != nil {
		return err
	}
	for _, m := range tx.Out {
		if m.To == q.transfer.To && m.Amount == q.transfer.Amount {
			_, err := fmt.Fprintf(p.std.out, "sent %v to %v, for %v of fees\ntransaction %x at %s\n", m.Amount, m.To,
				tx.Fees+m.Fee, tx.Hash, tx.At.UTC().Format(time.RFC3339))
			return err
		}
	}
	return fmt.Errorf("the wallet took the message and sent nothing (transaction %x, exit code %d)", tx.Hash, tx.Exit)
}

// sending is a message on its way: the wallet before it, and when it expires.
type sending struct {
	before  ton.State
	message []byte
	until   time.Time
}

// watch sends a message until the wallet has executed it, or never will.
func watch(ctx context.Context, c *ton.Client, w *wallet.Personal, m sending) (*ton.Transaction, error) {
	before, message, until := m.before, m.message, m.until
	first, err := w.Seqno(before)
	if err != nil {
		return nil, err
	}
	h := before.At
	for block := 0; ; block++ {
		if block%resendEvery == 0 {
			// Refused may mean that it was executed already, and unreachable that it will be later: the chain tells.
			if err := c.Send(ctx, message); err != nil && !errors.Is(err, ton.ErrRefused) && !errors.Is(err, ton.ErrUnreachable) {
				return nil, err
			} else if block == 0 && errors.Is(err, ton.ErrRefused) {
				return nil, fmt.Errorf("the network takes no such message: %w", err)
			}
		}
		next, err := c.Next(ctx, h.Seqno)
		if err != nil {
			return nil, fmt.Errorf("the message is on its way, and may be executed until %s: look at the balance then: %w",
				until.UTC().Format(time.RFC3339), err)
		}
		h = next
		s, err := c.Account(ctx, h, w.Address())
		if err != nil {
			return nil, fmt.Errorf("the message is on its way, and may be executed until %s: %w", until.UTC().Format(time.RFC3339), err)
		}
		seqno, err := w.Seqno(s)
		if err != nil {
			return nil, err
		}
		if seqno > first {
			return executed(ctx, c, s, before.Last)
		}
		if h.Time.After(until.Add(deadMargin)) {
			return nil, errors.New("the network did not execute the message in time; nothing was sent: try again")
		}
	}
}

// executed finds the transaction of the message from outside that a wallet executed first after a place.
func executed(ctx context.Context, c *ton.Client, s ton.State, after ton.Cursor) (*ton.Transaction, error) {
	for after != s.Last {
		some, err := c.Transactions(ctx, s, after, historyMax)
		if err != nil {
			return nil, fmt.Errorf("the message was executed; looking for what it did: %w", err)
		}
		for _, tx := range some {
			if tx.In != nil && tx.In.External {
				return tx, nil
			}
			after = tx.Cursor
		}
		if len(some) == 0 {
			break
		}
	}
	return nil, errors.New("the message was executed, but its transaction is not to be found")
}

// confirm asks a person.
func (p *purse) confirm(question string, yes bool) error {
	if yes {
		return nil
	}
	fmt.Fprintf(p.std.err, "%s [y/N] ", question)
	line, err := bufio.NewReader(io.LimitReader(p.std.in, 100)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if a := strings.ToLower(strings.TrimSpace(line)); a != "y" && a != "yes" {
		return errors.New("not confirmed: nothing was sent")
	}
	return nil
}

// perDay makes a rate for each second of one for each day, rounded up.
func perDay(a nanoton.Amount) nanoton.Amount {
	const day = nanoton.Amount(24 * 60 * 60)
	return a/day + min(a%day, 1)
}
