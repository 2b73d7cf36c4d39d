package sse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// reference splits a whole stream by the letter of the HTML standard, slowly.
func reference(stream string) (events []string, end error) {
	var data []string
	size := 0
	stream, bom := strings.CutPrefix(stream, "\ufeff")
	if bom && stream == "" {
		return nil, io.ErrUnexpectedEOF
	}
	for first := true; stream != ""; first = false {
		i := strings.IndexAny(stream, "\r\n")
		line := stream
		if i >= 0 {
			line = stream[:i]
		}
		counted := len(line)
		if first && bom {
			counted += 3
		}
		if held := size + len(data); counted > 0 && held+counted > LineMax {
			return events, ErrTooLong
		}
		if i < 0 {
			return events, io.ErrUnexpectedEOF
		}
		after := 1
		if strings.HasPrefix(stream[i:], "\r\n") {
			after = 2
		}
		stream = stream[i+after:]
		if line == "" {
			if data != nil {
				events = append(events, strings.Join(data, "\n"))
			}
			data, size = nil, 0
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		if name == "data" {
			value = strings.TrimPrefix(value, " ")
			data = append(data, value)
			size += len(value)
		}
	}
	if data != nil {
		return events, io.ErrUnexpectedEOF
	}
	return events, io.EOF
}

// collect reads all events, going on after timeouts, and checks Buffered along the way.
func collect(t testing.TB, src io.Reader, buf []byte) (events []string, end error) {
	t.Helper()
	counted := &counting{r: src}
	r := NewReader(counted, buf)
	for {
		reads := counted.n
		buffered := r.Buffered()
		event, err := r.Next()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if buffered {
				t.Fatal("Buffered is true, but Next reads")
			}
			continue
		case err != nil:
			if buffered {
				t.Fatalf("Buffered is true, but Next fails with %v", err)
			}
			if _, again := r.Next(); !errors.Is(again, err) {
				t.Fatalf("Next after its end is %v, was %v", again, err)
			}
			return events, err
		}
		if event == nil {
			t.Fatal("Next returns nil for an event")
		}
		if buffered != (counted.n == reads) {
			t.Fatalf("Buffered is %v, but Next reads %d times", buffered, counted.n-reads)
		}
		before := string(event)
		r.Buffered()
		if string(event) != before {
			t.Fatal("Buffered changes the event returned before")
		}
		events = append(events, before)
	}
}

type counting struct {
	r io.Reader
	n int
}

func (c *counting) Read(p []byte) (int, error) {
	c.n++
	return c.r.Read(p)
}

// cutter reads pieces of random sizes, with timeouts between and within, and empty reads.
type cutter struct {
	rest string
	most int
	rand *rand.Rand
}

func (c *cutter) Read(p []byte) (int, error) {
	n := copy(p, c.rest[:min(len(c.rest), 1+c.rand.IntN(c.most))])
	switch c.rand.IntN(6) {
	case 0:
		return 0, nil
	case 1:
		return 0, fmt.Errorf("reading: %w", os.ErrDeadlineExceeded)
	case 2:
		c.rest = c.rest[n:]
		return n, os.ErrDeadlineExceeded
	}
	c.rest = c.rest[n:]
	if c.rest == "" && (n == 0 || c.rand.IntN(2) == 0) {
		return n, io.EOF
	}
	return n, nil
}

// checkCuts checks a stream in many cuts against the reference.
func checkCuts(t testing.TB, stream string, seed uint64) {
	t.Helper()
	want, wantEnd := reference(stream)
	rng := rand.New(rand.NewPCG(seed, 1))
	for name, src := range map[string]io.Reader{
		"whole":    strings.NewReader(stream),
		"one byte": iotest.OneByteReader(strings.NewReader(stream)),
		"half":     iotest.HalfReader(strings.NewReader(stream)),
		"data err": iotest.DataErrReader(strings.NewReader(stream)),
		"few":      &cutter{stream, 4, rng},
		"many":     &cutter{stream, 700, rng},
	} {
		got, end := collect(t, src, nil)
		if diff := cmp.Diff(want, got); diff != "" || !errors.Is(end, wantEnd) {
			t.Errorf("%s: ended by %v, want %v; events (-want +got):\n%s", name, end, wantEnd, diff)
		}
	}
}

