package openai

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestAppend(t *testing.T) {
	for _, tc := range []struct {
		name string
		err  *Error
		want string
	}{
		{
			"all",
			&Error{Status: 404, Type: "invalid_request_error", Code: "model_not_found", Param: "model", Message: `"x"`},
			`{"error":{"message":"\"x\"","type":"invalid_request_error","param":"model",` +
				`"code":"model_not_found"}}`,
		},
		{"nulls", &Error{Type: "t", Message: "m"}, `{"error":{"message":"m","type":"t","param":null,"code":null}}`},
		{
			"escapes",
			&Error{Type: "\x00", Message: "a\\b\"c\n\r\t\x1f\x7f<é🙂\u2028", Param: "\xff", Code: "a\xc3"},
			`{"error":{"message":"a\\b\"c\n\r\t\u001f\u007f<é🙂` + "\u2028" + `","type":"\u0000",` +
				`"param":"` + "\ufffd" + `","code":"a` + "\ufffd" + `"}}`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := string(tc.err.Append([]byte("data: "))); got != "data: "+tc.want {
				t.Errorf("Append = %s, want %s", got, tc.want)
			}
		})
	}
	// go-openai finds an error in a stream by this pattern alone.
	if line := (&Error{}).Append([]byte("data: ")); !regexp.MustCompile(`^data:\s*{"error":`).Match(line) {
		t.Errorf("%s", line)
	}
}

func checkAppend(t *testing.T, e *Error) {
	t.Helper()
	text := e.Append(nil)
	var got struct {
		Error struct {
			Message, Type string
			Param, Code   *string
		}
	}
	if err := json.Unmarshal(text, &got); err != nil || !utf8.Valid(text) {
		t.Fatalf("%v: %q", err, text)
	}
	if strings.ContainsFunc(string(text), func(r rune) bool { return r < ' ' }) {
		t.Fatalf("control character in %q", text)
	}
	nullable := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	valid := func(s string) string { return string([]rune(s)) } // as encoding/json does: U+FFFD for each bad byte
	want := []string{valid(e.Message), valid(e.Type), valid(e.Param), valid(e.Code)}
	have := []string{got.Error.Message, got.Error.Type, nullable(got.Error.Param), nullable(got.Error.Code)}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Fatalf("decoded (-want +got):\n%s", diff)
	}
}

func FuzzAppend(f *testing.F) {
	f.Add("m\n\x00\"\\", "t", "p\xff", "c\u2028\x7f")
	f.Fuzz(func(t *testing.T, message, kind, param, code string) {
		checkAppend(t, &Error{Message: message, Type: kind, Param: param, Code: code})
	})
}

func TestWrite(t *testing.T) {
	e := NewError(http.StatusTooManyRequests, "rate_limit_exceeded", "wait %d", 2)
	e.RetryAfter, e.NoRetry = 1100*time.Millisecond, true
	w := httptest.NewRecorder()
	e.Write(w)
	want := http.Header{"Content-Type": {"application/json"}, "Retry-After": {"2"}, "X-Should-Retry": {"false"}}
	if diff := cmp.Diff(want, w.Result().Header); diff != "" || w.Code != 429 {
		t.Errorf("status %d, header (-want +got):\n%s", w.Code, diff)
	}
	if got := w.Body.String(); got != `{"error":{"message":"wait 2","type":"rate_limit_error","param":null,`+
		`"code":"rate_limit_exceeded"}}`+"\n" {
		t.Errorf("body %q", got)
	}
	w = httptest.NewRecorder()
	(&Error{}).Write(w)
	if w.Code != 500 || len(w.Result().Header) != 1 {
		t.Errorf("an empty error has status %d, header %v", w.Code, w.Result().Header)
	}
}

func TestConstructors(t *testing.T) {
	for status, want := range map[int]string{
		400: "invalid_request_error", 401: "authentication_error", 402: "insufficient_quota", 403: "permission_error",
		404: "invalid_request_error", 413: "invalid_request_error",
		429: "rate_limit_error", 500: "server_error", 503: "server_error",
	} {
		if got := NewError(status, "c", "m"); got.Type != want || got.Status != status || got.Code != "c" {
			t.Errorf("NewError(%d) = %+v, want type %s", status, got, want)
		}
	}
	var err error = BadRequest("n", "n is %d", 5)
	if err.Error() != "400: n is 5" {
		t.Errorf("Error = %q", err)
	}
}

