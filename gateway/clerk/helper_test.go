package clerk

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"cocoon/attest"
	"cocoon/billing"
	"cocoon/billing/journal"
	"cocoon/billing/ledger"
	"cocoon/billing/tally"
	"cocoon/internal/nanoton"
	"cocoon/internal/receipt"
	"cocoon/internal/recordfile"
	"cocoon/router/offer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const alice = ledger.Account("customer:alice")

var errFault = errors.New("injected")

func key(b byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, 32)) }

// office is a gateway's money in one folder: ledger, Desk, log of receipts, clerk.
type office struct {
	t      testing.TB
	dir    string
	ledger *ledger.Ledger
	desk   *billing.Desk
	log    *tally.Log
	clerk  *Clerk
	faults faults
	// journal is the Desk's. Tests don't wait between two writes.
	journal journal.Options
	stop    func()
	lines   bytes.Buffer
}

// faults come between the clerk and what is below. The zero value has none.
type faults struct {
	mu     sync.Mutex
	dead   bool // all fails: the process is killed
	fail   string
	after  bool // it fails, but persists
	counts map[string]int
}

// do does an operation, or fails it as it is told to.
func (f *faults) do(name string, do func() error) error {
	f.mu.Lock()
	dead, hit, after := f.dead, f.fail == name, f.after
	if hit {
		f.fail = ""
	}
	if f.counts == nil {
		f.counts = map[string]int{}
	}
	f.counts[name]++
	f.mu.Unlock()
	if dead {
		return errFault
	}
	if !hit {
		return do()
	}
	if after {
		_ = do()
	}
	return errFault
}

