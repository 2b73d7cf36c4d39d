package e2e_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// attack is a request that no honest client sends, and the statuses that are right for it.
type attack struct {
	name  string
	text  string // head and body as they go over the wire
	want  []int
	param string // that the error blames
	// end says that no more will come; otherwise the client just waits.
	end bool
	// quiet allows that the server hangs up without a word: it never got a whole request.
	quiet bool
}

const goodBody = `{"model":"m","messages":[{"role":"user","content":"hi"}]}`

// bodyAttacks are bodies that make no sense, in sound HTTP.
func bodyAttacks(c client) []attack {
	deep := strings.Repeat("[", 1<<20) + strings.Repeat("]", 1<<20)
	list := []attack{
		{name: "duplicate model", text: `{"model":"m","messages":[],"model":"n"}`, param: "model"},
		{name: "duplicate model, escaped", text: `{"model":"m","messages":[],"mod\u0065l":"n"}`, param: "model"},
		{name: "duplicate stream", text: `{"model":"m","stream":true,"stream":false,"messages":[]}`, param: "stream"},
		{name: "deep nesting", text: `{"model":"m","messages":` + deep + `}`},
		{name: "unbalanced", text: `{"model":"m","messages":` + strings.Repeat(`{"a":[`, 30) + `}`},
		{name: "not JSON", text: "hello"},
		{name: "no body", text: ""},
		{name: "array", text: `[]`},
		{name: "trailing data", text: goodBody + goodBody},
		{name: "model is a number", text: `{"model":7}`, param: "model"},
		{name: "no model", text: `{"messages":[]}`, param: "model"},
		{name: "long model", text: `{"model":"` + strings.Repeat("m", 5000) + `"}`, param: "model"},
		{name: "model is not UTF-8", text: "{\"model\":\"\xff\xfe\"}", param: "model"},
		{name: "stream is a string", text: `{"model":"m","stream":"yes"}`, param: "stream"},
		{name: "negative max_tokens", text: `{"model":"m","max_tokens":-1}`, param: "max_tokens"},
		{name: "33 MiB", text: `{"model":"m","x":"` + strings.Repeat("x", oversize) + `"}`, want: []int{413}},
	}
	for i := range list {
		a := &list[i]
		a.text = c.head(contentLength(len(a.text))) + a.text
		if a.want == nil {
			a.want = []int{http.StatusBadRequest}
		}
	}
	return list
}

func contentLength(n int) string { return fmt.Sprintf("Content-Length: %d\r\n", n) }

// wireAttacks are broken HTTP, or HTTP that takes its time.
func wireAttacks(c client) []attack {
	const chunked = "Transfer-Encoding: chunked\r\n"
	chunk := func(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }
	mib := strings.Repeat("x", 1<<20)
	zeros := strings.Repeat("0", 100_000)
	bad, late := []int{http.StatusBadRequest}, []int{http.StatusRequestTimeout}
	large := []int{http.StatusRequestEntityTooLarge}
	stranger, big := client{}, client{key: strings.Repeat("k", 30_000)}
	length := contentLength(len(goodBody))
	return []attack{
		{name: "slow head", text: "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-A: ", quiet: true},
		{name: "slow body", text: c.head(length) + `{"model"`, want: late},
		{name: "slow chunks", text: c.head(chunked) + chunk(`{"model"`), want: late},
		{name: "truncated body", text: c.head(length) + `{"model"`, end: true, want: bad, quiet: true},
		{name: "truncated chunks", text: c.head(chunked) + chunk(`{"model"`), end: true, want: bad, quiet: true},
		{name: "huge header", text: c.head("X-Big: " + mib + "\r\n"), want: []int{431}},
		{name: "many headers", text: c.head(strings.Repeat("X-A: b\r\n", 100_000)), want: []int{431}},
		{name: "33 MiB, announced", text: c.head(contentLength(oversize)) + mib, want: large},
		{name: "33 MiB, chunked", text: c.head(chunked) + strings.Repeat(chunk(mib), 33) + "0\r\n\r\n", want: large},
		{name: "exabytes announced", text: c.head("Content-Length: 9000000000000000000\r\n"), want: large},
		{name: "length overflows", text: c.head("Content-Length: 99999999999999999999\r\n"), want: bad},
		{name: "negative length", text: c.head("Content-Length: -5\r\n"), want: bad},
		{name: "two lengths", text: c.head("Content-Length: 3\r\n"+length) + goodBody, want: bad},
		{name: "bad chunk size", text: c.head(chunked) + "zz\r\nhello\r\n0\r\n\r\n", want: bad, quiet: true},
		{name: "endless chunk size", text: c.head(chunked) + zeros, want: bad, quiet: true},
		{name: "endless chunk extension", text: c.head(chunked) + "5;" + zeros, want: bad, quiet: true},
		{name: "unknown coding", text: c.head("Transfer-Encoding: gzip\r\n") + "x", want: []int{400, 501}},
		{name: "no HTTP", text: "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", want: bad, quiet: true},
		{name: "no host", text: strings.Replace(c.head(""), "Host: cocoon.test\r\n", "", 1), want: bad},
		{name: "control character in a header", text: c.head("X-A: b\x00c\r\n"), want: bad},
		{name: "no key", text: stranger.head(length) + goodBody, want: []int{401}},
		{name: "no key, slow body", text: stranger.head(length) + goodBody[:5], want: []int{401}},
		{name: "huge key", text: big.head(length) + goodBody, want: []int{401}},
		{name: "no such route, slow body", text: strings.Replace(c.head(length), "chat", "chit", 1), want: []int{404}},
	}
}

