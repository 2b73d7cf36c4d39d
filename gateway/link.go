package gateway

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"cocoon/billing/ton"
)

// connectEvery is between two tries to reach a liteserver.
const connectEvery = 5 * time.Second

// errApart says that there is no connection to the chain yet.
var errApart = errors.New("no liteserver was reached yet")

// link is the connection to the chain, which may take its time to come: requests are served without it.
type link struct {
	c      ton.Config
	client atomic.Pointer[ton.Client]
}

// connect tries until there is a connection; false if ctx ended before.
func (l *link) connect(ctx context.Context, log *slog.Logger) bool {
	for told := false; ; told = true {
		trying, cancel := context.WithTimeout(ctx, connectEvery)
		client, err := ton.Open(trying, l.c)
		cancel()
		if err == nil {
			l.client.Store(client)
			return true
		}
		if !told && ctx.Err() == nil {
			log.Warn("the chain can't be reached; requests are served meanwhile, deposits and payouts wait", "err", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(connectEvery):
		}
	}
}

func (l *link) close() {
	if c := l.client.Load(); c != nil {
		_ = c.Close() // it keeps what it needs as it goes
	}
}

// Head is [ton.Client.Head].
func (l *link) Head(ctx context.Context) (ton.Head, error) {
	if c := l.client.Load(); c != nil {
		return c.Head(ctx)
	}
	return ton.Head{}, errApart
}

// Next is [ton.Client.Next].
func (l *link) Next(ctx context.Context, after uint32) (ton.Head, error) {
	if c := l.client.Load(); c != nil {
		return c.Next(ctx, after)
	}
	return ton.Head{}, errApart
}

// Account is [ton.Client.Account].
func (l *link) Account(ctx context.Context, h ton.Head, a ton.Address) (ton.State, error) {
	if c := l.client.Load(); c != nil {
		return c.Account(ctx, h, a)
	}
	return ton.State{}, errApart
}

// Transactions is [ton.Client.Transactions].
func (l *link) Transactions(ctx context.Context, s ton.State, after ton.Cursor, most int) ([]*ton.Transaction, error) {
	if c := l.client.Load(); c != nil {
		return c.Transactions(ctx, s, after, most)
	}
	return nil, errApart
}

// Send is [ton.Client.Send].
func (l *link) Send(ctx context.Context, message []byte) error {
	if c := l.client.Load(); c != nil {
		return c.Send(ctx, message)
	}
	return errApart
}

// Fees is [ton.Client.Fees].
func (l *link) Fees(ctx context.Context, h ton.Head) (ton.Fees, error) {
	if c := l.client.Load(); c != nil {
		return c.Fees(ctx, h)
	}
	return ton.Fees{}, errApart
}
