//go:build cgo

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"

	"cocoon/attest/device/helper"
)

// card is a GPU that answers.
func card(n string) *mock.Device {
	return &mock.Device{
		GetNameFunc:   func() (string, nvml.Return) { return "NVIDIA H100", nvml.SUCCESS },
		GetUUIDFunc:   func() (string, nvml.Return) { return "GPU-" + n, nvml.SUCCESS },
		GetSerialFunc: func() (string, nvml.Return) { return "", nvml.SUCCESS },
		GetConfComputeGpuAttestationReportFunc: func(r *nvml.ConfComputeGpuAttestationReport) nvml.Return {
			r.AttestationReportSize = uint32(copy(r.AttestationReport[:], "report over "+string(r.Nonce[:])))
			return nvml.SUCCESS
		},
		GetConfComputeGpuCertificateFunc: func() (nvml.ConfComputeGpuCertificate, nvml.Return) {
			var c nvml.ConfComputeGpuCertificate
			c.AttestationCertChainSize = uint32(copy(c.AttestationCertChain[:], "chain "+n))
			return c, nvml.SUCCESS
		},
	}
}

// library is a driver with these GPUs, and without these functions.
func library(gpus []*mock.Device, lacks ...string) *mock.Interface {
	ready := uint32(0)
	return &mock.Interface{
		DeviceGetCountFunc: func() (int, nvml.Return) { return len(gpus), nvml.SUCCESS },
		DeviceGetHandleByIndexFunc: func(i int) (nvml.Device, nvml.Return) {
			if gpus[i] == nil {
				return nil, nvml.ERROR_GPU_IS_LOST
			}
			return gpus[i], nvml.SUCCESS
		},
		SystemGetDriverVersionFunc: func() (string, nvml.Return) { return "580.95.05", nvml.SUCCESS },
		SystemGetNVMLVersionFunc:   func() (string, nvml.Return) { return "13.580.95.05", nvml.SUCCESS },
		SystemGetConfComputeStateFunc: func() (nvml.ConfComputeSystemState, nvml.Return) {
			return nvml.ConfComputeSystemState{
				Environment: nvml.CC_SYSTEM_ENVIRONMENT_PROD, CcFeature: nvml.CC_SYSTEM_FEATURE_ENABLED,
				DevToolsMode: nvml.CC_SYSTEM_DEVTOOLS_MODE_OFF,
			}, nvml.SUCCESS
		},
		SystemGetConfComputeSettingsFunc: func() (nvml.SystemConfComputeSettings, nvml.Return) {
			return nvml.SystemConfComputeSettings{MultiGpuMode: nvml.CC_SYSTEM_MULTIGPU_NVLE}, nvml.SUCCESS
		},
		SystemGetConfComputeCapabilitiesFunc: func() (nvml.ConfComputeSystemCaps, nvml.Return) {
			return nvml.ConfComputeSystemCaps{
				CpuCaps: nvml.CC_SYSTEM_CPU_CAPS_AMD_SEV_SNP, GpusCaps: nvml.CC_SYSTEM_GPUS_CC_CAPABLE,
			}, nvml.SUCCESS
		},
		SystemGetConfComputeGpusReadyStateFunc: func() (uint32, nvml.Return) { return ready, nvml.SUCCESS },
		SystemSetConfComputeGpusReadyStateFunc: func(v uint32) nvml.Return { ready = v; return nvml.SUCCESS },
		ExtensionsFunc: func() nvml.ExtendedInterface {
			return &mock.ExtendedInterface{LookupSymbolFunc: func(name string) error {
				if slices.Contains(lacks, name) {
					return errors.New("undefined symbol")
				}
				return nil
			}}
		},
	}
}

// mustCollect wants an answer that the worker takes.
func mustCollect(t *testing.T, lib nvml.Interface, nonce []byte, ready bool) *helper.Answer {
	t.Helper()
	a, err := collect(lib, nonce, ready)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := helper.Parse(text, len(nonce) > 0); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return a
}

// TestStateOnly asks as ParseRequest does: with a nonce that is empty, and not nil.
func TestStateOnly(t *testing.T) {
	a := mustCollect(t, library([]*mock.Device{card("0")}), []byte{}, false)
	if g := a.GPUs[0]; g.Name.Is == "" || len(g.Report.Data) > 0 || g.Report.Error != "" {
		t.Errorf("GPU %+v, want its name and no report", g)
	}
}

