package rates

import (
	"compress/gzip"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// redirects never ends, with what it was asked in it.
func redirects(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, r.URL.String()+"0", http.StatusFound)
}

func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(s)) }
}

// hostile are answers of which none is a price.
func hostile() map[string]http.HandlerFunc {
	all := map[string]http.HandlerFunc{
		"redirects": redirects,
		"huge": func(w http.ResponseWriter, _ *http.Request) {
			part := []byte(strings.Repeat(" ", 1<<16))
			for range 1 << 10 {
				if _, err := w.Write(part); err != nil {
					return
				}
			}
		},
		"bomb": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			for range 100 {
				_, _ = z.Write(make([]byte, 1<<16))
			}
			_ = z.Close()
		},
		"huge headers": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) },
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			text(`{"data":`)(w, nil)
		},
		"hangs up":   func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"no content": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"created": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusCreated)
			text(`{"data":[{"last":3}]}`)(w, nil)
		},
	}
	for name, body := range map[string]string{
		"HTML": "<html>3.01</html>", "empty": "", "null": "null", "a number": "3", "no list": `{"data":{"last":3}}`, "empty list": `{"data":[]}`,
		"no member": `{"data":[{"Last":3}]}`, "two values": `{"data":[{"last":3}]} {}`, "deep": strings.Repeat("[", 60_000),
		"deep objects": strings.Repeat(`{"a":`, 12_000), "not UTF-8": "{\"data\":[{\"last\":\"\xff\"}]}",
	} {
		all[name] = text(body)
	}
	for _, price := range []string{
		`NaN`, `"NaN"`, `"Infinity"`, `-3`, `"-3"`, `1e400`, `"1e400"`, `"1e-400"`, `0`, `"0"`, `""`, `" 3"`, `"+3"`, `"0x3"`, `"3,01"`,
		`"03"`, `"1_0"`, `true`, `[3]`, `{"a":3}`, `null`, `100001`, `0.00009`, `"3e999999999999999999999"`, `"3.` + strings.Repeat("0", 100) + `"`,
	} {
		all[price] = text(`{"data":[{"last":` + price + `}]}`)
	}
	return all
}

// No answer of a source is more than no answer: the others make the rate.
func TestHostile(t *testing.T) {
	m := newMarket(t, 4)
	m.says("3", "3.01", "3.02")
	for name, handler := range hostile() {
		m.exchanges[3].does(handler)
		m.now = m.now.Add(DefaultMaxAge)
		m.round()
		m.want(3_010_000, false)
		if why := m.f.Failing(); len(why) != 1 || why["x3"] == "" || len(why["x3"]) > 300 {
			t.Errorf("%s: %v", name, why)
		}
	}
	m.exchanges[3].does(text(`{"data":[{"last":3.01}]}`))
	m.round()
	if why := m.f.Failing(); len(why) != 0 {
		t.Errorf("%v", why)
	}
}

// A source that answers too slowly is not waited for.
func TestSlow(t *testing.T) {
	m := newMarket(t, 4)
	m.says("3", "3.01", "3.02")
	m.f.client.Timeout = 50 * time.Millisecond
	m.exchanges[3].does(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			_, _ = w.Write([]byte(" "))
			w.(http.Flusher).Flush()
			time.Sleep(time.Millisecond)
		}
	})
	m.round()
	m.want(3_010_000, false)
	if why := m.f.Failing(); len(why) != 1 {
		t.Errorf("%v", why)
	}
}

// A redirect is followed, but not from where nobody listens to where others may.
func TestRedirect(t *testing.T) {
	m := newMarket(t, 1)
	m.says("3")
	m.exchanges[0].does(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/there" {
			http.Redirect(w, r, "/there", http.StatusMovedPermanently)
			return
		}
		text(`{"data":[{"last":3}]}`)(w, r)
	})
	m.round()
	m.want(3_000_000, false)

	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, m.exchanges[0].url, http.StatusFound)
	}))
	defer secure.Close()
	m.c.Sources[0].URL, m.c.Transport = secure.URL, secure.Client().Transport
	m.open()
	m.round()
	if why := m.f.Failing(); why["x0"] != errInsecure.Error() {
		t.Errorf("%v", why)
	}
}
