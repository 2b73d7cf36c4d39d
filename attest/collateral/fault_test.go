package collateral_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cocoon/attest"
	"cocoon/attest/collateral"
	simgpu "cocoon/attest/simtee/nvgpu"
	simsnp "cocoon/attest/simtee/snp"
	simtdx "cocoon/attest/simtee/tdx"
)

// answer is what this world would say.
func (w *world) answer(r *http.Request) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	w.serve(rec, r, kindOf(r))
	return rec
}

// send repeats an answer with another body.
func send(rw http.ResponseWriter, rec *httptest.ResponseRecorder, body []byte) {
	maps.Copy(rw.Header(), rec.Header())
	_, _ = rw.Write(body)
}

// Each part of the collateral, failing in each way, is missing, by name, and is there once the fault is gone.
func TestFaults(t *testing.T) {
	type fault struct {
		words string
		do    func(w *world, rw http.ResponseWriter, r *http.Request)
	}
	faults := map[string]fault{
		"down": {"EOF", func(*world, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		"slow": {"deadline exceeded", func(_ *world, _ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // else the server doesn't notice that the client has gone
			<-r.Context().Done()
		}},
		"500":    {"HTTP status 500", func(_ *world, rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(500) }},
		"404":    {"HTTP status 404", func(_ *world, rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(404) }},
		"429":    {"HTTP status 429", func(_ *world, rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(429) }},
		"204":    {"HTTP status 204", func(_ *world, rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(204) }},
		"empty":  {"refused", func(*world, http.ResponseWriter, *http.Request) {}},
		"login":  {"refused", func(_ *world, rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "<html>Log in") }},
		"object": {"refused", func(_ *world, rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "{}") }},
		"redirect": {"HTTP status 302", func(w *world, rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, w.server.URL+"/elsewhere", http.StatusFound)
		}},
		"truncated": {"refused", func(w *world, rw http.ResponseWriter, r *http.Request) {
			rec := w.answer(r)
			send(rw, rec, rec.Body.Bytes()[:rec.Body.Len()/2])
		}},
		"broken off": {"unexpected EOF", func(w *world, rw http.ResponseWriter, r *http.Request) {
			rec := w.answer(r)
			rw.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
			send(rw, rec, rec.Body.Bytes()[:rec.Body.Len()/2])
		}},
		"gigantic": {"an answer of more than", func(_ *world, rw http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := rw.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}},
		"headers": {"headers", func(_ *world, rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("TCB-Info-Issuer-Chain", strings.Repeat("x", 1<<20))
		}},
		"flipped": {"refused", func(w *world, rw http.ResponseWriter, r *http.Request) {
			rec := w.answer(r)
			body := rec.Body.Bytes()
			body[len(body)/2] ^= 1
			send(rw, rec, body)
		}},
	}
	kinds := map[string]string{
		"vcek": "no VCEK of Genoa chip", "certs": "no VCEK of Genoa chip", "crl": "no revocation list for VCEKs of Genoa",
		"tcb": "no TDX collateral of FMSPC", "qe": "no TDX collateral of FMSPC", "pckcrl": "no TDX collateral of FMSPC",
		"rootcrl": "no TDX collateral of FMSPC", "rim": "no RIM NV_GPU_", "ocsp": "no OCSP response about",
	}
	w := newWorld(t)
	snpEvidence, tdxEvidence, gpuEvidence := w.snpOnly(), w.tdxOnly(), w.withGPU()
	gpuEvidence.Endorsements = must[[]attest.Item](t)(newStore(t, w.config()).Items(t.Context(), snpEvidence, simNow))
	for kind, item := range kinds {
		e := snpEvidence
		switch kind {
		case "tcb", "qe", "pckcrl", "rootcrl":
			e = tdxEvidence
		case "rim", "ocsp":
			e = gpuEvidence
		}
		for name, f := range faults {
			t.Run(kind+"/"+name, func(t *testing.T) {
				if f.words != "refused" && kind != "vcek" && (kind != "ocsp" || name != "slow") {
					return // what goes wrong below is the same for all
				}
				if (name == "flipped" && kind == "certs") || (name == "empty" && kind == "certs") {
					return // which byte of the PEM was hit decides what is refused
				}
				w.change(func() {
					w.fault = func(rw http.ResponseWriter, r *http.Request) bool {
						if kindOf(r) == kind {
							f.do(w, rw, r)
						}
						return kindOf(r) == kind
					}
				})
				c := w.config()
				c.Dir = t.TempDir()
				if name == "slow" {
					c.Client = &http.Client{Timeout: 500 * time.Millisecond, Transport: &http.Transport{}}
				}
				s := newStore(t, c)
				_, err := s.Complete(t.Context(), e, simNow)
				wantError(t, err, item, f.words, w.server.Listener.Addr().String())
				var missing *collateral.MissingError
				if !errors.As(err, &missing) || !missing.Since.Equal(simNow) || !missing.Retry.After(simNow) {
					t.Errorf("%#v", missing)
				}
				w.change(func() { w.fault = nil })
				w.complete(s, e, simNow.Add(5*time.Minute))
			})
		}
	}
	if n := w.total("?"); n > 0 {
		t.Errorf("%d redirects were followed", n)
	}
}

