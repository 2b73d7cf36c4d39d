package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/xssnick/tonutils-go/tlb"
	"rsc.io/qr"

	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	"cocoon/billing/ton/tab"
	"cocoon/billing/ton/wallet"
	"cocoon/internal/nanoton"
)

// seedHex is a wallet's key that no output may show.
const seedHex = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

// bank is the gateway's money side, for scripts.
type bank struct {
	mu     sync.Mutex
	kit    []byte
	places map[string]map[string]any // withdrawals by ID
	order  []string
}

func (b *bank) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer ck-good" {
		fail(w, http.StatusUnauthorized, "wrong API key")
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /cocoon/v1/account":
		to := ton.Address{Hash: sha256.Sum256([]byte("treasury"))}
		memo := ton.Memo("acme")
		fmt.Fprintf(w, `{"account":"acme","balance_nanoton":12500000000,"held_nanoton":500000000,"available_nanoton":12000000000,
			"deposit":{"address":%q,"memo":%q,"link":"ton://transfer/elsewhere"},"tab":{"address":%q,"balance_nanoton":3,
			"drawn_nanoton":2,"closing_at":null},"usd":{"rate_id":7,"usd_per_ton":"3.12","balance":"39.00"},"key":{"id":"x"},
			"more":[1]}`, to, memo, kitTerms().mustAddress())
	case "GET /poor/cocoon/v1/account":
		fmt.Fprint(w, `{"account":"a\u001b]0;evil\u0007","balance_nanoton":0,"held_nanoton":0,"available_nanoton":0,"suspended":"debts\nnone"}`)
	case "GET /garbage/cocoon/v1/account":
		fmt.Fprintf(w, `{"account":"acme","deposit":{"address":%q,"memo":"acme-0000"}}`, kitTerms().mustAddress())
	case "GET /cocoon/v1/account/tab/kit", "GET /evil/cocoon/v1/account/tab/kit":
		kit := b.kit
		if strings.HasPrefix(r.URL.Path, "/evil") {
			kit = bytes.Replace(kit, []byte(`"salt":"5"`), []byte(`"salt":"6"`), 1)
		}
		_, _ = w.Write(kit)
	case "POST /cocoon/v1/account/withdrawals":
		text, _ := io.ReadAll(r.Body)
		var asked struct {
			ID, To  string
			Nanoton int64
		}
		if err := json.Unmarshal(text, &asked); err != nil || asked.Nanoton <= 0 {
			fail(w, http.StatusBadRequest, "bad withdrawal")
			return
		}
		if asked.Nanoton > 100*int64(nanoton.PerTON) {
			fail(w, http.StatusPaymentRequired, "you have 12 TON")
			return
		}
		if b.places[asked.ID] == nil {
			b.order = append(b.order, asked.ID)
			b.places[asked.ID] = map[string]any{"id": asked.ID, "to": asked.To, "nanoton": asked.Nanoton, "state": "asked"}
		}
		_ = json.NewEncoder(w).Encode(b.places[asked.ID])
	case "GET /cocoon/v1/account/withdrawals":
		list := []any{}
		for _, id := range b.order {
			list = append(list, b.places[id])
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"data": list})
	default:
		http.Error(w, "<html>not found</html>", http.StatusNotFound)
	}
}

// terms are those of a tab whose owner is the wallet of seedHex on the devnet.
type terms tab.Terms

// plainKey is a key in the clear.
type plainKey struct{ ed25519.PrivateKey }

func (k plainKey) Public() ed25519.PublicKey { return k.PrivateKey.Public().(ed25519.PublicKey) }

func (k plainKey) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(k.PrivateKey, message), nil
}

func kitTerms() terms {
	key := sha256.Sum256([]byte("metering"))
	seed, err := hex.DecodeString(seedHex)
	if err != nil {
		panic(err)
	}
	return terms{
		Owner: wallet.NewPersonal(plainKey{ed25519.NewKeyFromSeed(seed)}, devnet.GlobalID).Address(), Payee: ton.Address{Hash: sha256.Sum256([]byte("treasury"))}, Signer: key[:], Salt: 5,
		CloseDelay: time.Second, Base: 10 * nanoton.PerTON,
	}
}

func (t terms) mustAddress() ton.Address {
	a, err := tab.Terms(t).Address()
	if err != nil {
		panic(err)
	}
	return a
}

// The scripts run the program against a stand-in for a gateway, and a real chain of their own.
func TestMoneyScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/money",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			kit, err := tab.NewKit(tab.Terms(kitTerms()))
			if err != nil {
				return err
			}
			text, err := json.Marshal(kit)
			if err != nil {
				return err
			}
			g := httptest.NewServer(&bank{kit: text, places: map[string]map[string]any{}})
			e.Defer(g.Close)
			e.Vars = append(e.Vars, "GATEWAY="+g.URL, "OPENAI_BASE_URL="+g.URL+"/v1", "OPENAI_API_KEY=ck-good",
				"TAB="+kit.Address.String(), "OWNER="+kit.Terms.Owner.String(), "SEED="+seedHex)
			n, err := devnet.New(devnet.Options{BlockInterval: 50 * time.Millisecond, AutoMine: true})
			if err != nil {
				return err
			}
			e.Defer(n.Close)
			if err := n.Listen("127.0.0.1:0"); err != nil {
				return err
			}
			n.Start()
			network, err := n.ConfigJSON()
			if err != nil {
				return err
			}
			e.Values["chain"] = n
			if err := errors.Join(writeKey(e.WorkDir+"/own.key", seedHex), writeKey(e.WorkDir+"/other.key", strings.Repeat("ab", 32))); err != nil {
				return err
			}
			if err := os.WriteFile(e.WorkDir+"/pass", []byte("hunter2 hunter2\n"), 0o600); err != nil {
				return err
			}
			return os.WriteFile(e.WorkDir+"/net.json", network, 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"fund": fund, "unsaid": unsaid, "balance": balance, "pass": pass},
	})
}

