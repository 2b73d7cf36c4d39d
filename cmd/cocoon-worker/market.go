package main

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"cocoon/internal/daemon"
	"cocoon/router/offer"
	"cocoon/worker"
)

const marketUsage = `usage: cocoon-worker market [--model M] [--json] [--config worker.yaml]

What gateways tell this worker of demand for its models: how much is asked, what part of it comes here, what others ask, and
what other prices of yours would have won. The running worker is asked, at its ops_listen.
`

const (
	// onePPM is one, in parts per million.
	onePPM = 1_000_000
	// sampleMin is the fewest requests of a sample that a price is proposed from.
	sampleMin = 100
)

// marketFlags are the command's flags.
type marketFlags struct {
	config, model string
	json          bool
}

// market is the command.
func market(args []string, stdout, stderr io.Writer) int {
	var f marketFlags
	flags := flag.NewFlagSet("cocoon-worker market", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, marketUsage) }
	flags.StringVar(&f.config, "config", "worker.yaml", "configuration `file`")
	flags.StringVar(&f.model, "model", "", "this model alone, by the `name` that clients ask for")
	flags.BoolVar(&f.json, "json", false, "as JSON")
	if exit, ok := parse(flags, args, marketUsage); !ok {
		return exit
	}
	if err := f.show(stdout); err != nil {
		fmt.Fprintln(stderr, "cocoon-worker:", err)
		return exitFailed
	}
	return exitOK
}

// show asks the running worker and writes what it says.
func (f *marketFlags) show(stdout io.Writer) error {
	ctx, stop := daemon.Context()
	defer stop()
	config, err := worker.LoadConfig(f.config)
	if err != nil {
		return err
	}
	prices, err := worker.LoadPrices(config.DataDir)
	if err != nil {
		return err
	}
	list, err := worker.ReadMarket(ctx, config)
	if err != nil {
		return err
	}
	for i := range list {
		models := list[i].Market.Models
		models = slices.DeleteFunc(models, func(m offer.ModelMarket) bool { return f.model != "" && m.Model != f.model })
		slices.SortStableFunc(models, func(a, b offer.ModelMarket) int { return cmp.Compare(b.Requests, a.Requests) })
		list[i].Market.Models = models
	}
	if f.model != "" {
		list = slices.DeleteFunc(list, func(g worker.GatewayMarket) bool { return len(g.Market.Models) == 0 })
	}
	if f.json {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(list)
	}
	p := marketPrinter{w: stdout, now: time.Now(), config: f.config, asks: func(model string) offer.Price {
		now, _ := config.Asked(prices, model)
		return now
	}}
	return p.print(list)
}

// marketPrinter writes markets for people.
type marketPrinter struct {
	w      io.Writer
	now    time.Time
	config string                         // the configuration file, for commands to repeat
	asks   func(model string) offer.Price // what the worker asks now
}

func (p *marketPrinter) print(list []worker.GatewayMarket) error {
	if len(list) == 0 {
		fmt.Fprintln(p.w, "no gateway has told this worker anything of that yet; they do so from time to time while it is connected")
	}
	for i := range list {
		g := &list[i]
		if i > 0 {
			fmt.Fprintln(p.w)
		}
		fmt.Fprintf(p.w, "gateway %s, the last %s, told %s ago; its customers pay your price and %s on top\n", g.Gateway,
			span(time.Duration(g.Market.Seconds)*time.Second), span(p.now.Sub(time.UnixMilli(g.At))), percent(g.Market.FeePPM))
		for j := range g.Market.Models {
			if err := p.model(&g.Market.Models[j]); err != nil {
				return err
			}
		}
	}
	return nil
}

// model writes about one model.
func (p *marketPrinter) model(m *offer.ModelMarket) error {
	fmt.Fprintf(p.w, "\n%s\n  demand: %s, %s tokens in, %s out; offered by %s\n", m.Model,
		many(m.Requests, "request"), short(m.TokensIn), short(m.TokensOut), many(int64(m.Workers), "worker"))
	fmt.Fprintf(p.w, "  you: %s of the requests", percent(m.SharePPM))
	if m.Rank > 0 {
		fmt.Fprintf(p.w, "; by the price of output you are number %d of %d, 1 being the cheapest", m.Rank, m.Workers)
	}
	fmt.Fprintln(p.w)
	fmt.Fprintf(p.w, "  first token after: %s; the median worker's: %s\n", known(m.YourTTFT, " ms"), known(m.MedianTTFT, " ms"))
	fmt.Fprintf(p.w, "  tokens a second: %s; the median worker's: %s\n", known(m.YourSpeed, ""), known(m.MedianSpeed, ""))
	if err := p.prices(m); err != nil {
		return err
	}
	return p.advise(m)
}

