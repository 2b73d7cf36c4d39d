package simtee

import (
	"context"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"cocoon/attest"
	"cocoon/attest/nvgpu"
	simnvgpu "cocoon/attest/simtee/nvgpu"
	simsnp "cocoon/attest/simtee/snp"
	simtdx "cocoon/attest/simtee/tdx"
	"cocoon/attest/snp"
)

// Config says what a machine is like. The zero value is a healthy worker with one GPU.
type Config struct {
	TEE      attest.TEE  // default SNP
	Line     snp.Line    // of an SNP machine: Genoa (default) or Turin
	Role     attest.Role // which simulated release it runs; default worker
	GPUs     int         // of a worker; 0 means 1, a negative number none
	Arch     nvgpu.Arch  // of the GPUs; default Hopper
	Switches int         // with protected PCIe; default none
	// Seed names the hardware: machines with the same one have the same chips, so that a worker keeps its own over
	// restarts. Default: random ones.
	Seed  []byte
	Now   func() time.Time // what endorsements go by; default time.Now
	Hooks Hooks
}

// Hooks break a machine, for tests. Each gets what a healthy one would have, to change it; nil changes nothing. Those
// called for evidence may be called by several goroutines at once.
type Hooks struct {
	Report     func(*simsnp.ReportConfig)              // for each report; the endorsement key follows its signer and TCB
	CRL        func(*simsnp.CRLConfig)                 // when the list is made or renewed
	Quote      func(*simtdx.Quote)                     // for each quote
	Collateral func(*simtdx.Collateral)                // when it is made or renewed
	GPU        func(i int, c *simnvgpu.DeviceConfig)   // GPUs first, then switches; when the device is made
	Device     func(i int, d *simnvgpu.Device)         // likewise, when all are made and linked
	Items      func(items []attest.Item) []attest.Item // what goes along with evidence, each time
}

// renewal is after how long endorsements are made anew: half the day that OCSP responses live, which is the least.
const renewal = 12 * time.Hour

// Machine is a simulated confidential machine. It implements attest.Attester.
type Machine struct {
	c       Config
	cpu     cpu
	nvidia  *simnvgpu.PKI
	devices []*simnvgpu.Device
	shelf   shelf // of the devices' endorsements
}

var _ attest.Attester = (*Machine)(nil)

// cpu is a simulated processor.
type cpu interface {
	evidence(data [64]byte, now time.Time) ([]byte, []attest.Item, error)
}

// NewMachine makes a machine with keys and certificates of its own, as the vendor's factory would.
func (v *Vendor) NewMachine(c Config) (*Machine, error) {
	if err := c.setDefaults(); err != nil {
		return nil, fmt.Errorf("making a simulated machine: %w", err)
	}
	m := &Machine{c: c, nvidia: v.nvidia}
	var err error
	if c.TEE == attest.SNP {
		m.cpu, err = v.newAMD(&m.c)
	} else {
		m.cpu, err = v.newIntel(&m.c)
	}
	if err == nil {
		err = m.plug()
	}
	if err != nil {
		return nil, fmt.Errorf("making a simulated machine: %w", err)
	}
	return m, nil
}

