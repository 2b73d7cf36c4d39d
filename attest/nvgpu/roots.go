package nvgpu

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

// SHA-256 of NVIDIA's root certificates in DER. NVIDIA has announced a second device root, "Root-CA-L1B", which we have
// not seen: it goes on the list when it's published.
const (
	deviceRootPin = "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48" // NVIDIA Device Identity CA
	rimRootPin    = "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1" // NVIDIA CoRIM signing Root CA
)

// The certificates are NVIDIA's, from NVIDIA/nvtrust (Apache-2.0).
//
//go:embed certs/device_identity_ca.pem
var deviceRootPEM []byte

//go:embed certs/corim_signing_root_ca.pem
var rimRootPEM []byte

// Roots are what trust ends in: certificates, compared byte by byte with the last one of a chain. They come from the
// caller's configuration, never from a peer.
type Roots struct {
	Device []*x509.Certificate // over GPUs and switches
	RIM    []*x509.Certificate // over reference values
}

// VendorRoots returns NVIDIA's own, as embedded here and checked against their pins.
func VendorRoots() (Roots, error) {
	device, err := pinned(deviceRootPEM, deviceRootPin)
	if err != nil {
		return Roots{}, fmt.Errorf("reading the device root: %w", err)
	}
	rim, err := pinned(rimRootPEM, rimRootPin)
	if err != nil {
		return Roots{}, fmt.Errorf("reading the RIM root: %w", err)
	}
	return Roots{Device: []*x509.Certificate{device}, RIM: []*x509.Certificate{rim}}, nil
}

func pinned(text []byte, pin string) (*x509.Certificate, error) {
	block, rest := pem.Decode(text)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("not one PEM block")
	}
	if sum := sha256.Sum256(block.Bytes); hex.EncodeToString(sum[:]) != pin {
		return nil, fmt.Errorf("SHA-256 is %x, pinned is %s", sum, pin)
	}
	return x509.ParseCertificate(block.Bytes)
}

func contains(roots []*x509.Certificate, c *x509.Certificate) bool {
	for _, r := range roots {
		if r.Equal(c) {
			return true
		}
	}
	return false
}