// writeKey writes a wallet file that opens without the work of a real one.
func writeKey(path, seed string) error {
	to, err := age.NewScryptRecipient("hunter2 hunter2")
	if err != nil {
		return err
	}
	to.SetWorkFactor(1)
	var text bytes.Buffer
	armored := armor.NewWriter(&text)
	w, err := age.Encrypt(armored, to)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "cocoon key 1\nseed %s\n", seed)
	return errors.Join(err, w.Close(), armored.Close(), os.WriteFile(path, text.Bytes(), 0o600))
}

// fund gives TON to an address: fund ADDRESS TON.
func fund(ts *testscript.TestScript, _ bool, args []string) {
	to, err := ton.ParseAddress(args[0])
	ts.Check(err)
	n := ts.Value("chain").(*devnet.Network)
	ts.Check(n.Faucet(to.Std(), tlb.MustFromTON(args[1]), ""))
	ts.Check(n.Mine())
}

// balance demands that an address has at least so much: balance ADDRESS TON.
func balance(ts *testscript.TestScript, neg bool, args []string) {
	of, err := ton.ParseAddress(args[0])
	ts.Check(err)
	got := ts.Value("chain").(*devnet.Network).Balance(of.Std())
	if enough := got.Cmp(tlb.MustFromTON(args[1]).Nano()) >= 0; enough == neg {
		ts.Fatalf("%s has %v nanoTON", args[0], got)
	}
}

// unsaid demands that neither output of the last command, nor any file here but the passphrase's, has a secret in it.
func unsaid(ts *testscript.TestScript, _ bool, _ []string) {
	for _, text := range []string{ts.ReadFile("stdout"), ts.ReadFile("stderr"), ts.ReadFile("wallet.key")} {
		if regexp.MustCompile(`(?i)hunter2|` + seedHex + `|00 ?11 ?22 ?33 ?44`).MatchString(text) {
			ts.Fatalf("a secret is in %q", text)
		}
	}
}

func TestPerDay(t *testing.T) {
	for a, want := range map[nanoton.Amount]nanoton.Amount{0: 0, 1: 1, 86400: 1, 86401: 2, nanoton.PerTON: 11575} {
		if got := perDay(a); got != want {
			t.Errorf("%d a day is %d a second, want %d", a, got, want)
		}
	}
}

// What is drawn is the code, margin and all, and goes on whole lines.
func TestDrawQR(t *testing.T) {
	const text = "ton://transfer/UQDrjaLahLkMB-hMCmkzOyBuHJ139ZUYmPHu6RRBKnbdLIYI?text=acme-1234"
	var out strings.Builder
	if err := drawQR(&out, text); err != nil {
		t.Fatal(err)
	}
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]bool
	for line := range strings.Lines(out.String()) {
		line, ok := strings.CutPrefix(strings.TrimSuffix(line, "\x1b[0m\n"), "\x1b[30;107m")
		if !ok {
			t.Fatalf("line %q", line)
		}
		var upper, lower []bool
		for _, r := range line {
			upper, lower = append(upper, r == '█' || r == '▀'), append(lower, r == '█' || r == '▄')
		}
		rows = append(rows, upper, lower)
	}
	if want := code.Size + 2*quietZone; len(rows) != want && len(rows) != want+1 || len(rows[0]) != want {
		t.Fatalf("%d rows of %d, want %d", len(rows), len(rows[0]), want)
	}
	for y, row := range rows {
		for x, dark := range row {
			if dark != code.Black(x-quietZone, y-quietZone) {
				t.Fatalf("module %d, %d is %v", x, y, dark)
			}
		}
	}
	if err := drawQR(io.Discard, strings.Repeat("a", 5000)); err == nil {
		t.Error("drew what no QR code holds")
	}
}

func FuzzAccountAnswer(f *testing.F) {
	f.Add(`{"account":"a","balance_nanoton":1,"deposit":{"address":"","memo":""},"tab":null,"usd":{"balance":1.5}}`)
	f.Add(`{"account":{"a":1},"suspended":"\u001b[31m"}`)
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var a accountAnswer
		if json.Unmarshal([]byte(text), &a) != nil {
			return
		}
		_ = a.print(streams{nil, null, null})
		for _, s := range []loose{a.Account, a.Suspended} {
			if strings.ContainsAny(string(s), "\x1b\n\r\x07") {
				t.Errorf("%q would drive a terminal", s)
			}
		}
	})
}

// pass lets time pass on the chain: pass SECONDS.
func pass(ts *testscript.TestScript, _ bool, args []string) {
	d, err := time.ParseDuration(args[0])
	ts.Check(err)
	n := ts.Value("chain").(*devnet.Network)
	n.SkewClock(d)
	ts.Check(n.Mine())
}