func (f *faults) set(change func(*faults)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// faultDesk is a Desk that fails as it is told to.
type faultDesk struct {
	*billing.Desk
	f *faults
}

func (d faultDesk) Hold(ctx context.Context, h billing.Hold) error {
	return d.f.do("hold", func() error { return d.Desk.Hold(ctx, h) })
}

func (d faultDesk) Void(ctx context.Context, id ledger.ID) error {
	return d.f.do("void", func() error { return d.Desk.Void(ctx, id) })
}

func (d faultDesk) Sync(ctx context.Context) error {
	return d.f.do("sync holds", func() error { return d.Desk.Sync(ctx) })
}

func (d faultDesk) SettleAll(ctx context.Context, s []billing.Settlement) []error {
	errs := make([]error, len(s))
	err := d.f.do("settle", func() error { errs = d.Desk.SettleAll(ctx, s); return nil })
	if err != nil {
		errs = slices.Repeat([]error{err}, len(s))
	}
	return errs
}

// faultDisk is a disk of the log that fails as it is told to.
type faultDisk struct {
	*os.File
	f *faults
}

func (d faultDisk) WriteAt(b []byte, at int64) (int, error) {
	return len(b), d.f.do("write "+filepath.Base(d.Name()), func() error { _, err := d.File.WriteAt(b, at); return err })
}

func (d faultDisk) Sync() error { return d.f.do("sync "+filepath.Base(d.Name()), d.File.Sync) }

// newOffice opens one with money for alice.
func newOffice(t testing.TB, money nanoton.Amount) *office {
	t.Helper()
	o := &office{t: t, dir: t.TempDir()}
	if _, ok := t.(*testing.B); !ok {
		o.journal.Every = -1
	}
	l, err := ledger.Open(context.Background(), "sqlite:"+filepath.Join(o.dir, "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	o.ledger = l
	t.Cleanup(func() { _ = l.Close() })
	err = l.Post(context.Background(), []ledger.Transfer{{
		ID: ledger.ID{1}, Kind: "test", At: time.Now(),
		Legs: []ledger.Leg{{Account: "test", Amount: -money}, {Account: alice, Amount: money}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	o.open()
	return o
}

// open opens what is above the ledger, and runs it.
func (o *office) open() {
	o.t.Helper()
	o.faults = faults{}
	log := slog.New(slog.NewTextHandler(&locked{w: &o.lines}, nil))
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	o.desk, err = billing.Open(ctx, billing.Config{
		Ledger: o.ledger, Dir: filepath.Join(o.dir, "journal"), Deadline: 20 * time.Minute, Journal: o.journal, Log: log,
	})
	if err == nil {
		o.log, err = tally.Open(tally.Config{
			Dir: filepath.Join(o.dir, "receipts"), Origin: "test/receipts", Key: key(99), Log: log,
			Wrap: func(f *os.File) recordfile.Disk { return faultDisk{f, &o.faults} },
		})
	}
	if err == nil {
		o.clerk, err = Open(Config{
			Desk: faultDesk{o.desk, &o.faults}, Log: o.log, Dir: filepath.Join(o.dir, "keysets"), Tag: [4]byte{7, 7, 7, 7}, Logger: log,
		})
	}
	if err != nil {
		o.t.Fatal(err)
	}
	late, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := o.clerk.Run(ctx); err != nil {
			o.t.Error(err)
		}
		stop()
	})
	wg.Go(func() {
		if err := o.desk.Run(late); err != nil {
			o.t.Error(err)
		}
	})
	o.stop = func() {
		cancel()
		wg.Wait()
		if err := errors.Join(o.log.Close(), o.desk.Close()); err != nil && !o.faults.dead {
			o.t.Error(err)
		}
	}
}

// crash stops all as a kill does: nothing reaches the disk from now on.
func (o *office) crash() {
	o.faults.set(func(f *faults) { f.dead = true })
	o.stop()
	o.open()
}

// locked is a writer for many.
type locked struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// close stops all, and checks what must hold whatever happened.
func (o *office) close() {
	o.t.Helper()
	if s := o.desk.Stats(); s.Open != 0 {
		o.t.Errorf("%d holds are left over", s.Open)
	}
	if s := o.clerk.Stats(); s.Open != 0 || s.Waiting != 0 || s.Queued != 0 {
		o.t.Errorf("left over: %d open, %d waiting, %d queued", s.Open, s.Waiting, s.Queued)
	}
	o.stop()
	if report, err := o.ledger.Audit(context.Background()); err != nil || !report.OK() {
		o.t.Errorf("%+v, %v", report, err)
	}
}

func (o *office) balance(a ledger.Account) nanoton.Amount {
	o.t.Helper()
	n, err := o.ledger.Balance(context.Background(), a)
	if err != nil {
		o.t.Fatal(err)
	}
	return n
}

// paid is what each request cost, by the user that stands for it.
func (o *office) paid() map[string]nanoton.Amount {
	o.t.Helper()
	m := map[string]nanoton.Amount{}
	err := o.ledger.Usage(context.Background(), ledger.UsageQuery{}, func(u ledger.UsageLine) error {
		if u.Requests != 1 {
			o.t.Errorf("%s is counted %d times", u.User, u.Requests)
		}
		m[u.User] += u.Cost
		return nil
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return m
}

// Prices of the tests: a token in costs a worker's 1 nanoTON and the customer 2, one out 3 and 5.
func ask() offer.Price   { return offer.Price{In: 1_000_000, Cached: 500_000, Out: 3_000_000} }
func price() offer.Price { return offer.Price{In: 2_000_000, Cached: 1_000_000, Out: 5_000_000} }

// fakeWorker signs real receipts and keeps them until they are acknowledged.
type fakeWorker struct {
	t        testing.TB
	key      ed25519.PrivateKey
	id       receipt.Digest
	keyset   receipt.Digest
	evidence *attest.Evidence

	mu      sync.Mutex
	kept    []*receipt.Signed
	running map[string]bool   // requests: their receipts are not presented
	settled map[string]int    // acknowledged, by request
	refused map[string]string // why
	asked   int
	broken  error
	signs   int                                                   // times that it was asked for a countersignature
	sign    func(ctx context.Context, ask []byte) ([]byte, error) // what it does then; nil: as it should
}

func newWorker(t testing.TB, n byte) *fakeWorker {
	t.Helper()
	w := &fakeWorker{
		t: t, key: key(n), id: receipt.Digest{n, 1}, settled: map[string]int{}, refused: map[string]string{},
		running: map[string]bool{},
	}
	w.newKeyset(1)
	return w
}

func (w *fakeWorker) newKeyset(epoch uint64) {
	text, err := json.Marshal(attest.Keyset{
		V: attest.Version, Role: attest.Worker, ID: attest.Digest(w.id), Epoch: epoch,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(12 * time.Hour), TLS: attest.Digest(w.id),
		HPKE: &attest.HPKEKey{KEM: 1, Public: []byte{1}}, Receipt: w.key.Public().(ed25519.PublicKey),
		Models: []attest.Model{{Name: "tiny", WeightsDigest: fmt.Sprintf("sha256:%064x", 5), Engine: "engine 1"}, {Name: "plain"}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.keyset = sha256.Sum256(text)
	w.evidence = &attest.Evidence{
		V: attest.Version, Nonce: attest.NewNonce(), TEE: attest.SNP, CPU: []byte{1}, Keyset: text, Devices: []byte("[]"),
	}
}

// meet is what the gateway does when the worker's evidence has passed.
func (w *fakeWorker) meet(c *Clerk) {
	w.t.Helper()
	if id, err := c.Meet(w.evidence, attest.NewNonce()); err != nil || id != w.keyset {
		w.t.Fatalf("%v, %v", id, err)
	}
}

// exchange is the worker's end of an exchange.
func (w *fakeWorker) exchange(_ context.Context, text []byte) ([]byte, error) {
	acks, err := receipt.ParseAcks(text)
	if err != nil {
		w.t.Error(err)
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	if w.broken != nil {
		return nil, w.broken
	}
	gone := map[receipt.Digest]string{}
	for _, id := range acks.Settled {
		gone[id] = ""
	}
	for _, r := range acks.Refused {
		gone[r.ID] = r.Why
	}
	var answer []byte
	kept := w.kept[:0:0]
	for _, r := range w.kept {
		why, ok := gone[r.ID()]
		switch {
		case !ok:
			kept = append(kept, r)
			if !w.running[r.Request] {
				answer = r.Append(answer)
			}
		case why == "":
			w.settled[r.Request]++
		default:
			w.refused[r.Request] = why
		}
	}
	w.kept = kept
	return answer, nil
}

// public is the key that its keyset names.
func (w *fakeWorker) public() ed25519.PublicKey { return key(w.id[0]).Public().(ed25519.PublicKey) }

// setKey has it sign with another key from now on.
func (w *fakeWorker) setKey(k ed25519.PrivateKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.key = k
}

// link is how the clerk speaks to it.
func (w *fakeWorker) link() Link { return Link{Exchange: w.exchange, Countersign: w.countersign} }

// countersign is the worker's end of a countersignature.
func (w *fakeWorker) countersign(ctx context.Context, ask []byte) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.signs++
	if w.sign != nil {
		return w.sign(ctx, ask)
	}
	if len(ask) < 3*len(w.keyset) || receipt.Digest(ask[:len(w.keyset)]) != w.keyset {
		return nil, errFault
	}
	var ids []receipt.Digest
	for part := range slices.Chunk(ask[len(w.keyset):], len(w.keyset)) {
		id := receipt.Digest(part)
		if !slices.ContainsFunc(w.kept, func(r *receipt.Signed) bool { return r.ID() == id }) {
			return nil, errFault
		}
		ids = append(ids, id)
	}
	signature, err := receipt.SignIDs(ids, w.key)
	return signature[:], err
}

// keep has the worker keep a receipt in place of the request's one before.
func (w *fakeWorker) keep(r *receipt.Signed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept = slices.DeleteFunc(w.kept, func(o *receipt.Signed) bool { return o.Request == r.Request })
	w.kept = append(w.kept, r)
	if r.Kind == receipt.Final {
		delete(w.running, r.Request)
	}
}

// die has the worker forget what runs, but not what it signed.
func (w *fakeWorker) die() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.running)
}

// job is a request at a worker.
type job struct {
	w    *fakeWorker
	next receipt.Receipt
}

func (w *fakeWorker) job(t *Terms) *job {
	now := time.Now().UnixMilli()
	w.mu.Lock()
	w.running[t.Request] = true
	w.mu.Unlock()
	return &job{w, receipt.Receipt{
		Request: t.Request, Worker: w.id, Epoch: 1, Keyset: t.Keyset, Model: t.Model, Weights: receipt.Digest{31: 5},
		Engine: sha256.Sum256([]byte("engine 1")), Mode: t.Mode, Kind: receipt.Interim, Status: receipt.OK, Price: t.Ask, Req: t.Req,
		Start: now, End: now,
	}}
}

// sign signs the next receipt and keeps it. change may spoil it.
func (j *job) sign(kind receipt.Kind, status receipt.Status, u offer.Usage, change ...func(*receipt.Receipt)) *receipt.Signed {
	j.w.t.Helper()
	r := j.next
	r.Kind, r.Status, r.Tokens, r.End = kind, status, u, max(r.End, time.Now().UnixMilli())
	for _, f := range change {
		f(&r)
	}
	var err error
	if r.Cost, err = r.Price.Cost(r.Tokens); err != nil {
		j.w.t.Fatal(err)
	}
	s, err := receipt.Sign(r, j.w.key)
	if err != nil {
		j.w.t.Fatal(err)
	}
	j.next = r
	j.next.Seq, j.next.Prev = r.Seq+1, s.ID()
	j.w.keep(s)
	return s
}

func (j *job) interim(out int64) *receipt.Signed {
	return j.sign(receipt.Interim, receipt.OK, offer.Usage{In: 10, Out: out})
}

func (j *job) final(out int64) *receipt.Signed {
	return j.sign(receipt.Final, receipt.OK, offer.Usage{In: 10, Out: out})
}

// cost is what that costs the customer.
func cost(out int64) nanoton.Amount { return nanoton.Amount(2*10 + 5*out) }

// terms are a request's, which is named by a number. The end user stands for it.
func (w *fakeWorker) terms(n int) *Terms {
	return &Terms{
		Request: fmt.Sprintf("req_%016x07070707%07x0", n+1, n), Account: alice, Key: "k1", User: fmt.Sprint("user-", n),
		Worker: w.id, Keyset: w.keyset, Model: "tiny", Mode: receipt.Gateway, Ask: ask(), Price: price(), InMax: 100, OutMax: 1000,
		Req: receipt.Digest{1, byte(n)},
	}
}

// begin holds money for a request, and has the worker begin it.
func (o *office) begin(w *fakeWorker, t *Terms) (*Bill, *job) {
	o.t.Helper()
	b, err := o.clerk.Hold(context.Background(), t, 5200)
	if err != nil {
		o.t.Fatal(err)
	}
	return b, w.job(t)
}

func take(t testing.TB, b *Bill, r *receipt.Signed) {
	t.Helper()
	if err := b.Take(bytes.TrimSuffix(r.Wire(), []byte("\n"))); err != nil {
		t.Fatal(err)
	}
}

// sleep lets time pass in a bubble, and everything that is due then come to its end.
func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
