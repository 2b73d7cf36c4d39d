package journal

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
)

const (
	// aheadStep is how much room is allocated at once: the call is rare then, one for 200 holds, and a disk that is full
	// shows soon: what is served while nothing else can be written has to wait for its settlement.
	aheadStep = 64 << 10
	// aheadPause is how much is written to the file at once after room was refused, before it is asked for again: a refusal
	// is slow where a file system looks for what it could free.
	aheadPause = 64 << 10
)

// errLost says that the ring can't be read any more: what was accepted is gone, or may be.
var errLost = errors.New("the last records can't be read from the memory where they were")

// staged is a segment's file. What is written at its end is copied into the ring, which is no call of the system, and given
// to the system in one piece by the next Sync, or when the ring is full. Room for it is allocated before, so that a full
// disk is known when something is written. All else goes to the file at once: what the ring can't hold, what there is no
// room for, and everything where there is no ring or nothing can be allocated.
//
// Its methods have one caller at a time, but for Sync, which may run beside WriteAt.
type staged struct {
	*os.File
	ring   *ring
	most   int64 // bytes up to which room is allocated ahead
	room   int64 // bytes of the file for which there is room on the disk
	retry  int64 // offset from which on room is asked for
	direct bool  // for good: nothing can be allocated, or the ring has failed

	// From given to end the segment is in the ring alone.
	flushing sync.Mutex // held over what changes given
	given    atomic.Int64
	end      atomic.Int64
}

// WriteAt writes at the end into the ring, or to the file.
func (s *staged) WriteAt(p []byte, off int64) (int, error) {
	size, torn := int64(len(p)), false
	if s.stages(off, size) {
		if off+size-s.given.Load() > int64(len(s.ring.data)) {
			if err := s.flush(); err != nil {
				return 0, err
			}
		}
		if s.ring.store(p, off) {
			s.end.Store(off + size)
			return len(p), nil
		}
		s.direct, torn = true, true
	}
	if err := s.flush(); err != nil {
		if torn {
			err = fmt.Errorf("%w: %w", errLost, err)
		}
		return 0, err
	}
	n, err := s.File.WriteAt(p, off)
	end := max(s.end.Load(), off+int64(n))
	s.room = max(s.room, end)
	s.flushing.Lock()
	defer s.flushing.Unlock()
	s.end.Store(end)
	s.given.Store(end)
	return n, err
}

// stages says whether a write goes into the ring, for which it may have to allocate room.
func (s *staged) stages(off, size int64) bool {
	if s.direct || off != s.end.Load() || size > int64(len(s.ring.data)) {
		return false
	}
	end := off + size
	if end <= s.room {
		return true
	}
	if off < s.retry {
		return false
	}
	to := max(end, min(s.most, s.room+aheadStep))
	if err := allocate(s.File, s.room, to-s.room); err != nil {
		s.direct = errors.Is(err, errors.ErrUnsupported)
		s.retry = off + aheadPause
		return false
	}
	s.room = to
	return true
}

// flush gives to the system what is in the ring alone.
func (s *staged) flush() error {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	from, to := s.given.Load(), s.end.Load()
	if from == to {
		return nil
	}
	a, b := s.ring.at(from, to-from)
	for _, part := range [][]byte{a, b} {
		n, err := s.File.WriteAt(part, from)
		from += int64(n)
		s.given.Store(from)
		if err != nil {
			return err
		}
	}
	return nil
}

// Sync puts on disk what was written before.
func (s *staged) Sync() error {
	if err := s.flush(); err != nil {
		return err
	}
	return s.File.Sync()
}

// Truncate cuts what lies behind size, and the room there.
func (s *staged) Truncate(size int64) error {
	s.flushing.Lock()
	if cut := s.end.Load() - size; cut > 0 && s.ring.data != nil {
		// It must not be found where it was.
		s.ring.store(make([]byte, min(cut, int64(len(s.ring.data)))), size)
		s.end.Store(size)
		s.given.Store(min(size, s.given.Load()))
	}
	s.flushing.Unlock()
	if err := s.flush(); err != nil {
		return err
	}
	s.room = min(s.room, size)
	return s.File.Truncate(size)
}

// Close gives back the room behind the end, and closes the file. What is in the ring alone stays there.
func (s *staged) Close() error {
	if end := s.end.Load(); s.room > end && s.given.Load() == end {
		_ = s.File.Truncate(end) // if it fails, the next Open writes the last segment anew
	}
	return s.File.Close()
}
