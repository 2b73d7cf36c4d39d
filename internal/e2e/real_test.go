package e2e_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestRealEngine drives one cocoon-dev on a real Ollama with every client that people use.
func TestRealEngine(t *testing.T) {
	engine := startOllama(t)
	d := startDev(t, t.TempDir(), engine)
	d.serves(t, startMax, aliasModel)
	model := d.shortest(t)
	for _, k := range sdks() {
		t.Run(k.name, func(t *testing.T) {
			if k.ready != nil {
				k.ready(t)
			}
			t.Run("answers", func(t *testing.T) { k.answers(t, d.client, model, aliasModel) })
			t.Run("errors", func(t *testing.T) { k.errors(t, d.client, model) })
		})
	}
	t.Run("models", func(t *testing.T) { modelPaths(t, d.client) })
	t.Run("parallel", func(t *testing.T) { parallel(t, d.client, model) })
	t.Run("poison", func(t *testing.T) { poison(t, d.client, model) })
	t.Run("cancel", func(t *testing.T) { cancelReal(t, d, model) })
}

// shortest is the name of the tiny model as the network offers it.
func (d *dev) shortest(t *testing.T) string {
	t.Helper()
	for _, id := range []string{"tiny", "tiny:latest"} {
		if slices.Contains(d.models(t.Context()), id) {
			return id
		}
	}
	t.Fatalf("no tiny model among %q", d.models(t.Context()))
	return ""
}

// modelPaths asks for a model with a slash in its id in both spellings that clients use.
func modelPaths(t *testing.T, c client) {
	for _, id := range []string{aliasModel, strings.ReplaceAll(aliasModel, "/", "%2F"), "cocoon%2Ftiny%3Ae2e"} {
		if r := c.get(t, "/v1/models/"+id); r.status != http.StatusOK || !strings.Contains(r.body, `"`+aliasModel+`"`) {
			t.Errorf("GET /v1/models/%s: %v %s", id, r, r.body)
		}
	}
	for _, path := range []string{
		"/v1/models/cocoon", "/v1/models/cocoon/", "/v1/models/%00", "/v1/nothing", "/", "/v1/chat",
	} {
		if r := c.get(t, path); r.status != http.StatusNotFound || r.fault == nil {
			t.Errorf("GET %s: %v", path, r)
		}
	}
	stranger := client{base: c.base}
	for _, path := range []string{"/v1/models", "/v1/models/" + aliasModel} {
		if r := stranger.get(t, path); r.status != http.StatusUnauthorized {
			t.Errorf("GET %s without a key: %v", path, r)
		}
	}
}

// parallel sends 64 requests at once, each with two words of its own to repeat: a mixed-up answer would show.
func parallel(t *testing.T, c client, model string) {
	const requests = 64
	words := strings.Fields("apple river cloud green table music light paper orange") // any two of which it repeats
	var wg sync.WaitGroup
	for i := range requests {
		first := words[i%len(words)]
		second := words[(i%len(words)+1+i/len(words)%(len(words)-1))%len(words)]
		more := []string{streamed, withUsage}[:2*(i%2)]
		wg.Go(func() {
			want := first + " " + second
			r, err := c.patient(t, prompt(model, "Repeat: "+want, more...))
			switch {
			case err != nil:
				t.Errorf("%q: %v", want, err)
			case !r.succeeded() || r.text != want || r.finish != "stop" || r.usage == nil:
				t.Errorf("asked to repeat %q: %v", want, r)
			}
		})
	}
	wg.Wait()
}

// patient does as SDKs do when a worker is full: it waits as long as told and asks again.
func (c client) patient(t *testing.T, body string) (*reply, error) {
	deadline := time.Now().Add(askMax)
	for {
		r, err := c.chat(t.Context(), body)
		if err != nil || r.status != http.StatusServiceUnavailable && r.status != http.StatusTooManyRequests {
			return r, err
		}
		if time.Now().After(deadline) {
			return r, fmt.Errorf("still %d after %v", r.status, askMax)
		}
		wait, err := time.ParseDuration(r.header.Get("Retry-After") + "s")
		if err != nil {
			return r, fmt.Errorf("status %d without a Retry-After of seconds: %w", r.status, err)
		}
		time.Sleep(min(wait, time.Second))
	}
}

