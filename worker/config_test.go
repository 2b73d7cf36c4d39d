package worker

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cocoon/internal/config"
	"cocoon/internal/nanoton"
	"cocoon/router/offer"
	"cocoon/worker/engine"
)

const pinText = "00000000000000000000000000000000000000000000000000000000000000aa"

func load(t *testing.T, text string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "worker.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return LoadConfig(path)
}

func TestConfigLoads(t *testing.T) {
	got, err := load(t, `
name: gpu-1
data_dir: /d
gateways: [{address: "a:1", pin: `+pinText+`}, {address: "[::1]:2"}]
engine: {url: http://e:1/v1, kind: openai, slots: 8, queue: 0, key_file: /k, idle_timeout: 90s, answer_timeout: 1h}
price: {in: 5, out: 15}
models:
  - {name: org/m, engine_name: x, context_tokens: 100, features: [chat, tools], quantization: fp8, price: {in: 1, cached: 0, out: 2}}
ops_listen: 127.0.0.1:9
log_level: debug
`)
	if err != nil {
		t.Fatal(err)
	}
	zero := nanoton.Amount(0)
	want := Config{
		Name: "gpu-1", DataDir: "/d", Gateways: []Gateway{{"a:1", pinText}, {Address: "[::1]:2"}},
		Engine: Engine{
			URL: "http://e:1/v1", Kind: "openai", Slots: 8, KeyFile: "/k", IdleTimeout: 90e9, AnswerTimeout: 3600e9,
		},
		Price: Price{In: 5, Out: 15},
		Models: []Model{{
			Name: "org/m", EngineName: "x", ContextTokens: 100, Features: []string{"chat", "tools"}, Quantization: "fp8",
			Price: &Price{In: 1, Cached: &zero, Out: 2},
		}},
		OpsListen: "127.0.0.1:9", LogLevel: slog.LevelDebug,
	}
	if d := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Config{})); d != "" {
		t.Errorf("wrong configuration (-want +got):\n%s", d)
	}
	if p := got.Price.offered(); p != (offer.Price{In: 5, Cached: 5, Out: 15}) {
		t.Errorf("price without cached is offered as %+v", p)
	}
	if p := got.Models[0].Price.offered(); p != (offer.Price{In: 1, Out: 2}) {
		t.Errorf("price with cached 0 is offered as %+v", p)
	}
}

func TestConfigDefaults(t *testing.T) {
	got, err := load(t, "data_dir: /d\ngateways: [{address: a:1}]\n")
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig()
	want.DataDir, want.Gateways = "/d", []Gateway{{Address: "a:1"}}
	if d := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Config{})); d != "" {
		t.Errorf("wrong defaults (-want +got):\n%s", d)
	}
}

func TestConfigRefuses(t *testing.T) {
	const good = "data_dir: /d\ngateways: [{address: a:1}]\n"
	for text, says := range map[string]string{
		"":                           "data_dir",
		"gateways: [{address: a:1}]": "data_dir",
		"data_dir: /d":               "gateways",
		good + "nmae: x":             "nmae",
		good + "engine: {slot: 1}":   "slot",
		good + "name: a b":           "name",
		good + "name: " + strings.Repeat("a", 300):                                 "name",
		"data_dir: /d\ngateways: [{address: a}]":                                   "gateways[0].address",
		"data_dir: /d\ngateways: [{address: ':1'}]":                                "gateways[0].address",
		"data_dir: /d\ngateways: [{address: a:1},{address: a:1}]":                  "twice",
		"data_dir: /d\ngateways: [{address: a:1, pin: zz}]":                        "gateways[0].pin",
		good + "engine: {url: 'ollama:11434'}":                                     "engine.url",
		good + "engine: {kind: vllm}":                                              "engine.kind",
		good + "engine: {slots: -1}":                                               "engine.slots",
		good + "engine: {queue: 100000}":                                           "engine.queue",
		good + "engine: {idle_timeout: -1s}":                                       "engine.idle_timeout",
		good + "engine: {answer_timeout: -1s}":                                     "engine.answer_timeout",
		good + "price: {in: -1}":                                                   "price",
		good + "price: {out: 1000000000001}":                                       "price",
		good + "price: {in: 0.5}":                                                  "0.5",
		good + "models: [{name: ''}]":                                              "models[0].name",
		good + "models: [{name: a}, {name: a}]":                                    "models[1].name",
		good + "models: [{name: a, context_tokens: -1}]":                           "models[0].context_tokens",
		good + "models: [{name: a, features: ['a b']}]":                            "models[0].features",
		good + "models: [{name: a, quantization: q4}]":                             "models[0].quantization",
		good + "models: [{name: a, price: {cached: -1}}]":                          "models[0].price",
		good + "ops_listen: 9091":                                                  "ops_listen",
		good + "log_level: loud":                                                   "loud",
		good + "models: [{name: a, features: [" + strings.Repeat("a,", 40) + "]}]": "models[0].features",
		good + "models: [" + strings.Repeat("{name: a},", offer.OffersMax+1) + "]": "models: 257",
		good + "# " + strings.Repeat("x", config.Max):                              "longer than",
		"data_dir: /d\ngateways: [" + strings.Repeat("{address: a:1},", 65) + "]":  "gateways: 65",
		"data_dir: [/d]\ngateways: [{address: a:1}]":                               "string",
		"data_dir: /d\ndata_dir: /e\ngateways: [{address: a:1}]":                   "data_dir",
	} {
		if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.80q: %v, want an error that says %q", text, err, says)
		}
	}
}

