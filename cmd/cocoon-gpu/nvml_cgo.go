//go:build cgo

package main

import (
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"cocoon/attest/device/helper"
)

// ask loads the driver's library and asks it. A nonce of 32 bytes gets reports, none only the state.
func ask(nonce []byte, ready bool) (*helper.Answer, error) {
	lib := nvml.New()
	if ret := lib.Init(); ret != nvml.SUCCESS {
		return nil, &noNVMLError{fmt.Sprintf(
			"no NVIDIA driver to ask: NVML (libnvidia-ml.so.1) says %q; install the driver that fits the kernel", ret)}
	}
	defer lib.Shutdown()
	return collect(lib, nonce, ready)
}

// driver is a loaded library. Its functions about confidential computing came one by one with newer drivers, and
// calling one that is not there ends the process, so each is looked up first.
type driver struct{ nvml.Interface }

func collect(lib nvml.Interface, nonce []byte, ready bool) (*helper.Answer, error) {
	d := driver{lib}
	count, ret := lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return nil, fmt.Errorf("counting the GPUs: NVML says %q", ret)
	}
	a := &helper.Answer{V: helper.Version, GPUs: []helper.GPU{}}
	if count > helper.GPUsMax {
		return nil, fmt.Errorf("there are %d GPUs, at most %d are supported", count, helper.GPUsMax)
	}
	a.Driver = text(lib.SystemGetDriverVersion())
	a.NVML = text(lib.SystemGetNVMLVersion())
	d.system(a)
	a.Ready = d.ready(ready)
	for i := range count {
		a.GPUs = append(a.GPUs, d.gpu(i, nonce))
	}
	return a, nil
}

// system fills in what holds for all GPUs.
func (d driver) system(a *helper.Answer) {
	state, err := call(d, "nvmlSystemGetConfComputeState", d.SystemGetConfComputeState)
	a.Environment = word(err, state.Environment, helper.Unavailable, helper.Simulation, helper.Production)
	a.Feature = word(err, state.CcFeature, helper.Off, helper.On)
	a.DevTools = word(err, state.DevToolsMode, helper.Off, helper.On)
	settings, err := call(d, "nvmlSystemGetConfComputeSettings", d.SystemGetConfComputeSettings)
	a.MultiGPU = word(err, settings.MultiGpuMode, helper.None, helper.ProtectedPCIe, helper.NVLE)
	caps, err := call(d, "nvmlSystemGetConfComputeCapabilities", d.SystemGetConfComputeCapabilities)
	a.CPU = word(err, caps.CpuCaps, helper.None, "AMD SEV", "Intel TDX", "AMD SEV-SNP", "AMD SEV-SNP with vTOM")
	a.Capable = word(err, caps.GpusCaps, helper.Off, helper.On)
}

// ready says whether the GPUs accept work, after it made them so if set.
func (d driver) ready(set bool) helper.Value {
	if set {
		_, err := call(d, "nvmlSystemSetConfComputeGpusReadyState", func() (struct{}, nvml.Return) {
			return struct{}{}, d.SystemSetConfComputeGpusReadyState(nvml.CC_ACCEPTING_CLIENT_REQUESTS_TRUE)
		})
		if err != nil {
			return helper.Value{Error: err.Error()}
		}
	}
	state, err := call(d, "nvmlSystemGetConfComputeGpusReadyState", d.SystemGetConfComputeGpusReadyState)
	return word(err, state, helper.Off, helper.On)
}

// gpu asks one GPU. All that fails says so in its own place: the caller decides what it can do without.
func (d driver) gpu(i int, nonce []byte) helper.GPU {
	dev, ret := d.DeviceGetHandleByIndex(i)
	if ret != nvml.SUCCESS {
		lost := helper.Value{Error: ret.Error()}
		g := helper.GPU{Name: lost, UUID: lost, Serial: lost}
		if len(nonce) > 0 {
			g.Report.Error, g.Chain.Error = lost.Error, lost.Error
		}
		return g
	}
	g := helper.GPU{Name: text(dev.GetName()), UUID: text(dev.GetUUID()), Serial: text(dev.GetSerial())}
	if len(nonce) == 0 {
		return g
	}
	report, err := call(d, "nvmlDeviceGetConfComputeGpuAttestationReport",
		func() (nvml.ConfComputeGpuAttestationReport, nvml.Return) {
			r := nvml.ConfComputeGpuAttestationReport{Nonce: [32]uint8(nonce)}
			ret := dev.GetConfComputeGpuAttestationReport(&r)
			return r, ret
		})
	g.Report = blob(err, report.AttestationReport[:], report.AttestationReportSize)
	cert, err := call(d, "nvmlDeviceGetConfComputeGpuCertificate", dev.GetConfComputeGpuCertificate)
	g.Chain = blob(err, cert.AttestationCertChain[:], cert.AttestationCertChainSize)
	return g
}

// call asks f, if the library has the function of that name.
func call[T any](d driver, name string, f func() (T, nvml.Return)) (T, error) {
	if err := d.Extensions().LookupSymbol(name); err != nil {
		var none T
		return none, fmt.Errorf("this driver has no %s", name)
	}
	v, ret := f()
	if ret != nvml.SUCCESS {
		return v, ret
	}
	return v, nil
}

func text(s string, ret nvml.Return) helper.Value {
	switch {
	case ret != nvml.SUCCESS:
		return helper.Value{Error: ret.Error()}
	case s == "":
		return helper.Value{Error: "empty"}
	}
	return helper.Value{Is: s}
}

// word turns one of NVML's numbers, which count from 0, into its word.
func word(err error, n uint32, words ...string) helper.Value {
	switch {
	case err != nil:
		return helper.Value{Error: err.Error()}
	case uint64(n) >= uint64(len(words)):
		return helper.Value{Is: fmt.Sprintf("unknown (%d)", n)}
	}
	return helper.Value{Is: words[n]}
}

// blob takes the part of a buffer that NVML says it filled.
func blob(err error, buffer []byte, size uint32) helper.Blob {
	switch {
	case err != nil:
		return helper.Blob{Error: err.Error()}
	case size == 0 || uint64(size) > uint64(len(buffer)):
		return helper.Blob{Error: fmt.Sprintf("NVML says that it has %d bytes, in a buffer of %d", size, len(buffer))}
	}
	return helper.Blob{Data: buffer[:size]}
}
