package gateway

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"cocoon/internal/secret"
)

// Key is an API key as it is kept: never the key itself, only its SHA-256.
type Key struct {
	// ID is the first 12 hex digits of the hash: enough to name the key, not to use it.
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Hash    string    `json:"hash"`
	Created time.Time `json:"created"`
	// Revoked is when the key stopped working; zero while it works.
	Revoked time.Time `json:"revoked,omitzero"`
}

// ErrNoKey means that no key has this ID.
var ErrNoKey = errors.New("no such key")

// keyNameMax bounds the name of a key, bytes.
const keyNameMax = 128

// Keys is the file of API keys. The gateway sees a change within a second.
type Keys struct{ store store[keyFile] }

type keyFile struct {
	Keys []Key `json:"keys"`
}

// OpenKeys is the key file of a data folder; it need not exist yet.
func OpenKeys(dataDir string) *Keys {
	return &Keys{store[keyFile]{filepath.Join(dataDir, "keys.json")}}
}

// Create makes a key and stores its hash. This is the only time the key itself is there to see.
func (k *Keys) Create(name string, now time.Time) (secret.Key, error) {
	if name == "" || len(name) > keyNameMax || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' }) {
		return secret.Key{}, fmt.Errorf("key name must be 1 to %d printable bytes", keyNameMax)
	}
	key := secret.NewKey()
	hash := key.Hash()
	text := hex.EncodeToString(hash[:])
	err := k.store.update(func(f *keyFile) error {
		f.Keys = append(f.Keys, Key{ID: text[:12], Name: name, Hash: text, Created: now.UTC()})
		return nil
	})
	return key, err
}

// List is all keys, oldest first.
func (k *Keys) List() ([]Key, error) {
	f, err := k.store.load()
	slices.SortStableFunc(f.Keys, func(a, b Key) int { return cmp.Compare(a.Created.UnixNano(), b.Created.UnixNano()) })
	return f.Keys, err
}

// Revoke ends a key; to revoke it again changes nothing.
func (k *Keys) Revoke(id string, now time.Time) error {
	return k.store.update(func(f *keyFile) error {
		i := slices.IndexFunc(f.Keys, func(key Key) bool { return key.ID == id })
		if i < 0 {
			return fmt.Errorf("%w: %q", ErrNoKey, id)
		}
		if f.Keys[i].Revoked.IsZero() {
			f.Keys[i].Revoked = now.UTC()
		}
		return nil
	})
}

// holder is a live key at work.
type holder struct {
	id      string
	running atomic.Int64 // requests in progress
}

// keyring is the live keys by hash. It is replaced whole, so that a look-up takes no lock.
type keyring map[[32]byte]*holder

// ring reads the live keys. Holders of old stay the same objects, so that their counts go on.
func (k *Keys) ring(old keyring) (keyring, error) {
	f, err := k.store.load()
	if err != nil {
		return nil, err
	}
	ring := keyring{}
	for _, key := range f.Keys {
		hash, err := hex.DecodeString(key.Hash)
		if err != nil || len(hash) != 32 {
			return nil, fmt.Errorf("%s: key %q: hash is not 64 hex digits", k.store.path, key.ID)
		}
		if !key.Revoked.IsZero() {
			continue
		}
		h := old[[32]byte(hash)]
		if h == nil {
			h = &holder{id: key.ID}
		}
		ring[[32]byte(hash)] = h
	}
	return ring, nil
}
