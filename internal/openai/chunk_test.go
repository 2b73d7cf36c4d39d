package openai

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

type chunkTest struct {
	name, data string
	want       Chunk
}

func TestReadChunkUsual(t *testing.T) {
	testChunks(t, []chunkTest{
		{
			"OpenAI role", `{"id":"c","object":"chat.completion.chunk","created":1694268190,` +
				`"model":"gpt-4o-mini","system_fingerprint":"fp",` +
				`"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,` +
				`"finish_reason":null}],"usage":null}`,
			Chunk{},
		},
		{
			"content",
			`{"choices":[{"index":0,"delta":{"content":"Hi"},"logprobs":null,"finish_reason":null}]}`,
			Chunk{Content: true},
		},
		{"finish", `{"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}`, Chunk{Finishes: 1, Finish: "stop"}},
		{
			"usage", `{"choices":[],"usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,` +
				`"prompt_tokens_details":{"cached_tokens":7,"audio_tokens":0},"completion_tokens_details":{` +
				`"reasoning_tokens":5,"audio_tokens":0}}}`,
			Chunk{Usage: Usage{19, 7, 10, 5}, HasUsage: true, NoChoices: true},
		},
		{
			"vLLM usage in every chunk", `{"choices":[{"delta":{"content":"x"},"finish_reason":"length",` +
				`"stop_reason":null}],` +
				`"usage":{"prompt_tokens":3,"total_tokens":4,"completion_tokens":1,"prompt_tokens_details":null}}`,
			Chunk{Usage: Usage{Prompt: 3, Completion: 1}, HasUsage: true, Finishes: 1, Finish: "length", Content: true},
		},
		{
			"Ollama end", `{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":"stop"}]}`,
			Chunk{Finishes: 1, Finish: "stop"},
		},
		{
			"llama.cpp timings", `{"choices":[],"usage":{"completion_tokens":2,"prompt_tokens":1},"timings":{` +
				`"prompt_ms":1.5e2,"x":-0.1}}`,
			Chunk{Usage: Usage{Prompt: 1, Completion: 2}, HasUsage: true, NoChoices: true},
		},
		{
			"white space",
			"\t" + `{ "choices" : [ { "delta" : { "content" : "x" } , "finish_reason" : "stop" } ] , "usage" : { } }` +
				"\r\n",
			Chunk{HasUsage: true, Finishes: 1, Finish: "stop", Content: true},
		},
		{"reasoning", `{"choices":[{"delta":{"reasoning":"hm"}}]}`, Chunk{Content: true}},
		{
			"reasoning_content", `{"choices":[{"delta":{"content":null,"reasoning_content":"hm"}}]}`,
			Chunk{Content: true},
		},
		{
			"reasoning null",
			`{"choices":[{"delta":{"content":null,"reasoning_content":null,"tool_calls":null,"refusal":null}}]}`,
			Chunk{},
		},
		{
			"tool calls", `{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":""}}]}}]}`,
			Chunk{Content: true},
		},
		{
			"no tool calls",
			`{"choices":[{"delta":{"role":"assistant","tool_calls":[],"annotations":[ ],"audio":{}}}]}`,
			Chunk{},
		},
		{"refusal", `{"choices":[{"delta":{"refusal":"no"}}]}`, Chunk{Content: true}},
		{"function call", `{"choices":[{"delta":{"function_call":{"name":"f"}}}]}`, Chunk{Content: true}},
		{"audio", `{"choices":[{"delta":{"audio":{"data":"AA=="}}}]}`, Chunk{Content: true}},
		{"flags are no content", `{"choices":[{"delta":{"role":"assistant","prefix":true,"index":3}}]}`, Chunk{}},
		{
			"text completion",
			`{"object":"text_completion","choices":[{"text":"Hi","index":0,"logprobs":null,"finish_reason":null}]}`,
			Chunk{Content: true},
		},
		{"text empty", `{"choices":[{"text":"","finish_reason":"stop"}]}`, Chunk{Finishes: 1, Finish: "stop"}},
	})
}

