package simtee

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"cocoon/internal/durable"
)

// The files of a vendor's folder.
const (
	vendorFile = "SIMULATED-vendors.json"
	readmeFile = "README"
)

const readme = `SIMULATED hardware vendors

SIMULATED-vendors.json holds the private keys of an AMD, an Intel and an NVIDIA that do not exist. Programs under
development sign evidence of simulated confidential machines with them. Such evidence proves nothing: whoever has the
file can forge it. No policy for real use may admit it.

Processes that share this folder share the vendors. Delete it to have new ones.
`

// Open reads the vendor in the folder, or makes one there. Of several processes that make it at once one wins, and all
// open that one; after a crash it is there whole, or not at all. The folder is made for its owner alone, and so is each
// file in it. A vendor that is damaged or years old is an error: programs and policies may still hang on it.
func Open(dir string, now time.Time) (*Vendor, error) {
	if now.IsZero() {
		return nil, errors.New("opening simulated vendors: no time")
	}
	path := filepath.Join(dir, vendorFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := create(dir, now); err != nil {
			return nil, fmt.Errorf("making simulated vendors in %s: %w", dir, err)
		}
		text, err = os.ReadFile(path) // another process's, perhaps
	}
	if err != nil {
		return nil, fmt.Errorf("opening simulated vendors: %w", err)
	}
	v, err := parse(text, now)
	if err != nil {
		return nil, fmt.Errorf("opening simulated vendors: %s: %w (delete it to have new ones)", path, err)
	}
	return v, nil
}

// create makes a vendor and writes it, unless there is one by then.
func create(dir string, now time.Time) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	v, err := New(now)
	if err != nil {
		return err
	}
	text, err := v.marshal()
	if err != nil {
		return err
	}
	if err := durable.Publish(filepath.Join(dir, readmeFile), []byte(readme)); err != nil {
		return err
	}
	return durable.Publish(filepath.Join(dir, vendorFile), text)
}
