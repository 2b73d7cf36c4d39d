package engine

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"cocoon/internal/openai"
	"cocoon/worker/engine/enginetest"
)

const (
	tenantSalt = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
	otherSalt  = "___________________________________________"
)

// saltOf is what a salt becomes that a client sent.
func saltOf(tenant, client string) string {
	sum := sha256.Sum256([]byte("cocoon/cache-salt/v1\x00" + tenant + "\x00" + client))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// TestSalt checks what of it reaches engines, and that all else is as it was.
func TestSalt(t *testing.T) {
	const usage, more = `,"stream_options":{"include_usage":true`, `,"continuous_usage_stats":true`
	v, s, l, p := enginetest.VLLM, enginetest.SGLang, enginetest.LlamaCpp, enginetest.Plain
	for _, c := range []struct {
		flavour enginetest.Flavour
		version string
		tenant  string
		client  string // the members that it adds
		want    string // what becomes of them, and is added
	}{
		{flavour: v, tenant: tenantSalt, want: `,"cache_salt":"` + tenantSalt + `"` + usage + more + `}`},
		{flavour: s, tenant: tenantSalt, want: `,"cache_salt":"` + tenantSalt + `"` + usage + more + `}`},
		{flavour: v, version: "0.11.0rc1", tenant: tenantSalt, want: `,"cache_salt":"` + tenantSalt + `"` + usage + more + `}`},
		{flavour: v, version: "0.1.dev1+g0", tenant: tenantSalt, want: `,"cache_salt":"` + tenantSalt + `"` + usage + more + `}`},
		{flavour: v, version: "0.10.2", tenant: tenantSalt, want: usage + more + `}`},
		{flavour: l, tenant: tenantSalt, want: usage + `}`},
		{flavour: p, tenant: tenantSalt, want: usage + `}`},
		{flavour: v, want: usage + more + `}`},
		{
			flavour: v, tenant: tenantSalt, client: `,"cache_salt" : "mine" ,"x":1E2`,
			want: `,"cache_salt" : "` + saltOf(tenantSalt, "mine") + `" ,"x":1E2` + usage + more + `}`,
		},
		{ // of an engine of which we don't know it the client does
			flavour: p, tenant: tenantSalt, client: `,"cache_salt":"min\u0065"`,
			want: `,"cache_salt":"` + saltOf(tenantSalt, "mine") + `"` + usage + `}`,
		},
		{ // one that poses as another tenant's
			flavour: s, tenant: tenantSalt, client: `,"cache_salt":"` + otherSalt + `"`,
			want: `,"cache_salt":"` + saltOf(tenantSalt, otherSalt) + `"` + usage + more + `}`,
		},
		{flavour: v, tenant: tenantSalt, client: `,"cache_salt":null`, want: `,"cache_salt":"` + tenantSalt + `"` + usage + more + `}`},
		{flavour: l, tenant: tenantSalt, client: `,"cache_salt":null`, want: `,"cache_salt":null` + usage + `}`},
		{flavour: v, tenant: tenantSalt, client: `,"cache_salt":""`, want: `,"cache_salt":"` + saltOf(tenantSalt, "") + `"` + usage + more + `}`},
		{flavour: v, client: `,"cache_salt":"mine"`, want: `,"cache_salt":"mine"` + usage + more + `}`},
	} {
		for _, stream := range []bool{true, false} {
			fake := enginetest.New()
			fake.Flavour, fake.Version = c.flavour, c.version
			e := start(t, fake, Config{})
			req := request(t, "ok", stream, c.client)
			req.Salt = c.tenant
			if _, err := e.Chat(t.Context(), req, &sink{}); err != nil {
				t.Fatalf("%+v: %v", c, err)
			}
			want := c.want
			if !stream {
				want, _, _ = strings.Cut(want, usage)
			}
			want = fmt.Sprintf(`{"model":"ok","stream":%t,"messages":[{"role":"user","content":"hi"}]%s}`, stream, want)
			if got := string(fake.Requests()[0].Body); got != want {
				t.Errorf("%s %s: engine got\n%s\nwant\n%s", c.flavour, c.version, got, want)
			}
		}
	}
}

// TestSaltOfOllama: it takes none, and is told none.
func TestSaltOfOllama(t *testing.T) {
	fake := enginetest.New()
	fake.Flavour = enginetest.Ollama
	e := start(t, fake, Config{})
	var bodies [2]string
	for i, salt := range []string{"", tenantSalt} {
		req := request(t, "ok:latest", true, `,"cache_salt":"mine"`)
		req.Salt = salt
		if _, err := e.Chat(t.Context(), req, &sink{}); err != nil {
			t.Fatal(err)
		}
		bodies[i] = string(fake.Requests()[i].Body)
	}
	if bodies[0] != bodies[1] || strings.Contains(bodies[1], "salt") {
		t.Errorf("engine got\n%s\nand with a salt\n%s", bodies[0], bodies[1])
	}
}

func TestValidSalt(t *testing.T) {
	for text, want := range map[string]bool{
		tenantSalt: true, saltOf("a", "b"): true, "": false, tenantSalt[1:]: false, tenantSalt + "A": false,
		tenantSalt[:42] + "9": false, // bits beyond the 32 bytes
		tenantSalt[:42] + "=": false, "+" + tenantSalt[1:]: false, `"` + tenantSalt[1:]: false, "\n" + tenantSalt[1:]: false,
		tenantSalt[:41] + "\r\n": false,
	} {
		if ValidSalt(text) != want {
			t.Errorf("ValidSalt(%q) is %t", text, !want)
		}
	}
}

// FuzzSalt: whatever a client sends, the salt that arrives is one that its tenant can't choose.
func FuzzSalt(f *testing.F) {
	for _, s := range []string{`{"model":"m"}`, `{"cache_salt":"x","model":"m"}`, `{"model":"m","cache\u005fsalt":null}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		head, err := openai.ReadHead(body)
		if err != nil {
			return
		}
		e := new(compatible)
		e.salted.Store(true)
		out := e.salt(&Request{Head: &head, Salt: tenantSalt}, append([]byte(nil), body...))
		again, err := openai.ReadHead(out)
		if err != nil || again.CacheSalt != tenantSalt && again.CacheSalt != saltOf(tenantSalt, head.CacheSalt) {
			t.Fatalf("%s becomes %s, %v", body, out, err)
		}
	})
}
