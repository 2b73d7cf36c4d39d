package recordfile

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrLocked marks a folder that another process uses.
var ErrLocked = errors.New("in use by another process")

// Lock takes a folder for this process, by a file of its own in it, until the file is closed or the process ends.
func Lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
	}
	return f, nil
}
