//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// noisy is the share of the machine taken by others above which a sample is pointed out.
const noisy = 0.10

// results is bench.json.
type results struct {
	Machine  machine           `json:"machine"`
	Plan     plan              `json:"plan"`
	Peers    []string          `json:"peers"`
	Skipped  map[string]string `json:"skipped,omitempty"` // peers that weren't there, and why
	Figures  []figure          `json:"figures"`
	Targets  []verdict         `json:"targets"`
	Problems []string          `json:"problems,omitempty"` // any of these fails the run
	Samples  []sample          `json:"samples"`
}

// figure is one metric of one peer over all rounds.
type figure struct {
	Metric string `json:"metric"`
	Peer   string `json:"peer"`
	spread
	// Ratio is to the reverse proxy, round by round.
	Ratio *spread `json:"ratio,omitempty"`
}

// spread is the median of some values and their range.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// view is what one round measured of one peer: its samples by phase, and those without a proxy.
type view struct{ own, direct map[string]sample }

// metric is a row of the table.
type metric struct {
	key, title string
	digits     int  // after the point
	ratio      bool // is one to the reverse proxy of use?
	value      func(view) (float64, bool)
}

// The metrics that targets name.
const (
	metricSmallCPU  = "cpu_s_per_10k_small"
	metricRateCPU   = "cpu_s_per_10k_rate"
	metricChunkCPU  = "cpu_s_per_million_chunks"
	metricStreamKiB = "kib_per_open_stream"
)

// metrics is the rows of the table, in order.
func metrics() []metric {
	const requests, chunks = 10_000, 1_000_000
	return []metric{
		{metricSmallCPU, "CPU-s per 10k requests, 64 connections", 3, true, cpuPer(phaseSmall, requests)},
		{"small_per_second", "requests/s, 64 connections", 0, true, perSecond(phaseSmall)},
		{metricRateCPU, "CPU-s per 10k requests at 1,000/s", 3, true, cpuPer(phaseRate, requests)},
		{"p50_us", "p50 at 1,000/s, us", 0, false, p50},
		{"p99_us", "p99 at 1,000/s, us", 0, false, p99},
		{"p50_added_us", "p50 added to direct, us", 0, true, added(p50)},
		{"p99_added_us", "p99 added to direct, us", 0, true, added(p99)},
		{"cpu_s_per_10k_long", "CPU-s per 10k requests of 32 KB", 3, true, cpuPer(phaseLong, requests)},
		{"long_per_second", "requests of 32 KB/s", 0, true, perSecond(phaseLong)},
		{metricChunkCPU, "CPU-s per million SSE chunks", 2, true, cpuPer(phaseStreams, chunks)},
		{"first_chunk_p50_us", "first chunk p50, us", 0, false, firstChunk},
		{"chunk_p99_us", "chunk delay p99, us", 0, false, chunkDelay},
		{metricStreamKiB, "KiB per open stream", 2, true, streamKiB},
		{"worker_cpu_s_per_10k_small", "our worker: CPU-s per 10k requests", 3, false, workerPer(phaseSmall, requests)},
		{"worker_cpu_s_per_million_chunks", "our worker: CPU-s per million chunks", 2, false, workerPer(phaseStreams, chunks)},
		{"lost", "answers and streams lost", 0, false, lost},
	}
}

// cpuPer is the peer's CPU seconds in a phase for so many requests, or chunks if it has any.
func cpuPer(phase string, units float64) func(view) (float64, bool) {
	return func(v view) (float64, bool) {
		s := v.own[phase]
		n := s.units()
		return s.CPU / max(n, 1) * units, n > 0 && s.Peer != peerDirect
	}
}

// workerPer is the same of our worker's process, where it is what the gateway hands requests to.
func workerPer(phase string, units float64) func(view) (float64, bool) {
	return func(v view) (float64, bool) {
		s := v.own[phase]
		n := s.units()
		return s.EngineCPU / max(n, 1) * units, n > 0 && s.Peer == peerChain
	}
}

// units is the chunks of a phase that has any, else its requests.
func (s *sample) units() float64 {
	if s.Phase == phaseStreams {
		return float64(s.Result.Chunks)
	}
	return float64(s.Result.Requests)
}

func perSecond(phase string) func(view) (float64, bool) {
	return func(v view) (float64, bool) {
		s := v.own[phase]
		return float64(s.Result.Requests) / max(s.Result.Seconds, 1e-9), s.Result.Requests > 0
	}
}

func p50(v view) (float64, bool) {
	s := v.own[phaseRate].Result.Latency
	return s.P50, s.N > 0
}

