package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"cocoon/gateway/accounts"
	"cocoon/gateway/wish"
	"cocoon/internal/nanoton"
)

func manageKeys(o *options, stdout io.Writer) error {
	if len(o.words) == 0 {
		return fmt.Errorf("keys create, list, show, update, rotate or revoke: %w", errUsage)
	}
	switch o.words[0] {
	case "create":
		return withBook(o, func(ctx context.Context, b *accounts.Book) error { return createKey(ctx, b, o, stdout) })
	case "list":
		return withBook(o, func(_ context.Context, b *accounts.Book) error { return listKeys(b, o.flags["account"], stdout) })
	case "show", "update", "rotate", "revoke":
		return withBook(o, func(ctx context.Context, b *accounts.Book) error { return manageKey(ctx, b, o, stdout) })
	}
	return fmt.Errorf("no command 'keys %s': %w", o.words[0], errUsage)
}

// createKey prints the key and nothing else, so that scripts can take it.
func createKey(ctx context.Context, b *accounts.Book, o *options, stdout io.Writer) error {
	if _, given := o.flags["name"]; !given {
		args, err := o.args("a name")
		if err != nil {
			return err
		}
		o.flags["name"] = args[0]
	} else if _, err := o.args(); err != nil {
		return fmt.Errorf("'keys create' takes one name: %w", errUsage)
	}
	var s accounts.Settings
	if err := o.settings(&s, time.Now()); err != nil {
		return err
	}
	text, _, err := b.CreateKey(ctx, cmp.Or(o.flags["account"], accounts.DefaultAccount), s)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, text.Reveal())
	return err
}

// manageKey does what concerns one key.
func manageKey(ctx context.Context, b *accounts.Book, o *options, stdout io.Writer) error {
	args, err := o.args("a key's ID")
	if err != nil {
		return err
	}
	id := args[0]
	switch o.words[0] {
	case "update":
		err = b.UpdateKey(ctx, id, func(s *accounts.Settings) error { return o.settings(s, time.Now()) })
	case "rotate":
		return rotateKey(ctx, b, o, stdout)
	case "revoke":
		if err = b.RevokeKey(ctx, id); err == nil {
			_, err = fmt.Fprintf(stdout, "revoked %s\n", id)
		}
		return err
	}
	if err != nil {
		return err
	}
	k, err := b.Find(id)
	if err != nil {
		return err
	}
	return showKey(k, stdout)
}

// rotateKey prints the key's new text and nothing else.
func rotateKey(ctx context.Context, b *accounts.Book, o *options, stdout io.Writer) error {
	var grace time.Duration
	if text, given := o.flags["grace"]; given {
		var err error
		if grace, err = duration(text); err != nil {
			return fmt.Errorf("--grace: %w: %w", err, errUsage)
		}
	}
	text, err := b.RotateKey(ctx, o.words[1], grace)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, text.Reveal())
	return err
}

func listKeys(b *accounts.Book, account string, stdout io.Writer) error {
	if account != "" {
		if _, err := b.Account(account); err != nil {
			return err
		}
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tNAME\tACCOUNT\tCREATED\tSTATE\tBUDGET\tLIMITS")
	for _, k := range b.Keys(account) {
		r := k.Record()
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, r.Name, r.Account, r.Created.Format(time.RFC3339),
			state(k, time.Now()), budgetText(r.Settings), limitsText(k.Limits()))
	}
	return w.Flush()
}

// state says whether a key works.
func state(k *accounts.Key, now time.Time) string {
	r := k.Record()
	switch {
	case !r.Revoked.IsZero():
		return "revoked " + r.Revoked.Format(time.RFC3339)
	case !r.Expires.IsZero() && !now.Before(r.Expires):
		return "expired " + r.Expires.Format(time.RFC3339)
	}
	return "live"
}

func budgetText(s accounts.Settings) string {
	switch {
	case s.Budget == 0:
		return "-"
	case s.Reset == "" || s.Reset == accounts.ResetNone:
		return s.Budget.String()
	}
	return s.Budget.String() + " " + s.Reset
}

