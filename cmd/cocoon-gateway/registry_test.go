package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	"cocoon/billing/ton/registry"
	"cocoon/billing/ton/wallet"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/tlb"
	tonutils "github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// registryDesk is a folder with the signers' keys, and a chain with their registry.
type registryDesk struct {
	t   *testing.T
	n   *devnet.Network
	dir string
	a   ton.Address
}

func newRegistryDesk(t *testing.T) *registryDesk {
	t.Helper()
	n, err := devnet.New(devnet.Options{AutoMine: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	n.Start()
	t.Cleanup(n.Close)
	d := &registryDesk{t: t, n: n, dir: t.TempDir()}
	network, err := json.Marshal(n.Config())
	if err != nil {
		t.Fatal(err)
	}
	d.write("network.json", network)
	d.write("passphrase", []byte("correct horse\n"))
	terms := registry.Terms{Threshold: 2, Delay: time.Hour, Floor: time.Minute}
	for i := range 2 {
		k, err := wallet.CreateKey(d.path(fmt.Sprint("key", i)), []byte("correct horse"))
		if err != nil {
			t.Fatal(err)
		}
		terms.Signers = append(terms.Signers, k.Public())
	}
	init, err := terms.Init()
	if err != nil {
		t.Fatal(err)
	}
	if d.a, err = terms.Address(); err != nil {
		t.Fatal(err)
	}
	out := d.run("init", "--signer", hexKey(terms.Signers[0]), "--signer", hexKey(terms.Signers[1]), "--threshold", "2",
		"--delay", "1h", "--floor", "1m", "--amount", "3")
	for _, part := range []string{"ton://transfer/" + d.a.String() + "?amount=3000000000&init=", "2 of 2 signers"} {
		if !strings.Contains(out, part) {
			t.Errorf("init says nothing of %s:\n%s", part, out)
		}
	}
	err = n.Inject(&tlb.InternalMessage{
		IHRDisabled: true, SrcAddr: address.NewAddress(0, 0, make([]byte, 32)), DstAddr: d.a.Std(), Amount: tlb.MustFromTON("3"),
		StateInit: init, Body: cell.BeginCell().EndCell(),
	})
	if err == nil {
		err = n.Mine()
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func hexKey(k ed25519.PublicKey) string { return fmt.Sprintf("%x", []byte(k)) }

func (d *registryDesk) path(name string) string { return filepath.Join(d.dir, name) }

func (d *registryDesk) write(name string, text []byte) {
	d.t.Helper()
	if err := os.WriteFile(d.path(name), text, 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// try runs a command with what it takes to find the registry.
func (d *registryDesk) try(args ...string) (string, error) {
	switch args[0] {
	case "show", "propose", "cancel", "apply":
		args = append(args, "--registry", d.a.String(), "--network", d.path("network.json"), "--dir", d.path("kept"))
	case "send":
		args = append(args, "--network", d.path("network.json"))
	}
	var out bytes.Buffer
	err := registryCommand(args, &out)
	return out.String(), err
}

func (d *registryDesk) run(args ...string) string {
	d.t.Helper()
	out, err := d.try(args...)
	if err != nil {
		d.t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return out
}

// fail runs a command that must fail and say so.
func (d *registryDesk) fail(want string, args ...string) {
	d.t.Helper()
	out, err := d.try(args...)
	if err == nil || !strings.Contains(err.Error(), want) {
		d.t.Errorf("%q: %v, want %q\n%s", args, err, want, out)
	}
}

// A change on its way: proposed, signed by two, sent, waited for, applied, shown; another one is cancelled.
func TestRegistryCommands(t *testing.T) {
	d := newRegistryDesk(t)
	order, text := d.path("order.json"), "name: v1\nrole: gateway\n\x1b[31mred\n"
	d.write("v1.yaml", []byte(text))
	put := []string{
		"propose", "--change", "put", "--kind", "release", "--name", "v1", "--file", d.path("v1.yaml"), "-o", order,
		"--not-after", "2030-01-01T00:00:00Z",
	}
	out := d.run(put...)
	if !strings.Contains(out, "put release/v1, valid until 2030-01-01T00:00:00Z") ||
		!strings.Contains(out, "2 of the registry's signers") {
		t.Errorf("propose:\n%s", out)
	}
	sign := func(key string) string {
		return d.run("sign", order, "--key", d.path(key), "--passphrase-file", d.path("passphrase"))
	}
	d.fail("too few signatures", "send", order)
	if out := sign("key0"); !strings.Contains(out, "name: v1") || strings.Contains(out, "\x1b") ||
		!strings.Contains(out, "signatures in "+order+": 1") {
		t.Errorf("sign:\n%q", out)
	}
	d.fail("1 of the registry's signers signed, 2 must", "send", order)
	sign("key1")
	if out := d.run("send", order); !strings.Contains(out, "put release/v1") {
		t.Errorf("send:\n%s", out)
	}
	d.fail("it has the number 0, and the registry waits for 1", "send", order)
	d.fail("may be applied from", "apply", "0")
	d.fail("no change 5 is pending", "apply", "5")

	d.run("cancel", "0", "-o", order)
	d.fail("no change 9 is pending", "cancel", "9", "-o", order)
	d.n.SkewClock(time.Hour)
	if err := d.n.Mine(); err != nil {
		t.Fatal(err)
	}
	if out := d.run("apply", "0"); !strings.Contains(out, "done in block") || !strings.Contains(out, "release/v1") {
		t.Errorf("apply:\n%s", out)
	}
	if out := d.run("show"); !strings.Contains(out, "need 2 of 2 signers, and wait for 1h0m0s; never for less than 1m0s") {
		t.Errorf("show:\n%s", out)
	}
	d.run("show", "--document", "release/v1", "-o", d.path("copy"))
	if got, err := os.ReadFile(d.path("copy")); err != nil || string(got) != text {
		t.Errorf("document %q, %v", got, err)
	}
	d.fail("the registry has no release/v2", "show", "--document", "release/v2")

	d.n.Faults().Hook(func(tl.Serializable) (tl.Serializable, bool) { return tonutils.LSError{Code: 1, Text: "gone"}, true })
	d.fail("is out of reach", put...)
}

// Command lines that make no sense are refused before anything is asked.
func TestRegistryUsage(t *testing.T) {
	for want, line := range map[string]string{
		"no command 'registry fly'":   "fly",
		"--registry is missing":       "show",
		"--network is missing":        "show --registry 0:1111111111111111111111111111111111111111111111111111111111111111",
		"-o is missing":               "propose --change delay --delay 1h",
		"--change is \"\"":            "propose -o x",
		"--delay is missing":          "propose --change delay -o x",
		"no kind \"\"":                "propose --change put -o x",
		"is no time such as":          "propose --change put --kind params --name a --not-before now -o x",
		"--key is missing":            "sign x",
		"takes the proposal's file":   "send",
		"is no ID of a pending":       "apply x",
		"flag provided but not":       "sign x --delay 1h",
		"want a public key of 64 hex": "init --signer abc",
		"0 signers, want 1 to 16":     "init",
	} {
		var out bytes.Buffer
		err := registryCommand(strings.Fields(line), &out)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
		if err != nil && !errors.Is(err, errUsage) && want != "0 signers, want 1 to 16" && !strings.HasPrefix(want, "--network") {
			t.Errorf("%s: %v is no usage error", line, err)
		}
	}
	var out bytes.Buffer
	if err := registryCommand(nil, &out); err != nil || !strings.Contains(out.String(), "registry propose") {
		t.Errorf("%v: %s", err, out.String())
	}
}
