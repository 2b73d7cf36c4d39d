package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"cocoon/billing/ton"
	"cocoon/billing/ton/registry"
	"cocoon/billing/ton/wallet"
	"cocoon/internal/config"
	"cocoon/internal/nanoton"
	"cocoon/internal/passphrase"
	"cocoon/internal/terminal"
)

// registryTimeout bounds what a command waits for the chain.
const registryTimeout = 2 * time.Minute

// orderLife is how long a proposal may be signed and sent, unless the flag says otherwise: signers are people.
const orderLife = 7 * 24 * time.Hour

const registryUsage = `cocoon-gateway registry: what the network trusts, on the chain.

  registry show     [--document KIND/NAME]     signers, delay, entries and what is pending; or one document
  registry propose  --change put --kind release|gateway|params|policy --name N --file F [--not-before T] [--not-after T]
  registry propose  --change remove --kind K --name N
  registry propose  --change signers --signer KEY --signer KEY ... --threshold N
  registry propose  --change delay --delay 72h
  registry cancel   ID                         propose to cancel what is pending
                    both write -o FILE for the signers, and take --valid 168h: until when it may be sent
  registry sign     FILE --key KEYFILE [--passphrase-file F]   show what it does, and add a signature to it
  registry send     FILE                       when enough have signed
  registry apply    ID                         when its delay is over; anyone may do so
  registry init     --signer KEY ... --threshold N --delay 72h --floor 24h [--salt N] [--amount TON]
                    the address of a new registry, and the link that deploys it

  All but sign and init take --network FILE, the network's global.config.json; all but sign, send and init take
  --registry ADDRESS. --dir DIR keeps a proven copy there, which show falls back to when the chain is out of reach.
  KEY is a public key of 64 hex digits, TON an amount such as 1.5, T a time such as 2026-12-24T00:00:00Z.
`

// registryFlags are the flags of all registry commands.
type registryFlags struct {
	registry, network, dir            string
	change, kind, name, file, out     string
	notBefore, notAfter               string
	key, passphrase, document, amount string
	delay, floor, valid               time.Duration
	threshold                         int
	salt                              uint64
	signers                           []ed25519.PublicKey
	words                             []string
}

// flagsOfRegistry names the flags that each registry command takes.
func flagsOfRegistry() map[string][]string {
	chain := []string{"registry", "network", "dir"}
	with := func(more ...string) []string { return append(more, chain...) }
	return map[string][]string{
		"show":    with("document", "o"),
		"propose": with("change", "kind", "name", "file", "not-before", "not-after", "signer", "threshold", "delay", "valid", "o"),
		"cancel":  with("valid", "o"),
		"sign":    {"key", "passphrase-file"},
		"send":    {"network", "dir"},
		"apply":   with(),
		"init":    {"signer", "threshold", "delay", "floor", "salt", "amount"},
	}
}

// parseRegistry reads a registry command's flags, which may stand anywhere.
func parseRegistry(command string, args []string) (*registryFlags, error) {
	names, ok := flagsOfRegistry()[command]
	if !ok {
		return nil, fmt.Errorf("no command 'registry %s', see 'cocoon-gateway registry --help': %w", command, errUsage)
	}
	f := new(registryFlags)
	all := flag.NewFlagSet("registry", flag.ContinueOnError)
	for name, into := range map[string]*string{
		"registry": &f.registry, "network": &f.network, "dir": &f.dir, "change": &f.change, "kind": &f.kind, "name": &f.name,
		"file": &f.file, "o": &f.out, "not-before": &f.notBefore, "not-after": &f.notAfter, "key": &f.key,
		"passphrase-file": &f.passphrase, "document": &f.document,
	} {
		all.StringVar(into, name, "", "")
	}
	all.StringVar(&f.amount, "amount", "1", "")
	all.DurationVar(&f.delay, "delay", 0, "")
	all.DurationVar(&f.floor, "floor", 0, "")
	all.DurationVar(&f.valid, "valid", orderLife, "")
	all.IntVar(&f.threshold, "threshold", 0, "")
	all.Uint64Var(&f.salt, "salt", 0, "")
	all.Func("signer", "", func(text string) error {
		k, err := hex.DecodeString(text)
		if err != nil || len(k) != ed25519.PublicKeySize {
			return errors.New("want a public key of 64 hex digits")
		}
		f.signers = append(f.signers, k)
		return nil
	})
	own := flag.NewFlagSet("registry "+command, flag.ContinueOnError)
	own.SetOutput(io.Discard)
	for _, name := range names {
		own.Var(all.Lookup(name).Value, name, "")
	}
	for rest := args; ; rest = own.Args()[1:] {
		if err := own.Parse(rest); errors.Is(err, flag.ErrHelp) {
			return nil, err
		} else if err != nil {
			return nil, fmt.Errorf("registry %s: %w: %w", command, err, errUsage)
		}
		if own.NArg() == 0 {
			return f, nil
		}
		f.words = append(f.words, own.Arg(0))
	}
}

