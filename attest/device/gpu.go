package device

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"cocoon/attest"
	"cocoon/attest/device/helper"
)

const (
	driverFolder = "/proc/driver/nvidia"
	helperName   = "cocoon-gpu"
	stderrMax    = 1 << 10 // bytes of what the helper says when it fails: it says one line
	pipesMax     = time.Second
)

// errNoGPUs: there is no driver, and so there are no GPUs to speak of.
var errNoGPUs = errors.New("no NVIDIA driver")

// gpus asks the helper.
type gpus struct {
	host   host
	helper string // from the configuration; "" is to be looked for
}

// evidence asks all GPUs, which may be none.
func (g *gpus) evidence(ctx context.Context, nonce attest.Digest) ([]attest.Device, error) {
	a, err := g.ask(ctx, helper.Request{V: helper.Version, Nonce: nonce.String()})
	if errors.Is(err, errNoGPUs) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(a.GPUs) == 0 {
		return nil, nil
	}
	if err := confidential(a); err != nil {
		return nil, err
	}
	var devices []attest.Device
	for i, gpu := range a.GPUs {
		if gpu.Report.Error != "" {
			return nil, fmt.Errorf("GPU %d (%s, %s) gives no attestation report: %s", i, gpu.Name, gpu.UUID, gpu.Report.Error)
		}
		if gpu.Chain.Error != "" {
			return nil, fmt.Errorf("GPU %d (%s, %s) gives no certificates: %s", i, gpu.Name, gpu.UUID, gpu.Chain.Error)
		}
		chain := bytes.TrimRight(gpu.Chain.Data, "\x00") // NVML counts the end of its string
		devices = append(devices, attest.Device{Report: gpu.Report.Data, Chain: chain})
	}
	return devices, nil
}

func (g *gpus) setReady(ctx context.Context) error {
	a, err := g.ask(ctx, helper.Request{V: helper.Version, Ready: true})
	if errors.Is(err, errNoGPUs) {
		return nil
	}
	if err != nil {
		return err
	}
	if a.Ready.Is != helper.On {
		return fmt.Errorf("letting the GPUs accept work: %s", a.Ready)
	}
	return nil
}

// confidential refuses what the driver itself calls not confidential. That it says so proves nothing; the GPUs' reports
// do, and a mistake in the machine's setup has a better name here.
func confidential(a *helper.Answer) error {
	switch {
	case a.DevTools.Is != helper.Off:
		return fmt.Errorf("the GPUs' DevTools mode: got %s, want %s: in it nothing is confidential", a.DevTools, helper.Off)
	case a.MultiGPU.Is == helper.ProtectedPCIe || a.MultiGPU.Is == helper.NVLE:
		return nil
	case a.Feature.Is != helper.On:
		return fmt.Errorf("the GPUs' confidential computing: got %s, want %s: it is for the host to switch on",
			a.Feature, helper.On)
	case a.Environment.Is != helper.Production:
		return fmt.Errorf("the GPUs' environment: got %s, want %s", a.Environment, helper.Production)
	}
	return nil
}

// find returns the helper's absolute path.
func (g *gpus) find() (string, error) {
	name := g.helper
	if name == "" {
		if own, err := os.Executable(); err == nil {
			if path, err := exec.LookPath(filepath.Join(filepath.Dir(own), helperName)); err == nil {
				return path, nil
			}
		}
		name = helperName
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

// driver tells whether the kernel has NVIDIA's driver.
func (g *gpus) driver() (bool, error) {
	_, err := os.Stat(g.host.path(driverFolder))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// ask runs the helper: one request in, one answer out. Without a driver there is nobody to ask.
func (g *gpus) ask(ctx context.Context, r helper.Request) (*helper.Answer, error) {
	driver, err := g.driver()
	if err != nil {
		return nil, fmt.Errorf("looking for NVIDIA's driver: %w", err)
	}
	if !driver {
		return nil, errNoGPUs
	}
	path, err := g.find()
	if err != nil {
		return nil, fmt.Errorf("there is an NVIDIA driver, but no %s to ask it with: install it beside this program "+
			"or name it in the configuration: %w", helperName, err)
	}
	request, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	text, err := run(ctx, path, request)
	if err != nil {
		return nil, err
	}
	a, err := helper.Parse(text, r.Nonce != "")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", helperName, err)
	}
	return a, nil
}

// run runs the helper in an empty environment. All that it says is bounded.
func run(ctx context.Context, path string, request []byte) ([]byte, error) {
	stdout, stderr := bounded{max: helper.AnswerMax}, bounded{max: stderrMax}
	cmd := exec.CommandContext(ctx, path)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(request), &stdout, &stderr
	cmd.Env, cmd.Dir, cmd.WaitDelay = []string{}, "/", pipesMax
	err := cmd.Run()
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("%s did not answer in time: %w", helperName, ctx.Err())
	case stdout.over:
		return nil, fmt.Errorf("%s said more than %d bytes", helperName, helper.AnswerMax)
	case err != nil:
		return nil, fmt.Errorf("%s: %w: %s", helperName, err, clip(string(bytes.TrimSpace(stderr.text))))
	}
	return stdout.text, nil
}

// bounded keeps up to max bytes and lets the rest go, so that the writer isn't held up.
type bounded struct {
	text []byte
	max  int
	over bool
}

// Write never fails.
func (b *bounded) Write(p []byte) (int, error) {
	keep := min(len(p), b.max-len(b.text))
	b.text = append(b.text, p[:keep]...)
	b.over = b.over || keep < len(p)
	return len(p), nil
}
