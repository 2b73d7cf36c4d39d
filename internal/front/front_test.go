package front

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/internal/daemon"
)

func TestOneWriteAnAnswer(t *testing.T) {
	s := &countingListener{Listener: tcp(t)}
	f := start(t, s, echo)
	c := f.dial(t)
	for _, body := range []string{"a", strings.Repeat("b", 2000), strings.Repeat("c", 3000)} {
		c.send(request(body))
		c.want("front", body)
	}
	if n := s.writes.Load(); n != 3 {
		t.Errorf("%d writes for 3 answers", n)
	}
}

func TestHandOver(t *testing.T) {
	f := start(t, tcp(t), echo)
	c := f.dial(t)
	c.send(request("1") + request("2"))
	c.want("front", "1")
	c.want("front", "2")
	c.send(request("3", "X: y ")) // and from here on it is net/http's
	c.want("net/http", "3")
	c.send(request("4"))
	c.want("net/http", "4")
	c.send("POST " + hot + " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n5\r\n0\r\n\r\n")
	c.want("net/http", "5")
	c.send("BAD\r\n\r\n")
	if resp, _ := c.answer(); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("got %d", resp.StatusCode)
	}
	c.wantEnd()
}

func TestSlowClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, memory(), echo)
		text := request("0123456789")
		c := f.pipe(t)
		for i := range len(text) { // a byte every 2 ms: the head takes longer than headWait
			c.send(text[i : i+1])
			time.Sleep(2 * time.Millisecond)
			if i == 80 {
				break
			}
		}
		c.send(text[81:])
		c.want("front", "0123456789")

		c = f.pipe(t)
		c.send(text[:60])
		time.Sleep(headWait + time.Millisecond)
		c.send(text[60:])
		c.want("net/http", "0123456789")

		c = f.pipe(t)
		for _, b := range text[:len(text)-10] {
			c.send(string(b))
		}
		for i := range 10 { // of the body
			time.Sleep(time.Second)
			c.send(text[len(text)-10+i:][:1])
		}
		c.want("front", "0123456789")
	})
}

func TestTimeouts(t *testing.T) {
	wait := func(c *client) time.Duration {
		from := time.Now()
		_, _ = io.Copy(io.Discard, c.r) // for half a request line net/http has an answer
		return time.Since(from)
	}
	synctest.Test(t, func(t *testing.T) {
		f := start(t, memory(), func(w http.ResponseWriter, r *http.Request) {
			_, err := io.ReadAll(r.Body)
			fmt.Fprint(w, errors.Is(err, os.ErrDeadlineExceeded), " ", r.Context().Err())
		})
		if d := wait(f.pipe(t)); d != 10*time.Second {
			t.Errorf("a client that says nothing is cut after %v, want ReadHeaderTimeout", d)
		}
		c := f.pipe(t)
		c.send(request("1")[:20])
		if d := wait(c); d != headWait+10*time.Second {
			t.Errorf("half a head is cut after %v, want ReadHeaderTimeout beyond headWait", d)
		}
		c = f.pipe(t)
		for range 50 { // keeps it busy beyond IdleTimeout
			c.send(request("1"))
			c.want("front", "false <nil>")
			time.Sleep(5 * time.Second)
		}
		idle := 2 * time.Minute
		if d := wait(c) + 5*time.Second; d < idle || d > idle+idle/idleSlack {
			t.Errorf("idle for %v, want IdleTimeout or little more", d)
		}
		c = f.pipe(t)
		from := time.Now()
		c.send(strings.TrimSuffix(request("12"), "2"))
		resp := c.want("front", "true context canceled")
		if d := time.Since(from); d != 30*time.Second || !resp.Close {
			t.Errorf("half a body is given up after %v, close=%v, want ReadTimeout", d, resp.Close)
		}
		c.wantEnd()
	})
}

func TestNoTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, memory(), echo, func(s *http.Server) { s.ReadHeaderTimeout, s.ReadTimeout, s.IdleTimeout = 0, 0, 0 })
		c := f.pipe(t)
		for range 2 {
			time.Sleep(time.Hour)
			text := request("12")
			c.send(text[:len(text)-1])
			time.Sleep(time.Hour)
			c.send(text[len(text)-1:])
			c.want("front", "12")
		}
	})
}

