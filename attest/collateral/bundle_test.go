package collateral_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/attest"
	"cocoon/attest/collateral"
	simsnp "cocoon/attest/simtee/snp"
)

// What one store has, another verifies with, without any network.
func TestBundle(t *testing.T) {
	w := newWorld(t)
	s := newStore(t, w.config())
	gpu, intel, other := w.withGPU(), w.tdxOnly(), w.snpOnly()
	other.CPU = must[[]byte](t)(w.chips[1].Report(simsnp.ReportConfig{TCB: w.tcb}))
	for _, e := range []*attest.Evidence{gpu, intel, other} {
		w.complete(s, e, simNow)
	}
	var file bytes.Buffer
	if err := s.Export(&file, simNow); err != nil {
		t.Fatal(err)
	}
	items := must[[]attest.Item](t)(collateral.ReadBundle(bytes.NewReader(file.Bytes())))
	if len(items) != 11 { // two keys, a chain, a set, two RIMs, five responses
		t.Errorf("%d items", len(items))
	}
	var again bytes.Buffer
	if err := collateral.WriteBundle(&again, items); err != nil || !bytes.Equal(file.Bytes(), again.Bytes()) {
		t.Error("it reads as another", err)
	}
	offline := newStore(t, w.off())
	for _, e := range []*attest.Evidence{gpu, intel, other} {
		e.Endorsements = items
		w.complete(offline, e, simNow)
		slices.Reverse(items)
		w.complete(offline, e, simNow)
	}
	w.fails(offline, gpu, simNow.Add(2*day), "no OCSP response", "what came with the evidence")

	// What has ended isn't exported.
	file.Reset()
	if err := s.Export(&file, simNow.Add(31*day)); err != nil {
		t.Fatal(err)
	}
	if items = must[[]attest.Item](t)(collateral.ReadBundle(&file)); len(items) != 5 {
		t.Errorf("%d items", len(items))
	}
	file.Reset()
	if err := offline.Export(&file, simNow); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(`{"v":1,"items":[]}`+"\n", file.String()); d != "" {
		t.Error(d)
	}
	wantError(t, s.Export(failing{}, simNow), "disk full")
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("disk full") }
func (failing) Read([]byte) (int, error)  { return 0, errors.New("disk gone") }

func TestHostileBundles(t *testing.T) {
	item := `{"kind":"snp-key","data":"AA=="}`
	many := `{"v":1,"items":[` + strings.Repeat(item+",", 8192) + item + `]}`
	big := string(must[[]byte](t)(json.Marshal(attest.Item{Kind: attest.GPURIM, Data: make([]byte, 6<<20+1)})))
	for name, c := range map[string]struct{ text, words string }{
		"empty":     {``, "EOF"},
		"null":      {`null`, "version 0"},
		"array":     {`[]`, "cannot unmarshal"},
		"version":   {`{"v":2,"items":[]}`, "version 2"},
		"field":     {`{"v":1,"items":[],"x":1}`, "unknown field"},
		"in item":   {`{"v":1,"items":[{"kind":"snp-key","data":"AA==","x":1}]}`, "unknown field"},
		"kind":      {`{"v":1,"items":[{"kind":"` + strings.Repeat("x", 1000) + `","data":"AA=="}]}`, "item 0 is of kind"},
		"no kind":   {`{"v":1,"items":[` + item + `,{"data":"AA=="}]}`, "item 1 is of kind"},
		"no data":   {`{"v":1,"items":[{"kind":"snp-key"}]}`, "0 bytes"},
		"base64":    {`{"v":1,"items":[{"kind":"snp-key","data":"%"}]}`, "illegal base64"},
		"two":       {`{"v":1,"items":[]}{"v":1,"items":[]}`, "follows"},
		"truncated": {`{"v":1,"items":[` + item, "unexpected EOF"},
		"many":      {many, "8193 items"},
		"big":       {`{"v":1,"items":[` + big + `]}`, "6291457 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			items, err := collateral.ReadBundle(strings.NewReader(c.text))
			wantError(t, err, "reading a bundle", c.words)
			if items != nil || len(err.Error()) > 300 {
				t.Errorf("%d items, %v", len(items), err)
			}
		})
	}
	zeros := readerFunc(func(b []byte) (int, error) { return len(b), nil })
	if !raceEnabled { // which makes a minute of it
		_, err := collateral.ReadBundle(zeros)
		wantError(t, err, "more than")
	}
	_, err := collateral.ReadBundle(failing{})
	wantError(t, err, "disk gone")
	wantError(t, collateral.WriteBundle(io.Discard, make([]attest.Item, 8193)), "8193 items")
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