// word is the one argument that a command takes.
func (f *registryFlags) word(command, what string) (string, error) {
	if len(f.words) != 1 {
		return "", fmt.Errorf("'registry %s' takes %s: %w", command, what, errUsage)
	}
	return f.words[0], nil
}

// registryCommand is 'cocoon-gateway registry'.
func registryCommand(args []string, stdout io.Writer) error {
	if len(args) == 0 || args[0] == "help" || args[0] == "--help" || args[0] == "-h" {
		_, err := io.WriteString(stdout, registryUsage)
		return err
	}
	command := args[0]
	f, err := parseRegistry(command, args[1:])
	if errors.Is(err, flag.ErrHelp) {
		_, _ = io.WriteString(stdout, registryUsage)
		return err
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), registryTimeout)
	defer cancel()
	switch command {
	case "init":
		return f.init(stdout)
	case "show":
		return f.show(ctx, stdout)
	case "propose", "cancel":
		return f.propose(ctx, command, stdout)
	case "sign":
		return f.sign(ctx, stdout)
	case "send":
		return f.send(ctx, stdout)
	}
	return f.apply(ctx, stdout)
}

// init shows where a registry of these terms is, and how to deploy it.
func (f *registryFlags) init(stdout io.Writer) error {
	if len(f.words) > 0 {
		return fmt.Errorf("'registry init' takes flags alone: %w", errUsage)
	}
	amount, err := nanoton.ParseTON(f.amount)
	if err != nil {
		return fmt.Errorf("--amount: %w: %w", err, errUsage)
	}
	t := registry.Terms{Signers: f.signers, Threshold: f.threshold, Delay: f.delay, Floor: f.floor, Salt: f.salt}
	a, err := t.Address()
	if err != nil {
		return err
	}
	link, err := t.DeployLink(amount)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "registry  %s\nchanges   need %d of %d signers, and wait for %s; never for less than %s\n"+
		"deploy    %s\n\nOpen the link in any wallet: it sends %s and the contract's code. All of it stays in the registry,\n"+
		"for its rent and its gas; nothing of it ever comes back. A year's rent of 64 documents of 8 KiB is about 0.3 TON.\n",
		a, t.Threshold, len(t.Signers), t.Delay, t.Floor, link, amount)
	return err
}

// reader opens what --registry, --network and --dir name.
func (f *registryFlags) reader(a ton.Address) (*registry.Reader, []byte, error) {
	if f.network == "" {
		return nil, nil, fmt.Errorf("--network is missing: the network's global.config.json: %w", errUsage)
	}
	network, err := config.ReadFile(f.network, config.Max)
	if err != nil {
		return nil, nil, fmt.Errorf("--network: %w", err)
	}
	r, err := registry.NewReader(registry.Config{Network: network, Address: a, Dir: f.dir})
	return r, network, err
}

// read reads the registry that --registry names.
func (f *registryFlags) read(ctx context.Context) (*registry.Copy, error) {
	a, err := f.address()
	if err != nil {
		return nil, err
	}
	r, _, err := f.reader(a)
	if err != nil {
		return nil, err
	}
	defer r.Close() // it only asked
	return r.Read(ctx)
}

