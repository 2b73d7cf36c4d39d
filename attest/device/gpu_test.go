package device

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/attest"
	"cocoon/attest/device/helper"
)

// gpuAnswer is a confidential machine's, with two GPUs.
func gpuAnswer(nonce bool) *helper.Answer {
	is := func(s string) helper.Value { return helper.Value{Is: s} }
	a := &helper.Answer{
		V: helper.Version, Driver: is("580.95.05"), NVML: is("13.580.95.05"), Environment: is(helper.Production),
		Feature: is(helper.On), DevTools: is(helper.Off), MultiGPU: is(helper.None), CPU: is("AMD SEV-SNP"),
		Capable: is(helper.On), Ready: is(helper.On),
	}
	for _, n := range []string{"1", "2"} {
		g := helper.GPU{Name: is("NVIDIA H100"), UUID: is("GPU-" + n), Serial: is(n)}
		if nonce {
			g.Report.Data, g.Chain.Data = []byte("report "+n), []byte("chain "+n+"\x00")
		}
		a.GPUs = append(a.GPUs, g)
	}
	return a
}

// script is a helper that is a shell script.
func script(t testing.TB, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), helperName)
	text := "#!/bin/sh\nexport PATH=/usr/bin:/bin\n" + strings.Join(lines, "\n") + "\n"
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil { //nolint:gosec // it is to be run
		t.Fatal(err)
	}
	return path
}

// says is a helper that answers a, and keeps what it was asked.
func says(t testing.TB, a *helper.Answer) (path, request string) {
	t.Helper()
	text, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, request := filepath.Join(dir, "answer"), filepath.Join(dir, "request")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return script(t, "cat > "+request, "env > "+request+".env", "cat "+file), request
}

// gpuMachine has NVIDIA's driver.
func gpuMachine(t testing.TB, helperPath string) *Machine {
	h := bareHost(t)
	h.put(t, driverFolder+"/version", "NVRM version: NVIDIA UNIX  580.95.05\nGCC version: 12\n")
	return &Machine{cpu: &cpu{}, gpus: &gpus{h, helperPath}, cpuTurn: make(turn, 1), gpuTurn: make(turn, 1)}
}

func TestDevices(t *testing.T) {
	nonce := attest.NewNonce()
	t.Setenv("A_SECRET_OF_THE_WORKER", "yes")
	path, request := says(t, gpuAnswer(true))
	devices, items, err := gpuMachine(t, path).Devices(t.Context(), nonce)
	if err != nil || items != nil || len(devices) != 2 {
		t.Fatalf("got %d devices, %d items, %v", len(devices), len(items), err)
	}
	if string(devices[1].Report) != "report 2" || string(devices[1].Chain) != "chain 2" {
		t.Errorf("got %q", devices[1])
	}
	asked, err := os.ReadFile(request)
	if want := `{"v":1,"nonce":"` + nonce.String() + `"}`; err != nil || string(asked) != want {
		t.Errorf("asked %q, want %q (%v)", asked, want, err)
	}
	if env, err := os.ReadFile(request + ".env"); err != nil || strings.Contains(string(env), "SECRET") {
		t.Errorf("the helper's environment: %q, %v", env, err)
	}
}

