package collateral

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"cocoon/attest/nvgpu"
)

// rimIDMax bounds an identifier at the RIM service; real ones have 40 characters.
const rimIDMax = 128

// gpuOptions are those to verify NVIDIA's documents with.
func (s *Store) gpuOptions(at time.Time) nvgpu.Options {
	return nvgpu.Options{Roots: s.roots.Load().GPU, Now: at, Cache: s.verified}
}

func (s *Store) inspectRIM(w *want, data []byte, at time.Time) (*facts, error) {
	r, signers, err := nvgpu.OpenRIM(data, s.gpuOptions(at))
	if err != nil {
		return nil, err
	}
	if r.Product != w.RIM.Product || r.Version != w.RIM.Version || r.Edition != w.RIM.Edition {
		return nil, fmt.Errorf("got a RIM of %s %s (%s), want %s %s (%s)", r.Product, r.Version, r.Edition, w.RIM.Product,
			w.RIM.Version, w.RIM.Edition)
	}
	f := &facts{from: at, until: signers[0].NotAfter, signers: signers}
	for _, c := range signers[1:] {
		if c.NotAfter.Before(f.until) {
			f.until = c.NotAfter
		}
	}
	return f, nil
}

func (s *Store) inspectOCSP(w *want, data []byte, at time.Time) (*facts, error) {
	certs, err := w.certificates()
	if err != nil {
		return nil, err
	}
	o, err := nvgpu.ParseOCSP(data)
	if err != nil {
		return nil, err
	}
	// One that says "revoked" is as good to keep as any: the verifier is to see it.
	a, err := o.Status(certs, s.gpuOptions(at))
	if err != nil {
		return nil, err
	}
	return &facts{from: a.From, until: a.Until, rank: []int64{a.From.Unix()}}, nil
}

// fetchRIM asks the RIM service, which answers with JSON.
func (s *Store) fetchRIM(ctx context.Context, w *want, now time.Time) ([]byte, error) {
	id := w.RIM.ID
	strange := strings.ContainsFunc(id, func(c rune) bool { return !plain(c) })
	if !strings.HasPrefix(id, "NV_") || len(id) > rimIDMax || strange {
		return nil, fmt.Errorf("a RIM can't have the identifier %.64q", id)
	}
	text, _, err := s.services.rim.ask(ctx, question{path: "/v1/rim/" + id, limit: rimMax}, now)
	if err != nil {
		return nil, err
	}
	var answer struct {
		ID  string `json:"id"`
		RIM []byte `json:"rim"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, s.services.rim.refused(fmt.Errorf("reading JSON: %w", err))
	}
	if answer.ID != id {
		return nil, s.services.rim.refused(fmt.Errorf("got the RIM %.64q, want %q", answer.ID, id))
	}
	if len(answer.RIM) == 0 {
		return nil, s.services.rim.refused(errors.New("got no RIM"))
	}
	return answer.RIM, nil
}

// plain are the characters of a RIM's identifier, none of which means anything in a URL.
func plain(c rune) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '.' || c == '_' || c == '-'
}

// fetchOCSP asks the OCSP service.
func (s *Store) fetchOCSP(ctx context.Context, w *want, now time.Time) ([]byte, error) {
	certs, err := w.certificates()
	if err != nil {
		return nil, err
	}
	request, err := nvgpu.OCSPRequest(certs[0], certs[1])
	if err != nil {
		return nil, err
	}
	der, _, err := s.services.ocsp.ask(ctx, question{path: "/", body: request, limit: nvgpu.OCSPMax}, now)
	return der, err
}