func showKey(k *accounts.Key, stdout io.Writer) error {
	r := k.Record()
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "id\t%s\n", k.ID)
	fmt.Fprintf(w, "name\t%s\n", r.Name)
	fmt.Fprintf(w, "account\t%s\n", r.Account)
	fmt.Fprintf(w, "created\t%s\n", r.Created.Format(time.RFC3339))
	fmt.Fprintf(w, "state\t%s\n", state(k, time.Now()))
	fmt.Fprintf(w, "expires\t%s\n", moment(r.Expires))
	for _, h := range r.Hashes[:len(r.Hashes)-1] {
		fmt.Fprintf(w, "an older text works until\t%s\n", moment(h.Until))
	}
	fmt.Fprintf(w, "scopes\t%s\n", strings.Join(r.Scopes, ", "))
	fmt.Fprintf(w, "models\t%s\n", cmp.Or(strings.Join(r.Models, ", "), "all"))
	fmt.Fprintf(w, "limits\t%s\n", limitsText(k.Limits()))
	fmt.Fprintf(w, "price cap per million tokens\tin %s, out %s\n", capText(r.Cap.In), capText(r.Cap.Out))
	fmt.Fprintf(w, "provider\t%s\n", cmp.Or(string(r.Provider), "-"))
	if r.Budget == 0 {
		fmt.Fprintf(w, "budget\t-\n")
		return w.Flush()
	}
	b := k.Budget()
	fmt.Fprintf(w, "budget\t%s, reset %s\n", money(b.Limit), b.Reset)
	fmt.Fprintf(w, "spent of it\t%s\n", money(b.Spent))
	fmt.Fprintf(w, "starts anew\t%s\n", moment(b.Resets))
	return w.Flush()
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Format(time.RFC3339)
}

func capText(a nanoton.Amount) string {
	if a == 0 {
		return "-"
	}
	return money(a)
}

// settings reads the flags of a key into s; what was not given stays.
func (o *options) settings(s *accounts.Settings, now time.Time) error {
	if err := o.limits(&s.Limits); err != nil {
		return err
	}
	for name, set := range map[string]func(string) error{
		"name":          func(v string) error { s.Name = v; return nil },
		"scopes":        func(v string) error { s.Scopes = list(v); return nil },
		"models":        func(v string) error { s.Models = list(v); return nil },
		"reset":         func(v string) error { s.Reset = v; return nil },
		"budget":        func(v string) error { return amountOrNone(v, &s.Budget) },
		"price-cap-in":  func(v string) error { return amountOrNone(v, &s.Cap.In) },
		"price-cap-out": func(v string) error { return amountOrNone(v, &s.Cap.Out) },
		"expires":       func(v string) (err error) { s.Expires, err = expiry(v, now); return err },
		"provider":      func(v string) (err error) { s.Provider, err = provider(v); return err },
	} {
		if v, given := o.flags[name]; given {
			if err := set(v); err != nil {
				return fmt.Errorf("--%s: %w", name, err)
			}
		}
	}
	return nil
}

// provider reads default wishes; "none" is none.
func provider(v string) (json.RawMessage, error) {
	if v == "none" {
		return nil, nil
	}
	if _, err := wish.Parse([]byte(v)); err != nil {
		return nil, fmt.Errorf("%s: %w", err.Message, errUsage)
	}
	return json.RawMessage(v), nil
}

// list reads words with commas between them; "all" is none.
func list(v string) []string {
	if v == "all" {
		return nil
	}
	return strings.Split(v, ",")
}

func amountOrNone(v string, to *nanoton.Amount) (err error) {
	if v == "none" {
		*to = 0
		return nil
	}
	*to, err = readTON(v)
	if err == nil && *to <= 0 {
		err = fmt.Errorf("want an amount above zero, or none: %w", errUsage)
	}
	return err
}

// expiry reads "never", a time from now such as 90d, or a day, at whose beginning the key ends (UTC).
func expiry(v string, now time.Time) (time.Time, error) {
	if v == "never" {
		return time.Time{}, nil
	}
	for _, form := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(form, v); err == nil {
			return t.UTC(), nil
		}
	}
	d, err := duration(v)
	if err != nil || d <= 0 {
		return time.Time{}, fmt.Errorf("want never, 90d, 12h, 2026-12-31 or 2026-12-31T12:00:00Z: %w", errUsage)
	}
	return now.UTC().Add(d).Truncate(time.Second), nil
}

// daysMax bounds a number of days: a century.
const daysMax = 36525

// duration reads a time as Go writes it, or days: 90d.
func duration(v string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(v, "d"); ok {
		n, err := strconv.Atoi(days)
		if err != nil || n < 0 || n > daysMax {
			return 0, fmt.Errorf("want a number of days, such as 90d, not %q", v)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	return time.ParseDuration(v)
}