func (f *registryFlags) address() (ton.Address, error) {
	if f.registry == "" {
		return ton.Address{}, fmt.Errorf("--registry is missing: the registry's address: %w", errUsage)
	}
	a, err := ton.ParseAddress(f.registry)
	if err != nil {
		return a, fmt.Errorf("--registry: %w", err)
	}
	return a, nil
}

// fresh is the registry as the chain has it now: orders are not made after a copy.
func (f *registryFlags) fresh(ctx context.Context) (*registry.Copy, error) {
	c, err := f.read(ctx)
	if err == nil && c.Kept {
		return nil, fmt.Errorf("the chain is out of reach, and a copy will not do: %w", c.Why)
	}
	return c, err
}

// propose writes a proposal for the signers.
func (f *registryFlags) propose(ctx context.Context, command string, stdout io.Writer) error {
	if f.out == "" {
		return fmt.Errorf("-o is missing: the file for the signers: %w", errUsage)
	}
	o := new(registry.Order)
	var err error
	if command == "cancel" {
		o.Cancel, err = f.id(command)
	} else if o.Change, err = f.readChange(); err == nil && len(f.words) > 0 {
		err = fmt.Errorf("'registry propose' takes flags alone, and there is %q: %w", f.words[0], errUsage)
	}
	if err != nil {
		return err
	}
	c, err := f.fresh(ctx)
	if err != nil {
		return err
	}
	o.Registry, o.Seqno, o.ValidUntil = c.Address, c.Seqno, c.At.Time.Add(f.valid).Truncate(time.Second)
	p, err := registry.NewProposal(o)
	if err != nil {
		return err
	}
	if err := p.Check(c.Registry); err != nil && !errors.Is(err, registry.ErrTooFew) {
		return err
	}
	if err := writeProposal(f.out, p); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s\nwritten to %s: %d of the registry's signers must sign it, and another order sent before "+
		"makes it void\n", o, f.out, c.Threshold)
	return err
}

func (f *registryFlags) id(command string) (uint32, error) {
	text, err := f.word(command, "the ID of a pending change")
	if err != nil {
		return 0, err
	}
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is no ID of a pending change, as 'registry show' lists them: %w", text, errUsage)
	}
	return uint32(id), nil
}

// readChange is what --change and its flags say.
func (f *registryFlags) readChange() (*registry.Change, error) {
	switch f.change {
	case "signers":
		return &registry.Change{Signers: &registry.Signers{Keys: f.signers, Threshold: f.threshold}}, nil
	case "delay":
		if f.delay <= 0 {
			return nil, fmt.Errorf("--delay is missing: %w", errUsage)
		}
		return &registry.Change{Delay: f.delay}, nil
	case "put", "remove":
	default:
		return nil, fmt.Errorf("--change is %q, want put, remove, signers or delay: %w", f.change, errUsage)
	}
	kind, err := registry.ParseKind(f.kind)
	if err != nil {
		return nil, fmt.Errorf("--kind: %w: %w", err, errUsage)
	}
	title := registry.Title{Kind: kind, Name: f.name}
	if f.change == "remove" {
		return &registry.Change{Remove: title.Key()}, nil
	}
	e := &registry.Entry{Title: title}
	if e.NotBefore, err = readTime("--not-before", f.notBefore); err != nil {
		return nil, err
	}
	if e.NotAfter, err = readTime("--not-after", f.notAfter); err != nil {
		return nil, err
	}
	if e.Document, err = config.ReadFile(f.file, registry.DocumentMax); err != nil {
		return nil, fmt.Errorf("--file: %w", err)
	}
	return &registry.Change{Put: e}, nil
}

func readTime(name, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, fmt.Errorf("%s %q is no time such as 2026-12-24T00:00:00Z: %w", name, text, errUsage)
	}
	return at, nil
}

