package receipt

import (
	"errors"
	"fmt"
)

// Errors of a chain. The receipt that they are about changes nothing.
var (
	// ErrDuplicate marks the chain's last receipt, come again: it is well.
	ErrDuplicate = errors.New("the receipt is there already")
	// ErrLate marks a receipt that a later one has replaced, or that comes after the final one.
	ErrLate = errors.New("the receipt comes too late")
	// ErrFork marks a receipt that contradicts the one that it should follow: the worker signed two stories.
	ErrFork = errors.New("the receipt does not fit the one before it")
	// ErrGap marks a receipt that fits, but whose predecessor is missing. Counts are cumulative, so that money does not
	// depend on it: Jump takes the receipt.
	ErrGap = errors.New("receipts before this one are missing")
)

// Chain is the receipts of one request in their order, of which it keeps the last. The zero value has none. It looks at
// receipts whose signatures and terms are checked.
type Chain struct {
	last *Signed
}

// Last is the last receipt; nil if there is none.
func (c *Chain) Last() *Signed { return c.last }

// Add adds the receipt that follows the last one at once; to an empty chain, the request's first.
func (c *Chain) Add(s *Signed) error { return c.add(s, false) }

// Jump is Add, but receipts before this one may be missing: for one that a worker presents after the connection broke.
func (c *Chain) Jump(s *Signed) error { return c.add(s, true) }

func (c *Chain) add(s *Signed, gaps bool) error {
	if err := s.after(c.last); err != nil && (!gaps || !errors.Is(err, ErrGap)) {
		return err
	}
	c.last = s
	return nil
}

// after tells whether s may come after last. ErrGap means that it may if gaps do.
func (s *Signed) after(last *Signed) error {
	switch {
	case last == nil && s.Seq == 0:
		return nil
	case last == nil:
		return fmt.Errorf("%w: the first is %d", ErrGap, s.Seq)
	case s.id == last.id:
		return ErrDuplicate
	case s.Seq == last.Seq && s.Request == last.Request:
		return fmt.Errorf("%w: there are two with seq %d", ErrFork, s.Seq)
	case s.Seq < last.Seq:
		return fmt.Errorf("%w: seq %d after %d", ErrLate, s.Seq, last.Seq)
	case last.Kind == Final:
		return fmt.Errorf("%w: seq %d after the final one", ErrLate, s.Seq)
	}
	if err := s.continues(&last.Receipt); err != nil {
		return fmt.Errorf("%w: %w", ErrFork, err)
	}
	switch {
	case s.Seq > last.Seq+1:
		return fmt.Errorf("%w: seq %d after %d", ErrGap, s.Seq, last.Seq)
	case s.Prev != last.id:
		return fmt.Errorf("%w: %w", ErrFork, mismatch("prev", s.Prev, last.id))
	}
	return nil
}

// continues checks that what was agreed on stays, and that nothing runs backwards. Where the request failed in the end,
// the counts are gone.
func (r *Receipt) continues(last *Receipt) error {
	if err := r.differ(last.terms()); err != nil {
		return err
	}
	switch {
	case r.Req != last.Req:
		return mismatch("req", r.Req, last.Req)
	case r.Start != last.Start:
		return mismatch("start", r.Start, last.Start)
	case r.End < last.End:
		return atLeast("end", r.End, last.End)
	case last.TTFT != 0 && r.TTFT != last.TTFT:
		return mismatch("ttft_ms", r.TTFT, last.TTFT)
	case r.Status == Error:
		return nil
	case r.Tokens.In < last.Tokens.In:
		return atLeast("tokens in", r.Tokens.In, last.Tokens.In)
	case r.Tokens.Cached < last.Tokens.Cached:
		return atLeast("tokens cached", r.Tokens.Cached, last.Tokens.Cached)
	case r.Tokens.Out < last.Tokens.Out:
		return atLeast("tokens out", r.Tokens.Out, last.Tokens.Out)
	case r.Tokens.Reasoning < last.Tokens.Reasoning:
		return atLeast("tokens reasoning", r.Tokens.Reasoning, last.Tokens.Reasoning)
	}
	return nil
}

func atLeast(field string, got, least int64) error {
	return &MismatchError{field, fmt.Sprint(got), fmt.Sprintf("at least %d", least)}
}
