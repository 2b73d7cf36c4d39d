package gateway

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"cocoon/attest"
	"cocoon/internal/trust"
)

// registryPeriod is between reads of the registry: what it takes back counts within that time.
const registryPeriod = 5 * time.Minute

// basis is what the rules for machines are put together from: the policy's file, and the registry.
type basis struct {
	feed *trust.Feed // nil: the policy stands alone

	mu     sync.Mutex // over the loading of rules, too
	policy []byte     // the last sound text of the policy's file
}

// trust puts together what machines are judged by.
func (b *basis) trust(policy []byte, at time.Time) (*trust.Trust, error) {
	if b.feed != nil {
		return b.feed.Trust(policy, at)
	}
	p, err := attest.ParsePolicy(policy)
	if err != nil {
		return nil, err
	}
	return trust.Alone(p), nil
}

// openRegistry reads the registry for the first time: without one, from the chain or kept, there are no releases.
func (s *Server) openRegistry(ctx context.Context) (err error) {
	if s.cfg.Registry == nil {
		return nil
	}
	if s.basis.feed, err = s.cfg.Registry.Open(ctx, s.cfg.DataDir, s.log); err != nil {
		return fmt.Errorf("releases are to come from a registry: %w", err)
	}
	return nil
}

// watchRegistry has what the registry says count, again and again, until ctx ends. If it can't be read, the last policy
// goes on until it ends, which it does by itself.
func (s *Server) watchRegistry(ctx context.Context) error {
	every := cmp.Or(s.cfg.Registry.Every, registryPeriod)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
		s.basis.feed.Read(ctx)
		if err := s.reload(); err != nil {
			s.log.Error("the registry and the appraisal policy don't go together; the last one stays until it ends", "err", err)
		}
	}
}

// reload has the registry count with the last sound policy: also without news, since releases begin and end in time.
func (s *Server) reload() error {
	s.basis.mu.Lock()
	defer s.basis.mu.Unlock()
	return s.goBy(s.basis.policy)
}
