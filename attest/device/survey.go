package device

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"cocoon/attest/device/helper"
)

// Finding is one thing that was looked for.
type Finding struct {
	Name string `json:"name"`
	// OK: it is there, and as confidential computing needs it.
	OK   bool   `json:"ok"`
	Text string `json:"text"` // what was found instead, or what it is
}

// Survey looks for all that Open and Devices use, for people. It changes nothing.
func Survey(ctx context.Context, c Config) []Finding {
	ctx, cancel := context.WithTimeout(ctx, hardwareMax)
	defer cancel()
	return survey(ctx, c, realHost())
}

func survey(ctx context.Context, c Config, h host) []Finding {
	_, found := findCPU(h, slog.New(slog.DiscardHandler))
	return slices.Concat([]Finding{cpuFlags(h)}, found, surveyGPUs(ctx, &gpus{h, c.GPUHelper}))
}

// infoMax bounds what is read of a file in /proc: the first CPU's part of cpuinfo has 3 KiB.
const infoMax = 64 << 10

// cpuFlags reads what the kernel says of the first CPU.
func cpuFlags(h host) Finding {
	f := Finding{Name: "CPU"}
	info, err := head(h.path(cpuInfo))
	if err != nil {
		f.Text = describe(err, cpuInfo)
		return f
	}
	model, flags := "unknown model", []string(nil)
	for s := bufio.NewScanner(strings.NewReader(info)); s.Scan() && s.Text() != ""; {
		name, value, _ := strings.Cut(s.Text(), ":")
		switch strings.TrimSpace(name) {
		case "model name":
			model = clip(strings.TrimSpace(value))
		case "flags":
			flags = strings.Fields(value)
		}
	}
	guest := slices.Contains(flags, "hypervisor")
	switch {
	case guest && slices.Contains(flags, "sev_snp"):
		f.OK, f.Text = true, model+": an SEV-SNP guest"
	case guest && slices.Contains(flags, "tdx_guest"):
		f.OK, f.Text = true, model+": a TDX guest"
	case guest:
		f.Text = model + ": a virtual machine without the flags sev_snp or tdx_guest, which is not confidential"
	default:
		f.Text = model + ": no virtual machine; only those can attest"
	}
	return f
}

func surveyGPUs(ctx context.Context, g *gpus) []Finding {
	driver := Finding{Name: "NVIDIA driver"}
	there, err := g.driver()
	switch {
	case err != nil:
		driver.Text = describe(err, driverFolder)
	case !there:
		driver.Text = "no " + driverFolder
	default:
		driver.OK, driver.Text = true, "version unknown"
		if version, err := head(g.host.path(driverFolder + "/version")); err == nil {
			first, _, _ := strings.Cut(version, "\n")
			driver.Text = clip(strings.Join(strings.Fields(first), " "))
		}
	}
	program := Finding{Name: helperName}
	path, err := g.find()
	if err != nil {
		program.Text = "not found: " + clip(err.Error())
		return []Finding{driver, program}
	}
	program.OK, program.Text = true, clip(path)
	found := []Finding{driver, program}
	if !there {
		return found
	}
	a, err := g.ask(ctx, helper.Request{V: helper.Version})
	if err != nil {
		return append(found, Finding{Name: "GPUs", Text: clip(err.Error())})
	}
	return append(found, describeGPUs(a)...)
}

func describeGPUs(a *helper.Answer) []Finding {
	if len(a.GPUs) == 0 {
		return []Finding{{Name: "GPUs", Text: "none"}}
	}
	state := Finding{Name: "GPUs' confidential computing", OK: true, Text: "on"}
	if err := confidential(a); err != nil {
		state.OK, state.Text = false, err.Error()
	}
	found := []Finding{
		state,
		{Name: "GPUs' environment", OK: a.Environment.Is == helper.Production, Text: a.Environment.String()},
		{Name: "GPUs' DevTools mode", OK: a.DevTools.Is == helper.Off, Text: a.DevTools.String()},
		{Name: "GPUs' multi-GPU mode", OK: a.MultiGPU.Error == "", Text: a.MultiGPU.String()},
		{Name: "GPUs accept work", OK: a.Ready.Is == helper.On, Text: a.Ready.String()},
	}
	for i, g := range a.GPUs {
		text := fmt.Sprintf("%s, %s, serial number %s", g.Name, g.UUID, g.Serial)
		found = append(found, Finding{Name: fmt.Sprintf("GPU %d", i), OK: g.Name.Error == "", Text: text})
	}
	return found
}

// head reads the beginning of a small file.
func head(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, infoMax))
	return string(text), err
}
