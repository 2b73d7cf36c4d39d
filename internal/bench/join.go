//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"time"

	"cocoon/internal/bench/load"
	"cocoon/internal/bench/mock"
)

// joinRate is the requests a second that the gateway serves meanwhile.
const joinRate = 200

// filesPerWorker is a worker's connections: control, idle data, and some for requests.
const filesPerWorker = 8

// joinMain has many workers join a gateway within a while, each a simulated machine of its own with a GPU, and measures
// what that costs the gateway's process, and the requests that it serves meanwhile.
func joinMain(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	f := flags(roleJoin, stderr)
	workers := f.Int("workers", 1000, "how many join")
	over := f.Duration("over", time.Minute, "within how long")
	bin := f.String("bin", "bin", "folder with "+gatewayBinary)
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *over+runLimit)
	defer cancel()
	if _, err := raiseFiles(*workers * filesPerWorker / filesPerStream); err != nil {
		return err
	}
	l, err := newLab(ctx, *bin, []string{smallModel})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	if err := l.missing(peerCocoon); err != nil {
		return err
	}
	p, err := l.start(ctx, peerCocoon)
	if err != nil {
		return err
	}
	defer p.stop()
	c := load.Config{
		Mode: load.Open, Rate: joinRate, Conns: conns, Warm: time.Second, Length: *over,
		Body: chat(smallModel, false, smallBody), Want: mock.Answer(smallBody),
	}
	quiet := c
	quiet.Length = min(*over, 10*time.Second)
	alone, err := l.put(ctx, p, quiet, nil, nil)
	if err != nil {
		return err
	}
	crowd := make(chan error, 1)
	s, err := l.put(ctx, p, c, func() { crowd <- l.joiners(p, *workers, *over) }, nil)
	if err != nil {
		return err
	}
	if err := <-crowd; err != nil {
		return err
	}
	in, err := attested(ctx, p.ops)
	if err != nil {
		return err
	}
	requests := c.Length.Seconds() * joinRate
	own := alone.CPU / quiet.Length.Seconds()
	fmt.Fprintf(stdout, "%d of %d workers are in after %s; others took %.0f %% of the machine (%d cores)\n",
		in-workersCount, *workers, *over, 100*s.Noise, runtime.NumCPU())
	fmt.Fprintf(stdout, "gateway: %.2f cores while they joined, %.2f before, at %d requests/s; %.1f ms CPU a worker\n",
		s.CPU/c.Length.Seconds(), own, joinRate, 1000*(s.CPU-own*c.Length.Seconds())/float64(*workers))
	fmt.Fprintf(stdout, "%d of %.0f requests answered; latency p50 %.0f us, p99 %.0f us; before p50 %.0f us, p99 %.0f us\n", s.Result.Requests, requests,
		s.Result.Latency.P50, s.Result.Latency.P99, alone.Result.Latency.P50, alone.Result.Latency.P99)
	return nil
}

// joiners starts the workers, beside those that the gateway has.
func (l *lab) joiners(p *peer, workers int, over time.Duration) error {
	dir := filepath.Dir(p.proxy.log)
	joining, err := start(dir, "joiners", l.self, roleWorker, "-gateway", p.workers, "-pin", p.pin, "-dir", dir,
		"-first", strconv.Itoa(workersCount), "-workers", strconv.Itoa(workers), "-over", over.String(), "-models", smallModel)
	if err == nil {
		p.own = append(p.own, joining)
	}
	return err
}

// attested is how many workers the gateway has a verdict of.
func attested(ctx context.Context, ops string) (int, error) {
	resp, err := get(ctx, ops, "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`(?m)^cocoon_gateway_workers_attested\{verdict="simulated"\} (\d+)$`).FindSubmatch(text)
	if m == nil {
		return 0, errors.New("the gateway's metrics don't say how many workers are attested")
	}
	return strconv.Atoi(string(m[1]))
}
