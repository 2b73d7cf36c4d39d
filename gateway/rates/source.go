package rates

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	fetchMax     = 10 * time.Second // for an answer with all its redirects, well below a round
	bodyMax      = 64 << 10         // bytes of an answer, unpacked; a ticker has one or two KiB
	headerMax    = 16 << 10         // bytes of its headers
	redirectsMax = 3
	symbolMark   = "{symbol}"
	symbolMax    = 64
	urlMax       = 1024
)

var (
	errRedirects = errors.New("more redirects than are followed")
	errInsecure  = errors.New("a redirect from https to http")
)

// source is a Source that was checked.
type source struct {
	name string
	url  string
	path Path
}

// compile checks a source and fills in its symbol.
func (s Source) compile() (source, error) {
	if s.Name == "" || len(s.Name) > nameMax || strings.Trim(s.Name, "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" {
		return source{}, fmt.Errorf("%w: source name %.80q, want 1 to %d of a-z 0-9 . -", ErrConfig, s.Name, nameMax)
	}
	uses := strings.Contains(s.URL, symbolMark) || strings.Contains(s.Path, symbolMark)
	if uses && s.Symbol == "" || len(s.Symbol) > symbolMax {
		return source{}, fmt.Errorf("%w: source %s: symbol %.80q", ErrConfig, s.Name, s.Symbol)
	}
	path, err := ParsePath(strings.ReplaceAll(s.Path, symbolMark, s.Symbol))
	if err != nil {
		return source{}, fmt.Errorf("source %s: %w", s.Name, err)
	}
	text := strings.ReplaceAll(s.URL, symbolMark, url.QueryEscape(s.Symbol))
	// What is wrong with it is not said: it may hold a key.
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || len(text) > urlMax {
		return source{}, fmt.Errorf("%w: source %s: its URL is none of http or https", ErrConfig, s.Name)
	}
	return source{name: s.Name, url: text, path: path}, nil
}

// newTransport makes connections for few questions to few hosts.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 1, MaxConnsPerHost: 2,
		IdleConnTimeout: 2 * time.Minute, TLSHandshakeTimeout: fetchMax, MaxResponseHeaderBytes: headerMax,
	}
}

// redirect follows few redirects, and none to where others can read and change the answer.
func redirect(to *http.Request, via []*http.Request) error {
	if len(via) > redirectsMax {
		return errRedirects
	}
	if via[0].URL.Scheme == "https" && to.URL.Scheme != "https" {
		return errInsecure
	}
	return nil
}

// ask asks a source for its price, in millionths.
func (f *Feed) ask(ctx context.Context, s source) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchMax)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return 0, errors.New("its URL is not one") // the error has the URL, which may hold a key
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "cocoon")
	answer, err := f.client.Do(request)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err // without the URL
		}
		return 0, err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("status %d", answer.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, bodyMax+1))
	if err != nil {
		return 0, err
	}
	if len(body) > bodyMax {
		return 0, fmt.Errorf("an answer of more than %d bytes", bodyMax)
	}
	return s.path.Price(body)
}
