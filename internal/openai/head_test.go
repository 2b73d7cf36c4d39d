package openai

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var (
	exportedOnly = cmpopts.IgnoreUnexported(Head{})
	// hints are what a malformed or doubled value is no fault of.
	hints = cmpopts.IgnoreFields(Head{}, "User", "CacheSalt", "HasCacheSalt", "Session", "CacheKey", "History", "JSONObject", "JSONSchema",
		"Logprobs", "Reasoning")
)

func TestReadHead(t *testing.T) {
	longest := strings.Repeat("é", 128)
	for _, tc := range []struct {
		name, body string
		want       Head
	}{
		{"least", `{"model":"m"}`, Head{Model: "m", N: 1}},
		{"space", " \r\n\t{ \"model\" :\t\"m\" , \"n\" : 2 } \n", Head{Model: "m", N: 2}},
		{
			"all", `{"model":"a/b:free","stream":true,"stream_options":{"include_usage":true},"max_tokens":5,` +
				`"n":3,"tools":[{"type":"function"}],"messages":[{"role":"user","content":"hi"}]}`,
			Head{Model: "a/b:free", Stream: true, IncludeUsage: true, MaxTokens: 5, Limit: 5, N: 3, Tools: true},
		},
		{
			"nulls", `{"model":"m","stream":null,"stream_options":null,"max_tokens":null,` +
				`"max_completion_tokens":null,` +
				`"n":null,"tools":null,"functions":null}`, Head{Model: "m", N: 1},
		},
		{
			"options without usage", `{"model":"m","stream":true,"stream_options":{"x":[{}]}}`,
			Head{Model: "m", Stream: true, N: 1},
		},
		{"usage null", `{"model":"m","stream_options":{"include_usage":null}}`, Head{Model: "m", N: 1}},
		{
			"newer max after", `{"model":"m","max_tokens":5,"max_completion_tokens":7}`,
			Head{Model: "m", MaxTokens: 7, Limit: 7, N: 1},
		},
		{
			"newer max before", `{"model":"m","max_completion_tokens":7,"max_tokens":5}`,
			Head{Model: "m", MaxTokens: 7, Limit: 7, N: 1},
		},
		{
			"newer max null", `{"model":"m","max_tokens":5,"max_completion_tokens":null}`,
			Head{Model: "m", MaxTokens: 5, Limit: 5, N: 1},
		},
		{
			"newer max null before", `{"model":"m","max_completion_tokens":null,"max_tokens":5}`,
			Head{Model: "m", MaxTokens: 5, Limit: 5, N: 1},
		},
		{"limits", `{"model":"m","max_tokens":2147483648,"n":128}`, Head{Model: "m", MaxTokens: 1 << 31, Limit: 1 << 31, N: 128}},
		{"the larger limit", `{"model":"m","max_tokens":9,"max_completion_tokens":7}`, Head{Model: "m", MaxTokens: 7, Limit: 9, N: 1}},
		{"llama.cpp's limit", `{"model":"m","max_tokens":5,"n_predict":8}`, Head{Model: "m", MaxTokens: 5, Limit: 8, N: 1}},
		{"user", `{"model":"m","user":"\u00e9va"}`, Head{Model: "m", User: "éva", N: 1}},
		{"users that are none", `{"model":"m","USER":"x","user":{"a":1}}`, Head{Model: "m", N: 1}},
		{"user with a line end", `{"model":"m","user":"a\nb"}`, Head{Model: "m", N: 1}},
		{"long user", `{"model":"m","user":"` + longest + `"}`, Head{Model: "m", N: 1}},
		{"max zero", `{"model":"m","max_tokens":0}`, Head{Model: "m", N: 1}},
		{"tools empty", `{"model":"m","tools":[ ],"functions":[]}`, Head{Model: "m", N: 1}},
		{"functions", `{"model":"m","functions":[0]}`, Head{Model: "m", N: 1, Tools: true}},
		{"escaped key", `{"mod\u0065l":"m","str\u0065am":true}`, Head{Model: "m", Stream: true, N: 1}},
		{"escaped model", `{"model":"a\/\u0062\ud83d\ude42\"\\"}`, Head{Model: `a/b🙂"\`, N: 1}},
		{"model longest", `{"model":"` + longest + `"}`, Head{Model: longest, N: 1}},
		{
			"model longest escaped", `{"model":"` + strings.Repeat(`\u0061`, 256) + `"}`,
			Head{Model: strings.Repeat("a", 256), N: 1},
		},
		{
			"decoys", `{"messages":[{"content":"\"model\":\"x\",","model":"y","stream":true}],"model":"m","a":{` +
				`"model":"z","n":5},` +
				`"b":"\\","c":"\\\"","d":[1.5e-7,-0,true,false,null,{"":[]}],"modell":1,"mode":2,"":3,"Étage":4,` +
				`"NN":5,"\ud800":6,"\b\f\n\r\t\/\\\"\u00eF":7}`,
			Head{Model: "m", N: 1},
		},
		{"other keys doubled", `{"a":1,"a":2,"model":"m","A":3}`, Head{Model: "m", N: 1}},
		{"deepest", `{"model":"m","a":` + nest(63) + `}`, Head{Model: "m", N: 1}},
		{"long escaped key", `{"model":"m","` + strings.Repeat(`\u006d`, 100) + `":1}`, Head{Model: "m", N: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ReadHead([]byte(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(tc.want, got, exportedOnly); diff != "" {
				t.Errorf("head (-want +got):\n%s", diff)
			}
			checkHead(t, []byte(tc.body))
		})
	}
}

func nest(levels int) string { return strings.Repeat("[", levels) + strings.Repeat("]", levels) }

type refusalTest struct{ name, body, param, want string }

func TestReadHeadRefusesSyntax(t *testing.T) {
	testRefusals(t, []refusalTest{
		{"empty", ``, "", "text is empty at byte 0"},
		{"blank", " \n", "", "text is empty at byte 2"},
		{"array", ` ["model"]`, "", "not an object at byte 1"},
		{"text", `hello`, "", "not an object at byte 0"},
		{"mark", "\ufeff{}", "", "not an object at byte 0"},
		{"no end", `{"model":"m"`, "", "no comma or end after a value at byte 12"},
		{"string without end", `{"model":"m`, "", "string without end at byte 9"},
		{"escaped end", `{"model":"m\"}`, "", "string without end at byte 9"},
		{"key without end", `{"model`, "", "string without end at byte 1"},
		{"nested string without end", `{"a":[1,"x}]`, "", "string without end at byte 8"},
		{"nested without end", `{"a":[{}`, "", "object or array without end at byte 8"},
		{"brackets", `{"a":[{]}`, "", "brackets don't match at byte 7"},
		{"trailing", `{"model":"m"} x`, "", "more after the end of the object at byte 14"},
		{"two", `{"model":"m"}{}`, "", "more after the end of the object at byte 13"},
		{"NUL", "{\"model\":\"m\"}\x00", "", "more after the end"},
		{"comma end", `{"model":"m",}`, "", "key is not a string at byte 13"},
		{"comma first", `{,"model":"m"}`, "", "key is not a string at byte 1"},
		{"no comma", `{"model":"m" "n":1}`, "", "no comma or end after a value at byte 13"},
		{"no colon", `{"model" "m"}`, "", "no colon after a key at byte 9"},
		{"bare key", `{model:"m"}`, "", "key is not a string at byte 1"},
		{"control in a key", "{\"a\nb\":1}", "", "control character in a key"},
		{"bad escape in a key", `{"a\x":1}`, "", "bad escape in a key"},
		{"half escape in a key", `{"a\u12":1}`, "", "bad escape in a key"},
		{"bad hex in a key", `{"a\u12g4":1}`, "", "bad escape in a key"},
		{"t", `{"a":tru}`, "", "not a value at byte 5"},
		{"f", `{"a":fals`, "", "not a value at byte 5"},
		{"word", `{"a":nul}`, "", "not a value at byte 5"},
		{"words", `{"a":truefalse}`, "", "no comma or end after a value at byte 9"},
		{"no value", `{"a":}`, "", "not a value at byte 5"},
		{"number", `{"a":01}`, "", "no comma or end after a value at byte 6"},
		{"number point", `{"a":1.}`, "", "not a number at byte 7"},
		{"number exponent", `{"a":1e+}`, "", "not a number at byte 8"},
		{"minus", `{"a":-}`, "", "not a value at byte 6"},
		{"plus", `{"a":+1}`, "", "not a value at byte 5"},
		{"too deep", `{"model":"m","a":` + nest(64) + `}`, "", "nested deeper than 64 at byte 80"},
		{"far too deep", `{"a":` + strings.Repeat("[", 1<<20), "", "nested deeper than 64"},
		{"options too deep", `{"stream_options":{"a":` + nest(63) + `}}`, "", "nested deeper than 64"},
	})
}

func TestReadHeadRefusesFields(t *testing.T) {
	testRefusals(t, []refusalTest{
		{"no model", `{}`, "model", "model is missing"},
		{"no model but others", `{"messages":[]}`, "model", "model is missing"},
		{"model null", `{"model":null}`, "model", "model is not a string"},
		{"model number", `{"model":1}`, "model", "model is not a string"},
		{"model empty", `{"model":""}`, "model", "model is empty"},
		{"model long", `{"model":"` + strings.Repeat("a", 257) + `"}`, "model", "longer than 256 bytes"},
		{"model very long", `{"model":"` + strings.Repeat("a", 1<<20) + `"}`, "model", "longer than 256 bytes"},
		{"model long escaped", `{"model":"` + strings.Repeat(`\u00e9`, 129) + `"}`, "model", "longer than 256 bytes"},
		{"model not UTF-8", "{\"model\":\"a\xff\"}", "model", "not valid UTF-8"},
		{"model half a character", `{"model":"\ud83d"}`, "model", "not valid Unicode"},
		{"model swapped halves", `{"model":"\ude42\ud83d"}`, "model", "not valid Unicode"},
		{"model control", "{\"model\":\"a\x01\"}", "model", "control character"},
		{"model escaped control", `{"model":"a\n"}`, "model", "control character"},
		{"model bad escape", `{"model":"\a"}`, "model", "bad escape"},
		{"model twice", `{"model":"a","model":"a"}`, "model", "model is given twice"},
		{"model twice escaped", `{"model":"a","mode\u006C":"b"}`, "model", "model is given twice"},
		{"model in capitals", `{"model":"a","Model":"b"}`, "model", "other letter case"},
		{"model in escaped capitals", `{"model":"a","\u004dodel":"b"}`, "model", "other letter case"},
		{"Kelvin sign", `{"model":"a","max_to` + "\u212a" + `ens":1}`, "max_tokens", "other letter case"},
		{"long s escaped", `{"model":"a","\u017ftream":true}`, "stream", "other letter case"},

		{"stream number", `{"stream":1}`, "stream", "stream is neither true, false nor null"},
		{"stream text", `{"stream":"true"}`, "stream", "stream is neither"},
		{"stream twice", `{"stream":true,"stream":false}`, "stream", "stream is given twice"},
		{"options array", `{"stream_options":[]}`, "stream_options", "neither an object nor null"},
		{"options twice", `{"stream_options":{},"stream_options":null}`, "stream_options", "given twice"},
		{"usage text", `{"stream_options":{"include_usage":"no"}}`, "stream_options", "include_usage that is neither"},
		{
			"usage twice", `{"stream_options":{"include_usage":true,"include_usage":true}}`,
			"stream_options", "include_usage twice",
		},
		{"usage in capitals", `{"stream_options":{"Include_Usage":true}}`, "stream_options", "other letter case"},
		{"options without end", `{"stream_options":{"a":1`, "", "no comma or end"},
		{"max negative", `{"max_tokens":-1}`, "max_tokens", "not an integer from 0 to 2147483648"},
		{"max above", `{"max_completion_tokens":2147483649}`, "max_completion_tokens", "not an integer"},
		{"max overflow", `{"max_tokens":18446744073709551617}`, "max_tokens", "not an integer"},
		{"max fraction", `{"max_tokens":1.0}`, "max_tokens", "not an integer"},
		{"max exponent", `{"max_tokens":1e3}`, "max_tokens", "not an integer"},
		{"max octal", `{"max_tokens":010}`, "max_tokens", "not an integer"},
		{"max text", `{"max_tokens":"5"}`, "max_tokens", "not an integer"},
		{"max twice", `{"max_tokens":5,"max_tokens":6}`, "max_tokens", "given twice"},
		{"n zero", `{"n":0}`, "n", "not an integer from 1 to 128"},
		{"n above", `{"n":129}`, "n", "not an integer from 1 to 128"},
		{"n cut", `{"n":`, "n", "not an integer"},
		{"n twice", `{"n":1,"n":1}`, "n", "given twice"},
		{"tools object", `{"tools":{}}`, "tools", "neither an array nor null"},
		{"functions twice", `{"functions":null,"functions":[]}`, "functions", "given twice"},
		{"tools without end", `{"tools":[1`, "", "object or array without end"},
	})
}

func testRefusals(t *testing.T, tests []refusalTest) {
	t.Helper()
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			h, err := ReadHead([]byte(tc.body))
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("ReadHead = %+v, %v, want an *Error", h, err)
			}
			if e.Status != 400 || e.Type != "invalid_request_error" {
				t.Errorf("error is %+v", e)
			}
			if e.Param != tc.param || !strings.Contains(e.Message, tc.want) {
				t.Errorf("error %+v, want param %q and message with %q", e, tc.param, tc.want)
			}
		})
	}
}