// prices is the table of what is asked, and what other prices would have done.
func (p *marketPrinter) prices(m *offer.ModelMarket) error {
	w := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  FOR A MILLION TOKENS\tIN\tCACHED\tOUT\tWON\tEARNED")
	row := func(label string, at offer.Price, won, earned string) {
		fmt.Fprintf(w, "  %s\t%v\t%v\t%v\t%s\t%s\n", label, at.In, at.Cached, at.Out, won, earned)
	}
	row("the lowest of all", m.Lowest, "-", "-")
	row("the median of all", m.Median, "-", "-")
	if m.Considered == 0 { // nothing is known of other prices, nor of this one
		row("you, as it is", m.Ask, "-", "-")
		return w.Flush()
	}
	points := slices.DeleteFunc(slices.Clone(m.At), func(a offer.PricePoint) bool { return a.PPM == onePPM })
	points = append(points, offer.PricePoint{PPM: onePPM, Won: m.Won})
	slices.SortFunc(points, func(a, b offer.PricePoint) int { return cmp.Compare(a.PPM, b.PPM) })
	for _, at := range points {
		label := "you, at " + percent(at.PPM)
		if at.PPM == onePPM {
			label = "you, as it is"
		}
		row(label, m.Ask.At(at.PPM), ratio(at.Won, m.Considered), earned(m, at))
	}
	return w.Flush()
}

// earned is what a price would have earned, against the present one.
func earned(m *offer.ModelMarket, at offer.PricePoint) string {
	if m.Won == 0 || m.Ask == (offer.Price{}) {
		return "-"
	}
	return fmt.Sprintf("%d %%", (at.PPM*at.Won)/(m.Won*(onePPM/100)))
}

// advise says what to do.
func (p *marketPrinter) advise(m *offer.ModelMarket) error {
	if now := p.asks(m.Model); now != m.Ask {
		fmt.Fprintf(p.w, "  this is about the price that you asked then; now you ask %v for input, %v for output\n", now.In, now.Out)
	}
	best, ok := m.Best()
	to := m.Ask.At(best.PPM)
	switch {
	case m.Ask == offer.Price{}:
		fmt.Fprintln(p.w, "  you give it away")
	case m.Considered == 0:
		fmt.Fprintf(p.w, "  what other prices would win is %s\n", unmeasured)
	case m.Considered < sampleMin:
		fmt.Fprintf(p.w, "  %s could have come here, of a sample: too few to go by\n", many(m.Considered, "request"))
	case !ok:
		fmt.Fprintf(p.w, "  you ask %v for output and won none of %d requests, nor would you have at these other prices\n",
			m.Ask.Out, m.Considered)
	case best.PPM == onePPM || to == m.Ask:
		fmt.Fprintf(p.w, "  you ask %v for output and won %s of what you could have: of these prices none would have earned more\n",
			m.Ask.Out, ratio(m.Won, m.Considered))
	default:
		fmt.Fprintf(p.w, "  you ask %v for output; at %v you would have won %s of the requests (%s now) and earned most:\n",
			m.Ask.Out, to.Out, ratio(best.Won, m.Considered), ratio(m.Won, m.Considered))
		config := ""
		if p.config != "worker.yaml" {
			config = " --config " + quoted(p.config)
		}
		fmt.Fprintf(p.w, "    cocoon-worker price set --model %s --in %d --cached %d --out %d%s\n",
			quoted(m.Model), int64(to.In), int64(to.Cached), int64(to.Out), config)
	}
	return nil
}

// quoted is a word for a shell. Names of models come from gateways.
func quoted(word string) string {
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+:@%./,"
	if word != "" && word[0] != '-' && strings.Trim(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// percent is parts per million in percent, of one decimal.
func percent(ppm int64) string {
	tenths := (ppm + 500) / 1000
	if tenths%10 == 0 {
		return fmt.Sprintf("%d %%", tenths/10)
	}
	return fmt.Sprintf("%d.%d %%", tenths/10, tenths%10)
}

// ratio is a part of a whole in percent.
func ratio(part, whole int64) string { return percent(part * onePPM / whole) }

// unmeasured stands for a figure that is not known.
const unmeasured = "not measured yet"

// known is a figure, or that it is not known.
func known(n int64, unit string) string {
	if n == 0 {
		return unmeasured
	}
	return fmt.Sprintf("%d%s", n, unit)
}

// many is a count of things.
func many(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return short(n) + " " + thing + "s"
}

// short is a number in at most four digits and a letter.
func short(n int64) string {
	letters := []string{"", "k", "M", "G", "T"}
	tenths, i := n*10, 0
	for most := int64(100_000); tenths >= most && i+1 < len(letters); i++ {
		tenths, most = tenths/1000, 10_000
	}
	if i == 0 || tenths%10 == 0 {
		return fmt.Sprintf("%d%s", tenths/10, letters[i])
	}
	return fmt.Sprintf("%d.%d%s", tenths/10, tenths%10, letters[i])
}

// span is a time in the largest unit that it has two of.
func span(d time.Duration) string {
	for _, u := range []struct {
		d    time.Duration
		name string
	}{{24 * time.Hour, "days"}, {time.Hour, "hours"}, {time.Minute, "minutes"}} {
		if d >= 2*u.d {
			return fmt.Sprintf("%d %s", d/u.d, u.name)
		}
	}
	return many(int64(max(d, 0)/time.Second), "second")
}
