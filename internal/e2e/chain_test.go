package e2e_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	openai "github.com/sashabaranov/go-openai"
	"github.com/xssnick/tonutils-go/address"

	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	"cocoon/billing/ton/tab"
	"cocoon/internal/nanoton"
)

// chainMax is how long something may take that needs some blocks, on a busy machine.
const chainMax = 3 * time.Minute

// chainYAML connects a gateway to the chain. Payouts leave as soon as they are worth a ten-thousandth of a TON.
const chainYAML = `
ton:
  network: %s
  passphrase_file: %s
  payout_min_nanoton: 100000
  tab_max_nanoton: 100000000000
  collateral_nanoton: 100000000
`

// chainScene is a gateway on a local chain, with nothing in it yet.
type chainScene struct {
	net  *devnet.Network
	g    *gateway
	file string // the network's configuration
}

// newChainScene starts a chain and a gateway on it.
func newChainScene(t *testing.T) *chainScene {
	t.Helper()
	net, err := devnet.New(devnet.Options{AutoMine: true, BlockInterval: 400 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(net.Close)
	if err := net.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	net.Start()
	dir := t.TempDir()
	s := &chainScene{net: net, file: filepath.Join(dir, "network.json")}
	config, err := net.ConfigJSON()
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, s.file, string(config))
	words := filepath.Join(dir, "passphrase")
	writeFile(t, words, "correct horse battery staple\n")
	s.g = newGateway(t, "", "auto", quietMax, fmt.Sprintf(chainYAML, s.file, words))
	data := filepath.Join(filepath.Dir(s.g.config), "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"treasury", "metering"} {
		sealKey(t, filepath.Join(data, name+".key"), "correct horse battery staple", name)
	}
	s.g.restart(t)
	s.g.operate(t, "accounts", "create", "shop")
	s.g.key = strings.TrimSpace(s.g.operate(t, "keys", "create", "all", "--account", "shop", "--scopes", "inference,account,withdraw"))
	eventually(t, startMax, "the new key works", func() bool { return s.g.models(t.Context()) != nil })
	return s
}

// sealKey writes a key file as "cocoon-gateway wallet create" does, but for the work that a guess at its passphrase takes:
// the race detector makes that a minute.
func sealKey(t *testing.T, path, passphrase, seed string) {
	t.Helper()
	to, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	to.SetWorkFactor(8)
	var text bytes.Buffer
	armored := armor.NewWriter(&text)
	w, err := age.Encrypt(armored, to)
	if err != nil {
		t.Fatal(err)
	}
	key := make([]byte, ed25519.SeedSize)
	copy(key, seed)
	_, err = fmt.Fprintf(w, "cocoon key 1\nseed %x\n", key)
	if err := errors.Join(err, w.Close(), armored.Close()); err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, text.String())
}

// chainAccount is what GET /cocoon/v1/account says.
type chainAccount struct {
	Balance   nanoton.Amount `json:"balance_nanoton"`
	Held      nanoton.Amount `json:"held_nanoton"`
	Available nanoton.Amount `json:"available_nanoton"`
	Deposit   struct{ Address, Memo, Link, QR string }
}

func (s *chainScene) account(t *testing.T) chainAccount {
	t.Helper()
	var a chainAccount
	s.call(t, http.MethodGet, "/cocoon/v1/account", "", &a)
	return a
}

// call asks the gateway and decodes an answer of 200.
func (s *chainScene) call(t *testing.T, method, path, body string, v any) {
	t.Helper()
	status, text := s.try(t, method, path, body)
	if status != http.StatusOK {
		t.Fatalf("%s %s: %d %s", method, path, status, text)
	}
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatalf("%s %s: %v in %s", method, path, err, text)
	}
}

func (s *chainScene) try(t *testing.T, method, path, body string) (int, []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startMax)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.g.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.g.key)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, []byte(err.Error())
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, []byte(err.Error())
	}
	return resp.StatusCode, text
}

// pay sends coins from nowhere, as an exchange would.
func (s *chainScene) pay(t *testing.T, to string, amount nanoton.Amount, comment string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), chainMax)
	defer cancel()
	if _, err := s.net.Pay(ctx, to, amount, comment); err != nil {
		t.Fatal(err)
	}
}

// holds is what an address has on the chain.
func (s *chainScene) holds(t *testing.T, to string) nanoton.Amount {
	t.Helper()
	a, err := devnet.ParseAddress(to)
	if err != nil {
		t.Fatal(err)
	}
	return nanoton.Amount(s.net.Balance(a).Int64())
}

