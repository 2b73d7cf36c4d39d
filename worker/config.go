package worker

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"cocoon/attest"
	"cocoon/attest/collateral"
	"cocoon/billing/ton"
	"cocoon/internal/config"
	"cocoon/internal/nanoton"
	"cocoon/internal/trust"
	"cocoon/internal/tunnel"
	"cocoon/router/offer"
	"cocoon/worker/engine"
)

// Config is worker.yaml. A field left out takes the default named at it; an unknown field is an error. Prices are whole
// nanoTON per million tokens: 1000000000 is 1 TON.
type Config struct {
	// Name is what gateways call this worker in lists and logs; it need not be unique. No spaces. Default "worker".
	Name string `yaml:"name"`
	// DataDir holds identity.pem, the key that gateways know this worker by. It is made at the first start. Whoever reads
	// it can pose as this worker; without it the worker is a new one that has to be approved again. It also holds the
	// receipts that gateways have not settled, at most some 512 MiB, and prices.json (see "cocoon-worker price"), which goes
	// before the prices here, and drain.json while it drains (see "cocoon-worker drain"). A second worker on it does not
	// start. Required.
	DataDir string `yaml:"data_dir"`
	// Gateways are those that this worker serves, all at once, with the same models and prices. At least one is required.
	Gateways []Gateway `yaml:"gateways"`
	// Engine is the inference server beside the worker.
	Engine Engine `yaml:"engine"`
	// Price holds for all models without a price of their own. Default 0: answers are given away.
	Price Price `yaml:"price"`
	// Models are the models to offer; others are not. Default: every model of the engine that can chat, under its own
	// name (for Ollama without ":latest").
	Models []Model `yaml:"models"`
	// Policy is the file of an appraisal policy that this worker holds its own machine against, GPUs included, before it
	// asks gateways to trust it; configs/policy.yaml is one. Default: none, so that only gateways judge.
	Policy string `yaml:"policy"`
	// Registry says, on the chain, which gateways there are and which releases. With it each of Gateways must be listed there
	// with its address and its key, which is its pin, and Policy takes its releases from there. The copy that is kept in
	// DataDir takes its place while the chain is out of reach. Default none.
	Registry *trust.Source `yaml:"registry"`
	// Collateral is where what vendors say about this machine's hardware is fetched, to be sent along with its evidence.
	// What is fetched is kept in DataDir.
	Collateral collateral.Services `yaml:"collateral"`
	// Payout says where gateways pay what this worker has earned: an address of your own on TON, the least that is worth a
	// transfer, and how often at most. Each gateway has limits of its own. With it the worker also keeps the vouchers that
	// gateways sign, in DataDir: "cocoon-worker vouchers claim" needs no gateway. Without it earnings stay with the gateways
	// until it is named. Default none.
	Payout *offer.Payout `yaml:"payout"`
	// Claims has the worker claim its vouchers by itself when a gateway is gone or closes the contract. It needs payout.
	// Default none: "cocoon-worker vouchers claim" does it by hand.
	Claims *Claims `yaml:"claims"`
	// OpsListen is where /metrics, /healthz and /market are served, and "cocoon-worker receipts" and "cocoon-worker market"
	// ask: host:port. No key is asked for there, so keep it on loopback or a private network. Default: nowhere.
	OpsListen string `yaml:"ops_listen"`
	// LogLevel is debug, info, warn or error. debug logs a line for each request; no level logs a prompt, an answer or a
	// key. Default info.
	LogLevel slog.Level `yaml:"log_level"`

	// Simulated are the roots of a simulated machine that the worker runs in. Not of the file.
	Simulated attest.Roots `yaml:"-"`

	basis *basis // the registry, as Resolve read it
}

// Gateway is one gateway that the worker dials.
type Gateway struct {
	// Address is the gateway's worker endpoint: host:port. Required.
	Address string `yaml:"address"`
	// Pin is the gateway's ID, 64 hex digits, which its operator shows you ("cocoon-gateway id"): no other key is
	// accepted there. Default: the gateway's certificate must be one of a public authority for the host name.
	Pin string `yaml:"pin"`
}

// Engine says where the inference server is and how much it can take.
type Engine struct {
	// URL is its base address. Prompts travel there in the clear, so keep it on this machine or a network of your own.
	// Default http://127.0.0.1:11434, where Ollama listens.
	URL string `yaml:"url"`
	// Kind is ollama, openai (vLLM, SGLang, llama.cpp and whatever speaks OpenAI's chat completions), or auto: the
	// engine is asked what it is. Default auto.
	Kind string `yaml:"kind"`
	// Slots is how many requests the engine runs at once; the worker never sends it more. For Ollama it must be its
	// OLLAMA_NUM_PARALLEL: with less the GPU idles, with more requests wait where nobody sees them. Default 0: 1 for
	// Ollama, what it says for llama.cpp, 32 for others.
	Slots int `yaml:"slots"`
	// Queue is how many more requests may wait in the worker for a slot; beyond it gateways are told to go elsewhere.
	// Short queues keep answers quick, 0 turns every burst away. Default 4.
	Queue int `yaml:"queue"`
	// KeyFile is a file that holds the key which the engine asks for, if it does. Default none.
	KeyFile string `yaml:"key_file"`
	// IdleTimeout is how long the engine may be silent within a stream, loading of the model included; then the request
	// ends with an error. Default 5m.
	IdleTimeout time.Duration `yaml:"idle_timeout"`
	// AnswerTimeout is how long the engine may take for an answer that does not stream. Default 10m.
	AnswerTimeout time.Duration `yaml:"answer_timeout"`
}

