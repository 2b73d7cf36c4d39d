//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// The peers, in the order of the table.
const (
	peerDirect = "direct"       // no proxy: the load goes to the engine
	peerNginx  = "nginx"        // copies, in C
	peerProxy  = "reverseproxy" // copies, in Go; the measure of the targets
	peerCocoon = "cocoon"       // our gateway without billing, its worker hop over TLS
	// peerBilling is the same with billing: it holds money, checks the workers' receipts, and settles.
	peerBilling = "cocoon+billing"
	// peerChain is that gateway and our worker before the plain mock: for the worker's cost, when asked for.
	peerChain = "cocoon+worker"
)

func allPeers() []string { return append(defaultPeers(), peerChain) }

func defaultPeers() []string {
	return []string{peerDirect, peerNginx, peerProxy, peerCocoon, peerBilling}
}

// ours says whether a peer is our gateway, and bills whether that has billing.
func ours(name string) bool  { return name == peerCocoon || bills(name) }
func bills(name string) bool { return name == peerBilling || name == peerChain }

// peer is a running peer.
type peer struct {
	name    string
	address string     // where the load connects
	key     string     // API key
	proxy   *process   // what is measured; nil for direct
	engine  *process   // what answers
	ops     string     // address of the gateway's profiles, if it is one
	workers string     // address that workers dial, likewise
	pin     string     // its identity
	own     []*process // to be stopped with it, last first
}

func (p *peer) stop() {
	for i := len(p.own) - 1; i >= 0; i-- {
		p.own[i].stop()
	}
}

// lab is what peers are started with.
type lab struct {
	dir    string // temporary
	bin    string // our binaries
	self   string // this program
	ports  ports
	engine *process // the plain mock, shared by all peers but our gateways
	addr   string   // of engine
	models []string // that the worker offers
	starts int      // so that each start has files of its own
}

// newLab starts the plain mock.
func newLab(ctx context.Context, bin string, models []string) (*lab, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "cocoon-bench-")
	if err != nil {
		return nil, err
	}
	l := &lab{dir: dir, bin: bin, self: self, models: models}
	if l.addr, err = l.ports.take(); err != nil {
		return nil, err
	}
	if l.engine, err = start(dir, "mock", self, roleMock, "-listen", l.addr, "-models", strings.Join(models, ",")); err != nil {
		return nil, err
	}
	if err := l.engine.listens(ctx, l.addr); err != nil {
		l.engine.stop()
		return nil, err
	}
	return l, nil
}

func (l *lab) close() error {
	l.engine.stop()
	return os.RemoveAll(l.dir)
}

// missing says what keeps a peer from being measured here, and what to do about it; nil if nothing does.
func (l *lab) missing(name string) error {
	switch name {
	case peerNginx:
		if _, err := nginxPath(); err != nil {
			return fmt.Errorf("nginx is not installed (Debian: apt-get install nginx-light): %w", err)
		}
	case peerCocoon, peerBilling:
		return l.binaryMissing(gatewayBinary)
	case peerChain:
		return errors.Join(l.binaryMissing(gatewayBinary), l.binaryMissing(devBinary))
	}
	return nil
}

// start starts a peer and waits until it answers.
func (l *lab) start(ctx context.Context, name string) (*peer, error) {
	l.starts++
	p := &peer{name: name, engine: l.engine, key: "ck-none"}
	var err error
	if name == peerDirect {
		p.address = l.addr
		return p, nil
	}
	if p.address, err = l.ports.take(); err != nil {
		return nil, err
	}
	dir := filepath.Join(l.dir, fmt.Sprintf("%s-%d", name, l.starts))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	switch name {
	case peerNginx:
		err = l.startNginx(p, dir)
	case peerProxy:
		p.proxy, err = start(dir, name, l.self, roleProxy, "-listen", p.address, "-upstream", "http://"+l.addr)
	case peerCocoon, peerBilling, peerChain:
		err = l.startGateway(ctx, p, dir)
	default:
		err = fmt.Errorf("no such peer: %q", name)
	}
	if p.proxy != nil {
		p.own = append([]*process{p.proxy}, p.own...)
	}
	if err == nil {
		err = p.proxy.listens(ctx, p.address)
	}
	if err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// nginxPath finds nginx, which Debian keeps off the path of ordinary users.
func nginxPath() (string, error) {
	if path, err := exec.LookPath("nginx"); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/nginx")
}

// nginxConf makes nginx a plain copying proxy that keeps its connections and holds nothing back.
const nginxConf = `worker_processes %[1]d;
pid %[2]s/nginx.pid;
error_log %[2]s/error.log crit;
daemon off;
worker_rlimit_nofile 20000;
events { worker_connections 20000; }
http {
  access_log off;
  tcp_nodelay on;
  keepalive_timeout 300;
  keepalive_requests 1000000000;
  client_body_buffer_size 2m;
  client_max_body_size 64m;
  client_body_temp_path %[2]s/body; proxy_temp_path %[2]s/proxy; fastcgi_temp_path %[2]s/fastcgi;
  uwsgi_temp_path %[2]s/uwsgi; scgi_temp_path %[2]s/scgi;
  upstream mock { server %[4]s; keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 300s; }
  server {
    listen %[3]s backlog=4096;
    location / {
      proxy_pass http://mock;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 600s;
    }
  }
}
`

func (l *lab) startNginx(p *peer, dir string) error {
	path, err := nginxPath()
	if err != nil {
		return err
	}
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Appendf(nil, nginxConf, runtime.NumCPU(), dir, p.address, l.addr)
	if err := os.WriteFile(conf, text, 0o644); err != nil {
		return err
	}
	p.proxy, err = start(dir, p.name, path, "-p", dir, "-c", conf)
	return err
}
