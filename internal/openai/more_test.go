package openai

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestReadHeadMore(t *testing.T) {
	long := strings.Repeat("a", 256)
	for _, tc := range []struct {
		name, body string
		want       Head
	}{
		{"models", `{"models":["a"]}`, Head{Model: "a", Models: []string{"a"}, N: 1}},
		{"models before model", `{"models" : [ "b" , "m","b" ],"model":"m"}`, Head{Model: "m", Models: []string{"m", "b"}, N: 1}},
		{"models after model", `{"model":"m","models":["b","c:floor"]}`, Head{Model: "m", Models: []string{"m", "b", "c:floor"}, N: 1}},
		{"models null", `{"model":"m","models":null}`, Head{Model: "m", N: 1}},
		{
			"most models", `{"model":"m","models":["1","2","3","4","5","6","7","\u0038"]}`,
			Head{Model: "m", Models: strings.Split("m12345678", ""), N: 1},
		},
		{
			"session and cache key", `{"model":"m","session_id":"s\u00e9","prompt_cache_key":"` + long + `"}`,
			Head{Model: "m", Session: "sé", CacheKey: long, N: 1},
		},
		{"no sessions", `{"model":"m","session_id":"","prompt_cache_key":5}`, Head{Model: "m", N: 1}},
		{"long session", `{"model":"m","session_id":"` + long + `a"}`, Head{Model: "m", N: 1}},
		{"session with a line end", `{"model":"m","session_id":"a\n","prompt_cache_key":{"a":"b"}}`, Head{Model: "m", N: 1}},
		{"a cache key in other letter case", `{"model":"m","Prompt_Cache_Key":"k"}`, Head{Model: "m", N: 1}},
		{"provider", `{"model":"m","provider":{"order":[{}]}}`, Head{Model: "m", N: 1}},
		{
			"history", `{"model":"m","messages":[{"role":"user","content":"hi"},{"content":[{"a":1}],"role" :` + "\n" + `"assistant"}]}`,
			Head{Model: "m", History: true, N: 1},
		},
		{
			"no history", `{"model":"m","messages":[{"role":"user","name":"assistant","content":"\"role\":\"assistant\""},` +
				`{"role":"user","content":[{"role":"assistant"}]}],"other":[{"role":"assistant"}]}`, Head{Model: "m", N: 1},
		},
		{"messages that are none", `{"model":"m","messages":{"a":{"role":"assistant"}}}`, Head{Model: "m", N: 1}},
		{"more messages", `{"model":"m","messages":null,"Messages":[{"role":"assistant"}]}`, Head{Model: "m", N: 1}},
		{
			"schema", `{"model":"m","response_format":{"json_schema":{"type":"object"},"type":"json_schema"},"logprobs":true}`,
			Head{Model: "m", JSONSchema: true, Logprobs: true, N: 1},
		},
		{
			"object", `{"model":"m","response_format":{"type":"json_object"},"logprobs":false,"reasoning_effort":"low"}`,
			Head{Model: "m", JSONObject: true, Reasoning: true, N: 1},
		},
		{
			"plain", `{"model":"m","response_format":{"type":"text"},"logprobs":5,"reasoning_effort":"none","reasoning":null}`,
			Head{Model: "m", N: 1},
		},
		{"hints twice", `{"model":"m","logprobs":true,"logprobs":null,"response_format":{"type":"json_object"},"response_format":1}`, Head{Model: "m", N: 1}},
		{"reasoning", `{"model":"m","reasoning":{"exclude":true}}`, Head{Model: "m", Reasoning: true, N: 1}},
		{"reasoning off", `{"model":"m","reasoning":{"enabled":false,"max_tokens":5}}`, Head{Model: "m", N: 1}},
		{"no reasoning effort", `{"model":"m","reasoning":{"effort":"none"},"reasoning_effort":null}`, Head{Model: "m", N: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ReadHead([]byte(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, exportedOnly); diff != "" {
				t.Errorf("head (-want +got):\n%s", diff)
			}
			checkHead(t, []byte(tc.body))
		})
	}
}

func TestReadHeadRefusesMore(t *testing.T) {
	testRefusals(t, []refusalTest{
		{"provider text", `{"model":"m","provider":"a"}`, "provider", "neither an object nor null"},
		{"provider array", `{"model":"m","provider":[]}`, "provider", "neither an object nor null"},
		{"provider twice", `{"model":"m","provider":{},"provider":null}`, "provider", "given twice"},
		{"provider in capitals", `{"model":"m","Provider":{}}`, "provider", "other letter case"},
		{"provider cut", `{"provider":{"a":1`, "", "object or array without end"},
		{"provider too deep", `{"provider":{"a":` + nest(63) + `}}`, "", "nested deeper than 64"},
		{"models text", `{"models":"a"}`, "models", "neither an array nor null"},
		{"models empty", `{"model":"m","models":[ ]}`, "models", "models is empty"},
		{"models null alone", `{"models":null}`, "model", "model is missing"},
		{"models of a number", `{"models":["a",1]}`, "models", "something that is not a string"},
		{"models of nothing", `{"models":[""]}`, "models", "holds a name that is empty"},
		{"models of halves", `{"models":["\ud83d"]}`, "models", "not valid Unicode"},
		{"model null", `{"model":null,"models":["a"]}`, "model", "model is not a string"},
		{"too many models", `{"models":["1","2","3","4","5","6","7","8","9"]}`, "models", "more than 8"},
		{"models without commas", `{"models":["a" "b"]}`, "", "no comma or end"},
		{"models with a comma", `{"models":["a",]}`, "models", "something that is not a string"},
		{"models cut", `{"models":["a`, "", "string without end"},
		{"models twice", `{"models":["a"],"models":["a"]}`, "models", "given twice"},
		{"models in capitals", `{"model":"m","\u004dodels":["a"]}`, "models", "other letter case"},
		{"session twice", `{"model":"m","session_id":"a","session_id":1}`, "session_id", "given twice"},
		{"session in capitals", `{"model":"m","Session_ID":"a"}`, "session_id", "other letter case"},
		{"cache key twice", `{"model":"m","prompt_cache_key":"a","prompt_cache_key":"a"}`, "prompt_cache_key", "given twice"},
		{"messages twice", `{"model":"m","messages":[],"messages":[]}`, "messages", "given twice"},
	})
}

func TestParts(t *testing.T) {
	for _, tc := range []struct{ body, provider, messages string }{
		{`{"model":"m"}`, "", ""},
		{`{"model":"m","provider":null,"messages":null}`, "", "null"},
		{` { "messages": [ {"role":"user"} ] , "model":"m","provider": { "sort" : "price" } }`, `{ "sort" : "price" }`, `[ {"role":"user"} ]`},
	} {
		body := []byte(tc.body)
		h, err := ReadHead(body)
		if err != nil {
			t.Fatal(err)
		}
		provider := h.Provider(body)
		if string(provider) != tc.provider || string(h.Messages(body)) != tc.messages {
			t.Errorf("%s: provider %s, messages %s", tc.body, provider, h.Messages(body))
		}
		if cap(provider) != len(provider) {
			t.Error("to append to the provider writes into the body")
		}
		body = h.ForEngine(body, "a longer name")
		if h.Provider(body) != nil || string(h.Messages(body)) != tc.messages {
			t.Errorf("%s: afterwards provider %s, messages %s", tc.body, h.Provider(body), h.Messages(body))
		}
	}
}

// checkHints holds what is read loosely against encoding/json.
func checkHints(t *testing.T, h *Head, body []byte) {
	t.Helper()
	var top map[string]json.RawMessage
	if err := json.Unmarshal(body, &top); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(top["messages"]), string(h.Messages(body))); diff != "" {
		t.Fatalf("messages (-json +ours):\n%s", diff)
	}
	if raw := string(top["provider"]); raw != string(h.Provider(body)) && raw != "null" {
		t.Fatalf("provider is %s, want %s", h.Provider(body), raw)
	}
	var messages []struct {
		Role any `json:"role"`
	}
	// They may differ where role is doubled, escaped, missing or in other letter case.
	text := string(top["messages"])
	spoke, clear := false, json.Unmarshal(top["messages"], &messages) == nil && !strings.Contains(text, `\u`) &&
		strings.Count(text, "role") == len(messages) && strings.Count(strings.ToLower(text), "role") == len(messages)
	for _, m := range messages {
		spoke, clear = spoke || m.Role == "assistant", clear && m.Role != nil
	}
	if clear && spoke != h.History {
		t.Fatalf("history is %v, want %v", h.History, spoke)
	}
	for want, got := range map[string]string{string(top["session_id"]): h.Session, string(top["prompt_cache_key"]): h.CacheKey} {
		var text string
		if utf8.ValidString(want) && json.Unmarshal([]byte(want), &text) == nil && got != text && IsText(text, sessionMax) {
			t.Fatalf("%q is read of %s", got, want)
		}
	}
}
