package gateway

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"cocoon/attest"
	"cocoon/billing"
	"cocoon/billing/ledger"
	"cocoon/billing/tally"
	"cocoon/gateway/accounts"
	"cocoon/gateway/clerk"
	"cocoon/gateway/rates"
	"cocoon/internal/durable"
	"cocoon/internal/receipt"
	"cocoon/internal/treeproof"
	"cocoon/internal/tunnel"
)

// Names in the data folder.
const (
	JournalDir  = "journal"  // of requests held, settled, voided
	ReceiptsDir = "receipts" // the log of receipts
	KeysetsDir  = "keysets"  // which receipts are signed under, with their evidence

	logKeyFile = "log-key.pem"
	logKeyType = "PRIVATE KEY" // PKCS #8
)

// money is everything that bills. Without billing only the ledger and the book are there.
type money struct {
	ledger *ledger.Ledger
	book   *accounts.Book
	desk   *billing.Desk
	log    *tally.Log
	clerk  *clerk.Clerk
	logKey string      // of the log of receipts, as clients name it
	fee    int64       // parts per million
	vault  *vault      // nil: no chain
	rates  *rates.Feed // nil: no dollars are shown
	secret []byte      // that accounts' cache salts are made of
}

// openMoney opens what bills, and mends what a crash left.
func openMoney(ctx context.Context, c *Config, id [32]byte, log *slog.Logger) (m *money, err error) {
	m = &money{fee: c.FeePPM}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	if m.ledger, err = ledger.Open(ctx, c.LedgerURL()); err != nil {
		return m, fmt.Errorf("ledger: %w", err)
	}
	if m.secret, err = loadSecret(ctx, m.ledger); err != nil {
		return m, fmt.Errorf("cache salts: %w", err)
	}
	m.book, err = accounts.Open(ctx, accounts.Config{
		Store: m.ledger, Limits: accounts.Limits{Concurrent: int64(c.Limits.ConcurrentPerKey)}, TestMoney: c.TestMoney, Log: log,
	})
	if err != nil {
		return m, fmt.Errorf("accounts: %w", err)
	}
	if c.USD != nil {
		r := c.USD.rates()
		r.Store, r.Log = m.ledger, log
		if m.rates, err = rates.Open(ctx, r); err != nil {
			return m, fmt.Errorf("usd: %w", err)
		}
	}
	if c.Billing == BillingOff {
		return m, nil
	}
	if m.log, m.logKey, err = openTally(c.DataDir, id, log); err != nil {
		return m, err
	}
	name := c.Name
	if !shared(c.LedgerURL()) {
		name = "" // nobody else spends from this ledger
	}
	m.desk, err = billing.Open(ctx, billing.Config{
		Ledger: m.ledger, Dir: filepath.Join(c.DataDir, JournalDir), Gateway: name, Keep: c.KeepJournal, Log: log,
	})
	if err != nil {
		return m, fmt.Errorf("billing: %w", err)
	}
	m.clerk, err = clerk.Open(clerk.Config{
		Desk: m.desk, Log: m.log, Dir: filepath.Join(c.DataDir, KeysetsDir), Tag: tagOf(id), Logger: log,
		Voucher: func(ctx context.Context, worker receipt.Digest) *receipt.Voucher { return m.vault.voucher(ctx, worker) },
	})
	if err != nil {
		return m, fmt.Errorf("receipts: %w", err)
	}
	if c.TON != nil {
		if err := m.openVault(ctx, c, log); err != nil {
			return m, fmt.Errorf("ton: %w", err)
		}
	}
	return m, nil
}

// tagOf marks the requests that this gateway named.
func tagOf(id [32]byte) [4]byte { return [4]byte(id[:4]) }

// openTally opens the log of receipts, whose key is made at the first start.
func openTally(dataDir string, id [32]byte, log *slog.Logger) (*tally.Log, string, error) {
	key, err := loadLogKey(filepath.Join(dataDir, logKeyFile))
	if err != nil {
		return nil, "", fmt.Errorf("key of the log of receipts: %w", err)
	}
	origin := fmt.Sprintf("cocoon-gateway-%x/receipts", id[:8])
	text, err := treeproof.VerifierText(origin, key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, "", fmt.Errorf("key of the log of receipts: %w", err)
	}
	l, err := tally.Open(tally.Config{Dir: filepath.Join(dataDir, ReceiptsDir), Origin: origin, Key: key, Log: log})
	return l, text, err
}

func loadLogKey(path string) (ed25519.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeLogKey(path); err != nil {
			return nil, err
		}
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != logKeyType {
		return nil, fmt.Errorf("%s is no PEM of a private key", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds another kind of key than Ed25519", path)
	}
	return key, nil
}

func makeLogKey(path string) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return durable.Publish(path, pem.EncodeToMemory(&pem.Block{Type: logKeyType, Bytes: der}))
}

// meet keeps the keyset of a worker that was appraised with it, and names it. Receipts that are signed under it can be
// checked from here on.
func (m *money) meet(e *attest.Evidence, binder attest.Digest) (receipt.Digest, error) {
	if m.clerk == nil {
		return sha256.Sum256(e.Keyset), nil
	}
	return m.clerk.Meet(e, binder)
}

// attach begins to exchange receipts with a worker.
func (m *money) attach(w *tunnel.Worker) (detach func()) {
	if m.clerk == nil {
		return func() {}
	}
	return m.clerk.Attach(receipt.Digest(w.ID()), clerk.Link{Exchange: w.Receipts, Countersign: w.Countersign})
}

// run settles and posts until ctx ends, which is when no request runs any more; then what is left goes to the ledger.
// A failure ends it before, and the process should start anew.
func (m *money) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	if m.rates != nil {
		group.Go(func() error { return m.rates.Run(ctx) })
	}
	if m.clerk == nil {
		<-ctx.Done()
		return errors.Join(group.Wait(), m.close())
	}
	late, stop := context.WithCancel(context.WithoutCancel(ctx)) // the Desk takes what the clerk still brings
	group.Go(func() error {
		defer stop()
		return m.clerk.Run(ctx)
	})
	group.Go(func() error { return m.desk.Run(late) })
	if m.vault != nil {
		group.Go(func() error { return m.vault.run(ctx) })
	}
	return errors.Join(group.Wait(), m.close())
}

// close closes what is open. Nothing uses it any more.
func (m *money) close() error {
	var errs []error
	if m.desk != nil {
		errs = append(errs, m.desk.Close())
	}
	if m.log != nil {
		errs = append(errs, m.log.Close())
	}
	if m.ledger != nil {
		errs = append(errs, m.ledger.Close())
	}
	return errors.Join(errs...)
}
