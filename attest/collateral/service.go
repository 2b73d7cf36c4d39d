package collateral

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits on a service's answers, bytes: several times what the vendors send.
const (
	keyMax      = 16 << 10  // a VCEK has 1.4 KB
	certsMax    = 64 << 10  // two certificates as PEM, 5 KB
	amdCRLMax   = 256 << 10 // 1 KB
	intelMax    = 1 << 20   // TCB info has 20 KB
	intelCRLMax = 2 << 20   // the processor CA's list has 0.2 MB
	rimMax      = 256 << 10 // 26 KB, twice base64
	headersMax  = 64 << 10  // the issuer chains are in Intel's
)

// Limits on time.
const (
	requestMax = 10 * time.Second // AMD's service may take several
	// After a failure nobody asks again for a while that doubles up to a limit.
	backoffMin = 15 * time.Second
	backoffMax = 5 * time.Minute
)

// Limits on questions. They bound what a peer with invented evidence makes us ask, and keep vendors from refusing us.
const (
	questionsPerSecond = 10
	questionsBurst     = 200 // a fleet's first attestations: a machine of 8 GPUs takes 30
	kdsPerSecond       = 2   // AMD's answers 429 soon, and anyone can invent a chip
	kdsBurst           = 20
	atOnce             = 8
)

// MissingError says what can't be had, and why.
type MissingError struct {
	Item  string    // what is missing
	Since time.Time // when getting it failed first; zero if nobody was asked
	Retry time.Time // when it will be tried again, at the earliest
	Err   error
}

// Error is one line.
func (e *MissingError) Error() string {
	text := "no " + e.Item + ": " + e.Err.Error()
	if !e.Since.IsZero() {
		text += fmt.Sprintf(" (since %s, next try from %s)", stamp(e.Since), stamp(e.Retry))
	}
	return text
}

// Unwrap returns the cause.
func (e *MissingError) Unwrap() error { return e.Err }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// trouble is a row of failures.
type trouble struct {
	want  *want // of an item; nil of a service
	since time.Time
	until time.Time // nobody asks again before
	n     int
	err   error
}

// fail notes one more, and keeps quiet for at least a while.
func (t *trouble) fail(now time.Time, err error, quiet time.Duration) {
	if t.n == 0 {
		t.since = now
	}
	wait := min(backoffMin<<min(t.n, 8), backoffMax)
	t.n++
	t.err, t.until = err, now.Add(max(wait, min(quiet, backoffMax)))
}

// blocked tells whether it is too early to ask again. A clock that was set back doesn't count as early.
func (t *trouble) blocked(now time.Time) bool {
	return t.n > 0 && now.Before(t.until) && !now.Before(t.since)
}

// service is one of the vendors', or a stand-in.
type service struct {
	name   string
	base   string // without a slash at the end; "" if it is off
	host   string
	vendor bool // it is the vendor's own
	client *http.Client
	rate   *rate.Limiter
	slots  chan struct{}

	mu      sync.Mutex
	trouble trouble // it is out of reach, or sends us away
}

// services are all that there are.
type services struct{ kds, pcs, intelCRL, rim, ocsp *service }

func (s *services) set(c Config) error {
	client := newClient(c.Client)
	pccs := c.PCS != "" && c.PCS != Off && c.PCS != VendorPCS && c.IntelCRL == ""
	var errs []error
	for _, x := range []struct {
		to                **service
		name, url, vendor string
		perSecond, burst  int
	}{
		{&s.kds, "AMD's key distribution service", c.KDS, VendorKDS, kdsPerSecond, kdsBurst},
		{&s.pcs, "Intel's PCS", c.PCS, VendorPCS, questionsPerSecond, questionsBurst},
		{&s.intelCRL, "Intel's root CRL", c.IntelCRL, VendorIntelCRL, questionsPerSecond, questionsBurst},
		{&s.rim, "NVIDIA's RIM service", c.RIM, VendorRIM, questionsPerSecond, questionsBurst},
		{&s.ocsp, "NVIDIA's OCSP service", c.OCSP, VendorOCSP, questionsPerSecond, questionsBurst},
	} {
		v := &service{
			name: x.name, client: client, rate: rate.NewLimiter(rate.Limit(x.perSecond), x.burst),
			slots: make(chan struct{}, atOnce),
		}
		*x.to = v
		if x.url == "" {
			x.url = x.vendor
		}
		v.vendor = x.url == x.vendor
		if x.url == Off {
			continue
		}
		if err := v.setBase(x.url); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", x.name, err))
		}
	}
	if pccs {
		s.intelCRL = nil // a PCCS has the list too
	}
	return errors.Join(errs...)
}

