// Package secret is the API key: made, checked, hashed, and never printed.
package secret

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/big"
	"strings"
)

// The text of a key: the prefix and the checksum let secret scanners find a leaked one without asking us.
const (
	prefix      = "ck-"
	randomBytes = 32 // 256 bits: a key is as hard to guess as its SHA-256 is to invert
	digitsLen   = 43 // the least n with 62^n >= 2^256
	sumLen      = 6  // the least n with 62^n >= 2^32
	keyLen      = len(prefix) + digitsLen + sumLen
)

// redacted is what every printer sees instead of the key.
const redacted = "[redacted]"

// Key is an API key: "ck-", 43 base62 digits of 256 random bits, 6 base62 digits of the CRC-32 of all before.
// It prints, logs and marshals as [redacted]; only Reveal tells it. The zero Key is no key.
type Key struct {
	// A closure and not a string: fmt walks into unexported fields of other structs without asking Format,
	// and there it finds an address. It also makes == on keys a compile error.
	reveal func() string
}

// NewKey makes a key from the system's random source.
func NewKey() Key {
	random := make([]byte, randomBytes)
	_, _ = rand.Read(random) // never fails: it ends the program instead
	text := prefix + base62(new(big.Int).SetBytes(random), digitsLen)
	return wrap(text + checksum(text))
}

// ParseKey reads a key's text. Its errors say what is wrong without repeating any of it.
func ParseKey(text string) (Key, error) {
	if text == "" {
		return Key{}, errors.New("key is empty")
	}
	if strings.TrimSpace(text) != text {
		return Key{}, errors.New("key has white space around it")
	}
	body, ok := strings.CutPrefix(text, prefix)
	if !ok {
		return Key{}, fmt.Errorf("key does not begin with %q", prefix)
	}
	if i := strings.IndexFunc(body, notDigit); i >= 0 {
		return Key{}, fmt.Errorf("key has something other than a letter or digit at byte %d", len(prefix)+i)
	}
	if len(text) != keyLen {
		return Key{}, fmt.Errorf("key is %d characters long, want %d", len(text), keyLen)
	}
	if sum := text[keyLen-sumLen:]; sum != checksum(text[:keyLen-sumLen]) {
		return Key{}, errors.New("key has a wrong checksum: a character is mistyped")
	}
	return wrap(text), nil
}

// Hash is the SHA-256 of the key's text: what a key file stores.
func (k Key) Hash() [32]byte { return Hash(k.Reveal()) }

// Reveal is the key's text, "" for the zero Key. Only for showing a new key to its owner, and for sending it.
func (k Key) Reveal() string {
	if k.reveal == nil {
		return ""
	}
	return k.reveal()
}

// String is [redacted].
func (k Key) String() string { return redacted }

// GoString is [redacted].
func (k Key) GoString() string { return redacted }

// Format prints [redacted] under every verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue is [redacted].
func (k Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText is [redacted]: JSON, YAML and XML use it.
func (k Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Hash is the SHA-256 of a bearer credential as a client sent it, whatever its shape.
func Hash(bearer string) [32]byte {
	// Every real key fits the array, so that the hot path copies on its stack and allocates nothing.
	var small [128]byte
	if len(bearer) <= len(small) {
		return sha256.Sum256(small[:copy(small[:], bearer)])
	}
	return sha256.Sum256([]byte(bearer))
}

func wrap(text string) Key { return Key{reveal: func() string { return text }} }

func checksum(text string) string {
	return base62(big.NewInt(int64(crc32.ChecksumIEEE([]byte(text)))), sumLen)
}

// base62 is n in base 62, padded with zeros to the width.
func base62(n *big.Int, width int) string {
	digits := n.Text(62)
	return strings.Repeat("0", width-len(digits)) + digits
}

func notDigit(r rune) bool {
	return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
}