// cancelReal leaves in the middle of an endless answer and looks at the CPU time that the engine spends from then on.
// The runner is frozen while the client leaves, so that it has the rest of the answer to do if nobody tells it.
func cancelReal(t *testing.T, d *dev, model string) {
	before := goroutines(t, d.ops)
	d.ask(t, prompt(model, capitalOfFrance)) // the model is loaded
	runner := findRunner(t)
	began := cpuTime(t, runner)
	if r := d.ask(t, prompt(model, "Never stop.", streamed)); r.finish != "length" {
		t.Fatalf("the endless answer ended: %v", r)
	}
	whole := cpuTime(t, runner) - began
	if whole < 200*time.Millisecond {
		t.Fatalf("the endless answer took %v of CPU time: too little to tell a cancelled one from it", whole)
	}
	for name, more := range map[string][]string{"streamed": {streamed}, "plain": nil} {
		began := cpuTime(t, runner)
		s := d.open(t, prompt(model, "Never stop.", more...))
		eventually(t, startMax, "the engine works", func() bool { return cpuTime(t, runner) > began+whole/20 })
		signalPID(t, runner, syscall.SIGSTOP)
		frozen := cpuTime(t, runner)
		s.leave()
		time.Sleep(300 * time.Millisecond) // three times what the news may take to get there
		signalPID(t, runner, syscall.SIGCONT)
		if r := d.ask(t, prompt(model, capitalOfFrance)); !r.succeeded() || r.text != "The capital of France is Paris." {
			t.Errorf("%s: after leaving: %v", name, r)
		}
		time.Sleep(300 * time.Millisecond) // time to waste CPU in, if it wants
		if more := cpuTime(t, runner) - frozen; more > whole/3 {
			t.Errorf("%s: the engine spent %v more after the client left, a whole answer takes %v", name, more, whole)
		}
	}
	settled(t, d.ops, before)
}

// poison sends requests each of which was seen to kill the real engine's runner, and every request in it. The worker
// refuses or corrects them.
func poison(t *testing.T, c client, model string) {
	c.ask(t, prompt(model, capitalOfFrance)) // the model is loaded
	runner := findRunner(t)
	schema := func(s string) string {
		return `"response_format":{"type":"json_schema","json_schema":{"name":"s","schema":` + s + `}}`
	}
	for _, field := range []string{
		`"temperature":1e-45`, // how go-openai's users say 0
		`"temperature":1e-38,"top_p":1`,
		`"repetition_penalty":0`, `"repeat_penalty":1e-38`,
		schema(`{"type":"string","maxLength":100000}`),
		schema(`{"type":"string","minLength":100000}`),
		schema(`{"type":"string","minLength":-5}`),
		schema(`{"type":"array","maxItems":1000000000,"items":{"type":"integer"}}`),
		schema(`{"type":"string","pattern":"^a{1000000}$"}`),
		schema(`{"anyOf":[]}`),
		schema(`{"$defs":{"a":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}`),
		schema(strings.Repeat(`{"items":`, 50) + `{}` + strings.Repeat("}", 50)),
	} {
		body := prompt(model, capitalOfFrance, field, `"max_tokens":20`)
		body = strings.Replace(body, `"temperature":0,`, "", strings.Count(field, "temperature"))
		if r := c.ask(t, body); r.status >= http.StatusInternalServerError {
			t.Errorf("%.100s: %v", field, r)
		}
		if !alive(runner) {
			t.Errorf("%.100s: the runner died", field)
			c.ask(t, prompt(model, capitalOfFrance))
			runner = findRunner(t)
		}
	}
}

// findRunner is the process in which Ollama runs the model.
func findRunner(t *testing.T) int {
	t.Helper()
	if pids := runners(t); len(pids) > 0 {
		return pids[0]
	}
	t.Fatal("no runner among the processes of Ollama")
	return 0
}

// cpuTime is how long a process has run, system and user.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	const perTick = time.Second / 100 // USER_HZ, the same on every Linux that Go runs on
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * perTick
}

func signalPID(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatal(err)
	}
}
