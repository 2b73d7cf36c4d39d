package device

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/linuxtsm"
	"github.com/google/go-configfs-tsm/report"
	"github.com/google/go-sev-guest/client/linuxabi"

	"cocoon/attest"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

// Where the kernel shows the hardware.
const (
	tsmFolder  = configfsi.TsmPrefix + "/report"
	sevDevice  = "/dev/sev-guest"
	tdxDevice  = "/dev/tdx_guest"
	cpuInfo    = "/proc/cpuinfo"
	providerSE = "sev_guest" // configfs-tsm's names for the two
	providerTD = "tdx_guest"
)

// host is the machine as tests may set it up.
type host struct {
	root string // stands before absolute paths; "" in earnest
	tsm  func() (configfsi.Client, error)
	sev  func(path string, r *linuxabi.SnpUserGuestRequest) error // one ioctl
}

func realHost() host { return host{tsm: linuxtsm.MakeClient, sev: sevIoctl} }

func (h host) path(p string) string { return filepath.Join(h.root, p) }

// cpu is one way to the CPU's evidence.
type cpu struct {
	tee    attest.TEE
	report func(data [64]byte) (answer, error)
}

// findCPU returns the best way there is, or nil, and what it found on the way. The interface of today's kernels is
// first (6.7 and later); the other is of SNP guests before that.
func findCPU(h host, log *slog.Logger) (*cpu, []Finding) {
	viaTSM, tsm := findTSM(h, log)
	viaSEV, sev := findSEV(h, log)
	found := []Finding{tsm, sev, findTDX(h)}
	if viaTSM != nil {
		return viaTSM, found
	}
	return viaSEV, found
}

// findTSM asks configfs-tsm who provides its reports.
func findTSM(h host, log *slog.Logger) (*cpu, Finding) {
	f := Finding{Name: "configfs-tsm"}
	client, err := h.tsm()
	if err != nil {
		f.Text = describe(err, tsmFolder)
		return nil, f
	}
	provider, err := tsmProvider(client)
	if err != nil {
		f.Text = describe(err, tsmFolder)
		return nil, f
	}
	f.Text = fmt.Sprintf("its reports are from %q", clip(provider))
	c := &cpu{}
	switch provider {
	case providerSE:
		c.tee = attest.SNP
	case providerTD:
		c.tee = attest.TDX
	default:
		f.Text += ", which nothing here can use"
		return nil, f
	}
	c.report = func(data [64]byte) (answer, error) { return tsmReport(client, c.tee, provider, data, log) }
	f.OK = true
	return c, f
}

// tsmProvider makes an entry for a report, and asks no more of it than whose it would be.
func tsmProvider(client configfsi.Client) (string, error) {
	entry, err := client.MkdirTemp(tsmFolder, "entry") // the library would hide which error it was
	if err != nil {
		return "", err
	}
	r, err := report.UnsafeWrap(client, entry)
	if err != nil {
		return "", err
	}
	provider, err := r.ReadOption("provider")
	return strings.TrimSuffix(string(provider), "\n"), errors.Join(err, r.Destroy())
}

// tsmReport leaves the privilege level to the kernel, which knows at which it runs. The library makes an entry of its
// own for each report, and refuses the answer if anyone else wrote to it meanwhile.
func tsmReport(c configfsi.Client, tee attest.TEE, provider string, data [64]byte, log *slog.Logger) (answer, error) {
	r, err := report.Get(c, &report.Request{InBlob: data[:], GetAuxBlob: tee == attest.SNP})
	if err != nil {
		return answer{}, fmt.Errorf("configfs-tsm: %w", err)
	}
	if got := strings.TrimSuffix(r.Provider, "\n"); got != provider {
		return answer{}, fmt.Errorf("configfs-tsm: the report is from %q, want %q", clip(got), provider)
	}
	if err := checkSize(tee, r.OutBlob); err != nil {
		return answer{}, fmt.Errorf("configfs-tsm: %w", err)
	}
	return answer{cpu: r.OutBlob, items: hostItems(r.AuxBlob, log)}, nil
}

