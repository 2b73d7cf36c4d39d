package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-sev-guest/client/linuxabi"

	"cocoon/attest"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

// someData is what to sign.
func someData() (d [64]byte) {
	copy(d[:], "the data that a report is to be over")
	return d
}

func checkSNP(t *testing.T, w *snpWorld, m *Machine) {
	t.Helper()
	if m.TEE() != attest.SNP {
		t.Errorf("TEE %s", m.TEE())
	}
	cpu, items, err := m.Report(t.Context(), someData())
	if err != nil {
		t.Fatal(err)
	}
	if len(items) != 2 || items[0].Kind != attest.SNPKey || items[1].Kind != attest.SNPChain {
		t.Fatalf("got %d items", len(items))
	}
	options := snp.Options{Roots: []snp.Root{w.auth.Root()}, Now: simNow}
	claims, err := snp.Verify(cpu, items[0].Data, w.auth.Endorsements(), options)
	if err != nil {
		t.Fatal(err)
	}
	if claims.ReportData != someData() {
		t.Error("the report is over other data")
	}
}

func TestSNPByTSM(t *testing.T) {
	w := newSNP(t)
	f := &fakeTSM{provider: providerSE, out: w.report, aux: w.table(t)}
	m, err := open(Config{}, tsmHost(t, f))
	if err != nil {
		t.Fatal(err)
	}
	checkSNP(t, w, m)
	checkSNP(t, w, m)
	if n := len(f.entries.Entries); n != 0 {
		t.Errorf("%d entries are left in configfs", n)
	}
	f.aux = nil
	if _, items, err := m.Report(t.Context(), someData()); err != nil || items != nil {
		t.Errorf("without the host's certificates: %d items, %v", len(items), err)
	}
}

func TestTDXByTSM(t *testing.T) {
	m, err := open(Config{}, tsmHost(t, &fakeTSM{provider: providerTD, out: newTDX(t)}))
	if err != nil {
		t.Fatal(err)
	}
	cpu, items, err := m.Report(t.Context(), someData())
	if err != nil || items != nil || m.TEE() != attest.TDX {
		t.Fatalf("got %d items, %v, TEE %s", len(items), err, m.TEE())
	}
	quote, err := tdx.Parse(cpu)
	if err != nil {
		t.Fatal(err)
	}
	if quote.TD.ReportData != someData() {
		t.Error("the quote is over other data")
	}
}

func TestTSMRefused(t *testing.T) {
	w := newSNP(t)
	sized := func(n int) func([64]byte) ([]byte, error) {
		return func([64]byte) ([]byte, error) { return make([]byte, n), nil }
	}
	good := fakeTSM{provider: providerSE, out: w.report}
	for name, c := range map[string]struct {
		tee    string
		change func(f *fakeTSM) // after Open
		want   string
	}{
		"truncated":      {providerSE, func(f *fakeTSM) { f.out = sized(1183) }, "a report of 1183 bytes, want 1184"},
		"one more":       {providerSE, func(f *fakeTSM) { f.out = sized(1185) }, "a report of 1185 bytes, want 1184"},
		"empty":          {providerSE, func(f *fakeTSM) { f.out = sized(0) }, "a report of 0 bytes, want 1184"},
		"huge":           {providerSE, func(f *fakeTSM) { f.out = sized(1 << 22) }, "a report of 4194304 bytes"},
		"empty quote":    {providerTD, func(f *fakeTSM) { f.out = sized(0) }, "a quote of 0 bytes, want 1 to 16384"},
		"huge quote":     {providerTD, func(f *fakeTSM) { f.out = sized(16<<10 + 1) }, "a quote of 16385 bytes, want 1 to 16384"},
		"other provider": {providerSE, func(f *fakeTSM) { f.provider = "no\x1bbody" }, `the report is from "no?body", want "sev_guest"`},
		"quote for report": {
			providerSE, func(f *fakeTSM) { f.provider, f.fail = providerTD, map[string]error{"auxblob": os.ErrNotExist} }, "auxblob",
		},
		"race":      {providerSE, func(f *fakeTSM) { f.meddle = true }, "generation"},
		"firmware":  {providerSE, func(f *fakeTSM) { f.fail = map[string]error{"outblob": syscall.EIO} }, "input/output error"},
		"no inblob": {providerSE, func(f *fakeTSM) { f.fail = map[string]error{"inblob": syscall.EINVAL} }, "invalid argument"},
		"panic": {
			providerSE, func(f *fakeTSM) { f.out = func([64]byte) ([]byte, error) { panic("at the\ndisco") } }, "panicked: at the?disco",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := good
			f.provider = c.tee
			m, err := open(Config{}, tsmHost(t, &f))
			if err != nil {
				t.Fatal(err)
			}
			c.change(&f)
			cpu, items, err := m.Report(t.Context(), someData())
			wantError(t, err, c.want)
			if cpu != nil || items != nil {
				t.Error("something came with the error")
			}
		})
	}
}