// TestHostileClient sends what no honest client does. The gateway refuses it in the right words, and lives.
func TestHostileClient(t *testing.T) {
	t.Parallel()
	g := startGateway(t, "auto")
	w := g.startWorker(t, "one", startEcho(t, "m"))
	g.serves(t, startMax, "m")
	g.ask(t, prompt("m", "hi"))
	before, conns := goroutines(t, g.ops), connections(t, g.addr)
	t.Run("attacks", func(t *testing.T) {
		for _, a := range append(bodyAttacks(g.client), wireAttacks(g.client)...) {
			t.Run(a.name, func(t *testing.T) {
				t.Parallel()
				g.attacked(t, a)
			})
		}
		t.Run("length and chunks", func(t *testing.T) { g.smuggled(t) })
	})
	if !g.running() || !w.running() {
		t.Fatal("a process ended")
	}
	if r := g.ask(t, prompt("m", "hi")); r.text != "hello" {
		t.Errorf("after the attacks: %v", r)
	}
	settled(t, g.ops, before)
	eventually(t, startMax, "connections are closed", func() bool { return connections(t, g.addr) <= conns })
}

func (g *gateway) attacked(t *testing.T, a attack) {
	r := dial(t, g.client)
	defer r.leave()
	_ = r.try(a.text) // the server may hang up before it has read all; its answer counts
	if a.end {
		if err := r.conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	resp, body, err := r.response(t)
	if err != nil {
		if !a.quiet {
			t.Errorf("no answer: %v", err)
		}
		return
	}
	if !slices.Contains(a.want, resp.StatusCode) {
		t.Errorf("status %d, want one of %d: %.300s", resp.StatusCode, a.want, body)
	}
	fault, err := parseFault([]byte(body))
	if err != nil {
		if resp.Header.Get("X-Request-Id") != "" { // net/http itself answers what never reaches the gateway
			t.Errorf("status %d: %v", resp.StatusCode, err)
		}
		return
	}
	if a.param != "" && fault.param() != a.param {
		t.Errorf("error blames %q, want %q: %s", fault.param(), a.param, fault.Message)
	}
	if resp.Close {
		r.closed(t)
	}
}

// smuggled sends a request whose body ends in one place by its length and in another by its chunks. Whichever the
// gateway takes, what comes after must not be served: a proxy before it may have seen it as part of the body.
func (g *gateway) smuggled(t *testing.T) {
	r := dial(t, g.client)
	defer r.leave()
	hidden := "GET /healthz HTTP/1.1\r\nHost: smuggled\r\n\r\n"
	text := "0\r\n\r\n" + hidden
	r.send(t, g.head(contentLength(len(text))+"Transfer-Encoding: chunked\r\n")+text)
	resp, body, err := r.response(t)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("status %d: %s", resp.StatusCode, body)
	}
	if resp, _, err := r.response(t); err == nil {
		t.Errorf("the hidden request was served: %s", resp.Status)
	}
}