// checkSize wants what the verifiers take. A TDX quote has zeros after it up to the size of the kernel's buffer on some
// hosts.
func checkSize(tee attest.TEE, b []byte) error {
	switch {
	case tee == attest.SNP && len(b) != snp.ReportSize:
		return fmt.Errorf("a report of %d bytes, want %d", len(b), snp.ReportSize)
	case tee == attest.TDX && (len(b) == 0 || len(b) > tdx.QuoteMax):
		return fmt.Errorf("a quote of %d bytes, want 1 to %d", len(b), tdx.QuoteMax)
	}
	return nil
}

// findSEV opens the SNP device, which takes root or a group's rights.
func findSEV(h host, log *slog.Logger) (*cpu, Finding) {
	f := Finding{Name: sevDevice}
	path := h.path(sevDevice)
	d, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		f.Text = describe(err, sevDevice)
		return nil, f
	}
	d.Close()
	f.OK, f.Text = true, "SEV-SNP"
	return &cpu{tee: attest.SNP, report: func(data [64]byte) (answer, error) { return sevReport(h, path, data, log) }}, f
}

// sevTable is the kernel's limit on the host's certificates (SEV_FW_BLOB_MAX_SIZE).
const sevTable = 16 << 10

// sevReport asks for a report of VMPL 0, the default of this interface, with the host's certificates: ioctl
// SNP_GET_EXT_REPORT of the kernel's sev-guest.h. The library is used for the layout only. Its own client registers
// flags in every program that links it, and makes a buffer of whatever size the host names.
func sevReport(h host, path string, data [64]byte, log *slog.Logger) (answer, error) {
	table := make([]byte, sevTable)
	extended := &linuxabi.SnpExtendedReportReq{
		Data: linuxabi.SnpReportReqABI{ReportData: data}, Certs: table, CertsLength: sevTable,
	}
	response := new(linuxabi.SnpReportRespABI)
	request := &linuxabi.SnpUserGuestRequest{ReqData: extended, RespData: response}
	err := h.sev(path, request)
	switch {
	case err != nil && extended.CertsLength > sevTable:
		return answer{}, fmt.Errorf("%s: the host's certificates take %d bytes, at most %d: %w",
			sevDevice, extended.CertsLength, sevTable, err)
	case err != nil:
		return answer{}, fmt.Errorf("%s: %w (code %#x of firmware or host)", sevDevice, err, request.FwErr)
	}
	return answer{cpu: response.Data[:snp.ReportSize], items: hostItems(table, log)}, nil
}

// sevIoctl opens the device for one request.
func sevIoctl(path string, r *linuxabi.SnpUserGuestRequest) error {
	d, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	abi := r.ABI()
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, d.Fd(), linuxabi.IocSnpGetExtendedReport, uintptr(abi.Pointer()))
	if err := abi.Finish(r); err != nil {
		return err
	}
	if errno != 0 {
		return errno
	}
	return nil
}

// findTDX only looks: this device makes reports that no one outside can verify. Quotes come through configfs-tsm.
func findTDX(h host) Finding {
	f := Finding{Name: tdxDevice}
	if _, err := os.Stat(h.path(tdxDevice)); err != nil {
		f.Text = describe(err, tdxDevice)
		return f
	}
	f.Text = "TDX, but quotes are to be had from configfs-tsm only (kernel 6.7 or later)"
	return f
}

// describe says what is wrong with a place of the kernel's, and what may help.
func describe(err error, path string) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no " + path
	case errors.Is(err, fs.ErrPermission):
		return "no right to use " + path + ": run as root, or have systemd give this user the right"
	case errors.Is(err, syscall.ENXIO):
		return "nobody behind " + path + ": no driver (sev-guest, tdx-guest) is loaded, or this is no confidential guest"
	}
	return clip(err.Error())
}

// clip makes text from outside fit for a message.
func clip(s string) string {
	const most = 300
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r > '~' {
			return '?'
		}
		return r
	}, s)
}
