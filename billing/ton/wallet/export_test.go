package wallet

// What tests of the package need of its inside.
const (
	OpenFactor = openFactor
	SealFactor = sealFactor
	KeyHead    = keyHead
)

// KeyOf is a key by its seed.
func KeyOf(seed []byte) *Key { return KeyFromSeed(seed) }

// Seal seals a seed with another work factor.
func Seal(seed, passphrase []byte, factor int) ([]byte, error) { return seal(seed, passphrase, factor) }

// Unseal is how a key file's text is read.
func Unseal(text, passphrase []byte) (*Key, error) { return unseal(text, passphrase) }

// QueryID and QueryOf are how query numbers are written.
func QueryID(query uint32) uint64      { return queryID(query) }
func QueryOf(id uint64) (uint32, bool) { return queryOf(id) }

// ParseSecret reads what is imported.
func ParseSecret(secret string) ([]byte, error) { return parseSecret(secret) }

// Store writes a key file with another work factor: the real one takes long, and the race detector makes it longer.
func Store(path string, passphrase, seed []byte, factor int) (*Key, error) {
	return store(path, passphrase, seed, factor)
}
