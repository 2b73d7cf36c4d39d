// Package device gets evidence from the confidential hardware of the machine that it runs on: the CPU's from the
// kernel, the GPUs' through the helper program cocoon-gpu (package helper says why).
//
// What comes back is hostile until someone has verified it: the kernel passes on what the host gave it, and the helper
// what the driver did. Here it is bounded and checked for form.
package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"cocoon/attest"
)

// hardwareMax is how long the CPU, or all GPUs, may take over one answer. A TDX quote takes a second, an SNP report two
// where requests are throttled, a GPU's report a tenth of one.
const hardwareMax = 30 * time.Second

// Config is where to look. The zero value is right for an installed machine.
type Config struct {
	// GPUHelper is the path of cocoon-gpu; by default it is looked for beside the running program, then in PATH.
	GPUHelper string
	// Log hears of certificates from the host that can't be read. By default nobody does.
	Log *slog.Logger
}

// ErrNoHardware says that this is no confidential virtual machine, as far as can be seen from inside. The text of an
// error that wraps it has all that was looked for.
var ErrNoHardware = errors.New("no confidential CPU")

// Machine is this machine's hardware. It is an attest.Attester, for any number of goroutines: the CPU answers one
// request at a time, and so do the GPUs.
type Machine struct {
	cpu     *cpu
	gpus    *gpus
	cpuTurn turn
	gpuTurn turn
}

var _ attest.Attester = (*Machine)(nil)

// Open looks for the confidential hardware of this machine. GPUs may come later: Devices looks for them.
func Open(c Config) (*Machine, error) { return open(c, realHost()) }

func open(c Config, h host) (*Machine, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	cpu, found := findCPU(h, c.Log)
	if cpu == nil {
		var words []string
		for _, f := range append(found, cpuFlags(h)) {
			words = append(words, f.Name+": "+f.Text)
		}
		return nil, fmt.Errorf("%w: %s", ErrNoHardware, strings.Join(words, "; "))
	}
	return &Machine{cpu: cpu, gpus: &gpus{h, c.GPUHelper}, cpuTurn: make(turn, 1), gpuTurn: make(turn, 1)}, nil
}

// TEE is the kind of the CPU's evidence.
func (m *Machine) TEE() attest.TEE { return m.cpu.tee }

// Report returns the CPU's report or quote over data. With an SNP report come the certificates that the host has for
// it, if any: on some clouds nobody else has them.
func (m *Machine) Report(ctx context.Context, data [64]byte) ([]byte, []attest.Item, error) {
	r, err := m.cpuTurn.take(ctx, func(context.Context) (answer, error) { return m.cpu.report(data) })
	return r.cpu, r.items, err
}

// Devices returns the evidence of all GPUs over a nonce, without endorsements: those are for package collateral. A
// machine without NVIDIA's driver has no GPUs. A GPU that is not confidential, or gives no evidence, is an error that
// names it. NVSwitches are not among the devices: NVML has no evidence of them, only NVIDIA's NSCQ does.
func (m *Machine) Devices(ctx context.Context, nonce attest.Digest) ([]attest.Device, []attest.Item, error) {
	r, err := m.gpuTurn.take(ctx, func(ctx context.Context) (answer, error) {
		devices, err := m.gpus.evidence(ctx, nonce)
		return answer{devices: devices}, err
	})
	return r.devices, nil, err
}

// SetReady lets applications use the GPUs: until then, confidential ones refuse work. It takes root, and is for whoever
// has appraised the GPUs' evidence. Without GPUs it does nothing.
func (m *Machine) SetReady(ctx context.Context) error {
	_, err := m.gpuTurn.take(ctx, func(ctx context.Context) (answer, error) {
		return answer{}, m.gpus.setReady(ctx)
	})
	return err
}

// answer is what hardware says: cpu with items, or devices.
type answer struct {
	cpu     []byte
	items   []attest.Item
	devices []attest.Device
}

// turn is held by the one request that is at the hardware.
type turn chan struct{}

// take waits for its turn and calls f, for no longer than ctx and hardwareMax allow. A call into the kernel can't be
// broken off: one that hangs keeps its turn, so that hung calls don't pile up. A panic of f is an error.
func (t turn) take(ctx context.Context, f func(context.Context) (answer, error)) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, hardwareMax)
	defer cancel()
	select {
	case t <- struct{}{}:
	case <-ctx.Done():
		return answer{}, fmt.Errorf("waiting for an earlier request to the hardware: %w", ctx.Err())
	}
	type result struct {
		answer
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-t }()
		var r result
		defer func() {
			if p := recover(); p != nil {
				r = result{err: fmt.Errorf("the library for this hardware panicked: %s", clip(fmt.Sprint(p)))}
			}
			done <- r
		}()
		r.answer, r.err = f(ctx)
	}()
	select {
	case r := <-done:
		return r.answer, r.err
	case <-ctx.Done():
		return answer{}, fmt.Errorf("waiting for the hardware's answer: %w", ctx.Err())
	}
}
