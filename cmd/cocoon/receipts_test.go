package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"cocoon/attest"
	"cocoon/internal/nanoton"
	"cocoon/internal/receipt"
	"cocoon/internal/treeproof"
	"cocoon/router/offer"
)

const logName = "gateway.example.com/receipts"

func signingKey(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, 32))
}

// paid is a world with a worker that signs receipts.
type paid struct {
	*world
	keyset   []byte // its text
	evidence string // file
	files    int    // that were written
}

func newPaid(t *testing.T) *paid {
	t.Helper()
	p := &paid{world: newWorld(t)}
	p.evidence = p.saved(t, "evidence.json", func(*attest.Keyset) {})
	m, err := loadSaved(p.evidence)
	if err != nil {
		t.Fatal(err)
	}
	e, err := attest.ParseEvidence(m.evidence)
	if err != nil {
		t.Fatal(err)
	}
	p.keyset = e.Keyset
	return p
}

// saved is a file of evidence of the worker with a keyset.
func (p *paid) saved(t *testing.T, name string, change func(*attest.Keyset)) string {
	t.Helper()
	k := keyset(attest.Worker, 2, attest.Digest{})
	k.Receipt = signingKey(1).Public().(ed25519.PublicKey)
	k.Models = []attest.Model{{Name: "tiny", WeightsDigest: "sha256:" + strings.Repeat("ab", 32), Engine: "ollama 0.17.4"}}
	change(&k)
	nonce := attest.NewNonce()
	r := p.relayed(t, nonce, k)
	path := filepath.Join(p.dir, name)
	m := &machine{role: k.Role, nonce: nonce, proof: &r.Proof, evidence: r.Evidence}
	if err := writeSaved(path, m, time.Now()); err != nil {
		t.Fatal(err)
	}
	return path
}

// receipt is the first one of a request.
func (p *paid) receipt() receipt.Receipt {
	now := time.Now().UnixMilli()
	return receipt.Receipt{
		Request: "req_" + strings.Repeat("0a", 16), Worker: receipt.Digest(id(2)), Epoch: 1, Keyset: sha256.Sum256(p.keyset),
		Model: "tiny", Weights: receipt.Digest(bytes.Repeat([]byte{0xab}, 32)), Engine: sha256.Sum256([]byte("ollama 0.17.4")),
		Mode: receipt.Simulated, Kind: receipt.Interim, Status: receipt.OK, Tokens: offer.Usage{In: 100, Cached: 40, Out: 30},
		Price: offer.Price{In: 10_000, Cached: 1000, Out: 30_001}, Cost: 2, Req: receipt.Digest{7}, Start: now, End: now + 1,
	}
}

