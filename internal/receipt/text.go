package receipt

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"math"
	"strconv"

	"cocoon/internal/nanoton"
)

// append appends the receipt's text.
func (r *Receipt) append(b []byte) []byte {
	b = append(append(b, head...), "request "...)
	b = appendDigest(append(b, r.Request...), " route ", r.Route)
	b = appendDigest(b, "\nworker ", r.Worker)
	b = strconv.AppendUint(append(b, " epoch "...), r.Epoch, 10)
	b = appendDigest(b, " keyset ", r.Keyset)
	b = append(append(b, "\nmodel "...), r.Model...)
	b = appendDigest(appendDigest(b, " weights ", r.Weights), " engine ", r.Engine)
	b = append(append(b, "\nmode "...), r.Mode...)
	b = strconv.AppendUint(append(b, "\nseq "...), r.Seq, 10)
	b = append(append(b, " kind "...), r.Kind...)
	b = append(append(b, " status "...), r.Status...)
	b = appendNumber(appendNumber(b, "\ntokens in ", r.Tokens.In), " cached ", r.Tokens.Cached)
	b = appendNumber(appendNumber(b, " out ", r.Tokens.Out), " reasoning ", r.Tokens.Reasoning)
	b = appendNumber(appendNumber(b, "\nprice in ", int64(r.Price.In)), " cached ", int64(r.Price.Cached))
	b = appendNumber(b, " out ", int64(r.Price.Out))
	b = appendNumber(b, " nanoTON/Mtok\ncost ", int64(r.Cost))
	b = appendDigest(appendDigest(b, " nanoTON\nreq ", r.Req), " resp ", r.Resp)
	b = appendDigest(b, "\nprev ", r.Prev)
	b = appendNumber(appendNumber(b, "\nttft_ms ", r.TTFT), " start ", r.Start)
	return append(appendNumber(b, " end ", r.End), '\n')
}

func appendDigest(b []byte, name string, d Digest) []byte {
	return appendHex(append(b, name...), d[:])
}

func appendNumber(b []byte, name string, n int64) []byte {
	return strconv.AppendInt(append(b, name...), n, 10)
}

// Append appends the wire form: the text, in a batch a line with its place there, and a line with the signature.
func (s *Signed) Append(b []byte) []byte {
	b = s.append(b)
	if s.place.size != 0 {
		b = s.place.append(b)
	}
	b = base64.StdEncoding.AppendEncode(append(b, signatureHead...), s.signature[:])
	return append(b, '\n')
}

// Wire is the wire form.
func (s *Signed) Wire() []byte { return s.Append(make([]byte, 0, textUsual+signatureLine)) }

// Parse reads one receipt in its wire form, and nothing after it. It refuses all that Append would have written in
// another way, so that a receipt has one spelling; it does not verify the signature. It keeps nothing of wire. Errors are
// ErrForm.
func Parse(wire []byte) (*Signed, error) {
	lines, ok := bytes.CutSuffix(wire, []byte("\n"))
	if !ok {
		return nil, errEnd()
	}
	s := &Signed{}
	if err := s.parse(lines); err != nil {
		return nil, err
	}
	return s, nil
}

// ParseEvent is Parse of a receipt that came with an answer, where its last line feed may be missing. It is read into s; if
// the Request and Model that s has are the receipt's, they are not made anew. After an error s is of no use.
func (s *Signed) ParseEvent(data []byte) error { return s.parse(bytes.TrimSuffix(data, []byte("\n"))) }

func errEnd() error {
	return fmt.Errorf("%w: no line with a signature at its end, or more than %d bytes", ErrForm, WireMax)
}

// parseFirst reads the receipt that b begins with.
func parseFirst(b []byte) (s *Signed, rest []byte, err error) {
	size := bytes.Index(b[:min(len(b), WireMax)], []byte("\n"+signatureHead)) + 1
	end := size + signatureLine
	if size == 0 || end > min(len(b), WireMax) {
		return nil, nil, errEnd()
	}
	s, err = Parse(b[:end])
	return s, b[end:], err
}

// parse reads a receipt without its last line feed.
func (s *Signed) parse(lines []byte) error {
	size := len(lines) + 1 - signatureLine
	if size < 0 || len(lines) >= WireMax || !bytes.HasPrefix(lines[size:], []byte(signatureHead)) {
		return errEnd()
	}
	s.place = place{}
	p := parser{rest: lines[:size]}
	p.receipt(&s.Receipt)
	text := lines[:size-len(p.rest)]
	if len(p.rest) > 0 {
		p.place(&s.place)
	}
	if len(p.rest) > 0 {
		p.fail("end")
	}
	if p.why != "" {
		return fmt.Errorf("%w: no %q where it belongs, or not right after it", ErrForm, p.why)
	}
	if !parseSignature(&s.signature, lines[size+len(signatureHead):]) {
		return fmt.Errorf("%w: the signature is not 64 bytes in base64", ErrForm)
	}
	if err := s.Validate(); err != nil {
		return err
	}
	s.id = digest(text)
	return nil
}