func TestNext(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for _, tc := range []struct {
		name, stream string
		want         []string
		end          error
	}{
		{"empty", "", nil, io.EOF},
		{"one", "data: {}\n\n", []string{"{}"}, io.EOF},
		{"no space", "data:a\n\ndata:  b\n\n", []string{"a", " b"}, io.EOF},
		{"CRLF", "data: a\r\n\r\ndata: b\r\n\r\n", []string{"a", "b"}, io.EOF},
		{"CR", "data: a\r\rdata: b\r\r", []string{"a", "b"}, io.EOF},
		{"mixed", "data: a\r\n\ndata: b\n\r\ndata: c\r\n\rdata: d\n\r", []string{"a", "b", "c", "d"}, io.EOF},
		{"many lines", "data: a\ndata: b\ndata\ndata: \ndata:c\n\n", []string{"a\nb\n\n\nc"}, io.EOF},
		{"empty data", "data:\n\ndata\n\ndata: \n\n", []string{"", "", ""}, io.EOF},
		{"comments", ": ping\n\n:\n\n: x\ndata: a\n: y\n\n: z\n", []string{"a"}, io.EOF},
		{
			"fields",
			"event: e\nid: 1\ndata: a\nretry: 5\nfoo\ndata2: no\n data: no\nDATA: no\ndata : no\ndat: no\n\n",
			[]string{"a"},
			io.EOF,
		},
		{"fields only", "event: e\nid: 1\n\n", nil, io.EOF},
		{"blank lines", "\n\n\r\n\rdata: a\n\n\n\n\n", []string{"a"}, io.EOF},
		{"mark", "\ufeffdata: a\n\n", []string{"a"}, io.EOF},
		{"mark twice", "\ufeff\ufeffdata: a\n\n", nil, io.EOF},
		{"mark later", "data: a\n\n\ufeffdata: b\n\n", []string{"a"}, io.EOF},
		{"mark on a blank line", "\ufeff\ndata: a\n\n", []string{"a"}, io.EOF},
		{"split UTF-8", "data: 日本語🙂\n\n", []string{"日本語🙂"}, io.EOF},
		{"not UTF-8", "data: \xff\x00\xfe\n\n", []string{"\xff\x00\xfe"}, io.EOF},
		{"no blank line", "data: a\n\ndata: [DONE]\n", []string{"a"}, io.ErrUnexpectedEOF},
		{"no line end", "data: a\n\ndata: [DO", []string{"a"}, io.ErrUnexpectedEOF},
		{"cut in a field", "data: a\n\nda", []string{"a"}, io.ErrUnexpectedEOF},
		{"CR at the end", "data: a\r\n\r", []string{"a"}, io.EOF},
		{
			"long", "data: " + long + "\n\ndata: " + long + "\ndata: " + long + "\n\n",
			[]string{long, long + "\n" + long},
			io.EOF,
		},
		{"long comment", ":" + long + "\ndata: a\n:" + long + "\ndata: b\n\n", []string{"a\nb"}, io.EOF},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, end := reference(tc.stream)
			if diff := cmp.Diff(tc.want, got); diff != "" || !errors.Is(end, tc.end) {
				t.Errorf("reference ended by %v, want %v; events (-want +got):\n%s", end, tc.end, diff)
			}
			for seed := range uint64(20) {
				checkCuts(t, tc.stream, seed)
			}
		})
	}
}