func TestReadChunkOdd(t *testing.T) {
	testChunks(t, []chunkTest{
		{"delta null", `{"choices":[{"delta":null,"finish_reason":""}]}`, Chunk{}},
		{
			"many choices",
			`{"choices":[{"delta":{"content":"a"}},{"finish_reason":"stop"},{"delta":{},"finish_reason":"length"}]}`,
			Chunk{Finishes: 2, Finish: "length", Content: true},
		},
		{"no choices", `{"object":"x"}`, Chunk{NoChoices: true}},
		{"choices null", `{"choices":null}`, Chunk{NoChoices: true}},
		{"error", `{"error":{"message":"m","code":500}}`, Chunk{NoChoices: true, Error: true}},
		{"error text", `{"error":"m","choices":[]}`, Chunk{NoChoices: true, Error: true}},
		{"error null", `{"error":null,"choices":[{"delta":{"content":"x"}}]}`, Chunk{Content: true}},
		{
			"decoys", `{"choices":[{"delta":{"content":"\"usage\":{\"prompt_tokens\":9},` +
				`\"finish_reason\":\"stop\"}]}"},"usage":{"prompt_tokens":9},"error":1,` +
				`"logprobs":{"finish_reason":"stop","content":[{"token":"\\"}]}}],"x":{"usage":{` +
				`"prompt_tokens":9},"error":2,"choices":[]}}`,
			Chunk{Content: true},
		},
		{
			"escaped keys",
			`{"us\u0061ge":{"prompt_\u0074okens":4},"\u0063hoices":[{"d\u0065lta":{"\u0072ole":"x"}}]}`,
			Chunk{Usage: Usage{Prompt: 4}, HasUsage: true},
		},
		{
			"last usage counts",
			`{"usage":{"prompt_tokens":4},"usage":{"completion_tokens":5},"choices":[{"finish_reason":"stop"}],` +
				`"choices":[]}`,
			Chunk{Usage: Usage{Completion: 5}, HasUsage: true, NoChoices: true},
		},
		{"last usage null", `{"usage":{"prompt_tokens":4},"usage":null}`, Chunk{NoChoices: true}},
		{
			"cached above prompt",
			`{"usage":{"prompt_tokens_details":{"cached_tokens":50},"prompt_tokens":4}}`,
			Chunk{Usage: Usage{Prompt: 4, Cached: 4}, HasUsage: true, NoChoices: true},
		},
		{
			"counts null",
			`{"usage":{"prompt_tokens":null,"completion_tokens_details":{"reasoning_tokens":null}}}`,
			Chunk{HasUsage: true, NoChoices: true},
		},
		{
			"largest count", `{"usage":{"prompt_tokens":1099511627776}}`,
			Chunk{Usage: Usage{Prompt: 1 << 40}, HasUsage: true, NoChoices: true},
		},
	})
}

func testChunks(t *testing.T, tests []chunkTest) {
	t.Helper()
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ReadChunk([]byte(tc.data))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreUnexported(Chunk{}), cmpopts.IgnoreFields(Chunk{}, "Text")); diff != "" {
				t.Errorf("chunk (-want +got):\n%s", diff)
			}
			a, err := ReadAnswer([]byte(tc.data))
			want := Answer{Usage: tc.want.Usage, HasUsage: tc.want.HasUsage, Finishes: tc.want.Finishes, Finish: tc.want.Finish, Error: tc.want.Error}
			a.usage = span{}
			if err != nil || a != want {
				t.Errorf("ReadAnswer = %+v, %v, want %+v", a, err, want)
			}
			checkChunk(t, []byte(tc.data))
		})
	}
}

