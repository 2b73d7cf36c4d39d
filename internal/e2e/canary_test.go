package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Canaries: what must never be found outside of a request and its answer.
const (
	canaryPrompt = "cArY-prompt-7d1f"
	canaryAnswer = "cArY-answer-93b0"
	canaryField  = "cArY-field-51c2"
)

// TestCanary sends marked prompts down every path, good and bad, with everything logged that can be, and then looks
// for the marks in all logs, metrics and files.
func TestCanary(t *testing.T) {
	t.Parallel()
	g := startGateway(t, "auto")
	w := g.startWorker(t, "one", serveEngine(t, "m", blabber))
	g.serves(t, startMax, "m")
	strangers := client{base: g.base, key: "ck-cArY-key-" + strings.Repeat("z", 37)}
	const where = `"metadata":{"note":"` + canaryField + `"}`
	for _, path := range []string{"answer", "refuse", "fail", "html", "break", "badjson", "cut", "hang"} {
		for _, more := range [][]string{{where}, {where, streamed}} {
			body := prompt("m", path+" "+canaryPrompt, more...)
			g.ask(t, body)
			strangers.ask(t, body)
		}
	}
	for _, body := range []string{
		prompt("m", canaryPrompt, `"model":"n"`), prompt("no-such-model", canaryPrompt),
		prompt("m", canaryPrompt, `"stream":"`+canaryField+`"`), prompt("m", canaryPrompt, `"n":"`+canaryField+`"`),
		`{"model":"m","messages":[{"role":"` + canaryPrompt, canaryPrompt, `["` + canaryPrompt + `"]`,
	} {
		g.ask(t, body)
	}
	for _, body := range []string{prompt("m", "answer "+canaryPrompt, streamed), prompt("m", "hang "+canaryPrompt)} {
		s := g.open(t, body)
		s.leave()
	}
	cut := dial(t, g.client)
	cut.send(t, g.head("Content-Length: 1000\r\n")+`{"model":"m","messages":"`+canaryPrompt)
	cut.reset()
	metrics := fetch(t, g.ops+"/metrics") + fetch(t, g.ops+"/debug/pprof/goroutine?debug=2")
	w.signal(t, syscall.SIGQUIT) // the stacks of all goroutines go to the log
	w.wait(t, stopMax)
	g.signal(t, syscall.SIGQUIT)
	g.wait(t, stopMax)

	marks := []string{canaryPrompt, canaryAnswer, canaryField, g.key, strangers.key}
	places := map[string]string{
		"metrics": metrics, "gateway's log": g.log.String() + g.out.String(), "worker's log": w.log.String() + w.out.String(),
	}
	for _, root := range []string{filepath.Dir(g.config), filepath.Dir(w.config)} {
		for _, path := range files(t, root) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			places[path] = string(text)
		}
	}
	for place, text := range places {
		for _, mark := range marks {
			if i := strings.Index(text, mark); i >= 0 {
				t.Errorf("%s holds %q: %q", place, mark, text[max(0, i-200):min(len(text), i+200)])
			}
		}
	}
	if !strings.Contains(places["gateway's log"], "attempt failed") {
		t.Error("the gateway's log has nothing of the failures: is it the right log?")
	}
}

// blabber is an engine that repeats what it was told wherever it can. The prompt's first word says how.
func blabber(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var req struct {
		Stream   bool
		Messages []struct{ Content string }
	}
	if json.Unmarshal(body, &req) != nil || len(req.Messages) == 0 {
		http.Error(w, string(body), http.StatusBadRequest)
		return
	}
	c := &call{w: w, stream: req.Stream}
	text := req.Messages[0].Content
	fault := map[string]any{"message": text, "type": text, "code": text, "param": nil}
	quoted, _ := json.Marshal(map[string]any{"error": fault}) // strings always marshal
	switch path, _, _ := strings.Cut(text, " "); path {
	case "answer":
		c.say(canaryAnswer, text)
		if !c.stream {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"id":"c","object":"chat.completion","created":1,"model":"m",`+
				`"choices":[{"index":0,"message":{"role":"assistant","content":%q},"finish_reason":"stop"}],`+
				`"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`, canaryAnswer)
			return
		}
		c.finish()
	case "refuse":
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write(quoted)
	case "fail":
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write(quoted)
	case "html":
		fmt.Fprintf(w, "<html>%s</html>", text)
	case "break":
		c.say(canaryAnswer)
		fmt.Fprintf(w, "data: %s\n\n", bytes.TrimSpace(quoted))
	case "badjson":
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "data: {%q\n\n", text)
	case "cut":
		c.say(canaryAnswer, text)
		panic(http.ErrAbortHandler)
	case "hang":
		c.say(canaryAnswer)
		<-r.Context().Done()
	}
}
