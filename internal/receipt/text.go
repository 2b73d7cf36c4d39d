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
	b = append(b, head...)
	b = fields(b, "request", r.Request, "route", r.Route)
	b = fields(b, "worker", r.Worker, "epoch", r.Epoch, "keyset", r.Keyset)
	b = fields(b, "model", r.Model, "weights", r.Weights, "engine", r.Engine)
	b = fields(b, "mode", string(r.Mode))
	b = fields(b, "seq", r.Seq, "kind", string(r.Kind), "status", string(r.Status))
	b = fields(b, "tokens in", r.Tokens.In, "cached", r.Tokens.Cached, "out", r.Tokens.Out, "reasoning", r.Tokens.Reasoning)
	b = fields(b, "price in", int64(r.Price.In), "cached", int64(r.Price.Cached), "out", int64(r.Price.Out))
	b = append(b[:len(b)-1], " nanoTON/Mtok\n"...)
	b = fields(b, "cost", int64(r.Cost))
	b = append(b[:len(b)-1], " nanoTON\n"...)
	b = fields(b, "req", r.Req, "resp", r.Resp)
	b = fields(b, "prev", r.Prev)
	return fields(b, "ttft_ms", r.TTFT, "start", r.Start, "end", r.End)
}

// fields appends a line of names and values.
func fields(b []byte, pairs ...any) []byte {
	for _, x := range pairs {
		switch x := x.(type) {
		case string:
			b = append(b, x...)
		case Digest:
			b = hex.AppendEncode(b, x[:])
		case int64:
			b = strconv.AppendInt(b, x, 10)
		case uint64:
			b = strconv.AppendUint(b, x, 10)
		}
		b = append(b, ' ')
	}
	b[len(b)-1] = '\n'
	return b
}

// Append appends the wire form: the text, and a line with the signature.
func (s *Signed) Append(b []byte) []byte {
	b = append(append(b, s.text...), signatureHead...)
	b = base64.StdEncoding.AppendEncode(b, s.signature[:])
	return append(b, '\n')
}

// Wire is the wire form.
func (s *Signed) Wire() []byte { return s.Append(make([]byte, 0, len(s.text)+len(signatureHead)+90)) }

// Parse reads one receipt in its wire form, and nothing after it. It refuses all that Append would have written in
// another way, so that a receipt has one spelling; it does not verify the signature. Errors are ErrForm.
func Parse(wire []byte) (*Signed, error) {
	s, rest, err := parseOne(wire)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%w: something follows it", ErrForm)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// parseOne reads the receipt that b begins with.
func parseOne(b []byte) (s *Signed, rest []byte, err error) {
	p := parser{rest: string(b[:min(len(b), WireMax)])}
	s = &Signed{Receipt: p.receipt()}
	size := min(len(b), WireMax) - len(p.rest)
	signature := p.last(signatureHead)
	if p.why != "" {
		return nil, nil, fmt.Errorf("%w: %s", ErrForm, p.why)
	}
	s.text = bytes.Clone(b[:size])
	if s.signature, err = parseSignature(signature); err != nil {
		return nil, nil, err
	}
	if err := s.Validate(); err != nil {
		return nil, nil, err
	}
	if !bytes.Equal(s.append(make([]byte, 0, size)), s.text) {
		return nil, nil, fmt.Errorf("%w: a number is not in its shortest form", ErrForm)
	}
	s.id = digest(s.text)
	return s, b[min(len(b), WireMax)-len(p.rest):], nil
}

func parseSignature(text string) (signature [ed25519.SignatureSize]byte, err error) {
	if len(text) == base64.StdEncoding.EncodedLen(len(signature)) {
		b, err := base64.StdEncoding.Strict().DecodeString(text)
		if err == nil && len(b) == len(signature) {
			return [ed25519.SignatureSize]byte(b), nil
		}
	}
	return signature, fmt.Errorf("%w: the signature is not 64 bytes in base64", ErrForm)
}

// parser reads text from its start; why says what it met first that it can't read.
type parser struct {
	rest string
	why  string
}

func (p *parser) receipt() (r Receipt) {
	p.literal(head)
	r.Request, r.Route = p.next("request "), p.lastDigest("route ")
	r.Worker, r.Epoch, r.Keyset = p.digest("worker "), p.unsigned("epoch "), p.lastDigest("keyset ")
	r.Model, r.Weights, r.Engine = p.next("model "), p.digest("weights "), p.lastDigest("engine ")
	r.Mode = Mode(p.last("mode "))
	r.Seq, r.Kind, r.Status = p.unsigned("seq "), Kind(p.next("kind ")), Status(p.last("status "))
	r.Tokens.In, r.Tokens.Cached = p.number("tokens in "), p.number("cached ")
	r.Tokens.Out, r.Tokens.Reasoning = p.number("out "), p.lastNumber("reasoning ")
	r.Price.In, r.Price.Cached = nanoton.Amount(p.number("price in ")), nanoton.Amount(p.number("cached "))
	r.Price.Out = nanoton.Amount(p.number("out "))
	p.literal("nanoTON/Mtok\n")
	r.Cost = nanoton.Amount(p.number("cost "))
	p.literal("nanoTON\n")
	r.Req, r.Resp, r.Prev = p.digest("req "), p.lastDigest("resp "), p.lastDigest("prev ")
	r.TTFT, r.Start, r.End = p.number("ttft_ms "), p.number("start "), p.lastNumber("end ")
	return r
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
		p.why = fmt.Sprintf("no %q where it belongs, or nothing right after it", strings.TrimSpace(want))
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

func (p *parser) digest(name string) Digest     { return p.asDigest(name, p.next(name)) }
func (p *parser) lastDigest(name string) Digest { return p.asDigest(name, p.last(name)) }

func (p *parser) asDigest(name, text string) Digest {
	d, err := ParseDigest(text)
	if err != nil {
		p.fail(name)
	}
	return d
}

func (p *parser) number(name string) int64     { return p.asNumber(name, p.next(name)) }
func (p *parser) lastNumber(name string) int64 { return p.asNumber(name, p.last(name)) }

func (p *parser) asNumber(name, text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		p.fail(name)
	}
	return n
}

func (p *parser) unsigned(name string) uint64 {
	n, err := strconv.ParseUint(p.next(name), 10, 64)
	if err != nil {
		p.fail(name)
	}
	return n
}
