package collateral

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cocoon/attest"
	"cocoon/attest/snp"
	"cocoon/internal/strictjson"
)

// hwidTurin is how many bytes Turin's chips have of a name; others have all of the report's (AMD 57230, hwID).
const hwidTurin = 8

// keyOfReport says which VCEK a report needs. It fails for reports that don't name line or chip, and for VLEKs, which
// AMD gives to cloud providers only.
func keyOfReport(r *snp.Report) (*want, error) {
	switch {
	case r.Signer != snp.VCEK:
		return nil, fmt.Errorf("a %s is not to be had from AMD's service", r.Signer)
	case r.Line == "":
		return nil, fmt.Errorf("a report of version %d doesn't say of which product line it is", r.Version)
	case r.ChipID == [64]byte{}:
		return nil, errors.New("the host hides which chip it is")
	}
	tcb, err := r.ReportedTCB.Decode(r.Line)
	if err != nil {
		return nil, err
	}
	w := &want{Kind: attest.SNPKey, Line: r.Line, HWID: bytes.Clone(r.ChipID[:]), TCB: tcb}
	if r.Line == snp.Turin {
		w.HWID = w.HWID[:hwidTurin]
	}
	return w, nil
}

// chainsFor returns the certificates to try: AMD's own, those of the cache, and those that came with the evidence. None
// of them is trusted for being there.
func (s *Store) chainsFor(w *want) []snp.Chain {
	all := []snp.Chain{s.amd[w.Line]}
	s.mu.Lock()
	for _, e := range s.entries {
		if e.want.Kind == attest.SNPChain && e.want.Line == w.Line && e.facts != nil {
			all = append(all, e.facts.chain)
		}
	}
	s.mu.Unlock()
	return append(all, w.chains...)
}

func (s *Store) inspectSNPKey(w *want, data []byte, at time.Time) (*facts, error) {
	k, err := snp.ParseEndorsementKey(data)
	if err != nil {
		return nil, err
	}
	if !w.isKey(k) {
		return nil, &otherKeyError{k, w}
	}
	return s.anchorSNPKey(data, s.chainsFor(w), at)
}

// isKey tells whether k is the VCEK that w asks for.
func (w *want) isKey(k *snp.EndorsementKey) bool {
	return k.Kind == snp.VCEK && k.Line == w.Line && bytes.Equal(k.HWID, w.HWID) && k.TCB == w.TCB
}

// otherKeyError is an endorsement key that wasn't asked for.
type otherKeyError struct {
	got  *snp.EndorsementKey
	want *want
}

func (e *otherKeyError) Error() string {
	return fmt.Sprintf("got the %s of %s chip %.16x at TCB %s, want %s", e.got.Kind, e.got.Line, e.got.HWID, e.got.TCB,
		e.want.title())
}

// anchorSNPKey finds the chain that an endorsement key hangs on.
func (s *Store) anchorSNPKey(ek []byte, chains []snp.Chain, at time.Time) (*facts, error) {
	err := errors.New("no certificates of its line")
	for _, c := range chains {
		var end time.Time
		if _, end, err = snp.VerifyKey(ek, c, snp.Options{Roots: s.roots.Load().SNP, Now: at}); err == nil {
			return &facts{from: at, until: end, chain: snp.Chain{ARK: c.ARK, ASK: c.ASK, ASVK: c.ASVK}}, nil
		}
	}
	return nil, err
}

func (s *Store) inspectSNPChain(w *want, data []byte, at time.Time) (*facts, error) {
	var item attest.SNPChainItem
	if err := strictjson.Decode(data, &item); err != nil {
		return nil, fmt.Errorf("reading a chain: %w", err)
	}
	if item.Line != w.Line || sha256.Sum256(item.ARK) != w.Root || len(item.CRLs) != 1 {
		return nil, fmt.Errorf("got a chain of %.16q with %d revocation lists, want one of %s under root %s with one",
			item.Line, len(item.CRLs), w.Line, w.Root)
	}
	c := snp.Chain{ARK: item.ARK, ASK: item.ASK, ASVK: item.ASVK, CRLs: item.CRLs}
	r, end, err := snp.VerifyCRL(item.CRLs[0], w.Line, w.Signer, c, snp.Options{Roots: s.roots.Load().SNP, Now: at})
	if err != nil {
		return nil, err
	}
	return &facts{from: r.ThisUpdate, until: end, rank: []int64{r.ThisUpdate.Unix()}, chain: c}, nil
}