func TestWithUsage(t *testing.T) {
	for _, tc := range []struct{ name, body, want string }{
		{
			"absent", `{"model":"m","stream":true}`,
			`{"model":"m","stream":true,"stream_options":{"include_usage":true}}`,
		},
		{
			"absent spaced", "{\"model\":\"m\",\"stream\":true \n} ",
			"{\"model\":\"m\",\"stream\":true \n,\"stream_options\":{\"include_usage\":true}} ",
		},
		{
			"null", `{"stream_options":null,"model":"m","stream":true}`,
			`{"stream_options":{"include_usage":true},"model":"m","stream":true}`,
		},
		{
			"bare", `{"stream_options":{ },"model":"m","stream":true}`,
			`{"stream_options":{"include_usage":true },"model":"m","stream":true}`,
		},
		{
			"others", `{"stream":true,"stream_options":{"a":1},"model":"m"}`,
			`{"stream":true,"stream_options":{"include_usage":true,"a":1},"model":"m"}`,
		},
		{
			"false", `{"stream":true,"stream_options":{"a":1,"include_usage":false},"model":"m"}`,
			`{"stream":true,"stream_options":{"a":1,"include_usage":true},"model":"m"}`,
		},
		{
			"usage null", `{"stream":true,"stream_options":{"include_usage" : null},"model":"m"}`,
			`{"stream":true,"stream_options":{"include_usage" : true},"model":"m"}`,
		},
		{
			"true", `{"stream":true,"stream_options":{"include_usage":true},"model":"m"}`,
			`{"stream":true,"stream_options":{"include_usage":true},"model":"m"}`,
		},
		{
			"no stream", `{"stream":false,"stream_options":{"include_usage":false},"model":"m"}`,
			`{"stream":false,"stream_options":{"include_usage":false},"model":"m"}`,
		},
		{
			"no stream, usage", `{"stream_options":{"include_usage":true},"model":"m"}`,
			`{"stream_options":{"include_usage":true},"model":"m"}`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, spare := range []int{0, 3, 64} {
				body := append(make([]byte, 0, len(tc.body)+spare), tc.body...)
				h, err := ReadHead(body)
				if err != nil {
					t.Fatal(err)
				}
				asked := h.IncludeUsage
				got := h.WithUsage(body)
				if string(got) != tc.want || h.IncludeUsage != asked {
					t.Errorf("WithUsage = %s, want %s", got, tc.want)
				}
				if len(got)-len(body) > 43 {
					t.Errorf("%d bytes longer", len(got)-len(body))
				}
				if spare == 64 && &got[0] != &body[0] {
					t.Error("spare capacity is not used")
				}
				if again := h.WithUsage(got); string(again) != tc.want {
					t.Errorf("WithUsage twice = %s", again)
				}
			}
			checkHead(t, []byte(tc.body))
		})
	}
}