// forge signs whatever it gets.
func forge(t *testing.T, r receipt.Receipt, key ed25519.PrivateKey) *receipt.Signed {
	t.Helper()
	good := r
	good.Cost, _ = r.Price.Cost(r.Tokens)
	s, err := receipt.Sign(good, key)
	if err != nil {
		t.Fatal(err)
	}
	cost := func(a nanoton.Amount) string { return fmt.Sprintf("\ncost %d nanoTON\n", int64(a)) }
	text, _, _ := strings.Cut(string(s.Wire()), "signature ")
	text = strings.Replace(text, cost(good.Cost), cost(r.Cost), 1)
	sum := sha256.Sum256([]byte("cocoon/receipt/v1\x00" + text))
	s, err = receipt.Parse(fmt.Appendf(nil, "%ssignature %s\n", text, base64.StdEncoding.EncodeToString(ed25519.Sign(key, sum[:]))))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// write makes a file of receipts, each signed by the worker.
func (p *paid) write(t *testing.T, list ...receipt.Receipt) string {
	t.Helper()
	var text []byte
	for _, r := range list {
		text = forge(t, r, signingKey(1)).Append(text)
	}
	p.files++
	return p.file(t, fmt.Sprintf("receipts-%d.txt", p.files), string(text))
}

func after(t *testing.T, r receipt.Receipt, kind receipt.Kind) receipt.Receipt {
	r.Prev, r.Seq, r.Kind = forge(t, r, signingKey(1)).ID(), r.Seq+1, kind
	r.Tokens.Out += 100
	r.Cost, _ = r.Price.Cost(r.Tokens)
	r.End += 10
	return r
}

// judge runs the command on the receipts with the evidence.
func (p *paid) judge(t *testing.T, args ...string) output {
	t.Helper()
	return p.run(t, append([]string{"receipts", "verify", "--policy", p.policy, "--cache", p.dir}, args...)...)
}

func (p *paid) run(t *testing.T, args ...string) output {
	t.Helper()
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	status := run(args, streams{out: files[0], err: files[1]})
	var texts [2]string
	for i, f := range files {
		text, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = string(text)
	}
	o := output{status, texts[0], texts[1]}
	if strings.HasPrefix(o.last(), "VERIFIED") {
		t.Errorf("simulated hardware is verified:\n%s", o.out)
	}
	return o
}

const simulatedLast = "\nSIMULATED, NOT VERIFIED: "

func TestReceiptsVerify(t *testing.T) {
	p := newPaid(t)
	a := p.receipt()
	b := after(t, a, receipt.Interim)
	c := after(t, b, receipt.Final)
	all := p.write(t, a, b, c)
	p.judge(t, all, "--evidence", p.evidence).want(t, exitRejected, simulatedLast+"3 of 3 receipts", "PASS  receipt.signature",
		"PASS  receipt.keyset", "PASS  receipt.worker", "PASS  receipt.time", "PASS  receipt.model", "PASS  receipt.cost",
		"PASS  receipt.chain", "PASS  receipt.mode", "PASS  evidence.verdict", "cost: 8 nanoTON", "\nworker ")
	p.judge(t, "--evidence="+p.evidence, p.write(t, c)).want(t, exitRejected, simulatedLast, "the 2 receipts of the request before")
	p.judge(t, p.write(t, a, a, b, b), "--evidence", p.evidence).want(t, exitRejected, simulatedLast, "it is there twice")
	p.judge(t, all).want(t, exitUnsupported, "\nUNSUPPORTED: 3 of 3 receipts", "--evidence FILE names it")
	other := p.saved(t, "other.json", func(k *attest.Keyset) { k.Epoch = 7 })
	p.judge(t, all, "--evidence", other).want(t, exitInput, "signed none of the receipts")
	for name, text := range map[string]string{
		"keyset":  string((&receipt.Item{Signed: forge(t, a, signingKey(1)), Keyset: p.keyset}).Append(nil)),
		"another": string((&receipt.Item{Signed: forge(t, a, signingKey(2)), Keyset: p.keyset}).Append(nil)),
		"wrong":   string((&receipt.Item{Signed: forge(t, a, signingKey(1)), Keyset: []byte("{}")}).Append(nil)),
	} {
		o := p.judge(t, p.file(t, name, text))
		switch name {
		case "keyset":
			o.want(t, exitUnsupported, "PASS  receipt.signature")
		case "another":
			o.want(t, exitRejected, "\nREJECTED: receipt ", "receipt.signature")
		default:
			o.want(t, exitRejected, "\nREJECTED: receipt ", "receipt.keyset")
		}
	}
}

// What a gateway gives: receipts of a batch, with keyset, and the evidence that it judged itself.
func TestReceiptsOfGateway(t *testing.T) {
	p := newPaid(t)
	nonce, binder := attest.NewNonce(), attest.NewNonce()
	e, err := attest.Collect(t.Context(), p.machine[attest.Worker], p.keyset, nonce, binder)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string, binder attest.Digest) string {
		return p.file(t, name, fmt.Sprintf(`{"v":1,"role":"worker","nonce":"%s","binder":"%s","evidence":%s,"at":"%s"}`,
			nonce, binder, text, time.Now().Format(time.RFC3339)))
	}
	evidence := file("judged.json", binder)
	var list []receipt.Receipt
	for i := range 3 {
		r := p.receipt()
		r.Request, r.Kind = fmt.Sprintf("req_%032x", i), receipt.Final
		list = append(list, r)
	}
	batch, err := receipt.SignBatch(list, signingKey(1))
	if err != nil {
		t.Fatal(err)
	}
	item := receipt.Item{Signed: batch[1], Keyset: p.keyset}
	one := p.file(t, "one", string(item.Append(nil)))
	all := p.file(t, "all", string(batch[0].Append(item.Append(batch[2].Wire()))))
	p.judge(t, one, "--evidence", evidence).want(t, exitRejected, simulatedLast, "PASS  receipt.signature", "PASS  evidence.verdict")
	p.judge(t, all, "--evidence", evidence).want(t, exitRejected, simulatedLast+"3 of 3 receipts")
	p.judge(t, one, "--evidence", file("other.json", nonce)).want(t, exitRejected, "\nREJECTED: receipt ", "cpu.report_data")
	p.judge(t, one, "--evidence", file("none.json", attest.Digest{})).want(t, exitRejected, "\nREJECTED: receipt ", "cpu.report_data")
	single := forge(t, list[1], signingKey(2)) // a worker's word, once it has signed all of them again
	p.judge(t, p.file(t, "single", string(single.Wire())), "--evidence", evidence).want(t, exitRejected, "\nREJECTED: receipt ")
	signature, err := receipt.SignIDs([]receipt.Digest{batch[2].ID(), single.ID(), batch[0].ID()}, signingKey(1))
	if err != nil {
		t.Fatal(err)
	}
	verifier := receipt.NewVerifier(signingKey(1).Public().(ed25519.PublicKey))
	if err := verifier.Share([]*receipt.Signed{batch[2], single, batch[0]}, signature); err != nil {
		t.Fatal(err)
	}
	countersigned := p.file(t, "countersigned", string((&receipt.Item{Signed: single, Keyset: p.keyset}).Append(nil)))
	p.judge(t, countersigned, "--evidence", evidence).want(t, exitRejected, simulatedLast, "PASS  receipt.signature", "PASS  evidence.verdict")
	moved := strings.Replace(string(batch[1].Wire()), "batch index 1 ", "batch index 0 ", 1)
	p.judge(t, p.file(t, "moved", moved), "--evidence", evidence).want(t, exitRejected, "\nREJECTED: receipt ", "receipt.signature")
	p.run(t, "verify", evidence, "--policy", p.policy, "--cache", p.dir).want(t, exitRejected, "\nSIMULATED, NOT VERIFIED: ")
	for name, change := range map[string][2]string{
		"role":  {`"role":"worker"`, `"role":"gateway"`},
		"proof": {`"binder"`, `"proof":{"index":0,"size":1,"path":[]},"binder"`},
	} {
		text, err := os.ReadFile(evidence)
		if err != nil {
			t.Fatal(err)
		}
		bad := p.file(t, name, strings.Replace(string(text), change[0], change[1], 1))
		p.judge(t, one, "--evidence", bad).want(t, exitInput, "is no saved evidence")
	}
}

