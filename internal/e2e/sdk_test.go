package e2e_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// oversize makes a body that is beyond the gateway's 32 MiB.
const oversize = 33 << 20

// question is what a test asks through any of the clients.
type question struct {
	Do         string `json:"do"` // chat (also ""), models, model
	Model      string `json:"model"`
	Text       string `json:"text"`
	Pad        int    `json:"pad"` // bytes added to the text
	Stream     bool   `json:"stream"`
	Usage      bool   `json:"usage"`
	Tools      bool   `json:"tools"`      // offers get_weather
	ToolAnswer string `json:"toolAnswer"` // the second turn: get_weather(Paris) was called and answered so
	MaxTokens  int    `json:"maxTokens"`
	N          int    `json:"n"`
	Key        string `json:"key"` // in place of the client's; "" = that
}

// said is what a client understood of the answer.
type said struct {
	Text        string     `json:"text"`
	Finish      string     `json:"finish"`
	Usage       *usage     `json:"usage"`
	UsageEvents int        `json:"usageEvents"` // of a stream
	Pieces      int        `json:"pieces"`      // of a stream, those with text
	Calls       []toolCall `json:"calls"`
	IDs         []string   `json:"ids"` // of the models, or of the answer or its chunks
	RequestID   string     `json:"requestId"`
	Failure     *failure   `json:"failure"`
}

type toolCall struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

// failure is what a client makes of an error. A client leaves empty what it doesn't tell its user.
type failure struct {
	Class     string `json:"class"`
	Status    int    `json:"status"`
	Code      string `json:"code"`
	Type      string `json:"type"`
	Param     string `json:"param"`
	Message   string `json:"message"`
	RequestID string `json:"requestId"`
}

// sdk is one way to speak to the gateway that people use.
type sdk struct {
	name string
	// ask puts one question after the other; Node starts slowly.
	ask func(t *testing.T, c client, list []question) []said
	// class is the error type that users of this client catch for a status.
	class func(status int) string
	// requestIDs says that the client tells the request id of errors, too.
	requestIDs bool
	// ready, if there is one, gets the client or skips the test.
	ready func(t *testing.T)
	// pieces says that do returns what came before an error.
	pieces bool
}

// oneByOne makes ask of a function for one question.
func oneByOne(do func(t *testing.T, c client, q question) said) func(*testing.T, client, []question) []said {
	return func(t *testing.T, c client, list []question) []said {
		t.Helper()
		var all []said
		for _, q := range list {
			if own := c; q.Key != "" {
				own.key = q.Key
				all = append(all, do(t, own, q))
				continue
			}
			all = append(all, do(t, c, q))
		}
		return all
	}
}

func (k sdk) do(t *testing.T, c client, q question) said {
	t.Helper()
	return k.ask(t, c, []question{q})[0]
}

func sdks() []sdk { return []sdk{curlSDK(), nodeSDK(), goOpenAISDK(), openAIGoSDK()} }

const capitalOfFrance = "What is the capital of France?"

// answers checks what each client makes of right requests. The alias is a model id with a slash and a colon.
func (k sdk) answers(t *testing.T, c client, model, alias string) {
	paris := said{Text: "The capital of France is Paris.", Finish: "stop"}
	clipped := said{Text: "1 2 3", Finish: "length"}
	called := said{Finish: "tool_calls", Calls: []toolCall{{Name: "get_weather", Arguments: `{"city":"Paris"}`}}}
	sunny := said{Text: "The weather in Paris is sunny.", Finish: "stop"}
	const weather = "What is the weather in Paris?"
	tests := []struct {
		q    question
		want said
	}{
		{question{Model: model, Text: capitalOfFrance}, paris},
		{question{Model: model, Text: capitalOfFrance, Stream: true}, paris},
		{question{Model: model, Text: capitalOfFrance, Stream: true, Usage: true}, paris},
		{question{Model: alias, Text: capitalOfFrance}, paris},
		{question{Model: alias, Text: capitalOfFrance, Stream: true}, paris},
		{question{Model: model, Text: "Count to 12.", MaxTokens: 5}, clipped},
		{question{Model: model, Text: "Count to 12.", MaxTokens: 5, Stream: true}, clipped},
		{question{Model: model, Text: weather, Tools: true}, called},
		{question{Model: model, Text: weather, Tools: true, Stream: true}, called},
		{question{Model: model, Text: weather, Tools: true, ToolAnswer: "sunny"}, sunny},
		{question{Model: model, Text: weather, Tools: true, ToolAnswer: "sunny", Stream: true}, sunny},
	}
	list := []question{{Do: "models"}, {Do: "model", Model: model}, {Do: "model", Model: alias}}
	for _, test := range tests {
		list = append(list, test.q)
	}
	got := k.ask(t, c, list)
	for i, id := range []string{model, alias} {
		if !slices.Contains(got[0].IDs, id) {
			t.Errorf("models are %q, want %q among them; failure %+v", got[0].IDs, id, got[0].Failure)
		}
		if one := got[1+i]; !slices.Equal(one.IDs, []string{id}) {
			t.Errorf("model %q: got %q, failure %+v", id, one.IDs, one.Failure)
		}
	}
	for i, test := range tests {
		check(t, test.q, got[3+i], test.want)
	}
}

