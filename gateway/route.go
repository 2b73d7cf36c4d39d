package gateway

import (
	"context"
	"crypto/sha256"
	"slices"
	"strings"
	"time"

	"cocoon/attest"
	"cocoon/router"
)

// clock is the router's: time since the gateway began.
func (s *Server) clock() time.Duration { return time.Since(s.began) }

// tend looks after the router's table until ctx ends.
func (s *Server) tend(ctx context.Context) error {
	tick := time.NewTicker(router.TendEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.table.Tend(s.clock())
		}
	}
}

// trust is how well a worker itself is proved. What the gateway's own proof takes away from it is for the whole
// gateway: see Server.reach.
func (m *member) trust() router.Trust {
	if m.result.Load().Verdict == attest.Simulated {
		return router.Simulated
	}
	return router.Gateway
}

// reach is the best that this gateway can promise about requests that it reads.
func (s *Server) reach() router.Trust {
	switch *s.self.verdict.Load() {
	case attest.Simulated:
		return router.Simulated
	case attest.Verified:
		return router.Gateway
	}
	return router.Unprotected
}

// machine names the hardware that a worker has proved to run on: its GPUs if it has any, or else its CPU, which several
// virtual machines may share. Empty if nothing of it has a name.
func (m *member) machine() string {
	chips := slices.Sorted(slices.Values(m.result.Load().Claims.Chips))
	gpus := slices.DeleteFunc(slices.Clone(chips), func(c string) bool { return !strings.HasPrefix(c, "gpu:") })
	if len(gpus) > 0 {
		chips = gpus
	}
	if len(chips) == 0 {
		return ""
	}
	sum := sha256.Sum256([]byte(strings.Join(chips, "\x00")))
	return string(sum[:])
}
