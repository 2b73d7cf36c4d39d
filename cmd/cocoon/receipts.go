package main

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/mod/sumdb/note"

	"cocoon/attest"
	"cocoon/internal/config"
	"cocoon/internal/receipt"
	"cocoon/internal/treeproof"
)

// Limits of receipts verify.
const (
	receiptsFileMax = 64 << 20 // 30,000 receipts or more
	evidenceMax     = 64       // files: each is appraised
)

// receiptsOptions are the command line of receipts verify.
type receiptsOptions struct {
	files    []string
	evidence []string
	policy   string
	bundle   string
	cache    string
	logKey   string
	json     bool
}

func readReceiptsOptions(args []string, out io.Writer) (*receiptsOptions, error) {
	if len(args) > 0 && args[0] == "verify" {
		args = args[1:]
	} else if len(args) == 0 || args[0] != "--help" && args[0] != "-h" {
		return nil, fmt.Errorf("receipts does one thing: 'cocoon receipts verify FILE...': %w", errUsage)
	}
	o := new(receiptsOptions)
	fs := flag.NewFlagSet("receipts verify", flag.ContinueOnError)
	fs.Func("evidence", "", func(s string) error { o.evidence = append(o.evidence, s); return nil })
	fs.StringVar(&o.policy, "policy", defaultPolicy, "")
	fs.StringVar(&o.bundle, "collateral", "", "")
	fs.StringVar(&o.cache, "cache", "", "")
	fs.StringVar(&o.logKey, "log-key", "", "")
	fs.BoolVar(&o.json, "json", false, "")
	for { // flags may stand between the files
		if err := parse(fs, args, out); err != nil {
			return nil, err
		}
		if fs.NArg() == 0 {
			break
		}
		o.files, args = append(o.files, fs.Arg(0)), fs.Args()[1:]
	}
	switch {
	case len(o.files) == 0:
		return nil, fmt.Errorf("verify which receipts? Name a file: %w", errUsage)
	case len(o.evidence) > evidenceMax:
		return nil, fmt.Errorf("%d files of evidence, at most %d: %w", len(o.evidence), evidenceMax, errUsage)
	}
	return o, nil
}

// slip is a receipt that is judged.
type slip struct {
	receipt.Item
	file    string
	number  int // in the file, from 1
	checks  []attest.Check
	notes   []string
	lacks   bool // what is needed to judge it is not there
	verdict attest.Verdict
}

// signer is a worker that may have signed receipts, by what its evidence says.
type signer struct {
	*machine
	text        []byte // of its keyset; nil: it can't be read
	first, last int64  // when the receipts that name it began and ended, milliseconds
}

func receiptsCommand(args []string, std streams) error { return judging(args, std, verifyReceipts) }

// verifyReceipts judges all receipts of the files. Like verify, it fails if there was nothing to judge.
func verifyReceipts(ctx context.Context, args []string, std streams) error {
	o, err := readReceiptsOptions(args, std.out)
	if err != nil {
		return err
	}
	slips, err := loadReceipts(o.files)
	if err != nil {
		return err
	}
	var log note.Verifier
	if o.logKey != "" {
		if log, err = treeproof.ParseVerifier(o.logKey); err != nil {
			return fmt.Errorf("--log-key: %w", err)
		}
	}
	signers, err := o.appraise(ctx, slips)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	j := &slipJudge{signers: signers, log: log, chains: map[string]*receipt.Chain{}}
	for _, s := range slips {
		j.judge(s)
	}
	return reportReceipts(std.out, slips, signers, o.json)
}

func loadReceipts(files []string) ([]*slip, error) {
	var slips []*slip
	for _, path := range files {
		text, err := config.ReadFile(path, receiptsFileMax)
		if err != nil {
			return nil, err
		}
		items, err := receipt.Read(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for i, item := range items {
			slips = append(slips, &slip{Item: item, file: path, number: i + 1})
		}
	}
	return slips, nil
}

// appraise judges the evidence, if there is any, as of the times that the receipts are of.
func (o *receiptsOptions) appraise(ctx context.Context, slips []*slip) ([]*signer, error) {
	if len(o.evidence) == 0 {
		return nil, nil
	}
	policy, err := loadPolicy(o.policy)
	if err != nil {
		return nil, err
	}
	shelf, err := newShelf(&verifyOptions{bundle: o.bundle, cache: o.cache}, policy)
	if err != nil {
		return nil, err
	}
	j := &judge{policy, shelf}
	var signers []*signer
	for _, path := range o.evidence {
		m, err := loadSaved(path)
		if err != nil {
			return nil, err
		}
		if m.role != attest.Worker {
			return nil, fmt.Errorf("%s is evidence of a %s; workers sign receipts", path, m.role)
		}
		s := &signer{machine: m}
		if e, err := attest.ParseEvidence(m.evidence); err == nil {
			s.text = e.Keyset
		}
		if !s.span(slips) {
			return nil, fmt.Errorf("%s is evidence of a machine that signed none of the receipts: its keyset is another", path)
		}
		s.appraise(ctx, j)
		signers = append(signers, s)
	}
	return signers, nil
}

// span finds out when the signer signed, by its receipts; false if there are none.
func (s *signer) span(slips []*slip) bool {
	id := receipt.Digest(sha256.Sum256(s.text))
	for _, r := range slips {
		if s.text != nil && r.Receipt.Keyset != id {
			continue
		}
		if s.first == 0 || r.Start < s.first {
			s.first = r.Start
		}
		s.last = max(s.last, r.End)
	}
	return s.first != 0
}

// appraise judges the evidence as of the first receipt and as of the last: all that can end ends in between, or not at
// all. The result is the one that is worse.
func (s *signer) appraise(ctx context.Context, j *judge) {
	before, after := *s.machine, *s.machine
	early := j.appraise(ctx, &before, time.UnixMilli(s.first))
	s.result = j.appraise(ctx, &after, time.UnixMilli(s.last))
	if !early.Verdict.Admits() && s.result.Verdict.Admits() {
		s.result = early
	}
}

// reportReceipts prints what was found, the verdict last, and returns it as a status.
func reportReceipts(out *os.File, slips []*slip, signers []*signer, asJSON bool) error {
	verdict, status := sumUpReceipts(slips)
	if asJSON {
		return concluded(status, printReceiptsJSON(out, slips, signers, verdict))
	}
	return concluded(status, newPrinter(out).receipts(slips, signers))
}

// sumUpReceipts is the worst verdict of all receipts, and its exit status, as verify weighs them.
func sumUpReceipts(slips []*slip) (attest.Verdict, int) {
	machines := make([]*machine, len(slips))
	for i, s := range slips {
		machines[i] = &machine{result: &attest.Result{Verdict: s.verdict}}
	}
	return sumUp(machines)
}
