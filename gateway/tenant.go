package gateway

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"cocoon/billing/ledger"
	"cocoon/internal/tunnel"
)

// tenant is what an account is to workers and to the router, who don't learn its name.
type tenant struct {
	hash uint64
	salt string // the header line with the account's cache salt
}

// Where the secret is that salts are made of, and how long it is, bytes.
const (
	secretKind = "secret"
	secretSalt = "cache-salt"
	secretSize = 32
	// secretTries bounds how often it is looked for: the second time it is there, whoever made it.
	secretTries = 3
)

// saltDomain comes before the account's name.
const saltDomain = "cocoon/cache-salt/v1\x00"

// tenantOf makes an account's. Its salt is the same at all gateways of a ledger, so that a conversation finds its prefix in
// a worker's cache whichever gateway it comes through; and no two accounts have the same, so that none learns from the time
// that an answer takes what another has asked.
func tenantOf(secret []byte, account ledger.Account) tenant {
	sum := sha256.Sum256([]byte(account))
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(saltDomain + string(account)))
	return tenant{
		hash: binary.LittleEndian.Uint64(sum[:8]),
		salt: tunnel.SaltHeader + ": " + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)) + "\r\n",
	}
}

// loadSecret reads the secret that the gateways of a ledger share; the first of them makes it.
func loadSecret(ctx context.Context, l *ledger.Ledger) ([]byte, error) {
	for range secretTries {
		d, err := l.Document(ctx, secretKind, secretSalt)
		switch {
		case err == nil && len(d.Body) == secretSize:
			return d.Body, nil
		case err == nil:
			return nil, fmt.Errorf("the secret has %d bytes, want %d", len(d.Body), secretSize)
		case !errors.Is(err, ledger.ErrNoDocument):
			return nil, err
		}
		fresh := make([]byte, secretSize)
		if _, err := rand.Read(fresh); err != nil {
			return nil, err
		}
		_, err = l.PutDocument(ctx, ledger.Document{Kind: secretKind, ID: secretSalt, Body: fresh})
		if err != nil && !errors.Is(err, ledger.ErrChanged) { // changed: another gateway was first
			return nil, err
		}
	}
	return nil, fmt.Errorf("the secret can neither be read nor made: %w", ledger.ErrChanged)
}
