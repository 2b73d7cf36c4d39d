package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"cocoon/internal/nanoton"
)

const (
	// UsageKeyMax bounds an API key's name in a line of usage, bytes.
	UsageKeyMax = 64
	// UsageItemMax bounds what was used, bytes: a model's name.
	UsageItemMax = 256
	// UsageUserMax bounds an end user's name, bytes: customers choose it, mostly a hash or a number.
	UsageUserMax = 128
	// UsageLinesMax bounds the lines of one transfer: one for each request that it stands for.
	UsageLinesMax = 2000
	// UsageRequestsMax bounds the requests of one line: many times what a transfer stands for.
	UsageRequestsMax = 1 << 16
	// UsageCountMax bounds each count of one request: no model reads or writes so many tokens. It keeps a day's sums far
	// from what 64 bits hold.
	UsageCountMax = 1 << 36
	// UsageRowsMax bounds what is kept of a customer's day: customers choose the names of their end users, and so how
	// many rows there are. Beyond it all users that are new on that day are counted as UsageOther. Writers at the same
	// time may pass it by what each of them writes.
	UsageRowsMax = 10_000
	// UsageOther is the end user of all who are beyond UsageRowsMax.
	UsageOther = "other"
)

// UsageLine says what a transfer is counted under, and what it counts. To the ledger its texts and counts mean nothing.
type UsageLine struct {
	Day             string // "2026-11-26", UTC
	Customer        Account
	Key, Item, User string         // valid UTF-8 without control characters; UsageKeyMax, UsageItemMax, UsageUserMax bytes
	Requests        int64          // 1 to UsageRequestsMax
	Counts          [4]int64       // the caller's: in, cached, out, reasoning tokens; 0 to Requests * UsageCountMax
	Cost            nanoton.Amount // not negative
}

// UsageQuery picks lines of usage; what is empty is not asked for.
type UsageQuery struct {
	Customer Account
	Key      string
	From, To string // days, both of them included
}

// usageRow is what usage is counted under.
type usageRow struct {
	customer            Account
	day, key, item, usr string
}

func (u *UsageLine) row() usageRow { return usageRow{u.Customer, u.Day, u.Key, u.Item, u.User} }

func (r usageRow) compare(o usageRow) int {
	return cmp.Or(cmp.Compare(r.customer, o.customer), cmp.Compare(r.day, o.day), cmp.Compare(r.key, o.key),
		cmp.Compare(r.item, o.item), cmp.Compare(r.usr, o.usr))
}

// Check returns [ErrInvalid] with the reason unless all fields are as documented.
func (u *UsageLine) Check() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("line of usage %w: %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
	if !isDay(u.Day) {
		return fail("day %.40q", u.Day)
	}
	if err := u.Customer.Check(); err != nil || u.Customer.Kind() != "customer" {
		return fail("%.100q is no customer", string(u.Customer))
	}
	if !IsUsageText(u.Key, UsageKeyMax) || !IsUsageText(u.Item, UsageItemMax) || !IsUsageText(u.User, UsageUserMax) {
		return fail("the key, item or user is too long or not plain text")
	}
	if u.Requests < 1 || u.Requests > UsageRequestsMax || u.Cost < 0 {
		return fail("%d requests for %d nanoTON", u.Requests, int64(u.Cost))
	}
	for _, n := range u.Counts {
		if n < 0 || n > u.Requests*UsageCountMax {
			return fail("a count of %d for %d requests", n, u.Requests)
		}
	}
	return nil
}

// IsUsageText says whether a line of usage may have the text: valid UTF-8 without control characters, up to most bytes.
func IsUsageText(s string, most int) bool {
	if len(s) > most {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return false
		}
	}
	return utf8.ValidString(s)
}

func isDay(s string) bool {
	t, err := time.Parse(time.DateOnly, s)
	return err == nil && t.Format(time.DateOnly) == s
}

