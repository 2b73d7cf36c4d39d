// Package config reads the daemons' configuration files: bounded, strict, with errors that say what to do.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"go.yaml.in/yaml/v4"
)

// Max bounds a configuration file, bytes: nothing sensible is longer.
const Max = 1 << 20

// Load decodes the YAML file into v, which holds the defaults: an empty file leaves them. A field that v does not have
// is an error. The error names the file; a missing one names the sample to start from too.
func Load(path, sample string, v any) error {
	text, err := ReadFile(path, Max)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; --config names another file, and %s is a sample", err, sample)
	}
	if err != nil {
		return err
	}
	if err := Decode(text, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// Decode decodes YAML into v, which holds the defaults: empty text leaves them. A field that v does not have is an
// error, and so is a second document, which would be left out without a word.
func Decode(text []byte, v any) error {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	err := dec.Decode(v)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return errors.New("a second document follows the first")
	}
	return nil
}

// ReadFile reads a file of at most limit bytes; a longer one is an error.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("%s: longer than %d bytes", path, limit)
	}
	return text, nil
}