func TestHostsCertificatesAreOptional(t *testing.T) {
	w := newSNP(t)
	for name, aux := range map[string][]byte{
		"garbage":   []byte("garbage"),
		"huge":      make([]byte, tableMax+1),
		"truncated": w.table(t)[:500],
	} {
		t.Run(name, func(t *testing.T) {
			log, text := logged()
			m, err := open(Config{Log: log}, tsmHost(t, &fakeTSM{provider: providerSE, out: w.report, aux: aux}))
			if err != nil {
				t.Fatal(err)
			}
			cpu, items, err := m.Report(t.Context(), someData())
			if err != nil || len(cpu) != snp.ReportSize || items != nil {
				t.Errorf("got %d bytes, %d items, %v", len(cpu), len(items), err)
			}
			if !strings.Contains(text.String(), "certificate") {
				t.Errorf("logged %q", text)
			}
		})
	}
}

// sevDev is /dev/sev-guest.
type sevDev struct {
	w      *snpWorld
	table  []byte
	length uint32 // that the host claims for its table, if not the truth
	err    error
	broken bool
}

func (d *sevDev) ioctl(_ string, r *linuxabi.SnpUserGuestRequest) error {
	e := r.ReqData.(*linuxabi.SnpExtendedReportReq)
	switch {
	case d.broken:
		panic("broken")
	case d.err != nil:
		r.FwErr = 0x16
		return d.err
	case max(int(d.length), len(d.table)) > len(e.Certs):
		e.CertsLength, r.FwErr = max(d.length, uint32(len(d.table))), 1<<32
		return syscall.EIO
	}
	report, err := d.w.report(e.Data.ReportData)
	copy(r.RespData.(*linuxabi.SnpReportRespABI).Data[:], report)
	copy(e.Certs, d.table)
	return err
}

func TestSNPByDevice(t *testing.T) {
	w := newSNP(t)
	d := &sevDev{w: w, table: w.table(t)}
	h := bareHost(t)
	h.put(t, sevDevice, "")
	h.sev = func(path string, r *linuxabi.SnpUserGuestRequest) error { return d.ioctl(path, r) }
	m, err := open(Config{}, h)
	if err != nil {
		t.Fatal(err)
	}
	checkSNP(t, w, m)
	d.table = nil
	if cpu, items, err := m.Report(t.Context(), someData()); err != nil || len(cpu) != snp.ReportSize || items != nil {
		t.Errorf("without certificates: got %d bytes, %d items, %v", len(cpu), len(items), err)
	}
	for want, bad := range map[string]sevDev{
		"certificates take 2147483648 bytes, at most 16384: input/output error": {w: w, length: 1 << 31},
		"input/output error (code 0x16 of firmware or host)":                    {w: w, err: syscall.EIO},
		"panicked: broken": {w: w, broken: true},
	} {
		d = &bad
		cpu, items, err := m.Report(t.Context(), someData())
		wantError(t, err, want)
		if cpu != nil || items != nil {
			t.Errorf("something came with %v", err)
		}
	}
	h.sev = sevIoctl // on a plain file
	m, err = open(Config{}, h)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = m.Report(t.Context(), someData())
	wantError(t, err, "inappropriate ioctl for device")
}

func TestTSMComesFirst(t *testing.T) {
	h := tsmHost(t, &fakeTSM{provider: providerTD, out: newTDX(t)})
	h.put(t, sevDevice, "")
	m, err := open(Config{}, h)
	if err != nil {
		t.Fatal(err)
	}
	if m.TEE() != attest.TDX {
		t.Errorf("TEE %s", m.TEE())
	}
}

// noEntries is a configfs-tsm that lets nobody in.
type noEntries struct {
	configfsi.Client
	err error
}

func (c noEntries) MkdirTemp(dir, _ string) (string, error) {
	return "", &fs.PathError{Op: "mkdir", Path: dir, Err: c.err}
}