func TestRandomStreams(t *testing.T) {
	pieces := []string{
		"data", ":", " ", "\n", "\r", "\r\n", "\n\n", "data: {\"a\":1}\n\n", ": ping\n", "id: 7\n", "\ufeff", "é", "x",
		"data: " + strings.Repeat("y", 300), strings.Repeat("data:\n", 200),
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for seed := range uint64(300) {
		var stream strings.Builder
		for range 1 + rng.IntN(60) {
			stream.WriteString(pieces[rng.IntN(len(pieces))])
		}
		checkCuts(t, stream.String(), seed)
		if t.Failed() {
			t.Fatalf("stream was %q", stream.String())
		}
	}
}

// TestLineMax: the limit is exact, whatever the reads and however the event is made up.
func TestLineMax(t *testing.T) {
	fill := func(n int) string { return strings.Repeat("x", n) }
	for _, tc := range []struct {
		name, stream string
		sizes        []int
		end          error
	}{
		{"one line", "data:" + fill(LineMax-5) + "\r\n\r\ndata: b\n\n", []int{LineMax - 5, 1}, io.EOF},
		{"one line over", "data: a\n\ndata:" + fill(LineMax-4) + "\n\n", []int{1}, ErrTooLong},
		{"comment", ":" + fill(LineMax-1) + "\ndata: a\n\n", []int{1}, io.EOF},
		{"comment over", ":" + fill(LineMax) + "\ndata: a\n\n", nil, ErrTooLong},
		{"no line end", fill(LineMax), nil, io.ErrUnexpectedEOF},
		{"no line end over", fill(LineMax + 1), nil, ErrTooLong},
		{"two lines", "data:" + fill(LineMax/2) + "\ndata:" + fill(LineMax/2-6) + "\n\n", []int{LineMax - 5}, io.EOF},
		{"two lines over", "data:" + fill(LineMax/2) + "\ndata:" + fill(LineMax/2-5) + "\n\n", nil, ErrTooLong},
		{"comments add nothing", strings.Repeat("data: a\n:"+fill(LineMax/4)+"\n", 10) + "\n", []int{19}, io.EOF},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ref, refEnd := reference(tc.stream)
			if !errors.Is(refEnd, tc.end) {
				t.Errorf("reference ended by %v, want %v", refEnd, tc.end)
			}
			for _, most := range []int{1 << 30, 100_003} {
				src := &cutter{tc.stream, most, rand.New(rand.NewPCG(uint64(most), 1))}
				got, end := collect(t, src, make([]byte, 4096))
				var sizes []int
				for _, event := range got {
					sizes = append(sizes, len(event))
				}
				if diff := cmp.Diff(tc.sizes, sizes); diff != "" || !errors.Is(end, tc.end) {
					t.Errorf("cut by %d: ended by %v, want %v; sizes (-want +got):\n%s", most, end, tc.end, diff)
				}
				for i := range got {
					if i < len(ref) && got[i] != ref[i] {
						t.Errorf("cut by %d: event %d is not the reference's", most, i)
					}
				}
			}
		})
	}
}