// chainItem puts certificates and a list together as the item that w asks for: nothing that isn't needed is in it.
func chainItem(w *want, c snp.Chain, crls ...[]byte) ([]byte, error) {
	item := attest.SNPChainItem{Line: w.Line, ARK: c.ARK, CRLs: crls}
	if w.Signer == snp.VLEK {
		item.ASVK = c.ASVK
	} else {
		item.ASK = c.ASK
	}
	return json.Marshal(item)
}

// fetchSNPKey asks for a VCEK. If no certificates at hand fit, it asks for those too.
func (s *Store) fetchSNPKey(ctx context.Context, w *want, now time.Time) ([]byte, *facts, error) {
	path := fmt.Sprintf("/vcek/v1/%s/%x?", w.Line, w.HWID)
	if w.Line == snp.Turin {
		path += fmt.Sprintf("fmcSPL=%02d&", w.TCB.FMC)
	}
	path += fmt.Sprintf("blSPL=%02d&teeSPL=%02d&snpSPL=%02d&ucodeSPL=%02d", w.TCB.Boot, w.TCB.TEE, w.TCB.SNP,
		w.TCB.Microcode)
	data, _, err := s.services.kds.ask(ctx, question{path: path, limit: keyMax}, now)
	if err != nil {
		return nil, nil, err
	}
	f, err := s.inspect(w, data, now)
	_, other := errors.AsType[*otherKeyError](err)
	if _, malformed := snp.ParseEndorsementKey(data); err == nil || other || malformed != nil {
		return data, f, s.services.kds.refused(err)
	}
	c, err := s.fetchCerts(ctx, w.Line, snp.VCEK, now)
	if err != nil {
		return nil, nil, err
	}
	f, err = s.anchorSNPKey(data, []snp.Chain{c}, now)
	return data, f, s.services.kds.refused(err)
}

// kindPath is a kind of key in KDS's paths.
func kindPath(k snp.Signer) string { return strings.ToLower(k.String()) }

// fetchCerts asks for the certificates above an endorsement key: ASK or ASVK, then ARK. They prove nothing yet.
func (s *Store) fetchCerts(ctx context.Context, line snp.Line, k snp.Signer, now time.Time) (snp.Chain, error) {
	q := question{path: fmt.Sprintf("/%s/v1/%s/cert_chain", kindPath(k), line), limit: certsMax}
	text, _, err := s.services.kds.ask(ctx, q, now)
	if err != nil {
		return snp.Chain{}, err
	}
	issuer, rest := pem.Decode(text)
	root, rest := pem.Decode(rest)
	if issuer == nil || root == nil || len(bytes.TrimSpace(rest)) > 0 {
		return snp.Chain{}, s.services.kds.refused(errors.New("got no two certificates as PEM"))
	}
	if k == snp.VLEK {
		return snp.Chain{ARK: root.Bytes, ASVK: issuer.Bytes}, nil
	}
	return snp.Chain{ARK: root.Bytes, ASK: issuer.Bytes}, nil
}

// fetchSNPChain asks for the revocation list, and for certificates if there are none at hand.
func (s *Store) fetchSNPChain(ctx context.Context, w *want, now time.Time) ([]byte, error) {
	fits := func(c snp.Chain) bool {
		issuer := c.ASK
		if w.Signer == snp.VLEK {
			issuer = c.ASVK
		}
		return sha256.Sum256(c.ARK) == w.Root && issuer != nil
	}
	var c snp.Chain
	chains := s.chainsFor(w)
	if i := slices.IndexFunc(chains, fits); i >= 0 {
		c = chains[i]
	} else {
		var err error
		if c, err = s.fetchCerts(ctx, w.Line, w.Signer, now); err != nil {
			return nil, err
		}
	}
	q := question{path: fmt.Sprintf("/%s/v1/%s/crl", kindPath(w.Signer), w.Line), limit: amdCRLMax}
	crl, _, err := s.services.kds.ask(ctx, q, now)
	if err != nil {
		return nil, err
	}
	return chainItem(w, c, crl)
}
