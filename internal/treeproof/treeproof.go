// Package treeproof is what proves, without the log, that a record is in an append-only Merkle log: a signed tree head
// (C2SP tlog-checkpoint, a signed note) and a path of hashes to it (C2SP tlog-proof; RFC 6962 hashing).
package treeproof

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Limits and form.
const (
	// TextMax bounds a proof, bytes: 63 hashes, and a tree head with a few signatures.
	TextMax = 16 << 10
	// OriginMax bounds a log's name, bytes.
	OriginMax = 255
	proofHead = "c2sp.org/tlog-proof@v1\n"
)

// Errors that callers tell apart.
var (
	// ErrForm marks text that is no proof or tree head in its one spelling.
	ErrForm = errors.New("malformed proof")
	// ErrSignature marks a tree head that the log's key did not sign.
	ErrSignature = errors.New("the tree head's signature does not verify")
	// ErrInclusion marks a path that does not lead from the record to the tree head.
	ErrInclusion = errors.New("the record is not in the log where the proof says")
)

// Head is the state of a log at a size.
type Head struct {
	Origin string // the log's name
	Tree   tlog.Tree
}

// text is what is signed.
func (h *Head) text() string { return fmt.Sprintf("%s\n%d\n%s\n", h.Origin, h.Tree.N, h.Tree.Hash) }

// Sign makes a signed note of the head. The origin must be a key name: not empty, without blanks and '+'.
func (h *Head) Sign(key ed25519.PrivateKey) ([]byte, error) {
	v, err := NewVerifier(h.Origin, key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	text, err := note.Sign(&note.Note{Text: h.text()}, &signer{v, key})
	if err != nil {
		return nil, fmt.Errorf("signing a tree head: %w", err)
	}
	return text, nil
}

// signer signs notes as note.NewSigner's do, but with a key that is no text.
type signer struct {
	note.Verifier
	key ed25519.PrivateKey
}

func (s *signer) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.key, msg), nil }

// NewVerifier is what checks signatures of a log by the Ed25519 key.
func NewVerifier(origin string, key ed25519.PublicKey) (note.Verifier, error) {
	text, err := VerifierText(origin, key)
	if err != nil {
		return nil, err
	}
	return ParseVerifier(text)
}

// VerifierText is the text of a log's public key, "name+hash+key", as C2SP signed-note has it.
func VerifierText(origin string, key ed25519.PublicKey) (string, error) {
	if origin == "" || len(origin) > OriginMax || strings.ContainsAny(origin, " +\n") {
		return "", fmt.Errorf("%w: a log's name has 1 to %d bytes, and no blanks and '+'", ErrForm, OriginMax)
	}
	text, err := note.NewEd25519VerifierKey(origin, key)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrForm, err)
	}
	return text, nil
}

// ParseVerifier reads VerifierText.
func ParseVerifier(text string) (note.Verifier, error) {
	v, err := note.NewVerifier(text)
	if err != nil {
		return nil, fmt.Errorf("%w: a log's key is name+hash+key: %w", ErrForm, err)
	}
	return v, nil
}

// ParseHead reads a signed note. It must be of the verifier's log and have its signature; if there is no verifier, the
// head is whoever's word.
func ParseHead(text []byte, v note.Verifier) (Head, error) {
	var list []note.Verifier
	if v != nil {
		list = append(list, v)
	}
	n, err := note.Open(text, note.VerifierList(list...))
	if other, ok := errors.AsType[*note.UnverifiedNoteError](err); ok && v == nil {
		n, err = other.Note, nil
	} else if _, ok := errors.AsType[*note.InvalidSignatureError](err); ok || other != nil {
		return Head{}, ErrSignature
	}
	if err != nil {
		return Head{}, fmt.Errorf("%w: %w", ErrForm, err)
	}
	var h Head
	lines := strings.Split(n.Text, "\n")
	if len(lines) == 4 {
		h.Origin = lines[0]
		h.Tree.N, err = strconv.ParseInt(lines[1], 10, 64)
		if err == nil {
			h.Tree.Hash, err = tlog.ParseHash(lines[2])
		}
	}
	if err != nil || h.Origin == "" || len(h.Origin) > OriginMax || h.Tree.N < 0 || h.text() != n.Text {
		return Head{}, fmt.Errorf("%w: the tree head is not a name, a size and a hash", ErrForm)
	}
	if v != nil && v.Name() != h.Origin {
		return Head{}, fmt.Errorf("%w: the tree head is of the log %q", ErrSignature, h.Origin)
	}
	return h, nil
}

// Proof says where a record is in a log.
type Proof struct {
	Index int64
	Path  tlog.RecordProof
	Head  []byte // signed note
}

// Append appends the proof's text.
func (p *Proof) Append(b []byte) []byte {
	b = fmt.Appendf(b, "%sindex %d\n", proofHead, p.Index)
	for _, h := range p.Path {
		b = fmt.Appendf(b, "%s\n", h)
	}
	return append(append(b, '\n'), p.Head...)
}

// Parse reads a proof; it refuses what Append would have written in another way.
func Parse(text []byte) (*Proof, error) {
	if len(text) > TextMax {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrForm, len(text), TextMax)
	}
	top, head, found := bytes.Cut(text, []byte("\n\n"))
	lines := strings.Split(string(top), "\n")
	if !found || len(lines) < 2 || lines[0]+"\n" != proofHead {
		return nil, fmt.Errorf("%w: its first lines are not those of a proof", ErrForm)
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[1], "index "), 10, 64)
	if err != nil || index < 0 {
		return nil, fmt.Errorf("%w: its index is no number", ErrForm)
	}
	p := &Proof{Index: index, Head: bytes.Clone(head)}
	for _, line := range lines[2:] {
		h, err := tlog.ParseHash(line)
		if err != nil {
			return nil, fmt.Errorf("%w: a line is no hash", ErrForm)
		}
		p.Path = append(p.Path, h)
	}
	if !bytes.Equal(p.Append(nil), text) {
		return nil, fmt.Errorf("%w: a number or hash is not in its one spelling", ErrForm)
	}
	if _, err := ParseHead(p.Head, nil); err != nil {
		return nil, err
	}
	return p, nil
}

// Check checks that the record is in the log at Index as of the tree head, and returns that. If there is no verifier,
// the log is whoever's.
func (p *Proof) Check(record []byte, v note.Verifier) (Head, error) {
	h, err := ParseHead(p.Head, v)
	if err != nil {
		return Head{}, err
	}
	if err := tlog.CheckRecord(p.Path, h.Tree.N, h.Tree.Hash, p.Index, tlog.RecordHash(record)); err != nil {
		return Head{}, ErrInclusion
	}
	return h, nil
}
