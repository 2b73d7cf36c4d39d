package e2e_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"cocoon/worker/engine/enginetest"
)

// memoryMax bounds what gateway and worker may take at their peak while an engine sends a gigabyte, bytes: several
// times of the 64 MiB that an answer may have.
const memoryMax = 384 << 20

// fate is what must become of an answer.
type fate int

const (
	whole  fate = iota // the whole answer, with right usage
	failed             // an error: as status, or as last event of a stream that has begun
	either             // one of both, but nothing in between
)

// misbehaviour is what a client must see of one of enginetest's behaviours.
type misbehaviour struct {
	model  string
	stream fate
	plain  fate
	status int    // that a failure before the first byte has; 0: any 5xx
	code   string // of the error
	words  string // in the error's message
	more   string // a further field of the request
	early  bool   // nothing was sent before the failure: it must come as status also for streams
}

func misbehaviours(f enginetest.Flavour) []misbehaviour {
	list := []misbehaviour{
		{model: "ok"},
		{model: "slow"},
		{model: "tools", more: weatherTool},
		{model: "think"},
		{model: "two", plain: either, stream: either},
		{model: "crlf"},
		{model: "comments"},
		{model: "split"},
		{model: "bigline"},
		{model: "hugeline", stream: failed, plain: either},
		{model: "usagetext"},
		{model: "usagelate"},
		{model: "usage0", stream: either, plain: either},
		{model: "nousage", stream: either, plain: either},
		{model: "badusage", stream: either, plain: either},
		{model: "nodone", stream: either},
		{model: "nofinish", stream: failed, plain: failed},
		{model: "noreason", stream: failed, plain: failed},
		{model: "load"},
		{model: "error0", stream: failed, plain: failed, early: true},
		{model: "error1", stream: failed, plain: failed},
		{model: "errorn", stream: failed, plain: failed},
		{model: "badjson", stream: failed, plain: failed},
		{model: "array", stream: failed},
		{model: "cut", stream: failed, plain: failed},
		{model: "hang", stream: failed, plain: failed, status: http.StatusGatewayTimeout, early: true},
		{model: "hangmid", stream: failed, plain: failed},
		{model: "html", stream: failed, plain: failed, early: true},
		{model: "json", stream: failed, plain: failed, early: true},
		{model: "redirect", stream: failed, plain: failed, early: true},
		{model: "context", stream: failed, plain: failed, status: 400, code: "context_length_exceeded", early: true},
		{model: "badschema", stream: failed, plain: failed, status: 400, early: true},
		{model: "badrequest", stream: failed, plain: failed, status: 400, early: true, words: "top_p"},
		{model: "missing", stream: failed, plain: failed, early: true},
	}
	for _, status := range []int{401, 403, 418, 500, 502, 599} {
		list = append(list, misbehaviour{model: "status-" + strconv.Itoa(status), stream: failed, plain: failed, early: true})
	}
	for _, status := range []int{429, 503} {
		list = append(list, misbehaviour{
			model: "status-" + strconv.Itoa(status), stream: failed, plain: failed, early: true,
			status: http.StatusServiceUnavailable,
		})
	}
	if f != enginetest.Ollama {
		return append(list, misbehaviour{
			model: "detail", stream: failed, plain: failed, status: http.StatusUnprocessableEntity, early: true, words: "n",
		})
	}
	for i := range list {
		m := &list[i]
		switch m.model {
		case "load", "nodone": // Ollama's last line says more than that the stream ends
			m.stream = failed
		}
		m.plain = m.stream // Ollama is always asked for a stream
	}
	return list
}

const weatherTool = `"tools":[{"type":"function","function":{"name":"weather","parameters":{"type":"object"}}}]`

// TestHostileEngine lets every misbehaviour of an engine through the whole network, for both kinds of engines.
func TestHostileEngine(t *testing.T) {
	t.Parallel()
	for _, flavour := range []enginetest.Flavour{enginetest.VLLM, enginetest.Ollama} {
		t.Run(string(flavour), func(t *testing.T) {
			t.Parallel()
			hostileEngine(t, flavour)
		})
	}
}

func hostileEngine(t *testing.T, flavour enginetest.Flavour) {
	list := misbehaviours(flavour)
	var models []string
	for _, m := range list {
		models = append(models, m.model)
	}
	g := startGateway(t, "auto")
	w := g.startWorker(t, "hostile", startHostile(t, flavour, models...))
	g.serves(t, startMax, "ok")
	before := goroutines(t, g.ops)
	t.Run("behaviours", func(t *testing.T) {
		for _, m := range list {
			t.Run(m.model, func(t *testing.T) {
				t.Parallel()
				m.check(t, g.client, true)
				m.check(t, g.client, false)
			})
		}
	})
	if !g.running() || !w.running() {
		t.Fatal("a process ended")
	}
	settled(t, g.ops, before)
	if r := g.ask(t, prompt("ok", "hi")); !r.succeeded() {
		t.Errorf("after all that: %v", r)
	}
}

// startHostile serves enginetest's engine and returns its URL.
func startHostile(t *testing.T, flavour enginetest.Flavour, models ...string) string {
	t.Helper()
	e := enginetest.New()
	e.Flavour, e.Models = flavour, models
	srv := httptest.NewServer(e)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return srv.URL
}

