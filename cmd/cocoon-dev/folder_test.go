package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cocoon/billing/ledger"
	"cocoon/gateway/accounts"
	"cocoon/internal/secret"
)

func open(t *testing.T, path string) *folder {
	t.Helper()
	f, err := openFolder(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	return f
}

// openBook has the accounts of a gateway in the folder.
func openBook(t *testing.T, dir string) *accounts.Book {
	t.Helper()
	l, err := ledger.Open(t.Context(), "sqlite:"+filepath.Join(dir, "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	book, err := accounts.Open(t.Context(), accounts.Config{Store: l})
	if err != nil {
		t.Fatal(err)
	}
	return book
}

func TestKeyIsKeptWhileItWorks(t *testing.T) {
	dir := t.TempDir()
	f, book := open(t, dir), openBook(t, dir)
	first := apiKey(t, f, book)
	if again := apiKey(t, f, book); again != first {
		t.Error("a second start made another key")
	}
	if info, err := os.Stat(filepath.Join(dir, keyName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info.Mode(), err)
	}

	keys := book.Keys(accounts.DefaultAccount)
	if len(keys) != 1 {
		t.Fatalf("%d keys, want 1", len(keys))
	}
	if err := book.RevokeKey(t.Context(), keys[0].ID); err != nil {
		t.Fatal(err)
	}
	second := apiKey(t, f, book)
	if second == first {
		t.Error("a revoked key is used on")
	}
	if err := os.WriteFile(filepath.Join(dir, keyName), []byte("no key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if third := apiKey(t, f, book); third == second || third == "no key" {
		t.Errorf("from a broken file: %q", third)
	}
}

func apiKey(t *testing.T, f *folder, book *accounts.Book) string {
	t.Helper()
	key, err := f.apiKey(t.Context(), book)
	if err != nil {
		t.Fatal(err)
	}
	return key.Reveal()
}

func TestFolderIsOurs(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	if _, err := openFolder(dir); err == nil || !strings.Contains(err.Error(), "--data") {
		t.Errorf("a second owner: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, logName), []byte("first run\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.writeEnv(environment{key: secret.NewKey()}); err != nil {
		t.Fatal(err)
	}
	f.close()
	if _, err := os.Stat(filepath.Join(dir, envName)); !os.IsNotExist(err) {
		t.Errorf("env after the end: %v", err)
	}
	open(t, dir)
	if last, err := os.ReadFile(filepath.Join(dir, logName+".1")); err != nil || string(last) != "first run\n" {
		t.Errorf("the last run's log: %q, %v", last, err)
	}
}

// A shell reads back exactly what was written, whatever is in it.
func TestEnvIsForShells(t *testing.T) {
	f := open(t, t.TempDir())
	key := secret.NewKey()
	nasty := `http://x/'"$(echo no) \ v1`
	if err := f.writeEnv(environment{baseURL: nasty, opsURL: "http://127.0.0.1:9090", key: key}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(f.path, envName)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("env: %v, %v", info.Mode(), err)
	}
	cmd := exec.Command("sh", "-c", `. "$0" && printf '%s\n' "$OPENAI_BASE_URL" "$OPENAI_API_KEY" "$COCOON_OPS_URL"`, path)
	out, err := cmd.Output()
	if want := nasty + "\n" + key.Reveal() + "\nhttp://127.0.0.1:9090\n"; err != nil || string(out) != want {
		t.Errorf("%q, %v, want %q", out, err, want)
	}
}

func TestHolderOfAPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Skip("no /proc here: ", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if len(listeners(table, port)) != 1 {
		t.Fatalf("port %d not in\n%s", port, table)
	}
	if got, want := holder(l.Addr()), " by process "+strconv.Itoa(os.Getpid())+" ("; !strings.HasPrefix(got, want) {
		t.Errorf("holder: %q, want %q", got, want)
	}
	busy, free := l.Addr().String(), "127.0.0.1:0"
	for flag, opts := range map[string]options{"--listen": {listen: busy, ops: free}, "--ops": {listen: free, ops: busy}} {
		got := fmt.Sprint(portsFree(opts))
		if !strings.Contains(got, flag) || !strings.Contains(got, strconv.Itoa(os.Getpid())) {
			t.Errorf("message: %s", got)
		}
	}
	if err := portsFree(options{listen: free, ops: free}); err != nil {
		t.Error(err)
	}
}

func TestListenersReadsItsTable(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:C000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4 30 10 -1
   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
 short
`
	if got := listeners([]byte(table), 8080); !slices.Equal(got, []string{"4711"}) {
		t.Errorf("port 8080: %v", got)
	}
	if got := listeners([]byte(table), 443); got != nil {
		t.Errorf("port 443: %v", got)
	}
}

func TestDialable(t *testing.T) {
	for in, want := range map[string]string{
		"0.0.0.0:80": "127.0.0.1:80", "[::]:80": "127.0.0.1:80", "127.0.0.1:8080": "127.0.0.1:8080", "[::1]:9": "[::1]:9",
	} {
		a, err := net.ResolveTCPAddr("tcp", in)
		if err != nil {
			t.Fatal(err)
		}
		if got := dialable(a); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestUsage(t *testing.T) {
	var out bytes.Buffer
	_, err := parse([]string{"--help"}, "", &out)
	if !errors.Is(err, errDone) || !strings.Contains(out.String(), "SIMULATED, NOT CONFIDENTIAL") {
		t.Errorf("--help: %v\n%s", err, out.String())
	}
	o, err := parse(nil, "http://from.env:1", &out)
	if err != nil || o.listen != "127.0.0.1:8080" || o.ops != "127.0.0.1:9090" || o.engine != "http://from.env:1" {
		t.Errorf("defaults: %+v, %v", o, err)
	}
	o, err = parse([]string{"--engine", "http://flag:1"}, "http://from.env:1", &out)
	if err != nil || o.engine != "http://flag:1" {
		t.Errorf("flag over environment: %+v, %v", o, err)
	}
	for _, args := range [][]string{{"--frobnicate"}, {"words"}} {
		if _, err := parse(args, "", &out); err == nil {
			t.Errorf("%v passes", args)
		}
	}
}

func TestShownIsBounded(t *testing.T) {
	if got := shown(slices.Repeat([]string{"m"}, 12)); !strings.HasSuffix(got, "m and 2 more") {
		t.Errorf("12 models: %s", got)
	}
}