// somebody is an address that nobody has used yet, of a name.
func somebody(name string) string {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	key := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	return address.NewAddress(0, 0, key).Bounce(false).String()
}

// agree compares the books of chain and ledger, to the nanoTON, and has the gateway audit itself.
func (s *chainScene) agree(t *testing.T, treasury string) map[ledger.Account]nanoton.Amount {
	t.Helper()
	books := s.g.balances(t)
	var sum nanoton.Amount
	for _, a := range books {
		sum += a
	}
	if sum != 0 {
		t.Errorf("the ledger's accounts add up to %v", sum)
	}
	if on := s.holds(t, treasury); on != -books["chain"] {
		t.Errorf("the treasury holds %v, by the ledger %v", on, -books["chain"])
	}
	if out := s.g.operate(t, "audit"); !strings.Contains(out, "all of it holds") {
		t.Errorf("audit: %s", out)
	}
	return books
}

// TestMoney is the path of the money: paid in on the chain, spent through a stock client, paid out to the worker on the
// chain, and what is left to the customer.
func TestMoney(t *testing.T) {
	t.Parallel()
	s := newChainScene(t)
	before := s.account(t)
	treasury := before.Deposit.Address
	if before.Balance != 0 || !strings.HasPrefix(before.Deposit.Link, "ton://transfer/"+treasury) ||
		!strings.HasPrefix(before.Deposit.QR, "data:image/png;base64,") {
		t.Fatalf("a new account: %+v", before)
	}
	s.pay(t, treasury, nanoton.PerTON, "capital")
	const paidIn = 5 * nanoton.PerTON
	began := time.Now()
	s.pay(t, treasury, paidIn, before.Deposit.Memo)
	eventually(t, chainMax, "the deposit can be spent", func() bool { return s.account(t).Available == paidIn })
	t.Logf("usable after %v", time.Since(began))

	payee := somebody("gpu owner")
	const earned = 3 * 5 * 100_000 // three times five tokens, paid at once: the chain would take rent from a first part
	engine := startEcho(t, "m")
	s.g.startWorkerWith(t, "one", engine, fmt.Sprintf(
		"price: {in: 100000000000, out: 100000000000}\npayout: {address: %s, min_nanoton: %d}\n", payee, earned))
	s.g.serves(t, startMax, "m")
	config := openai.DefaultConfig(s.g.key)
	config.BaseURL = s.g.base + "/v1"
	stock := openai.NewClientWithConfig(config)
	for range 3 {
		_, err := stock.CreateChatCompletion(t.Context(), openai.ChatCompletionRequest{
			Model: "m", MaxCompletionTokens: 20, Messages: []openai.ChatCompletionMessage{{Role: "user", Content: "hi"}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, chainMax, "the worker is paid on the chain", func() bool {
		s.g.operate(t, "payouts", "run") // it would be a minute until the treasury looks again
		return s.holds(t, payee) == earned
	})
	rest := s.account(t).Available
	home := somebody("customer")
	body := fmt.Sprintf(`{"id":"all of it","to":%q,"nanoton":%d}`, home, rest)
	for range 2 { // asking again changes nothing
		var w struct{ ID, State string }
		s.call(t, http.MethodPost, "/cocoon/v1/account/withdrawals", body, &w)
	}
	eventually(t, chainMax, "the customer has the rest", func() bool { return s.holds(t, home) == rest })
	eventually(t, chainMax, "the ledger has it too", func() bool { return s.g.balances(t)["payouts"] == 0 })

	books := s.agree(t, treasury)
	spent, worker := paidIn-rest, s.holds(t, payee)
	if books["customer:shop"] != 0 || books["fees"] != spent-worker || books["fees"] <= 0 {
		t.Errorf("the customer spent %v, the worker has %v, the books say %v", spent, worker, books)
	}
	// What was paid in is with the worker, the customer, and the treasury; the network has the rest.
	if network := nanoton.PerTON - books["network"]; s.holds(t, treasury)+worker+rest+network != paidIn+nanoton.PerTON || network <= 0 {
		t.Errorf("treasury %v, worker %v, customer %v, network %v", s.holds(t, treasury), worker, rest, network)
	}
	if status, text := s.try(t, http.MethodPost, "/cocoon/v1/account/withdrawals", `{"id":"more","to":"`+home+`","nanoton":1000000000}`); status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	eventually(t, chainMax, "what is not there is refused", func() bool {
		_, text := s.try(t, http.MethodGet, "/cocoon/v1/account/withdrawals", "")
		return bytes.Contains(text, []byte(`"refused"`))
	})
}

// TestStrayMoney pays in without a memo, and the operator sends it back.
func TestStrayMoney(t *testing.T) {
	t.Parallel()
	s := newChainScene(t)
	treasury := s.account(t).Deposit.Address
	s.pay(t, treasury, nanoton.PerTON, "capital")
	s.pay(t, treasury, 2*nanoton.PerTON, "shop") // no check digits
	id := regexp.MustCompile(`(?m)^([0-9a-f]{64})\s.*\bin\s+2 TON`)
	var found []string
	eventually(t, chainMax, "it is in suspense", func() bool {
		found = id.FindStringSubmatch(s.g.operate(t, "suspense", "list"))
		return found != nil
	})
	if a := s.account(t); a.Balance != 0 {
		t.Errorf("the account has %v", a.Balance)
	}
	plain := chainScene{s.net, &gateway{client: client{base: s.g.base, key: strings.TrimSpace(s.g.operate(t, "keys", "create", "plain", "--account", "shop"))}}, ""}
	eventually(t, startMax, "the plain key works", func() bool { return plain.g.models(t.Context()) != nil })
	for path, body := range map[string]string{
		"/cocoon/v1/account/withdrawals": `{"id":"w","to":"` + treasury + `","nanoton":1}`,
		"/cocoon/v1/account/tab":         `{"owner":"` + treasury + `"}`,
	} {
		if status, text := plain.try(t, http.MethodPost, path, body); status != http.StatusForbidden {
			t.Errorf("%s with a key that has not the scope: %d %s", path, status, text)
		}
	}
	s.g.operate(t, "suspense", "settle", found[1], "customer:shop")
	eventually(t, chainMax, "the account has it", func() bool { return s.account(t).Available == 2*nanoton.PerTON })
	s.agree(t, treasury)
}

// TestPayoutKills kills the gateway again and again while it pays.
func TestPayoutKills(t *testing.T) {
	t.Parallel()
	s := newChainScene(t)
	a := s.account(t)
	s.pay(t, a.Deposit.Address, nanoton.PerTON, "capital")
	s.pay(t, a.Deposit.Address, 50*nanoton.PerTON, a.Deposit.Memo)
	eventually(t, chainMax, "the deposit is there", func() bool { return s.account(t).Available == 50*nanoton.PerTON })
	const kills, each = 6, 3
	for kill := range kills {
		for n := range each {
			to := somebody(fmt.Sprintf("home %d %d", kill, n))
			status, text := s.try(t, http.MethodPost, "/cocoon/v1/account/withdrawals",
				fmt.Sprintf(`{"id":"w-%d-%d","to":%q,"nanoton":1000000000}`, kill, n, to))
			if status != http.StatusOK {
				t.Fatalf("%d %s", status, text)
			}
		}
		time.Sleep(time.Duration(kill) * 150 * time.Millisecond) // asked, set aside, signed, sent, or paid by now
		s.g.kill(t)
		s.g.restart(t)
	}
	eventually(t, chainMax, "all are paid", func() bool {
		for kill := range kills {
			for n := range each {
				if s.holds(t, somebody(fmt.Sprintf("home %d %d", kill, n))) != nanoton.PerTON {
					return false
				}
			}
		}
		return true
	})
	eventually(t, chainMax, "the ledger has it", func() bool { return s.g.balances(t)["payouts"] == 0 })
	if books := s.agree(t, a.Deposit.Address); books["customer:shop"] != (50-kills*each)*nanoton.PerTON {
		t.Errorf("the customer has %v", books["customer:shop"])
	}
}

// TestTabs is the other way: the customer's money stays in a contract of his, from which the gateway draws; the worker holds
// signed vouchers. Then the gateway is gone for good, and both get their own without it.
func TestTabs(t *testing.T) {
	t.Parallel()
	s := newChainScene(t)
	dir := t.TempDir()
	words, walletFile, kit := filepath.Join(dir, "words"), filepath.Join(dir, "wallet.key"), filepath.Join(dir, "kit.json")
	writeFile(t, words, "of the owner\n")
	sealKey(t, walletFile, "of the owner", "tab owner")
	treasury := s.account(t).Deposit.Address
	s.pay(t, treasury, 20*nanoton.PerTON, "capital")

	out := s.cocoon(t, "wallet", "show", "--wallet", walletFile, "--passphrase-file", words, "--network", s.file)
	owner := regexp.MustCompile(`UQ[\w-]{46}`).FindString(out)
	if owner == "" {
		t.Fatalf("no address: %s", out)
	}
	s.pay(t, owner, nanoton.PerTON, "")
	at := regexp.MustCompile(`UQ[\w-]{46}`).FindString(s.cocoon(t, "tab", "open", "--owner", owner))
	s.cocoon(t, "tab", "kit", "--out", kit)
	const paidIn = 10 * nanoton.PerTON
	s.pay(t, at, paidIn, "")
	eventually(t, chainMax, "what the tab holds can be spent", func() bool { return s.account(t).Available > paidIn*99/100 })

	payee := somebody("patient gpu owner")
	w := s.g.startWorkerWith(t, "one", startEcho(t, "m"),
		"price: {in: 900000000000, out: 900000000000}\npayout: {address: "+payee+", min_nanoton: 1000000000000}\n")
	s.g.serves(t, startMax, "m")
	const asked, collateral = 30, nanoton.PerTON / 10
	for range asked {
		if r := s.g.ask(t, prompt("m", "hi")); r.text != "hello" {
			t.Fatalf("%v", r)
		}
	}
	const earned = asked * 5 * 900_000
	eventually(t, chainMax, "the worker holds a voucher for all of it", func() bool {
		out, _, code := command(t, "cocoon-worker", "vouchers", "list", "--config", w.config)
		return code == 0 && strings.Contains(out, nanoton.Amount(earned).String())
	})
	s.net.SkewClock(25 * time.Hour) // by when spending is drawn, however little it is
	spent := nanoton.Amount(earned * 105 / 100)
	drawn := func() bool {
		return s.holds(t, at) < paidIn-spent && s.holds(t, at) > paidIn-spent-nanoton.PerTON/100
	}
	eventually(t, chainMax, "the gateway draws what was spent", drawn)
	eventually(t, chainMax, "the books have it", func() bool {
		books := s.g.balances(t)
		return books["transit"] == 0 && -books["chain"] == s.holds(t, treasury) && -books["tab:shop"] == s.holds(t, at)
	})
	s.agree(t, treasury)
	if root := s.root(t, at); root == [32]byte{} {
		t.Error("the draw commits to no log of receipts")
	}
	s.g.kill(t)

	if out, problem, code := command(t, "cocoon-worker", "vouchers", "claim", "--config", w.config, "--network", s.file); code != 0 {
		t.Fatalf("claiming: %s%s", out, problem)
	}
	if got := s.holds(t, payee); got < collateral*9/10 || got > collateral {
		t.Errorf("the worker claimed %v of a collateral of %v", got, collateral)
	}
	alone := []string{"--kit", kit, "--network", s.file, "--wallet", walletFile, "--passphrase-file", words, "--yes"}
	s.cocoon(t, append([]string{"tab", "close"}, alone...)...)
	if got := s.holds(t, owner); got > nanoton.PerTON {
		t.Errorf("the owner has %v before the delay is over", got)
	}
	s.net.SkewClock(25 * time.Hour)
	s.cocoon(t, append([]string{"tab", "finish"}, alone...)...)
	eventually(t, chainMax, "the owner has the rest", func() bool { return s.holds(t, owner) > paidIn-spent })
}

// root is the root of the log of receipts that a tab's last draw committed to, proven.
func (s *chainScene) root(t *testing.T, address string) [32]byte {
	t.Helper()
	network, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	a, err := ton.ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ton.Open(t.Context(), ton.Config{Network: network, Now: s.net.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	head, err := c.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	account, err := c.Account(t.Context(), head, a)
	if err != nil {
		t.Fatal(err)
	}
	state, err := tab.ParseState(account)
	if err != nil {
		t.Fatal(err)
	}
	return state.Root
}

// cocoon runs the user's program with the key, and returns what it printed.
func (s *chainScene) cocoon(t *testing.T, args ...string) string {
	t.Helper()
	if args[0] == "tab" && (args[1] == "open" || args[1] == "kit") {
		key := filepath.Join(t.TempDir(), "key")
		writeFile(t, key, s.g.key+"\n")
		args = append(args, "--base-url", s.g.base+"/v1", "--key-file", key)
	}
	out, problem, code := command(t, "cocoon", args...)
	if code != 0 {
		t.Fatalf("cocoon %v: exit code %d: %s%s", args, code, out, problem)
	}
	return out
}