func (c *Config) setDefaults() error {
	if c.TEE == "" {
		c.TEE = attest.SNP
	}
	if c.Line == "" {
		c.Line = snp.Genoa
	}
	if c.Role == "" {
		c.Role = attest.Worker
	}
	if c.GPUs == 0 && c.Role == attest.Worker {
		c.GPUs = 1
	}
	c.GPUs = max(c.GPUs, 0)
	if c.Arch == "" {
		c.Arch = nvgpu.Hopper
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	switch {
	case c.TEE != attest.SNP && c.TEE != attest.TDX:
		return fmt.Errorf("no TEE %q", c.TEE)
	case !slices.Contains(lines(), c.Line):
		return fmt.Errorf("no product line %q", c.Line)
	case c.Role != attest.Worker && c.Role != attest.Gateway:
		return fmt.Errorf("no role %q", c.Role)
	case c.Arch != nvgpu.Hopper && c.Arch != nvgpu.Blackwell:
		return fmt.Errorf("no GPUs of architecture %q", c.Arch)
	case c.Role == attest.Gateway && c.GPUs+c.Switches > 0:
		return errors.New("a gateway has no GPUs")
	case c.Switches < 0 || c.GPUs+c.Switches > nvgpu.DevicesMax:
		return fmt.Errorf("%d GPUs and %d switches, want at most %d", c.GPUs, c.Switches, nvgpu.DevicesMax)
	}
	return nil
}

// chip is what the seed makes of a chip's name, at most 64 bytes; nil without a seed.
func (c *Config) chip(name string, size int) []byte {
	if c.Seed == nil {
		return nil
	}
	sum := sha512.Sum512(slices.Concat([]byte("SIMULATED chip "+name+"\x00"), c.Seed))
	return sum[:size]
}

// plug makes GPUs and switches.
func (m *Machine) plug() error {
	for i := range m.c.GPUs + m.c.Switches {
		c := simnvgpu.DeviceConfig{Arch: m.c.Arch}
		if i >= m.c.GPUs {
			c.Arch = nvgpu.LS10
		}
		if id := m.c.chip(fmt.Sprint("device ", i), 8); id != nil {
			c.Serial = binary.BigEndian.Uint64(id)
		}
		if m.c.Hooks.GPU != nil {
			m.c.Hooks.GPU(i, &c)
		}
		d, err := m.nvidia.NewDevice(c)
		if err != nil {
			return err
		}
		m.devices = append(m.devices, d)
	}
	if m.c.Switches > 0 {
		if err := simnvgpu.Link(m.devices[:m.c.GPUs], m.devices[m.c.GPUs:]); err != nil {
			return err
		}
	}
	if m.c.Hooks.Device != nil {
		for i, d := range m.devices {
			m.c.Hooks.Device(i, d)
		}
	}
	return nil
}

// TEE is the kind of the CPU.
func (m *Machine) TEE() attest.TEE { return m.c.TEE }

// Report returns the CPU's evidence, and all that a verifier needs for it besides the root.
func (m *Machine) Report(ctx context.Context, data [64]byte) ([]byte, []attest.Item, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	evidence, items, err := m.cpu.evidence(data, m.c.Now())
	if err != nil {
		return nil, nil, fmt.Errorf("simulating a CPU: %w", err)
	}
	return evidence, m.c.Hooks.items(items), nil
}

// Devices returns the evidence of GPUs and switches, in this order, and all that a verifier needs for it besides the
// roots.
func (m *Machine) Devices(ctx context.Context, nonce attest.Digest) ([]attest.Device, []attest.Item, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if len(m.devices) == 0 {
		return nil, nil, nil
	}
	var list []attest.Device
	for _, d := range m.devices {
		e, err := d.Evidence(nonce)
		if err != nil {
			return nil, nil, fmt.Errorf("simulating a GPU: %w", err)
		}
		list = append(list, attest.Device{Report: e.Report, Chain: e.Chain})
	}
	items, err := m.shelf.get(m.c.Now(), m.endorseDevices)
	if err != nil {
		return nil, nil, fmt.Errorf("simulating NVIDIA's services: %w", err)
	}
	return list, m.c.Hooks.items(items), nil
}

// endorseDevices makes the reference manifests, and OCSP responses that live a day.
func (m *Machine) endorseDevices(now time.Time) ([]attest.Item, error) {
	c, err := m.nvidia.Collateral(now.Add(-backdate), m.devices...)
	var items []attest.Item
	for _, rim := range c.RIMs {
		items = append(items, attest.Item{Kind: attest.GPURIM, Data: rim})
	}
	for _, response := range c.OCSP {
		items = append(items, attest.Item{Kind: attest.GPUOCSP, Data: response})
	}
	return items, err
}

func (h *Hooks) items(items []attest.Item) []attest.Item {
	if h.Items != nil {
		return h.Items(items)
	}
	return items
}

// shelf keeps endorsements until they have to be renewed.
type shelf struct {
	mu    sync.Mutex
	made  time.Time
	items []attest.Item
}

// get returns a list of the caller's own with the items on the shelf, or with fresh ones.
func (s *shelf) get(now time.Time, fresh func(now time.Time) ([]attest.Item, error)) ([]attest.Item, error) {
	if now.IsZero() {
		return nil, errors.New("no time")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if age := now.Sub(s.made); age < 0 || age >= renewal || s.items == nil {
		items, err := fresh(now)
		if err != nil {
			return nil, err
		}
		s.made, s.items = now, items
	}
	return slices.Clone(s.items), nil
}