func TestDevicesRefused(t *testing.T) {
	off := helper.Value{Is: helper.Off}
	for name, c := range map[string]struct {
		change func(a *helper.Answer)
		want   string // "": none
	}{
		"protected PCIe": {
			func(a *helper.Answer) { a.Feature, a.MultiGPU = off, helper.Value{Is: helper.ProtectedPCIe} }, "",
		},
		"NVLE":           {func(a *helper.Answer) { a.MultiGPU.Is = helper.NVLE }, ""},
		"old driver":     {func(a *helper.Answer) { a.MultiGPU = helper.Value{Error: "Function Not Found"} }, ""},
		"off":            {func(a *helper.Answer) { a.Feature = off }, "confidential computing: got off, want on"},
		"unknown":        {func(a *helper.Answer) { a.Feature = helper.Value{Error: "Not Supported"} }, "got not known: Not Supported"},
		"DevTools":       {func(a *helper.Answer) { a.DevTools.Is = helper.On }, "DevTools mode: got on, want off"},
		"DevTools lost":  {func(a *helper.Answer) { a.DevTools = helper.Value{Error: "Unknown Error"} }, "DevTools mode: got not known"},
		"simulation":     {func(a *helper.Answer) { a.Environment.Is = helper.Simulation }, "environment: got simulation, want production"},
		"later DevTools": {func(a *helper.Answer) { a.DevTools.Is = "unknown (2)" }, "got unknown (2), want off"},
		"protected PCIe with DevTools": {
			func(a *helper.Answer) { a.MultiGPU.Is, a.DevTools.Is = helper.ProtectedPCIe, helper.On }, "DevTools mode: got on",
		},
		"one can't": {
			func(a *helper.Answer) { a.GPUs[1].Report = helper.Blob{Error: "Not Supported"} },
			"GPU 1 (NVIDIA H100, GPU-2) gives no attestation report: Not Supported",
		},
		"one has no chain": {
			func(a *helper.Answer) { a.GPUs[0].Chain = helper.Blob{Error: "Timeout"} },
			"GPU 0 (NVIDIA H100, GPU-1) gives no certificates: Timeout",
		},
		"form": {func(a *helper.Answer) { a.GPUs[0].Chain = helper.Blob{} }, "GPU 0: chain: want bytes or an error"},
	} {
		t.Run(name, func(t *testing.T) {
			a := gpuAnswer(true)
			c.change(a)
			path, _ := says(t, a)
			devices, _, err := gpuMachine(t, path).Devices(t.Context(), attest.NewNonce())
			if c.want != "" {
				wantError(t, err, c.want)
			} else if err != nil || len(devices) != 2 {
				t.Errorf("got %d devices, %v", len(devices), err)
			}
			if c.want != "" && devices != nil {
				t.Error("devices came with the error")
			}
		})
	}
}

func TestNoGPUs(t *testing.T) {
	m := gpuMachine(t, "/nowhere/"+helperName)
	m.gpus.host = bareHost(t)
	if devices, _, err := m.Devices(t.Context(), attest.NewNonce()); err != nil || devices != nil {
		t.Errorf("without a driver: %d devices, %v", len(devices), err)
	}
	if err := m.SetReady(t.Context()); err != nil {
		t.Error(err)
	}
	a := gpuAnswer(true)
	a.GPUs, a.Feature = nil, helper.Value{Error: "No GPUs"}
	path, _ := says(t, a)
	if devices, _, err := gpuMachine(t, path).Devices(t.Context(), attest.NewNonce()); err != nil || devices != nil {
		t.Errorf("a driver without GPUs: %d devices, %v", len(devices), err)
	}
}

