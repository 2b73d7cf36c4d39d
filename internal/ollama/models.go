package ollama

import (
	"bytes"
	"context"
	_ "embed" // for the templates
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"cocoon/internal/tinymodel"
)

var (
	//go:embed tiny.tmpl
	tinyTemplate string
	//go:embed tiny-think.tmpl
	tinyThinkTemplate string
)

// callTimeout bounds one request to a server on this machine; creating a model takes 20 ms.
const callTimeout = 30 * time.Second

// answerMax bounds what is read of an answer, bytes.
const answerMax = 64 << 10

// creation is the body of /api/create.
type creation struct {
	Model      string            `json:"model"`
	Files      map[string]string `json:"files"`
	Template   string            `json:"template"`
	Parameters parameters        `json:"parameters"`
	Stream     bool              `json:"stream"`
}

type parameters struct {
	Stop []string `json:"stop"`
	// RepeatPenalty: Ollama's default of 1.1 bends counting and repeating, and its OpenAI interface can't change it.
	RepeatPenalty float64 `json:"repeat_penalty"`
	// NumThread 1: with more, threads that wait for each other spin, and on a busy machine all stand still.
	NumThread int `json:"num_thread"`
}

// importModels creates the models. Weights that are there are not sent again; creating a model that is there
// changes nothing and costs less than asking.
func (s *Server) importModels(ctx context.Context) error {
	digest := "sha256:" + tinymodel.SHA256
	if s.call(ctx, http.MethodHead, "/api/blobs/"+digest, nil) != nil {
		if err := s.call(ctx, http.MethodPost, "/api/blobs/"+digest, tinymodel.Open()); err != nil {
			return err
		}
	}
	for name, template := range map[string]string{Tiny: tinyTemplate, TinyThink: tinyThinkTemplate} {
		body, err := json.Marshal(creation{
			Model: name, Files: map[string]string{"tiny.gguf": digest},
			// The newline at the end of the file is not part of it: the model would have to answer after a blank line.
			Template:   strings.TrimSuffix(template, "\n"),
			Parameters: parameters{Stop: []string{"<|im_end|>", "<|im_start|>"}, RepeatPenalty: 1, NumThread: 1},
		})
		if err != nil {
			return err
		}
		if err := s.call(ctx, http.MethodPost, "/api/create", bytes.NewReader(body)); err != nil {
			return err
		}
	}
	return nil
}

// call sends one request; every status but 2xx is an error.
func (s *Server) call(ctx context.Context, method, path string, body io.Reader) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, body)
	if err != nil {
		return err
	}
	// A transport of its own: no proxy of the environment, and no connection left behind.
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, answerMax))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(text))
	}
	return nil
}