// parseSignature reads base64 in its one spelling: a decoder that is strict passes over line ends alone, and then there are
// not enough characters left for all of the signature.
func parseSignature(into *[ed25519.SignatureSize]byte, text []byte) bool {
	var out [signatureText / 4 * 3]byte
	n, err := base64.StdEncoding.Strict().Decode(out[:], text[:min(len(text), signatureText)])
	return err == nil && len(text) == signatureText && copy(into[:], out[:n]) == len(into) && n == len(into)
}

// parser reads text from its start, as append writes it. why is the name of what it met first that it can't read; from
// there on it reads nothing.
type parser struct {
	rest []byte
	why  string
}

func (p *parser) receipt(r *Receipt) {
	p.literal(head)
	r.Request = p.word("request ", r.Request)
	p.digest(" route ", &r.Route)
	p.digest("\nworker ", &r.Worker)
	r.Epoch = p.unsigned(" epoch ")
	p.digest(" keyset ", &r.Keyset)
	r.Model = p.word("\nmodel ", r.Model)
	p.digest(" weights ", &r.Weights)
	p.digest(" engine ", &r.Engine)
	r.Mode = oneOf(p, "\nmode ", Sealed, Gateway, Simulated, Unprotected)
	r.Seq, r.Kind = p.unsigned("\nseq "), oneOf(p, " kind ", Interim, Final)
	r.Status = oneOf(p, " status ", OK, ClientAbort, Length, Error)
	r.Tokens.In, r.Tokens.Cached = p.number("\ntokens in "), p.number(" cached ")
	r.Tokens.Out, r.Tokens.Reasoning = p.number(" out "), p.number(" reasoning ")
	r.Price.In, r.Price.Cached = nanoton.Amount(p.number("\nprice in ")), nanoton.Amount(p.number(" cached "))
	r.Price.Out = nanoton.Amount(p.number(" out "))
	r.Cost = nanoton.Amount(p.number(" nanoTON/Mtok\ncost "))
	p.digest(" nanoTON\nreq ", &r.Req)
	p.digest(" resp ", &r.Resp)
	p.digest("\nprev ", &r.Prev)
	r.TTFT, r.Start, r.End = p.number("\nttft_ms "), p.number(" start "), p.number(" end ")
	p.literal("\n")
}

func (p *parser) literal(s string) {
	if len(p.rest) < len(s) || string(p.rest[:len(s)]) != s {
		p.fail(s)
		return
	}
	p.rest = p.rest[len(s):]
}

func (p *parser) fail(want string) {
	if p.why == "" {
		p.why = want
	}
	p.rest = nil
}

// word is what comes after a name, up to a blank: known, if it is that.
func (p *parser) word(name, known string) string {
	p.literal(name)
	i := bytes.IndexByte(p.rest, ' ')
	if i < 0 {
		p.fail(name)
		return ""
	}
	v := p.rest[:i]
	p.rest = p.rest[i:]
	if string(v) == known {
		return known
	}
	return string(v)
}

// oneOf is the one of the words that comes after a name. None of them begins with another.
func oneOf[T ~string](p *parser, name string, words ...T) T {
	p.literal(name)
	for _, w := range words {
		if len(p.rest) >= len(w) && string(p.rest[:len(w)]) == string(w) {
			p.rest = p.rest[len(w):]
			return w
		}
	}
	p.fail(name)
	return ""
}

// digest reads a digest.
func (p *parser) digest(name string, into *Digest) {
	p.literal(name)
	text := p.rest
	if len(text) < digestText || !into.parse(text) {
		p.fail(name)
		return
	}
	p.rest = text[digestText:]
}

// number reads a number that may be as large as an int64, and is not negative.
func (p *parser) number(name string) int64 {
	n := p.unsigned(name)
	if n > math.MaxInt64 {
		p.fail(name)
		return 0
	}
	return int64(n)
}

// largest is the longest number there is.
const largest = "18446744073709551615"

// unsigned reads a number in its shortest form: without a sign, and without zeros before it.
func (p *parser) unsigned(name string) (n uint64) {
	p.literal(name)
	text, i := p.rest, 0
	for ; i < len(text) && i <= len(largest) && text[i]-'0' <= 9; i++ {
		n = 10*n + uint64(text[i]-'0')
	}
	if i == 0 || i > 1 && text[0] == '0' || i > len(largest) || i == len(largest) && string(text[:i]) > largest {
		p.fail(name)
		return 0
	}
	p.rest = text[i:]
	return n
}
