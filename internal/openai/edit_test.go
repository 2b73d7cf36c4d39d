package openai

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestForEngine(t *testing.T) {
	for _, tc := range []struct{ name, body, model, want string }{
		{"nothing", `{"model":"m", "n":1}`, "m", `{"model":"m", "n":1}`},
		{"escaped model stays", `{"model":"a\/\u0062"}`, "a/b", `{"model":"a\/\u0062"}`},
		{"suffix", `{"model": "m:floor" ,"n":1}`, "m", `{"model": "m" ,"n":1}`},
		{"longer model", `{"n":1,"model":"m","x":[2]}`, `a "name"`, `{"n":1,"model":"a \"name\"","x":[2]}`},
		{"first", `{"provider":{"a":"}"},"model":"m"}`, "m", `{"model":"m"}`},
		{"first, spaced", "{ \"provider\" : {} \n , \"model\":\"m\"}", "m", `{ "model":"m"}`},
		{"middle", `{"a":1,"session_id":"s","model":"m"}`, "m", `{"a":1,"model":"m"}`},
		{"middle, spaced", "{\"a\":1 ,\n \"session_id\" : 5 ,\t\"model\":\"m\"}", "m", "{\"a\":1 ,\t\"model\":\"m\"}"},
		{"last", `{"model":"m","provider":null}`, "m", `{"model":"m"}`},
		{"last, spaced", "{\"model\":\"m\" , \"provider\":null\n} ", "m", "{\"model\":\"m\"\n} "},
		{"first two", `{"provider":{},"session_id":"s","model":"m"}`, "m", `{"model":"m"}`},
		{"last two", `{"model":"m","provider":{},"session_id":"s"}`, "m", `{"model":"m"}`},
		{"all three apart", `{"provider":{},"model":"m","session_id":"s","n":1,"models":["b"]}`, "m", `{"model":"m","n":1}`},
		{"all three together", `{"n":1,"provider":{},"session_id":"s","models":["b"],"model":"m"}`, "b", `{"n":1,"model":"b"}`},
		{"models alone", `{"models":["a","b"]}`, "a", `{"model":"a"}`},
		{"models alone, spaced", ` { "models" : ["a","b"] } `, "b", ` { "model":"b"} `},
		{"ours alone", `{"provider":{},"models":["a"],"session_id":""}`, "a", `{"model":"a"}`},
		{"no model", `{"models":["a"],"n":1}`, "a", `{"n":1,"model":"a"}`},
		{"no model but others", `{"n":1,"models":["a"],"stream":true, "session_id":""}`, "a", `{"n":1,"stream":true,"model":"a"}`},
		{"longer and shorter", `{"model":"m","provider":{},"n":1,"models":["b"],"c":2}`, "a much longer name", `{"model":"a much longer name","n":1,"c":2}`},
		{"a little longer", `{"a":1,"model":"m","b":2,"session_id":3,"c":4}`, "12345", `{"a":1,"model":"12345","b":2,"c":4}`},
		{"escaped keys", `{"pro\u0076ider":{},"model":"m"}`, "m", `{"model":"m"}`},
		{"the same below", `{"model":"m","x":{"provider":{},"models":[1]}}`, "m", `{"model":"m","x":{"provider":{},"models":[1]}}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, spare := range []int{0, 5, 64} {
				body := append(make([]byte, 0, len(tc.body)+spare), tc.body...)
				h, err := ReadHead(body)
				if err != nil {
					t.Fatal(err)
				}
				got := h.ForEngine(body, tc.model)
				if string(got) != tc.want || h.Model != tc.model {
					t.Errorf("body is %s, want %s", got, tc.want)
				}
				if len(got) <= cap(body) && &got[0] != &body[0] {
					t.Error("it is copied")
				}
				if again := h.ForEngine(got, tc.model); string(again) != tc.want {
					t.Errorf("once more it is %s", again)
				}
				if moved := h.WithModel(got, "x"); !strings.Contains(string(moved), `"x"`) || !json.Valid(moved) {
					t.Errorf("with another model it is %s", moved)
				}
			}
			checkForEngine(t, []byte(tc.body), tc.model, []byte("uflmsc"))
		})
	}
}

// What is put in at the end of an object is no part of the value that stands there.
func TestEditsAtTheEnd(t *testing.T) {
	for _, tc := range []struct{ body, want string }{
		{
			`{"stream":true,"max_tokens":9,"model":"m"}`,
			`{"stream":true,"max_tokens":3,"model":"x","stream_options":{"include_usage":true}}`,
		},
		{
			`{"stream":true,"model":"m","max_tokens":9}`,
			`{"stream":true,"model":"x","max_tokens":3,"stream_options":{"include_usage":true}}`,
		},
		{
			`{"stream":true,"models":["m"]}`,
			`{"stream":true,"stream_options":{"include_usage":true},"max_tokens":3,"model":"x"}`,
		},
	} {
		body := []byte(tc.body)
		h, err := ReadHead(body)
		if err != nil {
			t.Fatal(err)
		}
		body = h.WithUsage(body)
		body = h.WithLimit(body, 3)
		if body = h.ForEngine(body, "x"); string(body) != tc.want {
			t.Errorf("%s becomes %s, want %s", tc.body, body, tc.want)
		}
	}
}

// checkForEngine makes edits, one for each letter, and holds the result against encoding/json.
func checkForEngine(t *testing.T, body []byte, model string, edits []byte) {
	t.Helper()
	h, err := ReadHead(body)
	if err != nil {
		return
	}
	if again, _ := ReadHead(body); !IsText(model, modelMax) || model == "" || strings.ContainsRune(model, utf8.RuneError) {
		model = again.Model
	}
	const limit, salt = 7, "a \"salt\""
	valid, removed := json.Valid(body), validMembers(body, h.ours[:h.oursN])
	if valid {
		checkHints(t, &h, body)
	}
	changed := []string{"stream_options", "max_tokens", "max_completion_tokens", "n_predict", "cache_salt", "model"}
	got, named := bytes.Clone(body), h.Model
	for i, e := range edits {
		switch e {
		case 'f':
			got, named = h.ForEngine(got, model), model
			changed = append(changed, "provider", "models", "session_id")
		case 'u':
			got = h.WithUsage(got)
		case 'c':
			if bytes.IndexByte(edits, e) == i { // twice would double its key
				got = h.WithContinuousUsage(got)
			}
		case 'l':
			got = h.WithLimit(got, limit)
		case 'm':
			named += "!"
			got = h.WithModel(got, named)
		case 's':
			got = h.WithCacheSalt(got, salt)
		}
	}
	did := func(letters string) bool { return bytes.ContainsAny(edits, letters) }
	if json.Valid(got) != valid && (valid || removed) {
		t.Fatalf("valid before: %v, after: %v\n%s\n%s", valid, !valid, body, got)
	}
	if !valid {
		return
	}
	again, err := ReadHead(got)
	if err != nil && len(named) <= modelMax {
		t.Fatalf("edited body is not to be read: %v\n%s\n%s", err, body, got)
	}
	if err == nil && (did("fm") && again.Model != named || did("uc") && again.Stream && !again.IncludeUsage ||
		did("l") && (again.Limit < 1 || again.Limit > limit) || did("s") && again.CacheSalt != salt) {
		t.Fatalf("edits %s of\n%s\nmake\n%s\nhead %+v", edits, body, got, again)
	}
	if diff := cmp.Diff(without(t, body, changed), without(t, got, changed)); diff != "" {
		t.Fatalf("edits %s changed other members (-before +after):\n%s", edits, diff)
	}
}

// without is an object's members, as they are written, but for some.
func without(t *testing.T, body []byte, names []string) map[string]string {
	t.Helper()
	var top map[string]json.RawMessage
	if err := json.Unmarshal(body, &top); err != nil {
		t.Fatal(err)
	}
	rest := map[string]string{}
	for name, raw := range top {
		rest[name] = string(raw)
	}
	for _, name := range names {
		delete(rest, name)
	}
	return rest
}

// validMembers tells whether the members that are to be removed are valid JSON.
func validMembers(body []byte, spans []span) bool {
	for _, at := range spans {
		member := bytes.TrimLeft(body[at.start:at.end], " \t\r\n,")
		if !json.Valid(append(append([]byte("{"), member...), '}')) {
			return false
		}
	}
	return true
}

func FuzzForEngine(f *testing.F) {
	for _, s := range []string{
		`{"model":"m"}`, `{"models":["a","b"],"stream":true}`, `{"provider":{},"session_id":"s","model":"m","stream":true,"max_tokens":5}`,
		"{ \"stream\":true , \"models\" : [\"x\"] ,\n\"provider\":null }", `{"messages":[{"role":"assistant"}],"session_id":{"a":[]},"model":"\u0061"}`,
		`{"stream_options":{},"stream":true,"cache_salt":"s","model":"m","provider":{"a":tru}}`,
	} {
		f.Add([]byte(s), "m", []byte("f"))
		f.Add([]byte(s), "a longer \"name\"", []byte("ulfscmf"))
	}
	f.Fuzz(func(t *testing.T, body []byte, model string, edits []byte) {
		checkForEngine(t, body, model, edits[:min(len(edits), 12)])
	})
}

func TestForEngineAllocates(t *testing.T) {
	plain := request(4 << 10)
	if n := testing.AllocsPerRun(100, func() {
		h, err := ReadHead(plain)
		if err != nil {
			t.Fatal(err)
		}
		if body := h.ForEngine(plain, "llama-3.1-8b"); len(body) != len(plain) {
			t.Fatal("it is changed")
		}
	}); n > 1 {
		t.Errorf("a request that stays as it is costs %v allocations, want only the model's name", n)
	}
}

func BenchmarkForEngine(b *testing.B) {
	text := bytes.Replace(request(32<<10), []byte(`"messages"`), []byte(`"session_id":"s","provider":{"sort":"price"},"messages"`), 1)
	body := bytes.Clone(text)
	h, err := ReadHead(body)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		again := h
		again.ForEngine(body, "llama")
		copy(body, text)
	}
}