func TestWithModel(t *testing.T) {
	const body = `{"stream":true,"model" : "m\u0031","stream_options":{"include_usage":false},"n":1}`
	for _, name := range []string{"x", "a longer name than before", `q"\` + "\n\x01\xff", ""} {
		h, err := ReadHead([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		got := h.WithModel([]byte(body), name)
		got = h.WithUsage(got)
		got = h.WithModel(got, name+"2")
		quoted := string(appendString(nil, name+"2"))
		want := `{"stream":true,"model" : ` + quoted + `,"stream_options":{"include_usage":true},"n":1}`
		if string(got) != want || !json.Valid(got) || h.Model != "m1" {
			t.Errorf("body is %s, want %s", got, want)
		}
	}
}

func TestWithLimit(t *testing.T) {
	for _, tc := range []struct{ body, want string }{
		{`{"model":"m"}`, `{"model":"m","max_tokens":20}`},
		{`{"model":"m","max_tokens":7}`, `{"model":"m","max_tokens":7}`},
		{`{"model":"m","max_tokens":0}`, `{"model":"m","max_tokens":20}`},
		{`{"max_tokens":null,"model":"m"}`, `{"max_tokens":20,"model":"m"}`},
		{`{"max_tokens":100,"model":"m","max_completion_tokens":3}`, `{"max_tokens":20,"model":"m","max_completion_tokens":3}`},
		{`{"n_predict":1000, "model":"m","max_completion_tokens": 300 }`, `{"n_predict":20, "model":"m","max_completion_tokens": 20 }`},
	} {
		h, err := ReadHead([]byte(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		body := h.WithLimit(bytes.Clone([]byte(tc.body)), 20)
		if string(body) != tc.want {
			t.Errorf("%s becomes %s, want %s", tc.body, body, tc.want)
		}
		if again, err := ReadHead(body); err != nil || again.Limit > 20 || again.Limit == 0 || h.Limit != 20 {
			t.Errorf("%s has the limit %d, %v, want 1 to 20; its head says %d", body, again.Limit, err, h.Limit)
		}
		// The head goes on to be good for other edits.
		if body = h.WithModel(body, "other"); !json.Valid(body) || !strings.Contains(string(body), `"model":"other"`) {
			t.Errorf("%s with another model becomes %s", tc.body, body)
		}
	}
}

func TestEditOfAnotherBodyPanics(t *testing.T) {
	body := []byte(`{"model":"m","stream":true}`)
	h, err := ReadHead(body)
	if err != nil {
		t.Fatal(err)
	}
	h.WithUsage(body)
	defer func() {
		if recover() == nil {
			t.Error("a body of another length is edited")
		}
	}()
	h.WithUsage(body)
}

// foldingRequest is what an engine written in Go decodes to: encoding/json matches its keys in any letter case.
type foldingRequest struct {
	Model               string   `json:"model"`
	Models              []string `json:"models"`
	Stream              *bool    `json:"stream"`
	MaxTokens           *int64   `json:"max_tokens"`
	MaxCompletionTokens *int64   `json:"max_completion_tokens"`
	NPredict            *int64   `json:"n_predict"`
	N                   *int64   `json:"n"`
	Tools               []any    `json:"tools"`
	Functions           []any    `json:"functions"`
	StreamOptions       *struct {
		IncludeUsage *bool `json:"include_usage"`
	} `json:"stream_options"`
}

// mapRequest is what a decoder makes of the same that keeps the last of each key and knows letter case.
func mapRequest(body []byte) (r foldingRequest, err error) {
	var top, options map[string]json.RawMessage
	if err = json.Unmarshal(body, &top); err != nil {
		return r, err
	}
	take := func(from map[string]json.RawMessage, key string, to any) {
		if raw, ok := from[key]; ok {
			err = errors.Join(err, json.Unmarshal(raw, to))
		}
	}
	take(top, "model", &r.Model)
	take(top, "models", &r.Models)
	take(top, "stream", &r.Stream)
	take(top, "max_tokens", &r.MaxTokens)
	take(top, "max_completion_tokens", &r.MaxCompletionTokens)
	take(top, "n_predict", &r.NPredict)
	take(top, "n", &r.N)
	take(top, "tools", &r.Tools)
	take(top, "functions", &r.Functions)
	take(top, "stream_options", &options)
	if options != nil {
		r.StreamOptions = &struct {
			IncludeUsage *bool `json:"include_usage"`
		}{}
		take(options, "include_usage", &r.StreamOptions.IncludeUsage)
	}
	return r, err
}

func (r *foldingRequest) head() Head {
	h := Head{Model: r.Model, N: 1, Tools: len(r.Tools)+len(r.Functions) > 0}
	if r.Models != nil {
		h.Model = cmp.Or(h.Model, r.Models[0])
		for _, m := range append([]string{h.Model}, r.Models...) {
			if !slices.Contains(h.Models, m) {
				h.Models = append(h.Models, m)
			}
		}
	}
	h.Stream = r.Stream != nil && *r.Stream
	if r.StreamOptions != nil && r.StreamOptions.IncludeUsage != nil {
		h.IncludeUsage = *r.StreamOptions.IncludeUsage
	}
	if r.MaxTokens != nil {
		h.MaxTokens = *r.MaxTokens
	}
	if r.MaxCompletionTokens != nil {
		h.MaxTokens = *r.MaxCompletionTokens
	}
	for _, n := range []*int64{r.MaxTokens, r.MaxCompletionTokens, r.NPredict} {
		if n != nil {
			h.Limit = max(h.Limit, *n)
		}
	}
	if r.N != nil {
		h.N = *r.N
	}
	return h
}

// checkHead holds ReadHead and the edits against encoding/json.
func checkHead(t *testing.T, body []byte) {
	t.Helper()
	h, err := ReadHead(body)
	if err != nil {
		var e *Error
		if !errors.As(err, &e) || e.Status != 400 || e.Message == "" {
			t.Fatalf("error is %#v", err)
		}
		return
	}
	if !json.Valid(body) {
		return
	}
	var folding foldingRequest
	if err := json.Unmarshal(body, &folding); err != nil {
		t.Fatalf("accepted, but encoding/json says %v", err)
	}
	mapped, err := mapRequest(body)
	if err != nil {
		t.Fatalf("accepted, but encoding/json says %v", err)
	}
	for name, r := range map[string]foldingRequest{"struct": folding, "map": mapped} {
		if diff := gocmp.Diff(r.head(), h, exportedOnly, hints); diff != "" {
			t.Fatalf("head against a %s (-json +ours):\n%s", name, diff)
		}
	}
	model := h.Model
	for _, order := range []string{"u", "uu", "m", "um", "mu", "mum"} {
		h, _ := ReadHead(body)
		edited := append(make([]byte, 0, len(body)+len(order)*9), body...)
		wantModel := model
		for i, c := range order {
			if c == 'u' {
				edited = h.WithUsage(edited)
			} else {
				wantModel = fmt.Sprintf("\"n\\ew\" %d", i)
				edited = h.WithModel(edited, wantModel)
			}
		}
		checkEdit(t, body, edited, h.Stream && strings.Contains(order, "u"), wantModel)
	}
}

// checkEdit checks that an edited body differs from the original in include_usage and model alone.
func checkEdit(t *testing.T, body, edited []byte, forced bool, model string) {
	t.Helper()
	again, err := ReadHead(edited)
	if err != nil || !json.Valid(edited) {
		t.Fatalf("edited body is not to be read: %v\n%s", err, edited)
	}
	if again.Model != model || forced && !again.IncludeUsage {
		t.Fatalf("edited body has model %q and include_usage %v", again.Model, again.IncludeUsage)
	}
	read := func(body []byte) (top, options map[string]json.RawMessage) {
		if err := json.Unmarshal(body, &top); err != nil {
			t.Fatal(err)
		}
		if raw, ok := top["stream_options"]; ok {
			if err := json.Unmarshal(raw, &options); err != nil {
				t.Fatal(err)
			}
		}
		if forced {
			delete(options, "include_usage")
			delete(top, "stream_options")
		}
		delete(top, "model")
		return top, options
	}
	wantTop, wantOptions := read(body)
	gotTop, gotOptions := read(edited)
	if diff := gocmp.Diff(wantTop, gotTop) + gocmp.Diff(wantOptions, gotOptions, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("edited body (-before +after):\n%s", diff)
	}
}

func FuzzReadHead(f *testing.F) {
	for _, s := range []string{
		`{"model":"m"}`, `{"model":"m","stream":true}`, `{"model":"m","stream":true,"stream_options":null}`,
		`{"stream_options":{"include_usage":false,"a":[{}]},"model":"\u0061","stream":true,"n":2,"max_tokens":5}`,
		`{"a":"\\\"","model":"m","messages":[{"role":"user","content":"\"model\":\"x\""}],"tools":[{}],"functions":[]}`,
		`{"model":"m","Model":"x","max_completion_tokens":7,"max_tokens":null,"b":-1.5e+3,"c":[[],{"d":false}]}`,
		"{\"\u212a\":1,\"\\ud800\":2,\"model\":\"\\ud83d\\ude42\", " +
			"\"stream_options\": {\"\\u0069nclude_usage\":true} }",
		`{"model":"m","stream":true,"stream_options":{ }} `, `{"stream":true,"model":"m"}`, `{"stream":true,"models":["a","b","a"]}`,
		`{"model":"m",`, `{"model":"m"]`, `[{}]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(checkHead)
}

// request makes a body of about a size: a chat of many turns, with the model at its end as the hard case.
func request(size int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"temperature":0.7,"stream":true,"stream_options":{"include_usage":true},"max_tokens":512,` +
		`"messages":[`)
	for b.Len() < size-250 {
		b.WriteString(`{"role":"user","content":"Tell me what \"span scan\" means,` +
			`\nplease. ` + strings.Repeat("lorem ipsum dolor ", 12) + `"},`)
	}
	b.WriteString(`{"role":"user","content":"go on"}],"model":"llama-3.1-8b"}`)
	return b.Bytes()
}

func TestReadHeadAllocates(t *testing.T) {
	body := request(4 << 10)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := ReadHead(body); err != nil {
			t.Fatal(err)
		}
	}); n > 1 {
		t.Errorf("ReadHead allocates %v times, want only the model's name", n)
	}
}

