package engine

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
)

// SaltSize is the length of a cache salt: 32 bytes in base64url without padding.
const SaltSize = 43

// saltDomain sets the hashes of salts apart from all others.
const saltDomain = "cocoon/cache-salt/v1\x00"

// ValidSalt tells whether a text has the form of a cache salt.
func ValidSalt(text string) bool {
	if len(text) != SaltSize {
		return false
	}
	_, err := base64.RawURLEncoding.Strict().DecodeString(text)
	return err == nil && !strings.ContainsAny(text, "\r\n") // which Decode skips
}

// salt returns the body with the cache salt of the request's tenant, so that nobody can tell from the speed of an answer
// what other tenants ask. A client's own salt, which keeps apart what one tenant asks, is mixed with it: no client can
// choose another tenant's. Where the engine is not known to take one, only a client's own is replaced: it may mean
// something there. SGLang joins the client's extra_key to the salt, which has one length and goes first.
func (e *compatible) salt(req *Request, body []byte) []byte {
	switch {
	case req.Salt == "":
		return body
	case req.Head.HasCacheSalt:
		return req.Head.WithCacheSalt(body, mixSalt(req.Salt, req.Head.CacheSalt))
	case e.salted.Load():
		return req.Head.WithCacheSalt(body, req.Salt)
	}
	return body
}

// mixSalt is a salt of a tenant's and a client's: base64url(SHA-256(saltDomain | tenant | 0 | client)).
func mixSalt(tenant, client string) string {
	sum := sha256.Sum256([]byte(saltDomain + tenant + "\x00" + client))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// vllmTakesSalt tells by its name whether a vLLM takes cache_salt: with its engine V1, so always from 0.11 on. Before
// 0.9 nothing knew it, and in between V0, which was chosen by the model, refused every request that had one.
func vllmTakesSalt(name string) bool {
	version := strings.TrimPrefix(name, "vllm ")
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(minor)
	// One that does not say, or was built without a version (0.1.dev), is taken for a new one.
	return major != "0" || err != nil || n >= 11 || n < 2
}