// TestReadDeadline: a handler can give a body more time, and less.
func TestReadDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, memory(), func(w http.ResponseWriter, r *http.Request) {
			ctl := http.NewResponseController(w)
			first := make([]byte, 1)
			_, _ = io.ReadFull(r.Body, first)
			d := time.Hour
			if first[0] == 'l' {
				d = time.Second
			}
			if err := ctl.SetReadDeadline(time.Now().Add(d)); err != nil {
				t.Error(err)
			}
			_, err := io.ReadAll(r.Body)
			if err := ctl.SetReadDeadline(time.Time{}); err != nil {
				t.Error(err)
			}
			fmt.Fprint(w, errors.Is(err, os.ErrDeadlineExceeded))
		})
		for first, want := range map[string]string{"m": "false", "l": "true"} {
			c := f.pipe(t)
			text := request(first + "23")
			c.send(text[:len(text)-1])
			time.Sleep(40 * time.Second)
			if first == "m" {
				c.send(text[len(text)-1:])
			}
			c.want("front", want)
		}
	})
}

// TestClientGone: the request's context ends within 2*watchAfter, and only then.
func TestClientGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := make(chan time.Duration)
		f := start(t, memory(), func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
			w.(http.Flusher).Flush()
			from := time.Now()
			<-r.Context().Done()
			gone <- time.Since(from)
		})
		for _, after := range []time.Duration{0, watchAfter, time.Minute, time.Hour} {
			c := f.pipe(t)
			c.send(request("x"))
			if _, err := http.ReadResponse(c.r, nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(after)
			_ = c.Close()
			if d := <-gone - after; d > 2*watchAfter {
				t.Errorf("after %v the client's leaving is noticed %v late", after, d)
			}
		}
	})
}

// TestWatchKeepsPipelined: bytes that come while a request is served belong to the next one.
func TestWatchKeepsPipelined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, memory(), func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			time.Sleep(time.Second)
			if err := r.Context().Err(); err != nil {
				t.Errorf("the context ended: %v", err)
			}
			_, _ = w.Write(body)
		})
		c := f.pipe(t)
		c.send(request("1"))
		time.Sleep(500 * time.Millisecond)
		go c.send(request("2") + request("3")) // a pipe takes it only when it is read
		c.want("front", "1")
		c.want("front", "2")
		c.want("front", "3")
		time.Sleep(time.Hour / 60) // the watch did not leave a deadline behind
		c.send(request("4"))
		c.want("front", "4")
	})
}

func TestContextEndsWithRequest(t *testing.T) {
	last := make(chan context.Context, 1)
	f := start(t, tcp(t), func(w http.ResponseWriter, r *http.Request) {
		if err := r.Context().Err(); err != nil {
			t.Error(err)
		}
		last <- r.Context()
	})
	c := f.dial(t)
	for range 3 {
		c.send(request("x"))
		c.want("front", "")
		<-(<-last).Done()
	}
}

func TestEarlyAnswer(t *testing.T) {
	f := start(t, tcp(t), func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Close") != "" {
			w.Header().Set("Connection", "close")
		}
		fmt.Fprint(w, "early")
	})
	for _, c := range []struct {
		body int
		head string
		open bool
	}{
		{1, "X: y", true},
		{unreadMax, "X: y", true},
		{unreadMax + readSize + 1, "X: y", false},
		{8 << 20, "X: y", false},
		{1, "Close: y", false},
		{8 << 20, "Close: y", false},
	} {
		conn := f.dial(t)
		conn.send(request(strings.Repeat("b", c.body), c.head)) // all of it, before it reads
		if resp := conn.want("front", "early"); resp.Close == c.open {
			t.Errorf("%d bytes, %s: close=%v", c.body, c.head, resp.Close)
		}
		if c.open {
			conn.send(request("b"))
			conn.want("front", "early")
		} else {
			conn.wantEnd()
		}
	}
}

// TestRefuseAndDiscard is what the gateway does with a body that is too large.
func TestRefuseAndDiscard(t *testing.T) {
	f := start(t, tcp(t), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		fmt.Fprint(w, "too large")
		ctl := http.NewResponseController(w)
		if err := errors.Join(ctl.Flush(), ctl.SetReadDeadline(time.Now().Add(5*time.Second))); err != nil {
			t.Error(err)
		}
		if n, err := io.Copy(io.Discard, r.Body); n != 4<<20 || err != nil {
			t.Errorf("discarded %d, %v", n, err)
		}
	})
	c := f.dial(t)
	c.send(request(strings.Repeat("b", 4<<20)))
	if resp, body := c.answer(); resp.StatusCode != http.StatusRequestEntityTooLarge || body != "too large" || !resp.Close {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	c.wantEnd()
}

func TestPanic(t *testing.T) {
	f := start(t, tcp(t), func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if string(body) == "abort" {
			panic(http.ErrAbortHandler)
		}
		panic("secret " + string(body))
	})
	c := f.dial(t)
	c.send(request("abort"))
	c.wantEnd()
	if got := f.log.String(); got != "" {
		t.Errorf("logged %q", got)
	}
	c = f.dial(t)
	c.send(request("prompt"))
	c.wantEnd()
	if got := f.log.String(); !strings.Contains(got, "front.TestPanic") || strings.Contains(got, "prompt") || strings.Contains(got, "secret") {
		t.Errorf("logged %q", got)
	}
}