// TestChunkText counts what a reader sees, however it is spelled and cut into chunks.
func TestChunkText(t *testing.T) {
	for _, tc := range []struct {
		data string
		want int
	}{
		{`{"choices":[{"delta":{"role":"assistant","content":""}}]}`, 0},
		{`{"choices":[{"delta":{"content":"hello"}}]}`, 5},
		{`{"choices":[{"delta":{"content":"a\u0041\n\"b"}}]}`, 5},
		{`{"choices":[{"delta":{"content":"one"}},{"delta":{"content":"two"}}]}`, 6},
		{`{"choices":[{"text":"abc"}]}`, 3},
		{`{"choices":[{"delta":{"content":"ab","reasoning":"think","reasoning_content":"think","refusal":"no"}}]}`, 9},
		{`{"choices":[{"delta":{"content":"long long","content":"x"}}]}`, 1},
		{`{"choices":[{"delta":{"content":null,"padding":"xxxxxxxxxxxxxxxx"}}]}`, 0},
		{`{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"call_1","function":{"name":"f","arguments":"{\"a\":1}"}},
			{"function":{"arguments":"{}"}}]}}]}`, 9},
		{`{"choices":[{"delta":{"tool_calls":[7,{"function":7},{"function":{"arguments":{"a":"b"}}}]}}]}`, 0},
	} {
		if c, err := ReadChunk([]byte(tc.data)); err != nil || c.Text != tc.want {
			t.Errorf("%s: %d bytes of text, %v, want %d", tc.data, c.Text, err, tc.want)
		}
	}
}

func TestReadChunkRefuses(t *testing.T) {
	for _, tc := range []struct{ name, data, want string }{
		{"empty", ``, "text is empty at byte 0"},
		{"done", `[DONE]`, "not an object at byte 0"},
		{"cut", `{"choices":[{"delta":{"content":"H`, "string without end"},
		{"cut between", `{"choices":[{"delta":{"content":"H"}`, "no comma or end"},
		{"trailing", `{"choices":[]}{`, "more after the end of the object at byte 14"},
		{"choices", `{"choices":{}}`, "choices is not an array"},
		{"choice", `{"choices":[null]}`, "choice is not an object"},
		{"delta", `{"choices":[{"delta":"x"}]}`, "delta is not an object"},
		{"usage", `{"usage":[]}`, "usage is not an object"},
		{"details", `{"usage":{"prompt_tokens_details":7}}`, "usage details are not an object"},
		{"negative", `{"usage":{"prompt_tokens":-1}}`, "token count is not an integer from 0 to 2^40 at byte 26"},
		{"fraction", `{"usage":{"completion_tokens":1.5}}`, "token count is not"},
		{"absurd", `{"usage":{"completion_tokens":1099511627777}}`, "token count is not"},
		{
			"overflow", `{"usage":{"completion_tokens_details":{"reasoning_tokens":18446744073709551617}}}`,
			"token count is not",
		},
		{"text", `{"usage":{"prompt_tokens":"1"}}`, "token count is not"},
		{"deep", `{"x":` + nest(64) + `}`, "nested deeper than 64"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := ReadChunk([]byte(tc.data))
			if err == nil || !strings.Contains(err.Error(), tc.want) || c != (Chunk{}) {
				t.Errorf("ReadChunk = %+v, %v, want an error with %q", c, err, tc.want)
			}
			a, err := ReadAnswer([]byte(tc.data))
			if err == nil || !strings.Contains(err.Error(), tc.want) || a != (Answer{}) {
				t.Errorf("ReadAnswer = %+v, %v, want an error with %q", a, err, tc.want)
			}
		})
	}
}

func TestReadAnswer(t *testing.T) {
	got, err := ReadAnswer([]byte(`{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,` +
		`"message":{"role":"assistant",` +
		`"content":"{\"usage\":null}","annotations":[]},"finish_reason":"stop"},{"index":1,"message":{},` +
		`"finish_reason":"length"}],` +
		`"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21},"service_tier":"default"}` + "\n"))
	want := Answer{Usage: Usage{Prompt: 9, Completion: 12}, HasUsage: true, Finishes: 2, Finish: "length"}
	got.usage = span{}
	if err != nil || got != want {
		t.Errorf("ReadAnswer = %+v, %v, want %+v", got, err, want)
	}
}

