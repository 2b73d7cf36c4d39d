// Package ledgertest gives tests a PostgreSQL server, a real one.
package ledgertest

import (
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// Postgres is a server for the tests of one run: a given one, which COCOON_TEST_POSTGRES names, or one of our own that
// is started when first needed. The zero value is ready; it is for one goroutine at a time.
type Postgres struct {
	ready  bool
	url    string
	reason string // why there is none
	dir    string // of our own
	bin    string
	serial int
}

// URL gives that of the server, or skips the test.
func (p *Postgres) URL(t testing.TB) string {
	t.Helper()
	if !p.ready {
		p.ready = true
		if p.url = os.Getenv("COCOON_TEST_POSTGRES"); p.url == "" {
			if err := p.create(); err != nil {
				p.reason = err.Error()
			}
		}
	}
	if p.reason != "" {
		t.Skip("no PostgreSQL: " + p.reason)
	}
	return p.url
}

// Schema gives the URL of a new empty schema, or skips the test.
func (p *Postgres) Schema(t testing.TB) string {
	t.Helper()
	server := p.URL(t)
	config, err := pgx.ParseConfig(server)
	if err != nil {
		t.Fatal(err)
	}
	db := stdlib.OpenDB(*config)
	defer func() { _ = db.Close() }()
	p.serial++
	schema := fmt.Sprintf("t%d_%d", os.Getpid(), p.serial)
	if err := create(t, db, schema); err != nil {
		t.Fatal(err)
	}
	return server + "&search_path=" + schema
}

func create(t testing.TB, db *sql.DB, schema string) error {
	_, err := db.ExecContext(t.Context(), "CREATE SCHEMA "+schema)
	return err
}

// Restart stops the server without warning and starts it again. It skips the test if the server is not our own.
func (p *Postgres) Restart(t testing.TB) {
	t.Helper()
	p.URL(t)
	if p.dir == "" {
		t.Skip("the server is not ours to restart")
	}
	if err := p.ctl("restart", "-m", "immediate"); err != nil {
		t.Error(err)
	}
}

// Stop ends a server of our own and removes what it wrote.
func (p *Postgres) Stop() {
	if p.dir != "" {
		_ = p.ctl("stop", "-m", "immediate")
		_ = os.RemoveAll(p.dir)
	}
}

func (p *Postgres) create() error {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if path, err := exec.LookPath("initdb"); err == nil {
		found = append(found, path)
	}
	if len(found) == 0 {
		return errors.New("initdb is not on this machine and COCOON_TEST_POSTGRES names no server")
	}
	initdb, err := filepath.EvalSymlinks(found[0])
	if err != nil {
		return err
	}
	p.bin = filepath.Dir(initdb)
	if p.dir, err = os.MkdirTemp("", "ledger-pg-"); err != nil {
		return err
	}
	if os.Getuid() == 0 {
		if err := os.Chown(p.dir, nobody, nobody); err != nil {
			return err
		}
	}
	if err := p.run("initdb", "-D", p.dir+"/data", "-U", "cocoon", "--auth=trust", "-E", "UTF8"); err != nil {
		return err
	}
	p.url = "postgres://cocoon@/postgres?host=" + url.QueryEscape(p.dir)
	return p.ctl("start")
}

// nobody is the user and group that the server runs as when the tests run as root, which it refuses.
const nobody = 65534

func (p *Postgres) ctl(args ...string) error {
	settings := "-k " + p.dir + " -c listen_addresses= -c max_connections=200"
	if flag.Lookup("test.bench").Value.String() == "" {
		settings += " -c fsync=off" // the tests kill processes, not the machine
	}
	return p.run("pg_ctl", append(args, "-w", "-D", p.dir+"/data", "-l", p.dir+"/log", "-o", settings)...)
}

func (p *Postgres) run(name string, args ...string) error {
	cmd := exec.Command(filepath.Join(p.bin, name), args...)
	cmd.Dir = p.dir
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	// The server inherits a file, not a pipe that would keep Run waiting for it.
	out, err := os.Create(filepath.Join(p.dir, name+".out"))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s: %w: %s", name, err, said)
	}
	return nil
}
