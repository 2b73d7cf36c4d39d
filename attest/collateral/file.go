package collateral

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cocoon/internal/strictjson"
)

// fileVersion is that of cache files. Those of other versions are removed: all of it can be fetched again.
const fileVersion = 1

// Cache files.
const (
	fileMax    = dataMax*4/3 + 64<<10 // an item in base64, and what it is about
	fileSuffix = ".json"
	tempPrefix = ".tmp-" // of files that are being written
)

// file is the JSON of a cache file.
type file struct {
	V       int       `json:"v"`
	Want    want      `json:"want"`
	Fetched time.Time `json:"fetched"`
	Data    []byte    `json:"data"`
}

// fileName is a hash of what the item is about.
func (w *want) fileName() string {
	sum := sha256.Sum256([]byte(w.key()))
	return hex.EncodeToString(sum[:]) + fileSuffix
}

// ours tells our files from others that may lie in the folder: those stay as they are.
func ours(name string) bool {
	sum, err := hex.DecodeString(strings.TrimSuffix(name, fileSuffix))
	return err == nil && len(sum) == sha256.Size && strings.HasSuffix(name, fileSuffix)
}

// load reads the cache. An item is verified at the time that it was fetched at: that it has ended doesn't make it less
// authentic, and it still says what can't come back.
func (s *Store) load() error {
	if s.dir == "" {
		return nil
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("making the collateral cache: %w", err)
	}
	found, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("reading the collateral cache: %w", err)
	}
	var files []*file
	var size int64
	for _, f := range found {
		name := f.Name()
		switch {
		case strings.HasPrefix(name, tempPrefix):
			s.discard(name, errors.New("it was never finished"))
		case ours(name):
			f, err := s.readFile(name)
			if err == nil && (size+int64(len(f.Data)) > bytesMax || len(files) >= entriesMax) {
				err = errors.New("the cache is full")
			}
			if err != nil {
				s.discard(name, err)
				continue
			}
			files, size = append(files, f), size+int64(len(f.Data))
		}
	}
	// Chains come before the keys that hang on them.
	slices.SortFunc(files, func(a, b *file) int { return strings.Compare(a.Want.key(), b.Want.key()) })
	for _, f := range files {
		facts, err := s.inspect(&f.Want, f.Data, f.Fetched)
		if err != nil {
			s.discard(f.Want.fileName(), err)
			continue
		}
		s.insert(&entry{want: f.Want, data: f.Data, facts: facts, fetched: f.Fetched, used: f.Fetched})
	}
	return nil
}

func (s *Store) readFile(name string) (*file, error) {
	path := filepath.Join(s.dir, name)
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > fileMax {
		return nil, fmt.Errorf("%s of %d bytes, want a file of at most %d", info.Mode(), info.Size(), fileMax)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := parseFile(text)
	if err == nil && f.Want.fileName() != name {
		err = fmt.Errorf("it holds %s, which belongs elsewhere", f.Want.title())
	}
	return f, err
}

// parseFile reads a cache file. What it says is not verified.
func parseFile(text []byte) (*file, error) {
	f := new(file)
	if err := strictjson.Decode(text, f); err != nil {
		return nil, err
	}
	if f.V != fileVersion || f.Fetched.IsZero() || len(f.Data) == 0 || len(f.Data) > dataMax {
		return nil, fmt.Errorf("version %d, fetched at %s, %d bytes", f.V, stamp(f.Fetched), len(f.Data))
	}
	return f, nil
}

// discard removes a file that is no good.
func (s *Store) discard(name string, why error) {
	s.log.Warn("collateral cache file is discarded", "file", name, "err", why)
	if err := os.Remove(filepath.Join(s.dir, name)); err != nil {
		s.log.Warn("collateral cache file can't be removed", "file", name, "err", err)
	}
}

func (s *Store) removeFile(w *want) {
	if s.dir == "" {
		return
	}
	if err := os.Remove(filepath.Join(s.dir, w.fileName())); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("collateral cache file can't be removed", "file", w.fileName(), "err", err)
	}
}

// writeFile writes an entry's file, whole or not at all.
func (s *Store) writeFile(e *entry) error {
	if s.dir == "" {
		return nil
	}
	text, err := json.Marshal(file{V: fileVersion, Want: e.want, Fetched: e.fetched.UTC(), Data: e.data})
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(s.dir, tempPrefix) // of mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(s.dir, e.want.fileName()))
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}
