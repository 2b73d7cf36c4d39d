package ton

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/xssnick/tonutils-go/ton"
)

// racers is how many liteservers are asked for the newest block at once; another one for each that fails. It is what a
// slow or silent one costs nothing by.
const racers = 3

// Head is the newest proven block: of what several liteservers say, the first that is signed by the validators whom the
// blocks since the last proven one name, and that is not older than one this client gave before. With Config.Dir that holds
// over restarts. Errors: ErrStale if it is older than Config.MaxAge, or if all liteservers are behind what was given before;
// ErrUnreachable.
func (c *Client) Head(ctx context.Context) (Head, error) {
	ctx, done, err := c.enter(ctx)
	if err != nil {
		return Head{}, err
	}
	defer done()
	return c.newest(ctx, 0)
}

// Next waits for a block after that seqno and is as Head then. It gives up with ErrStale when there is none for
// Config.MaxAge.
func (c *Client) Next(ctx context.Context, after uint32) (Head, error) {
	ctx, done, err := c.enter(ctx)
	if err != nil {
		return Head{}, err
	}
	defer done()
	for began := time.Now(); ; {
		h, err := c.newest(ctx, after+1)
		if err == nil {
			return h, nil
		}
		var e *serverError
		if !errors.As(err, &e) || e.code != codeTimeout || ctx.Err() != nil {
			return Head{}, err
		}
		if time.Since(began) > c.maxAge {
			return Head{}, fmt.Errorf("waiting for a block after %d: %w: %w", after, ErrStale, err)
		}
	}
}

// claim is what a liteserver says to be the newest block.
type claim struct {
	from *server
	id   *ton.BlockIDExt
	err  error
}

// newest races liteservers for their newest block, which has at least that seqno, and checks what they say as it comes.
func (c *Client) newest(ctx context.Context, seqno uint32) (Head, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	known := c.newestKnown()
	order := c.order()
	claims := make(chan claim, len(order))
	asked := 0
	next := func() {
		if asked == len(order) {
			return
		}
		s := order[asked]
		asked++
		c.busy.Go(func() {
			r := claim{from: s}
			r.err = s.try(func(s *server) (err error) {
				r.id, err = s.last(ctx, seqno)
				return err
			})
			claims <- r
		})
	}
	for range racers {
		next()
	}
	var all []error
	for got := 0; got < asked; got++ {
		r := <-claims
		if r.err == nil {
			var h Head
			r.err = r.from.try(func(s *server) (err error) {
				h, err = c.prove(ctx, s, known, r.id, seqno)
				return err
			})
			if r.err == nil {
				return h, nil
			}
		}
		if ctx.Err() != nil {
			return Head{}, fmt.Errorf("newest block: %w", context.Cause(ctx))
		}
		if e := (*serverError)(nil); seqno == 0 || !errors.As(r.err, &e) || e.code != codeTimeout {
			c.log.Warn("liteserver passed over", "doing", "newest block", "error", r.err)
		}
		all = append(all, r.err)
		next()
	}
	why := ErrUnreachable
	for _, err := range all {
		if errors.Is(err, ErrStale) {
			why = ErrStale
		}
	}
	return Head{}, fmt.Errorf("newest block: %w: %w", why, &failures{all})
}

// newestKnown is the newest proven block.
func (c *Client) newestKnown() Head {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known
}

// last is what the server says to be the newest block of the masterchain.
func (s *server) last(ctx context.Context, seqno uint32) (*ton.BlockIDExt, error) {
	answer, err := s.ask(ctx, seqno, ton.GetMasterchainInf{})
	if err != nil {
		return nil, err
	}
	info, ok := answer.(ton.MasterchainInfo)
	if !ok {
		return nil, errOther
	}
	if !plausible(info.Last) {
		return nil, fmt.Errorf("%w: its newest block is not one of the masterchain", ErrProof)
	}
	return info.Last, nil
}

// prove checks a claim against the newest block that was known when it was asked for, and makes it the newest known one.
func (c *Client) prove(ctx context.Context, s *server, known Head, id *ton.BlockIDExt, seqno uint32) (Head, error) {
	switch {
	case id.SeqNo < known.Seqno:
		return Head{}, fmt.Errorf("%w: it %w: block %d, after %d", ErrStale, errBehind, id.SeqNo, known.Seqno)
	case id.SeqNo == known.Seqno && !same(id, known.id):
		return Head{}, fmt.Errorf("%w: another block %d than the proven one", ErrProof, id.SeqNo)
	case id.SeqNo < seqno:
		return Head{}, fmt.Errorf("%w: it %w: block %d instead of %d", ErrStale, errBehind, id.SeqNo, seqno)
	}
	h := known
	if id.SeqNo > known.Seqno || known.Time.IsZero() {
		if err := s.api.VerifyProofChain(ctx, known.id, id); err != nil {
			return Head{}, proofError(err)
		}
		var err error
		if h, err = s.header(ctx, id); err != nil {
			return Head{}, err
		}
		if h, err = c.advance(h); err != nil {
			return Head{}, err
		}
	} else if newer := c.newestKnown(); newer.Seqno > h.Seqno {
		h = newer
	}
	if age := c.now().Sub(h.Time); age > c.maxAge {
		return Head{}, fmt.Errorf("%w: block %d is %v old", ErrStale, h.Seqno, age.Round(time.Second))
	}
	return h, nil
}

// proofError tells a wrong proof from one that did not come.
func proofError(err error) error {
	var e ton.LSError
	switch {
	case errors.As(err, &e):
		return &serverError{e.Code, e.Text}
	case errors.Is(err, errNoAnswer), errors.Is(err, errGone), errors.Is(err, errDown), errors.Is(err, errClosed),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return fmt.Errorf("%w: %s", ErrProof, clip(err.Error()))
}

// header reads the header of a block whose hash is proven. That the number in it is the one that was claimed has to be
// checked: the signatures are over the hash only, and a false number would have all true blocks look old from then on.
func (s *server) header(ctx context.Context, id *ton.BlockIDExt) (Head, error) {
	b, err := s.api.GetBlockHeader(ctx, id)
	if err != nil {
		return Head{}, proofError(err)
	}
	if b.SeqNo != id.SeqNo || b.NotMaster {
		return Head{}, fmt.Errorf("%w: block %d says that it is block %d", ErrProof, id.SeqNo, b.SeqNo)
	}
	h := Head{Seqno: id.SeqNo, Time: time.Unix(int64(b.GenUtime), 0).UTC(), id: id.Copy(), key: b.PrevKeyBlockSeqno}
	if b.KeyBlock {
		h.key = b.SeqNo
	}
	return h, nil
}

// advance makes a proven block the newest known one, after it is kept. Of several it gives the newest.
func (c *Client) advance(h Head) (Head, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known.Seqno > h.Seqno || c.known.Seqno == h.Seqno && !c.known.Time.IsZero() {
		return c.known, nil
	}
	if err := c.keep.save(h); err != nil {
		return Head{}, err
	}
	c.known = h
	return h, nil
}