// setBase takes a URL. Without TLS is good enough: all answers are signed.
func (v *service) setBase(base string) error {
	u, err := url.Parse(base)
	if err != nil {
		return err
	}
	more := u.User != nil || u.RawQuery != "" || u.Fragment != ""
	if (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || more {
		return fmt.Errorf("%q is not an http(s) URL of a host and perhaps a path", base)
	}
	v.base, v.host = strings.TrimSuffix(base, "/"), u.Host
	return nil
}

// newClient returns a client that follows no redirect.
func newClient(given *http.Client) *http.Client {
	c := http.Client{}
	if given != nil {
		c = *given
	} else {
		c.Transport = &http.Transport{
			DialContext:            (&net.Dialer{Timeout: requestMax / 2}).DialContext,
			TLSHandshakeTimeout:    requestMax / 2,
			ForceAttemptHTTP2:      true,
			MaxResponseHeaderBytes: headersMax,
			DisableCompression:     true, // so that a limit is a limit
			IdleConnTimeout:        30 * time.Second,
		}
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

// question is one request.
type question struct {
	path  string // with its query
	body  []byte // not nil: an OCSP request to post
	limit int64  // on the answer, bytes
}

// ask puts a question. Its errors name service and host.
func (v *service) ask(ctx context.Context, q question, now time.Time) ([]byte, http.Header, error) {
	body, header, err := v.try(ctx, q, now)
	if err != nil {
		return nil, nil, fmt.Errorf("%s (%s): %w", v.name, v.host, err)
	}
	return body, header, nil
}

func (v *service) try(ctx context.Context, q question, now time.Time) ([]byte, http.Header, error) {
	if v.base == "" {
		return nil, nil, errors.New("it is switched off")
	}
	if err := v.down(now); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestMax)
	defer cancel()
	select {
	case v.slots <- struct{}{}:
		defer func() { <-v.slots }()
	case <-ctx.Done():
		return nil, nil, errors.New("too many questions at once")
	}
	if err := v.rate.Wait(ctx); err != nil {
		return nil, nil, errors.New("too many questions in a short time")
	}
	answer, err := v.send(ctx, q)
	if err != nil {
		v.note(now, err, 0)
		return nil, nil, err
	}
	defer answer.Body.Close() //nolint:errcheck // it was read, or is of no use
	if answer.StatusCode != http.StatusOK {
		err := fmt.Errorf("HTTP status %d", answer.StatusCode)
		// Statuses of 500 may be about one question; these two are about us.
		if answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode == http.StatusServiceUnavailable {
			seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After")) // or a date: then our own waiting must do
			v.note(now, err, time.Duration(min(max(seconds, 0), 3600))*time.Second)
		} else {
			v.note(now, nil, 0)
		}
		return nil, nil, err
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, q.limit+1))
	if err != nil {
		err = fmt.Errorf("reading the answer: %w", err)
		v.note(now, err, 0)
		return nil, nil, err
	}
	v.note(now, nil, 0)
	if int64(len(body)) > q.limit {
		return nil, nil, fmt.Errorf("an answer of more than %d bytes", q.limit)
	}
	return body, answer.Header, nil
}

func (v *service) send(ctx context.Context, q question) (*http.Response, error) {
	method := http.MethodGet
	if q.body != nil {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(ctx, method, v.base+q.path, bytes.NewReader(q.body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("User-Agent", "cocoon")
	if q.body != nil {
		r.Header.Set("Content-Type", "application/ocsp-request")
	}
	answer, err := v.client.Do(r)
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // the rest of it is the URL, which is long
	}
	return answer, err
}

// downError is why a service isn't asked after an outage.
type downError struct{ trouble trouble }

func (e *downError) Error() string { return "out of reach: " + e.trouble.err.Error() }

// down says why it's too early to ask again.
func (v *service) down(now time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.trouble.blocked(now) {
		return nil
	}
	return &downError{v.trouble}
}

// note keeps in mind whether the service works.
func (v *service) note(now time.Time, err error, quiet time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err == nil {
		v.trouble = trouble{}
		return
	}
	v.trouble.fail(now, err, quiet)
}
