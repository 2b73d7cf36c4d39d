//go:build linux

package main

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

const (
	proxyBuf      = 32 << 10 // what ReverseProxy takes by itself
	proxyIdleMax  = 20_000   // idle upstream connections: never closes one that the load would use again
	proxyIdleTime = 90 * time.Second
)

// proxyMain is the peer that targets are set against: Go's own reverse proxy that copies and does nothing else, with
// the pool of buffers and the pool of connections that its users give it.
func proxyMain(ctx context.Context, args []string, stderr io.Writer) error {
	f := flags(roleProxy, stderr)
	listen := f.String("listen", "127.0.0.1:8001", "address")
	upstream := f.String("upstream", "http://127.0.0.1:9000", "where requests go")
	if err := f.Parse(args); err != nil {
		return err
	}
	to, err := url.Parse(*upstream)
	if err != nil {
		return err
	}
	quiet := log.New(io.Discard, "", 0)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = to.Host
		},
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			MaxIdleConnsPerHost: proxyIdleMax,
			IdleConnTimeout:     proxyIdleTime,
			DisableCompression:  true,
		},
		BufferPool:    &bufferPool{},
		FlushInterval: -1,
		ErrorLog:      quiet,
	}
	srv := &http.Server{
		Addr: *listen, ErrorLog: quiet, ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			// Without it some streams are cut: when the engine answers before the transport has seen the end of the
			// request's body, the server closes that body, and the transport then its connection (go.dev/issue/40747).
			if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
				panic(err) // net/http's own server always can
			}
			proxy.ServeHTTP(w, r)
		}),
	}
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, proxyBuf)
}

func (p *bufferPool) Put(b []byte) { p.pool.Put(&b) }
