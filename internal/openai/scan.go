package openai

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// depthMax bounds the nesting of objects and arrays: real requests (tool schemas) stay under 20, and an engine's
// recursive parser must not be led deeper by us. The scanner keeps its stack in one word, so it can't be above 64.
const depthMax = 64

// scratchLen holds any key we look for, even spelled in three-byte letters: the longest is 25 bytes.
const scratchLen = 80

// shortLen is how far stringEnd looks byte by byte.
const shortLen = 8

// scanner walks JSON text without decoding it. It checks what it steps over for balance and for strings that end,
// and what it reads in full. It stops at the first mistake: why then says what, pos where.
type scanner struct {
	data    []byte
	pos     int
	depth   int
	why     string
	odd     bool // the key last read holds upper case or non-ASCII letters
	spoke   bool // some object in an array that was skipped has "assistant" as its "role"
	media   bool // some string in an object or array that was skipped names a kind of content that is no text
	scratch [scratchLen]byte
}

// fail notes the first mistake; it is always false.
func (s *scanner) fail(why string) bool {
	if s.why == "" {
		s.why = why
	}
	return false
}

// space steps over white space.
func (s *scanner) space() {
	for s.pos < len(s.data) && s.data[s.pos] <= ' ' {
		switch s.data[s.pos] {
		case ' ', '\n', '\t', '\r':
			s.pos++
		default:
			return
		}
	}
}

// peek is the byte at hand, 0 at the end.
func (s *scanner) peek() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

// begin steps into the one object that the text must be.
func (s *scanner) begin() bool {
	s.space()
	switch {
	case s.pos == len(s.data):
		return s.fail("text is empty")
	case s.data[s.pos] != '{':
		return s.fail("not an object")
	}
	s.open()
	return true
}

// end checks that nothing but white space follows.
func (s *scanner) end() bool {
	if s.why != "" {
		return false
	}
	if s.space(); s.pos < len(s.data) {
		return s.fail("more after the end of the object")
	}
	return true
}

// open steps into the object or array at hand. We open a handful of known levels; what else there is skipNested bounds.
func (s *scanner) open() {
	s.depth++
	s.pos++
}

// member steps to the value of an object's next key and returns the key, decoded, valid until the next call.
// It is false past the end of the object and after a mistake.
func (s *scanner) member(first bool) (key []byte, ok bool) {
	if !s.next('}', first) {
		return nil, false
	}
	if s.peek() != '"' {
		return nil, s.fail("key is not a string")
	}
	key, ok = s.key()
	if !ok {
		return nil, false
	}
	s.space()
	if s.peek() != ':' {
		return nil, s.fail("no colon after a key")
	}
	s.pos++
	s.space()
	return key, true
}

// key steps over the key at hand and decodes it. Keys are short, so that one loop over their bytes is fastest.
func (s *scanner) key() (key []byte, ok bool) {
	s.odd = false
	escaped := false
	start := s.pos + 1
	for i := start; i < len(s.data); i++ {
		switch c := s.data[i]; {
		case c >= '_' && c < utf8.RuneSelf: // small letters and _, nearly all there is
		case c == '"':
			key = s.data[start:i]
			s.pos = i + 1
			if escaped {
				return s.unescapeKey(key)
			}
			return key, true
		case c == '\\':
			escaped = true
			i++
		case c < ' ':
			return nil, s.fail("control character in a key")
		case c >= utf8.RuneSelf, c >= 'A' && c <= 'Z':
			s.odd = true
		}
	}
	return nil, s.fail("string without end")
}

// element steps to the next element of an array; false past its end and after a mistake.
func (s *scanner) element(first bool) bool { return s.next(']', first) }

func (s *scanner) next(closing byte, first bool) bool {
	if s.why != "" {
		return false
	}
	s.space()
	switch c := s.peek(); {
	case c == closing:
		s.pos++
		s.depth--
		return false
	case first:
		return true
	case c != ',':
		return s.fail("no comma or end after a value")
	}
	s.pos++
	s.space()
	return true
}

// str steps over the string at hand and returns what is between its quotes.
func (s *scanner) str() (raw []byte, ok bool) {
	end := stringEnd(s.data, s.pos+1)
	if end < 0 {
		return nil, s.fail("string without end")
	}
	raw = s.data[s.pos+1 : end]
	s.pos = end + 1
	return raw, true
}

// stringEnd is the index of the quote that ends a string whose text begins at from, or -1.
func stringEnd(b []byte, from int) int {
	// Most strings in a body are short; for them a loop is faster than a call.
	for i, c := range b[from:min(from+shortLen, len(b))] {
		if c == '"' {
			return from + i
		}
		if c == '\\' {
			from += i
			break
		}
	}
	for i := from; ; i++ {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		i += n
		// The quote is escaped if an odd run of backslashes stands before it. Each run is counted for one quote only,
		// so that this stays linear.
		j := i
		for j > from && b[j-1] == '\\' {
			j--
		}
		if (i-j)%2 == 0 {
			return i
		}
	}
}

// skip steps over the value at hand.
func (s *scanner) skip() bool {
	switch c := s.peek(); c {
	case '"':
		_, ok := s.str()
		return ok
	case '{', '[':
		return s.skipNested()
	case 't':
		return s.literal("true") || s.fail("not a value")
	case 'f':
		return s.literal("false") || s.fail("not a value")
	case 'n':
		return s.literal("null") || s.fail("not a value")
	default:
		return s.number()
	}
}