// testAddress takes the place of addresses on TON, which the sample leaves to its reader.
const testAddress = "UQA99zTjk_Cd4JkR7l8Q2u4MAP8xYvSW32IsD5YiYj8D04RY"

// TestSampleConfig loads the sample as it is, and with all its commented fields.
func TestSampleConfig(t *testing.T) {
	const path = "../configs/worker.yaml"
	if _, err := LoadConfig(path); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for line := range strings.Lines(string(text)) {
		bare := strings.TrimLeft(line, " ")
		if strings.HasPrefix(bare, "#") && (bare[1] != ' ' || strings.HasPrefix(bare, "#  ")) {
			line = strings.Replace(line, "#", "", 1)
		}
		all.WriteString(strings.ReplaceAll(line, "UQ...", testAddress))
	}
	c, err := load(t, all.String())
	if err != nil {
		t.Fatalf("with all fields: %v", err)
	}
	if len(c.Models) != 2 || c.Registry == nil || c.Payout == nil || c.OpsListen == "" || c.Engine.KeyFile == "" {
		t.Errorf("not all fields were there: %+v", c)
	}
}

func TestEngineKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	e := Engine{KeyFile: path}
	if _, err := e.key(); err == nil {
		t.Error("a missing key file is no error")
	}
	for text, want := range map[string]string{"k1\n": "k1", " \n": "", strings.Repeat("x", keyFileMax+1): ""} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		key, err := e.key()
		if key != want || (err == nil) != (want != "") {
			t.Errorf("key of %.10q is %q, %v", text, key, err)
		}
		if err != nil && strings.Contains(err.Error(), "xxx") {
			t.Error("error tells the key")
		}
	}
}

func TestCatalog(t *testing.T) {
	status := engine.Status{Engine: "e 1", Slots: 3, Models: []engine.Model{
		{Name: "b:latest", ContextTokens: 100, Features: []string{"chat"}},
		{Name: "a", ContextTokens: 50, WeightsDigest: "sha256:" + strings.Repeat("0", 64)},
		{Name: "mute"},
		{Name: "bad name", ContextTokens: 5},
	}}
	models := func(c Config) map[string]offer.Offer {
		out := map[string]offer.Offer{}
		for _, o := range c.build(nil, status, new(Prices), slog.New(slog.DiscardHandler)).offers {
			out[o.Model] = o
		}
		return out
	}
	c := DefaultConfig()
	c.Price = Price{In: 1, Out: 2}
	got := models(c)
	want := map[string]offer.Offer{
		"b": {Model: "b", Engine: "e 1", ContextTokens: 100, Features: []string{"chat"}, Price: offer.Price{In: 1, Cached: 1, Out: 2}, Slots: 3, Capacity: 7},
		"a": {
			Model: "a", Engine: "e 1", ContextTokens: 50, WeightsDigest: "sha256:" + strings.Repeat("0", 64),
			Price: offer.Price{In: 1, Cached: 1, Out: 2}, Slots: 3, Capacity: 7,
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("wrong offers (-want +got):\n%s", d)
	}
	c.Engine.Slots, c.Engine.Queue = 5, 0
	c.Models = []Model{
		{Name: "public", EngineName: "b", ContextTokens: 70, Features: []string{"tools"}, Price: &Price{In: 9}},
		{Name: "mute", ContextTokens: 8},
		{Name: "gone"},
	}
	got = models(c)
	if len(got) != 2 || got["mute"].ContextTokens != 8 {
		t.Errorf("offers are %+v", got)
	}
	want["b"] = offer.Offer{Model: "public", Engine: "e 1", ContextTokens: 70, Features: []string{"tools"}, Price: offer.Price{In: 9, Cached: 9}, Slots: 5, Capacity: 5}
	if d := cmp.Diff(want["b"], got["public"]); d != "" {
		t.Errorf("wrong offer (-want +got):\n%s", d)
	}
}