// Usage calls f with the sums that a query picks, by day, customer, key, item and user, in that order, until f returns
// an error, which it returns. f may use the ledger. What is counted meanwhile may or may not come.
func (l *Ledger) Usage(ctx context.Context, q UsageQuery, f func(UsageLine) error) error {
	if q.Customer != "" {
		if err := q.Customer.Check(); err != nil {
			return err
		}
	}
	for _, day := range []string{q.From, q.To} {
		if day != "" && !isDay(day) {
			return fmt.Errorf("day %w: %.40q", ErrInvalid, day)
		}
	}
	var last *UsageLine
	for {
		page, err := l.usagePage(ctx, q, last)
		if err != nil {
			return fmt.Errorf("reading usage: %w", classify(err))
		}
		for i := range page {
			if err := f(page[i]); err != nil {
				return err
			}
		}
		if len(page) < pageRows {
			return nil
		}
		last = &page[len(page)-1]
	}
}

// usagePage reads the sums that are after the last one.
func (l *Ledger) usagePage(ctx context.Context, q UsageQuery, last *UsageLine) ([]UsageLine, error) {
	var where []string
	var args []any
	add := func(condition string, values ...any) {
		for _, v := range values {
			args = append(args, v)
			condition = strings.Replace(condition, "?", fmt.Sprintf("$%d", len(args)), 1)
		}
		where = append(where, condition)
	}
	if last == nil { // else it follows, and an index is read from its start by the looser condition
		add("day >= ?", max(q.From, "0"))
	}
	if q.To != "" {
		add("day <= ?", q.To)
	}
	if q.Customer != "" {
		add("customer = ?", string(q.Customer))
	}
	if q.Key != "" {
		add("api_key = ?", q.Key)
	}
	if last != nil {
		add("(day, customer, api_key, item, end_user) > (?, ?, ?, ?, ?)",
			last.Day, string(last.Customer), last.Key, last.Item, last.User)
	}
	args = append(args, pageRows)
	rows, err := l.db.read.QueryContext(ctx, `SELECT day, customer, api_key, item, end_user, requests, count0, count1, count2,
		count3, cost FROM usage WHERE `+strings.Join(where, " AND ")+
		fmt.Sprintf(` ORDER BY day, customer, api_key, item, end_user LIMIT $%d`, len(args)), args...)
	if err != nil {
		return nil, err
	}
	var page []UsageLine
	err = each(rows, func() error {
		var u UsageLine
		c := &u.Counts
		err := rows.Scan(&u.Day, &u.Customer, &u.Key, &u.Item, &u.User, &u.Requests, &c[0], &c[1], &c[2], &c[3], &u.Cost)
		page = append(page, u)
		return err
	})
	return page, err
}