func TestParseError(t *testing.T) {
	long := strings.Repeat("é", 3000)
	for _, tc := range []struct {
		name   string
		status int
		body   string
		want   Error
	}{
		{
			"OpenAI", 400, `{"error":{"message":"m","type":"invalid_request_error","param":"messages[0].role",` +
				`"code":"context_length_exceeded"}}`,
			Error{
				Status: 400, Type: "invalid_request_error", Param: "messages[0].role", Code: "context_length_exceeded",
				Message: "m",
			},
		},
		{
			"nulls", 400, `{"error":{"message":"m","type":null,"param":null,"code":null}}`,
			Error{Status: 400, Type: "invalid_request_error", Message: "m"},
		},
		{
			"vLLM", 400, `{"object":"error","message":"m","type":"BadRequestError","param":null,"code":400}`,
			Error{Status: 400, Type: "BadRequestError", Message: "m"},
		},
		{
			"llama.cpp", 503, `{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}`,
			Error{Status: 503, Type: "unavailable_error", Message: "Loading model"},
		},
		{
			"Ollama", 404, `{"error":"model 'x' not found"}`,
			Error{Status: 404, Type: "invalid_request_error", Message: "model 'x' not found"},
		},
		{
			"detail", 404, `{"detail":"Not Found"}`,
			Error{Status: 404, Type: "invalid_request_error", Message: "Not Found"},
		},
		{
			"FastAPI", 422, `{"detail":[{"type":"missing","loc":["body","messages",0],"msg":"Field required",` +
				`"input":{"prompt":"private"}},{"msg":"x"},{"loc":["a"]}]}`,
			Error{Status: 422, Type: "invalid_request_error", Message: "body.messages.0: Field required; x; a"},
		},
		{"plain", 500, " Internal error\n", Error{Status: 500, Type: "server_error", Message: "Internal error"}},
		{"JSON text", 500, `"oops"`, Error{Status: 500, Type: "server_error", Message: `"oops"`}},
		{
			"empty", 503, "",
			Error{Status: 503, Type: "server_error", Message: "upstream answered 503 Service Unavailable"},
		},
		{"unknown status", 599, "", Error{Status: 599, Type: "server_error", Message: "upstream answered 599"}},
		{
			"HTML", 502, "<html><body>nginx</body></html>",
			Error{Status: 502, Type: "server_error", Message: "upstream answered 502 Bad Gateway"},
		},
		{
			"nothing in it", 400, `{"foo":1}`,
			Error{Status: 400, Type: "invalid_request_error", Message: "upstream answered 400 Bad Request"},
		},
		{
			"error of another kind", 400, `{"error":[1]}`,
			Error{Status: 400, Type: "invalid_request_error", Message: "upstream answered 400 Bad Request"},
		},
		{
			"message of another kind", 400, `{"error":{"message":{"a":1}}}`,
			Error{Status: 400, Type: "invalid_request_error", Message: "upstream answered 400 Bad Request"},
		},
		{
			"odd words", 400,
			`{"error":{"message":"m","type":"a b","param":"é","code":"` + strings.Repeat("x", 129) + `"}}`,
			Error{Status: 400, Type: "invalid_request_error", Message: "m"},
		},
		{"status of success", 200, `{"error":{"message":"m"}}`, Error{Status: 502, Type: "server_error", Message: "m"}},
		{
			"status absurd", -1, "",
			Error{Status: 502, Type: "server_error", Message: "upstream answered 502 Bad Gateway"},
		},
		{
			"long", 400, `{"error":{"message":"x` + long + `"}}`,
			Error{Status: 400, Type: "invalid_request_error", Message: "x" + strings.Repeat("é", 1023)},
		},
		{
			"long plain", 400, "x" + long,
			Error{Status: 400, Type: "invalid_request_error", Message: "x" + strings.Repeat("é", 1023)},
		},
		{
			"very long JSON", 400, `{"error":"` + strings.Repeat("x", 1<<20) + `"}`,
			Error{Status: 400, Type: "invalid_request_error", Message: `{"error":"` + strings.Repeat("x", 2048-10)},
		},
		{"not UTF-8", 400, "a\xff\xfeb", Error{Status: 400, Type: "invalid_request_error", Message: "a\ufffdb"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := ParseError(tc.status, []byte(tc.body))
			if diff := cmp.Diff(tc.want, *got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			checkParsed(t, got)
		})
	}
	deep := ParseError(400, []byte(strings.Repeat(`{"error":`, 7000)))
	checkParsed(t, deep)
}

func checkParsed(t *testing.T, e *Error) {
	t.Helper()
	if e.Status < 400 || e.Status > 599 || e.Type == "" {
		t.Fatalf("parsed as %+v", e)
	}
	if e.Message == "" || len(e.Message) > 2048 || !utf8.ValidString(e.Message) {
		t.Fatalf("parsed as %+v", e)
	}
	for _, s := range []string{e.Type, e.Code, e.Param} {
		if len(s) > 128 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Fatalf("parsed as %+v", e)
		}
	}
	checkAppend(t, e)
}

func FuzzParseError(f *testing.F) {
	for _, s := range []string{
		`{"error":{"message":"m","type":"t","param":"p","code":1}}`, `{"error":"x"}`, `{"detail":[{"loc":["a",0,{` +
			`}],"msg":"x"}]}`,
		"\xff\x00 plain", `<html>`, `{"message":"\ud800"}`, `{"error":null,"detail":"x"}`, strings.Repeat("é", 1030),
	} {
		f.Add(400, []byte(s))
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) { checkParsed(t, ParseError(status, body)) })
}
