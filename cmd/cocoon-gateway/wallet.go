package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"text/tabwriter"

	"cocoon/billing/ton/wallet"
	"cocoon/gateway"
	"cocoon/internal/passphrase"
)

// The gateway's keys are files in its data folder: the treasury's moves its money, and the metering key signs what may be
// drawn from tabs, which goes to the treasury or to the tabs' owners whatever it signs.
const (
	treasuryKey = "treasury"
	meteringKey = "metering"
)

// keyPath is where a key of the gateway is.
func (w *gatewayWallet) keyPath(name string) string {
	if name == treasuryKey {
		return w.config.TreasuryKey()
	}
	return w.config.MeteringKey()
}

// manageWallet makes and shows the gateway's keys. It never prints a secret.
func manageWallet(o *options, in *os.File, stdout, stderr io.Writer) error {
	if len(o.words) == 0 {
		return fmt.Errorf("wallet create, import or show: %w", errUsage)
	}
	cfg, err := o.gateway()
	if err != nil {
		return err
	}
	w := &gatewayWallet{
		config: cfg, stdout: stdout, stderr: stderr,
		source: passphrase.Source{File: o.flags["passphrase-file"], In: in, Out: stderr},
	}
	switch o.words[0] {
	case "create", "import":
		if len(o.words) != 2 || o.words[1] != treasuryKey && o.words[1] != meteringKey { // not repeated: it may be a secret
			return fmt.Errorf("'wallet %s' takes %s or %s: %w", o.words[0], treasuryKey, meteringKey, errUsage)
		}
		return w.make(o.words[1], o.words[0] == "import")
	case "show":
		if len(o.words) != 1 {
			return fmt.Errorf("'wallet show' takes no arguments: %w", errUsage)
		}
		return w.show()
	}
	return fmt.Errorf("no such command of wallet: %w", errUsage)
}

// gatewayWallet is the folder with the keys and what opens them.
type gatewayWallet struct {
	config         gateway.Config
	source         passphrase.Source
	stdout, stderr io.Writer
}

// make writes a new key file.
func (w *gatewayWallet) make(name string, imported bool) error {
	path := w.keyPath(name)
	if _, err := os.Lstat(path); err == nil { // before anybody types
		return fmt.Errorf("%w: %s", wallet.ErrExists, path)
	}
	if err := os.MkdirAll(w.config.DataDir, 0o700); err != nil {
		return fmt.Errorf("making the data folder: %w", err)
	}
	var secret []byte
	var err error
	if imported {
		if secret, err = w.source.Secret("24 words, or 64 hex digits: "); err != nil {
			return err
		}
	}
	words, err := w.source.New(path)
	if err != nil {
		return err
	}
	var k *wallet.Key
	if imported {
		k, err = wallet.ImportKey(path, words, secret)
	} else {
		k, err = wallet.CreateKey(path, words)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(w.stderr, "Keep a copy of %s and of its passphrase elsewhere: nothing else opens it.\n", path)
	return w.print(map[string]*wallet.Key{name: k})
}

// show prints what is public of the keys that there are.
func (w *gatewayWallet) show() error {
	keys := map[string]*wallet.Key{}
	for _, name := range []string{treasuryKey, meteringKey} {
		path := w.keyPath(name)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		words, err := w.source.Read(path)
		if err != nil {
			return err
		}
		if keys[name], err = wallet.OpenKey(path, words); err != nil {
			return err
		}
	}
	if len(keys) == 0 {
		return fmt.Errorf("there are no keys in %s: 'cocoon-gateway wallet create %s' makes one", w.config.DataDir, treasuryKey)
	}
	return w.print(keys)
}

func (w *gatewayWallet) print(keys map[string]*wallet.Key) error {
	t := tabwriter.NewWriter(w.stdout, 0, 0, 2, ' ', 0)
	if k := keys[treasuryKey]; k != nil {
		var o wallet.HighloadOptions
		if c := w.config.TON; c != nil {
			o.Timeout = c.PayoutTimeout
		}
		h := wallet.NewHighload(k, o)
		fmt.Fprintf(t, "treasury\t%v\n", h.Address())
		fmt.Fprintf(t, "its raw address\t%s\n", h.Address().Raw())
		fmt.Fprintf(t, "its batches expire\t%v after they are made\n", h.Timeout())
	}
	if k := keys[meteringKey]; k != nil {
		fmt.Fprintf(t, "metering key\t%s\n", hex.EncodeToString(k.Public()))
	}
	return t.Flush()
}
