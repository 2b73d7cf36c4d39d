package attest

import (
	"bytes"

	"cocoon/attest/nvgpu"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

// Kind says what an Item is.
type Kind string

// The kinds of collateral.
const (
	// SNPKey is the certificate of a VCEK or VLEK, DER.
	SNPKey Kind = "snp-key"
	// SNPChain is the JSON of an SNPChainItem: what a VCEK or VLEK hangs on, with revocation lists.
	SNPChain Kind = "snp-chain"
	// TDXCollateral is the JSON of a tdx.Collateral: TCB info, QE identity and revocation lists for one FMSPC.
	TDXCollateral Kind = "tdx-collateral"
	// GPURIM is a reference integrity manifest, XML.
	GPURIM Kind = "gpu-rim"
	// GPUOCSP is an OCSP response, DER.
	GPUOCSP Kind = "gpu-ocsp"
)

// Item is one piece of collateral. All kinds are signed by the vendor, or hang on a pinned root: an item may come from
// anyone, the machine that it is about included.
type Item struct {
	Kind Kind   `json:"kind"`
	Data []byte `json:"data"`
}

// Equal tells whether both are the same.
func (i Item) Equal(other Item) bool { return i.Kind == other.Kind && bytes.Equal(i.Data, other.Data) }

// SNPChainItem is the JSON of an SNPChain item. Fields are DER.
type SNPChainItem struct {
	Line snp.Line `json:"line"`
	ARK  []byte   `json:"ark"`
	ASK  []byte   `json:"ask,omitempty"`
	ASVK []byte   `json:"asvk,omitempty"`
	CRLs [][]byte `json:"crls,omitempty"`
}

// Collateral is all that vendors said about some hardware, sorted out by Add. The zero value is ready for use; AMD's own
// certificates (not their revocation lists) are added by Appraise.
type Collateral struct {
	SNPKeys [][]byte // VCEKs and VLEKs, DER
	SNP     map[snp.Line][]snp.Chain
	TDX     []*tdx.Collateral
	GPU     nvgpu.Collateral

	rims map[rimName]bool // that Add found
}

// rimName tells which one RIM is about.
type rimName struct{ product, version, edition string }
