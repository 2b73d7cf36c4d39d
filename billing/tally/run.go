package tally

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"path/filepath"

	"cocoon/internal/recordfile"
)

// Sizes of a run.
const (
	bucketKeys  = 64       // keys of a bucket, or a few more or less: one read of 1 KiB
	bucketSize  = 4        // a number of the directory
	filterBlock = 64       // bytes of a filter that are of one key: a line of a processor's cache
	filterKeys  = 32       // keys of a block: 16 bits of each
	filterBits  = 6        // bits that a key sets, of 512: of keys that are not there 1 or 2 in 1000 are looked up in vain
	runsMerge   = 4        // runs of a size become one
	runMax      = 32 << 20 // receipts of a run: 1 GiB, and a filter of filtersMax
)

// filtersMax bounds the filters in memory, bytes: those of some 30 million receipts, the last ones. To look a fresh
// receipt up in an older run costs a read of the file.
const filtersMax = 64 << 20

// errRun marks a run that is not as it was written.
var errRun = errors.New("a file of keys is damaged")

// run is the keys of some receipts that follow each other, on disk for good, and never changed. Its file has, for IDs
// and requests, the keys in their order; for each of both a directory: where the keys with the same first bits begin;
// and a filter of the IDs (Bloom's, with all bits of a key in one block). All sizes follow from the number of receipts.
type run struct {
	from, to int64
	disk     io.ReaderAt
	close    func() error
	filter   []byte // nil: not in memory
}

// newSuffix is of the name of a run's file until it is whole.
const newSuffix = ".new"

// runName is the name of a run's file.
func runName(from, to int64) string { return fmt.Sprintf("%s-%d-%d", keysName, from, to) }

func (r *run) count() int64 { return r.to - r.from }

// buckets is how many a run of n receipts has: a power of two.
func buckets(n int64) int64 { return 1 << bits.Len64(uint64(n)/bucketKeys) }

// bucket is the one of a hash.
func bucket(hash uint64, n int64) int64 {
	return int64(hash >> (64 - bits.TrailingZeros64(uint64(buckets(n)))))
}

func (r *run) directory(kind int) int64 {
	return r.count()*keySize*kinds + int64(kind)*(buckets(r.count())+1)*bucketSize
}
func (r *run) filterAt() int64   { return r.directory(kinds) }
func (r *run) filterSize() int64 { return (r.count()/filterKeys + 1) * filterBlock }
func (r *run) size() int64       { return r.filterAt() + r.filterSize() }

