package wallet

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
	tonwallet "github.com/xssnick/tonutils-go/ton/wallet"

	"cocoon/internal/durable"
)

// Errors of keys that callers tell apart.
var (
	// ErrPassphrase marks a passphrase that does not open the key, or that no key is sealed with.
	ErrPassphrase = errors.New("wrong passphrase")
	// ErrExists marks a file that is there already. No key is ever overwritten: it may hold money.
	ErrExists = errors.New("there is a file already")
	// ErrSecret marks what is neither a mnemonic nor a seed.
	ErrSecret = errors.New("want the 24 words of a TON wallet, or a seed of 64 hex digits")
)

// openFactor is the greatest work factor of scrypt that is taken from a file: 2^18 rounds, as the age program has it, so that
// a file that somebody put there takes two seconds and 256 MiB, not hours and all memory. sealFactor is what keys are sealed
// with.
const openFactor = 18

// keyFileMax bounds a key file, bytes: ours have some 500.
const keyFileMax = 16 << 10

// mnemonicWords is how many words TON's wallet programs show for a key.
const mnemonicWords = 24

// keyHead begins the file, so that whoever finds it knows what it is and can open it without this program.
const keyHead = `# A Cocoon key: an Ed25519 seed that holds money, sealed with a passphrase by age. To open it without Cocoon:
# grep -v '^#' FILE | age -d
`

// keyText is what is sealed, before the seed in hex and a line break.
const keyText = "cocoon key 1\nseed "

const redacted = "[redacted]"

// Key is an Ed25519 key in memory, a Signer. It prints, logs and marshals as [redacted].
type Key struct {
	public ed25519.PublicKey
	// A closure, so that no printer finds the key by walking into the fields of what holds it.
	private func() ed25519.PrivateKey
}

// KeyFromSeed makes a key of an Ed25519 seed of 32 bytes, which the caller keeps as it sees fit. Another length panics.
func KeyFromSeed(seed []byte) *Key {
	private := ed25519.NewKeyFromSeed(seed)
	return &Key{
		public:  private.Public().(ed25519.PublicKey),
		private: func() ed25519.PrivateKey { return private },
	}
}

// Public is the public key.
func (k *Key) Public() ed25519.PublicKey { return k.public }

// Sign signs a message with Ed25519.
func (k *Key) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(k.private(), message), nil
}

// String is [redacted].
func (k Key) String() string { return redacted }

// GoString is [redacted].
func (k Key) GoString() string { return redacted }

// Format prints [redacted] under every verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue is [redacted].
func (k Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText is [redacted]: JSON, YAML and XML use it.
func (k Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// CreateKey makes a key and writes it to a new file, readable by its owner alone and sealed with the passphrase. Whoever loses
// the file or the passphrase loses the key. ErrExists, ErrPassphrase (an empty one).
func CreateKey(path string, passphrase []byte) (*Key, error) {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // never fails: it ends the program instead
	return store(path, passphrase, seed, sealFactor)
}

// ImportKey writes the key of another wallet to a new file, as CreateKey does: by the 24 words of a TON mnemonic without a
// password, or by its seed of 64 hex digits. Errors repeat none of it. ErrSecret, ErrExists, ErrPassphrase.
func ImportKey(path string, passphrase, secret []byte) (*Key, error) {
	seed, err := parseSecret(string(secret))
	if err != nil {
		return nil, err
	}
	return store(path, passphrase, seed, sealFactor)
}

func parseSecret(secret string) ([]byte, error) {
	words := strings.Fields(strings.ToLower(secret))
	if len(words) == 1 {
		seed, err := hex.DecodeString(words[0])
		if err != nil || len(seed) != ed25519.SeedSize {
			return nil, ErrSecret
		}
		return seed, nil
	}
	if len(words) != mnemonicWords {
		return nil, fmt.Errorf("%w: it has %d words", ErrSecret, len(words))
	}
	private, err := tonwallet.SeedToPrivateKeyWithOptions(words)
	if err != nil { // whose text repeats a word
		return nil, fmt.Errorf("%w: the words are not those of a TON wallet (or of one with a password): is one mistyped?",
			ErrSecret)
	}
	return private.Seed(), nil
}

// OpenKey reads a key from its file. One that others may read is refused. ErrPassphrase, fs.ErrNotExist.
func OpenKey(path string, passphrase []byte) (*Key, error) {
	text, err := durable.ReadPrivate(path, keyFileMax)
	if err != nil {
		return nil, fmt.Errorf("opening the key: %w", err)
	}
	k, err := unseal(text, passphrase)
	if err != nil {
		return nil, fmt.Errorf("opening the key %s: %w", path, err)
	}
	return k, nil
}

// store seals a seed into a new file.
func store(path string, passphrase, seed []byte, factor int) (*Key, error) {
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("%w: %s", ErrExists, path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("storing the key: %w", err)
	}
	text, err := seal(seed, passphrase, factor)
	if err != nil {
		return nil, err
	}
	if err := durable.Publish(path, text); err != nil {
		return nil, fmt.Errorf("storing the key: %w", err)
	}
	if there, err := durable.ReadPrivate(path, keyFileMax); err != nil {
		return nil, fmt.Errorf("reading the stored key: %w", err)
	} else if !bytes.Equal(there, text) { // somebody else was faster
		return nil, fmt.Errorf("%w: %s", ErrExists, path)
	}
	return KeyFromSeed(seed), nil
}

// seal makes the text of a key file.
func seal(seed, passphrase []byte, factor int) ([]byte, error) {
	if len(passphrase) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrPassphrase)
	}
	to, err := age.NewScryptRecipient(string(passphrase))
	if err != nil {
		return nil, errors.New("sealing the key failed")
	}
	to.SetWorkFactor(factor)
	out := bytes.NewBufferString(keyHead)
	armored := armor.NewWriter(out)
	w, err := age.Encrypt(armored, to)
	if err != nil {
		return nil, fmt.Errorf("sealing the key: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s%x\n", keyText, seed)
	if err := errors.Join(err, w.Close(), armored.Close()); err != nil {
		return nil, fmt.Errorf("sealing the key: %w", err)
	}
	return out.Bytes(), nil
}

// unseal reads the text of a key file.
func unseal(text, passphrase []byte) (*Key, error) {
	if len(passphrase) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrPassphrase)
	}
	for bytes.HasPrefix(text, []byte("#")) {
		_, rest, _ := bytes.Cut(text, []byte("\n"))
		text = rest
	}
	by, err := age.NewScryptIdentity(string(passphrase))
	if err != nil {
		return nil, errors.New("unsealing the key failed")
	}
	by.SetMaxWorkFactor(openFactor)
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(text)), by)
	if errors.Is(err, age.ErrIncorrectIdentity) {
		return nil, ErrPassphrase
	}
	if err != nil {
		return nil, fmt.Errorf("it is damaged or no key: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, keyFileMax))
	if err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	digits, ok := bytes.CutPrefix(bytes.TrimSuffix(plain, []byte("\n")), []byte(keyText))
	seed := make([]byte, ed25519.SeedSize)
	if n, err := hex.Decode(seed, digits[:min(len(digits), 2*len(seed))]); !ok || err != nil || n != len(seed) ||
		len(digits) != 2*n {
		return nil, errors.New("what is sealed in it is no key of this program")
	}
	return KeyFromSeed(seed), nil
}
