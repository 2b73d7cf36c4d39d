package ton

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// MessageMax is how many bytes an external message may have: the network's limit.
const MessageMax = 65535

// Send gives an external message, as ExternalTo makes it, to all liteservers, and returns when the first one takes it; the
// others still get it. Taken is not executed: the message may get lost, so send the same bytes again until the chain shows
// what it did, or until it has expired by the chain's clock.
//
// ErrRefused means that no liteserver took it and at least one tried it and said no. That does not mean that it was not
// executed. On the contrary, a message that was is refused when it is sent again, as is one that is expired, not signed
// rightly, or for a contract that lacks money or is not there. What was done is to be read on the chain only. Errors:
// ErrRefused, ErrUnreachable.
func (c *Client) Send(ctx context.Context, message []byte) error {
	if err := checkExternal(message); err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	ctx, done, err := c.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	servers := c.order()
	results := make(chan error, len(servers))
	c.busy.Go(func() { // it goes on when the caller has an answer: each server has its own deadline
		ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		defer cancel(nil)
		defer context.AfterFunc(c.life, func() { cancel(errClosed) })()
		var all sync.WaitGroup
		for _, s := range servers {
			all.Go(func() {
				results <- s.try(func(s *server) error { return s.send(ctx, message) })
			})
		}
		all.Wait()
	})
	var all []error
	refused := false
	for range servers {
		select {
		case err := <-results:
			if err == nil {
				return nil
			}
			var e *serverError
			refused = refused || errors.As(err, &e) && e.code != codeNotApplied && e.code != codeTimeout
			all = append(all, err)
		case <-ctx.Done():
			return fmt.Errorf("sending: %w", context.Cause(ctx))
		}
	}
	why := ErrUnreachable
	if refused {
		why = ErrRefused
	}
	return fmt.Errorf("sending: %w: %w", why, &failures{all})
}

func (s *server) send(ctx context.Context, message []byte) error {
	answer, err := s.ask(ctx, 0, ton.SendMessage{Body: message})
	if err != nil {
		return err
	}
	status, ok := answer.(ton.SendMessageStatus)
	if !ok {
		return errOther
	}
	if status.Status != 1 {
		return &serverError{0, fmt.Sprintf("status %d", status.Status)}
	}
	return nil
}

// checkExternal refuses what no liteserver would take for a message.
func checkExternal(message []byte) error {
	if len(message) > MessageMax {
		return fmt.Errorf("a message of %d bytes is too long", len(message))
	}
	root, err := cell.FromBOC(message)
	if err != nil {
		return fmt.Errorf("not a message: %w", err)
	}
	var m tlb.ExternalMessage
	if err := tlb.Parse(&m, root); err != nil {
		return fmt.Errorf("not an external message: %w", err)
	}
	if party(m.DstAddr).IsZero() {
		return errors.New("an external message to no account")
	}
	return nil
}

// ExternalTo is the bag of cells of an external message: what Send takes. With init it also brings the contract that it is
// for; a nil body is an empty one.
func ExternalTo(to Address, init *tlb.StateInit, body *cell.Cell) ([]byte, error) {
	if to.IsZero() {
		return nil, fmt.Errorf("external message: %w: none", ErrAddress)
	}
	if body == nil {
		body = cell.BeginCell().EndCell()
	}
	root, err := tlb.ToCell(&tlb.ExternalMessage{DstAddr: to.Std(), StateInit: init, Body: body})
	if err != nil {
		return nil, fmt.Errorf("external message: %w", err)
	}
	boc := root.ToBOC()
	if len(boc) > MessageMax {
		return nil, fmt.Errorf("external message: %d bytes are too long", len(boc))
	}
	return boc, nil
}
