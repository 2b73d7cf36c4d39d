package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"cocoon/attest"
	"cocoon/attest/collateral"
)

// shelf is where collateral comes from, and what was used of it.
type shelf struct {
	store  *collateral.Store
	bundle []attest.Item // the user's
	used   []attest.Item // each once
}

func newShelf(o *verifyOptions, policy *attest.Policy) (*shelf, error) {
	var err error
	s, c := new(shelf), collateral.Config{Simulated: policy.Roots(), Client: &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableCompression: true, MaxResponseHeaderBytes: answerHeadMax,
	}}}
	if o.bundle != "" || !o.fetch {
		c.KDS, c.PCS, c.IntelCRL, c.RIM, c.OCSP = collateral.Off, collateral.Off, collateral.Off, collateral.Off, collateral.Off
	}
	if o.bundle != "" {
		f, err := os.Open(o.bundle)
		if err != nil {
			return nil, fmt.Errorf("opening the bundle of collateral: %w", err)
		}
		defer f.Close()
		if s.bundle, err = collateral.ReadBundle(f); err != nil {
			return nil, fmt.Errorf("%s: %w", o.bundle, err)
		}
	} else if c.Dir, err = o.cacheDir(); err != nil {
		return nil, err
	}
	if s.store, err = collateral.New(c); err != nil {
		return nil, fmt.Errorf("opening the cache of collateral: %w", err)
	}
	return s, nil
}

// cacheDir is where fetched collateral is kept: a folder of its own, since the cache removes what it finds damaged there.
func (o *verifyOptions) cacheDir() (string, error) {
	if o.cache != "" {
		return filepath.Join(o.cache, "collateral"), nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("looking for your cache folder: %w; name one with --cache", err)
	}
	return filepath.Join(dir, "cocoon", "collateral"), nil
}

// complete gathers what vendors said about the hardware that e is of. It returns what it found, also with an error.
func (s *shelf) complete(ctx context.Context, e *attest.Evidence, at time.Time) (attest.Collateral, error) {
	with := *e
	with.Endorsements = slices.Concat(e.Endorsements, s.bundle)
	items, err := s.store.Items(ctx, &with, at)
	for _, item := range items {
		if !slices.ContainsFunc(s.used, item.Equal) {
			s.used = append(s.used, item)
		}
	}
	var c attest.Collateral
	return c, errors.Join(err, c.Add(items))
}

// export writes what was used as a bundle; nothing if there is no path.
func (s *shelf) export(path string) error {
	if path == "" {
		return nil
	}
	var b bytes.Buffer
	err := collateral.WriteBundle(&b, s.used)
	if err == nil {
		err = os.WriteFile(path, b.Bytes(), 0o644)
	}
	if err != nil {
		return fmt.Errorf("keeping the collateral: %w", err)
	}
	return nil
}
