// Package accounts knows who may ask for what: customers' accounts, their API keys, and the keys' limits and budgets.
//
// Accounts and keys are documents of the ledger, so that all gateways on one ledger have the same, and a command of the
// operator beside a running gateway changes them: [Book.Run] sees that within a second. What a key has spent is the sum of
// the ledger's usage lines and what this process has released since.
package accounts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

// Limits of what is stored. They bound one document, which is read by every gateway whenever it changes.
const (
	// NameMax bounds a key's name, bytes: a line of a table.
	NameMax = 128
	// ReasonMax bounds why an account is suspended, bytes: its customer is told it with each refusal.
	ReasonMax = 256
	// ModelsMax bounds the patterns of a key, which each request may have to be compared with.
	ModelsMax = 64
	// PatternMax bounds one pattern, bytes: as long as a model's name may be.
	PatternMax = 256
	// LimitMax bounds each of a key's limits. It is above what a gateway can do, and exact as a float and an int.
	LimitMax = 1 << 31
	// GraceMax bounds how long a key's old text works after a rotation: nobody needs longer to roll one out.
	GraceMax = 90 * 24 * time.Hour
	// ProviderMax bounds a key's default wishes, bytes.
	ProviderMax = 16 << 10
	// hashesMax bounds the texts of a key that work at once: the newest, and old ones in their grace.
	hashesMax = 8
	// amountMax bounds budgets and grants, a million TON, so that sums with them do not overflow.
	amountMax = 1_000_000 * nanoton.PerTON
)

// What callers branch on.
var (
	// ErrNoAccount says that there is no account of that name.
	ErrNoAccount = errors.New("no such account")
	// ErrNoKey says that no key has that ID.
	ErrNoKey = errors.New("no such key")
	// ErrExists says that the account is there already.
	ErrExists = errors.New("the account exists already")
	// ErrInvalid says that a name, a limit or the like breaks its rule.
	ErrInvalid = errors.New("not valid")
	// ErrBusy says that others changed the same account or key all the time.
	ErrBusy = errors.New("others change it at the same time; try again")
)

// Scopes of a key.
const (
	ScopeInference = "inference" // to ask models
	ScopeAccount   = "account"   // to read its account's balance and usage
	// ScopeWithdraw lets a key take its account's money out, to an address on the chain. A key has it only if it is named:
	// keys lie in many programs, and no other scope lets a thief have more than answers.
	ScopeWithdraw = "withdraw"
)

// scopes are all that there are.
func scopes() []string { return []string{ScopeInference, ScopeAccount, ScopeWithdraw} }

// How often a budget starts anew, at midnight UTC.
const (
	ResetNone    = "none"
	ResetDaily   = "daily"
	ResetWeekly  = "weekly" // on Mondays
	ResetMonthly = "monthly"
)

// DefaultAccount is the account of keys that are made for none in particular. It is made with the first of them.
const DefaultAccount = "default"

// Limits bounds what a key may do. Zero is no limit of its own: an account's counts for a key, the gateway's for both.
type Limits struct {
	RequestsPerMinute int64 `json:"requests_per_minute,omitzero"`
	TokensPerMinute   int64 `json:"tokens_per_minute,omitzero"`
	Concurrent        int64 `json:"concurrent,omitzero"` // requests running at once
}

func (l Limits) check() error {
	for name, n := range map[string]int64{"requests per minute": l.RequestsPerMinute, "tokens per minute": l.TokensPerMinute, "concurrent requests": l.Concurrent} {
		if n < 0 || n > LimitMax {
			return fmt.Errorf("%s %w: %d, want 0 to %d", name, ErrInvalid, n, int64(LimitMax))
		}
	}
	return nil
}

// or fills what l leaves open.
func (l Limits) or(d Limits) Limits {
	if l.RequestsPerMinute == 0 {
		l.RequestsPerMinute = d.RequestsPerMinute
	}
	if l.TokensPerMinute == 0 {
		l.TokensPerMinute = d.TokensPerMinute
	}
	if l.Concurrent == 0 {
		l.Concurrent = d.Concurrent
	}
	return l
}

// Account is a customer, as it is stored.
type Account struct {
	V         int       `json:"v"`
	Name      string    `json:"name"` // of the ledger's rules for customers
	Created   time.Time `json:"created"`
	Suspended time.Time `json:"suspended,omitzero"` // zero: it is not
	Reason    string    `json:"reason,omitempty"`   // why it is suspended
	Limits    Limits    `json:"limits"`             // of each of its keys that sets none
}

// Ledger is the account's name in the ledger.
func (a Account) Ledger() ledger.Account { return ledger.Account("customer:" + a.Name) }

// Record is an API key as it is stored: never the key's text, only its SHA-256.
type Record struct {
	V       int       `json:"v"`
	ID      string    `json:"id"` // the first 12 hex digits of the first text's hash; stays when the key is rotated
	Account string    `json:"account"`
	Created time.Time `json:"created"`
	Hashes  []Hash    `json:"hashes"` // the newest is the last
	Revoked time.Time `json:"revoked,omitzero"`
	Settings
}

