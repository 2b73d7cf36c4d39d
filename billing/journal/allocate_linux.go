package journal

import (
	"errors"
	"os"
	"syscall"
)

// keepSize leaves a file's size as it is: what is allocated lies behind its end.
const keepSize = 1

// allocate sees to it that a part of a file has room on the disk. errors.ErrUnsupported is of a file system that can't.
func allocate(f *os.File, from, size int64) error {
	var most syscall.Rlimit // which holds for what is written, not for what is allocated
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &most); err == nil && uint64(from+size) > most.Cur {
		return syscall.EFBIG
	}
	for {
		err := syscall.Fallocate(int(f.Fd()), keepSize, from, size)
		if !errors.Is(err, syscall.EINTR) { // the scheduler's signals
			return err
		}
	}
}