// check compares text, finish reason and calls with want; what every answer must have is checked besides.
func check(t *testing.T, q question, got, want said) {
	t.Helper()
	if got.Failure != nil {
		t.Errorf("%+v: failed: %+v", q, *got.Failure)
		return
	}
	for i, call := range got.Calls {
		got.Calls[i].Arguments = compact(t, call.Arguments)
	}
	if got.Text != want.Text || got.Finish != want.Finish || !slices.Equal(got.Calls, want.Calls) {
		t.Errorf("%+v: got %q %q %v, want %q %q %v", q, got.Text, got.Finish, got.Calls, want.Text, want.Finish, want.Calls)
	}
	if got.RequestID == "" || len(got.IDs) != 1 || got.IDs[0] == "" {
		t.Errorf("%+v: request id %q, ids %q; want one of each", q, got.RequestID, got.IDs)
	}
	asked := q.Usage || !q.Stream
	switch {
	case asked && (got.Usage == nil || got.Usage.Prompt <= 0 || got.Usage.Completion <= 0 ||
		got.Usage.Total != got.Usage.Prompt+got.Usage.Completion):
		t.Errorf("%+v: usage %+v", q, got.Usage)
	case !asked && got.Usage != nil:
		t.Errorf("%+v: usage %+v that nobody asked for", q, *got.Usage)
	case q.Stream && q.Usage && got.UsageEvents != 1:
		t.Errorf("%+v: %d usage events", q, got.UsageEvents)
	}
	if q.Stream && want.Text != "" && got.Pieces < 2 {
		t.Errorf("%+v: %d pieces; it was not streamed", q, got.Pieces)
	}
}

// errors checks that each client raises its own error type at once, without a storm of retries.
func (k sdk) errors(t *testing.T, c client, model string) {
	type test struct {
		q    question
		want failure
		says string // in the message
	}
	tests := []test{
		{question{Model: model, Text: "Hi", Key: "ck-wrong"}, failure{Status: 401, Code: "invalid_api_key"}, ""},
		{question{Model: "no-such-model", Text: "Hi"}, failure{Status: 404, Code: "model_not_found"}, model},
		{question{Model: "no/such", Text: "Hi", Stream: true}, failure{Status: 404, Code: "model_not_found"}, model},
		{question{Do: "model", Model: "no/such:model"}, failure{Status: 404, Code: "model_not_found"}, ""},
		{question{Model: model, Text: "Hi", N: 1000}, failure{Status: 400, Param: "n"}, "n"},
	}
	var list []question
	for _, test := range tests {
		list = append(list, test.q)
	}
	counter, attempts := counted(t, c)
	got := k.ask(t, counter, list)
	if n := attempts.Load(); n != int64(len(list)) {
		t.Errorf("%d attempts for %d questions", n, len(list))
	}
	// The counting proxy would read on where the gateway hangs up.
	large := test{question{Model: model, Pad: oversize}, failure{Status: 413}, ""}
	got = append(got, k.do(t, c, large.q))
	for i, test := range append(tests, large) {
		k.checkFailure(t, test.q, got[i].Failure, test.want)
		if f := got[i].Failure; f != nil && !strings.Contains(f.Message, test.says) {
			t.Errorf("%+v: message %q, want %q in it", test.q, f.Message, test.says)
		}
	}
}

func (k sdk) checkFailure(t *testing.T, q question, got *failure, want failure) {
	t.Helper()
	if got == nil {
		t.Errorf("%+v: no error", q)
		return
	}
	want.Class = k.class(want.Status)
	if got.Status != want.Status || got.Class != want.Class || got.Message == "" {
		t.Errorf("%+v: got %+v, want status %d as %s", q, *got, want.Status, want.Class)
	}
	if want.Code != "" && got.Code != want.Code || want.Param != "" && got.Param != want.Param {
		t.Errorf("%+v: got %+v, want code %q, param %q", q, *got, want.Code, want.Param)
	}
	if got.Type == "" || k.requestIDs && got.RequestID == "" {
		t.Errorf("%+v: type %q, request id %q; want both", q, got.Type, got.RequestID)
	}
}

// counted puts a proxy before the gateway that counts requests: what a client retries can't be seen otherwise.
func counted(t *testing.T, c client) (client, *atomic.Int64) {
	t.Helper()
	target, err := url.Parse(c.base)
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		FlushInterval: -1,
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return client{base: srv.URL, key: c.key}, &n
}

// compact removes the white space that tool arguments may have.
func compact(t *testing.T, text string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Errorf("tool arguments %q: %v", text, err)
		return text
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Error(err)
	}
	return string(out)
}
