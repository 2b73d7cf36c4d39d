package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"cocoon/gateway/accounts"
)

// showUsage prints what was used, as a table or as CSV.
func showUsage(o *options, stdout io.Writer) error {
	if len(o.words) > 0 {
		return fmt.Errorf("'usage' takes flags only: %w", errUsage)
	}
	q := accounts.Query{Account: o.flags["account"], Key: o.flags["key"], From: o.flags["from"], To: o.flags["to"], By: []string{accounts.ByDay}}
	if by, given := o.flags["by"]; given {
		q.By = strings.Split(by, ",")
	}
	return withBook(o, func(ctx context.Context, b *accounts.Book) error {
		rows, total, err := b.Report(ctx, q)
		if err != nil {
			return err
		}
		if o.flags["csv"] == "true" {
			return accounts.WriteCSV(stdout, q.By, rows)
		}
		w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, strings.ToUpper(strings.Join(accounts.Head(q.By), "\t")))
		for i := range rows {
			fmt.Fprintln(w, strings.Join(rows[i].Cells(q.By), "\t"))
		}
		cells := total.Cells(q.By)
		cells[0] = "total"
		fmt.Fprintln(w, strings.Join(cells, "\t"))
		return w.Flush()
	})
}
