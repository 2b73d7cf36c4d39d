package e2e_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// curlSDK asks with the curl binary. It understands answers by the strictest reading of all.
func curlSDK() sdk {
	return sdk{
		name: "curl", ask: oneByOne(curlDo), ready: needCurl, requestIDs: true, pieces: true,
		class: func(status int) string { return strconv.Itoa(status) },
	}
}

func needCurl(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
}

func curlDo(t *testing.T, c client, q question) said {
	t.Helper()
	switch q.Do {
	case "models":
		return curlModels(t, c, "/v1/models")
	case "model":
		return curlModels(t, c, "/v1/models/"+q.Model)
	}
	resp := curl(t, c, "/v1/chat/completions", q.body(t))
	defer resp.Body.Close()
	r, err := read(resp)
	if err != nil {
		t.Errorf("curl %+v: %v", q, err)
	}
	if q.Stream && r.succeeded() && (!r.done || r.choices == 0) {
		t.Errorf("curl %+v: stream of %d events ended without [DONE]: %v", q, r.choices, r)
	}
	return r.said()
}

// said brings what the strict client read into the common form.
func (r *reply) said() said {
	s := said{
		Text: r.text, Finish: r.finish, Usage: r.usage, UsageEvents: r.usages, Pieces: r.pieces, Calls: r.calls,
		IDs: slices.Collect(maps.Keys(r.ids)), RequestID: r.header.Get("X-Request-Id"),
	}
	if r.fault != nil {
		s.Failure = &failure{
			Class: strconv.Itoa(r.status), Status: r.status, Code: r.fault.code(), Type: r.fault.Type,
			Param: r.fault.param(), Message: r.fault.Message, RequestID: s.RequestID,
		}
	}
	return s
}

func curlModels(t *testing.T, c client, path string) said {
	t.Helper()
	resp := curl(t, c, path, nil)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		r, err := read(resp)
		if err != nil {
			t.Errorf("curl %s: %v", path, err)
		}
		return r.said()
	}
	var got struct {
		ID, Object string
		Data       []struct{ ID, Object string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		t.Errorf("curl %s: %v", path, err)
	}
	s := said{RequestID: resp.Header.Get("X-Request-Id")}
	for _, m := range append(got.Data, struct{ ID, Object string }{got.ID, got.Object}) {
		if m.ID != "" {
			s.IDs = append(s.IDs, m.ID)
		}
	}
	return s
}

// curl runs the binary and parses what came over the wire: --raw keeps the chunks, -i the head.
func curl(t *testing.T, c client, path string, body []byte) *http.Response {
	t.Helper()
	args := []string{
		"--silent", "--show-error", "--no-buffer", "--include", "--raw", "--path-as-is", "--max-time", "60",
		"--header", "Authorization: Bearer " + c.key,
	}
	if body != nil {
		args = append(args, "--header", "Content-Type: application/json", "--data-binary", "@-")
	}
	cmd := exec.CommandContext(t.Context(), "curl", append(args, c.base+path)...)
	cmd.Stdin = bytes.NewReader(body)
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		t.Fatalf("curl %s: %v: %s", path, err, problem.String())
	}
	in := bufio.NewReader(&out)
	for {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("curl %s: %v", path, err)
		}
		if resp.StatusCode >= 200 {
			return resp
		}
	}
}

// body is the question as an app without a library would write it.
func (q question) body(t *testing.T) []byte {
	t.Helper()
	var more []string
	add := func(on bool, field string) {
		if on {
			more = append(more, field)
		}
	}
	add(q.Stream, streamed)
	add(q.Usage, withUsage)
	add(q.MaxTokens > 0, `"max_completion_tokens":`+strconv.Itoa(q.MaxTokens))
	add(q.N > 0, `"n":`+strconv.Itoa(q.N))
	add(q.Tools, `"tools":[{"type":"function","function":{"name":"get_weather","description":"Get the weather in a city",`+
		`"parameters":{"type":"object","required":["city"],"properties":{"city":{"type":"string"}}}}}]`)
	body := prompt(q.Model, q.Text+strings.Repeat("x", q.Pad), more...)
	if q.ToolAnswer != "" {
		turns := `},{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function",` +
			`"function":{"name":"get_weather","arguments":"{\"city\":\"Paris\"}"}}]},` +
			`{"role":"tool","tool_call_id":"call_1","content":` + strconv.Quote(q.ToolAnswer) + `}]`
		body = strings.Replace(body, `}]`, turns, 1)
	}
	return []byte(body)
}
