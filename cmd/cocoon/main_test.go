package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cocoon": main})
}

// The scripts run the program against a stand-in for a gateway; how it gets on with a real one is tested in e2e.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			waiting := make(chan struct{}, 1)
			g := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(w, r, waiting) }))
			e.Defer(g.Close)
			e.Values["waiting"] = waiting
			e.Vars = append(e.Vars, "GATEWAY="+g.URL, "OPENAI_BASE_URL="+g.URL+"/v1", "OPENAI_API_KEY=ck-good")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"interrupt": interrupt},
	})
}

// interrupt sends SIGINT to the one command in the background, once it waits for the slow model.
func interrupt(ts *testscript.TestScript, _ bool, _ []string) {
	select {
	case <-ts.Value("waiting").(chan struct{}):
	case <-time.After(time.Minute):
		ts.Fatalf("no request for the slow model")
	}
	for _, c := range ts.BackgroundCmds() {
		ts.Check(c.Process.Signal(os.Interrupt))
	}
}

// serve is the gateway of the scripts: what it answers depends on the model. It tells waiting when the slow one begins.
func serve(w http.ResponseWriter, r *http.Request, waiting chan<- struct{}) {
	if r.Header.Get("Authorization") != "Bearer ck-good" {
		fail(w, http.StatusUnauthorized, "wrong API key")
		return
	}
	if r.URL.Path == "/v1/models" {
		fmt.Fprint(w, `{"object":"list","data":[{"id":"tiny","object":"model"},{"id":"cut","object":"model"}]}`)
		return
	}
	if r.URL.Path == "/empty/models" {
		fmt.Fprint(w, `{"object":"list","data":[]}`)
		return
	}
	if r.URL.Path != "/v1/chat/completions" {
		http.Error(w, "<html>not found</html>", http.StatusNotFound)
		return
	}
	var req struct {
		Model    string
		Stream   bool
		Messages []struct{ Role, Content string }
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil || !req.Stream || len(req.Messages) == 0 {
		fail(w, http.StatusBadRequest, "bad request")
		return
	}
	var said []string
	for _, m := range req.Messages {
		said = append(said, m.Role[:1]+":"+m.Content)
	}
	if req.Model == "slow" {
		_ = http.NewResponseController(w).Flush() // the client may be gone
		waiting <- struct{}{}
		<-r.Context().Done()
		return
	}
	stream(w, req.Model, strings.Join(said, "|"))
}

func stream(w http.ResponseWriter, model, said string) {
	w.Header().Set("Content-Type", "text/event-stream")
	delta := func(text string) {
		fmt.Fprintf(w, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":%q}}]}\n\n", text)
		_ = http.NewResponseController(w).Flush() // the client may be gone
	}
	finish := func(reason string) {
		fmt.Fprintf(w, "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":%q}]}\n\ndata: [DONE]\n\n", reason)
	}
	switch model {
	case "tiny":
		fmt.Fprint(w, strings.Repeat(": keep-alive\n\n", 500))
		delta("You said ")
		delta(said)
		finish("stop")
	case "cut":
		delta("half an ans")
	case "broken":
		delta("half an ans")
		fmt.Fprint(w, `data: {"error":{"message":"the worker left","type":"server_error","param":null,"code":null}}`,
			"\n\ndata: [DONE]\n\n")
	case "long":
		delta("1 2 3")
		finish("length")
	case "evil":
		fmt.Fprint(w, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\\u001b]0;title\\u0007b\"}}]}\n\n")
		finish("stop")
	default:
		w.Header().Set("Content-Type", "application/json")
		fail(w, http.StatusNotFound, "no model "+model)
	}
}

func fail(w http.ResponseWriter, status int, message string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"error":{"message":%q,"type":"invalid_request_error","param":null,"code":null}}`, message)
}