// skipNested steps over an object or array by its brackets and strings alone.
func (s *scanner) skipNested() bool {
	b, depth := s.data, s.depth
	var arrays uint64 // one bit a level: it is an array
	for i := s.pos; i < len(b); i++ {
		switch c := b[i]; c {
		case '"':
			end := stringEnd(b, i+1)
			if end < 0 {
				s.pos = i
				return s.fail("string without end")
			}
			switch end - i {
			case len(`"file`), len(`"image_url`), len(`"input_audio`): // hardly any other string has such a length
				s.media = s.media || isMedia(b[i+1:end])
				if depth == s.depth+2 && isRole(b, i, end) {
					s.spoke = true
				}
			}
			i = end
		case '{', '[':
			if depth == depthMax {
				s.pos = i
				return s.fail("nested deeper than 64")
			}
			depth++
			arrays <<= 1
			if c == '[' {
				arrays |= 1
			}
		case '}', ']':
			if (c == ']') != (arrays&1 == 1) {
				s.pos = i
				return s.fail("brackets don't match")
			}
			arrays >>= 1
			if depth--; depth == s.depth {
				s.pos = i + 1
				return true
			}
		}
	}
	s.pos = len(b)
	return s.fail("object or array without end")
}

// isMedia tells whether a string names a kind of content that is no text.
func isMedia(text []byte) bool {
	switch string(text) {
	case "image_url", "video_url", "audio_url", "input_audio", "file":
		return true
	}
	return false
}

// isRole tells whether the string from one quote to another is the role "assistant".
func isRole(b []byte, from, to int) bool {
	if string(b[from+1:to]) != "assistant" {
		return false
	}
	const space = " \t\r\n"
	key, ok := bytes.CutSuffix(bytes.TrimRight(b[:from], space), []byte{':'})
	return ok && bytes.HasSuffix(bytes.TrimRight(key, space), []byte(`"role"`))
}

// literal steps over a word if it is at hand.
func (s *scanner) literal(word string) bool {
	if rest := s.data[s.pos:]; len(rest) < len(word) || string(rest[:len(word)]) != word {
		return false
	}
	s.pos += len(word)
	return true
}

// number steps over a number.
func (s *scanner) number() bool {
	if s.peek() == '-' {
		s.pos++
	}
	if s.peek() == '0' {
		s.pos++
	} else if !s.digits() {
		return s.fail("not a value")
	}
	if s.peek() == '.' {
		if s.pos++; !s.digits() {
			return s.fail("not a number")
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.pos++
		if c := s.peek(); c == '+' || c == '-' {
			s.pos++
		}
		if !s.digits() {
			return s.fail("not a number")
		}
	}
	return true
}

// digits steps over at least one digit.
func (s *scanner) digits() bool {
	start := s.pos
	for s.pos < len(s.data) && s.data[s.pos]-'0' <= 9 {
		s.pos++
	}
	return s.pos > start
}

// integer reads an integer from 0 to limit, or null as 0. It is false, with no mistake noted, for any other value:
// the caller knows what to say.
func (s *scanner) integer(limit int64) (n int64, ok bool) {
	if s.literal("null") {
		return 0, true
	}
	start := s.pos
	if !s.digits() || s.data[start] == '0' && s.pos > start+1 {
		return 0, false
	}
	for _, c := range s.data[start:s.pos] {
		// The limits are far under 1<<59, so that this can't overflow.
		if n = n*10 + int64(c-'0'); n > limit {
			return 0, false
		}
	}
	switch s.peek() {
	case '.', 'e', 'E':
		return 0, false
	}
	return n, true
}

// filled steps over a value and tells whether it is a string, array or object with something in it.
func (s *scanner) filled() bool {
	start := s.pos
	c := s.peek()
	if !s.skip() {
		return false
	}
	switch c {
	case '"':
		return s.pos-start > 2
	case '{', '[':
		inner := scanner{data: s.data[start+1 : s.pos-1]}
		inner.space()
		return inner.pos < len(inner.data)
	}
	return false
}

// unescapeKey decodes a key into the scratch space. One that is too long for it comes back as it is: with a
// backslash in it, it equals none of the keys we look for.
func (s *scanner) unescapeKey(raw []byte) (key []byte, ok bool) {
	// The longest escape is six bytes for one.
	if len(raw) > 6*scratchLen {
		return raw, true
	}
	key, ok = unescape(s.scratch[:0:scratchLen], raw)
	if !ok {
		return nil, s.fail("bad escape in a key")
	}
	if len(key) > scratchLen {
		return raw, true
	}
	for _, c := range key {
		if c >= utf8.RuneSelf || c >= 'A' && c <= 'Z' {
			s.odd = true
		}
	}
	return key, true
}

// unescape appends the decoded text of a JSON string to b. Lone surrogates become U+FFFD, as in encoding/json.
// It is false for an unknown escape.
func unescape(b, raw []byte) ([]byte, bool) {
	for len(raw) > 0 {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return append(b, raw...), true
		}
		b = append(b, raw[:i]...)
		if i+1 == len(raw) {
			return b, false
		}
		c := raw[i+1]
		raw = raw[i+2:]
		switch c {
		case '"', '\\', '/':
			b = append(b, c)
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'u':
			r, ok := hex4(raw)
			if !ok {
				return b, false
			}
			raw = raw[4:]
			if utf16.IsSurrogate(r) {
				low := rune(-1)
				if len(raw) > 1 && raw[0] == '\\' && raw[1] == 'u' {
					low, _ = hex4(raw[2:])
				}
				if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
					raw = raw[6:]
				}
			}
			b = utf8.AppendRune(b, r)
		default:
			return b, false
		}
	}
	return b, true
}

// hex4 reads four hex digits.
func hex4(raw []byte) (r rune, ok bool) {
	if len(raw) < 4 {
		return -1, false
	}
	for _, c := range raw[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}
