package main

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cocoon/attest"
	"cocoon/attest/simtee"
	"cocoon/internal/daemon"
	"cocoon/worker"
)

// Names below the data folder.
const (
	vendorName = "simulated-vendor"
	policyName = "policy.yaml"
)

// hardware is the simulated hardware of this machine, and a policy that admits nothing else.
type hardware struct {
	vendor *simtee.Vendor
	policy string // its file
}

// openHardware makes the simulated vendor of a data folder, or finds the one that is there, and writes the policy anew:
// it holds for a month.
func openHardware(dir string) (*hardware, error) {
	now := time.Now()
	vendor, err := simtee.Open(filepath.Join(dir, vendorName), now)
	if err != nil {
		return nil, fmt.Errorf("simulating hardware: %w", err)
	}
	h := &hardware{vendor: vendor, policy: filepath.Join(dir, policyName)}
	return h, writeFile(h.policy, string(vendor.PolicyYAML(now)))
}

func (h *hardware) machine(role attest.Role) (*simtee.Machine, error) {
	m, err := h.vendor.NewMachine(simtee.Config{Role: role, Seed: []byte(role)})
	if err != nil {
		return nil, fmt.Errorf("simulating a machine: %w", err)
	}
	return m, nil
}

func rootsOf(v *simtee.Vendor) attest.Roots {
	return attest.Roots{SNP: v.SNPRoots(), TDX: []*x509.Certificate{v.TDXRoot()}, GPU: v.GPURoots()}
}

// simulated are the flags of the commands that need no network of their own.
type simulated struct{ dir, config string }

func parseSimulated(name string, args []string) (simulated, error) {
	var s simulated
	fs := flag.NewFlagSet("cocoon-dev "+name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&s.dir, "simulated", "", "")
	fs.StringVar(&s.config, "config", "worker.yaml", "")
	switch err := fs.Parse(args); {
	case err != nil:
		return s, err
	case fs.NArg() > 0:
		return s, fmt.Errorf("no argument %q", fs.Arg(0))
	case s.dir == "":
		return s, errors.New("--simulated DIR is missing: the folder of the simulated vendor")
	}
	return s, nil
}

// runPolicy prints a policy that admits the machines of a simulated vendor.
func runPolicy(args []string) error {
	s, err := parseSimulated("policy", args)
	if err != nil {
		return err
	}
	vendor, err := simtee.Open(s.dir, time.Now())
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(vendor.PolicyYAML(time.Now()))
	return err
}

// runWorker is cocoon-worker in a simulated machine.
func runWorker(ctx context.Context, args []string) error {
	s, err := parseSimulated("worker", args)
	if err != nil {
		return err
	}
	c, err := worker.LoadConfig(s.config)
	if err != nil {
		return err
	}
	vendor, err := simtee.Open(s.dir, time.Now())
	if err != nil {
		return err
	}
	machine, err := vendor.NewMachine(simtee.Config{Seed: []byte(c.DataDir)}) // the same hardware at each start
	if err != nil {
		return err
	}
	c.Simulated = rootsOf(vendor)
	log := daemon.Logger(os.Stderr, c.LogLevel)
	log.Warn("SIMULATED, NOT CONFIDENTIAL: this worker's evidence proves nothing")
	if c, err = worker.Resolve(ctx, c, log); err != nil {
		return err
	}
	w, err := worker.New(c, machine, log, prometheus.NewRegistry())
	if err != nil {
		return err
	}
	return w.Run(ctx)
}
