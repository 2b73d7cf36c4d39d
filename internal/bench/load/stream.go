//go:build linux

package load

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"cocoon/internal/bench/mock"
)

// openingMax is how many streams may wait for their first chunk at once; more are put off. A slow machine then takes
// longer to open thousands, where a pace of its own would drown in handshakes.
const openingMax = 32

// streams is the modes Streams and Hold.
func (g *generator) streams(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hold := &holding{}
	hold.left.Store(int64(g.Conns))
	if g.Mode == Hold {
		hold.done = g.Holding
		released := make(chan struct{})
		defer func() { <-released }()
		defer cancel()
		go func() {
			defer close(released)
			select {
			case <-g.Release:
				hold.over.Store(true)
				cancel() // cuts every stream
			case <-ctx.Done():
			}
		}()
	}
	opening := make(chan struct{}, openingMax)
	g.started()
	var all sync.WaitGroup
	for i := range g.Conns {
		all.Go(func() {
			offset := time.Duration(float64(g.Ramp) * float64(i) / float64(g.Conns))
			select {
			case <-time.After(time.Until(g.start.Add(offset))):
			case <-ctx.Done():
				return
			}
			select {
			case opening <- struct{}{}:
			case <-ctx.Done():
				return
			}
			first := sync.OnceFunc(func() {
				<-opening
				hold.one()
			})
			err := g.stream(ctx, first)
			first() // lost before its first chunk: nobody need wait for it
			switch {
			case hold.over.Load():
				if err != nil {
					g.held.Add(1)
				}
			case err != nil:
				g.failed(err)
			case g.Mode == Hold:
				g.failed(wrong("a stream ended by itself that was to be held"))
			}
		})
	}
	all.Wait()
	if hold.over.Load() {
		return nil
	}
	return ctx.Err()
}

// holding counts the streams that Hold still waits for.
type holding struct {
	left atomic.Int64
	done func()
	over atomic.Bool // the streams were told to end
}

func (h *holding) one() {
	if h.left.Add(-1) == 0 && h.done != nil {
		h.done()
	}
}

// stream reads one stream and checks it; first is called at its first chunk.
func (g *generator) stream(ctx context.Context, first func()) error {
	k, err := dial(ctx, g.Address, g.deadline)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, k.close)()
	defer k.close()
	sent := time.Now()
	if err := k.send(g.request); err != nil {
		return err
	}
	h, err := k.readHead()
	if err != nil {
		return err
	}
	if h.status != 200 || !h.events {
		body, err := k.whole(nil, lineMax)
		if err != nil {
			return err
		}
		return wrong("status %d instead of a stream: %.200q", h.status, body)
	}
	s := scanner{delay: func(stamp int64) {
		now := time.Now()
		g.delay.Add(time.Duration(now.UnixNano() - stamp))
		if g.chunks.Add(1); first != nil {
			g.latency.Add(now.Sub(sent))
			first()
			first = nil
		}
	}}
	for {
		p, err := k.piece()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := s.feed(p); err != nil {
			return err
		}
	}
	g.comments.Add(s.comments)
	if err := s.end(g.Chunks); err != nil {
		return err
	}
	g.requests.Add(1)
	g.done(time.Now())
	return nil
}

// scanner checks the mock's stream as it came through a peer.
type scanner struct {
	delay    func(stamp int64) // called with the time in each content chunk
	part     []byte            // of a line
	chunks   int
	finished int
	usages   int
	comments int64
	done     bool  // [DONE] was there
	stamp    int64 // of the last chunk
}

// feed takes the next bytes of the body.
func (s *scanner) feed(p []byte) error {
	for {
		line, rest, whole := bytes.Cut(p, []byte("\n"))
		if !whole || len(s.part) > 0 {
			if s.part = append(s.part, line...); len(s.part) > lineMax {
				return wrong("an event of more than %d bytes", lineMax)
			}
			line = s.part
		}
		if !whole {
			return nil
		}
		if err := s.line(bytes.TrimSuffix(line, []byte("\r"))); err != nil {
			return err
		}
		s.part, p = s.part[:0], rest
	}
}

func (s *scanner) line(line []byte) error {
	if len(line) == 0 {
		return nil
	}
	if line[0] == ':' {
		s.comments++
		return nil
	}
	data, ok := bytes.CutPrefix(line, []byte("data: "))
	if !ok || s.done {
		return wrong("in a stream after %d chunks: %.200q", s.chunks, line)
	}
	if at := bytes.IndexByte(data, '@'); at >= 0 && len(data) > at+mock.StampDigits {
		stamp, err := strconv.ParseInt(string(data[at+1:at+1+mock.StampDigits]), 10, 64)
		if err != nil || stamp < s.stamp || s.finished > 0 {
			return wrong("a chunk out of order after %d: %.200q", s.chunks, data)
		}
		s.stamp = stamp
		s.chunks++
		s.delay(stamp)
		return nil
	}
	switch {
	case bytes.Equal(data, []byte("[DONE]")):
		s.done = true
	case bytes.Contains(data, []byte(`"finish_reason":"stop"`)):
		s.finished++
	case bytes.Contains(data, []byte(`"usage":{`)):
		s.usages++
	default:
		return wrong("in a stream after %d chunks: %.200q", s.chunks, data)
	}
	return nil
}

// end checks a stream that came to its end. The load never asks for usage, so none may have come.
func (s *scanner) end(chunks int) error {
	if s.chunks != chunks || s.finished != 1 || s.usages != 0 || !s.done || len(s.part) > 0 {
		return wrong("a stream of %d chunks instead of %d, %d finishes, %d usages, [DONE] %t, %d bytes after it",
			s.chunks, chunks, s.finished, s.usages, s.done, len(s.part))
	}
	return nil
}