func TestNoHardware(t *testing.T) {
	const amd = "processor : 0\nmodel name\t: AMD EPYC 9654\nflags\t\t: fpu hypervisor sev_snpx\n\nflags : sev_snp\n"
	for name, c := range map[string]struct {
		setup func(h *host)
		want  []string
	}{
		"bare": {func(*host) {}, []string{
			"configfs-tsm: no /sys/kernel/config/tsm/report", "/dev/sev-guest: no /dev/sev-guest",
			"/dev/tdx_guest: no /dev/tdx_guest", "CPU: no /proc/cpuinfo",
		}},
		"virtual machine": {
			func(h *host) { h.put(t, cpuInfo, amd) }, []string{"CPU: AMD EPYC 9654: a virtual machine without the flags"},
		},
		"no rights": {
			func(h *host) {
				h.tsm = func() (configfsi.Client, error) { return noEntries{err: syscall.EACCES}, nil }
				h.put(t, sevDevice+"/folder", "") // even root can't open it
			},
			[]string{"no right to use /sys/kernel/config/tsm/report: run as root", "/dev/sev-guest: open", "is a directory"},
		},
		"no driver": {
			func(h *host) { h.tsm = func() (configfsi.Client, error) { return noEntries{err: syscall.ENXIO}, nil } },
			[]string{"nobody behind /sys/kernel/config/tsm/report"},
		},
		"other maker": {
			func(h *host) { h.tsm = (&fakeTSM{provider: "arm_cca_guest"}).client },
			[]string{`its reports are from "arm_cca_guest", which nothing here can use`},
		},
		"unreadable provider": {
			func(h *host) { h.tsm = (&fakeTSM{fail: map[string]error{"provider": syscall.EIO}}).client },
			[]string{"input/output error"},
		},
		"TDX without configfs": {
			func(h *host) { h.put(t, tdxDevice, "") }, []string{"/dev/tdx_guest: TDX, but quotes are to be had from configfs-tsm"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := bareHost(t)
			c.setup(&h)
			m, err := open(Config{}, h)
			if m != nil || !errors.Is(err, ErrNoHardware) {
				t.Fatalf("got %v, %v", m, err)
			}
			for _, want := range c.want {
				wantError(t, err, want)
			}
		})
	}
}

func TestOneRequestAtATime(t *testing.T) {
	w := newSNP(t)
	var inside, most atomic.Int32
	f := &fakeTSM{provider: providerSE, out: func(data [64]byte) ([]byte, error) {
		most.Store(max(most.Load(), inside.Add(1)))
		defer inside.Add(-1)
		return w.report(data)
	}}
	m, err := open(Config{}, tsmHost(t, f))
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error)
	for i := range 8 {
		go func() {
			data := [64]byte{byte(i)}
			cpu, _, err := m.Report(t.Context(), data)
			if err == nil && !bytes.Contains(cpu, data[:]) {
				err = fmt.Errorf("report %d is over other data", i)
			}
			errs <- err
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if most.Load() != 1 {
		t.Errorf("%d requests at once", most.Load())
	}
}

// TestHungHardware: whoever waits for it is told so in time, and nobody asks it again until it answers.
func TestHungHardware(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		release := make(chan struct{})
		cpu := &cpu{tee: attest.SNP, report: func([64]byte) (answer, error) {
			calls.Add(1)
			<-release
			return answer{cpu: []byte("report")}, nil
		}}
		m := &Machine{cpu: cpu, cpuTurn: make(turn, 1), gpuTurn: make(turn, 1)}
		began := time.Now()
		_, _, err := m.Report(t.Context(), someData())
		wantError(t, err, "waiting for the hardware's answer: context deadline exceeded")
		if took := time.Since(began); took != hardwareMax {
			t.Errorf("took %v, want %v", took, hardwareMax)
		}
		_, _, err = m.Report(t.Context(), someData())
		wantError(t, err, "waiting for an earlier request to the hardware: context deadline exceeded")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, _, err = m.Report(ctx, someData())
		wantError(t, err, "context canceled")
		if calls.Load() != 1 {
			t.Errorf("%d calls while it hung, want 1", calls.Load())
		}
		close(release)
		synctest.Wait()
		if got, _, err := m.Report(t.Context(), someData()); err != nil || string(got) != "report" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// TestThisMachine asks the real one, whatever it is.
func TestThisMachine(t *testing.T) {
	for _, f := range Survey(t.Context(), Config{}) {
		t.Logf("%-30s %-5v %s", f.Name, f.OK, f.Text)
		if f.Name == "" || f.Text == "" {
			t.Errorf("an empty finding: %+v", f)
		}
	}
	m, err := Open(Config{})
	if err != nil {
		if !errors.Is(err, ErrNoHardware) {
			t.Error(err)
		}
		t.Skip(err)
	}
	cpu, items, err := m.Report(t.Context(), someData())
	t.Logf("%s: %d bytes, %d items, %v", m.TEE(), len(cpu), len(items), err)
}
