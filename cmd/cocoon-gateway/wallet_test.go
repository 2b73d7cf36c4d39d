package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cocoon/billing/ton"
	"cocoon/billing/ton/wallet"
	"cocoon/internal/passphrase"
)

// keyring runs the wallet command on a data folder. Whatever it does, no secret may come out.
type keyring struct {
	*testing.T
	data, passFile string
}

const walletSeed = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

func (k *keyring) try(in string, words ...string) (string, error) {
	k.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		k.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString(in); err != nil {
		k.Fatal(err)
	}
	w.Close()
	var out, remarks strings.Builder
	o := &options{data: k.data, words: words, flags: map[string]string{"passphrase-file": k.passFile}}
	err = manageWallet(o, r, &out, &remarks)
	text := out.String() + remarks.String()
	if err != nil {
		text += err.Error()
	}
	command, cmdErr := os.ReadFile("/proc/self/cmdline")
	if cmdErr != nil {
		k.Fatal(cmdErr)
	}
	if regexp.MustCompile(`(?i)hunter2|zebra|00112233445566`).MatchString(text + string(command)) {
		k.Errorf("%q: a secret is in %q", words, text)
	}
	return out.String(), err
}

func TestWalletCommand(t *testing.T) {
	dir := t.TempDir()
	k := &keyring{t, filepath.Join(dir, "data"), filepath.Join(dir, "pass")}
	if err := os.WriteFile(k.passFile, []byte("hunter2 hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.try("", "show"); err == nil || !strings.Contains(err.Error(), "there are no keys") {
		t.Errorf("show: %v", err)
	}
	if _, err := k.try(strings.Repeat("zebra ", 24), "import", "treasury"); !errors.Is(err, wallet.ErrSecret) {
		t.Errorf("wrong words: %v", err)
	}
	for name, words := range map[string][]string{
		"nothing": nil, "another name": {"create", walletSeed}, "no name": {"create"}, "two": {"create", "treasury", "metering"},
		"another command": {walletSeed}, "show one": {"show", "treasury"},
	} {
		if _, err := k.try("", words...); !errors.Is(err, errUsage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	made, err := k.try(walletSeed, "import", "treasury")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^treasury +(UQ\S{46})$`).FindStringSubmatch(made)
	if found == nil {
		t.Fatalf("import:\n%s", made)
	}
	if _, err := ton.ParseAddress(found[1]); err != nil {
		t.Error(err)
	}
	metering, err := k.try("", "create", "metering")
	if err != nil || !regexp.MustCompile(`(?m)^metering key +[0-9a-f]{64}$`).MatchString(metering) {
		t.Errorf("create: %v:\n%s", err, metering)
	}
	if _, err := k.try("", "create", "metering"); !errors.Is(err, wallet.ErrExists) {
		t.Errorf("create again: %v", err)
	}
	shown, err := k.try("", "show")
	if err != nil || !strings.Contains(shown, found[1]) || !strings.Contains(shown, strings.Fields(metering)[2]) {
		t.Errorf("show: %v:\n%s", err, shown)
	}
	for _, name := range []string{"treasury.key", "metering.key"} {
		info, err := os.Stat(filepath.Join(k.data, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if err := os.WriteFile(k.passFile, []byte("hunter22\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.try("", "show"); !errors.Is(err, wallet.ErrPassphrase) {
		t.Errorf("wrong passphrase: %v", err)
	}
	k.passFile = ""
	if _, err := k.try("", "show"); !errors.Is(err, passphrase.ErrNone) {
		t.Errorf("nobody to ask: %v", err)
	}
}
