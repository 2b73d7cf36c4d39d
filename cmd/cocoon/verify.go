package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"time"

	"cocoon/attest"
	"cocoon/attest/channel"
)

// How verify ends, besides 0: every machine asked about is verified.
const (
	exitRejected    = 10 // some machine is not to be trusted; a simulated one is not either
	exitUnsupported = 20 // some machine's evidence is of a kind that nothing here can verify
	exitInput       = 30 // nothing was judged: flags, files, policy, URL, or a gateway out of reach or talking garbage
)

// defaultPolicy is the user's policy if no flag names one.
const defaultPolicy = "policy.yaml"

// statusError ends the program with a status of its own. Its error is for people; nil: all has been said.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("status %d", e.status)
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

// verifyOptions are the command line of verify.
type verifyOptions struct {
	target    string // a gateway's URL, or a file that save wrote
	worker    string // ask for this worker behind the gateway
	model     string // ask for workers that serve it
	policy    string
	registry  string // address of a registry, where releases come from
	network   string // file of the chain's config, to read it
	bundle    string // collateral to judge by, and no other
	cache     string // folder of the collateral's cache
	bundleOut string
	save      string
	at        string // judge a file as of this time
	fetch     bool
	json      bool
}

func readVerifyOptions(args []string, out io.Writer) (*verifyOptions, error) {
	o := new(verifyOptions)
	fs := flag.NewFlagSet("verify", flag.ContinueOnError)
	fs.StringVar(&o.worker, "worker", "", "")
	fs.StringVar(&o.model, "model", "", "")
	fs.StringVar(&o.policy, "policy", "", "")
	fs.StringVar(&o.registry, "registry", "", "")
	fs.StringVar(&o.network, "network", "", "")
	fs.StringVar(&o.bundle, "collateral", "", "")
	fs.StringVar(&o.cache, "cache", "", "")
	fs.StringVar(&o.bundleOut, "bundle-out", "", "")
	fs.StringVar(&o.save, "save", "", "")
	fs.StringVar(&o.at, "at", "", "")
	fs.BoolVar(&o.fetch, "fetch", true, "")
	fs.BoolVar(&o.json, "json", false, "")
	if err := parse(fs, args, out); err != nil {
		return nil, err
	}
	if o.target = fs.Arg(0); fs.NArg() > 0 { // flags may stand on both sides of the target
		if err := parse(fs, fs.Args()[1:], out); err != nil {
			return nil, err
		}
	}
	switch {
	case o.target == "":
		return nil, fmt.Errorf("verify what? A gateway's URL, or a file of saved evidence: %w", errUsage)
	case fs.NArg() > 0:
		return nil, fmt.Errorf("verify takes one URL or file, and there is %q too: %w", fs.Arg(0), errUsage)
	}
	if o.policy == "" && o.registry == "" {
		o.policy = defaultPolicy
	}
	return o, o.fit()
}

// fit tells whether the options go together.
func (o *verifyOptions) fit() error {
	switch {
	case o.file() && (o.worker != "" || o.model != ""):
		return fmt.Errorf("%q is no URL, and --worker and --model ask a gateway: %w", o.target, errUsage)
	case o.file() && o.save != "":
		return fmt.Errorf("%q is no URL, and --save is for what a gateway answers: %w", o.target, errUsage)
	case !o.file() && o.at != "":
		return fmt.Errorf("--at is for files: what a gateway answers is judged now: %w", errUsage)
	case o.worker != "" && o.model != "":
		return fmt.Errorf("--worker and --model: one of them: %w", errUsage)
	case o.model != "" && o.save != "":
		return fmt.Errorf("--save keeps one machine's evidence: name the worker with --worker: %w", errUsage)
	case (o.registry == "") != (o.network == ""):
		return fmt.Errorf("--registry and --network go together: an address, and the chain's global.config.json: %w", errUsage)
	case o.bundle != "" && o.cache != "" && o.registry == "":
		return fmt.Errorf("--collateral judges by the bundle alone, so --cache has no meaning: %w", errUsage)
	}
	return nil
}

// file tells whether the target is a file and no URL.
func (o *verifyOptions) file() bool { return !strings.Contains(o.target, "://") }

// time is what --at says, or now.
func (o *verifyOptions) time() (time.Time, error) {
	if o.at == "" {
		return time.Now(), nil
	}
	at, err := time.Parse(time.RFC3339, o.at)
	if err != nil {
		return time.Time{}, fmt.Errorf("--at %q is no time such as 2026-11-26T12:00:00Z: %w", o.at, errUsage)
	}
	return at, nil
}

