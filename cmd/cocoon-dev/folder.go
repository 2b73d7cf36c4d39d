package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"cocoon/gateway/accounts"
	"cocoon/internal/secret"
)

// Names below the data folder.
const (
	envName  = "env"
	keyName  = "key"
	logName  = "cocoon.log"
	lockName = "lock"
)

// folder is the data folder, ours alone while we run.
type folder struct {
	path string
	lock *os.File
	log  *os.File
}

// openFolder makes and locks the data folder. What the last run left for scripts is gone before they look.
func openFolder(path string) (*folder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("making the data folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the data folder: %w", err)
	}
	f := &folder{path: path, lock: lock}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close() // nothing was written
		return nil, fmt.Errorf("another cocoon-dev uses %s: stop it, or choose another folder with --data", path)
	}
	if err := f.removeEnv(); err != nil {
		f.close()
		return nil, err
	}
	log := filepath.Join(path, logName)
	if err := os.Rename(log, log+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.close()
		return nil, fmt.Errorf("keeping the last log: %w", err)
	}
	if f.log, err = os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		f.close()
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	return f, nil
}

// close unlocks the folder; the addresses that scripts know are no longer good then.
func (f *folder) close() {
	_ = f.removeEnv() // it goes at the next start
	if f.log != nil {
		_ = f.log.Close() // every record was written when it was logged
	}
	_ = f.lock.Close() // holds nothing
}

func (f *folder) removeEnv() error {
	err := os.Remove(filepath.Join(f.path, envName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// apiKey is the key of the last run if it still works, else a new one.
func (f *folder) apiKey(ctx context.Context, book *accounts.Book) (secret.Key, error) {
	path := filepath.Join(f.path, keyName)
	if text, err := os.ReadFile(path); err == nil {
		key, err := secret.ParseKey(strings.TrimSpace(string(text)))
		if err == nil && book.Key(key.Hash()) != nil {
			return key, nil
		}
	}
	key, _, err := book.CreateKey(ctx, accounts.DefaultAccount, accounts.Settings{
		Name: "cocoon-dev", Scopes: []string{accounts.ScopeInference, accounts.ScopeAccount, accounts.ScopeWithdraw},
	})
	if err != nil {
		return key, fmt.Errorf("making an API key: %w", err)
	}
	return key, writeFile(path, key.Reveal()+"\n")
}

// environment is what an app needs to know.
type environment struct {
	baseURL, opsURL string
	key             secret.Key
}

func (f *folder) writeEnv(e environment) error {
	return writeFile(filepath.Join(f.path, envName), fmt.Sprintf(
		"export OPENAI_BASE_URL=%s\nexport OPENAI_API_KEY=%s\nexport COCOON_OPS_URL=%s\n",
		quote(e.baseURL), quote(e.key.Reveal()), quote(e.opsURL)))
}

// quote is s as one word of a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// writeFile replaces a file at once, so that a reader sees all of it or nothing; only its owner may read it.
func writeFile(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}
