package wallet_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"testing"

	"filippo.io/age/armor"

	"cocoon/billing/ton/wallet"
)

// A new key is sealed with the full work factor, into a file of its owner's.
func TestCreate(t *testing.T) {
	path := tempFile(t)
	k, err := wallet.CreateKey(path, []byte("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	if other := wallet.KeyOf(make([]byte, 32)); k.Public().Equal(other.Public()) {
		t.Error("the key is all zeros")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v", info.Mode(), err)
	}
	text, err := os.ReadFile(path)
	if err != nil || !bytes.HasPrefix(text, []byte(wallet.KeyHead)) {
		t.Fatalf("file: %q, %v", text, err)
	}
	raw, err := io.ReadAll(armor.NewReader(bytes.NewReader(text[len(wallet.KeyHead):])))
	if err != nil || !bytes.Contains(raw[:200], fmt.Appendf(nil, " %d\n", wallet.SealFactor)) {
		t.Errorf("not sealed with factor %d: %q, %v", wallet.SealFactor, raw, err)
	}
}

func TestOpen(t *testing.T) {
	path := tempFile(t)
	k, err := wallet.Store(path, []byte("correct horse"), bytes.Repeat([]byte("s"), 32), 4)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := wallet.OpenKey(path, []byte("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	signature, err := again.Sign(t.Context(), []byte("message"))
	if err != nil || !ed25519.Verify(k.Public(), []byte("message"), signature) {
		t.Errorf("the opened key is another one: %v", err)
	}
	if _, err := wallet.OpenKey(path, []byte("correct hors")); !errors.Is(err, wallet.ErrPassphrase) {
		t.Errorf("wrong passphrase: %v", err)
	}
	if _, err := wallet.OpenKey(path, nil); !errors.Is(err, wallet.ErrPassphrase) {
		t.Errorf("no passphrase: %v", err)
	}
	if _, err := wallet.CreateKey(path, []byte("other")); !errors.Is(err, wallet.ErrExists) {
		t.Errorf("overwriting: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, text) {
		t.Errorf("the file changed: %v", err)
	}
	if _, err := wallet.OpenKey(path+"x", []byte("a")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := wallet.OpenKey(path, []byte("correct horse")); err == nil || !strings.Contains(err.Error(), "others can read") {
		t.Errorf("mode 0640: %v", err)
	}
}

func TestCreateRefuses(t *testing.T) {
	path := tempFile(t)
	if _, err := wallet.CreateKey(path, nil); !errors.Is(err, wallet.ErrPassphrase) {
		t.Errorf("no passphrase: %v", err)
	}
	if err := os.Symlink("nowhere", path); err != nil {
		t.Fatal(err)
	}
	if _, err := wallet.CreateKey(path, []byte("a")); !errors.Is(err, wallet.ErrExists) {
		t.Errorf("a link that leads nowhere: %v", err)
	}
	if _, err := wallet.CreateKey("/nonexistent/a/key", []byte("a")); err == nil {
		t.Error("created a key in no folder")
	}
}

// Vectors of the wallet programs' library: words and the key that they stand for.
func TestImportMnemonic(t *testing.T) {
	for words, public := range map[string]string{
		"hospital stove relief fringe tongue always charge angry urge sentence again match nerve inquiry senior coconut label " +
			"tumble carry category beauty bean road solution": "f6c450a16bb1c514e22f1977e390a3025599aa1e7b00068a6aacf2119484c1bd",
	} {
		k, err := wallet.ImportKey(tempFile(t), []byte("p"), []byte(" "+strings.ToUpper(words)+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(k.Public()); got != public {
			t.Errorf("public key %s, want %s", got, public)
		}
		// The same by the standard's words, without the library: HMAC, then PBKDF2.
		mac := hmac.New(sha512.New, []byte(words))
		seed, err := pbkdf2.Key(sha512.New, string(mac.Sum(nil)), []byte("TON default seed"), 100_000, 64)
		if err != nil {
			t.Fatal(err)
		}
		if got := ed25519.NewKeyFromSeed(seed[:32]).Public(); !k.Public().Equal(got) {
			t.Errorf("by the standard the public key is %x", got)
		}
	}
}

func TestImportSeed(t *testing.T) {
	digits := strings.Repeat("a1B2", 16)
	seed, err := wallet.ParseSecret(" " + digits + "\n")
	if err != nil || hex.EncodeToString(seed) != strings.ToLower(digits) {
		t.Errorf("%x, %v", seed, err)
	}
}

func TestImportRefuses(t *testing.T) {
	path := tempFile(t)
	for name, secret := range map[string]string{
		"nothing": "", "a word": "hospital", "short hex": strings.Repeat("ab", 31), "long hex": strings.Repeat("ab", 33),
		"no hex": strings.Repeat("zz", 32), "12 words": strings.Repeat("zebra ", 12), "unknown word": strings.Repeat("xyzzy ", 24),
		"wrong words": strings.Repeat("zebra ", 24), "25 words": strings.Repeat("zebra ", 25),
	} {
		_, err := wallet.ImportKey(path, []byte("p"), []byte(secret))
		if !errors.Is(err, wallet.ErrSecret) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for word := range strings.FieldsSeq(secret) {
			if strings.Contains(err.Error(), word) {
				t.Errorf("%s: the error repeats the secret: %v", name, err)
			}
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was made: %v", err)
	}
}

func TestKeyIsNeverPrinted(t *testing.T) {
	seed := []byte("0123456789abcdef0123456789abcdef")
	k := wallet.KeyOf(seed)
	private := ed25519.NewKeyFromSeed(seed)
	type holder struct{ k *wallet.Key }
	var out strings.Builder
	fmt.Fprintf(&out, "%v %+v %#v %s %d %x %q %v %+v %#v", k, k, k, k, k, k, k, holder{k}, holder{k}, holder{k})
	fmt.Fprintf(&out, "%v %+v %x", *k, *k, *k)
	slog.New(slog.NewTextHandler(&out, nil)).Info("key", "key", k, "holder", holder{k}, "value", *k)
	text, err := json.Marshal(map[string]any{"k": k, "v": *k})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(text)
	for _, secret := range []string{string(seed), hex.EncodeToString(seed), fmt.Sprint([]byte(private)), fmt.Sprint(seed)} {
		if strings.Contains(strings.ToLower(out.String()), strings.Trim(secret, "[]")) {
			t.Errorf("printed: %s", out.String())
		}
	}
}

// A file that somebody put there must not take minutes, or all memory.
func TestWorkFactorIsBounded(t *testing.T) {
	text, err := wallet.Seal(make([]byte, 32), []byte("p"), 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wallet.Unseal(text, []byte("p")); err != nil {
		t.Fatal(err)
	}
	// age's own text says the factor: with a greater one it is refused before any work.
	_, err = wallet.Unseal(hostileFactor(t, wallet.OpenFactor+1), []byte("p"))
	if err == nil || errors.Is(err, wallet.ErrPassphrase) || !strings.Contains(err.Error(), "work factor too large") {
		t.Errorf("a factor of %d: %v", wallet.OpenFactor+1, err)
	}
}

// hostileFactor is a key file whose header asks for a work factor that nobody spent.
func hostileFactor(t *testing.T, factor int) []byte {
	t.Helper()
	text, err := wallet.Seal(make([]byte, 32), []byte("p"), 2)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(armor.NewReader(bytes.NewReader(text[len(wallet.KeyHead):])))
	if err != nil {
		t.Fatal(err)
	}
	line, rest, _ := bytes.Cut(raw, []byte(" 2\n"))
	var out bytes.Buffer
	w := armor.NewWriter(&out)
	if _, err := fmt.Fprintf(w, "%s %d\n%s", line, factor, rest); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func FuzzUnseal(f *testing.F) {
	good, err := wallet.Seal(make([]byte, 32), []byte("p"), 1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[len(wallet.KeyHead):])
	f.Add([]byte("#\n#"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, text []byte) {
		if bytes.Contains(text, []byte("scrypt")) {
			t.Skip("might ask for work")
		}
		if k, err := wallet.Unseal(text, []byte("p")); (k == nil) == (err == nil) {
			t.Errorf("%v, %v", k, err)
		}
	})
}

func FuzzImport(f *testing.F) {
	f.Add(strings.Repeat("zebra ", 24))
	f.Add(strings.Repeat("ab", 32))
	f.Fuzz(func(t *testing.T, secret string) {
		seed, err := wallet.ParseSecret(secret)
		if (len(seed) == 32) == (err != nil) {
			t.Errorf("%x, %v", seed, err)
		}
		if err != nil && !errors.Is(err, wallet.ErrSecret) {
			t.Error(err)
		}
	})
}
