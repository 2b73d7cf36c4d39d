package collateral

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"time"

	"cocoon/attest"
	"cocoon/attest/nvgpu"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

// want says what one piece of collateral has to be about. Which fields count depends on the kind.
type want struct {
	Kind attest.Kind `json:"kind"`

	Line   snp.Line   `json:"line,omitempty"`   // SNPKey, SNPChain
	HWID   []byte     `json:"hwid,omitempty"`   // SNPKey, which is a VCEK
	TCB    snp.TCB    `json:"tcb,omitzero"`     // SNPKey
	Signer snp.Signer `json:"signer,omitempty"` // SNPChain: what hangs on it

	FMSPC []byte `json:"fmspc,omitempty"` // TDXCollateral
	CA    tdx.CA `json:"ca,omitempty"`    // TDXCollateral

	RIM nvgpu.RIMRef `json:"rim,omitzero"` // GPURIM

	// Certs are what a GPUOCSP is about, DER: the certificate, its issuer, and so on to the root.
	Certs [][]byte `json:"certs,omitempty"`

	// Root is the SHA-256 of the root that the hardware hangs on; zero if that isn't known before the item is here.
	Root attest.Digest `json:"root,omitzero"`

	// chains are certificates to try for an SNPKey or SNPChain, besides those that the store knows.
	chains []snp.Chain
}

// key is equal for wants of the same thing.
func (w *want) key() string {
	switch w.Kind {
	case attest.SNPKey:
		return fmt.Sprintf("%s %q %x %+v", w.Kind, w.Line, w.HWID, w.TCB)
	case attest.SNPChain:
		return fmt.Sprintf("%s %q %s %s", w.Kind, w.Line, w.Signer, w.Root)
	case attest.TDXCollateral:
		return fmt.Sprintf("%s %x %q %s", w.Kind, w.FMSPC, w.CA, w.Root)
	case attest.GPURIM:
		return fmt.Sprintf("%s %+q", w.Kind, w.RIM)
	case attest.GPUOCSP:
		if len(w.Certs) > 0 {
			return fmt.Sprintf("%s %x", w.Kind, sha256.Sum256(w.Certs[0]))
		}
	}
	return fmt.Sprintf("%q", w.Kind)
}

// title is how people read of it.
func (w *want) title() string {
	switch w.Kind {
	case attest.SNPKey:
		return fmt.Sprintf("VCEK of %s chip %s at TCB %s", w.Line, hex.EncodeToString(w.HWID[:min(8, len(w.HWID))]), w.TCB)
	case attest.SNPChain:
		return fmt.Sprintf("revocation list for %ss of %s", w.Signer, w.Line)
	case attest.TDXCollateral:
		return fmt.Sprintf("TDX collateral of FMSPC %x (%s CA)", w.FMSPC, w.CA)
	case attest.GPURIM:
		return "RIM " + w.RIM.ID
	case attest.GPUOCSP:
		if certs, err := w.certificates(); err == nil {
			return fmt.Sprintf("OCSP response about %.64q, serial %x", certs[0].Subject.CommonName, certs[0].SerialNumber)
		}
	}
	return fmt.Sprintf("item of kind %q", w.Kind)
}

// certificates parses Certs.
func (w *want) certificates() ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for _, der := range w.Certs {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if len(all) < 2 {
		return nil, fmt.Errorf("%d certificates, want one and its issuers", len(all))
	}
	return all, nil
}

// renews tells whether an item says what may change before it ends: what is revoked, which TCB is good.
func (w *want) renews() bool { return w.Kind != attest.SNPKey && w.Kind != attest.GPURIM }

// facts are what an item turned out to say, verified.
type facts struct {
	from, until time.Time
	// rank orders items about one thing: one that is lower anywhere doesn't replace another.
	rank    []int64
	chain   snp.Chain           // SNPKey, SNPChain
	signers []*x509.Certificate // GPURIM: the signer's chain
}

// older tells whether something that was known isn't known to f any more.
func (f *facts) older(than *facts) bool {
	for i := range f.rank {
		if i < len(than.rank) && f.rank[i] < than.rank[i] {
			return true
		}
	}
	return false
}

// inspect verifies that data is what w asks for, at a time.
func (s *Store) inspect(w *want, data []byte, at time.Time) (*facts, error) {
	switch w.Kind {
	case attest.SNPKey:
		return s.inspectSNPKey(w, data, at)
	case attest.SNPChain:
		return s.inspectSNPChain(w, data, at)
	case attest.TDXCollateral:
		return s.inspectTDX(w, data, at)
	case attest.GPURIM:
		return s.inspectRIM(w, data, at)
	case attest.GPUOCSP:
		return s.inspectOCSP(w, data, at)
	}
	return nil, fmt.Errorf("kind %q is unknown", w.Kind)
}

// download asks the service, and verifies what it says.
func (s *Store) download(ctx context.Context, w *want, now time.Time) ([]byte, *facts, error) {
	var data []byte
	var err error
	switch w.Kind {
	case attest.SNPKey:
		return s.fetchSNPKey(ctx, w, now)
	case attest.SNPChain:
		data, err = s.fetchSNPChain(ctx, w, now)
	case attest.TDXCollateral:
		data, err = s.fetchTDX(ctx, w, now)
	case attest.GPURIM:
		data, err = s.fetchRIM(ctx, w, now)
	case attest.GPUOCSP:
		data, err = s.fetchOCSP(ctx, w, now)
	default:
		err = fmt.Errorf("kind %q is unknown", w.Kind)
	}
	if err != nil {
		return nil, nil, err
	}
	f, err := s.inspect(w, data, now)
	return data, f, s.service(w).refused(err)
}

// refused says that a service's answer is no good.
func (v *service) refused(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s (%s) answered with what is refused: %w", v.name, v.host, err)
}

// service returns whom to ask.
func (s *Store) service(w *want) *service {
	switch w.Kind {
	case attest.SNPKey, attest.SNPChain:
		return s.services.kds
	case attest.TDXCollateral:
		return s.services.pcs
	case attest.GPURIM:
		return s.services.rim
	default:
		return s.services.ocsp
	}
}

// askable says why there is nobody to ask.
func (s *Store) askable(w *want) error {
	v := s.service(w)
	switch {
	case v.base == "":
		return fmt.Errorf("not in the cache, none good came with the evidence, and %s is switched off", v.name)
	case v.vendor && !w.Root.IsZero() && !s.vendors[w.Root]:
		return fmt.Errorf("none good came with the evidence, and %s knows nothing of what hangs on root %s", v.name, w.Root)
	}
	return nil
}