// Model is one model to offer.
type Model struct {
	// Name is what clients ask for: use the model's common name, or nobody finds it. Required.
	Name string `yaml:"name"`
	// EngineName is what the engine calls it. Default: the same.
	EngineName string `yaml:"engine_name"`
	// ContextTokens is the window that is offered. Default: what the engine says; a model whose engine says nothing is not
	// offered. More than the engine has ends long requests with an error.
	ContextTokens int `yaml:"context_tokens"`
	// Features replaces what is known about the model: chat, tools, vision, thinking, json_schema, logprobs. OpenAI-compatible
	// engines don't tell whether a model can use tools or see, so name it here, or such requests go to others.
	// Default: what the engine says.
	Features []string `yaml:"features"`
	// Quantization is how coarse the weights are: int4, int8, fp4, fp6, fp8, fp16, bf16, fp32 or unknown. Clients can ask for
	// some of them only, and then don't get a model whose quantization is unknown. Default: what the engine says (Ollama) or
	// the model's name at the engine tells (Qwen3-32B-AWQ, model-Q8_0.gguf), as the word that promises no more: of 5 and 6
	// bits int4, of fewer than 4 unknown.
	Quantization string `yaml:"quantization"`
	// Price is this model's. Default: the price for all models.
	Price *Price `yaml:"price"`
}

// Price is in nanoTON per million tokens.
type Price struct {
	// In is for the prompt's tokens.
	In nanoton.Amount `yaml:"in"`
	// Cached is for those of them that the engine found in its cache, if it tells. Default: the same as In.
	Cached *nanoton.Amount `yaml:"cached"`
	// Out is for the answer's tokens.
	Out nanoton.Amount `yaml:"out"`
}

func (p Price) offered() offer.Price {
	out := offer.Price{In: p.In, Cached: p.In, Out: p.Out}
	if p.Cached != nil {
		out.Cached = *p.Cached
	}
	return out
}

// Limits of Config.
const (
	keyFileMax  = 4 << 10 // bytes of an engine's key file
	gatewaysMax = 64      // each has its own connections and goroutines
	// slotsMax leaves the tunnel room for one data connection a request (it has 4,096 for a worker).
	slotsMax = 4096
)

// unknown is the quantization of a model of which nothing is to be said, whatever its name looks like.
const unknown = "unknown"

// DefaultConfig is the configuration of an empty file.
func DefaultConfig() Config {
	return Config{
		Name: "worker",
		Engine: Engine{
			URL: "http://127.0.0.1:11434", Kind: engine.KindAuto, Queue: 4,
			IdleTimeout: engine.IdleTimeout, AnswerTimeout: engine.AnswerTimeout,
		},
	}
}

// LoadConfig reads and checks worker.yaml. The error names the field and what is wrong with it.
func LoadConfig(path string) (Config, error) {
	c := DefaultConfig()
	if err := config.Load(path, "configs/worker.yaml", &c); err != nil {
		return c, err
	}
	if _, err := c.check(); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// check validates the configuration and returns the gateways' pins, nil where there is none.
func (c *Config) check() ([]*tunnel.ID, error) {
	switch {
	case !word(c.Name):
		return nil, fmt.Errorf("name: %q, want up to %d letters without spaces or quotes", clip(c.Name), offer.NameMax)
	case c.DataDir == "":
		return nil, errors.New("data_dir: missing; name a folder of this worker's own")
	case len(c.Gateways) == 0:
		return nil, errors.New("gateways: missing; name at least one that this worker serves")
	case len(c.Gateways) > gatewaysMax:
		return nil, fmt.Errorf("gateways: %d, at most %d", len(c.Gateways), gatewaysMax)
	}
	if c.OpsListen != "" {
		if _, _, err := net.SplitHostPort(c.OpsListen); err != nil {
			return nil, fmt.Errorf("ops_listen: want host:port: %w", err)
		}
	}
	if err := c.Collateral.Check(); err != nil {
		return nil, fmt.Errorf("collateral.%w", err)
	}
	if c.Registry != nil {
		if err := c.Registry.Check(); err != nil {
			return nil, fmt.Errorf("registry.%w", err)
		}
	}
	if _, err := c.payee(); err != nil {
		return nil, fmt.Errorf("payout.%w", err)
	}
	if c.Claims != nil {
		if err := c.Claims.check(); err != nil {
			return nil, fmt.Errorf("claims.%w", err)
		}
		if c.Payout == nil {
			return nil, errors.New("claims: needs payout")
		}
	}
	if err := c.Price.check(); err != nil {
		return nil, fmt.Errorf("price: %w", err)
	}
	if err := c.Engine.check(); err != nil {
		return nil, fmt.Errorf("engine.%w", err)
	}
	if err := checkModels(c.Models); err != nil {
		return nil, err
	}
	return checkGateways(c.Gateways)
}

// payee is where earnings go; zero if nowhere.
func (c *Config) payee() (ton.Address, error) {
	if c.Payout == nil {
		return ton.Address{}, nil
	}
	if err := c.Payout.Validate(); err != nil {
		return ton.Address{}, err
	}
	a, err := ton.ParseAddress(c.Payout.Address)
	if err != nil {
		return a, fmt.Errorf("address: %w", err)
	}
	return a, nil
}

func checkGateways(list []Gateway) ([]*tunnel.ID, error) {
	pins := make([]*tunnel.ID, len(list))
	seen := make(map[string]bool, len(list))
	for i, g := range list {
		host, port, err := net.SplitHostPort(g.Address)
		if err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("gateways[%d].address: %q, want host:port", i, clip(g.Address))
		}
		if seen[g.Address] {
			return nil, fmt.Errorf("gateways[%d].address: %q is there twice", i, clip(g.Address))
		}
		seen[g.Address] = true
		if g.Pin == "" {
			continue
		}
		pin, err := tunnel.ParseID(g.Pin)
		if err != nil {
			return nil, fmt.Errorf("gateways[%d].pin: %w", i, err)
		}
		pins[i] = &pin
	}
	return pins, nil
}

