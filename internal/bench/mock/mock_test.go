package mock

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParse(t *testing.T) {
	for model, want := range map[string]Behaviour{
		"mock":               {Chunks: defaultChunks, Body: defaultBody},
		"mock-n100-d20":      {Chunks: 100, Gap: 20 * time.Millisecond, Body: defaultBody},
		"mock-u500-b4096-w5": {Chunks: defaultChunks, Gap: 500 * time.Microsecond, Wait: 5 * time.Millisecond, Body: 4096},
		"mock-n9000000":      {Chunks: chunksMax, Body: defaultBody},
		"mock-n0":            {Body: defaultBody},
	} {
		if got, err := Parse(model); err != nil || got != want {
			t.Errorf("Parse(%q) = %+v, %v, want %+v", model, got, err, want)
		}
	}
	for _, model := range []string{"", "gpt", "mocking", "mock--n1", "mock-x3", "mock-n", "mock-n-1", "mock-b99999999999"} {
		if _, err := Parse(model); err == nil {
			t.Errorf("Parse(%q) passed", model)
		}
	}
}

func TestAnswerIsJSONOfItsSize(t *testing.T) {
	for _, size := range []int{512, 1024, 32768} {
		if b := Answer(size); len(b) != size || !json.Valid(b) {
			t.Errorf("Answer(%d): %d bytes, valid %t", size, len(b), json.Valid(b))
		}
	}
	if !json.Valid(Answer(0)) {
		t.Error("Answer(0) is not JSON")
	}
}

// forms are the two ways to serve the mock; usage says whether a stream ends with it unasked.
func forms(t *testing.T) map[string]struct {
	url   string
	usage bool
} {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- new(Raw).Serve(ctx, l) }()
	s := httptest.NewServer(new(Handler))
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		s.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return map[string]struct {
		url   string
		usage bool
	}{"raw": {"http://" + l.Addr().String(), false}, "handler": {s.URL, true}}
}

func post(t *testing.T, url, body string) (*http.Response, string) {
	t.Helper()
	r, err := http.Post(url+"/v1/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r, string(text)
}

func TestWhole(t *testing.T) {
	for name, f := range forms(t) {
		for range 2 { // on one connection
			r, text := post(t, f.url, `{"model":"mock-b2048","messages":[]}`)
			if r.StatusCode != 200 || !bytes.Equal([]byte(text), Answer(2048)) {
				t.Errorf("%s: %d %.100q", name, r.StatusCode, text)
			}
		}
		body := `{"model":"mock","messages":[{"role":"user","content":"` + strings.Repeat("x", 100_000) + `"}]}`
		if r, text := post(t, f.url, body); r.StatusCode != 200 || len(text) != 1024 {
			t.Errorf("%s: long request: %d %.100q", name, r.StatusCode, text)
		}
		if r, text := post(t, f.url, `{"model":"gpt"}`); r.StatusCode != 404 || !json.Valid([]byte(text)) {
			t.Errorf("%s: unknown model: %d %.100q", name, r.StatusCode, text)
		}
	}
}

func TestModels(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- (&Raw{Models: []string{"mock", "mock-n3"}}).Serve(ctx, l) }()
	defer func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	r, err := http.Get("http://" + l.Addr().String() + "/v1/models")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var list struct {
		Data []struct {
			ID     string
			Window int `json:"max_model_len"`
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&list); err != nil {
		t.Fatal(err)
	}
	if len(list.Data) != 2 || list.Data[1].ID != "mock-n3" || list.Data[1].Window != Context {
		t.Errorf("%+v", list)
	}
}

func TestStream(t *testing.T) {
	for name, f := range forms(t) {
		for _, asked := range []bool{false, true} {
			body := `{"model":"mock-n3-d1","stream":true,"messages":[]}`
			if asked {
				body = `{"model":"mock-n3-d1","stream":true,"stream_options":{"include_usage":true},"messages":[]}`
			}
			_, text := post(t, f.url, body)
			events := strings.Split(text, "\n\n")
			wantUsage := asked || f.usage
			want := 3 + 1 + 1 + 1 // chunks, finish, [DONE], and nothing after the last separator
			if wantUsage {
				want++
			}
			if len(events) != want || events[want-2] != "data: [DONE]" || strings.Contains(text, `"usage":{`) != wantUsage {
				t.Fatalf("%s: asked for usage %t: %q", name, asked, events)
			}
			for _, e := range events[:want-2] {
				if data, ok := strings.CutPrefix(e, "data: "); !ok || !json.Valid([]byte(data)) {
					t.Errorf("%s: %q", name, e)
				}
			}
		}
	}
}

func TestGapsAreKept(t *testing.T) {
	for name, f := range forms(t) {
		start := time.Now()
		post(t, f.url, `{"model":"mock-n5-d20","stream":true}`)
		if took := time.Since(start); took < 80*time.Millisecond {
			t.Errorf("%s: 5 chunks 20 ms apart took %v", name, took)
		}
	}
}

// receiptOf is a receipt that says what it is about.
func receiptOf(s *Served) ([]byte, error) {
	return fmt.Appendf(nil, "receipt of %s\n%x\n%x\n", s.Model, s.Req, s.Resp), nil
}

// split takes the receipt out of an answer. In a stream it must be the event before the usage.
func split(answer string, stream bool) (rest, wire string) {
	if !stream {
		rest, wire, _ = strings.Cut(answer, "\n")
		return rest, wire
	}
	rest, after, _ := strings.Cut(answer, "data: receipt ")
	wire, _ = strings.CutSuffix("data: receipt "+after, "\n"+usage+done)
	return rest + usage + done, strings.ReplaceAll(wire, "data: ", "")
}

func TestReceipts(t *testing.T) {
	const body = `{"model":"mock-n3","stream":%t}`
	var why error
	h := &Handler{Meter: func(r *http.Request) (Sign, error) {
		if r.Header.Get("Metered") == "" {
			return nil, why
		}
		return receiptOf, nil
	}}
	ask := func(stream, metered bool) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/chat/completions", strings.NewReader(fmt.Sprintf(body, stream)))
		if metered {
			r.Header.Set("Metered", "yes")
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	for _, stream := range []bool{false, true} {
		if w := ask(stream, false); strings.Contains(w.Body.String(), "receipt") {
			t.Errorf("stream %t: a receipt that nobody asked for:\n%s", stream, w.Body)
		}
		w := ask(stream, true)
		rest, wire := split(w.Body.String(), stream)
		if n := w.Header().Get("Content-Length"); !stream && n != strconv.Itoa(w.Body.Len()) {
			t.Errorf("a length of %s, %d bytes came", n, w.Body.Len())
		}
		want, err := receiptOf(&Served{
			Model: "mock-n3", Req: sha256.Sum256(fmt.Appendf(nil, body, stream)), Resp: sha256.Sum256([]byte(rest)),
		})
		if err != nil || wire != string(want) {
			t.Errorf("stream %t: %q, want %q in:\n%s", stream, wire, want, w.Body)
		}
	}
	why = errors.New("no such terms")
	if w := ask(false, false); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "no such terms") {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
}

func TestPriced(t *testing.T) {
	var got struct {
		Usage struct {
			Prompt     int `json:"prompt_tokens"`
			Completion int `json:"completion_tokens"`
			Cost       int `json:"cost_nanoton"`
		}
	}
	if err := json.Unmarshal(Priced(Answer(1024), 13335), &got); err != nil {
		t.Fatal(err)
	}
	if u := got.Usage; u.Prompt != PromptTokens || u.Completion != CompletionTokens || u.Cost != 13335 {
		t.Errorf("%+v", u)
	}
}
