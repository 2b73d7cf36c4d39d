package worker

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cocoon/internal/durable"
	"cocoon/internal/nanoton"
	"cocoon/internal/receipt"
	"cocoon/worker/receipts"
)

const (
	// scrapeTimeout bounds the question to the running worker: it answers from memory.
	scrapeTimeout = 5 * time.Second
	// scrapeMax bounds its answer, bytes: metrics of 64 gateways and Go's own are some 50 KiB.
	scrapeMax = 1 << 20
)

// Unpaid is what a worker has receipts for that no gateway has acknowledged.
type Unpaid struct {
	Finals, Interims int
	// Sum is what the final ones come to.
	Sum nanoton.Amount
	// Oldest is when the oldest final one was signed; zero if there is none.
	Oldest time.Time
	// Running tells that the worker runs and was asked; then Earned is what gateways have settled since its start.
	Running bool
	Earned  nanoton.Amount
}

// add counts a receipt.
func (u *Unpaid) add(cost nanoton.Amount, end int64) {
	u.Finals++
	u.Sum += cost
	if at := time.UnixMilli(end); u.Oldest.IsZero() || at.Before(u.Oldest) {
		u.Oldest = at
	}
}

// ReadUnpaid looks into the data folder of a worker, or asks the worker while it runs, which takes its ops_listen.
func ReadUnpaid(ctx context.Context, c Config) (Unpaid, error) {
	dir := receiptsPath(c.DataDir)
	if _, err := os.Stat(filepath.Join(dir, "receipts")); errors.Is(err, fs.ErrNotExist) {
		return Unpaid{}, nil // to open them would make them
	}
	store, err := receipts.Open(receipts.Config{Dir: dir})
	switch {
	case errors.Is(err, durable.ErrLocked) && c.OpsListen == "":
		return Unpaid{}, errors.New("the worker runs, and can't be asked: set ops_listen")
	case errors.Is(err, durable.ErrLocked):
		return scrape(ctx, c.OpsListen)
	case err != nil:
		return Unpaid{}, err
	}
	defer store.Close()
	var u Unpaid
	for s, err := range store.Unacknowledged() {
		switch {
		case err != nil:
			return Unpaid{}, err
		case s.Kind == receipt.Final:
			u.add(s.Cost, s.End)
		default:
			u.Interims++
		}
	}
	return u, nil
}

// scrape reads the running worker's metrics.
func scrape(ctx context.Context, address string) (Unpaid, error) {
	text, err := askRunning(ctx, address, "/metrics", scrapeMax)
	if err != nil {
		return Unpaid{}, err
	}
	values := make(map[string]float64)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			values[name] = v
		}
	}
	if _, ok := values[metricUnpaid]; !ok {
		return Unpaid{}, errors.New("asking the running worker: what answers at ops_listen is none of this version")
	}
	u := Unpaid{
		Finals:   int(values[metricUnacknowledged+`{kind="final"}`]),
		Interims: int(values[metricUnacknowledged+`{kind="interim"}`]),
		Sum:      nanoton.Amount(values[metricUnpaid]),
		Running:  true, Earned: nanoton.Amount(values[metricEarned]),
	}
	if at := values[metricOldest]; at > 0 {
		u.Oldest = time.UnixMilli(int64(at * 1000))
	}
	return u, nil
}