func (e *Engine) check() error {
	if _, err := engine.ParseURL(e.URL); err != nil {
		return fmt.Errorf("url: %q: %w", clip(e.URL), err)
	}
	switch {
	case !slices.Contains([]string{"", engine.KindAuto, engine.KindOllama, engine.KindOpenAI}, e.Kind):
		return fmt.Errorf("kind: %q, want auto, ollama or openai", clip(e.Kind))
	case e.Slots < 0 || e.Slots > slotsMax:
		return fmt.Errorf("slots: %d, want 0 to %d", e.Slots, slotsMax)
	case e.Queue < 0 || e.Queue > slotsMax:
		return fmt.Errorf("queue: %d, want 0 to %d", e.Queue, slotsMax)
	case e.IdleTimeout < 0:
		return errors.New("idle_timeout: must not be negative")
	case e.AnswerTimeout < 0:
		return errors.New("answer_timeout: must not be negative")
	}
	return nil
}

// key reads the engine's key, "" if it has none.
func (e *Engine) key() (string, error) {
	if e.KeyFile == "" {
		return "", nil
	}
	text, err := config.ReadFile(e.KeyFile, keyFileMax)
	if err != nil {
		return "", fmt.Errorf("engine.key_file: %w", err)
	}
	key := strings.TrimSpace(string(text))
	if key == "" {
		return "", fmt.Errorf("engine.key_file: %s is empty", e.KeyFile)
	}
	return key, nil
}

func checkModels(list []Model) error {
	if len(list) > offer.OffersMax {
		return fmt.Errorf("models: %d, at most %d", len(list), offer.OffersMax)
	}
	seen := make(map[string]bool, len(list))
	for i, m := range list {
		switch {
		case !word(m.Name):
			return fmt.Errorf("models[%d].name: %q, want a model's name without spaces or quotes", i, clip(m.Name))
		case seen[m.Name]:
			return fmt.Errorf("models[%d].name: %q is there twice", i, clip(m.Name))
		case m.ContextTokens < 0 || m.ContextTokens > offer.ContextMax:
			return fmt.Errorf("models[%d].context_tokens: %d, want 0 to %d", i, m.ContextTokens, offer.ContextMax)
		case len(m.Features) > offer.FeaturesMax:
			return fmt.Errorf("models[%d].features: %d, at most %d", i, len(m.Features), offer.FeaturesMax)
		case m.Quantization != "" && m.Quantization != unknown && !offer.ValidQuantization(m.Quantization):
			return fmt.Errorf("models[%d].quantization: %q, want int4, int8, fp4, fp6, fp8, fp16, bf16, fp32 or unknown", i, clip(m.Quantization))
		}
		seen[m.Name] = true
		for _, f := range m.Features {
			if !word(f) {
				return fmt.Errorf("models[%d].features: %q, want a word", i, clip(f))
			}
		}
		if m.Price != nil {
			if err := m.Price.check(); err != nil {
				return fmt.Errorf("models[%d].price: %w", i, err)
			}
		}
	}
	return nil
}

func (p Price) check() error { return p.offered().Validate() }

// word is what offer.Sheet takes for a name.
func word(s string) bool {
	sheet := offer.Sheet{V: offer.Version, Name: s}
	return sheet.Validate() == nil
}

func clip(s string) string { return s[:min(len(s), 64)] }
