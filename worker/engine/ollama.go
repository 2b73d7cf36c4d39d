package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/types/model"

	"cocoon/internal/openai"
	"cocoon/router/offer"
)

const (
	// ollamaSlots is OLLAMA_NUM_PARALLEL's own default; the server does not tell what it was set to.
	ollamaSlots = 1
	// ollamaWindow is the window that Ollama gives a model on GPUs under 23 GiB when nobody says otherwise. It is what we
	// claim until the model is loaded and /api/ps shows the real one.
	ollamaWindow = 4096
	// ollamaModelsMax bounds the models looked at: each costs a request at the first look.
	ollamaModelsMax = 1024
)

// native drives Ollama's native API. Its OpenAI route is of no use: it ignores max_completion_tokens, cuts prompts that
// are too long without a word, and reports aborted runs as finished.
type native struct {
	call *caller
	api  *api.Client

	mu     sync.Mutex
	models map[string]*ollamaModel // by Ollama's name; replaced whole
}

// ollamaModel is what we know of one model. It is not changed once it is in the map.
type ollamaModel struct {
	digest   string // of the manifest: the model is looked at again when it changes
	weights  string
	caps     []model.Capability
	gptOSS   bool
	stops    []string // of the Modelfile: a request's stops would replace them
	trained  int      // the window it was trained for, 0 if unknown
	chosen   int      // num_ctx of the Modelfile, 0 if none
	loaded   int      // the window it was last seen running with, 0 if never
	features []string
	quant    string // one of package offer's words, "" if unknown
}

func newNative(call *caller) *native {
	call.blame = ollamaBlame
	h := *call.http
	h.Transport = bounded{call.http.Transport}
	return &native{call: call, api: api.NewClient(call.base, &h)}
}

// bounded cuts answers that are too long: api.Client reads whatever comes.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, infoMax), resp.Body}
	return resp, nil
}

// Status implements Engine.
func (e *native) Status(ctx context.Context) (Status, error) {
	version, err := e.api.Version(ctx)
	if err != nil {
		return Status{}, ollamaError(ctx, "/api/version", err)
	}
	list, err := e.api.List(ctx)
	if err != nil {
		return Status{}, ollamaError(ctx, "/api/tags", err)
	}
	running, err := e.api.ListRunning(ctx)
	if err != nil {
		return Status{}, ollamaError(ctx, "/api/ps", err)
	}
	s := Status{Engine: "ollama " + version, Slots: ollamaSlots}
	models := make(map[string]*ollamaModel, len(list.Models))
	for _, m := range list.Models[:min(len(list.Models), ollamaModelsMax)] {
		info, err := e.look(ctx, m, running.Models)
		if err != nil {
			return Status{}, err
		}
		if info == nil || !slices.Contains(info.caps, model.CapabilityCompletion) {
			continue
		}
		models[m.Name] = info
		s.Models = append(s.Models, Model{
			Name: m.Name, WeightsDigest: info.weights, ContextTokens: info.window(), Features: info.features, Quantization: info.quant,
		})
	}
	e.mu.Lock()
	e.models = models
	e.mu.Unlock()
	return s, nil
}

// look returns what is to know of a listed model, from memory if it has not changed; nil for one that runs elsewhere
// (Ollama's cloud models): prompts must not leave this machine, and it is gone if it was deleted meanwhile.
func (e *native) look(ctx context.Context, m api.ListModelResponse, running []api.ProcessModelResponse) (*ollamaModel, error) {
	if m.RemoteHost != "" || m.RemoteModel != "" {
		return nil, nil
	}
	e.mu.Lock()
	old := e.models[m.Name]
	e.mu.Unlock()
	info := new(ollamaModel)
	if old != nil && old.digest == m.Digest {
		*info = *old
	} else {
		show, err := e.api.Show(ctx, &api.ShowRequest{Model: m.Name})
		var status api.StatusError
		switch {
		case errors.As(err, &status) && status.StatusCode == http.StatusNotFound:
			return nil, nil
		case err != nil:
			return nil, ollamaError(ctx, "/api/show", err)
		case show.RemoteHost != "" || show.RemoteModel != "":
			return nil, nil
		}
		info = learn(m, show)
	}
	for _, r := range running {
		if r.Name == m.Name && r.ContextLength > 0 {
			info.loaded = r.ContextLength
		}
	}
	return info, nil
}

