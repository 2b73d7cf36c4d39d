package collateral

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"cocoon/attest/tdx"
)

func (s *Store) inspectTDX(w *want, data []byte, at time.Time) (*facts, error) {
	c := new(tdx.Collateral)
	if err := json.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("reading TDX collateral: %w", err)
	}
	// Which evaluation is new enough is for the policy; that it is no older than the one before is for the rank.
	st, err := tdx.VerifyCollateral(c, tdx.Options{Roots: s.roots.Load().TDX, Now: at, MinTCBEvaluation: 1})
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(st.FMSPC[:], w.FMSPC) || st.CA != w.CA || st.Root != w.Root {
		return nil, fmt.Errorf("got TDX collateral of FMSPC %x, %s CA, root %x; want FMSPC %x, %s CA, root %s",
			st.FMSPC, st.CA, st.Root, w.FMSPC, w.CA, w.Root)
	}
	return &facts{from: st.Issued, until: st.Expires, rank: []int64{
		int64(st.TCBInfo.Evaluation), int64(st.QEIdentity.Evaluation), st.TCBInfo.Issued.Unix(), st.QEIdentity.Issued.Unix(),
		st.RootCRL.Unix(), st.PCKCRL.Unix(),
	}}, nil
}

// fetchTDX asks the PCS, or a PCCS, for all parts.
func (s *Store) fetchTDX(ctx context.Context, w *want, now time.Time) ([]byte, error) {
	c := new(tdx.Collateral)
	const sgx, td = "/sgx/certification/v4", "/tdx/certification/v4"
	for _, part := range []struct {
		path, header string
		limit        int64
		set          func(body []byte, chain string) error
	}{
		{fmt.Sprintf("%s/tcb?fmspc=%x", td, w.FMSPC), "TCB-Info-Issuer-Chain", intelMax, c.SetTCBInfo},
		{td + "/qe/identity", "SGX-Enclave-Identity-Issuer-Chain", intelMax, c.SetQEIdentity},
		{sgx + "/pckcrl?encoding=der&ca=" + string(w.CA), "SGX-PCK-CRL-Issuer-Chain", intelCRLMax, c.SetPCKCRL},
	} {
		body, header, err := s.services.pcs.ask(ctx, question{path: part.path, limit: part.limit}, now)
		if err != nil {
			return nil, err
		}
		if err := part.set(body, header.Get(part.header)); err != nil {
			return nil, s.services.pcs.refused(err)
		}
	}
	var err error
	if c.RootCRL, err = s.fetchRootCRL(ctx, now); err != nil {
		return nil, err
	}
	return json.Marshal(c)
}

// fetchRootCRL asks for the root's list: DER where Intel publishes it, hexadecimal at a PCCS.
func (s *Store) fetchRootCRL(ctx context.Context, now time.Time) ([]byte, error) {
	if v := s.services.intelCRL; v != nil {
		der, _, err := v.ask(ctx, question{path: "/IntelSGXRootCA.der", limit: intelCRLMax}, now)
		return der, err
	}
	text, _, err := s.services.pcs.ask(ctx, question{path: "/sgx/certification/v4/rootcacrl", limit: 2 * intelCRLMax}, now)
	if err != nil {
		return nil, err
	}
	der, err := hex.DecodeString(string(bytes.TrimSpace(text)))
	return der, s.services.pcs.refused(err)
}
