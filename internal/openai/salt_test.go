package openai

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestReadCacheSalt(t *testing.T) {
	long := strings.Repeat("s", saltMax)
	for body, want := range map[string]struct {
		salt  string
		given bool
		says  string // of the error
	}{
		`{"model":"m"}`:                                        {},
		`{"model":"m","cache_salt":null}`:                      {},
		`{"model":"m","cache_salt":""}`:                        {given: true},
		`{"model":"m","cache_salt":"a\u0062\n\""}`:             {salt: "ab\n\"", given: true},
		`{"model":"m","cache\u005fsalt":"x"}`:                  {salt: "x", given: true},
		`{"model":"m","Cache_Salt":"x"}`:                       {}, // engines that take one don't take this
		`{"model":"m","messages":[{"cache_salt":"x"}]}`:        {},
		`{"model":"m","cache_salt":"` + long + `"}`:            {salt: long, given: true},
		`{"model":"m","cache_salt":"` + long + `s"}`:           {says: "longer than 1024"},
		`{"model":"m","cache_salt":"a","cache_salt":"b"}`:      {says: "given twice"},
		`{"model":"m","cache_salt":"a","cache\u005fsalt":"b"}`: {says: "given twice"},
		`{"model":"m","cache_salt":["a"]}`:                     {says: "neither a string nor null"},
		`{"model":"m","cache_salt":7}`:                         {says: "neither a string nor null"},
		`{"model":"m","cache_salt":"\x"}`:                      {says: "bad escape"},
		`{"model":"m","cache_salt":"a`:                         {says: "without end"},
	} {
		h, err := ReadHead([]byte(body))
		switch {
		case want.says != "" && (err == nil || !strings.Contains(err.Error(), want.says)):
			t.Errorf("%.60s: %v, want an error that says %q", body, err, want.says)
		case want.says == "" && (err != nil || h.CacheSalt != want.salt || h.HasCacheSalt != want.given):
			t.Errorf("%.60s: %q %t, %v", body, h.CacheSalt, h.HasCacheSalt, err)
		}
	}
}

// TestWithCacheSalt edits in any order: each edit finds its place after the others.
func TestWithCacheSalt(t *testing.T) {
	for body, want := range map[string]string{
		`{"model":"m","stream":true}`: `{"model":"mm","stream":true,"cache_salt":"S\"2",` +
			`"stream_options":{"include_usage":true,"continuous_usage_stats":true}}`,
		`{ "cache_salt" : "client" , "model":"m" }`: `{ "cache_salt" : "S\"2" , "model":"mm" }`,
		`{"model":"m","cache_salt":null,"n":1}`:     `{"model":"mm","cache_salt":"S\"2","n":1}`,
		`{"a":[{"cache_salt":"x"}],"model":"m"}`:    `{"a":[{"cache_salt":"x"}],"model":"mm","cache_salt":"S\"2"}`,
	} {
		for order := range 3 {
			h, err := ReadHead([]byte(body))
			if err != nil {
				t.Fatal(err)
			}
			edited := []byte(body)
			for i := range 3 {
				switch (i + order) % 3 {
				case 0:
					edited = h.WithCacheSalt(edited, "S")
				case 1:
					edited = h.WithModel(edited, "mm")
				case 2:
					edited = h.WithCacheSalt(edited, `S"2`)
				}
			}
			if order > 0 { // the other salt came last
				edited = h.WithCacheSalt(edited, `S"2`)
			}
			edited = h.WithContinuousUsage(edited)
			if string(edited) != want || !json.Valid(edited) {
				t.Errorf("%s becomes\n%s, want\n%s", body, edited, want)
			}
		}
	}
}
