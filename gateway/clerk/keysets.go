package clerk

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"cocoon/attest"
	"cocoon/billing/ledger"
	"cocoon/internal/durable"
	"cocoon/internal/receipt"
	"cocoon/internal/strictjson"
)

// Limits of the folder of keysets.
const (
	// KeysetAge is how long a keyset is kept after it was last attested: as long as the journal of what its receipts
	// settled.
	KeysetAge = 90 * 24 * time.Hour
	// keysetFiles and keysetBytes bound the folder: three keysets a day of 300 workers, with 8 GPUs each. Beyond, the
	// oldest go.
	keysetFiles = 90_000
	keysetBytes = 32 << 30
	// keysetsKnown bounds the keysets in memory: those of as many workers, and of receipts that come late.
	keysetsKnown = 8192
	documentMax  = attest.EvidenceMax + 64<<10
	touchEvery   = time.Hour // a keyset's file says when it was last attested, to about that
)

const documentName = ".json"

// keyset is what is needed of one to check receipts.
type keyset struct {
	worker   receipt.Digest
	account  ledger.Account // the worker's
	epoch    uint64
	from, to int64 // milliseconds
	models   map[string]model
	verifier *receipt.Verifier
}

// model is what a keyset says of one.
type model struct{ weights, engine receipt.Digest }

// document is evidence on disk, in the form of evidence that 'cocoon verify --save' keeps, with the binder of the
// connection that it answered on.
type document struct {
	V        int             `json:"v"`
	Role     attest.Role     `json:"role"`
	Nonce    attest.Digest   `json:"nonce"`
	Binder   attest.Digest   `json:"binder"`
	Evidence json.RawMessage `json:"evidence"`
	At       time.Time       `json:"at"`
}

// keysets are those that this gateway attested, in memory and on disk.
type keysets struct {
	dir string

	mu    sync.RWMutex
	known map[receipt.Digest]*keyset
	files map[receipt.Digest]file
	bytes int64
}

// file is a document on disk.
type file struct {
	size int64
	used time.Time // when it was last attested
}

func openKeysets(dir string) (*keysets, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	k := &keysets{dir: dir, known: map[receipt.Digest]*keyset{}, files: map[receipt.Digest]file{}}
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		id, err := receipt.ParseDigest(strings.TrimSuffix(e.Name(), documentName))
		if err != nil { // what a crash left of one, or not ours
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		k.files[id] = file{info.Size(), info.ModTime()}
		k.bytes += info.Size()
	}
	return k, nil
}

func (k *keysets) path(id receipt.Digest) string {
	return filepath.Join(k.dir, id.String()+documentName)
}

// Meet keeps the keyset of evidence that passed, and the evidence: receipts that it signed can be checked then, also
// after a restart. The binder is that of the connection which the evidence answered on. It waits for the disk.
func (c *Clerk) Meet(e *attest.Evidence, binder attest.Digest) (receipt.Digest, error) {
	id := receipt.Digest(sha256.Sum256(e.Keyset))
	parsed, err := parseKeyset(e.Keyset)
	if err != nil {
		return id, err
	}
	k := c.keysets
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.write(id, e, binder); err != nil {
		return id, fmt.Errorf("keeping a keyset: %w", err)
	}
	if k.known[id] == nil { // one that is known has a verifier that remembers
		k.remember(id, parsed)
	}
	if err := k.prune(time.Now()); err != nil {
		c.log.Warn("removing old keysets failed", "error", err)
	}
	return id, nil
}

// write writes a document, or notes that it was of use again. The lock is held.
func (k *keysets) write(id receipt.Digest, e *attest.Evidence, binder attest.Digest) error {
	now := time.Now()
	f, ok := k.files[id]
	if ok && now.Sub(f.used) < touchEvery {
		return nil
	}
	if !ok {
		evidence, err := json.Marshal(e)
		if err != nil {
			return err
		}
		text, err := json.Marshal(document{attest.Version, attest.Worker, e.Nonce, binder, evidence, now.UTC()})
		if err != nil {
			return err
		}
		if err := durable.Publish(k.path(id), append(text, '\n')); err != nil {
			return err
		}
		f.size = int64(len(text)) + 1
		k.bytes += f.size
	}
	f.used = now
	k.files[id] = f
	return os.Chtimes(k.path(id), now, now)
}

