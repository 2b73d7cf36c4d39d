package accounts

import (
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
	"cocoon/router/offer"
)

// RowsMax bounds the rows of a report: beyond it nobody reads them, and each takes memory while the report is made.
const RowsMax = 100_000

// ErrTooMany says that a report has more rows than RowsMax.
var ErrTooMany = errors.New("too many rows: ask for fewer days, or by fewer things")

// What usage can be summed up by. By account is for the operator.
const (
	ByDay     = "day"
	ByAccount = "account"
	ByModel   = "model"
	ByKey     = "key"
	ByUser    = "user"
)

// Query asks for a report of usage.
type Query struct {
	Account  string   // its name; empty: all
	Key      string   // its ID; empty: all
	From, To string   // days as 2006-01-02, both included; empty: no bound
	By       []string // what there is a row for each of
}

// columns are the things that usage can be summed up by, in the order of a report's columns.
func columns() []string { return []string{ByDay, ByAccount, ByModel, ByKey, ByUser} }

// Check returns [ErrInvalid] with the reason unless all fields are as documented.
func (q Query) Check() error {
	for _, day := range []string{q.From, q.To} {
		if t, err := time.Parse(time.DateOnly, day); day != "" && (err != nil || t.Format(time.DateOnly) != day) {
			return fmt.Errorf("day %w: %.40q, want the form 2006-01-02", ErrInvalid, day)
		}
	}
	for i, by := range q.By {
		if !slices.Contains(columns(), by) || slices.Contains(q.By[:i], by) {
			return fmt.Errorf("by %w: %.40q, want day, account, model, key and user, each once", ErrInvalid, by)
		}
	}
	return nil
}

// Row is a sum of usage. What the report is not by is empty.
type Row struct {
	Day      string
	Account  string
	Key      string
	Model    string
	User     string
	Requests int64
	Tokens   offer.Usage
	Cost     nanoton.Amount
}

// group is what a row is a sum of.
type group struct{ day, account, key, model, user string }

func (g group) compare(h group) int {
	return cmp.Or(
		strings.Compare(g.day, h.day), strings.Compare(g.account, h.account), strings.Compare(g.model, h.model),
		strings.Compare(g.key, h.key), strings.Compare(g.user, h.user),
	)
}

// ValidUser says whether usage can be counted under an end user's name as a client gave it.
func ValidUser(name string) bool { return name != "" && ledger.IsUsageText(name, ledger.UsageUserMax) }

// Report sums up usage: a row for each group, by day, account, model, key and user in this order, and the total. The
// ledger has a request some moments after it ended.
func (b *Book) Report(ctx context.Context, q Query) (rows []Row, total Row, err error) {
	if err := q.Check(); err != nil {
		return nil, Row{}, err
	}
	ask := ledger.UsageQuery{Key: q.Key, From: q.From, To: q.To}
	if q.Account != "" {
		ask.Customer = ledger.Account("customer:" + q.Account)
	}
	sums := map[group]*Row{}
	err = b.store.Usage(ctx, ask, func(l ledger.UsageLine) error {
		g := groupOf(l, q.By)
		sum := sums[g]
		if sum == nil {
			if len(sums) == RowsMax {
				return ErrTooMany
			}
			sum = &Row{Day: g.day, Account: g.account, Key: g.key, Model: g.model, User: g.user}
			sums[g] = sum
		}
		sum.add(l)
		total.add(l)
		return nil
	})
	if err != nil {
		return nil, Row{}, err
	}
	for _, g := range slices.SortedFunc(maps.Keys(sums), group.compare) {
		rows = append(rows, *sums[g])
	}
	return rows, total, nil
}

func groupOf(l ledger.UsageLine, by []string) (g group) {
	for _, what := range by {
		switch what {
		case ByDay:
			g.day = l.Day
		case ByAccount:
			g.account = strings.TrimPrefix(string(l.Customer), "customer:")
		case ByModel:
			g.model = l.Item
		case ByKey:
			g.key = l.Key
		case ByUser:
			g.user = l.User
		}
	}
	return g
}

func (r *Row) add(l ledger.UsageLine) {
	r.Requests += l.Requests
	r.Tokens.In += l.Counts[0]
	r.Tokens.Cached += l.Counts[1]
	r.Tokens.Out += l.Counts[2]
	r.Tokens.Reasoning += l.Counts[3]
	r.Cost += l.Cost
}

// Name gives what the row is about: its day, its model or the like.
func (r *Row) Name(by string) string {
	return map[string]string{ByDay: r.Day, ByAccount: r.Account, ByModel: r.Model, ByKey: r.Key, ByUser: r.User}[by]
}

// Head gives the names of a report's columns.
func Head(by []string) []string {
	var head []string
	for _, c := range columns() {
		if slices.Contains(by, c) {
			head = append(head, c)
		}
	}
	return append(head, "requests", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "cost_nanoton", "cost_ton")
}

// Cells gives a row's columns, as Head names them.
func (r *Row) Cells(by []string) []string {
	var cells []string
	for _, c := range columns() {
		if slices.Contains(by, c) {
			cells = append(cells, r.Name(c))
		}
	}
	for _, n := range []int64{r.Requests, r.Tokens.In, r.Tokens.Cached, r.Tokens.Out, r.Tokens.Reasoning, int64(r.Cost)} {
		cells = append(cells, strconv.FormatInt(n, 10))
	}
	return append(cells, strings.TrimSuffix(r.Cost.String(), " TON"))
}

// WriteCSV writes a report as CSV with a line of names before it. A name that a spreadsheet would take for a formula gets
// an apostrophe before it: customers choose what their end users are called.
func WriteCSV(w io.Writer, by []string, rows []Row) error {
	out := csv.NewWriter(w)
	head := Head(by)
	if err := out.Write(head); err != nil {
		return err
	}
	for i := range rows {
		cells := rows[i].Cells(by)
		for j, c := range cells {
			if c != "" && strings.ContainsRune("=+-@", rune(c[0])) {
				cells[j] = "'" + c
			}
		}
		if err := out.Write(cells); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// balanceTries bounds how often a balance is read again because money moved between the customer and a gateway.
const balanceTries = 5

// Balance gives what an account has in the ledger, also where gateways hold it for it.
func (b *Book) Balance(ctx context.Context, name string) (nanoton.Amount, error) {
	customer := Account{Name: name}.Ledger()
	own, err := b.store.Balance(ctx, customer)
	sum := own
	for try := 0; err == nil && try < balanceTries; try++ {
		var allotted map[ledger.Account]nanoton.Amount
		if allotted, err = b.store.Allotted(ctx, customer); err != nil {
			break
		}
		sum = own
		for _, amount := range allotted {
			sum += amount
		}
		before := own
		if own, err = b.store.Balance(ctx, customer); own == before {
			break
		}
	}
	return sum, err
}

// Balances gives what all accounts have in the ledger, by name, for an overview: money that is being moved may be missing.
func (b *Book) Balances(ctx context.Context) (map[string]nanoton.Amount, error) {
	all := map[string]nanoton.Amount{}
	for _, kind := range []string{"customer:", "allotment:"} {
		list, err := b.store.Balances(ctx, kind)
		if err != nil {
			return nil, err
		}
		for a, amount := range list {
			all[string(a[strings.LastIndexByte(string(a), ':')+1:])] += amount
		}
	}
	return all, nil
}
