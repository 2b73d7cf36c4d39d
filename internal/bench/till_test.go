//go:build linux

package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/attest"
	"cocoon/attest/simtee"
	"cocoon/internal/bench/mock"
	"cocoon/internal/receipt"
	"cocoon/internal/tunnel"
)

// newWorker is the till of a worker, with the keyset that it shows.
func newWorker(t *testing.T) (*till, *attest.Keyset) {
	t.Helper()
	vendor, err := simtee.Open(filepath.Join(t.TempDir(), teeDir), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	prover, till, err := responder(vendor, tunnel.ID{1}, []string{smallModel, warmModel})
	if err != nil {
		t.Fatal(err)
	}
	text := prover.Keyset()
	keyset, err := attest.ParseKeyset(text)
	if err != nil {
		t.Fatal(err)
	}
	if till.keyset != sha256.Sum256(text) || len(keyset.Models) != 2 {
		t.Fatalf("keyset %s of %+v", till.keyset, keyset)
	}
	return till, keyset
}

func (t *till) terms() string {
	p := mockPrice()
	return fmt.Sprintf("%s simulated %d %d %d", t.keyset, p.In, p.Cached, p.Out)
}

func askWorker(till *till, terms, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/v1/chat/completions", strings.NewReader(body))
	r.Header.Set("Cocoon-Request", fmt.Sprintf("req_%032x", 7))
	if terms != "" {
		r.Header.Set("Cocoon-Terms", terms)
	}
	w := httptest.NewRecorder()
	(&mock.Handler{Meter: till.meter}).ServeHTTP(w, r)
	return w
}

func TestReceiptIsWhatTheGatewayChecks(t *testing.T) {
	till, keyset := newWorker(t)
	const body = `{"model":"mock"}`
	w := askWorker(till, till.terms(), body)
	answer, wire, _ := bytes.Cut(w.Body.Bytes(), []byte("\n"))
	s, err := receipt.Parse(wire)
	if err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	cost, err := mockPrice().Cost(mockUsage())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(receipt.Terms{
		Request: fmt.Sprintf("req_%032x", 7), Worker: receipt.Digest{1}, Keyset: till.keyset, Epoch: keyset.Epoch, Model: "mock",
		Engine: sha256.Sum256([]byte(keyset.Models[0].Engine)), Mode: receipt.Simulated, Price: mockPrice(),
		InMax: mock.PromptTokens, OutMax: mock.CompletionTokens, Ceiling: cost,
	}); err != nil {
		t.Error(err)
	}
	if err := s.Verify(keyset.Receipt); err != nil {
		t.Error(err)
	}
	if s.Req != sha256.Sum256([]byte(body)) || s.Resp != sha256.Sum256(answer) || s.Kind != receipt.Final {
		t.Errorf("%+v", s.Receipt)
	}
}

func TestTerms(t *testing.T) {
	till, _ := newWorker(t)
	const body = `{"model":"mock"}`
	if w := askWorker(till, "", body); !bytes.Equal(w.Body.Bytes(), mock.Answer(smallBody)) {
		t.Errorf("an answer without a receipt: %s", w.Body)
	}
	p := mockPrice()
	for _, terms := range []string{
		"nonsense", strings.Replace(till.terms(), till.keyset.String(), receipt.Digest{}.String(), 1),
		fmt.Sprintf("%s simulated %d %d %d", till.keyset, p.In-1, p.Cached, p.Out), till.terms() + "x", till.terms() + " 1",
	} {
		if w := askWorker(till, terms, body); w.Code != 503 {
			t.Errorf("terms %q: status %d", terms, w.Code)
		}
	}
}

// A gateway gets one signature for receipts that it has; the mock knows no others' keyset.
func TestMockCountersigns(t *testing.T) {
	till, keyset := newWorker(t)
	var all []*receipt.Signed
	for range 3 {
		_, wire, _ := bytes.Cut(askWorker(till, till.terms(), `{"model":"mock"}`).Body.Bytes(), []byte("\n"))
		s, err := receipt.Parse(wire)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	signature, err := till.countersign(t.Context(), receipt.CountersignBody(till.keyset, all))
	if err != nil {
		t.Fatal(err)
	}
	if err := receipt.NewVerifier(keyset.Receipt).Share(all, [ed25519.SignatureSize]byte(signature)); err != nil {
		t.Error(err)
	}
	for _, body := range [][]byte{nil, receipt.CountersignBody(receipt.Digest{1}, all)} {
		if _, err := till.countersign(t.Context(), body); !errors.Is(err, tunnel.ErrAbsent) {
			t.Errorf("%d bytes: %v", len(body), err)
		}
	}
}

func TestExchange(t *testing.T) {
	acks := receipt.Acks{Settled: []receipt.Digest{{1}}}
	if err := exchange(acks.Marshal()); err != nil {
		t.Error(err)
	}
	acks.Refused = []receipt.Refusal{{ID: receipt.Digest{2}, Why: "it is no good"}}
	if err := exchange(acks.Marshal()); err == nil || !strings.Contains(err.Error(), "it is no good") {
		t.Errorf("a refused receipt: %v", err)
	}
	if err := exchange([]byte("{")); err == nil {
		t.Error("no error for no acknowledgements")
	}
}

func TestSettled(t *testing.T) {
	const metrics = `# HELP cocoon_gateway_receipts_settled_total Requests.
cocoon_gateway_receipts_settled_total 12
cocoon_gateway_holds_voided_total{reason="worker"} 3
`
	text := metrics
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }))
	defer s.Close()
	ops := strings.TrimPrefix(s.URL, "http://")
	if err := settled(t.Context(), ops, 12); err != nil {
		t.Error(err)
	}
	if err := settled(t.Context(), ops, 13); err == nil || !strings.Contains(err.Error(), `{reason="worker"} 3`) {
		t.Errorf("one is missing: %v", err)
	}
	text = ""
	if err := settled(t.Context(), ops, 1); err == nil {
		t.Error("no error without the metric")
	}
}
