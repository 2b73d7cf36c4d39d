package helper_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/attest/device/helper"
)

const nonce = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

// answer is a good one, to a request with a nonce.
func answer() *helper.Answer {
	is := func(s string) helper.Value { return helper.Value{Is: s} }
	return &helper.Answer{
		V: helper.Version, Driver: is("580.95.05"), NVML: is("13.580.95.05"), Environment: is(helper.Production),
		Feature: is(helper.On), DevTools: is(helper.Off), MultiGPU: helper.Value{Error: "Not Supported"},
		CPU: is("AMD SEV-SNP"), Capable: is(helper.On), Ready: is(helper.Off),
		GPUs: []helper.GPU{{
			Name: is("NVIDIA H100 80GB HBM3"), UUID: is("GPU-1"), Serial: is("165"),
			Report: helper.Blob{Data: []byte("report")}, Chain: helper.Blob{Data: []byte("chain")},
		}},
	}
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestAnswerThereAndBack(t *testing.T) {
	want := answer()
	got, err := helper.Parse(marshal(t, want), true)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	want.GPUs[0].Report, want.GPUs[0].Chain = helper.Blob{}, helper.Blob{}
	if _, err := helper.Parse(marshal(t, want), false); err != nil {
		t.Error(err)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(a *helper.Answer)
		want   string
	}{
		"version":       {func(a *helper.Answer) { a.V = 2 }, "version 2, want 1"},
		"no driver":     {func(a *helper.Answer) { a.Driver = helper.Value{} }, "driver: want a value or an error"},
		"both":          {func(a *helper.Answer) { a.Ready.Error = "no" }, "ready: want a value or an error"},
		"terminal":      {func(a *helper.Answer) { a.Feature.Is = "on\x1b[2J" }, "feature: want short printable text"},
		"lines":         {func(a *helper.Answer) { a.DevTools.Is = "off\n" }, "devtools: want short printable text"},
		"long":          {func(a *helper.Answer) { a.CPU.Is = strings.Repeat("x", 201) }, "cpu: want short printable text"},
		"GPU's name":    {func(a *helper.Answer) { a.GPUs[0].Name = helper.Value{} }, "GPU 0: want a value or an error"},
		"no report":     {func(a *helper.Answer) { a.GPUs[0].Report.Data = nil }, "GPU 0: report: want bytes or an error"},
		"no chain":      {func(a *helper.Answer) { a.GPUs[0].Chain.Data = nil }, "GPU 0: chain: want bytes or an error"},
		"report, error": {func(a *helper.Answer) { a.GPUs[0].Report.Error = "x" }, "GPU 0: report: want bytes or an error"},
		"big report": {
			func(a *helper.Answer) { a.GPUs[0].Report.Data = make([]byte, helper.ReportMax+1) }, "report: 8193 bytes, at most 8192",
		},
		"big chain": {
			func(a *helper.Answer) { a.GPUs[0].Chain.Data = make([]byte, helper.ChainMax+1) }, "chain: 5121 bytes, at most 5120",
		},
		"many": {func(a *helper.Answer) { a.GPUs = make([]helper.GPU, helper.GPUsMax+1) }, "33 GPUs, at most 32"},
		"long error": {
			func(a *helper.Answer) { a.GPUs[0].Chain = helper.Blob{Error: strings.Repeat("x", 201)} },
			"chain: want short printable text",
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := answer()
			c.change(a)
			if _, err := helper.Parse(marshal(t, a), true); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	good := string(marshal(t, answer()))
	for name, text := range map[string]string{
		"empty": "", "null": "null", "list": "[]", "garbage": "NVML: error", "twice": good + good,
		"unknown member": strings.Replace(good, `"v":1`, `"v":1,"w":1`, 1),
		"too long":       good + strings.Repeat(" ", helper.AnswerMax),
	} {
		if _, err := helper.Parse([]byte(text), true); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := helper.Parse([]byte(good), false); err == nil || !strings.Contains(err.Error(), "not asked for") {
		t.Errorf("a report without a nonce: %v", err)
	}
}

func TestParseRequest(t *testing.T) {
	r, bytes, err := helper.ParseRequest([]byte(`{"v":1,"nonce":"` + nonce + `"}`))
	if err != nil || len(bytes) != 32 || bytes[1] != 0x11 || r.Ready {
		t.Errorf("got %v, %x, %v", r, bytes, err)
	}
	r, bytes, err = helper.ParseRequest([]byte(`{"v":1,"nonce":"","ready":true}`))
	if err != nil || len(bytes) != 0 || !r.Ready {
		t.Errorf("got %v, %x, %v", r, bytes, err)
	}
	for _, text := range []string{
		``, `{}`, `{"v":2,"nonce":""}`, `{"v":1,"nonce":"00"}`, `{"v":1,"nonce":"` + strings.ToUpper(nonce) + `"}`,
		`{"v":1,"nonce":"` + nonce + nonce + `"}`, `{"v":1,"nonce":"zz"}`, `{"v":1,"nonce":"","x":1}`, `{"v":1} {"v":1}`,
		`{"v":1,"nonce":""}` + strings.Repeat(" ", helper.RequestMax),
	} {
		if _, _, err := helper.ParseRequest([]byte(text)); err == nil {
			t.Errorf("%.60s: no error", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(marshal(f, answer()), true)
	f.Add([]byte(`{"v":1,"gpus":[{}]}`), false)
	f.Fuzz(func(t *testing.T, text []byte, nonce bool) {
		a, err := helper.Parse(text, nonce)
		if err != nil {
			return
		}
		for _, g := range a.GPUs {
			if nonce && (len(g.Report.Data) == 0) == (g.Report.Error == "") {
				t.Errorf("neither a report nor an error: %q", text)
			}
		}
		if _, err := helper.Parse(marshal(t, a), nonce); err != nil {
			t.Errorf("its own encoding is refused: %v", err)
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"v":1,"nonce":"` + nonce + `"}`))
	f.Add([]byte(`{"v":1,"nonce":"","ready":true}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, nonce, err := helper.ParseRequest(text); err == nil && len(nonce) != 0 && len(nonce) != 32 {
			t.Errorf("a nonce of %d bytes", len(nonce))
		}
	})
}