func TestCollect(t *testing.T) {
	nonce := bytes.Repeat([]byte("n"), 32)
	a := mustCollect(t, library([]*mock.Device{card("0"), nil, card("2")}), nonce, false)
	for name, c := range map[string][2]string{
		"driver":      {a.Driver.String(), "580.95.05"},
		"NVML":        {a.NVML.String(), "13.580.95.05"},
		"environment": {a.Environment.String(), helper.Production},
		"feature":     {a.Feature.String(), helper.On},
		"DevTools":    {a.DevTools.String(), helper.Off},
		"multi-GPU":   {a.MultiGPU.String(), helper.NVLE},
		"CPU":         {a.CPU.String(), "AMD SEV-SNP"},
		"capable":     {a.Capable.String(), helper.On},
		"ready":       {a.Ready.String(), helper.Off},
		"name":        {a.GPUs[0].Name.String(), "NVIDIA H100"},
		"UUID":        {a.GPUs[2].UUID.String(), "GPU-2"},
		"serial":      {a.GPUs[0].Serial.String(), "not known: empty"},
		"report":      {string(a.GPUs[2].Report.Data), "report over " + string(nonce)},
		"chain":       {string(a.GPUs[2].Chain.Data), "chain 2"},
		"lost":        {a.GPUs[1].Report.Error, nvml.ERROR_GPU_IS_LOST.Error()},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: got %q, want %q", name, c[0], c[1])
		}
	}
	if a := mustCollect(t, library([]*mock.Device{card("0"), nil}), nil, true); a.Ready.Is != helper.On {
		t.Errorf("ready: got %s", a.Ready)
	}
	mustCollect(t, library(nil), nonce, false)
}

func TestCollectFromOldDriver(t *testing.T) {
	lib := library([]*mock.Device{card("0")}, "nvmlSystemGetConfComputeSettings", "nvmlSystemSetConfComputeGpusReadyState",
		"nvmlDeviceGetConfComputeGpuAttestationReport")
	lib.SystemGetConfComputeSettingsFunc = nil // calling it panics, as the real one would end the process
	a := mustCollect(t, lib, make([]byte, 32), true)
	for name, c := range map[string][2]string{
		"multi-GPU": {a.MultiGPU.Error, "this driver has no nvmlSystemGetConfComputeSettings"},
		"ready":     {a.Ready.Error, "this driver has no nvmlSystemSetConfComputeGpusReadyState"},
		"report":    {a.GPUs[0].Report.Error, "this driver has no nvmlDeviceGetConfComputeGpuAttestationReport"},
		"chain":     {string(a.GPUs[0].Chain.Data), "chain 0"},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: got %q, want %q", name, c[0], c[1])
		}
	}
}

func TestCollectFromBadDriver(t *testing.T) {
	gpu := card("0")
	gpu.GetNameFunc = func() (string, nvml.Return) { return "", nvml.ERROR_UNKNOWN }
	gpu.GetConfComputeGpuAttestationReportFunc = func(r *nvml.ConfComputeGpuAttestationReport) nvml.Return {
		r.AttestationReportSize = 1 << 31
		return nvml.SUCCESS
	}
	gpu.GetConfComputeGpuCertificateFunc = func() (nvml.ConfComputeGpuCertificate, nvml.Return) {
		return nvml.ConfComputeGpuCertificate{}, nvml.ERROR_NOT_SUPPORTED
	}
	lib := library([]*mock.Device{gpu})
	lib.SystemGetConfComputeStateFunc = func() (nvml.ConfComputeSystemState, nvml.Return) {
		return nvml.ConfComputeSystemState{Environment: 9, CcFeature: 1 << 31, DevToolsMode: 7}, nvml.SUCCESS
	}
	lib.SystemGetConfComputeCapabilitiesFunc = func() (nvml.ConfComputeSystemCaps, nvml.Return) {
		return nvml.ConfComputeSystemCaps{}, nvml.ERROR_NOT_SUPPORTED
	}
	a := mustCollect(t, lib, make([]byte, 32), false)
	for name, c := range map[string][2]string{
		"environment": {a.Environment.Is, "unknown (9)"},
		"feature":     {a.Feature.Is, "unknown (2147483648)"},
		"DevTools":    {a.DevTools.Is, "unknown (7)"},
		"CPU":         {a.CPU.Error, nvml.ERROR_NOT_SUPPORTED.Error()},
		"name":        {a.GPUs[0].Name.Error, nvml.ERROR_UNKNOWN.Error()},
		"report":      {a.GPUs[0].Report.Error, "NVML says that it has 2147483648 bytes, in a buffer of 8192"},
		"chain":       {a.GPUs[0].Chain.Error, nvml.ERROR_NOT_SUPPORTED.Error()},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: got %q, want %q", name, c[0], c[1])
		}
	}
	lib.DeviceGetCountFunc = func() (int, nvml.Return) { return 33, nvml.SUCCESS }
	if _, err := collect(lib, nil, false); err == nil || !strings.Contains(err.Error(), "33 GPUs, at most 32") {
		t.Error(err)
	}
	lib.DeviceGetCountFunc = func() (int, nvml.Return) { return 0, nvml.ERROR_UNKNOWN }
	if _, err := collect(lib, nil, false); err == nil || !strings.Contains(err.Error(), fmt.Sprint(nvml.ERROR_UNKNOWN)) {
		t.Error(err)
	}
}