func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, memory(), func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if string(body) == "long" {
				fmt.Fprint(w, "begun")
				w.(http.Flusher).Flush()
				<-r.Context().Done()
				return
			}
			time.Sleep(time.Second)
			_, _ = w.Write(body)
		})
		unused, used, half, runs, long, other := f.pipe(t), f.pipe(t), f.pipe(t), f.pipe(t), f.pipe(t), f.pipe(t)
		used.send(request("x"))
		used.want("front", "x")
		half.send(request("x")[:30])
		runs.send(request("running"))
		long.send(request("long"))
		other.send(request("other", "X: y "))
		synctest.Wait()
		from := time.Now()
		go f.stop()
		for _, c := range []*client{unused, used, half} {
			c.wantEnd()
		}
		if d := time.Since(from); d > 0 {
			t.Errorf("idle connections are closed after %v", d)
		}
		for by, c := range map[string]*client{"front": runs, "net/http": other} {
			if resp := c.want(by, map[string]string{"front": "running", "net/http": "other"}[by]); by == "front" && !resp.Close {
				t.Error("no Connection: close")
			}
			c.wantEnd()
		}
		if _, err := io.ReadAll(long.r); err != nil {
			t.Error(err)
		}
		if d := time.Since(from); d != daemon.Grace {
			t.Errorf("the last one is cut after %v, want Grace", d)
		}
		f.stop()
		if f.err != nil {
			t.Error(f.err)
		}
	})
}

func TestServeErrors(t *testing.T) {
	for _, path := range []string{"", "x", "/a b", "/a?b", "/%41", "*", "http://a/b"} {
		l := memory()
		if err := Serve(t.Context(), Config{Hot: path, Server: &http.Server{}}, l); err == nil {
			t.Errorf("%q is taken for a plain path", path)
		}
		<-l.closed
	}
	broken := errors.New("broken")
	l := &failing{listener: memory(), errs: []error{&net.OpError{Op: "accept", Err: syscall.EMFILE}, broken}}
	f := start(t, l, echo)
	f.pipe(t).wantEnd() // shut down as soon as it is idle
	if f.stop(); !errors.Is(f.err, broken) || !strings.Contains(f.log.String(), "retrying") {
		t.Errorf("got %v, log %q", f.err, f.log)
	}
}

// TestAfterTheHandler: what outlives a request does no harm to the next one.
func TestAfterTheHandler(t *testing.T) {
	type kept struct {
		w http.ResponseWriter
		b io.Reader
	}
	ch := make(chan kept, 2)
	f := start(t, tcp(t), func(w http.ResponseWriter, r *http.Request) {
		ch <- kept{w, r.Body}
		echo(w, r)
	})
	c := f.dial(t)
	c.send(request("1"))
	c.want("front", "1")
	c.send(request("2"))
	c.want("front", "2")
	old := <-ch
	if _, err := old.w.Write([]byte("x")); !errors.Is(err, errFinished) {
		t.Errorf("writing late: %v", err)
	}
	if _, err := old.b.Read(make([]byte, 1)); !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Errorf("reading late: %v", err)
	}
}

func TestWriteErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		results := make(chan error, 1)
		f := start(t, memory(), func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if string(body) != "stall" {
				_, _ = w.Write(body)
				return
			}
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Minute))
			var err error
			for err == nil {
				_, err = w.Write(make([]byte, writeSize))
			}
			if r.Context().Err() == nil {
				t.Error("the context goes on")
			}
			_, again := w.Write([]byte("x"))
			results <- errors.Join(again, http.NewResponseController(w).Flush())
		})
		c := f.pipe(t)
		c.send(request("stall"))
		if err := <-results; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// TestWriteDeadlineIsLifted: it counts for one answer.
func TestWriteDeadlineIsLifted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, memory(), func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("First") != "" {
				_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Second))
			}
			echo(w, r)
		})
		c := f.pipe(t)
		c.send(request("1", "First: y"))
		c.want("front", "1")
		time.Sleep(time.Minute)
		c.send(request("2"))
		c.want("front", "2")
	})
}

func TestClientGoneOverTCP(t *testing.T) {
	gone := make(chan struct{})
	f := start(t, tcp(t), func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		<-r.Context().Done()
		gone <- struct{}{}
	})
	for _, linger := range []int{-1, 0} { // by FIN, and by RST
		c := f.dial(t)
		c.send(request("x"))
		if err := c.Conn.(*net.TCPConn).SetLinger(linger); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		<-gone
	}
}