// TestGigabyte lets engines answer with a gigabyte: it must not be kept. The binaries are built without the race
// detector, which takes memory of its own for every byte that the program ever had.
func TestGigabyte(t *testing.T) {
	t.Parallel()
	bin := plainBinaries(t)
	for _, flavour := range []enginetest.Flavour{enginetest.VLLM, enginetest.Ollama} {
		g := startGatewayFrom(t, bin, "auto", quietMax)
		w := g.startWorker(t, "giant", startHostile(t, flavour, "gigabyte"))
		g.serves(t, startMax, "gigabyte")
		for _, more := range [][]string{nil, {streamed}} {
			if r := g.ask(t, prompt("gigabyte", "hi", more...)); r.succeeded() {
				t.Errorf("%s: a gigabyte passes: %v", flavour, r)
			}
		}
		for name, pid := range map[string]int{"gateway": g.pid(), "worker": w.pid()} {
			if peak := peakRSS(t, pid); peak > memoryMax {
				t.Errorf("%s: %s took %d MiB at its peak, want at most %d", flavour, name, peak>>20, memoryMax>>20)
			}
		}
	}
}

func (m misbehaviour) check(t *testing.T, c client, stream bool) {
	t.Helper()
	var more []string
	want := m.plain
	if m.more != "" {
		more = append(more, m.more)
	}
	if stream {
		want = m.stream
		more = append(more, streamed, withUsage)
	}
	r := c.ask(t, prompt(m.model, "hi", more...))
	if strings.Contains(fmt.Sprint(r, r.body), "secret") {
		t.Errorf("stream %v: the engine's own words reach the client: %v", stream, r)
	}
	if r.status == http.StatusOK && stream && !r.done {
		t.Errorf("stream without [DONE]: %v", r)
	}
	switch {
	case r.succeeded() && want == failed, !r.succeeded() && want == whole:
		t.Errorf("stream %v: %v", stream, r)
	case r.succeeded():
		m.checkWhole(t, stream, r)
	default:
		m.checkFailure(t, stream, r)
	}
}

func (m misbehaviour) checkWhole(t *testing.T, stream bool, r *reply) {
	t.Helper()
	if r.finish == "" || r.text == "" && len(r.calls) == 0 {
		t.Errorf("stream %v: half an answer passes for a whole one: %v", stream, r)
	}
	u := r.usage
	if u == nil || r.usages != 1 || u.Prompt < 0 || u.Completion <= 0 || u.Total != u.Prompt+u.Completion {
		t.Errorf("stream %v: %d usage objects: %v", stream, r.usages, r)
	}
}

func (m misbehaviour) checkFailure(t *testing.T, stream bool, r *reply) {
	t.Helper()
	if m.early && r.status == http.StatusOK {
		t.Errorf("stream %v: status 200 before the engine had said anything good: %v", stream, r)
	}
	if r.status != http.StatusOK && m.status != 0 && r.status != m.status {
		t.Errorf("stream %v: status %d, want %d: %v", stream, r.status, m.status, r)
	}
	if r.status != http.StatusOK && m.status == 0 && r.status < 500 {
		t.Errorf("stream %v: the client is blamed for what the engine did: %v", stream, r)
	}
	if r.status == http.StatusServiceUnavailable && r.header.Get("Retry-After") == "" {
		t.Errorf("stream %v: 503 without Retry-After: %v", stream, r)
	}
	if m.code != "" && r.fault.code() != m.code || !strings.Contains(r.fault.Message, m.words) {
		t.Errorf("stream %v: want code %q and %q in the message: %v", stream, m.code, m.words, r)
	}
}

// peakRSS is the most memory a process ever had, bytes.
func peakRSS(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		t.Skipf("this system has no /proc to read memory from: %v", err)
	}
	m := regexp.MustCompile(`VmHWM:\s*(\d+) kB`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("no peak memory in %s", text)
	}
	kib, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// outOfMemory is an engine's error event and the end of its stream.
const outOfMemory = `data: {"error":{"message":"out of memory","type":"x","param":null,"code":500}}` +
	"\n\ndata: [DONE]\n\n"

// TestFailover puts a broken engine beside a sound one: no client must notice.
func TestFailover(t *testing.T) {
	t.Parallel()
	broken := map[string]http.HandlerFunc{
		"500":      func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "broken", http.StatusInternalServerError) },
		"loading":  func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "loading", http.StatusServiceUnavailable) },
		"hangs up": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"says nothing": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
		},
		"error first": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, outOfMemory)
		},
		"role, then nothing": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, `data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":`+
				`[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}`+"\n\n")
		},
		"hangs": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	}
	g := startGateway(t, "auto")
	sound := map[string]string{}
	for name, handler := range broken {
		model := strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), ",", "")
		sound[name] = model
		hits := make(chan struct{}, 1000)
		url := serveEngine(t, model, func(w http.ResponseWriter, r *http.Request) {
			hits <- struct{}{}
			_ = wantsStream(r) // reads the body: a client's leaving shows only then
			handler(w, r)
		})
		g.startWorker(t, "broken-"+model, url)
		g.startWorker(t, "sound-"+model, startEcho(t, model))
	}
	for name, model := range sound {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eventually(t, startMax, "two workers serve "+model, func() bool { return g.serving(t, model) == 2 })
			for i := range 6 {
				r := g.ask(t, prompt(model, "hi", []string{streamed}[:i%2]...))
				if !r.succeeded() || r.text != "hello" || r.finish != "stop" {
					t.Errorf("request %d: %v", i, r)
				}
			}
		})
	}
}
