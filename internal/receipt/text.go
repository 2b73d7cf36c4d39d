package receipt

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

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
	return hex.AppendEncode(append(b, name...), d[:])
}

func appendNumber(b []byte, name string, n int64) []byte {
	return strconv.AppendInt(append(b, name...), n, 10)
}

// Append appends the wire form: the text, in a batch a line with its place there, and a line with the signature.
func (s *Signed) Append(b []byte) []byte { return append(b, s.wire...) }

// Wire is the wire form.
func (s *Signed) Wire() []byte { return []byte(s.wire) }

// Parse reads one receipt in its wire form, and nothing after it. It refuses all that Append would have written in
// another way, so that a receipt has one spelling; it does not verify the signature. Errors are ErrForm.
func Parse(wire []byte) (*Signed, error) {
	if len(wire) > WireMax {
		return nil, errEnd()
	}
	return parse(string(wire))
}

// ParseEvent is Parse of a receipt that came with an answer, where its last line feed may be missing.
func ParseEvent(data []byte) (*Signed, error) {
	if n := len(data); n == 0 || n >= WireMax || data[n-1] == '\n' {
		return Parse(data)
	}
	return parse(string(data) + "\n")
}

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
	s, err = parse(string(b[:end]))
	return s, b[end:], err
}

// parse reads a receipt that is all of wire, which it keeps.
func parse(wire string) (*Signed, error) {
	size := len(wire) - signatureLine
	if size < 0 || !strings.HasPrefix(wire[size:], signatureHead) || wire[len(wire)-1] != '\n' {
		return nil, errEnd()
	}
	s := &Signed{wire: wire}
	var err error
	if s.signature, err = parseSignature(wire[size+len(signatureHead) : len(wire)-1]); err != nil {
		return nil, err
	}
	p := parser{rest: wire[:size]}
	p.receipt(&s.Receipt)
	s.id = digest(wire[:size-len(p.rest)])
	s.over = s.id
	if p.rest != "" && p.why == "" {
		p.literal(batchHead)
		s.over = p.place(s.id)
	}
	if p.rest != "" && p.why == "" {
		p.why = "a line that does not belong there"
	}
	if p.why != "" {
		return nil, fmt.Errorf("%w: %s", ErrForm, p.why)
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	s.Request = strings.Clone(s.Request) // who keeps it does not keep the rest
	return s, nil
}

// parseSignature reads base64 in its one spelling, without anything that a decoder passes over.
func parseSignature(text string) (signature [ed25519.SignatureSize]byte, err error) {
	var b, again [signatureText]byte
	copy(b[:], text)
	n, err := base64.StdEncoding.Decode(again[:], b[:])
	copy(signature[:], again[:])
	base64.StdEncoding.Encode(again[:], signature[:])
	if err != nil || n != len(signature) || again != b {
		return signature, fmt.Errorf("%w: the signature is not 64 bytes in base64", ErrForm)
	}
	return signature, nil
}

// parser reads text from its start; why says what it met first that it can't read.
type parser struct {
	rest string
	why  string
}

func (p *parser) receipt(r *Receipt) {
	p.literal(head)
	r.Request, r.Route = p.next("request "), p.lastDigest("route ")
	r.Worker, r.Epoch, r.Keyset = p.digest("worker "), p.unsigned("epoch "), p.lastDigest("keyset ")
	r.Model, r.Weights, r.Engine = p.next("model "), p.digest("weights "), p.lastDigest("engine ")
	r.Mode = p.mode("mode ")
	r.Seq, r.Kind, r.Status = p.unsigned("seq "), p.kind("kind "), p.status("status ")
	r.Tokens.In, r.Tokens.Cached = p.number("tokens in "), p.number("cached ")
	r.Tokens.Out, r.Tokens.Reasoning = p.number("out "), p.lastNumber("reasoning ")
	r.Price.In, r.Price.Cached = nanoton.Amount(p.number("price in ")), nanoton.Amount(p.number("cached "))
	r.Price.Out = nanoton.Amount(p.number("out "))
	p.literal("nanoTON/Mtok\n")
	r.Cost = nanoton.Amount(p.number("cost "))
	p.literal("nanoTON\n")
	r.Req, r.Resp, r.Prev = p.digest("req "), p.lastDigest("resp "), p.lastDigest("prev ")
	r.TTFT, r.Start, r.End = p.number("ttft_ms "), p.number("start "), p.lastNumber("end ")
}

func (p *parser) literal(s string) {
	rest, ok := strings.CutPrefix(p.rest, s)
	if !ok {
		p.fail(s)
		return
	}
	p.rest = rest
}

func (p *parser) fail(want string) {
	if p.why == "" {
		p.why = fmt.Sprintf("no %q where it belongs, or nothing right after it", want)
	}
	p.rest = ""
}

// value is the text after a name, up to end.
func (p *parser) value(name string, end byte) string {
	p.literal(name)
	i := strings.IndexByte(p.rest, end)
	if i < 0 {
		p.fail(name)
		return ""
	}
	v := p.rest[:i]
	p.rest = p.rest[i+1:]
	return v
}

func (p *parser) next(name string) string { return p.value(name, ' ') }
func (p *parser) last(name string) string { return p.value(name, '\n') }

func (p *parser) mode(name string) Mode {
	v := Mode(p.last(name))
	for _, m := range [...]Mode{Sealed, Gateway, Simulated, Unprotected} {
		if v == m {
			return m
		}
	}
	p.fail(name)
	return ""
}

func (p *parser) kind(name string) Kind {
	v := Kind(p.next(name))
	for _, k := range [...]Kind{Interim, Final} {
		if v == k {
			return k
		}
	}
	p.fail(name)
	return ""
}

func (p *parser) status(name string) Status {
	v := Status(p.last(name))
	for _, s := range [...]Status{OK, ClientAbort, Length, Error} {
		if v == s {
			return s
		}
	}
	p.fail(name)
	return ""
}

func (p *parser) digest(name string) (d Digest) {
	d = p.hash(name)
	p.literal(" ")
	return d
}

func (p *parser) lastDigest(name string) (d Digest) {
	d = p.hash(name)
	p.literal("\n")
	return d
}

// hash reads a name and a digest, and not what is after it.
func (p *parser) hash(name string) Digest {
	p.literal(name)
	d, err := ParseDigest(p.rest[:min(len(p.rest), 2*len(Digest{}))])
	if err != nil {
		p.fail(name)
		return Digest{}
	}
	p.rest = p.rest[2*len(d):]
	return d
}

func (p *parser) number(name string) int64     { return p.signed(name, p.next(name)) }
func (p *parser) lastNumber(name string) int64 { return p.signed(name, p.last(name)) }

// signed reads a number that may be as large as an int64, and is not negative.
func (p *parser) signed(name, text string) int64 {
	n := p.shortest(name, text)
	if n > 1<<63-1 {
		p.fail(name)
		return 0
	}
	return int64(n)
}

func (p *parser) unsigned(name string) uint64 { return p.shortest(name, p.next(name)) }

// shortest reads a number in its shortest form: without a sign, and without zeros before it.
func (p *parser) shortest(name, text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || text[0] == '0' && text != "0" {
		p.fail(name)
		return 0
	}
	return n
}
