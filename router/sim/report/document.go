package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cocoon/router/sim"
)

// errNoMarker means that the document has no place for a table.
var errNoMarker = errors.New("no marker in the document")

// document writes the tables between routing.md's markers, and the plots beside it.
func document(o options, out io.Writer) error {
	page := filepath.Join(o.docs, "routing.md")
	text, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	o.loads = []float64{0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2}
	o.policies = sim.Policies()
	if o.quick {
		o.loads, o.seeds = []float64{0.3, 0.6, 0.9, 1.2}, 2
	}
	start := time.Now()
	doc := string(text)
	for _, part := range []struct {
		name string
		make func(options, io.Writer) (string, error)
	}{
		{"loads", loads}, {"attacks", attacks}, {"failures", failures}, {"gateways", gateways}, {"sizes", sizes},
	} {
		table, err := part.make(o, out)
		if err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		fmt.Fprintln(out, table)
		if doc, err = between(doc, part.name, table); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "all of it took %.0f s\n", time.Since(start).Seconds())
	return os.WriteFile(page, []byte(doc), 0o644)
}

// between puts text between a name's markers.
func between(doc, name, text string) (string, error) {
	begin, end := "<!-- sim:"+name+" -->\n", "<!-- /sim:"+name+" -->"
	before, rest, ok := strings.Cut(doc, begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return "", fmt.Errorf("%w: %s", errNoMarker, name)
	}
	return before + begin + "\n" + text + "\n" + end + after, nil
}

// markdown is a table.
func markdown(heads []string, rows [][]string) string {
	var b strings.Builder
	row := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	row(heads)
	row(append([]string{"---"}, repeat("--:", len(heads)-1)...))
	for _, r := range rows {
		row(r)
	}
	return b.String()
}

func repeat(s string, n int) (all []string) {
	for range n {
		all = append(all, s)
	}
	return all
}

func float(v float64, digits int) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "-"
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

func percent(v float64) string { return float(100*v, 1) }

// loads is every policy at every load: tables, plots, and what must hold.
func loads(o options, out io.Writer) (string, error) {
	rows, err := sweep(o)
	if err != nil {
		return "", err
	}
	for _, p := range sweepPlots(o, rows) {
		if err := os.WriteFile(filepath.Join(o.docs, "routing", p.file), []byte(p.svg()), 0o644); err != nil {
			return "", err
		}
	}
	var b strings.Builder
	for _, load := range []float64{0.3, 0.6, 0.9, 1.2} {
		fmt.Fprintf(&b, "### Load %.0f %%\n\n", 100*load)
		var cells [][]string
		for i := range rows {
			if rows[i].load == load {
				cells = append(cells, rows[i].values())
			}
		}
		b.WriteString(markdown(columns(), cells) + "\n")
		fmt.Fprintf(out, "\nload %.0f %%, %d workers, %d seeds\n", load*100, o.base.Workers, o.seeds)
		table(out, rows, load)
	}
	b.WriteString("### What must hold\n\n")
	var cells [][]string
	for _, load := range []float64{0.3, 0.6, 0.9} {
		for _, v := range verdicts(rows, load) {
			word := "holds"
			if !v.Holds() {
				word = "**missed**"
			}
			cells = append(cells, []string{v.Name, percent(load), float(v.Value, 2), float(v.Limit, 2), word})
		}
	}
	for i := range rows {
		if x := &rows[i]; x.policy == sim.Ours && x.load == 1.2 {
			v := sim.Verdict{Name: "default: capacity by goodput", Value: 1 / x.good, Limit: 1 / 0.95}
			word := "holds"
			if !v.Holds() {
				word = "**missed**"
			}
			cells = append(cells, []string{v.Name, percent(x.load), float(v.Value, 2), float(v.Limit, 2), word})
		}
	}
	b.WriteString(markdown([]string{"", "load %", "is", "at most", ""}, cells))
	return b.String(), nil
}

func verdicts(rows []row, load float64) []sim.Verdict {
	return sim.Judge(func(policy string) sim.Summary {
		for i := range rows {
			if rows[i].policy == policy && rows[i].load == load {
				return rows[i].Summary
			}
		}
		return sim.Summary{}
	})
}

// figure is a plot and its file's name.
type figure struct {
	plot
	file string
}

func sweepPlots(o options, rows []row) (all []figure) {
	for _, f := range []struct {
		file, title, y string
		top            float64
		of             func(*row) float64
	}{
		{"ttft-p50.svg", "Time to the first token, median", "seconds", 2, func(x *row) float64 { return x.First50 }},
		{"ttft-p99.svg", "Time to the first token, p99", "seconds", 10, func(x *row) float64 { return x.First99 }},
		{"end-p50.svg", "Whole answer, median", "seconds", 10, func(x *row) float64 { return x.Total50 }},
		{"end-p99.svg", "Whole answer, p99", "seconds", 60, func(x *row) float64 { return x.Total99 }},
		{"cost.svg", "Cost", "TON per 1,000 requests", 0, func(x *row) float64 { return x.Cost }},
		{"hits.svg", "Prompt tokens found in prefix caches", "%", 100, func(x *row) float64 { return 100 * x.Hit }},
		{"fairness.svg", "Jain's index of revenue among workers of a class", "", 1, func(x *row) float64 { return x.Jain }},
		{"goodput.svg", "Goodput: answers that began within ten seconds", "% of the capacity", 110, func(x *row) float64 {
			return 100 * x.good
		}},
		{"regret.svg", "Regret: J above the oracle's", "%", 200, func(x *row) float64 { return 100 * x.regret.J }},
	} {
		p := plot{title: f.title, x: "load, % of the capacity", y: f.y, top: f.top}
		for _, name := range o.policies {
			l := line{name: name, strong: name == sim.Ours, dashed: name == sim.Oracle}
			for i := range rows {
				if rows[i].policy == name {
					l.x, l.y = append(l.x, 100*rows[i].load), append(l.y, f.of(&rows[i]))
				}
			}
			p.lines = append(p.lines, l)
		}
		all = append(all, figure{p, f.file})
	}
	return all
}
