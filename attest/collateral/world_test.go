package collateral_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/attest"
	"cocoon/attest/collateral"
	"cocoon/attest/nvgpu"
	simgpu "cocoon/attest/simtee/nvgpu"
	simsnp "cocoon/attest/simtee/snp"
	simtdx "cocoon/attest/simtee/tdx"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

// simNow is when the simulated world was made.
var simNow = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

const hour, day = time.Hour, 24 * time.Hour

// authorities are made once: their RSA keys take time.
var authorities = map[snp.Line]func() (*simsnp.Authority, error){
	snp.Genoa: sync.OnceValues(newAuthority(snp.Genoa)),
	snp.Turin: sync.OnceValues(newAuthority(snp.Turin)),
}

func newAuthority(line snp.Line) func() (*simsnp.Authority, error) {
	return func() (*simsnp.Authority, error) {
		return simsnp.NewAuthority(simsnp.Config{Line: line, Now: simNow, RSABits: 2048})
	}
}

func must[T any](t testing.TB) func(v T, err error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// world simulates all vendors, and plays their services.
type world struct {
	t     testing.TB
	line  snp.Line
	tcb   snp.TCB
	amd   *simsnp.Authority
	chips []*simsnp.Chip
	intel *simtdx.PKI
	cpu   *simtdx.Machine
	gpus  *simgpu.PKI
	set   []*simgpu.Device

	mu     sync.Mutex
	now    time.Time                                         // by the vendors' clocks
	asked  map[string]int                                    // by what
	fault  func(w http.ResponseWriter, r *http.Request) bool // true: it has answered
	tcbNow simtdx.Collateral
	crl    simsnp.CRLConfig // its times are set from now, if zero
	status simgpu.Status    // likewise
	server *httptest.Server

	answers map[string]*httptest.ResponseRecorder
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOf(t, snp.Genoa, nvgpu.Hopper)
}

func newWorldOf(t testing.TB, line snp.Line, devices ...nvgpu.Arch) *world {
	t.Helper()
	w := &world{t: t, line: line, now: simNow, asked: map[string]int{}, answers: map[string]*httptest.ResponseRecorder{}}
	w.tcb = snp.TCB{Boot: 4, TEE: 1, SNP: 24, Microcode: 219}
	if line == snp.Turin {
		w.tcb.FMC = 2
	}
	w.amd = must[*simsnp.Authority](t)(authorities[line]())
	for range 2 {
		w.chips = append(w.chips, must[*simsnp.Chip](t)(w.amd.NewChip()))
	}
	w.intel = must[*simtdx.PKI](t)(simtdx.NewPKI(simNow))
	w.cpu = must[*simtdx.Machine](t)(w.intel.Machine(tdx.Platform{}))
	w.gpus = must[*simgpu.PKI](t)(simgpu.New(simgpu.Config{Now: simNow}))
	for _, arch := range devices {
		w.set = append(w.set, must[*simgpu.Device](t)(w.gpus.NewDevice(simgpu.DeviceConfig{
			Arch: arch, VBIOS: map[nvgpu.Arch]string{nvgpu.Blackwell: "97.00.AA.00.01"}[arch],
		})))
	}
	w.server = httptest.NewServer(w)
	t.Cleanup(w.server.Close)
	return w
}

// roots are what to believe in this world.
func (w *world) roots() collateral.Roots {
	return collateral.Roots{
		SNP: []snp.Root{w.amd.Root()}, TDX: []*x509.Certificate{w.intel.Root()}, GPU: w.gpus.Roots(),
	}
}

// config asks this world's services.
func (w *world) config() collateral.Config {
	u := w.server.URL
	return collateral.Config{
		KDS: u + "/kds", PCS: u + "/pcs/", IntelCRL: u + "/crl", RIM: u + "/rim", OCSP: u + "/ocsp", Simulated: w.roots(),
		Log: slog.New(slog.NewTextHandler(w.t.Output(), nil)),
	}
}

// off asks nobody.
func (w *world) off() collateral.Config {
	return collateral.Config{
		KDS: collateral.Off, PCS: collateral.Off, IntelCRL: collateral.Off, RIM: collateral.Off, OCSP: collateral.Off,
		Simulated: w.roots(),
	}
}

func newStore(t testing.TB, c collateral.Config) *collateral.Store {
	t.Helper()
	return must[*collateral.Store](t)(collateral.New(c))
}

// change changes something while the services are in use.
func (w *world) change(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// total is how many questions there were, of those kinds or of all.
func (w *world) total(kinds ...string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for kind, k := range w.asked {
		if len(kinds) == 0 || slices.Contains(kinds, kind) {
			n += k
		}
	}
	return n
}

// ServeHTTP plays the services.
func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	kind := kindOf(r)
	w.asked[kind]++
	fault := w.fault
	w.mu.Unlock()
	if fault != nil && fault(rw, r) {
		return
	}
	w.serve(rw, r, kind)
}

func kindOf(r *http.Request) string {
	for _, x := range []struct{ in, kind string }{
		{"cert_chain", "certs"},
		{"/kds/vcek/v1/Genoa/crl", "crl"},
		{"/kds/vlek/v1/Genoa/crl", "crl"},
		{"/kds/vcek/v1/Turin/crl", "crl"},
		{"/kds/vcek", "vcek"},
		{"/tcb", "tcb"},
		{"/qe/", "qe"},
		{"/pckcrl", "pckcrl"},
		{"/IntelSGXRootCA.der", "rootcrl"},
		{"/rootcacrl", "rootcrl"},
		{"/rim/v1/rim/", "rim"},
		{"/ocsp/", "ocsp"},
	} {
		if strings.Contains(r.URL.Path, x.in) {
			return x.kind
		}
	}
	return "?"
}

// serve answers, from memory what it was asked before: signing takes time.
func (w *world) serve(rw http.ResponseWriter, r *http.Request, kind string) {
	asked, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	w.mu.Lock()
	key := fmt.Sprintf("%s %x %s %v %v %v", r.URL, asked, w.now, w.tcbNow, w.crl, w.status)
	rec := w.answers[key]
	w.mu.Unlock()
	if rec == nil {
		rec = httptest.NewRecorder()
		r.Body = io.NopCloser(bytes.NewReader(asked))
		w.make(rec, r, kind)
		w.mu.Lock()
		w.answers[key] = rec
		w.mu.Unlock()
	}
	maps.Copy(rw.Header(), rec.Header())
	rw.WriteHeader(rec.Code)
	_, _ = rw.Write(rec.Body.Bytes())
}

func (w *world) make(rw http.ResponseWriter, r *http.Request, kind string) {
	var body []byte
	var err error
	switch kind {
	case "vcek":
		body, err = w.vcek(r)
	case "certs":
		c := w.amd.Endorsements()[w.line]
		issuer := c.ASK
		if strings.Contains(r.URL.Path, "/vlek/") {
			issuer = c.ASVK
		}
		for _, der := range [][]byte{issuer, c.ARK} {
			body = append(body, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
	case "crl":
		body, err = w.amdCRL()
	case "tcb", "qe", "pckcrl", "rootcrl":
		body, err = w.pcs(rw.Header(), r, kind)
	case "rim":
		body, err = w.rim(r)
	case "ocsp":
		body, err = w.ocsp(r)
	default:
		err = fmt.Errorf("nothing is at %s", r.URL)
	}
	if err != nil {
		http.Error(rw, err.Error(), http.StatusNotFound)
		return
	}
	_, _ = rw.Write(body)
}

func (w *world) vcek(r *http.Request) ([]byte, error) {
	for _, chip := range w.chips {
		want := fmt.Sprintf("/kds/vcek/v1/%s/%x?blSPL=04&teeSPL=01&snpSPL=24&ucodeSPL=219", w.line, chip.HWID)
		if w.line == snp.Turin {
			want = strings.Replace(want, "?", "?fmcSPL=02&", 1)
		}
		if r.URL.RequestURI() == want {
			return chip.Certificate(simsnp.KeyConfig{Kind: snp.VCEK, TCB: w.tcb})
		}
	}
	return nil, fmt.Errorf("no such chip: %s", r.URL)
}

func (w *world) amdCRL() ([]byte, error) {
	w.mu.Lock()
	c := w.crl
	if c.ThisUpdate.IsZero() {
		c.ThisUpdate = w.now.Add(-time.Minute)
	}
	if c.NextUpdate.IsZero() {
		c.NextUpdate = c.ThisUpdate.AddDate(1, 0, 0)
	}
	w.mu.Unlock()
	return w.amd.CRL(c)
}

// tdxCollateral is what Intel says now.
func (w *world) tdxCollateral() (*tdx.Collateral, error) {
	w.mu.Lock()
	c := w.tcbNow
	if c.Issued.IsZero() {
		c.Issued = w.now.Add(-hour)
	}
	if c.NextUpdate.IsZero() {
		c.NextUpdate = c.Issued.Add(30 * day)
	}
	w.mu.Unlock()
	return w.cpu.Collateral(c)
}

func (w *world) pcs(h http.Header, r *http.Request, kind string) ([]byte, error) {
	c, err := w.tdxCollateral()
	if err != nil {
		return nil, err
	}
	wantPath := map[string]string{
		"tcb":     fmt.Sprintf("/pcs/tdx/certification/v4/tcb?fmspc=%x", w.cpu.Platform().FMSPC),
		"qe":      "/pcs/tdx/certification/v4/qe/identity",
		"pckcrl":  "/pcs/sgx/certification/v4/pckcrl?encoding=der&ca=platform",
		"rootcrl": "/crl/IntelSGXRootCA.der",
	}
	if r.URL.RequestURI() == "/pcs/sgx/certification/v4/rootcacrl" {
		return []byte(hex.EncodeToString(c.RootCRL)), nil
	}
	if r.URL.RequestURI() != wantPath[kind] {
		return nil, fmt.Errorf("nothing is at %s", r.URL)
	}
	return servePCS(h, c, kind), nil
}

// servePCS answers as the PCS does.
func servePCS(h http.Header, c *tdx.Collateral, kind string) []byte {
	switch kind {
	case "tcb":
		h.Set("TCB-Info-Issuer-Chain", url.PathEscape(string(c.TCBInfoChain)))
		return fmt.Appendf(nil, `{"tcbInfo":%s,"signature":"%x"}`, c.TCBInfo, c.TCBInfoSignature)
	case "qe":
		h.Set("SGX-Enclave-Identity-Issuer-Chain", url.PathEscape(string(c.QEIdentityChain)))
		return fmt.Appendf(nil, `{"enclaveIdentity":%s,"signature":"%x"}`, c.QEIdentity, c.QEIdentitySignature)
	case "pckcrl":
		h.Set("SGX-PCK-CRL-Issuer-Chain", url.PathEscape(string(c.PCKCRLChain)))
		return c.PCKCRL
	}
	return c.RootCRL
}

func (w *world) rim(r *http.Request) ([]byte, error) {
	id := strings.TrimPrefix(r.URL.Path, "/rim/v1/rim/")
	for _, d := range w.set {
		e, err := d.Evidence([32]byte{1})
		if err != nil {
			return nil, err
		}
		refs, err := nvgpu.RIMRefs(e.Report, e.Chain)
		if err != nil {
			return nil, err
		}
		for _, ref := range refs {
			if ref.ID != id {
				continue
			}
			for _, c := range d.RIMConfigs() {
				if c.Version == ref.Version {
					doc, err := w.gpus.RIM(c)
					if err != nil {
						return nil, err
					}
					return json.Marshal(map[string]any{"id": id, "rim": doc, "rim_format": "TEXT", "request_id": "x"})
				}
			}
		}
	}
	return nil, fmt.Errorf("no RIM %q", id)
}

// certificates are those that there are OCSP responses about.
func (w *world) certificates() []*x509.Certificate {
	all := w.gpus.RIMChain()
	for _, d := range w.set {
		all = append(all, d.Chain()...)
	}
	return all
}

func (w *world) ocsp(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var request struct {
		TBS struct {
			Questions []struct {
				Cert struct {
					Hash      pkix.AlgorithmIdentifier
					Name, Key []byte
					Serial    *big.Int
				}
			}
		}
	}
	if rest, err := asn1.Unmarshal(body, &request); err != nil || len(rest) > 0 || len(request.TBS.Questions) != 1 ||
		r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/ocsp-request" {
		return nil, fmt.Errorf("no OCSP request: %w", err)
	}
	for _, c := range w.certificates() {
		if c.SerialNumber.Cmp(request.TBS.Questions[0].Cert.Serial) == 0 {
			w.mu.Lock()
			s := w.status
			if s.ThisUpdate.IsZero() {
				s.ThisUpdate = w.now.Add(-time.Minute)
			}
			w.mu.Unlock()
			return w.gpus.OCSP(c, s)
		}
	}
	return nil, fmt.Errorf("no certificate %x", request.TBS.Questions[0].Cert.Serial)
}

// attester is the machine of this world.
type attester struct {
	w      *world
	tee    attest.TEE
	report simsnp.ReportConfig
	gpus   bool
}

func (a *attester) TEE() attest.TEE { return a.tee }

func (a *attester) Report(_ context.Context, data [64]byte) ([]byte, []attest.Item, error) {
	if a.tee == attest.TDX {
		q, err := a.w.cpu.Quote(simtdx.Quote{TD: tdx.TD{ReportData: data}})
		return q, nil, err
	}
	c := a.report
	c.ReportData, c.TCB = data, a.w.tcb
	r, err := a.w.chips[0].Report(c)
	return r, nil, err
}

func (a *attester) Devices(_ context.Context, nonce attest.Digest) ([]attest.Device, []attest.Item, error) {
	var all []attest.Device
	if !a.gpus {
		return nil, nil, nil
	}
	for _, d := range a.w.set {
		e, err := d.Evidence(nonce)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, attest.Device{Report: e.Report, Chain: e.Chain})
	}
	return all, nil, nil
}

// evidence makes some.
func (w *world) evidence(a attester) *attest.Evidence {
	w.t.Helper()
	a.w = w
	e, err := attest.Collect(w.t.Context(), &a, []byte("keyset"), attest.NewNonce(), attest.Digest{})
	return must[*attest.Evidence](w.t)(e, err)
}

// snpOnly, tdxOnly and all are the usual machines.
func (w *world) snpOnly() *attest.Evidence { return w.evidence(attester{tee: attest.SNP}) }
func (w *world) tdxOnly() *attest.Evidence { return w.evidence(attester{tee: attest.TDX}) }
func (w *world) withGPU() *attest.Evidence { return w.evidence(attester{tee: attest.SNP, gpus: true}) }

// verify has the vendors' verifiers judge the evidence with the collateral.
func (w *world) verify(e *attest.Evidence, c attest.Collateral, now time.Time) error {
	if e.TEE == attest.TDX {
		if len(c.TDX) != 1 {
			return fmt.Errorf("%d sets of TDX collateral", len(c.TDX))
		}
		_, err := tdx.Verify(e.CPU, c.TDX[0], tdx.Options{Roots: w.roots().TDX, Now: now, MinTCBEvaluation: 1})
		return err
	}
	if len(c.SNPKeys) != 1 || len(c.SNP[w.line]) != 1 {
		return fmt.Errorf("%d keys, %d chains", len(c.SNPKeys), len(c.SNP[w.line]))
	}
	_, err := snp.Verify(e.CPU, c.SNPKeys[0], snp.Endorsements{w.line: c.SNP[w.line][0]},
		snp.Options{Roots: w.roots().SNP, Now: now, RequireCRL: true})
	if err != nil {
		return err
	}
	var list []attest.Device
	if err := json.Unmarshal(e.Devices, &list); err != nil || len(list) == 0 {
		return err
	}
	var set []nvgpu.Evidence
	for _, d := range list {
		set = append(set, nvgpu.Evidence{Report: d.Report, Chain: d.Chain})
	}
	_, err = nvgpu.VerifySet(set, c.GPU, nvgpu.Options{
		Roots: w.roots().GPU, Now: now, Nonce: attest.GPUNonce(e.Nonce, e.Keyset),
	})
	return err
}

// complete gathers, and demands success.
func (w *world) complete(s *collateral.Store, e *attest.Evidence, now time.Time) attest.Collateral {
	w.t.Helper()
	c, err := s.Complete(w.t.Context(), e, now)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.verify(e, c, now); err != nil {
		w.t.Fatal(err)
	}
	return c
}

// fails gathers, and demands an error that has all of the words.
func (w *world) fails(s *collateral.Store, e *attest.Evidence, now time.Time, words ...string) {
	w.t.Helper()
	_, err := s.Complete(w.t.Context(), e, now)
	wantError(w.t, err, words...)
}

func wantError(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", words)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error %q doesn't say %q", err, word)
		}
	}
}

// log collects what a store logs.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *log) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }
