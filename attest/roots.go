package attest

import (
	"crypto/x509"
	"fmt"

	"cocoon/attest/nvgpu"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

// Roots are what chains of evidence may end in.
type Roots struct {
	SNP []snp.Root
	TDX []*x509.Certificate
	GPU nvgpu.Roots
}

// VendorRoots are AMD's, Intel's and NVIDIA's own, which are built in. The error says that the program was built from
// damaged files.
func VendorRoots() (Roots, error) {
	intel, err := tdx.IntelRoot()
	if err != nil {
		return Roots{}, fmt.Errorf("reading Intel's root: %w", err)
	}
	nvidia, err := nvgpu.VendorRoots()
	if err != nil {
		return Roots{}, fmt.Errorf("reading NVIDIA's roots: %w", err)
	}
	return Roots{SNP: snp.AMDRoots(), TDX: []*x509.Certificate{intel}, GPU: nvidia}, nil
}

// Roots are those that the policy admits: the vendors', and a simulation's if it admits one. The empty policy has none.
func (p *Policy) Roots() Roots { return p.roots }