func p99(v view) (float64, bool) {
	s := v.own[phaseRate].Result.Latency
	return s.P99, s.N > 0
}

// added is what a peer's latency has above that without a proxy in the same round.
func added(of func(view) (float64, bool)) func(view) (float64, bool) {
	return func(v view) (float64, bool) {
		with, ok := of(v)
		without, measured := of(view{own: v.direct})
		return with - without, ok && measured && v.own[phaseRate].Peer != peerDirect
	}
}

func firstChunk(v view) (float64, bool) {
	s := v.own[phaseStreams].Result.Latency
	return s.P50, s.N > 0
}

func chunkDelay(v view) (float64, bool) {
	s := v.own[phaseStreams].Result.Delay
	return s.P99, s.N > 0
}

func streamKiB(v view) (float64, bool) {
	s := v.own[phaseHold]
	return float64(s.RSSHeld-s.RSSIdle) / float64(max(s.Result.Open, 1)), s.Result.Open > 0
}

func lost(v view) (n float64, ok bool) {
	for _, s := range v.own {
		n += float64(s.Result.Lost)
	}
	return n, len(v.own) > 0
}

// compute makes figures and verdicts of the samples.
func (r *results) compute() {
	r.Figures, r.Targets = nil, nil
	for _, m := range metrics() {
		for _, peer := range r.Peers {
			var values []float64
			for round := 1; round <= r.Plan.values(); round++ {
				if v, ok := m.value(r.view(peer, round)); ok {
					values = append(values, v)
				}
			}
			if len(values) == 0 {
				continue
			}
			f := figure{Metric: m.key, Peer: peer, spread: spreadOf(values)}
			if m.ratio {
				f.Ratio = r.ratio(m, peer, peerProxy)
			}
			r.Figures = append(r.Figures, f)
		}
	}
	for _, t := range targets() {
		r.Targets = append(r.Targets, r.judge(t))
	}
}

// ratio is a peer's metric to another's, round by round; nil if there is none.
func (r *results) ratio(m metric, peer, to string) *spread {
	var ratios []float64
	for round := 1; round <= r.Plan.values(); round++ {
		v, ok := m.value(r.view(peer, round))
		base, there := m.value(r.view(to, round))
		if ok && there && base > 0 {
			ratios = append(ratios, v/base)
		}
	}
	if len(ratios) == 0 {
		return nil
	}
	s := spreadOf(ratios)
	return &s
}

// view is a peer's samples of one round.
func (r *results) view(peer string, round int) view {
	v := view{own: map[string]sample{}, direct: map[string]sample{}}
	for _, s := range r.Samples {
		if s.Round == round && s.Peer == peer {
			v.own[s.Phase] = s
		}
		if s.Round == round && s.Peer == peerDirect {
			v.direct[s.Phase] = s
		}
	}
	return v
}

// spreadOf is the spread of at least one value.
func spreadOf(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	mid := len(v) / 2
	s := spread{Median: v[mid], Min: v[0], Max: v[len(v)-1]}
	if len(v)%2 == 0 {
		s.Median = (v[mid-1] + v[mid]) / 2
	}
	return s
}

// figure finds a figure; nil if it was not measured.
func (r *results) figure(metric, peer string) *figure {
	for i := range r.Figures {
		if f := &r.Figures[i]; f.Metric == metric && f.Peer == peer {
			return f
		}
	}
	return nil
}

// target is what our gateway is to reach.
type target struct {
	metric, text string
	max          float64
	peer, to     string // max is of the peer's ratio to this one, or if that is "" of its figure
}

// billingMax bounds what billing may cost the gateway: 15 % on top.
const billingMax = 1.15

func targets() []target {
	return []target{
		{metricSmallCPU, "CPU per small request, of the reverse proxy's", 0.55, peerCocoon, peerProxy},
		{metricChunkCPU, "CPU per million SSE chunks, of the reverse proxy's", 1.0, peerCocoon, peerProxy},
		{metricStreamKiB, "KiB per open stream", 45, peerCocoon, ""},
		{metricSmallCPU, "CPU per small request with billing, of that without", billingMax, peerBilling, peerCocoon},
		{metricRateCPU, "CPU per request at 1,000/s with billing, of that without", billingMax, peerBilling, peerCocoon},
		{metricChunkCPU, "CPU per million SSE chunks with billing, of that without", billingMax, peerBilling, peerCocoon},
	}
}

// Verdicts.
const (
	verdictPass       = "PASS"
	verdictMiss       = "MISS"
	verdictUnmeasured = "not measured"
)

// verdict is a target and what became of it.
type verdict struct {
	Target  string  `json:"target"`
	Max     float64 `json:"max"`
	Got     *spread `json:"got,omitempty"`
	Verdict string  `json:"verdict"`
}

