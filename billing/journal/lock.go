package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"cocoon/internal/durable"
)

// lockDir takes the lock of the journal in dir. It ends with the process, or when the file is closed.
func lockDir(dir string) (*os.File, error) {
	f, err := durable.Lock(filepath.Join(dir, "lock"))
	switch {
	case errors.Is(err, durable.ErrLocked):
		return nil, fmt.Errorf("%w: %s", ErrLocked, dir)
	case err != nil:
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	return f, nil
}