// openRun opens a run to read, with its filter if it shall be in memory.
func openRun(dir string, from, to int64, filter bool) (*run, error) {
	f, err := os.Open(filepath.Join(dir, runName(from, to)))
	if err != nil {
		return nil, err
	}
	r := &run{from: from, to: to, disk: f, close: f.Close}
	info, err := f.Stat()
	if err == nil && info.Size() != r.size() {
		err = fmt.Errorf("%w: %s has %d bytes, want %d", errRun, f.Name(), info.Size(), r.size())
	}
	if err == nil && filter {
		r.filter = make([]byte, r.filterSize())
		_, err = f.ReadAt(r.filter, r.filterAt())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return r, nil
}

// openRuns opens those that end at the receipts ends, the last ones with their filters.
func openRuns(dir string, ends []int64) (runs []*run, err error) {
	kept := int64(0)
	for i := len(ends) - 1; i >= 0; i-- {
		r := &run{to: ends[i]}
		if i > 0 {
			r.from = ends[i-1]
		}
		kept += r.filterSize()
		if r, err = openRun(dir, r.from, r.to, kept <= filtersMax); err != nil {
			return nil, errors.Join(err, closeRuns(runs))
		}
		runs = append([]*run{r}, runs...)
	}
	return runs, nil
}

func closeRuns(runs []*run) error {
	var err error
	for _, r := range runs {
		err = errors.Join(err, r.close())
	}
	return err
}

// shed lets go of the filters of old runs.
func shed(runs []*run) {
	kept := int64(0)
	for i := len(runs) - 1; i >= 0; i-- {
		if kept += runs[i].filterSize(); kept > filtersMax {
			runs[i].filter = nil
		}
	}
}

// find appends the indexes of receipts with a key, in their order.
func (r *run) find(kind int, hash uint64, found []int64) ([]int64, error) {
	if kind == ids && r.filter != nil && !has(r.filter, hash) {
		return found, nil
	}
	buf := make([]byte, bucketKeys*keySize)
	if _, err := r.disk.ReadAt(buf[:2*bucketSize], r.directory(kind)+bucket(hash, r.count())*bucketSize); err != nil {
		return nil, fmt.Errorf("reading a directory of keys: %w", err)
	}
	at, end := int64(binary.LittleEndian.Uint32(buf)), int64(binary.LittleEndian.Uint32(buf[bucketSize:]))
	if at > end || end > r.count() {
		return nil, fmt.Errorf("%w: a bucket from %d to %d", errRun, at, end)
	}
	for at < end {
		b := buf[:min(end-at, bucketKeys)*keySize]
		if _, err := r.disk.ReadAt(b, (int64(kind)*r.count()+at)*keySize); err != nil {
			return nil, fmt.Errorf("reading keys: %w", err)
		}
		for ; len(b) > 0; b = b[keySize:] {
			switch h := binary.LittleEndian.Uint64(b); {
			case h == hash:
				found = append(found, int64(binary.LittleEndian.Uint64(b[8:])))
			case h > hash:
				return found, nil
			}
		}
		at += bucketKeys
	}
	return found, nil
}

// spread gives the block of a hash in a filter, and numbers of 9 bits for the bits in it.
func spread(filter []byte, hash uint64) (block []byte, places uint64) {
	n, _ := bits.Mul64(hash, uint64(len(filter)/filterBlock))
	return filter[n*filterBlock:][:filterBlock], hash * 0x9e3779b97f4a7c15 >> 10
}

func has(filter []byte, hash uint64) bool {
	block, places := spread(filter, hash)
	for range filterBits {
		if block[places>>3%filterBlock]>>(places&7)&1 == 0 {
			return false
		}
		places >>= 9
	}
	return true
}

func set(filter []byte, hash uint64) {
	block, places := spread(filter, hash)
	for range filterBits {
		block[places>>3%filterBlock] |= 1 << (places & 7)
		places >>= 9
	}
}

// absorbed is how many of the last runs become one with n more receipts: whenever there are runsMerge of a size, so that
// there are few runs, and a key is rarely written again.
func absorbed(runs []*run, first, n int64) (many int) {
	for left := len(runs); left >= runsMerge-1; left -= runsMerge - 1 {
		sum := n
		for _, r := range runs[left-runsMerge+1 : left] {
			if sum += r.count(); sum > runMax || sizeClass(r.count(), first) != sizeClass(n, first) {
				return many
			}
		}
		n, many = sum, many+runsMerge-1
	}
	return many
}

// sizeClass is the same for runs that are merged, and first the size of the smallest.
func sizeClass(n, first int64) (class int) {
	for ; n >= runsMerge*first; n /= runsMerge {
		class++
	}
	return class
}

// source is keys in their order.
type source struct {
	r    *bufio.Reader
	left int64 // keys that r still has
	key  entry
	done bool
}

func (s *source) next() error {
	if s.done = s.left == 0; s.done {
		return nil
	}
	b, err := s.r.Peek(keySize)
	if err != nil {
		return fmt.Errorf("reading keys: %w", err)
	}
	s.key = entry{binary.LittleEndian.Uint64(b), int64(binary.LittleEndian.Uint64(b[8:]))}
	s.left--
	_, err = s.r.Discard(keySize)
	return err
}

// sources are those of runs and of a part that follows.
func sources(kind int, runs []*run, p *part) ([]*source, error) {
	var list []*source
	for _, r := range runs {
		keys := io.NewSectionReader(r.disk, int64(kind)*r.count()*keySize, r.count()*keySize)
		list = append(list, &source{r: bufio.NewReaderSize(keys, 64<<10), left: r.count()})
	}
	list = append(list, &source{r: bufio.NewReader(bytes.NewReader(p.sorted(kind))), left: p.count()})
	for _, s := range list {
		if err := s.next(); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// writeRun writes the keys of runs and of a part that follows as one run, and makes it durable but for its name.
func writeRun(c *Config, runs []*run, p *part) (r *run, err error) {
	r = &run{from: p.first, to: p.first + p.count()}
	if len(runs) > 0 {
		r.from = runs[0].from
	}
	path := filepath.Join(c.Dir, runName(r.from, r.to))
	f, err := os.OpenFile(path+newSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	disk := c.Wrap(f)
	r.disk, r.close, r.filter = disk, disk.Close, make([]byte, r.filterSize())
	w := &writer{disk: disk, buf: make([]byte, 0, writeSize)}
	var rest []byte
	for kind := range kinds {
		list, e := sources(kind, runs, p)
		if e == nil {
			rest, e = w.merge(r, kind, list, rest)
		}
		err = errors.Join(err, e)
	}
	if err == nil {
		err = errors.Join(w.write(rest), w.write(r.filter), disk.Sync())
	}
	if err == nil {
		err = os.Rename(path+newSuffix, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("writing keys: %w", err), disk.Close())
	}
	return r, nil
}

// writeSize is what a writer writes at once, bytes.
const writeSize = 256 << 10

// writer writes a file from its beginning.
type writer struct {
	disk recordfile.Disk
	at   int64
	buf  []byte
}

// merge writes the keys of sources, and appends their directory.
func (w *writer) merge(r *run, kind int, list []*source, directory []byte) ([]byte, error) {
	begins := make([]uint32, buckets(r.count())+1)
	for range r.count() {
		var s *source
		for _, o := range list {
			if !o.done && (s == nil || o.key.hash < s.key.hash) { // the older first: its indexes are less
				s = o
			}
		}
		if s == nil || s.key.n < r.from || s.key.n >= r.to {
			return nil, fmt.Errorf("%w: a key is of no receipt", errRun)
		}
		begins[bucket(s.key.hash, r.count())+1]++
		if kind == ids {
			set(r.filter, s.key.hash)
		}
		if w.buf = s.key.append(w.buf); len(w.buf)+keySize > cap(w.buf) {
			if err := w.flush(); err != nil {
				return nil, err
			}
		}
		if err := s.next(); err != nil {
			return nil, err
		}
	}
	sum := uint32(0)
	for _, n := range begins {
		sum += n
		directory = binary.LittleEndian.AppendUint32(directory, sum)
	}
	return directory, nil
}

func (w *writer) write(b []byte) error {
	if err := w.flush(); err != nil {
		return err
	}
	_, err := w.disk.WriteAt(b, w.at)
	w.at += int64(len(b))
	return err
}

func (w *writer) flush() error {
	_, err := w.disk.WriteAt(w.buf, w.at)
	w.at, w.buf = w.at+int64(len(w.buf)), w.buf[:0]
	return err
}