// shape walks valid JSON: its depth, and whether some object has a key twice.
func shape(t *testing.T, data []byte) (depth int, doubled bool) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	type level struct {
		keys map[string]bool // nil for an array
		odd  bool            // the next token is a value
	}
	var open []*level
	for {
		tok, err := d.Token()
		if err != nil {
			return depth, doubled
		}
		if delim, ok := tok.(json.Delim); ok && (delim == '}' || delim == ']') {
			open = open[:len(open)-1]
			continue
		}
		if n := len(open); n > 0 && open[n-1].keys != nil {
			top := open[n-1]
			if top.odd = !top.odd; top.odd {
				key := tok.(string)
				doubled = doubled || top.keys[key]
				top.keys[key] = true
			}
		}
		switch tok {
		case json.Delim('{'):
			open = append(open, &level{keys: map[string]bool{}})
		case json.Delim('['):
			open = append(open, &level{})
		}
		depth = max(depth, len(open))
	}
}

// reader is ReadChunk over a decoded value; bad says that it must be refused.
type reader struct{ bad bool }

func (r *reader) object(v any) map[string]any {
	m, ok := v.(map[string]any)
	r.bad = r.bad || !ok && v != nil
	return m
}

var integerText = regexp.MustCompile(`^(0|[1-9][0-9]*)$`)

func (r *reader) tokens(m map[string]any, key string) int64 {
	v, ok := m[key]
	if !ok || v == nil {
		return 0
	}
	num, _ := v.(json.Number)
	n, err := strconv.ParseInt(string(num), 10, 64)
	if err != nil || !integerText.MatchString(string(num)) || n > 1<<40 {
		r.bad = true
	}
	return n
}

func full(v any) bool {
	switch v := v.(type) {
	case string:
		return v != ""
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	}
	return false
}

func (r *reader) chunk(v any) Chunk {
	top, ok := v.(map[string]any)
	r.bad = !ok
	c := Chunk{NoChoices: true, Error: top["error"] != nil}
	choices, ok := top["choices"].([]any)
	r.bad = r.bad || !ok && top["choices"] != nil
	c.NoChoices = len(choices) == 0
	for _, choice := range choices {
		r.bad = r.bad || choice == nil
		m := r.object(choice)
		if full(m["finish_reason"]) {
			c.Finishes++
		}
		c.Content = c.Content || full(m["text"])
		for key, value := range r.object(m["delta"]) {
			c.Content = c.Content || key != "role" && full(value)
		}
	}
	if usage := r.object(top["usage"]); usage != nil {
		c.HasUsage = true
		c.Usage = Usage{
			Prompt:     r.tokens(usage, "prompt_tokens"),
			Cached:     r.tokens(r.object(usage["prompt_tokens_details"]), "cached_tokens"),
			Completion: r.tokens(usage, "completion_tokens"),
			Reasoning:  r.tokens(r.object(usage["completion_tokens_details"]), "reasoning_tokens"),
		}
		c.Usage.Cached = min(c.Usage.Cached, c.Usage.Prompt)
	}
	return c
}

// checkChunk holds ReadChunk against encoding/json, where that says what the data means.
func checkChunk(t *testing.T, data []byte) {
	t.Helper()
	got, err := ReadChunk(data)
	if err != nil && got != (Chunk{}) {
		t.Fatal("a chunk comes with an error")
	}
	if u := got.Usage; slices.Min([]int64{u.Prompt, u.Cached, u.Completion, u.Reasoning}) < 0 || u.Cached > u.Prompt {
		t.Fatalf("usage is %+v", u)
	}
	if !json.Valid(data) {
		return
	}
	depth, doubled := shape(t, data)
	if doubled {
		return
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	var r reader
	want := r.chunk(v)
	want.Finish = got.Finish // of words with escapes in them it is "other"
	want.Text = got.Text
	if got.Text < 0 || got.Text > len(data) {
		t.Fatalf("%d bytes of text: %s", got.Text, data)
	}
	if r.bad || depth > 64 {
		if err == nil {
			t.Fatalf("accepted: %s", data)
		}
		return
	}
	if err != nil {
		t.Fatalf("refused: %v: %s", err, data)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Chunk{})); diff != "" {
		t.Fatalf("chunk (-json +ours):\n%s%s", diff, data)
	}
}

