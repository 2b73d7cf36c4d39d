package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"cocoon/internal/terminal"
)

// answerMax bounds what is read of our own gateway's list of models, bytes.
const answerMax = 16 << 20

// modelsShown is how many models the screen lists: an Ollama can have hundreds.
const modelsShown = 10

// screen is where the user looks. Progress and errors go to standard error: standard output is for scripts.
type screen struct{ out, err *os.File }

func (s screen) say(line string) { fmt.Fprintln(s.err, terminal.Clean(line)) }

// welcome is what a person wants to know when all is up.
type welcome struct {
	engine string
	models []string
	env    string // path of the env file
	policy string // path of the appraisal policy

	chain, treasury, worker string // path of the local chain's config; addresses on it
}

// ready prints the line that scripts wait for, and for people how to go on.
func (s screen) ready(e environment, w welcome) {
	if !terminal.Is(s.out) {
		s.say("SIMULATED, NOT CONFIDENTIAL: " + e.baseURL + " serves " + shown(w.models) + " from " + w.engine)
		fmt.Fprintln(s.out, "ready")
		return
	}
	fmt.Fprintln(s.out, "ready")
	model := "MODEL"
	if len(w.models) > 0 {
		model = w.models[0]
	}
	name, err := json.Marshal(model)
	if err != nil {
		return // strings always marshal
	}
	body := `{"model":` + string(name) + `,"temperature":0,"messages":[{"role":"user","content":"What is the capital of France?"}]}`
	fmt.Fprint(s.out, terminal.Clean(fmt.Sprintf(`
  Base URL  %[1]s
  API key   %[2]s
  Models    %[3]s
  Engine    %[4]s
  Metrics   %[5]s/metrics

  curl %[1]s/chat/completions -H 'Authorization: Bearer %[2]s' \
    -H 'Content-Type: application/json' -d %[6]s

  Any OpenAI client works with that base URL and key: '. %[7]s' sets both, then try 'bin/cocoon chat --temperature 0'.

  Money     %[10]s were paid into the account over a TON chain of this machine's own, where coins are free:
            treasury  %[11]s
            worker    %[12]s  (is paid there)
            network   %[13]s
  Each answer says what it cost (usage.cost_nanoton), and 'bin/cocoon account' what is left and how to pay in more:
  curl %[5]s/dev/faucet -H 'Content-Type: application/json' -d '{"to": ADDRESS, "nanoton": "1500000000", "comment": MEMO}'

  SIMULATED, NOT CONFIDENTIAL. The CPUs and the GPU that attest here are simulations: whoever runs this machine
  can read every prompt and every answer. For development only. Everything else is real, the appraisal too:
  'bin/cocoon verify %[8]s --policy %[9]s' shows it, and never says verified.

  Ctrl-C stops everything.
`, e.baseURL, e.key.Reveal(), shown(w.models), w.engine, e.opsURL, quote(body), w.env, strings.TrimSuffix(e.baseURL, "/v1"), w.policy, devMoney, w.treasury, w.worker, w.chain)))
}

func shown(models []string) string {
	if n := len(models) - modelsShown; n > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(models[:modelsShown], ", "), n)
	}
	return strings.Join(models, ", ")
}

// models asks the gateway as an app would.
func (n *network) models(ctx context.Context, e environment) ([]string, error) {
	resp, err := get(ctx, e.baseURL+"/models", e.key.Reveal())
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the gateway answered %s", resp.Status)
	}
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, answerMax)).Decode(&list); err != nil {
		return nil, err
	}
	names := make([]string, len(list.Data))
	for i := range names {
		names[i] = list.Data[i].ID
	}
	return names, nil
}
