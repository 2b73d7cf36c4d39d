//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/internal/bench/hist"
	"cocoon/internal/bench/load"
)

// measured is a run of two repetitions in which cocoon takes half of what the reverse proxy takes, with billing a tenth
// more than that, and the machine is twice as slow in the second.
func measured() *results {
	r := &results{
		Plan: plan{Repetitions: 1, Rounds: 2}, Peers: []string{peerDirect, peerProxy, peerCocoon, peerBilling},
		Skipped: map[string]string{peerNginx: "not installed"},
	}
	for rep := 1; rep <= 2; rep++ {
		slow := float64(rep)
		for peer, cost := range map[string]float64{peerDirect: 0, peerProxy: 2, peerCocoon: 1, peerBilling: 1.1} {
			add := func(phase string, cpu float64, result load.Result) {
				r.Samples = append(r.Samples, sample{
					Peer: peer, Phase: phase, Round: rep, CPU: cpu * slow, Result: result,
					RSSIdle: 1000, RSSHeld: 1000 + int64(cost*40_000),
				})
			}
			add(phaseSmall, cost, load.Result{Requests: 20_000, Seconds: 2})
			add(phaseRate, cost, load.Result{Requests: 5000, Seconds: 5, Latency: hist.Summary{
				N: 5000, P50: slow * (100 + 50*cost), P99: slow * (200 + 100*cost),
			}})
			add(phaseLong, cost, load.Result{Requests: 1000, Seconds: 1})
			add(phaseStreams, 2, load.Result{Requests: 200, Chunks: 40_000, Seconds: 4})
			if peer != peerDirect {
				add(phaseHold, 1, load.Result{Open: 1000, Lost: int64(rep)})
			}
		}
	}
	r.compute()
	return r
}

func TestFigures(t *testing.T) {
	r := measured()
	for _, c := range []struct {
		metric, peer      string
		median, low, high float64
		ratio             float64 // 0: none
	}{
		{metricSmallCPU, peerCocoon, 0.75, 0.5, 1, 0.5},
		{metricSmallCPU, peerProxy, 1.5, 1, 2, 1},
		{"small_per_second", peerCocoon, 10_000, 10_000, 10_000, 1},
		{"p50_us", peerDirect, 150, 100, 200, 0},
		{"p50_added_us", peerCocoon, 75, 50, 100, 0.5},
		{"p99_added_us", peerProxy, 300, 200, 400, 1},
		{"cpu_s_per_10k_long", peerCocoon, 15, 10, 20, 0.5},
		{metricChunkCPU, peerCocoon, 75, 50, 100, 1},
		{metricStreamKiB, peerCocoon, 40, 40, 40, 0.5},
		{metricSmallCPU, peerBilling, 0.825, 0.55, 1.1, 0.55},
		{"lost", peerProxy, 1.5, 1, 2, 0},
	} {
		f := r.figure(c.metric, c.peer)
		if f == nil {
			t.Errorf("%s of %s is missing", c.metric, c.peer)
			continue
		}
		if got := (spread{c.median, c.low, c.high}); !near(f.spread, got) {
			t.Errorf("%s of %s = %+v, want %+v", c.metric, c.peer, f.spread, got)
		}
		if (f.Ratio == nil) != (c.ratio == 0) || (f.Ratio != nil && math.Abs(f.Ratio.Median-c.ratio) > 1e-9) {
			t.Errorf("%s of %s: ratio %+v, want %v", c.metric, c.peer, f.Ratio, c.ratio)
		}
	}
	for _, key := range []string{metricSmallCPU, "p50_added_us", metricStreamKiB} {
		if f := r.figure(key, peerDirect); f != nil {
			t.Errorf("%s of %s = %+v: there is no proxy to measure", key, peerDirect, f)
		}
	}
}

func near(a, b spread) bool {
	return math.Abs(a.Median-b.Median)+math.Abs(a.Min-b.Min)+math.Abs(a.Max-b.Max) < 1e-6
}

func TestVerdicts(t *testing.T) {
	r := measured()
	if len(r.Targets) != 6 || !r.met() {
		t.Fatalf("%+v", r.Targets)
	}
	if got := r.Targets[4].Got; got == nil || !near(*got, spread{1.1, 1.1, 1.1}) {
		t.Errorf("%s: %+v, want 1.1 times", r.Targets[4].Target, got)
	}
	for i := range r.Samples {
		switch s := &r.Samples[i]; {
		case s.Peer == peerCocoon && s.Phase == phaseStreams:
			s.CPU *= 1.01
		case s.Peer == peerBilling && s.Phase == phaseRate:
			s.CPU *= 1.05
		}
	}
	r.compute()
	var got []string
	for _, v := range r.Targets {
		got = append(got, v.Verdict)
	}
	if want := "PASS MISS PASS PASS MISS PASS"; strings.Join(got, " ") != want || r.met() {
		t.Errorf("verdicts %v, want %s", got, want)
	}
	r.Peers = []string{peerDirect, peerProxy}
	r.compute()
	for _, v := range r.Targets {
		if v.Verdict != verdictUnmeasured {
			t.Errorf("%+v without our gateway", v)
		}
	}
	if r.met() {
		t.Error("targets are met though nothing was measured")
	}
}

func TestPrint(t *testing.T) {
	r := measured()
	r.Problems = []string{"something"}
	r.Samples[0].Noise = 0.5
	var out bytes.Buffer
	r.print(&out)
	for _, want := range []string{
		"CPU-s per 10k requests, 64 connections", "10,000 (1.00)", "0.750 (0.50)", "PASS", "skipped nginx: not installed",
		"PROBLEM something", "at most 50 %", "run again when it is quiet",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, &out)
		}
	}
}

func TestWrite(t *testing.T) {
	r := measured()
	path := filepath.Join(t.TempDir(), "new", "bench.json")
	if err := r.write(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var back results
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	f := back.figure(metricSmallCPU, peerCocoon)
	if f == nil || f.Median != 0.75 || f.Ratio == nil || f.Ratio.Median != 0.5 {
		t.Errorf("read back: %+v", f)
	}
}

func TestNumber(t *testing.T) {
	for _, c := range []struct {
		v      float64
		digits int
		want   string
	}{
		{0, 0, "0"},
		{999, 0, "999"},
		{1000, 0, "1,000"},
		{1234567.891, 2, "1,234,567.89"},
		{-1234, 0, "-1,234"},
		{0.12345, 3, "0.123"},
		{-0.5, 1, "-0.5"},
	} {
		if got := number(c.v, c.digits); got != c.want {
			t.Errorf("number(%v, %d) = %s, want %s", c.v, c.digits, got, c.want)
		}
	}
}

func TestSpreadOf(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   spread
	}{
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{3, 1}, spread{2, 1, 3}},
		{[]float64{9, 1, 3}, spread{3, 1, 9}},
	} {
		if got := spreadOf(c.values); got != c.want {
			t.Errorf("spreadOf(%v) = %+v, want %+v", c.values, got, c.want)
		}
	}
}
