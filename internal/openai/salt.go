package openai

// saltMax bounds a cache salt, bytes: any secret is shorter.
const saltMax = 1 << 10

// readSalt takes cache_salt. A null is none.
func (h *Head) readSalt(s *scanner) string {
	h.salt.start = s.pos
	if s.literal("null") {
		h.salt.end = s.pos
		return ""
	}
	if s.peek() != '"' {
		return "is neither a string nor null"
	}
	raw, ok := s.str()
	if !ok {
		return ""
	}
	h.salt.end = s.pos
	// The longest escape is six bytes for one.
	if len(raw) > 6*saltMax {
		return "is longer than 1024 bytes"
	}
	text, ok := unescape(nil, raw)
	switch {
	case !ok:
		return "has a bad escape"
	case len(text) > saltMax:
		return "is longer than 1024 bytes"
	}
	h.CacheSalt, h.HasCacheSalt = string(text), true
	return ""
}

// WithCacheSalt returns the body with a string as cache_salt, in the place of the client's or as the last field. Of the
// body it asks, and does with it, the same as WithUsage; h.CacheSalt stays as the client asked.
func (h *Head) WithCacheSalt(body []byte, salt string) []byte {
	h.check(body)
	text := string(appendString(nil, salt))
	if h.salt.start > 0 {
		return h.splice(body, h.salt, text)
	}
	return h.add(body, `,"cache_salt":`+text, &h.salt)
}