// Hash is one text of a key.
type Hash struct {
	SHA256 string    `json:"sha256"`         // hex
	Until  time.Time `json:"until,omitzero"` // when it stops to work; zero: with the key
}

// Settings is what an operator may change of a key.
type Settings struct {
	Name    string         `json:"name"`
	Scopes  []string       `json:"scopes"`           // at least one, each once
	Models  []string       `json:"models,omitempty"` // patterns with "*" for any characters; none: all models
	Limits  Limits         `json:"limits"`
	Budget  nanoton.Amount `json:"budget_nanoton,omitzero"` // zero: none
	Reset   string         `json:"reset,omitempty"`         // of the budget
	Cap     Cap            `json:"price_cap_nanoton_per_mtok"`
	Expires time.Time      `json:"expires,omitzero"`
	// Provider is what the key's requests wish of a worker unless they say otherwise: a JSON object, as the provider of a
	// request. Its members are for whoever sets it to check; here it is text. Empty or null: none.
	Provider json.RawMessage `json:"provider,omitempty"`
}

// Cap is the most that a key's requests may cost, nanoTON per million tokens; zero is no cap.
type Cap struct {
	In  nanoton.Amount `json:"in,omitzero"` // cached tokens too
	Out nanoton.Amount `json:"out,omitzero"`
}

// Check returns [ErrInvalid] with the reason unless all fields are as documented.
func (s Settings) Check() error {
	switch {
	case s.Name == "" || !printable(s.Name, NameMax):
		return fmt.Errorf("key name %w: want 1 to %d printable bytes", ErrInvalid, NameMax)
	case len(s.Scopes) == 0:
		return fmt.Errorf("scopes %w: a key needs one of %s", ErrInvalid, strings.Join(scopes(), ", "))
	case len(s.Models) > ModelsMax:
		return fmt.Errorf("models %w: %d patterns, at most %d", ErrInvalid, len(s.Models), ModelsMax)
	case s.Budget < 0 || s.Budget > amountMax:
		return fmt.Errorf("budget %w: %v, want 0 to %v", ErrInvalid, s.Budget, amountMax)
	case !slices.Contains([]string{"", ResetNone, ResetDaily, ResetWeekly, ResetMonthly}, s.Reset):
		return fmt.Errorf("reset %w: %.40q, want none, daily, weekly or monthly", ErrInvalid, s.Reset)
	case s.Cap.In < 0 || s.Cap.Out < 0:
		return fmt.Errorf("price cap %w: below zero", ErrInvalid)
	}
	for i, scope := range s.Scopes {
		if !slices.Contains(scopes(), scope) || slices.Contains(s.Scopes[:i], scope) {
			return fmt.Errorf("scopes %w: %.40q, want some of %s, each once", ErrInvalid, scope, strings.Join(scopes(), ", "))
		}
	}
	for _, m := range s.Models {
		if m == "" || !printable(m, PatternMax) {
			return fmt.Errorf("models %w: a pattern has 1 to %d printable bytes", ErrInvalid, PatternMax)
		}
	}
	return errors.Join(s.checkProvider(), s.Limits.check())
}

func (s Settings) checkProvider() error {
	var members map[string]json.RawMessage
	switch {
	case len(s.Provider) > ProviderMax:
		return fmt.Errorf("provider %w: %d bytes, at most %d", ErrInvalid, len(s.Provider), ProviderMax)
	case len(s.Provider) > 0 && json.Unmarshal(s.Provider, &members) != nil:
		return fmt.Errorf("provider %w: want a JSON object", ErrInvalid)
	}
	return nil
}

// tidy writes the default wishes as they will be stored, so that their length is what Check sees.
func (s *Settings) tidy() {
	text, err := json.Marshal(s.Provider)
	if err == nil {
		s.Provider = text
	}
	if string(s.Provider) == "null" {
		s.Provider = nil
	}
}

func printable(s string, most int) bool {
	return len(s) <= most && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' })
}

// Store is what the Book needs of *ledger.Ledger.
type Store interface {
	PutDocument(ctx context.Context, d ledger.Document) (int64, error)
	Document(ctx context.Context, kind, id string) (ledger.Document, error)
	DocumentsOf(ctx context.Context, kind string, after int64, f func(ledger.Document) error) error
	Usage(ctx context.Context, q ledger.UsageQuery, f func(ledger.UsageLine) error) error
	Post(ctx context.Context, transfers []ledger.Transfer) error
	Balance(ctx context.Context, account ledger.Account) (nanoton.Amount, error)
	Balances(ctx context.Context, prefix string) (map[ledger.Account]nanoton.Amount, error)
	Allotted(ctx context.Context, customer ledger.Account) (map[ledger.Account]nanoton.Amount, error)
}

// Config is what a Book is made of.
type Config struct {
	Store     Store
	Limits    Limits           // of keys whose account sets none either
	TestMoney nanoton.Amount   // what a new account starts with, from the account "test"; 0 where money is real
	Log       *slog.Logger     // nil: nothing is logged
	Now       func() time.Time // nil: time.Now
}
