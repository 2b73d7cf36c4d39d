package tdx

import (
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

// IntelRootSHA256 is the SHA-256 of the DER of Intel's SGX Root CA, valid until the end of 2049. Intel publishes the
// certificate as certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.cer.
const IntelRootSHA256 = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"

//go:embed intel_sgx_root.pem
var intelRoot []byte

// IntelRoot returns Intel's SGX Root CA, which certifies SGX and TDX platforms. It fails if the embedded file isn't the
// certificate that IntelRootSHA256 names.
func IntelRoot() (*x509.Certificate, error) {
	block, _ := pem.Decode(intelRoot)
	if block == nil {
		return nil, errors.New("embedded Intel SGX Root CA is not PEM")
	}
	sum := sha256.Sum256(block.Bytes)
	if got := hex.EncodeToString(sum[:]); got != IntelRootSHA256 {
		return nil, fmt.Errorf("embedded Intel SGX Root CA has SHA-256 %s, want %s", got, IntelRootSHA256)
	}
	return x509.ParseCertificate(block.Bytes)
}