// Whatever a signer says that its keyset, its sums or its own earlier words don't, is rejected.
func TestReceiptsRejected(t *testing.T) {
	p := newPaid(t)
	for name, c := range map[string]struct {
		change func(*receipt.Receipt)
		check  string
	}{
		"cost +1":     {func(r *receipt.Receipt) { r.Cost++ }, "receipt.cost: got 6, want 5"},
		"cost -1":     {func(r *receipt.Receipt) { r.Cost-- }, "receipt.cost: got 4, want 5"},
		"huge cost":   {func(r *receipt.Receipt) { r.Cost = math.MaxInt64 }, "receipt.cost: got"},
		"worker":      {func(r *receipt.Receipt) { r.Worker[3]++ }, "receipt.worker"},
		"epoch":       {func(r *receipt.Receipt) { r.Epoch++ }, "receipt.worker"},
		"early":       {func(r *receipt.Receipt) { r.Start -= 3_600_000 }, "receipt.time"},
		"late":        {func(r *receipt.Receipt) { r.End += 25 * 3_600_000 }, "receipt.time"},
		"model":       {func(r *receipt.Receipt) { r.Model = "huge" }, "receipt.model"},
		"weights":     {func(r *receipt.Receipt) { r.Weights[3]++ }, "receipt.model"},
		"no engine":   {func(r *receipt.Receipt) { r.Engine = receipt.Digest{} }, "receipt.model"},
		"mode":        {func(r *receipt.Receipt) { r.Mode = receipt.Gateway }, "receipt.mode"},
		"keyset":      {func(r *receipt.Receipt) { r.Keyset[3]++ }, "evidence of other machines only"},
		"prev":        {func(r *receipt.Receipt) { r.Prev[3]++ }, "receipt.chain"},
		"gap":         {func(r *receipt.Receipt) { r.Seq++ }, "receipt.chain"},
		"fewer":       {func(r *receipt.Receipt) { r.Tokens.Out = 1; r.Cost = 1 }, "receipt.chain"},
		"other price": {func(r *receipt.Receipt) { r.Price.Out--; r.Cost, _ = r.Price.Cost(r.Tokens) }, "receipt.chain"},
		"same seq":    {func(r *receipt.Receipt) { r.Seq, r.Prev = 0, receipt.Digest{} }, "receipt.chain"},
	} {
		t.Run(name, func(t *testing.T) {
			a := p.receipt()
			b := after(t, a, receipt.Final)
			c.change(&b)
			p.judge(t, p.write(t, a, b), "--evidence", p.evidence).want(t, exitRejected, "\nREJECTED: ", " of 2 receipts; receipt ", c.check)
		})
	}
	a := p.receipt()
	b := after(t, a, receipt.Final)
	p.judge(t, p.write(t, b, a), "--evidence", p.evidence).want(t, exitRejected, "\nREJECTED: 1 of 2", "too late")
	bad := a
	bad.Cost++
	p.judge(t, p.write(t, bad)).want(t, exitRejected, "\nREJECTED: ", "receipt.cost") // without evidence, too
	old := a                                                                          // before keyset and policy: the evidence does not hold then
	old.Start -= 60 * 24 * 3_600_000
	p.judge(t, p.write(t, a, old), "--evidence", p.evidence).want(t, exitRejected, "\nREJECTED: 2 of 2", "evidence.verdict")
}

