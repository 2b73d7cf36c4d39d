package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"cocoon/router/sim"
)

// attacks is what each lie brings.
func attacks(o options, _ io.Writer) (string, error) {
	capacity, err := sim.Capacity(sim.AttackConfig(1, 1))
	if err != nil {
		return "", err
	}
	lies := []struct {
		name string
		lie  sim.Lie
	}{
		{"reports no load", sim.LieLoad},
		{"claims any capacity", sim.LieCapacity},
		{"fails fast", sim.LieFailFast},
		{"bait and switch, 5 x the price", sim.LieBait},
		{"(no lie: always 5 x the price)", sim.LieNoneButDear},
		{"eight identities, one machine", sim.LieIdentities},
		{"tells of no cached tokens", sim.LieCached},
		{"tells of half of them", sim.LieCachedHalf},
		{"(no lie: cached tokens at the full price)", sim.LieNoneButFull},
	}
	got := make([]sim.Attack, len(lies)*o.seeds)
	err = parallel(o.jobs, len(got), func(i int) (err error) {
		got[i], err = sim.Attacked(lies[i/o.seeds].lie, uint64(i%o.seeds+1), capacity)
		return err
	})
	if err != nil {
		return "", err
	}
	var cells [][]string
	for i, l := range lies {
		m := sim.MeanAttack(got[i*o.seeds : (i+1)*o.seeds])
		cells = append(cells, []string{
			l.name, float(m.Share, 2), float(m.Revenue, 2), percent(m.Tries), float(m.First99, 2), float(m.End99, 2), float(m.Cost, 2),
			percent(m.Failed),
		})
	}
	return markdown([]string{
		"one worker of twelve", "its tokens", "its revenue", "attempts %", "others' TTFT p99", "end p99", "cost", "failed %",
	}, cells), nil
}

// window is the width of the points in the plots over time, seconds.
const window = 5.0

// failures is what happens to clients when the busiest worker breaks, over time.
func failures(o options, _ io.Writer) (string, error) {
	acts := []struct {
		name string
		act  sim.Act
	}{
		{"6 x slower", sim.ActSlow}, {"connections break", sim.ActFail}, {"fails fast", sim.ActFailFast}, {"hangs", sim.ActHang},
	}
	policies := []string{sim.Ours, sim.LMetricRate, sim.LLMD, sim.LeastInflight, sim.P2C}
	markets, busiest := make([]sim.Config, o.seeds), make([]int32, o.seeds)
	err := parallel(o.jobs, o.seeds, func(i int) error {
		c := o.base
		c.Seed = uint64(i + 1)
		capacity, err := sim.Capacity(c)
		if err != nil {
			return err
		}
		c.Load, c.Policy = sim.LoadAt(c.Seed, capacity, 0.5), sim.LMetricRate
		plain, err := sim.Run(c)
		if err != nil {
			return err
		}
		markets[i], busiest[i] = c, plain.Busiest()
		return nil
	})
	if err != nil {
		return "", err
	}
	results := make([]*sim.Result, len(acts)*len(policies)*o.seeds)
	err = parallel(o.jobs, len(results), func(i int) (err error) {
		c := markets[i%o.seeds]
		c.Policy = policies[i/o.seeds%len(policies)]
		results[i], err = sim.Slowed(c, sim.Step{
			At: sim.SlowAt, Act: acts[i/o.seeds/len(policies)].act, Worker: busiest[i%o.seeds], Factor: sim.SlowFactor,
		})
		return err
	})
	if err != nil {
		return "", err
	}
	var cells [][]string
	p := plot{
		title: "TTFT p99 when the busiest worker becomes six times slower", x: "seconds after", y: "seconds", top: 12,
	}
	for a, act := range acts {
		for k, name := range policies {
			from := (a*len(policies) + k) * o.seeds
			rs := results[from : from+o.seeds]
			firstBefore, endBefore := sim.Window(rs, sim.SlowAt-sim.SlowWindow, sim.SlowAt)
			firstIn, endIn := sim.Window(rs, sim.SlowAt, sim.SlowAt+sim.SlowGrace)
			first, end := sim.Window(rs, sim.SlowAt+sim.SlowGrace, sim.SlowAt+sim.SlowGrace+sim.SlowWindow)
			failed, offered := 0, 0
			for _, r := range rs {
				failed += r.Failed
				offered += r.Offered
			}
			cells = append(cells, []string{
				act.name + ": " + name, float(firstBefore, 2), float(firstIn, 2), float(first, 2), float(endBefore, 1), float(endIn, 1),
				float(end, 1), percent(float64(failed) / float64(offered)),
			})
			if act.act == sim.ActSlow {
				l := line{name: name, strong: name == sim.Ours}
				for at := -20.0; at < 50; at += window {
					x, _ := sim.Window(rs, sim.SlowAt+at, sim.SlowAt+at+window)
					l.x, l.y = append(l.x, at+window/2), append(l.y, x)
				}
				p.lines = append(p.lines, l)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(o.docs, "routing", "slow.svg"), []byte(p.svg()), 0o644); err != nil {
		return "", err
	}
	return markdown([]string{
		"p99, seconds", "TTFT 30 s before", "first 5 s", "next 30 s", "end before", "first 5 s", "next 30 s", "failed %",
	}, cells), nil
}

// gateways is what more gateways cost.
func gateways(o options, _ io.Writer) (string, error) {
	var cells [][]string
	for _, m := range []struct {
		name     string
		gateways int
		spread   bool
	}{{"one gateway", 1, false}, {"four, each tenant at one", 4, false}, {"four, requests anywhere", 4, true}} {
		x := o
		x.base.Gateways, x.base.Spread = m.gateways, m.spread
		x.loads, x.policies = []float64{0.6}, []string{sim.Ours, sim.LMetricRate, sim.LLMD}
		rows, err := sweep(x)
		if err != nil {
			return "", err
		}
		for i := range rows {
			if rows[i].policy == sim.Oracle {
				continue
			}
			v := rows[i].values()
			v[0] = m.name + ": " + v[0]
			cells = append(cells, v)
		}
	}
	return markdown(columns(), cells), nil
}

// sizes are markets from ten to ten thousand workers, a simulated minute of each.
func sizes(o options, _ io.Writer) (string, error) {
	var cells [][]string
	all := []int{10, 100, 1000, 10_000}
	if o.quick {
		all = all[:3]
	}
	for _, n := range all {
		for _, policy := range []string{sim.Ours, sim.LMetricRate} {
			if policy != sim.Ours && n > 1000 {
				continue // looks at all workers, each with its own cache
			}
			r, err := sim.Run(sim.Config{Seed: 1, Workers: n, Policy: policy, Seconds: 90, Warm: 45, Load: sizeLoad * float64(n)})
			if err != nil {
				return "", err
			}
			s := r.Summarize(nil)
			cells = append(cells, []string{
				fmt.Sprintf("%d workers: %s", n, policy), float(float64(r.Offered)/45, 0), float(s.First50, 3), float(s.First99, 2),
				float(s.Total50, 2), float(s.Total99, 1), float(s.Cost, 3), percent(s.Hit), float(s.Jain, 2), percent(s.Starved),
				float(float64(r.Took.Microseconds())/float64(r.Offered)/2, 1),
			})
		}
	}
	return markdown([]string{
		"", "requests/s", "TTFT p50", "p99", "end p50", "p99", "TON/1k", "hit %", "Jain", "starved %", "simulator, us a request",
	}, cells), nil
}

// sizeLoad is the sessions a second for each worker: about half of what it can do.
const sizeLoad = 0.4
