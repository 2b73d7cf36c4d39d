package receipt

import (
	"bytes"
	"encoding/base64"
	"fmt"
)

// Marks of what may follow a receipt in a file.
const (
	keysetHead = "keyset "
	proofHead  = "c2sp.org/tlog-proof@v1\n"
	proofMax   = 16 << 10 // 64 hashes, and a tree head with several signatures
	keysetMax  = 88 << 10 // 64 KiB in base64
	noteMark   = "— "     // each signature's line in a signed note begins with it
)

// Item is a receipt in a file, with what was put beside it. A file is a sequence of them.
type Item struct {
	*Signed
	// Keyset is the JSON of the worker's keyset; nil if it is not there. Whether it is the right one is for its hash.
	Keyset []byte
	// Proof is the text that says where in which log the receipt is, as package treeproof reads it; nil if not there.
	Proof []byte
}

// Append appends the item as it stands in a file.
func (i *Item) Append(b []byte) []byte {
	b = i.Signed.Append(b)
	if i.Keyset != nil {
		b = base64.StdEncoding.AppendEncode(append(b, keysetHead...), i.Keyset)
		b = append(b, '\n')
	}
	return append(b, i.Proof...)
}

// Read reads a file of receipts: one or more items and nothing else. Errors are ErrForm and say which item is off.
func Read(text []byte) ([]Item, error) {
	var items []Item
	for first := true; first || len(text) > 0; first = false {
		item, rest, err := readItem(text)
		if err != nil {
			return nil, fmt.Errorf("receipt %d of the file: %w", len(items)+1, err)
		}
		items, text = append(items, item), rest
	}
	return items, nil
}

func readItem(text []byte) (i Item, rest []byte, err error) {
	if i.Signed, text, err = parseFirst(text); err != nil {
		return Item{}, nil, err
	}
	if line, ok := bytes.CutPrefix(text, []byte(keysetHead)); ok {
		if i.Keyset, text, err = readKeyset(line); err != nil {
			return Item{}, nil, err
		}
	}
	if bytes.HasPrefix(text, []byte(proofHead)) {
		n := proofSize(text[:min(len(text), proofMax)])
		if n == 0 {
			return Item{}, nil, fmt.Errorf("%w: its proof is cut off, or longer than %d bytes", ErrForm, proofMax)
		}
		i.Proof, text = text[:n:n], text[n:]
	}
	return i, text, nil
}

// readKeyset reads the rest of a keyset's line.
func readKeyset(text []byte) (keyset, rest []byte, err error) {
	end := bytes.IndexByte(text[:min(len(text), keysetMax)], '\n')
	if end < 1 {
		return nil, nil, fmt.Errorf("%w: its keyset is cut off, or longer than %d bytes", ErrForm, keysetMax)
	}
	keyset, err = base64.StdEncoding.Strict().AppendDecode(nil, text[:end])
	if err != nil || base64.StdEncoding.EncodedLen(len(keyset)) != end {
		return nil, nil, fmt.Errorf("%w: its keyset is not base64", ErrForm)
	}
	return keyset, text[end+1:], nil
}

// proofSize is the length of the proof that text begins with: two blocks that end in a blank line, and lines with
// signatures. It is 0 if there is no end.
func proofSize(text []byte) int {
	n := 0
	for range 2 {
		i := bytes.Index(text[n:], []byte("\n\n"))
		if i < 0 {
			return 0
		}
		n += i + 2
	}
	for bytes.HasPrefix(text[n:], []byte(noteMark)) {
		i := bytes.IndexByte(text[n:], '\n')
		if i < 0 {
			return 0
		}
		n += i + 1
	}
	return n
}
