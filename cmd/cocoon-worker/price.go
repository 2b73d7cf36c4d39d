package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"cocoon/internal/nanoton"
	"cocoon/router/offer"
	"cocoon/worker"
)

const priceUsage = `usage: cocoon-worker price [show] [--config worker.yaml]
       cocoon-worker price set [--model M] --in AMOUNT [--cached AMOUNT] --out AMOUNT [--config worker.yaml]
       cocoon-worker price unset [--model M] [--config worker.yaml]

AMOUNT is for a million tokens: whole nanoTON, such as 50000000, or TON with the unit, such as "0.05 TON". in is for the
prompt's tokens, cached for those of them that the engine found in its cache (if not given, the same as in), out for the
answer's.

set writes prices.json in data_dir. Its prices go before those of worker.yaml, for one model or, without --model, for all
that have none of their own. A running worker takes them up within a second; requests that are under way keep their price.
unset takes them away again.
`

// priceFlags are the flags of a verb of price.
type priceFlags struct {
	config, model   string
	in, cached, out amount
}

// amount is a flag's value, given or not.
type amount struct {
	nanoton nanoton.Amount
	given   bool
}

// String implements flag.Value.
func (a *amount) String() string { return "" }

// Set implements flag.Value.
func (a *amount) Set(text string) error {
	n, err := parseAmount(text)
	a.nanoton, a.given = n, true
	return err
}

// errAmount is what is wrong with an amount. A number with a point and no unit could be meant as either.
var errAmount = errors.New(`want whole nanoTON, such as 50000000, or TON with its unit, such as "0.05 TON"`)

func parseAmount(text string) (nanoton.Amount, error) {
	if ton, ok := strings.CutSuffix(text, "TON"); ok {
		n, err := nanoton.ParseTON(strings.TrimSuffix(ton, " "))
		if err != nil || n < 0 {
			return 0, errAmount
		}
		return n, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, errAmount
	}
	return nanoton.Amount(n), nil
}

// price is the command.
func price(args []string, stdout, stderr io.Writer) int {
	verb := "show"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		verb, args = args[0], args[1:]
	}
	run, ok := map[string]func(worker.Config, *priceFlags, io.Writer) error{
		"show": priceShow, "set": priceSet, "unset": priceUnset,
	}[verb]
	if !ok {
		fmt.Fprintf(stderr, "no command \"price %s\"\n\n%s", verb, priceUsage)
		return exitUsage
	}
	var f priceFlags
	flags := flag.NewFlagSet("cocoon-worker price "+verb, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, priceUsage) }
	flags.StringVar(&f.config, "config", "worker.yaml", "configuration `file`")
	if verb != "show" {
		flags.StringVar(&f.model, "model", "", "the model, by the `name` that clients ask for")
	}
	if verb == "set" {
		flags.Var(&f.in, "in", "price of the prompt's tokens")
		flags.Var(&f.cached, "cached", "of those in the engine's cache")
		flags.Var(&f.out, "out", "of the answer's")
	}
	if exit, ok := parse(flags, args, priceUsage); !ok {
		return exit
	}
	switch {
	case verb == "set" && (!f.in.given || !f.out.given):
		fmt.Fprintf(stderr, "--in and --out are missing, or one of them\n\n%s", priceUsage)
		return exitUsage
	}
	config, err := worker.LoadConfig(f.config)
	if err == nil {
		err = run(config, &f, stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "cocoon-worker:", err)
		return exitFailed
	}
	return exitOK
}

func priceSet(c worker.Config, f *priceFlags, stdout io.Writer) error {
	p := offer.Price{In: f.in.nanoton, Cached: f.in.nanoton, Out: f.out.nanoton}
	if f.cached.given {
		p.Cached = f.cached.nanoton
	}
	return change(c, stdout, func(prices *worker.Prices) {
		if f.model == "" {
			prices.All = &p
			return
		}
		if prices.Models == nil {
			prices.Models = make(map[string]offer.Price)
		}
		prices.Models[f.model] = p
	})
}

func priceUnset(c worker.Config, f *priceFlags, stdout io.Writer) error {
	return change(c, stdout, func(prices *worker.Prices) {
		if f.model == "" {
			prices.All = nil
			return
		}
		delete(prices.Models, f.model)
	})
}

func change(c worker.Config, stdout io.Writer, how func(*worker.Prices)) error {
	prices, err := worker.ChangePrices(c.DataDir, how)
	if err != nil {
		return err
	}
	return showPrices(c, prices, stdout)
}

func priceShow(c worker.Config, _ *priceFlags, stdout io.Writer) error {
	prices, err := worker.LoadPrices(c.DataDir)
	if err != nil {
		return err
	}
	return showPrices(c, prices, stdout)
}

// showPrices lists the models that have prices of their own, and what holds for all others.
func showPrices(c worker.Config, prices *worker.Prices, stdout io.Writer) error {
	names := slices.Collect(maps.Keys(prices.Models))
	for _, m := range c.Models {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	names = append(slices.Compact(names), "")
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MODEL\tIN\tCACHED\tOUT\tFROM")
	for _, name := range names {
		p, from := c.Asked(prices, name)
		label := cmp.Or(name, "all others")
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", label, both(p.In), both(p.Cached), both(p.Out), from)
	}
	fmt.Fprintln(w, "for a million tokens")
	return w.Flush()
}

// both is an amount in both units.
func both(a nanoton.Amount) string { return fmt.Sprintf("%v (%d nanoTON)", a, int64(a)) }
