package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"cocoon/worker"
)

// receipts shows what the worker has receipts for that no gateway has acknowledged.
func receipts(ctx context.Context, c worker.Config, stdout, _ io.Writer) error {
	u, err := worker.ReadUnpaid(ctx, c)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "final receipts that no gateway has acknowledged: %d, for %s\n", u.Finals, both(u.Sum))
	if !u.Oldest.IsZero() {
		fmt.Fprintf(stdout, "the oldest is of %s\n", u.Oldest.UTC().Format(time.RFC3339))
	}
	fmt.Fprintf(stdout, "interim receipts, of requests that run or were cut off: %d\n", u.Interims)
	if u.Running {
		fmt.Fprintf(stdout, "settled since the worker started: %s\n", both(u.Earned))
	}
	return nil
}
