package journal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"cocoon/internal/durable"
)

const (
	magic       = "cocoonJ\n"
	version     = 1
	headSize    = 32 // bytes of a segment's head
	recordHead  = 20 // bytes of a record's head
	suffix      = ".journal"
	archiveName = "archive" // folder of the segments that Trim took out
	unfinished  = ".tmp"    // a segment that is being made
	nameDigits  = 20        // of the largest sequence number: names sort as numbers do
)

// errSync marks an fsync that failed while a segment was made.
var errSync = errors.New("syncing")

// segment is one file of the journal.
type segment struct {
	first uint64 // sequence number of its first record
	salt  [8]byte
	size  int64 // bytes when it was opened or closed; unused for the one that is written
}

// newSegment returns a segment with a fresh salt.
func newSegment(first uint64) segment {
	s := segment{first: first, size: headSize}
	_, _ = rand.Read(s.salt[:]) // never fails
	return s
}

// path returns the file's path.
func (s segment) path(dir string) string {
	return filepath.Join(dir, fmt.Sprintf("%0*d%s", nameDigits, s.first, suffix))
}

// archiveDir returns the folder of a journal's archive.
func archiveDir(dir string) string { return filepath.Join(dir, archiveName) }

// head returns the segment's first bytes.
func (s segment) head() []byte {
	h := append(make([]byte, 0, headSize), magic...)
	h = binary.LittleEndian.AppendUint32(h, version)
	h = binary.LittleEndian.AppendUint64(h, s.first)
	h = append(h, s.salt[:]...)
	return binary.LittleEndian.AppendUint32(h, checksum(0, h))
}

// seed is where the checksums of the segment's records start from.
func (s segment) seed() uint32 { return checksum(0, s.head()) }

// parseHead reads a segment's head. The reason is empty if it is good.
func parseHead(h []byte) (s segment, reason string, err error) {
	if len(h) < headSize || string(h[:8]) != magic {
		return s, "not a journal segment", nil
	}
	if v := binary.LittleEndian.Uint32(h[8:]); v > version {
		return s, "", fmt.Errorf("%w: format %d, this program knows %d", ErrNewer, v, version)
	} else if v != version {
		return s, fmt.Sprintf("unknown format %d", v), nil
	}
	if binary.LittleEndian.Uint32(h[28:]) != checksum(0, h[:28]) {
		return s, "wrong checksum of the head", nil
	}
	s.first = binary.LittleEndian.Uint64(h[12:])
	copy(s.salt[:], h[20:28])
	return s, "", nil
}

// parsed is a record as it lies in a segment.
type parsed struct {
	seq     uint64
	index   uint32
	payload []byte
	size    int // bytes with its head
}

// parseRecord reads the record at the start of data; ok is false if there is no good one.
func parseRecord(data []byte, seed uint32) (r parsed, ok bool) {
	if len(data) < recordHead {
		return r, false
	}
	n := binary.LittleEndian.Uint32(data[4:])
	if n == 0 || n > RecordMax || int(n) > len(data)-recordHead {
		return r, false
	}
	r.size = recordHead + int(n)
	if binary.LittleEndian.Uint32(data) != checksum(seed, data[4:r.size]) {
		return r, false
	}
	r.seq = binary.LittleEndian.Uint64(data[8:])
	r.index = binary.LittleEndian.Uint32(data[16:])
	r.payload = data[recordHead:r.size]
	return r, uint64(r.index) < r.seq
}

// walk gives f the segment's good records in order. It returns where they end, which is the end of data or the first
// bytes that are no good record, and which number was due there.
func (s segment) walk(data []byte, f func(seq uint64, record []byte) error) (end int, next uint64, err error) {
	end, next = headSize, s.first
	for seed := s.seed(); end < len(data); next++ {
		r, ok := parseRecord(data[end:], seed)
		if !ok || r.seq != next {
			break
		}
		if err := f(r.seq, r.payload); err != nil {
			return end, next, err
		}
		end += r.size
	}
	return end, next, nil
}

// durable looks behind bytes that are no good record for one that proves that record due, which should be there, had
// been on disk before it. It returns the proof's offset.
func (s segment) durable(data []byte, end int, due uint64) (offset int, found bool) {
	seed, most := s.seed(), uint64(len(data)/recordHead)
	for at := end; at+recordHead < len(data); at++ {
		seq := binary.LittleEndian.Uint64(data[at+8:])
		if seq < due || seq-due > most { // cheap, and true of nearly all
			continue
		}
		if r, ok := parseRecord(data[at:], seed); ok && r.seq-uint64(r.index) > due {
			return at, true
		}
	}
	return 0, false
}

// names returns the segments in dir in order, by their names, and the files that were being made when a process died.
func names(dir string) (firsts []uint64, left []string, err error) {
	entries, err := os.ReadDir(dir) // sorted by name, so by number
	if err != nil {
		return nil, nil, fmt.Errorf("opening journal: %w", err)
	}
	for _, e := range entries {
		base, is := strings.CutSuffix(e.Name(), suffix)
		if strings.HasSuffix(e.Name(), suffix+unfinished) {
			left = append(left, filepath.Join(dir, e.Name()))
		} else if is {
			first, err := strconv.ParseUint(base, 10, 64)
			if err != nil || len(base) != nameDigits || first == 0 {
				return nil, nil, &DamageError{filepath.Join(dir, e.Name()), 0, "not a name of a segment"}
			}
			firsts = append(firsts, first)
		}
	}
	return firsts, left, nil
}

// create makes a segment's file with the given content so that it is there whole or not at all.
func (j *Journal) create(s segment, content []byte) (file, error) {
	path := s.path(j.dir)
	tmp := path + unfinished
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making a segment: %w", err)
	}
	var w file = &staged{File: f, ring: j.ring, most: j.o.SegmentBytes}
	if j.o.wrap != nil {
		w = j.o.wrap(w)
	}
	if _, err = w.WriteAt(content, 0); err == nil {
		if err = w.Sync(); err != nil {
			err = fmt.Errorf("%w: %w", errSync, err)
		} else if err = os.Rename(tmp, path); err == nil {
			err = syncDir(j.dir)
		}
	}
	if err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("making segment %s: %w", path, err)
	}
	return w, nil
}

// syncDir makes names in dir durable.
func syncDir(dir string) error {
	if err := durable.SyncDir(dir); err != nil {
		return fmt.Errorf("%w the journal's folder: %w", errSync, err)
	}
	return nil
}

// checksum continues a CRC-32C.
func checksum(seed uint32, data []byte) uint32 {
	return crc32.Update(seed, crc32.MakeTable(crc32.Castagnoli), data)
}
