// Package sse splits a text/event-stream into events.
package sse

import (
	"bytes"
	"errors"
	"io"
)

// LineMax bounds one event, bytes: base64 audio and image deltas are megabytes, and no engine sends more.
const LineMax = 8 << 20

const (
	bufferMin = 512         // a smaller buffer than this is not worth a read
	bufferMax = LineMax + 2 // the longest event and the end of its last line
	readsMax  = 100         // empty reads in a row before giving up, as in bufio
)

// ErrTooLong means that an event is longer than LineMax: its data so far and the line at hand together.
var ErrTooLong = errors.New("event is too long")

// errDead means that Buffer took the buffer away.
var errDead = errors.New("event reader has no buffer any more")

// byteOrderMark may stand at the start of a stream.
const byteOrderMark = "\xef\xbb\xbf"

// Reader splits a text/event-stream into events. It takes lines that end in LF, CRLF or CR, joins many data lines by
// LF, and skips comments, all other fields, and a byte order mark at the start. It is not for concurrent use.
type Reader struct {
	r   io.Reader
	buf []byte

	// buf[dataStart:dataEnd] is the event so far, of that many data lines; buf[pos:end] is still to be looked at.
	dataStart, dataEnd, lines int
	pos, end                  int
	// There is no LF in buf[pos:lf] and no CR in buf[pos:cr]: what was searched is not searched again.
	lf, cr int

	skipLF  bool  // the last line ended in a CR at the end of the buffer: a LF right after it belongs to it
	started bool  // the first line is over, and with it the place for a byte order mark
	ready   bool  // the event is complete, and Next has not returned it yet
	readErr error // came along with bytes that are to be looked at first
	err     error // how it ended, for good
}

// NewReader makes a reader. It starts with the whole capacity of buf, if that is at least 512 bytes, and takes larger
// buffers as events need them.
func NewReader(r io.Reader, buf []byte) *Reader {
	if cap(buf) < bufferMin {
		buf = make([]byte, bufferMin)
	}
	return &Reader{r: r, buf: buf[:cap(buf)]}
}

// Next returns the next event's data, which may be empty. The slice is part of the buffer, valid until the next call of
// Next or Buffer. Blocks without data lines are skipped.
//
// It returns io.EOF when the stream ends between events, io.ErrUnexpectedEOF when it ends inside a line or an event,
// which is dropped, and ErrTooLong; these stay. Any other error of the underlying reader is returned as it is and
// loses nothing: after a timeout Next may be called again.
func (r *Reader) Next() ([]byte, error) {
	for !r.parse() {
		if r.err == nil {
			if err := r.fill(); err != nil {
				return nil, err
			}
			continue
		}
		return nil, r.err
	}
	event := r.buf[r.dataStart:r.dataEnd:r.dataEnd]
	r.ready, r.lines = false, 0
	return event, nil
}

// Buffered tells whether a whole further event is in the buffer, so that Next will not read. What Next returned last
// stays valid.
func (r *Reader) Buffered() bool { return r.parse() }

// Buffer hands the buffer back for reuse; it may be another, larger one than NewReader got. The reader is dead then.
func (r *Reader) Buffer() []byte {
	buf := r.buf
	*r = Reader{err: errDead}
	return buf
}

// parse goes on until an event is complete; false if there are no lines left in the buffer. It never moves what
// Next returned.
func (r *Reader) parse() bool {
	for !r.ready {
		if r.skipLF && r.pos < r.end {
			r.skipLF = false
			if r.buf[r.pos] == '\n' {
				r.pos++
			}
		}
		r.lf = r.seek('\n', r.lf, r.end)
		r.cr = r.seek('\r', r.cr, r.lf)
		n := min(r.lf, r.cr)
		line := r.buf[r.pos:n]
		if len(line) > 0 && r.held()+len(line) > LineMax {
			r.err = ErrTooLong
			return false
		}
		if n == r.end {
			return false
		}
		r.pos = n + 1
		if r.buf[n] == '\r' {
			if r.pos == r.end {
				r.skipLF = true
			} else if r.buf[r.pos] == '\n' {
				r.pos++
			}
		}
		if !r.started {
			r.started = true
			line = bytes.TrimPrefix(line, []byte(byteOrderMark))
		}
		if len(line) == 0 {
			r.ready = r.lines > 0
		} else if value, ok := dataOf(line); ok {
			r.add(value, n)
		}
	}
	return true
}

// seek is the index of c in buf[pos:limit], or limit. There is none before from.
func (r *Reader) seek(c byte, from, limit int) int {
	from = max(from, r.pos)
	if from >= limit {
		return from
	}
	if n := bytes.IndexByte(r.buf[from:limit], c); n >= 0 {
		return from + n
	}
	return limit
}

// held is the bytes of the event so far, with the LF that another line would add.
func (r *Reader) held() int {
	if r.lines == 0 {
		return 0
	}
	return r.dataEnd - r.dataStart + 1
}

// dataOf is the value of a data line.
func dataOf(line []byte) (value []byte, ok bool) {
	if len(line) < 4 || string(line[:4]) != "data" {
		return nil, false
	}
	line = line[4:]
	switch {
	case len(line) == 0:
		return line, true
	case line[0] != ':':
		return nil, false
	case len(line) > 1 && line[1] == ' ':
		return line[2:], true
	}
	return line[1:], true
}

// add takes a data line's value, which ends at an index of the buffer. The first one stays in place, others move
// up to it over what is read already.
func (r *Reader) add(value []byte, end int) {
	if r.lines == 0 {
		r.dataStart, r.dataEnd = end-len(value), end
	} else {
		r.buf[r.dataEnd] = '\n'
		r.dataEnd += 1 + copy(r.buf[r.dataEnd+1:], value)
	}
	r.lines++
}

// fill reads once, or returns the error that the last read came with.
func (r *Reader) fill() error {
	if r.readErr == nil {
		r.room()
		for range readsMax {
			n, err := r.r.Read(r.buf[r.end:])
			r.end += n
			r.readErr = err
			if n > 0 {
				return nil
			}
			if err != nil {
				break
			}
		}
		if r.readErr == nil {
			return io.ErrNoProgress
		}
	}
	err := r.readErr
	r.readErr = nil
	if err == io.EOF { //nolint:errorlint // the reader's contract is io.EOF itself
		if r.lines > 0 || r.pos < r.end {
			err = io.ErrUnexpectedEOF
		}
		r.err = err
	}
	return err
}

// room makes some at the end of the buffer: for nothing if all is read, else by moving what is left to the front, which
// happens at most once to each byte, else by a larger buffer.
func (r *Reader) room() {
	if r.lines == 0 && r.pos == r.end {
		r.pos, r.end, r.lf, r.cr = 0, 0, 0, 0
		return
	}
	if len(r.buf)-r.end >= len(r.buf)/2 {
		return
	}
	keep := 0
	if r.lines > 0 {
		if r.dataStart > 0 {
			copy(r.buf, r.buf[r.dataStart:r.dataEnd])
		}
		r.dataStart, r.dataEnd = 0, r.dataEnd-r.dataStart
		keep = r.dataEnd
	}
	if shift := r.pos - keep; shift > 0 {
		copy(r.buf[keep:], r.buf[r.pos:r.end])
		r.pos = keep
		r.end -= shift
		r.lf -= shift
		r.cr -= shift
	}
	if len(r.buf)-r.end < len(r.buf)/8 && len(r.buf) < bufferMax {
		larger := make([]byte, min(2*len(r.buf), bufferMax))
		copy(larger, r.buf[:r.end])
		r.buf = larger
	}
}