func TestBadHelper(t *testing.T) {
	for name, c := range map[string]struct {
		path string
		want string
	}{
		"missing":    {"/nowhere/" + helperName, "there is an NVIDIA driver, but no cocoon-gpu to ask it with: install it"},
		"a folder":   {t.TempDir(), "but no cocoon-gpu"},
		"silent":     {script(t, "exit 0"), "cocoon-gpu: answer: EOF"},
		"garbage":    {script(t, "echo NVML broke"), "cocoon-gpu: answer: invalid character"},
		"no driver":  {script(t, "echo 'no NVML here' >&2", "exit 3"), "cocoon-gpu: exit status 3: no NVML here"},
		"fails":      {script(t, "printf 'a\\033[2Jb' >&2", "exit 1"), "cocoon-gpu: exit status 1: a?[2Jb"},
		"dies":       {script(t, "kill -9 $$"), "cocoon-gpu: signal: killed"},
		"says much":  {script(t, "head -c 2000000 /dev/zero"), "said more than 1048576 bytes"},
		"complains":  {script(t, "head -c 2000000 /dev/zero >&2", "exit 1"), "exit status 1: ???"},
		"not a file": {script(t) + "x", "but no cocoon-gpu"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := gpuMachine(t, c.path).Devices(t.Context(), attest.NewNonce())
			wantError(t, err, c.want)
			if err != nil && len(err.Error()) > 600 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
}

func TestSlowHelper(t *testing.T) {
	for name, path := range map[string]string{
		"itself":    script(t, "while :; do :; done"),
		"its child": script(t, "sleep 1000 & exit 0"),
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			m := gpuMachine(t, path)
			began := time.Now()
			if _, _, err := m.Devices(ctx, attest.NewNonce()); err == nil {
				t.Error("no error")
			}
			m.gpuTurn <- struct{}{} // its turn ends
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestSetReady(t *testing.T) {
	path, request := says(t, gpuAnswer(false))
	if err := gpuMachine(t, path).SetReady(t.Context()); err != nil {
		t.Error(err)
	}
	asked, err := os.ReadFile(request)
	if want := `{"v":1,"nonce":"","ready":true}`; err != nil || string(asked) != want {
		t.Errorf("asked %q, want %q (%v)", asked, want, err)
	}
	for _, v := range []helper.Value{{Is: helper.Off}, {Error: "Insufficient Permissions"}} {
		a := gpuAnswer(false)
		a.Ready = v
		path, _ := says(t, a)
		wantError(t, gpuMachine(t, path).SetReady(t.Context()), "letting the GPUs accept work: "+v.String())
	}
}

func TestHelperIsFound(t *testing.T) {
	path, _ := says(t, gpuAnswer(true))
	t.Setenv("PATH", filepath.Dir(path))
	for _, name := range []string{"", helperName} {
		if devices, _, err := gpuMachine(t, name).Devices(t.Context(), attest.NewNonce()); err != nil || len(devices) != 2 {
			t.Errorf("%q: got %d devices, %v", name, len(devices), err)
		}
	}
	t.Chdir(filepath.Dir(path))
	if devices, _, err := gpuMachine(t, "./"+helperName).Devices(t.Context(), attest.NewNonce()); err != nil || len(devices) != 2 {
		t.Errorf("by a relative path: got %d devices, %v", len(devices), err)
	}
}

func TestSurvey(t *testing.T) {
	find := func(found []Finding, name string) Finding {
		for _, f := range found {
			if f.Name == name {
				return f
			}
		}
		return Finding{Text: "not among the findings"}
	}
	w := newSNP(t)
	h := tsmHost(t, &fakeTSM{provider: providerSE, out: w.report})
	h.put(t, cpuInfo, "model name\t: AMD EPYC 9654\nflags\t\t: fpu hypervisor sev_snp\n")
	h.put(t, driverFolder+"/version", "NVRM version: NVIDIA UNIX  580.95.05\n")
	a := gpuAnswer(false)
	a.Ready.Is, a.GPUs[1].Name = helper.Off, helper.Value{Error: "GPU is lost"}
	path, _ := says(t, a)
	found := survey(t.Context(), Config{GPUHelper: path}, h)
	for _, want := range []Finding{
		{"CPU", true, "AMD EPYC 9654: an SEV-SNP guest"},
		{"configfs-tsm", true, `its reports are from "sev_guest"`},
		{sevDevice, false, "no /dev/sev-guest"},
		{tdxDevice, false, "no /dev/tdx_guest"},
		{"NVIDIA driver", true, "NVRM version: NVIDIA UNIX 580.95.05"},
		{helperName, true, path},
		{"GPUs' confidential computing", true, "on"},
		{"GPUs' DevTools mode", true, "off"},
		{"GPUs accept work", false, "off"},
		{"GPU 0", true, "NVIDIA H100, GPU-1, serial number 1"},
		{"GPU 1", false, "not known: GPU is lost, GPU-2, serial number 2"},
	} {
		if got := find(found, want.Name); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	found = survey(t.Context(), Config{GPUHelper: "/nowhere"}, bareHost(t))
	if got := find(found, helperName); got.OK || !strings.Contains(got.Text, "not found") {
		t.Errorf("got %+v", got)
	}
	found = survey(t.Context(), Config{GPUHelper: script(t, "exit 1")}, h)
	if got := find(found, "GPUs"); got.OK || !strings.Contains(got.Text, "exit status 1") {
		t.Errorf("got %+v", got)
	}
}
