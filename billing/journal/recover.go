package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// recover finds the segments, checks that none is missing, cuts a torn tail and makes the last segment durable.
func (j *Journal) recover() error {
	segments, left, err := list(j.dir)
	if err != nil {
		return err
	}
	for _, tmp := range left {
		if err := os.Remove(tmp); err != nil {
			return fmt.Errorf("opening journal: %w", err)
		}
	}
	last, content := newSegment(1), []byte(nil)
	if len(segments) == 0 {
		content, j.next = last.head(), 1
		segments = []segment{last}
	} else {
		last = segments[len(segments)-1]
		data, err := readLast(j.dir, last, segmentMax)
		if err != nil {
			return err
		}
		end, next, err := tail(j.dir, last, data, func(uint64, []byte) error { return nil })
		if err != nil {
			return err
		}
		content, j.next = data[:end], next
	}
	if j.active, err = j.create(last, content); err != nil {
		return err
	}
	if err = j.ring.open(j.dir, j.o.ring); err != nil { // only now: what was in the old one is on disk
		return errors.Join(err, j.active.Close())
	}
	j.segments, j.at, j.seed, j.size, j.durable = segments, last, last.seed(), int64(len(content)), j.next-1
	return nil
}

// Replay gives f all records that were written, oldest first. The record is valid only during the call. It stops at f's
// first error and returns it.
func (j *Journal) Replay(f func(seq uint64, record []byte) error) error {
	j.mu.Lock()
	size := j.size
	j.listMu.Lock()
	segments := slices.Clone(j.segments)
	j.listMu.Unlock()
	j.mu.Unlock()
	return replay(j.dir, segments, size, f)
}

// replay walks the segments; of the last one size bytes at most.
func replay(dir string, segments []segment, size int64, f func(seq uint64, record []byte) error) error {
	for i, s := range segments {
		if i == len(segments)-1 {
			data, err := readLast(dir, s, size)
			if err != nil {
				return err
			}
			_, _, err = tail(dir, s, data, f)
			return err
		}
		data, err := read(dir, s, segmentMax)
		if err != nil {
			return err
		}
		end, next, err := s.walk(data, f)
		if err != nil {
			return err
		}
		if end != len(data) {
			return &DamageError{s.path(dir), int64(end), fmt.Sprintf("no good record %d", next)}
		}
		if next != segments[i+1].first {
			reason := fmt.Sprintf("ends before record %d, the next segment starts with %d", next, segments[i+1].first)
			return &DamageError{s.path(dir), int64(end), reason}
		}
	}
	return nil
}

// tail walks the last segment, whose torn end is left out.
func tail(dir string, s segment, data []byte, f func(uint64, []byte) error) (end int, next uint64, err error) {
	if end, next, err = s.walk(data, f); err != nil || end == len(data) {
		return end, next, err
	}
	if proof, found := s.durable(data, end, next); found {
		reason := fmt.Sprintf("no good record %d, but a later one at byte %d", next, proof)
		return 0, 0, &DamageError{s.path(dir), int64(end), reason}
	}
	return end, next, nil
}

// list reads the heads of the segments in dir and checks that they are what their names say.
func list(dir string) (segments []segment, left []string, err error) {
	firsts, left, err := names(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, first := range firsts {
		named := segment{first: first}
		data, err := read(dir, named, headSize)
		if err != nil {
			return nil, nil, err
		}
		s, reason, err := parseHead(data)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", named.path(dir), err)
		}
		if reason == "" && s.first != first {
			reason = fmt.Sprintf("starts with record %d", s.first)
		}
		if reason != "" {
			return nil, nil, &DamageError{named.path(dir), 0, reason}
		}
		info, err := os.Stat(named.path(dir))
		if err != nil {
			return nil, nil, fmt.Errorf("opening journal: %w", err)
		}
		s.size = info.Size()
		segments = append(segments, s)
	}
	return segments, left, nil
}

// readLast returns the first size bytes of the last segment, or all if it has fewer: those of its file, and of the ring.
func readLast(dir string, s segment, size int64) ([]byte, error) {
	recent, err := readRing(dir)
	if err != nil {
		return nil, err
	}
	data, err := read(dir, s, size)
	if err != nil {
		return nil, err
	}
	return s.extend(dir, data, recent, size), nil
}

// read returns the first size bytes of a segment, or all if it has fewer.
func read(dir string, s segment, size int64) ([]byte, error) {
	f, err := os.Open(s.path(dir))
	if err != nil {
		return nil, fmt.Errorf("reading journal: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, size))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", s.path(dir), err)
	}
	return data, nil
}