// Every byte of a receipt counts.
func TestReceiptsEveryByte(t *testing.T) {
	p := newPaid(t)
	text := forge(t, p.receipt(), signingKey(1)).Wire()
	m, err := loadSaved(p.evidence)
	if err != nil {
		t.Fatal(err)
	}
	by := &signer{machine: m, text: p.keyset}
	by.result = &attest.Result{Verdict: attest.Verified} // not so much as simulated
	for i := range text {
		b := bytes.Clone(text)
		b[i] ^= 1
		items, err := receipt.Read(b)
		if err != nil {
			continue
		}
		s := &slip{Item: items[0]}
		(&slipJudge{signers: []*signer{by}, chains: map[string]*receipt.Chain{}}).judge(s)
		if s.verdict != attest.Rejected {
			t.Fatalf("byte %d: %s", i, s.verdict)
		}
	}
}

func TestReceiptsLog(t *testing.T) {
	p := newPaid(t)
	a := forge(t, p.receipt(), signingKey(1))
	id, other := a.ID(), tlog.RecordHash([]byte("another record"))
	head := treeproof.Head{Origin: logName, Tree: tlog.Tree{N: 2, Hash: tlog.NodeHash(tlog.RecordHash(id[:]), other)}}
	note, err := head.Sign(signingKey(3))
	if err != nil {
		t.Fatal(err)
	}
	proof := (&treeproof.Proof{Index: 0, Path: tlog.RecordProof{other}, Head: note}).Append(nil)
	key := func(b byte) string {
		text, err := treeproof.VerifierText(logName, signingKey(b).Public().(ed25519.PublicKey))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	good := p.file(t, "good", string((&receipt.Item{Signed: a, Proof: proof}).Append(nil)))
	wrong := p.file(t, "wrong", string((&receipt.Item{Signed: a, Proof: bytes.Replace(proof, []byte("index 0"), []byte("index 1"), 1)}).Append(nil)))
	bare := p.file(t, "bare", string(a.Wire()))
	both := p.file(t, "both", strings.Repeat(string((&receipt.Item{Signed: a, Keyset: p.keyset, Proof: proof}).Append(nil)), 2))
	p.judge(t, good, "--evidence", p.evidence).want(t, exitRejected, simulatedLast, "PASS  log.inclusion", "index 0 of 2", "SKIP  log.head")
	p.judge(t, both, "--evidence", p.evidence, "--log-key", key(3)).want(t, exitRejected, simulatedLast, "PASS  log.head")
	p.judge(t, good, "--evidence", p.evidence, "--log-key", key(4)).want(t, exitRejected, "\nREJECTED: receipt ", "log.head")
	p.judge(t, wrong, "--evidence", p.evidence).want(t, exitRejected, "\nREJECTED: receipt ", "log.inclusion")
	p.judge(t, bare, "--evidence", p.evidence, "--log-key", key(3)).want(t, exitRejected, "\nREJECTED: receipt ", "log.inclusion", "no proof")
	p.judge(t, good, "--log-key", "x").want(t, exitInput, "--log-key")
}

func TestReceiptsJSON(t *testing.T) {
	p := newPaid(t)
	a := p.receipt()
	o := p.judge(t, "--json", p.write(t, a, after(t, a, receipt.Final)), "--evidence", p.evidence)
	var answer struct {
		Verdict  attest.Verdict
		Exit     int
		Receipts []struct {
			ID      string
			Request string
			Cost    int64 `json:"cost_nanoton"`
			Checks  []attest.Check
		}
		Machines []*attest.Result
	}
	if err := json.Unmarshal([]byte(o.out), &answer); err != nil {
		t.Fatalf("%v:\n%s", err, o.out)
	}
	if answer.Verdict != attest.Simulated || answer.Exit != exitRejected || o.status != exitRejected || len(answer.Receipts) != 2 ||
		len(answer.Machines) != 1 || answer.Receipts[1].Cost != 5 || len(answer.Receipts[0].Checks) < 8 ||
		len(answer.Receipts[0].ID) != 64 {
		t.Errorf("%+v", answer)
	}
}

func TestReceiptsInput(t *testing.T) {
	p := newPaid(t)
	good := p.write(t, p.receipt())
	gateway := p.saved(t, "gateway.json", func(k *attest.Keyset) { *k = keyset(attest.Gateway, 1, id(9)) })
	for _, c := range []struct {
		args []string
		text string
	}{
		{nil, "Name a file"},
		{[]string{filepath.Join(p.dir, "absent")}, "no such file"},
		{[]string{p.file(t, "empty", "")}, "malformed receipt"},
		{[]string{p.file(t, "garbage", "\x1b[2J\u202e")}, "malformed receipt"},
		{[]string{good, "--evidence", good}, "is no saved evidence"},
		{[]string{good, "--evidence", gateway}, "workers sign receipts"},
		{[]string{good, "--evidence", p.evidence, "--policy", filepath.Join(p.dir, "absent")}, "no policy"},
		{[]string{good, "--nonsense"}, "flag provided"},
		{slices.Concat([]string{good}, slices.Repeat([]string{"--evidence", "x"}, evidenceMax+1)), "at most"},
	} {
		p.judge(t, c.args...).want(t, exitInput, c.text)
	}
	p.run(t, "receipts").want(t, exitInput, "receipts does one thing")
	p.run(t, "receipts", "forge").want(t, exitInput, "receipts does one thing")
	if o := p.run(t, "receipts", "--help"); o.status != 0 || !strings.Contains(o.out, "receipts verify") {
		t.Errorf("%+v", o)
	}
	if o := p.run(t, "receipts", "verify", "--help"); o.status != 0 || !strings.Contains(o.out, "receipts verify") {
		t.Errorf("%+v", o)
	}
}

// What only Verified evidence can give.
func TestReceiptsLine(t *testing.T) {
	p := newPaid(t)
	a := p.receipt()
	b := after(t, a, receipt.Final)
	by := &signer{machine: &machine{name: "e", result: &attest.Result{Verdict: attest.Verified, Policy: "mine"}}, text: p.keyset}
	slips := func(mode receipt.Mode) (list []*slip) {
		j := &slipJudge{signers: []*signer{by}, chains: map[string]*receipt.Chain{}}
		prev := receipt.Digest{}
		for _, r := range []receipt.Receipt{a, b} {
			r.Mode, r.Prev = mode, prev
			s := &slip{Item: receipt.Item{Signed: forge(t, r, signingKey(1))}}
			prev = s.ID()
			j.judge(s)
			list = append(list, s)
		}
		return list
	}
	verdict, line := receiptsLine(slips(receipt.Gateway), []*signer{by})
	want := "VERIFIED: receipts: 2, requests: 1, cost: 5 nanoTON (0.000000005 TON), under policy mine"
	if verdict != attest.Verified || line != want {
		t.Errorf("%s %q, want %q", verdict, line, want)
	}
	if verdict, line = receiptsLine(slips(receipt.Simulated), []*signer{by}); verdict != attest.Simulated {
		t.Errorf("%s %q", verdict, line)
	}
	if verdict, line = receiptsLine(slips(receipt.Unprotected), []*signer{by}); verdict != attest.Verified {
		t.Errorf("%s %q", verdict, line)
	}
	if notes := slips(receipt.Unprotected)[0].notes; len(notes) != 1 || !strings.Contains(notes[0], "could read it") {
		t.Errorf("%q", notes)
	}
	by.result = &attest.Result{Verdict: attest.Unsupported}
	if verdict, line = receiptsLine(slips(receipt.Gateway), []*signer{by}); verdict != attest.Unsupported {
		t.Errorf("%s %q", verdict, line)
	}
	if verdict, line = receiptsLine(nil, nil); verdict != attest.Rejected {
		t.Errorf("%s %q", verdict, line)
	}
}