func writeProposal(path string, p *registry.Proposal) error {
	text, err := p.Encode()
	if err == nil {
		err = os.WriteFile(path, text, 0o644) // it has no secrets, and goes from signer to signer
	}
	if err != nil {
		return fmt.Errorf("writing the proposal: %w", err)
	}
	return nil
}

func readProposal(path string) (*registry.Proposal, error) {
	text, err := config.ReadFile(path, registry.ProposalMax)
	if err != nil {
		return nil, fmt.Errorf("reading the proposal: %w", err)
	}
	p, err := registry.ParseProposal(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// sign shows what an order does, and signs it.
func (f *registryFlags) sign(ctx context.Context, stdout io.Writer) error {
	path, err := f.word("sign", "the proposal's file")
	if err != nil {
		return err
	}
	if f.key == "" {
		return fmt.Errorf("--key is missing: the file of the signer's key: %w", errUsage)
	}
	p, err := readProposal(path)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s\n", p.Order)
	if c := p.Order.Change; c != nil && c.Put != nil {
		text := strings.TrimSuffix(terminal.Clean(string(c.Put.Document)), "\n")
		fmt.Fprintf(stdout, "--- the document ---\n%s\n--- its end ---\n", text)
	}
	secret, err := passphrase.Source{File: f.passphrase, In: os.Stdin, Out: os.Stderr}.Read("the key")
	if err != nil {
		return err
	}
	key, err := wallet.OpenKey(f.key, secret)
	if err != nil {
		return err
	}
	if err := p.Sign(ctx, key); err != nil {
		return err
	}
	if err := writeProposal(path, p); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "signed by %x; signatures in %s: %d\n", []byte(key.Public()), path, len(p.Signed()))
	return err
}

// send sends a signed order.
func (f *registryFlags) send(ctx context.Context, stdout io.Writer) error {
	path, err := f.word("send", "the proposal's file")
	if err != nil {
		return err
	}
	p, err := readProposal(path)
	if err != nil {
		return err
	}
	f.registry = p.Order.Registry.String()
	c, err := f.fresh(ctx)
	if err != nil {
		return err
	}
	message, err := p.Message(c.Registry)
	if err != nil {
		return err
	}
	return f.deliver(ctx, c, message, stdout)
}

// apply has a change applied whose time has come.
func (f *registryFlags) apply(ctx context.Context, stdout io.Writer) error {
	id, err := f.id("apply")
	if err != nil {
		return err
	}
	c, err := f.fresh(ctx)
	if err != nil {
		return err
	}
	if err := c.Ripe(id); err != nil {
		return err
	}
	message, err := registry.ApplyMessage(c.Address, id)
	if err != nil {
		return err
	}
	return f.deliver(ctx, c, message, stdout)
}

// deliver sends a message, waits until the registry has changed, and says how.
func (f *registryFlags) deliver(ctx context.Context, before *registry.Copy, message []byte, stdout io.Writer) error {
	_, network, err := f.reader(before.Address)
	if err != nil {
		return err
	}
	client, err := ton.Open(ctx, ton.Config{Network: network})
	if err != nil {
		return err
	}
	defer client.Close() // nothing is kept
	if err := client.Send(ctx, message); err != nil {
		return err
	}
	for seqno := before.At.Seqno; ; {
		h, err := client.Next(ctx, seqno)
		if err != nil {
			return fmt.Errorf("the message was sent, and whether it counts is not known: %w", err)
		}
		seqno = h.Seqno
		st, err := client.Account(ctx, h, before.Address)
		if err != nil {
			return fmt.Errorf("the message was sent, and whether it counts is not known: %w", err)
		}
		after, err := registry.ParseState(&st)
		if err != nil {
			return err
		}
		if after.Seqno == before.Seqno && len(after.Pending) == len(before.Pending) {
			continue
		}
		fmt.Fprintf(stdout, "done in block %d\n", h.Seqno)
		if err := printRegistry(stdout, after); err != nil {
			return err
		}
		if after.Seqno != before.Seqno && len(after.Pending) == len(before.Pending) {
			return errors.New("the order is used up and changed nothing: does the balance cover the rent for a year?")
		}
		return nil
	}
}