// remember keeps a keyset in memory. Which one goes when there are too many matters little. The lock is held.
func (k *keysets) remember(id receipt.Digest, s *keyset) {
	if len(k.known) >= keysetsKnown {
		for other := range k.known {
			delete(k.known, other)
			break
		}
	}
	k.known[id] = s
}

// prune removes the files that are too old, or too many. The lock is held.
func (k *keysets) prune(now time.Time) error {
	var list []receipt.Digest
	for id, f := range k.files {
		if now.Sub(f.used) > KeysetAge {
			list = append(list, id)
		}
	}
	if over := len(k.files)-len(list) > keysetFiles || k.bytes > keysetBytes; over {
		list = list[:0]
		for id := range k.files {
			list = append(list, id)
		}
		slices.SortFunc(list, func(a, b receipt.Digest) int { return k.files[a].used.Compare(k.files[b].used) })
		list = list[:len(list)/10+1] // not one at a time: sorting takes long
	}
	for _, id := range list {
		if err := os.Remove(k.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		k.bytes -= k.files[id].size
		delete(k.files, id)
		delete(k.known, id)
	}
	return nil
}

// get is the keyset with a digest, from memory or disk; ErrKeyset if it was never attested, or is forgotten.
func (k *keysets) get(id receipt.Digest) (*keyset, error) {
	k.mu.RLock()
	s := k.known[id]
	k.mu.RUnlock()
	if s != nil {
		return s, nil
	}
	text, err := k.text(id)
	if err != nil {
		return nil, err
	}
	if s, err = parseKeyset(text); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := k.known[id]; now != nil { // another was faster
		return now, nil
	}
	k.remember(id, s)
	return s, nil
}

// document is the file with a keyset's evidence; ErrKeyset if there is none.
func (k *keysets) document(id receipt.Digest) ([]byte, error) {
	f, err := os.Open(k.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s was not attested here, or is forgotten", ErrKeyset, id)
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, documentMax+1))
	if err == nil && len(text) > documentMax {
		err = fmt.Errorf("%s has more than %d bytes", f.Name(), documentMax)
	}
	return text, err
}

// text is the JSON of a keyset on disk.
func (k *keysets) text(id receipt.Digest) ([]byte, error) {
	text, err := k.document(id)
	if err != nil {
		return nil, err
	}
	var d document
	if err := strictjson.Decode(text, &d); err != nil {
		return nil, fmt.Errorf("reading keyset %s: %w", id, err)
	}
	e, err := attest.ParseEvidence(d.Evidence)
	if err == nil && sha256.Sum256(e.Keyset) != id {
		err = errors.New("it is another one")
	}
	if err != nil {
		return nil, fmt.Errorf("reading keyset %s: %w", id, err)
	}
	return e.Keyset, nil
}

// parseKeyset reads what receipts are held against.
func parseKeyset(text []byte) (*keyset, error) {
	k, err := attest.ParseKeyset(text)
	if err != nil {
		return nil, err
	}
	if k.Role != attest.Worker || len(k.Receipt) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%w: it is no worker's", ErrKeyset)
	}
	s := &keyset{
		worker: receipt.Digest(k.ID), account: workerAccount(receipt.Digest(k.ID)), epoch: k.Epoch, from: k.NotBefore.UnixMilli(), to: k.NotAfter.UnixMilli(),
		models: make(map[string]model, len(k.Models)), verifier: receipt.NewVerifier(k.Receipt),
	}
	for _, m := range k.Models {
		var d model
		if m.WeightsDigest != "" {
			if d.weights, err = receipt.ParseDigest(strings.TrimPrefix(m.WeightsDigest, "sha256:")); err != nil {
				return nil, fmt.Errorf("%w: weights of %q: %w", ErrKeyset, m.Name, err)
			}
		}
		if m.Engine != "" {
			d.engine = sha256.Sum256([]byte(m.Engine))
		}
		s.models[m.Name] = d
	}
	return s, nil
}