// TestDisconnect leaves at every stage of a request, politely and by reset, and looks for what stays behind.
func TestDisconnect(t *testing.T) {
	t.Parallel()
	g := startGateway(t, "auto")
	e := startEngine(t, "m")
	w := g.startWorker(t, "one", e.url)
	g.serves(t, startMax, "m")
	before, conns := goroutines(t, g.ops), connections(t, g.addr)
	body := prompt("m", "hi", streamed)
	length := contentLength(len(body))
	stages := map[string]func(r *raw) *call{
		"before a word":   func(*raw) *call { return nil },
		"in the head":     func(r *raw) *call { r.send(t, "POST /v1/chat/comp"); return nil },
		"before the body": func(r *raw) *call { r.send(t, g.head(length)); return nil },
		"in the body":     func(r *raw) *call { r.send(t, g.head(length)+body[:10]); return nil },
		"after the body":  func(r *raw) *call { r.send(t, g.head(length)+body); return nil },
		"before the first byte": func(r *raw) *call {
			r.send(t, g.head(length)+body)
			return e.next(t)
		},
		"in the stream": func(r *raw) *call {
			r.send(t, g.head(length)+body)
			c := e.next(t)
			c.run(t, func() { c.say("one") })
			r.until(t, `"one"`)
			return c
		},
	}
	for name, stage := range stages {
		for i := range 10 {
			r := dial(t, g.client)
			c := stage(r)
			if i%2 == 0 {
				r.leave()
			} else {
				r.reset()
			}
			if c == nil {
				continue
			}
			select {
			case <-c.done:
			case <-time.After(rawMax):
				t.Fatalf("%s: the engine still works %v after the client left", name, rawMax)
			}
		}
		e.forget() // calls of clients that did not wait, or the next stage would take one for its own
	}
	drain(e)
	if !g.running() || !w.running() {
		t.Fatal("a process ended")
	}
	settled(t, g.ops, before)
	eventually(t, startMax, "connections are closed", func() bool { return connections(t, g.addr) <= conns })
	last := g.begin(t, body)
	e.next(t).complete(t)
	if r := last.wait(t); r.text != "hello" || !r.done {
		t.Errorf("after all that: %v", r)
	}
}

// TestCancel leaves, and looks how long the engine works on: no time limit of the gateway's has to pass.
func TestCancel(t *testing.T) {
	t.Parallel()
	g := startGateway(t, "auto")
	e := startEngine(t, "m")
	g.startWorker(t, "one", e.url)
	g.serves(t, startMax, "m")
	const soon, tries = 3 * time.Second, 10
	for name, more := range map[string][]string{"plain": nil, "stream": {streamed}, "started stream": {streamed}} {
		best := time.Hour
		for i := range tries {
			s := g.open(t, prompt("m", "hi", more...))
			c := e.next(t)
			if name == "started stream" {
				c.run(t, func() { c.say("one") })
				s.until(t, `"one"`)
			}
			began := time.Now()
			if i%2 == 0 {
				s.leave()
			} else {
				s.reset()
			}
			select {
			case <-c.done:
				best = min(best, c.left.Sub(began))
			case <-time.After(rawMax):
				t.Fatalf("%s: the engine still works %v after its client left", name, rawMax)
			}
		}
		t.Logf("%s: the engine learned of it after %v", name, best)
		if best > soon { // the best of some: this machine may be busy
			t.Errorf("%s: the engine learned that its client left after %v", name, best)
		}
	}
}

// drain waits until the requests whose clients left at an unknown moment are through.
func drain(e *engine) {
	for {
		select {
		case c := <-e.calls:
			<-c.done
		case <-time.After(time.Second):
			return
		}
	}
}

// connections is how many of clients' connections the process that listens on a loopback address has open, those
// included that the client has closed.
func connections(t *testing.T, address string) (n int) {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Skipf("this system has no /proc to count connections in: %v", err)
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	const listens, timeWait = "0A", "06"
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) > 3 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", number)) && f[3] != listens && f[3] != timeWait {
			n++
		}
	}
	return n
}
