package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"cocoon/billing/ton/registry"
	"cocoon/internal/terminal"
)

// show prints a registry, or one document of it.
func (f *registryFlags) show(ctx context.Context, stdout io.Writer) error {
	if len(f.words) > 0 {
		return fmt.Errorf("'registry show' takes flags alone: %w", errUsage)
	}
	c, err := f.read(ctx)
	if err != nil {
		return err
	}
	if f.document != "" {
		return f.showDocument(c, stdout)
	}
	if c.Kept {
		fmt.Fprintf(stdout, "THE CHAIN IS OUT OF REACH: this is the proven copy that was kept %s ago (%v)\n",
			c.Age.Round(time.Second), c.Why)
	}
	if c.Note != "" {
		fmt.Fprintf(stdout, "note: %s\n", c.Note)
	}
	return printRegistry(stdout, c.Registry)
}

func (f *registryFlags) showDocument(c *registry.Copy, stdout io.Writer) error {
	kind, name, _ := strings.Cut(f.document, "/")
	k, err := registry.ParseKind(kind)
	if err != nil {
		return fmt.Errorf("--document %q, want such as release/v1.2: %w: %w", f.document, err, errUsage)
	}
	e, ok := c.Entry(registry.Title{Kind: k, Name: name})
	if !ok {
		return fmt.Errorf("the registry has no %s", f.document)
	}
	if f.out != "" {
		if err := os.WriteFile(f.out, e.Document, 0o644); err != nil {
			return fmt.Errorf("writing the document: %w", err)
		}
		return nil
	}
	_, err = terminal.Writer(stdout).Write(e.Document)
	return err
}

// printRegistry prints all but the documents.
func printRegistry(stdout io.Writer, r *registry.Registry) error {
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "registry\t%s\n", r.Address)
	fmt.Fprintf(w, "as of\tblock %d, %s\n", r.At.Seqno, r.At.Time.Format(time.RFC3339))
	fmt.Fprintf(w, "changes\tneed %d of %d signers, and wait for %s; never for less than %s\n", r.Threshold, len(r.Signers),
		r.Delay, r.Floor)
	for _, k := range r.Signers {
		fmt.Fprintf(w, "signer\t%x\n", []byte(k))
	}
	fmt.Fprintf(w, "next order\t%d\n", r.Seqno)
	fmt.Fprintf(w, "balance\t%s\n", r.Balance)
	for _, f := range r.Faults {
		fmt.Fprintf(w, "FAULT\t%s\n", f)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	w = tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nENTRY\tHOLDS\tSINCE\tBYTES\tSHA256")
	for i := range r.Entries {
		e := &r.Entries[i]
		holds := e.Window()
		if !e.Holds(r.At.Time) {
			holds = "NOT NOW: " + holds
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%x\n", e.Title, holds, e.Since.Format(time.RFC3339), len(e.Document),
			sha256.Sum256(e.Document))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	w = tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nPENDING\tMAY BE APPLIED FROM\tCHANGE")
	for _, p := range r.Pending {
		what := p.Fault
		if p.Change != nil {
			what = r.Describe(p.Change)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\n", p.ID, p.EffectiveAt.Format(time.RFC3339), what)
	}
	return w.Flush()
}