func (r *results) judge(t target) verdict {
	v := verdict{Target: t.text, Max: t.max, Verdict: verdictUnmeasured}
	switch f := r.figure(t.metric, t.peer); {
	case f == nil:
	case t.to == "":
		v.Got = &f.spread
	default:
		i := slices.IndexFunc(metrics(), func(m metric) bool { return m.key == t.metric })
		v.Got = r.ratio(metrics()[i], t.peer, t.to)
	}
	switch {
	case v.Got == nil:
	case v.Got.Median <= t.max:
		v.Verdict = verdictPass
	default:
		v.Verdict = verdictMiss
	}
	return v
}

// met says whether every target was reached; one that was not measured was not.
func (r *results) met() bool {
	return !slices.ContainsFunc(r.Targets, func(v verdict) bool { return v.Verdict != verdictPass })
}

// print writes the report for people.
func (r *results) print(w io.Writer) {
	m := &r.Machine
	fmt.Fprintf(w, "%s, %d cores, %d MB, Linux %s, %s, commit %s, %s\n", m.CPU, m.Cores, m.MemoryMB, m.Kernel, m.Go,
		m.Commit, m.Time.Format("2006-01-02 15:04 MST"))
	fmt.Fprintf(w, "%d repetitions of %d rounds, medians; in brackets the ratio to %s\n\n", r.Plan.Repetitions, r.Plan.Rounds, peerProxy)
	table := [][]string{append([]string{""}, r.Peers...)}
	for _, m := range metrics() {
		row, measured := []string{m.title}, false
		for _, peer := range r.Peers {
			f := r.figure(m.key, peer)
			row, measured = append(row, cell(f, m.digits)), measured || f != nil
		}
		if measured {
			table = append(table, row)
		}
	}
	align(w, table)
	fmt.Fprintln(w)
	for _, v := range r.Targets {
		got := "-"
		if v.Got != nil {
			got = fmt.Sprintf("%.2f (%.2f to %.2f)", v.Got.Median, v.Got.Min, v.Got.Max)
		}
		fmt.Fprintf(w, "%-12s %s: %s, at most %.2f\n", v.Verdict, v.Target, got, v.Max)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Skipped)) {
		fmt.Fprintf(w, "skipped %s: %s\n", name, r.Skipped[name])
	}
	r.printNoise(w)
	for _, p := range r.Problems {
		fmt.Fprintln(w, "PROBLEM", p)
	}
}

// printNoise says how far the figures can be trusted.
func (r *results) printNoise(w io.Writer) {
	var noise []float64
	loud, profiled := 0, false
	for _, s := range r.Samples {
		noise = append(noise, s.Noise)
		if s.Noise > noisy {
			loud++
		}
		profiled = profiled || s.Profiled
	}
	if len(noise) == 0 {
		return
	}
	s := spreadOf(noise)
	fmt.Fprintf(w, "others took %.0f %% of the machine (median; at most %.0f %%)", s.Median*100, s.Max*100)
	if loud > 0 {
		fmt.Fprintf(w, "; in %d of %d samples more than %.0f %%: run again when it is quiet", loud, len(noise), noisy*100)
	}
	fmt.Fprintln(w)
	if profiled {
		fmt.Fprintln(w, "our gateways were profiled in round 1: their CPU there is a little too high")
	}
}

// cell is a figure as the table shows it.
func cell(f *figure, digits int) string {
	switch {
	case f == nil:
		return "-"
	case f.Ratio == nil:
		return number(f.Median, digits)
	}
	return fmt.Sprintf("%s (%.2f)", number(f.Median, digits), f.Ratio.Median)
}

// number is v with so many digits after the point and commas between thousands.
func number(v float64, digits int) string {
	text := fmt.Sprintf("%.*f", digits, v)
	whole, fraction, _ := strings.Cut(text, ".")
	sign := ""
	if rest, ok := strings.CutPrefix(whole, "-"); ok {
		sign, whole = "-", rest
	}
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if fraction != "" {
		whole += "." + fraction
	}
	return sign + whole
}

// align writes rows in columns, the first to the left and the others to the right.
func align(w io.Writer, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for _, row := range rows {
		cells := []string{fmt.Sprintf("%-*s", widths[0], row[0])}
		for i, c := range row[1:] {
			cells = append(cells, fmt.Sprintf("%*s", widths[i+1], c))
		}
		fmt.Fprintln(w, strings.TrimRight(strings.Join(cells, "  "), " "))
	}
}

// write writes bench.json.
func (r *results) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
