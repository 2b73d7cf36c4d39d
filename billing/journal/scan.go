package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
)

// Scanned is a record that Scan found.
type Scanned struct {
	Seq      uint64
	Record   []byte // valid only during the call
	Archived bool   // it is in the archive alone
}

// Scan gives f the records of the journal in dir and of its archive, oldest first, and changes nothing: for an audit
// beside a process that has the journal open. What is appended meanwhile may or may not come, records of a torn tail do
// not. It stops at f's first error and returns it.
func Scan(dir string, f func(Scanned) error) error {
	// The journal's folder first: what leaves it meanwhile is found in the archive.
	firsts, _, err := names(dir)
	if err != nil {
		return err
	}
	live := map[uint64]bool{}
	for _, first := range firsts {
		live[first] = true
	}
	old, _, err := names(archiveDir(dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	archived := map[uint64]bool{}
	for _, first := range old {
		archived[first] = !live[first]
	}
	maps.Copy(live, archived)
	var next uint64 // that is due; 0: none has come
	for i, first := range slices.Sorted(maps.Keys(live)) {
		var recent []byte
		if i == len(live)-1 {
			if recent, err = readRing(dir); err != nil {
				return err
			}
		}
		data, s, in, err := readAny(dir, first)
		if next == 0 && errors.Is(err, fs.ErrNotExist) {
			continue // it was the oldest and has been pruned
		}
		if err != nil {
			return err
		}
		if next != 0 && next != first {
			return &DamageError{s.path(in), 0, fmt.Sprintf("record %d is missing, and those up to it", next)}
		}
		give := func(seq uint64, record []byte) error { return f(Scanned{seq, record, archived[first]}) }
		if i == len(live)-1 {
			_, _, err := tail(in, s, s.extend(in, data, recent, segmentMax), give)
			return err
		}
		end, due, err := s.walk(data, give)
		if err != nil {
			return err
		}
		if end != len(data) {
			return &DamageError{s.path(in), int64(end), fmt.Sprintf("no good record %d", due)}
		}
		next = due
	}
	return nil
}

// readAny reads a segment that is in the journal's folder or in its archive, and says which.
func readAny(dir string, first uint64) (data []byte, s segment, in string, err error) {
	named := segment{first: first}
	for _, in = range []string{dir, archiveDir(dir)} {
		if data, err = read(in, named, segmentMax); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return nil, named, in, err
	}
	s, reason, err := parseHead(data)
	if err != nil {
		return nil, named, in, fmt.Errorf("%s: %w", named.path(in), err)
	}
	if reason == "" && s.first != first {
		reason = fmt.Sprintf("starts with record %d", s.first)
	}
	if reason != "" {
		return nil, named, in, &DamageError{named.path(in), 0, reason}
	}
	return data, s, in, nil
}