// learn reads what Ollama tells of a model.
func learn(m api.ListModelResponse, show *api.ShowResponse) *ollamaModel {
	info := &ollamaModel{
		digest:  m.Digest,
		weights: weightsDigest(show.Modelfile),
		caps:    show.Capabilities,
		quant:   quantizationWord(strings.ToLower(show.Details.QuantizationLevel)),
		gptOSS:  strings.EqualFold(show.Details.Family, "gptoss") || strings.EqualFold(show.Details.Family, "gpt-oss"),
	}
	if arch, ok := show.ModelInfo["general.architecture"].(string); ok {
		if n, ok := show.ModelInfo[arch+".context_length"].(float64); ok && n >= 1 && n <= offer.ContextMax {
			info.trained = int(n)
		}
	}
	for line := range strings.Lines(show.Parameters) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		value = strings.TrimSpace(value)
		switch name {
		case "stop":
			if s, err := strconv.Unquote(value); err == nil && s != "" {
				info.stops = append(info.stops, s)
			}
		case "num_ctx":
			if n, err := strconv.ParseFloat(value, 64); err == nil && n >= 1 && n <= offer.ContextMax {
				info.chosen = int(n)
			}
		}
	}
	info.features = []string{offer.FeatureChat, offer.FeatureJSONSchema, offer.FeatureLogprobs}
	for capability, feature := range map[model.Capability]string{
		model.CapabilityTools: offer.FeatureTools, model.CapabilityVision: offer.FeatureVision,
		model.CapabilityThinking: offer.FeatureThinking,
	} {
		if slices.Contains(info.caps, capability) {
			info.features = append(info.features, feature)
		}
	}
	slices.Sort(info.features)
	return info
}

// window is what the model runs with as far as we know.
func (m *ollamaModel) window() int {
	switch {
	case m.loaded > 0:
		return m.loaded
	case m.chosen > 0 && m.trained > 0:
		return min(m.chosen, m.trained)
	case m.chosen > 0:
		return m.chosen
	case m.trained > 0:
		return min(ollamaWindow, m.trained)
	}
	return ollamaWindow
}

// answerLimit is the most tokens that an answer can have: no request may ask the engine for more.
func (m *ollamaModel) answerLimit() int {
	switch {
	case m.loaded > 0:
		return m.loaded
	case m.trained > 0:
		return m.trained
	}
	return m.window()
}

// weightsDigest finds the digest of the weights in the Modelfile that Ollama shows: "FROM .../blobs/sha256-<hex>".
func weightsDigest(modelfile string) string {
	for line := range strings.Lines(modelfile) {
		if !strings.HasPrefix(line, "FROM ") {
			continue
		}
		_, hex, ok := strings.Cut(strings.TrimSpace(line), "sha256-")
		if ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == "" {
			return "sha256:" + hex
		}
	}
	return ""
}

// ollamaError says which route failed and how, without what Ollama wrote: it may quote anything.
func ollamaError(ctx context.Context, path string, err error) error {
	var status api.StatusError
	var auth api.AuthorizationError
	switch {
	case errors.As(err, &status):
		return fmt.Errorf("engine answers %d to %s", status.StatusCode, path)
	case errors.As(err, &auth):
		return fmt.Errorf("engine answers %d to %s", auth.StatusCode, path)
	}
	if transport := new(url.Error); errors.As(err, &transport) {
		return reachError(ctx, err)
	}
	return fmt.Errorf("engine's answer to %s is not Ollama's", path)
}

// ollamaBlame knows the faults of the client that Ollama reports as its own.
func ollamaBlame(status int, body []byte) *openai.Error {
	text := string(body)
	if status == http.StatusInternalServerError && strings.Contains(text, "invalid JSON schema") {
		return openai.BadRequest("response_format", "The engine can't use this JSON schema.")
	}
	return nil
}

// Close implements Engine.
func (e *native) Close() { e.call.close() }

// Chat implements Engine.
func (e *native) Chat(ctx context.Context, req *Request, out Output) (openai.Usage, error) {
	e.mu.Lock()
	info := e.models[req.Model]
	e.mu.Unlock()
	if info == nil {
		return openai.Usage{}, unavailable("The worker's engine has no such model any more.")
	}
	body, err := translate(req, info)
	if err != nil {
		return openai.Usage{}, err
	}
	x, err := e.call.post(ctx, "/api/chat", body, e.call.idle)
	if err != nil {
		return openai.Usage{}, err
	}
	defer x.close()
	a := newAnswer(req, out)
	if err := a.relay(x, e.call.idle, body); err != nil {
		return estimated(ctx, a.used(), body), err
	}
	x.drain()
	return a.used(), a.end()
}
