package openai

import "testing"

func TestWithContinuousUsage(t *testing.T) {
	const both = `"include_usage":true,"continuous_usage_stats":true`
	for _, tc := range []struct{ body, want string }{
		{`{"model":"m"}`, `{"model":"m"}`},
		{`{"model":"m","stream":true}`, `{"model":"m","stream":true,"stream_options":{` + both + `}}`},
		{`{"stream_options":null,"model":"m","stream":true}`, `{"stream_options":{` + both + `},"model":"m","stream":true}`},
		{`{"model":"m","stream":true,"stream_options":{}}`, `{"model":"m","stream":true,"stream_options":{` + both + `}}`},
		{
			`{"stream_options":{"x":[1]},"model":"m","stream":true}`,
			`{"stream_options":{"include_usage":true,"continuous_usage_stats":true,"x":[1]},"model":"m","stream":true}`,
		},
		{
			`{"model":"m","stream":true,"stream_options":{"include_usage":true}}`,
			`{"model":"m","stream":true,"stream_options":{"continuous_usage_stats":true,"include_usage":true}}`,
		},
		{
			`{"model":"m","stream":true,"stream_options":{"include_usage":false,"continuous_usage_stats":false}}`,
			`{"model":"m","stream":true,"stream_options":{"continuous_usage_stats":true,"include_usage":true,"continuous_usage_stats":false}}`,
		},
	} {
		h, err := ReadHead([]byte(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		body := h.WithContinuousUsage([]byte(tc.body))
		if string(body) != tc.want {
			t.Errorf("%s\nbecomes %s\nwant    %s", tc.body, body, tc.want)
		}
		if again := string(h.WithUsage(body)); again != tc.want {
			t.Errorf("WithUsage after it: %s", again)
		}
		if renamed := h.WithModel(body, "other"); len(renamed) != len(tc.want)+4 {
			t.Errorf("WithModel after it: %s", renamed)
		}
	}
}

func TestAppendWithoutUsage(t *testing.T) {
	for _, tc := range []struct{ data, want string }{
		{`{"usage":{"prompt_tokens":1},"choices":[]}`, `{"usage":null,"choices":[]}`},
		{`{"choices":[{"usage":{}}], "usage" : {"a":{}} }`, `{"choices":[{"usage":{}}], "usage" : null }`},
		{`{"choices":[],"usage":null}`, `{"choices":[],"usage":null}`},
		{`{"choices":[]}`, `{"choices":[]}`},
	} {
		c, err := ReadChunk([]byte(tc.data))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(c.AppendWithoutUsage([]byte("x"), []byte(tc.data))); got != "x"+tc.want {
			t.Errorf("%s becomes %s, want x%s", tc.data, got, tc.want)
		}
	}
}