// TestBufferStaysSmall: memory follows the largest event, not the stream.
func TestBufferStaysSmall(t *testing.T) {
	event := "data: " + strings.Repeat("x", 3000) + "\n\n"
	for name, stream := range map[string]string{
		"events":   strings.Repeat(event, 500),
		"comments": strings.Repeat(": ping\n", 100_000) + event,
		"in event": "data: a\n" + strings.Repeat(": ping\n", 100_000) + "data: b\n\n",
	} {
		r := NewReader(&cutter{stream, 2000, rand.New(rand.NewPCG(1, 1))}, make([]byte, 0, 4096))
		for {
			if _, err := r.Next(); err == io.EOF {
				break
			} else if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if got := len(r.Buffer()); got > 8192 {
			t.Errorf("%s: buffer grew to %d bytes", name, got)
		}
	}
}

func TestBuffer(t *testing.T) {
	buf := make([]byte, 100, 1024)
	r := NewReader(strings.NewReader("data: a\n\n"), buf)
	event, err := r.Next()
	if err != nil || string(event) != "a" {
		t.Fatalf("Next = %q, %v", event, err)
	}
	if got := r.Buffer(); len(got) != 1024 || &got[0] != &buf[0] {
		t.Errorf("Buffer is not the one given, at its capacity: %d bytes", len(got))
	}
	if _, err := r.Next(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("Next of a dead reader = %v", err)
	}
	if r.Buffered() || r.Buffer() != nil {
		t.Error("a dead reader has something")
	}
	if got := NewReader(strings.NewReader(""), make([]byte, 10)).Buffer(); len(got) < bufferMin {
		t.Errorf("a buffer of %d bytes is used", len(got))
	}
}

// TestNoCopy: the common event is a slice of the buffer, and reading it allocates nothing.
func TestNoCopy(t *testing.T) {
	buf := make([]byte, 4096)
	r := NewReader(strings.NewReader("data: abc\n\n"), buf)
	event, err := r.Next()
	if err != nil || &event[0] != &buf[6] {
		t.Fatalf("Next = %q, %v, not in the buffer", event, err)
	}
	loop := &endless{text: []byte("data: {\"choices\":[]}\n\n: ping\n")}
	r = NewReader(loop, buf)
	if n := testing.AllocsPerRun(1000, func() { _, err = r.Next() }); n != 0 || err != nil {
		t.Errorf("Next allocates %v times, error %v", n, err)
	}
}

// endless repeats a text.
type endless struct {
	text []byte
	at   int
}

func (e *endless) Read(p []byte) (n int, err error) {
	for n < len(p) {
		c := copy(p[n:], e.text[e.at:])
		n += c
		e.at = (e.at + c) % len(e.text)
	}
	return n, nil
}

func TestOtherErrorsPass(t *testing.T) {
	broken := errors.New("broken")
	r := NewReader(io.MultiReader(strings.NewReader("data: a\n\ndata: b"), iotest.ErrReader(broken)), nil)
	if event, err := r.Next(); string(event) != "a" || err != nil {
		t.Fatalf("Next = %q, %v", event, err)
	}
	for range 2 {
		if _, err := r.Next(); err != broken {
			t.Errorf("Next = %v, want the reader's error", err)
		}
	}
	stuck := NewReader(readFunc(func([]byte) (int, error) { return 0, nil }), nil)
	if _, err := stuck.Next(); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("Next of a stuck reader = %v", err)
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// TestDeadline: a real connection's timeout in the middle of an event loses nothing.
func TestDeadline(t *testing.T) { synctest.Test(t, testDeadline) }

func testDeadline(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	r := NewReader(here, nil)
	write := func(s string) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := io.WriteString(there, s)
			done <- err
		}()
		return done
	}
	timeout := func() {
		t.Helper()
		if err := here.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if event, err := r.Next(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Next = %q, %v, want a timeout", event, err)
		}
		if err := here.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	timeout()
	// The pipe hands over each write whole before it ends, the reader reads all of it.
	first := write("data: one\ndata: t")
	go func() {
		<-first
		_ = here.SetReadDeadline(time.Now())
	}()
	if event, err := r.Next(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Next = %q, %v, want a timeout", event, err)
	}
	timeout()
	second := write("wo\n\n")
	if event, err := r.Next(); err != nil || string(event) != "one\ntwo" {
		t.Fatalf("Next = %q, %v", event, err)
	}
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	there.Close()
	if _, err := r.Next(); err != io.EOF {
		t.Fatalf("Next at the end = %v", err)
	}
}

// TestLinear: streams made to be slow are read in one go over their bytes. It has no clock: the test's own time limit
// would end a quadratic reader, at 2 MiB of line ends.
func TestLinear(t *testing.T) {
	const size = 2 << 20
	for name, stream := range map[string]string{
		"CR":         strings.Repeat("\r", size),
		"CR data":    strings.Repeat("data:\r", size/6) + "\r",
		"data":       strings.Repeat("data:\n", size/6) + "\n",
		"CR then LF": strings.Repeat("x\r", size/2) + "\n",
		"comments":   strings.Repeat(":\n", size/2),
	} {
		if _, err := collect(t, strings.NewReader(stream), make([]byte, size)); err != io.EOF {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReader(f *testing.F) {
	for _, s := range []string{
		"data: {\"a\":1}\n\ndata: [DONE]\n\n", "data: a\r\n\r\n: c\r\n\r\n",
		"\ufeffdata\rdata:b\r\r", "id:1\nevent: x\ndata:y\n\nda",
		"data: a\ndata: b\ndata:\n\n", "\xef\xbb", "\r\r\n\n\rdata:\r", strings.Repeat("data: 0123456789\n", 60) + "\n",
	} {
		f.Add(s, uint64(1))
	}
	f.Fuzz(func(t *testing.T, stream string, seed uint64) { checkCuts(t, stream, seed) })
}

func BenchmarkReader(b *testing.B) {
	const chunk = `{"id":"chatcmpl-123","object":"chat.completion.chunk","created":1694268190,"model":"gpt-4o-mini",` +
		`"system_fingerprint":"fp_44709d6fcb","choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":null,` +
		`"finish_reason":null}]}`
	for _, bc := range []struct{ name, event string }{
		{"chunk", "data: " + chunk + "\n\n"},
		{"CRLF", "data: " + chunk + "\r\n\r\n"},
		{"lines", "event: x\nid: 1\ndata: " + chunk[:100] + "\ndata: " + chunk[100:] + "\n\n"},
		{"64KiB", "data: " + strings.Repeat("x", 64<<10) + "\n\n"},
	} {
		b.Run(bc.name, func(b *testing.B) {
			r := NewReader(&endless{text: bytes.Repeat([]byte(bc.event), 100)}, make([]byte, 16<<10))
			b.SetBytes(int64(len(bc.event)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Next(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