// addUsage adds what new transfers count to the sums.
func (s *store) addUsage(ctx context.Context, tx *sql.Tx, batch []entry) error {
	var lines []UsageLine
	for i := range batch {
		lines = append(lines, batch[i].Usage...)
	}
	if len(lines) == 0 {
		return nil
	}
	lines = mergeUsage(lines)
	lines, err := s.boundUsage(ctx, tx, lines)
	if err != nil {
		return err
	}
	fresh := map[usageRow]int64{} // by customer and day: rows that were not there
	for chunk := range slices.Chunk(lines, chunkRows) {
		if err := s.writeUsage(ctx, tx, chunk, fresh); err != nil {
			return err
		}
	}
	days := make([]usageRow, 0, len(fresh))
	for day := range fresh {
		days = append(days, day)
	}
	slices.SortFunc(days, usageRow.compare) // who locks rows does so in one order
	for chunk := range slices.Chunk(days, chunkRows) {
		args := make([]any, 0, 3*len(chunk))
		for _, day := range chunk {
			args = append(args, string(day.customer), day.day, fresh[day])
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO usage_days (customer, day, lines) VALUES `+s.params(len(chunk), 3)+`
			ON CONFLICT (customer, day) DO UPDATE SET lines = usage_days.lines + excluded.lines`, args...)
		if err != nil {
			return err
		}
	}
	return nil
}

// mergeUsage sorts lines and sums up those that are counted under the same.
func mergeUsage(lines []UsageLine) []UsageLine {
	slices.SortStableFunc(lines, func(a, b UsageLine) int { return a.row().compare(b.row()) })
	merged := lines[:1]
	for _, u := range lines[1:] {
		last := &merged[len(merged)-1]
		if last.row() != u.row() {
			merged = append(merged, u)
			continue
		}
		last.Requests += u.Requests
		last.Cost += u.Cost
		for i, n := range u.Counts {
			last.Counts[i] += n
		}
	}
	return merged
}

// boundUsage counts users that a customer's day has no room for as others. The lines are sorted, and are so again.
func (s *store) boundUsage(ctx context.Context, tx *sql.Tx, lines []UsageLine) ([]UsageLine, error) {
	var parts [][]UsageLine // by customer and day
	for i, from := 1, 0; i <= len(lines); i++ {
		if i == len(lines) || lines[i].Customer != lines[from].Customer || lines[i].Day != lines[from].Day {
			parts = append(parts, lines[from:i])
			from = i
		}
	}
	changed := false
	for chunk := range slices.Chunk(parts, chunkRows) {
		are, err := s.usageDays(ctx, tx, chunk)
		if err != nil {
			return nil, err
		}
		for _, part := range chunk {
			room := UsageRowsMax - are[usageRow{customer: part[0].Customer, day: part[0].Day}]
			if int64(len(part)) <= room {
				continue
			}
			if err := s.otherUsers(ctx, tx, part, room); err != nil {
				return nil, err
			}
			changed = true
		}
	}
	if changed {
		lines = mergeUsage(lines)
	}
	return lines, nil
}

// usageDays gives how many rows the customers' days have.
func (s *store) usageDays(ctx context.Context, tx *sql.Tx, parts [][]UsageLine) (map[usageRow]int64, error) {
	args := make([]any, 0, 2*len(parts))
	for _, part := range parts {
		args = append(args, string(part[0].Customer), part[0].Day)
	}
	rows, err := tx.QueryContext(ctx, `SELECT customer, day, lines FROM usage_days WHERE (customer, day) IN (VALUES `+
		s.params(len(parts), 2)+`)`, args...)
	if err != nil {
		return nil, err
	}
	are := make(map[usageRow]int64, len(parts))
	err = each(rows, func() error {
		var r usageRow
		var n int64
		err := rows.Scan(&r.customer, &r.day, &n)
		are[r] = n
		return err
	})
	return are, err
}

// otherUsers makes users of a customer's day others, beyond those who are counted already and room more.
func (s *store) otherUsers(ctx context.Context, tx *sql.Tx, lines []UsageLine, room int64) error {
	for i := range lines {
		u := &lines[i]
		var one int
		err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM usage WHERE customer = $1 AND day = $2 AND api_key = $3 AND item = $4
			AND end_user = $5`, string(u.Customer), u.Day, u.Key, u.Item, u.User).Scan(&one)
		switch {
		case err != nil:
			return err
		case one != 0:
		case room > 0:
			room--
		default:
			u.User = UsageOther
		}
	}
	return nil
}

// writeUsage adds lines, each of another row, to the sums, and counts the rows that were not there in fresh.
func (s *store) writeUsage(ctx context.Context, tx *sql.Tx, lines []UsageLine, fresh map[usageRow]int64) error {
	args := make([]any, 0, 11*len(lines))
	sent := make(map[usageRow]int64, len(lines))
	for i := range lines {
		u := &lines[i]
		sent[u.row()] = u.Requests
		args = append(args, string(u.Customer), u.Day, u.Key, u.Item, u.User, u.Requests,
			u.Counts[0], u.Counts[1], u.Counts[2], u.Counts[3], int64(u.Cost))
	}
	rows, err := tx.QueryContext(ctx, `INSERT INTO usage (customer, day, api_key, item, end_user, requests, count0, count1,
		count2, count3, cost) VALUES `+s.params(len(lines), 11)+`
		ON CONFLICT (customer, day, api_key, item, end_user) DO UPDATE SET requests = usage.requests + excluded.requests,
		count0 = usage.count0 + excluded.count0, count1 = usage.count1 + excluded.count1,
		count2 = usage.count2 + excluded.count2, count3 = usage.count3 + excluded.count3, cost = usage.cost + excluded.cost
		RETURNING customer, day, api_key, item, end_user, requests`, args...)
	if err != nil {
		return err
	}
	return each(rows, func() error {
		var r usageRow
		var requests int64
		if err := rows.Scan(&r.customer, &r.day, &r.key, &r.item, &r.usr, &requests); err != nil {
			return err
		}
		if sent[r] == requests { // every row has one request at least: this one was not there
			fresh[usageRow{customer: r.customer, day: r.day}]++
		}
		return nil
	})
}
