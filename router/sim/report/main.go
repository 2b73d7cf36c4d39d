// Command report runs the market simulator and prints what it found. With -docs it also writes the tables and plots of
// docs/routing.md.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"cocoon/router/sim"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

// options are what the flags say.
type options struct {
	base     sim.Config
	seeds    int
	loads    []float64
	policies []string
	docs     string
	jobs     int
	quick    bool
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("report", flag.ContinueOnError)
	f.IntVar(&o.base.Workers, "workers", 32, "GPUs on the market")
	f.IntVar(&o.base.Gateways, "gateways", 1, "gateways")
	f.BoolVar(&o.base.Spread, "spread", false, "requests come to any gateway, not each tenant's to one")
	f.BoolVar(&o.base.Equal, "equal", false, "all GPUs and prices are the same")
	f.BoolVar(&o.base.Mixed, "mixed", false, "a fifth of the requests is :floor, a fifth :nitro")
	f.BoolVar(&o.base.Steady, "steady", false, "no bursts")
	f.Float64Var(&o.base.Seconds, "seconds", 0, "simulated time (default 400)")
	f.IntVar(&o.seeds, "seeds", 5, "runs of each, with seeds from 1 on")
	f.IntVar(&o.jobs, "jobs", max(runtime.NumCPU()/2, 1), "runs at a time")
	f.StringVar(&o.docs, "docs", "", "write routing.md's tables and plots in this folder")
	f.BoolVar(&o.quick, "quick", false, "with -docs: few loads, two seeds")
	loads := f.String("loads", "30,60,90", "loads, per cent of the capacity")
	policies := f.String("policies", "", "of "+strings.Join(sim.Policies(), ", ")+" (default: all)")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	for s := range strings.SplitSeq(*loads, ",") {
		x, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return o, fmt.Errorf("-loads: %w", err)
		}
		o.loads = append(o.loads, x/100)
	}
	o.policies = sim.Policies()
	if *policies != "" {
		o.policies = strings.Split(*policies, ",")
	}
	return o, nil
}

func run(args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if o.docs != "" {
		return document(o, out)
	}
	rows, err := sweep(o)
	if err != nil {
		return err
	}
	for _, load := range o.loads {
		fmt.Fprintf(out, "\nload %.0f %%, %d workers, %d gateways, %d seeds\n", load*100, o.base.Workers, o.base.Gateways, o.seeds)
		table(out, rows, load)
	}
	return nil
}

// row is a policy at a load, the mean over the seeds.
type row struct {
	policy string
	load   float64
	sim.Summary
	asked  float64 // tokens that were asked for, as a part of the capacity
	good   float64 // goodput, likewise
	regret sim.Regret
	wall   float64 // seconds a run took
}

// sweep runs every policy at every load with every seed.
func sweep(o options) ([]row, error) {
	policies := o.policies
	if !slices.Contains(policies, sim.Oracle) {
		policies = append(slices.Clone(policies), sim.Oracle)
	}
	capacity := make([]float64, o.seeds)
	err := parallel(o.jobs, o.seeds, func(i int) (err error) {
		c := o.base
		c.Seed = uint64(i + 1)
		capacity[i], err = sim.Capacity(c)
		return err
	})
	if err != nil {
		return nil, err
	}
	results := make([]sim.Summary, len(o.loads)*len(policies)*o.seeds)
	walls := make([]float64, len(results))
	err = parallel(o.jobs, len(results), func(i int) error {
		c := o.base
		seed, rest := i%o.seeds, i/o.seeds
		c.Seed = uint64(seed + 1)
		c.Policy = policies[rest%len(policies)]
		c.Load = sim.LoadAt(c.Seed, capacity[seed], o.loads[rest/len(policies)])
		r, err := sim.Run(c)
		if err != nil {
			return err
		}
		results[i], walls[i] = r.Summarize(nil), r.Took.Seconds()
		return nil
	})
	if err != nil {
		return nil, err
	}
	var rows []row
	for l, load := range o.loads {
		at := func(p int) []sim.Summary {
			from := (l*len(policies) + p) * o.seeds
			return results[from : from+o.seeds]
		}
		best := at(slices.Index(policies, sim.Oracle))
		for p, name := range policies {
			x := row{policy: name, load: load, Summary: sim.Mean(at(p)), regret: sim.Against(at(p), best)}
			for i, s := range at(p) {
				x.asked += s.Demanded / capacity[i] / float64(o.seeds)
				x.good += s.Goodput / capacity[i] / float64(o.seeds)
				x.wall += walls[(l*len(policies)+p)*o.seeds+i] / float64(o.seeds)
			}
			rows = append(rows, x)
		}
	}
	return rows, nil
}

// parallel calls f for 0 to n-1, some at a time, and returns the first error.
func parallel(jobs, n int, f func(int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, n)
	next := make(chan int)
	for range jobs {
		wg.Go(func() {
			for i := range next {
				errs[i] = f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	return errors.Join(errs...)
}

// columns are a table's: heads, and a row's values.
func columns() []string {
	return []string{
		"policy", "TTFT p50", "p95", "p99", "end p50", "p99", "asked %", "goodput", "TON/1k", "hit", "Jain", "starved", "shed",
		"failed", "moved", "J", "regret J", "end", "cost",
	}
}

func (x *row) values() []string {
	f, pc := float, percent
	return []string{
		x.policy, f(x.First50, 3), f(x.First95, 2), f(x.First99, 2), f(x.Total50, 2), f(x.Total99, 1), pc(x.asked), pc(x.good),
		f(x.Cost, 3), pc(x.Hit), f(x.Jain, 2), pc(x.Starved), pc(x.Shed), pc(x.Failed), pc(x.Moved), f(x.J, 2),
		pc(x.regret.J), pc(x.regret.Total), pc(x.regret.Cost),
	}
}

func table(out io.Writer, rows []row, load float64) {
	heads := columns()
	fmt.Fprintf(out, "%-24s", heads[0])
	for _, h := range heads[1:] {
		fmt.Fprintf(out, "%9s", h)
	}
	fmt.Fprintf(out, "%9s\n", "wall s")
	for i := range rows {
		if rows[i].load != load {
			continue
		}
		v := rows[i].values()
		fmt.Fprintf(out, "%-24s", v[0])
		for _, x := range v[1:] {
			fmt.Fprintf(out, "%9s", x)
		}
		fmt.Fprintf(out, "%9.2f\n", rows[i].wall)
	}
	for i := range rows {
		if x := &rows[i]; x.load == load && x.FirstOff > 0 {
			fmt.Fprintf(out, "%s promised by measured: TTFT %.2f (half within a factor of %.2f), a token %.2f (%.2f), cached %.2f\n",
				x.policy, x.FirstBias, x.FirstOff, x.StepBias, x.StepOff, x.CachedBias)
		}
	}
}