func BenchmarkReadHead(b *testing.B) {
	for _, size := range []int{1 << 10, 32 << 10} {
		body := request(size)
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ReadHead(body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkWithUsage(b *testing.B) {
	const text = `{"model":"llama-3.1-8b","messages":[{"role":"user","content":"go on"}],"stream":true}`
	body := append(make([]byte, 0, 1024), text...)
	b.ReportAllocs()
	for b.Loop() {
		h, err := ReadHead(body)
		if err != nil {
			b.Fatal(err)
		}
		h.WithUsage(body)
		body = append(body[:0], text...)
	}
}

// TestMedia: whatever names content that is no text is seen below the top level, as a string of its own only.
func TestMedia(t *testing.T) {
	for messages, want := range map[string]bool{
		`[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x/y.png"}}]}]`: true,
		`[{"role":"user","content":[{"type":"video_url"}]}]`:                                       true,
		`[{"role":"user","content":[{"audio_url":{}}]}]`:                                           true,
		`[{"content":[{"type":"input_audio","input_audio":{"data":""}}]}]`:                         true,
		`[{"content":[{"type":"file"}]}]`:                                                          true,
		`{"file":1}`:                                                                               true,
		`[{"role":"assistant","content":"image_urls, \"image_url\" and files"}]`:                   false,
		`[{"role":"user","content":[{"type":"text","text":"my file"}]}]`:                           false,
	} {
		for _, key := range []string{"messages", "Messages"} { // as engines written in Go take it
			h, err := ReadHead([]byte(`{"model":"m","` + key + `":` + messages + `}`))
			if err != nil || h.Media != want {
				t.Errorf("%s %s: %v, %v", key, messages, h.Media, err)
			}
		}
	}
}
