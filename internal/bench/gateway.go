//go:build linux

package main

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"cocoon/attest/simtee"
)

const (
	gatewayBinary = "cocoon-gateway"
	devBinary     = "cocoon-dev" // whose worker runs in a simulated machine, as cocoon-worker does in a real one
	// workersCount workers share the held streams: the tunnel bounds the connections of one.
	workersCount   = 2
	commandTimeout = 10 * time.Second
	profileMax     = 64 << 20 // bytes
)

// gatewayConf is gateway.yaml: everything at its default but the addresses, money to spend, and a limit that thousands
// of streams of one key stay under.
const gatewayConf = `listen: %s
ops_listen: %s
worker_listen: %s
data_dir: %s
enrolment: auto
policy: %s
collateral: {offline: true}
tee: none
billing: %s
fee_ppm: %d
test_money_nanoton: %d
limits:
  concurrent_per_key: 100000
`

// testMoney is what the account has, nanoTON: a million TON.
const testMoney = 1_000_000_000_000_000

// teeDir is the folder of the simulated vendor that workers and policy share.
const teeDir = "tee"

// binaryMissing says what is wrong with one of our binaries.
func (l *lab) binaryMissing(name string) error {
	path := filepath.Join(l.bin, name)
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return fmt.Errorf("no %s to measure (make build makes it): %w", name, err)
	}
	for _, s := range info.Settings {
		if (s.Key == "-race" || s.Key == "-cover") && s.Value == "true" {
			return fmt.Errorf("%s was built with %s: its figures would say nothing", path, s.Key)
		}
	}
	return nil
}

// startGateway starts our gateway with a key, and the mock as its workers.
func (l *lab) startGateway(ctx context.Context, p *peer, dir string) error {
	ops, err := l.ports.take()
	if err != nil {
		return err
	}
	workers, err := l.ports.take()
	if err != nil {
		return err
	}
	data, conf := filepath.Join(dir, "data"), filepath.Join(dir, "gateway.yaml")
	tee := filepath.Join(dir, teeDir)
	vendor, err := simtee.Open(tee, time.Now())
	if err != nil {
		return err
	}
	policy := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(policy, vendor.PolicyYAML(time.Now()), 0o600); err != nil {
		return err
	}
	billing := "off"
	if bills(p.name) {
		billing = "on"
	}
	text := fmt.Appendf(nil, gatewayConf, p.address, ops, workers, data, policy, billing, feePPM, testMoney)
	if err := errors.Join(os.Mkdir(data, 0o700), os.WriteFile(conf, text, 0o600)); err != nil {
		return err
	}
	binary := filepath.Join(l.bin, gatewayBinary)
	if p.key, err = ask(ctx, binary, keyText, "keys", "create", "--config", conf, "bench"); err != nil {
		return err
	}
	pin, err := ask(ctx, binary, pinText, "id", "--data", data)
	if err != nil {
		return err
	}
	if p.proxy, err = start(dir, p.name, binary, "run", "--config", conf); err != nil {
		return err
	}
	if err := p.proxy.listens(ctx, workers); err != nil {
		return err
	}
	if p.name == peerChain {
		p.engine, err = l.startWorker(dir, workers, pin)
	} else {
		p.engine, err = start(dir, "worker", l.self, roleWorker, "-gateway", workers, "-pin", pin,
			"-dir", dir, "-workers", fmt.Sprint(workersCount), "-models", strings.Join(l.models, ","))
	}
	if err != nil {
		return err
	}
	p.own = append(p.own, p.engine)
	p.ops, p.workers, p.pin = ops, workers, pin
	return p.proxy.until(ctx, "being ready", func(ctx context.Context) error { return ready(ctx, ops) })
}

// workerConf is worker.yaml of our worker before the plain mock.
const workerConf = `name: bench
data_dir: %s
collateral: {offline: true}
gateways: [{address: "%s", pin: "%s"}]
engine: {url: "http://%s", kind: openai, slots: %d}
price: {in: %d, cached: %d, out: %d}
`

func (l *lab) startWorker(dir, gateway, pin string) (*process, error) {
	data, conf := filepath.Join(dir, "worker"), filepath.Join(dir, "worker.yaml")
	price := mockPrice()
	text := fmt.Appendf(nil, workerConf, data, gateway, pin, l.addr, workerCapacity/2, int64(price.In), int64(price.Cached), int64(price.Out))
	if err := errors.Join(os.Mkdir(data, 0o700), os.WriteFile(conf, text, 0o600)); err != nil {
		return nil, err
	}
	return start(dir, "worker", filepath.Join(l.bin, devBinary), "worker", "--simulated", filepath.Join(dir, teeDir), "--config", conf)
}

// What the gateway's commands print.
const (
	keyText = `ck-[A-Za-z0-9_-]{20,}`
	pinText = `[0-9a-f]{64}`
)

// ask runs one of the gateway's commands and finds what it prints. The output is in no error: it may be a key.
func ask(ctx context.Context, binary, pattern string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	var stderr strings.Builder
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %.300s", gatewayBinary, args[0], err, stderr.String())
	}
	found := regexp.MustCompile(pattern).Find(out)
	if found == nil {
		return "", fmt.Errorf("%s %s printed nothing like %s", gatewayBinary, args[0], pattern)
	}
	return string(found), nil
}

// get asks the ops listener for something.
func get(ctx context.Context, ops, path string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ops+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("%s: status %d", path, resp.StatusCode), resp.Body.Close())
	}
	return resp, nil
}

func ready(ctx context.Context, ops string) error {
	resp, err := get(ctx, ops, "/readyz")
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// settled fails until a gateway has settled so many requests by their receipts. The rest is what it counted otherwise.
func settled(ctx context.Context, ops string, requests int64) error {
	resp, err := get(ctx, ops, "/metrics")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var n int64
	var others []string
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case name == "cocoon_gateway_receipts_settled_total":
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return fmt.Errorf("the gateway's metrics: %w", err)
			}
			n = int64(v)
		case strings.HasPrefix(name, "cocoon_gateway_receipts_refused") || strings.HasPrefix(name, "cocoon_gateway_holds_voided"):
			others = append(others, name+" "+value)
		}
	}
	if n < requests {
		return fmt.Errorf("%d of %d requests are settled; %s", n, requests, strings.Join(others, ", "))
	}
	return nil
}

// profile writes what the ops listener has at a path, a CPU profile or a heap's, to a file.
func profile(ctx context.Context, ops, what, path string) error {
	resp, err := get(ctx, ops, what)
	if err != nil {
		return fmt.Errorf("profiling: %w", err)
	}
	defer resp.Body.Close()
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("profiling: %w", err)
	}
	_, err = io.Copy(f, io.LimitReader(resp.Body, profileMax))
	return errors.Join(err, f.Close())
}
