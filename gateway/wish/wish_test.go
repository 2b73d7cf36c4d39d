package wish

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/openai"
	"cocoon/router"
)

// parse reads what has to be right.
func parse(t *testing.T, text string) Wish {
	t.Helper()
	w, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return w
}

func TestParse(t *testing.T) {
	id := strings.Repeat("0123456789ABCDEF", 4)
	no := router.NoWish
	with := func(f func(w *router.Wish)) router.Wish { w := no(); f(&w); return w }
	for text, want := range map[string]router.Wish{
		``: no(), ` null `: no(), `{}`: no(),
		`{"order":null,"sort":null,"max_price":null,"hedge":null,"preferred_max_latency":null,"zdr":null}`: no(),
		`{"data_collection":"deny","zdr":true}`: no(),
		"\n{ \"order\" : [ \"Berlin\" , \"" + id + "\" ] ,\"ignore\":[] } ": with(func(w *router.Wish) {
			w.Order = []string{"berlin", strings.ToLower(id)}
		}),
		`{"only":["É"],"ignore":["b","b"],"allow_fallbacks":false,"require_parameters":true}`: with(func(w *router.Wish) {
			w.Only, w.Ignore, w.NoFallbacks, w.RequireParameters = []string{"é"}, []string{"b", "b"}, true, true
		}),
		`{"allow_fallbacks":true,"sort":"balanced"}`:                  no(),
		`{"sort":"price"}`:                                            with(func(w *router.Wish) { w.Sort = router.Price }),
		`{"sort": {"by":"throughput","partition":"none"}}`:            with(func(w *router.Wish) { w.Sort = router.Throughput }),
		`{"sort": {"partition":"model","by":"latency"}}`:              with(func(w *router.Wish) { w.Sort = router.Latency }),
		`{"max_price":{}}`:                                            no(),
		`{"max_price":{"request":0,"image":"7.0","audio":12.00}}`:     no(),
		`{"max_price":{"completion": 0}}`:                             with(func(w *router.Wish) { w.MaxPrice.Out = 0 }),
		`{"max_price":{"cached":5}}`:                                  with(func(w *router.Wish) { w.MaxPrice.Cached = 5 }),
		`{"max_price":{"prompt":9223372036854775807}}`:                with(func(w *router.Wish) { w.MaxPrice.In, w.MaxPrice.Cached = 1<<63-1, 1<<63-1 }),
		`{"max_price":{"cached":1,"prompt":"20","completion":30.0}}`:  with(func(w *router.Wish) { w.MaxPrice = router.Cap{In: 20, Cached: 1, Out: 30} }),
		`{"max_price":{"prompt":"20","cached":null}}`:                 with(func(w *router.Wish) { w.MaxPrice.In, w.MaxPrice.Cached = 20, 20 }),
		`{"quantizations":["FP8","unknown"]}`:                         with(func(w *router.Wish) { w.Quantizations = []string{"fp8", "unknown"} }),
		`{"preferred_min_throughput":40.5,"preferred_max_latency":3}`: with(func(w *router.Wish) { w.MinThroughput, w.MaxLatency = 40.5, 3*time.Second }),
		`{"preferred_max_latency":{"p99":5,"p75":1.5,"p90":3}}`:       with(func(w *router.Wish) { w.MaxLatency = 1500 * time.Millisecond }),
		`{"preferred_min_throughput":{"p50":50,"p99":10}}`:            with(func(w *router.Wish) { w.MinThroughput = 50 }),
		`{"preferred_min_throughput":{"p50":null,"p90":10},"preferred_max_latency":{}}`: with(func(w *router.Wish) {
			w.MinThroughput = 10
		}),
		`{"attestation":"sealed"}`:                       with(func(w *router.Wish) { w.MinTrust = router.Sealed }),
		`{"attestation":"gateway"}`:                      with(func(w *router.Wish) { w.MinTrust = router.Gateway }),
		`{"attestation":"unprotected","\u0073ort":null}`: with(func(w *router.Wish) { w.MinTrust = router.Unprotected }),
		`{"attestation":"simulated"}`:                    no(),
	} {
		if diff := cmp.Diff(want, parse(t, text).Wish); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
	if !parse(t, `{"hedge":true}`).Hedge || parse(t, `{"hedge":false}`).Hedge {
		t.Error("hedge is lost")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tc := range []struct{ text, param, want string }{
		{`[]`, "provider", "provider is not an object"},
		{`"a"`, "provider", "is not an object"},
		{`{"sort":}`, "provider", "is not valid JSON"},
		{`{} {}`, "provider", "is not valid JSON"},
		{strings.Repeat("[", 12000), "provider", "is not valid JSON"},
		{`{"order":` + strings.Repeat("[", 8000) + strings.Repeat("]", 8000) + `}`, "provider.order", "has an entry that is not"},
		{"{\"order\":[\"\xff\"]}", "provider", "is not valid UTF-8"},
		{`{"order":[` + strings.Repeat(" ", TextMax) + `]}`, "provider", "is longer than 16 KiB"},
		{`{"Order":["a"]}`, "provider.Order", `provider has no member "Order"; there are allow_fallbacks, attestation, `},
		{`{"enforce_distillable_text":null}`, "provider.enforce_distillable_text", "has no member"},
		{`{"` + strings.Repeat("é", 100) + `":1}`, "provider." + strings.Repeat("é", 20) + "...", "has no member"},
		{`{"":1}`, "provider.", `has no member ""`},
		{`{"sort":"price","sort":"price"}`, "provider.sort", "provider.sort is given twice"},
		{`{"sort":null,"s\u006frt":null}`, "provider.sort", "given twice"},
		{`{"order":"a"}`, "provider.order", "provider.order is not an array"},
		{`{"only":[1]}`, "provider.only", "an entry that is not 1 to 256 printable bytes"},
		{`{"ignore":[null]}`, "provider.ignore", "an entry that is not"},
		{`{"order":[""]}`, "provider.order", "an entry that is not"},
		{`{"order":["a\n"]}`, "provider.order", "an entry that is not"},
		{`{"order":["` + strings.Repeat("a", 257) + `"]}`, "provider.order", "an entry that is not"},
		{`{"order":["a"` + strings.Repeat(`,"a"`, 64) + `]}`, "provider.order", "has 65 entries, at most 64"},
		{`{"allow_fallbacks":0}`, "provider.allow_fallbacks", "is neither true, false nor null"},
		{`{"require_parameters":"true"}`, "provider.require_parameters", "is neither true"},
		{`{"zdr":1}`, "provider.zdr", "is neither true"},
		{`{"hedge":[]}`, "provider.hedge", "is neither true"},
		{`{"data_collection":"maybe"}`, "provider.data_collection", "is neither allow nor deny"},
		{`{"data_collection":true}`, "provider.data_collection", "is neither allow nor deny"},
		{`{"sort":"Price"}`, "provider.sort", "is none of price, throughput, latency or balanced"},
		{`{"sort":1}`, "provider.sort", "is none of"},
		{`{"sort":{"by":"cost"}}`, "provider.sort.by", "provider.sort.by is none of"},
		{`{"sort":{"by":{"by":"price"}}}`, "provider.sort.by", "is not a string"},
		{`{"sort":{"partition":5}}`, "provider.sort.partition", "is not a string"},
		{`{"sort":{"order":"asc"}}`, "provider.sort.order", `provider.sort has no member "order"; there are by, partition`},
		{`{"max_price":5}`, "provider.max_price", "is not an object"},
		{`{"max_price":{"input":5}}`, "provider.max_price.input", "there are prompt, completion, cached, request, image, audio"},
		{`{"max_price":{"prompt":-1}}`, "provider.max_price.prompt", "not a number of whole nanoTON"},
		{`{"max_price":{"prompt":0.5}}`, "provider.max_price.prompt", "not a number of whole nanoTON"},
		{`{"max_price":{"prompt":1e9}}`, "provider.max_price.prompt", "without an exponent"},
		{`{"max_price":{"completion":"5."}}`, "provider.max_price.completion", "not a number"},
		{`{"max_price":{"completion":"+5"}}`, "provider.max_price.completion", "not a number"},
		{`{"max_price":{"completion":""}}`, "provider.max_price.completion", "not a number"},
		{`{"max_price":{"cached":9223372036854775808}}`, "provider.max_price.cached", "not a number"},
		{`{"max_price":{"request":true}}`, "provider.max_price.request", "not a number"},
		{`{"max_price":{"image":-0.5}}`, "provider.max_price.image", "not a number"},
		{`{"quantizations":["fp8","q4_0"]}`, "provider.quantizations", `has "q4_0", want some of int4, int8`},
		{`{"quantizations":"fp8"}`, "provider.quantizations", "is not an array"},
		{`{"preferred_min_throughput":"40"}`, "provider.preferred_min_throughput", "is not a number from 0 to 1e+09"},
		{`{"preferred_min_throughput":1e999}`, "provider.preferred_min_throughput", "is not a number"},
		{`{"preferred_max_latency":-1}`, "provider.preferred_max_latency", "is not a number from 0 to 86400"},
		{`{"preferred_max_latency":86401}`, "provider.preferred_max_latency", "is not a number"},
		{`{"preferred_max_latency":{"p95":1}}`, "provider.preferred_max_latency.p95", "there are p50, p75, p90, p99"},
		{`{"preferred_max_latency":{"p99":"1"}}`, "provider.preferred_max_latency.p99", "is not a number"},
		{`{"attestation":"none"}`, "provider.attestation", "is none of sealed, gateway, unprotected or simulated"},
		{`{"attestation":3}`, "provider.attestation", "is none of"},
	} {
		w, err := Parse([]byte(tc.text))
		if err == nil || err.Status != 400 || err.Param != tc.param || !strings.Contains(err.Message, tc.want) {
			t.Errorf("%.80s: %+v, want param %q and %q", tc.text, err, tc.param, tc.want)
		}
		if diff := cmp.Diff(router.NoWish(), w.Wish); diff != "" {
			t.Errorf("%.80s: a refused wish is\n%s", tc.text, diff)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"order":["A"],"sort":{"by":"price","partition":null},"max_price":{"prompt":"1.0","completion":2}}`, `null`,
		`{"preferred_max_latency":{"p50":1.5},"quantizations":["fp8"],"attestation":"sealed","hedge":true,"zdr":false}`, `{"":[{"a":null}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		w, err := Parse(text)
		if err != nil {
			if err.Status != 400 || !strings.HasPrefix(err.Param, "provider") || err.Message == "" || len(err.Message) > 1000 || !json.Valid(err.Append(nil)) {
				t.Fatalf("error is %+v", err)
			}
			return
		}
		if len(w.Order)+len(w.Only)+len(w.Ignore)+len(w.Quantizations) > 4*listMax || w.MaxLatency < 0 || !(w.MinThroughput >= 0) {
			t.Fatalf("wish is %+v", w)
		}
		for _, list := range [][]string{w.Order, w.Only, w.Ignore} {
			for _, name := range list {
				if name == "" || strings.ToLower(name) != name {
					t.Fatalf("name is %q", name)
				}
			}
		}
		if none := None(); !reflect.DeepEqual(Merge(none, w), w) || !reflect.DeepEqual(Merge(w, none), w) {
			t.Fatal("to merge it with nothing changes it")
		}
		var any map[string]any
		if len(strings.TrimSpace(string(text))) > 0 && json.Unmarshal(text, &any) != nil {
			t.Fatal("it is no JSON object")
		}
	})
}

func TestMerge(t *testing.T) {
	defaults := `{"order":["a"],"only":["b"],"ignore":["c"],"allow_fallbacks":false,"require_parameters":true,"sort":"price",` +
		`"max_price":{"prompt":1,"completion":2},"quantizations":["fp8"],"preferred_min_throughput":3,"preferred_max_latency":4,` +
		`"attestation":"sealed","hedge":true}`
	d := parse(t, defaults)
	if diff := cmp.Diff(d, Merge(d, None()), cmp.AllowUnexported(Wish{})); diff != "" {
		t.Errorf("a request that asks nothing (-defaults +merged):\n%s", diff)
	}
	// What is named wins, also where it asks nothing.
	all := `{"order":[],"only":[],"ignore":[],"allow_fallbacks":true,"require_parameters":false,"sort":"balanced","max_price":{},` +
		`"quantizations":[],"preferred_min_throughput":0,"preferred_max_latency":0,"attestation":"simulated","hedge":false}`
	if got := Merge(d, parse(t, all)); cmp.Diff(None().Wish, got.Wish) != "" || got.Hedge {
		t.Errorf("a request that takes all back: %+v", got)
	}
	got := Merge(d, parse(t, `{"max_price":{"completion":9},"only":["x"],"sort":null}`))
	want := parse(t, defaults)
	want.Only, want.MaxPrice = []string{"x"}, router.Cap{In: -1, Cached: -1, Out: 9}
	if diff := cmp.Diff(want.Wish, got.Wish); diff != "" {
		t.Errorf("a request that names two (-want +got):\n%s", diff)
	}
}

func TestFor(t *testing.T) {
	none := router.NoWish().MaxPrice
	w, err := For(nil, nil, none)
	if err != nil || w.Router() != nil {
		t.Errorf("nothing is asked, but the router gets %+v, %v", w.Router(), err)
	}
	d := ReadDefaults(json.RawMessage(`{"sort":"price","max_price":{"prompt":10,"completion":10},"hedge":true}`))
	w, err = For(&d, nil, none)
	if err != nil || w.Router() == nil || w.Sort != router.Price || !w.Hedge {
		t.Errorf("defaults: %+v, %v", w, err)
	}
	w, err = For(&d, []byte(`{"max_price":{"prompt":50,"cached":1}}`), router.Cap{In: 20, Cached: 20, Out: 30})
	if err != nil || w.MaxPrice != (router.Cap{In: 20, Cached: 1, Out: 30}) || w.Sort != router.Price {
		t.Errorf("a key's cap: %+v, %v", w, err)
	}
	if w, err = For(nil, nil, router.Cap{In: 5, Cached: -1, Out: -1}); err != nil || w.Router() == nil || w.Router().MaxPrice.In != 5 {
		t.Errorf("a cap alone: %+v, %v", w, err)
	}
	if w, err = For(nil, []byte(`{"hedge":true}`), none); err != nil || w.Router() != nil || !w.Hedge {
		t.Errorf("hedge is not the router's: %+v, %v", w.Router(), err)
	}
	if _, err = For(&d, []byte(`{"sort":1}`), none); err == nil || err.Param != "provider.sort" {
		t.Errorf("a bad request: %v", err)
	}
	later := ReadDefaults(json.RawMessage(`{"attestation":"quantum"}`))
	if _, err = For(&later, []byte(`{}`), none); err == nil || err.Status != 500 || !strings.Contains(err.Message, "provider.attestation") {
		t.Errorf("defaults that can't be read: %v", err)
	}
	if d.Wish.MaxPrice.In != 10 {
		t.Error("the key's defaults were changed")
	}
}

func TestForModel(t *testing.T) {
	base := parse(t, `{"sort":"latency","ignore":["a"]}`)
	for name, want := range map[string]struct {
		model string
		sort  router.Sort
	}{
		"m:floor":          {"m", router.Price},
		"a/b:free:nitro":   {"a/b:free", router.Throughput},
		"m:floor:nitro":    {"m:floor", router.Throughput},
		"llama3.2:3b":      {"llama3.2:3b", router.Latency},
		"m:Floor":          {"m:Floor", router.Latency},
		"m:floor ":         {"m:floor ", router.Latency},
		":floor":           {":floor", router.Latency},
		"nitro":            {"nitro", router.Latency},
		"m:floor/x":        {"m:floor/x", router.Latency},
		"registry/x:nitro": {"registry/x", router.Throughput},
	} {
		model, w := base.ForModel(name)
		if model != want.model || w.Sort != want.sort || len(w.Ignore) != 1 {
			t.Errorf("%q: model %q, sort %d, want %q, %d", name, model, w.Sort, want.model, want.sort)
		}
	}
	if _, w := None().ForModel("m:floor"); w.Router() == nil {
		t.Error("the router is not told of a suffix")
	}
	if base.Sort != router.Latency {
		t.Error("the wishes themselves were changed")
	}
}

func TestSession(t *testing.T) {
	head := func(v ...string) http.Header { return http.Header{HeaderSession: v} }
	if http.CanonicalHeaderKey("x-session-id") != HeaderSession {
		t.Error("the header's name is not as net/http has it")
	}
	for _, tc := range []struct {
		body string
		h    http.Header
		want string
	}{
		{"", http.Header{}, ""},
		{"b", http.Header{}, "b"},
		{"", head("h"), "h"},
		{"b", head("h"), "b"},
		{"", head("h", "h"), ""},
		{"", head("a\x01"), ""},
		{"", head("\xff"), ""},
		{"", head(strings.Repeat("a", 257)), ""},
		{"", head(""), ""},
	} {
		if got := Session(tc.body, tc.h); got != tc.want {
			t.Errorf("%q and %q: %q, want %q", tc.body, tc.h, got, tc.want)
		}
	}
	head1, err := openai.ReadHead([]byte(`{"model":"m","session_id":"` + strings.Repeat("a", sessionMax) + `"}`))
	if err != nil || Session("", head(head1.Session)) != head1.Session {
		t.Error("header and body take other lengths")
	}
}

// Nothing that most requests do is to cost an allocation.
func TestForAllocates(t *testing.T) {
	d := ReadDefaults(json.RawMessage(`{"sort":"price","order":["a"]}`))
	none := router.NoWish().MaxPrice
	if n := testing.AllocsPerRun(100, func() {
		w, err := For(&d, nil, none)
		if _, w = w.ForModel("m:nitro"); err != nil || w.Sort != router.Throughput {
			t.Fatal(w, err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkParse(b *testing.B) {
	text := []byte(`{"order":["berlin","paris"],"sort":"price","max_price":{"prompt":100000000,"completion":400000000},"attestation":"gateway"}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}