func FuzzReadChunk(f *testing.F) {
	for _, s := range []string{
		contentChunk, usageChunk, `{"error":{"message":"m"}}`, `{"choices":[{"text":"x","finish_reason":""},{` +
			`"delta":null}],"usage":null}`,
		`{"us\u0061ge":{"prompt_tokens_details":{"cached_tokens":5},"completion_tokens_details":{` +
			`"reasoning_tokens":1}}}`,
		`{"choices":[{"delta":{"role":"a","tool_calls":[{}],"x":[ ],"y":{"\\":"\""},"z":-1.5e3}}],"a":[[[]]],"b":true}`,
		`{"usage":{"prompt_tokens":0,"completion_tokens":1099511627776}} `, `[DONE]`, `{"choices":[`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(checkChunk)
}

const (
	contentChunk = `{"id":"chatcmpl-123","object":"chat.completion.chunk","created":1694268190,"model":"gpt-4o-mini",` +
		`"system_fingerprint":"fp_44709d6fcb","choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":null,` +
		`"finish_reason":null}]}`
	usageChunk = `{"id":"chatcmpl-123","object":"chat.completion.chunk","created":1694268190,` +
		`"model":"gpt-4o-mini","choices":[],` +
		`"usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{` +
		`"cached_tokens":7},` +
		`"completion_tokens_details":{"reasoning_tokens":5}}}`
)

func TestReadChunkAllocates(t *testing.T) {
	for _, s := range []string{contentChunk, usageChunk} {
		data := []byte(s)
		if n := testing.AllocsPerRun(100, func() {
			if _, err := ReadChunk(data); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("ReadChunk allocates %v times", n)
		}
	}
}

func BenchmarkReadChunk(b *testing.B) {
	for name, s := range map[string]string{"content": contentChunk, "usage": usageChunk} {
		b.Run(name, func(b *testing.B) {
			data := []byte(s)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ReadChunk(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReadAnswer(b *testing.B) {
	data := fmt.Appendf(nil, `{"id":"c","object":"chat.completion","created":1694268190,"model":"m","choices":[{`+
		`"index":0,"message":`+
		`{"role":"assistant","content":"%s"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,`+
		`"completion_tokens":12,"total_tokens":21}}`,
		strings.Repeat(`word \"quoted\" and\n`, 100))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadAnswer(data); err != nil {
			b.Fatal(err)
		}
	}
}

func TestAppendCost(t *testing.T) {
	for _, tc := range []struct{ data, want string }{
		{`{"usage":{"prompt_tokens":1}}`, `{"usage":{"prompt_tokens":1,"cost_nanoton":7}}`},
		{`{"usage": { } ,"choices":[]}`, `{"usage": { "cost_nanoton":7} ,"choices":[]}`},
		{`{"usage":{},"x":{"usage":{}}}`, `{"usage":{"cost_nanoton":7},"x":{"usage":{}}}`},
		{`{"choices":[],"usage":null}`, `{"choices":[],"usage":null}`},
		{`{"choices":[]}`, `{"choices":[]}`},
		{`{"usage":{"prompt_tokens_details":{"cached_tokens":1}}}`, `{"usage":{"prompt_tokens_details":{"cached_tokens":1},"cost_nanoton":7}}`},
	} {
		c, err := ReadChunk([]byte(tc.data))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(c.AppendCost([]byte("data: "), []byte(tc.data), 7)); got != "data: "+tc.want {
			t.Errorf("%s becomes %s, want data: %s", tc.data, got, tc.want)
		}
		a, err := ReadAnswer([]byte(tc.data))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(a.AppendCost(nil, []byte(tc.data), 7)); got != tc.want {
			t.Errorf("answer %s becomes %s, want %s", tc.data, got, tc.want)
		}
	}
}