// machine is one machine that was asked about, with what came of it.
type machine struct {
	role     attest.Role
	id       attest.Digest  // whom it must be; zero: anyone
	name     string         // the gateway's word for it, or where it is
	model    string         // that it was asked for; may be empty
	nonce    attest.Digest  // ours; in a gateway's file that gateway's
	proof    *channel.Proof // that leads from it to the evidence's; nil in such a file: it is the evidence's
	binder   attest.Digest  // of the connection that such a gateway asked on
	tls      attest.Digest  // of the key that the gateway showed; zero for a worker, or without TLS
	evidence []byte         // JSON of attest.Evidence
	absent   string         // why there is none
	notes    []string
	result   *attest.Result
}

func verifyCommand(args []string, std streams) error { return judging(args, std, verify) }

// judging runs a command that judges something: what is no verdict of its own means that there was nothing to judge.
func judging(args []string, std streams, run func(context.Context, []string, streams) error) error {
	ctx, stop := interruptible()
	defer stop()
	err := run(ctx, args, std)
	switch _, own := errors.AsType[*statusError](err); {
	case err == nil || own || errors.Is(err, flag.ErrHelp):
		return err
	case ctx.Err() != nil:
		return context.Canceled
	}
	return &statusError{exitInput, errors.New(printable(oneLine(err), messageMax))}
}

// verify judges all that was asked about. An error that is no statusError means that there was nothing to judge.
func verify(ctx context.Context, args []string, std streams) error {
	o, err := readVerifyOptions(args, std.out)
	if err != nil {
		return err
	}
	at, err := o.time()
	if err != nil {
		return err
	}
	trust, err := o.loadTrust(ctx, at)
	if err != nil {
		return err
	}
	shelf, err := newShelf(o, trust.policy)
	if err != nil {
		return err
	}
	machines, more, err := o.ask(ctx)
	if err != nil {
		return err
	}
	if !o.file() {
		at = time.Now() // the nonce was fresh, so is the evidence
	}
	judge := &judge{trust.policy, shelf}
	for _, m := range machines {
		if !o.file() {
			trust.pin(o.target, m)
		}
		trust.tell(m)
		m.result = judge.appraise(ctx, m, at)
		trust.weigh(m)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := shelf.export(o.bundleOut); err != nil {
		return err
	}
	return report(std.out, machines, more, o.json)
}

// ask gets the evidence: from the file, or from the gateway, and then keeps it if that was wanted. more is how many
// workers the gateway left out.
func (o *verifyOptions) ask(ctx context.Context) (machines []*machine, more int, err error) {
	if o.file() {
		m, err := loadSaved(o.target)
		return []*machine{m}, 0, err
	}
	g, err := newGateway(o.target)
	if err != nil {
		return nil, 0, err
	}
	if o.worker != "" || o.model != "" {
		machines, more, err = g.workers(ctx, o.worker, o.model)
	} else {
		machines, err = g.itself(ctx)
	}
	if err != nil {
		return nil, 0, err
	}
	if o.save != "" {
		err = writeSaved(o.save, machines[0], time.Now())
	}
	return machines, more, err
}

func loadPolicy(path string) (*attest.Policy, error) {
	policy, err := attest.LoadPolicy(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no policy: %w; it says what you trust, so it is yours: take configs/policy.yaml of Cocoon "+
			"as the start of your own, and name it with --policy", err)
	}
	return policy, err
}

// report prints what was found, the verdict last, and returns it as a status.
func report(out *os.File, machines []*machine, more int, asJSON bool) error {
	verdict, status := sumUp(machines)
	if asJSON {
		return concluded(status, printJSON(out, machines, verdict, status))
	}
	return concluded(status, newPrinter(out).all(machines, more))
}

// concluded is a verdict's exit status as an error, after it was printed.
func concluded(status int, printing error) error {
	if printing != nil {
		return fmt.Errorf("writing the verdict: %w", printing)
	}
	if status != 0 {
		return &statusError{status: status}
	}
	return nil
}

// sumUp is the worst verdict of all machines, and its exit status: one machine that is rejected weighs more than one
// that can't be judged, and that more than a simulation. Without any machine nothing is verified.
func sumUp(machines []*machine) (attest.Verdict, int) {
	found := make(map[attest.Verdict]int)
	for _, m := range machines {
		found[m.result.Verdict]++
	}
	switch {
	case len(machines) > 0 && found[attest.Verified] == len(machines):
		return attest.Verified, 0
	case found[attest.Verified]+found[attest.Simulated]+found[attest.Unsupported] < len(machines):
		return attest.Rejected, exitRejected // also a verdict that nobody knows
	case found[attest.Unsupported] > 0:
		return attest.Unsupported, exitUnsupported
	case found[attest.Simulated] > 0:
		return attest.Simulated, exitRejected
	}
	return attest.Rejected, exitRejected
}

// gatewayURL is the URL without /v1, where the endpoints that need no key are.
func gatewayURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" ||
		u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is not a gateway's URL such as https://gateway.example.com: %w", text, errUsage)
	}
	u.Path = strings.TrimSuffix(strings.TrimRight(u.Path, "/"), "/v1")
	return u, nil
}