// What is signed by the right ones and isn't what was asked for, or not for now, is refused.
func TestWrongAnswers(t *testing.T) {
	w := newWorld(t)
	other := newWorld(t)
	other.amd = must[*simsnp.Authority](t)(newAuthority(w.line)()) // look-alikes of all vendors
	snpEvidence, tdxEvidence := w.withGPU(), w.tdxOnly()
	body := func(b []byte, err error) func(*world, *http.Request) []byte {
		return func(*world, *http.Request) []byte { return must[[]byte](t)(b, err) }
	}
	chip := func(i int, c simsnp.KeyConfig) func(*world, *http.Request) []byte {
		return body(w.chips[i].Certificate(c))
	}
	otherWorld := func(_ *world, r *http.Request) []byte { return other.answer(r).Body.Bytes() }
	rim := func(_ *world, r *http.Request) []byte {
		r.URL.Path = strings.Replace(r.URL.Path, "DRIVER_GH100_999.10.01", "VBIOS_SIM0_0000_000_9600AA0001", 1)
		text := w.answer(r).Body.String()
		return []byte(strings.Replace(text, "VBIOS_SIM0_0000_000_9600AA0001", "DRIVER_GH100_999.10.01", 1))
	}
	noRIM := func(_ *world, r *http.Request) []byte { return fmt.Appendf(nil, `{"id":%q}`, r.URL.Path[12:]) }
	ocsp := func(s simgpu.Status) func(*world, *http.Request) []byte {
		return body(w.gpus.OCSP(w.set[0].Chain()[1], s))
	}
	crl := func(c simsnp.CRLConfig) func(*world, *http.Request) []byte { return body(w.amd.CRL(c)) }
	otherFMSPC := must[*simtdx.Machine](t)(w.intel.Machine(w.cpu.Platform()))
	platform := otherFMSPC.Platform()
	platform.FMSPC = [6]byte{1}
	otherFMSPC = must[*simtdx.Machine](t)(w.intel.Machine(platform))
	for name, c := range map[string]struct {
		kind  string
		body  func(*world, *http.Request) []byte
		e     *attest.Evidence
		words string
	}{
		"other chip":   {"vcek", chip(1, simsnp.KeyConfig{TCB: w.tcb}), snpEvidence, "want VCEK of Genoa chip"},
		"other TCB":    {"vcek", chip(0, simsnp.KeyConfig{}), snpEvidence, "want VCEK of Genoa chip"},
		"VLEK":         {"vcek", func(*world, *http.Request) []byte { return nil }, snpEvidence, "0 bytes"},
		"look-alike":   {"crl", otherWorld, snpEvidence, "one by the ARK"},
		"stale CRL":    {"crl", crl(simsnp.CRLConfig{NextUpdate: simNow.Add(-1)}), snpEvidence, "fresh at"},
		"future CRL":   {"crl", crl(simsnp.CRLConfig{ThisUpdate: simNow.Add(hour)}), snpEvidence, "fresh at"},
		"other RIM":    {"rim", rim, snpEvidence, "got a RIM of GH100 96.00.AA.00.01"},
		"other's RIM":  {"rim", otherWorld, snpEvidence, "rim-chain root"},
		"another's id": {"rim", body([]byte(`{"id":"NV_GPU","rim":"AAAA"}`), nil), snpEvidence, "got the RIM"},
		"no RIM":       {"rim", noRIM, snpEvidence, "got no RIM"},
		"other cert":   {"ocsp", ocsp(simgpu.Status{}), snpEvidence, "one about another certificate"},
		"future OCSP":  {"ocsp", nil, snpEvidence, "current at"},
		"old OCSP":     {"ocsp", nil, snpEvidence, "current at"},
		"long OCSP":    {"ocsp", nil, snpEvidence, "holds too long"},
		"unknown":      {"ocsp", nil, snpEvidence, "status unknown"},
		"FMSPC": {"tcb", func(*world, *http.Request) []byte {
			return servePCS(http.Header{}, must2(otherFMSPC.Collateral(simtdx.Collateral{})), "tcb")
		}, tdxEvidence, "want FMSPC 53494d000000"},
		"TCB signer": {"tcb", otherWorld, tdxEvidence, "a signature that fails"},
		"expired":    {"tcb", nil, tdxEvidence, "from 2026-10-01"},
		"future":     {"tcb", nil, tdxEvidence, "from 2026-11-02"},
	} {
		t.Run(name, func(t *testing.T) {
			defer w.change(func() { w.fault, w.status, w.tcbNow = nil, simgpu.Status{}, simtdx.Collateral{} })
			w.change(func() {
				switch name {
				case "future OCSP":
					w.status.ThisUpdate = simNow.Add(hour)
				case "old OCSP":
					w.status = simgpu.Status{ThisUpdate: simNow.Add(-2 * hour), NextUpdate: simNow}
				case "long OCSP":
					w.status = simgpu.Status{ThisUpdate: simNow.Add(-hour), NextUpdate: simNow.Add(20 * day)}
				case "unknown":
					w.status.Unknown = true
				case "expired":
					w.tcbNow = simtdx.Collateral{Issued: simNow.Add(-31 * day), NextUpdate: simNow.Add(-1)}
				case "future":
					w.tcbNow.Issued = simNow.Add(day)
				}
				w.fault = func(rw http.ResponseWriter, r *http.Request) bool {
					if kindOf(r) != c.kind || c.body == nil {
						return false
					}
					send(rw, w.answer(r), c.body(w, r))
					return true
				}
			})
			s := newStore(t, w.config())
			w.fails(s, c.e, simNow, "answered with what is refused", c.words)
			for _, st := range s.Status(simNow) {
				if st.Err != nil && !st.Expires.IsZero() {
					t.Errorf("it is kept: %+v", st)
				}
			}
		})
	}
}

func must2[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
