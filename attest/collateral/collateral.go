// Package collateral gets what hardware vendors say about their hardware: certificates of AMD's chips, revocation
// lists, Intel's TCB information, NVIDIA's reference manifests and OCSP responses. It keeps them until they end, renews
// them before, and hands them out, to a verifier as attest.Collateral, to a worker as items to staple to its evidence.
//
// Nothing is trusted for where it comes from. What a service answers, a peer staples or a cache file holds is handed
// out only if it verifies to the vendors' roots (or a simulation's that the caller named), is about what was asked, and
// has not ended. What peers staple is used for their own evidence and never kept: the cache holds only what a service
// answered. An answer that is older than one we had is refused, even after that one has ended.
//
// Services are asked for hardware that exists: for GPUs whose evidence verifies, for platforms with a certificate by
// Intel. AMD's chips can't prove themselves before their certificate is here; there, only the rate of our questions is
// bounded, and machines had better staple their certificate. URLs are made of the configured bases and of numbers, hex
// digits and plain words; none is taken from a certificate, and no redirect is followed.
//
// Sources: AMD 57230 (VCEK certificate and KDS interface), Intel's "Provisioning Certification Service" API v4,
// NVIDIA's "RIM service" and "OCSP service" at docs.nvidia.com/attestation, RFC 6960.
package collateral

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"cocoon/attest"
	"cocoon/attest/nvgpu"
	"cocoon/attest/snp"
)

// Off, as a service's URL, has it never asked.
const Off = "off"

// The vendors' own services.
const (
	VendorKDS      = "https://kdsintf.amd.com"
	VendorPCS      = "https://api.trustedservices.intel.com"
	VendorIntelCRL = "https://certificates.trustedservices.intel.com"
	VendorRIM      = "https://rim.attestation.nvidia.com"
	VendorOCSP     = "https://ocsp.ndis.nvidia.com"
)

// gatherMax is how long Items may take: a worker's whole attestation has 30 seconds.
const gatherMax = 25 * time.Second

// signaturesMax is how many signatures of NVIDIA's the store remembers to be good: those of some hundred machines.
const signaturesMax = 8192

// Config says what a Store is like. The zero value asks the vendors and remembers until the process ends.
type Config struct {
	// Dir is where what was fetched is kept over restarts; it is made if it is missing. Default "": nowhere.
	Dir string
	// KDS, PCS, RIM and OCSP are base URLs of AMD's key distribution service, Intel's provisioning certification service
	// or a PCCS, NVIDIA's RIM and OCSP services; IntelCRL is where IntelSGXRootCA.der lies. Default "": the vendor's
	// own; but with a PCS that isn't Intel's, and no IntelCRL, the root's list is the PCCS's. Off: never asked.
	KDS, PCS, IntelCRL, RIM, OCSP string
	// Simulated are roots to take besides the vendors' own. What hangs on them is asked only of services that aren't the
	// vendors'. Default: none.
	Simulated attest.Roots
	// Signatures remembers NVIDIA's signatures that were verified; who appraises what the store gathers had better use
	// the same. Default nil: one of the store's own.
	Signatures *nvgpu.SignatureCache
	// Client asks the services; redirects it won't follow. Default nil: one with timeouts, which goes by no environment
	// variable, so by no proxy.
	Client *http.Client
	// Log gets what begins to fail, what works again, and what was wrong with the cache. Default: nothing.
	Log *slog.Logger
}

// Roots is attest.Roots.
type Roots = attest.Roots

// Store gets and keeps collateral. It is safe for concurrent use.
type Store struct {
	log      *slog.Logger
	dir      string
	services services
	own      attest.Roots
	roots    atomic.Pointer[attest.Roots] // own and the simulation's
	amd      snp.Endorsements
	vendors  map[attest.Digest]bool // SHA-256 of the vendors' own roots
	verified *nvgpu.SignatureCache
	flights  singleflight.Group // by want.key

	mu       sync.Mutex
	entries  map[string]*entry   // by want.key
	troubles map[string]*trouble // likewise
	size     int64               // bytes of data in entries
}

// New makes a store, and reads the cache. Whatever it finds wrong there is removed and logged, and no error.
func New(c Config) (*Store, error) {
	s := &Store{
		log: c.Log, dir: c.Dir, verified: cmp.Or(c.Signatures, nvgpu.NewSignatureCache(signaturesMax)),
		entries: map[string]*entry{}, troubles: map[string]*trouble{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.setRoots(); err != nil {
		return nil, err
	}
	s.Simulate(c.Simulated)
	if err := s.services.set(c); err != nil {
		return nil, err
	}
	return s, s.load()
}

// Simulate replaces the roots that are taken besides the vendors' own: a policy was loaded that has others.
func (s *Store) Simulate(r attest.Roots) {
	s.roots.Store(&attest.Roots{
		SNP: slices.Concat(s.own.SNP, r.SNP), TDX: slices.Concat(s.own.TDX, r.TDX),
		GPU: nvgpu.Roots{
			Device: slices.Concat(s.own.GPU.Device, r.GPU.Device), RIM: slices.Concat(s.own.GPU.RIM, r.GPU.RIM),
		},
	})
}

// setRoots finds the vendors' own roots.
func (s *Store) setRoots() error {
	var err error
	if s.amd, err = snp.AMDEndorsements(); err != nil {
		return err
	}
	if s.own, err = attest.VendorRoots(); err != nil {
		return err
	}
	s.vendors = map[attest.Digest]bool{}
	for _, root := range s.own.SNP {
		s.vendors[root.SHA256] = true
	}
	for _, root := range slices.Concat(s.own.TDX, s.own.GPU.Device, s.own.GPU.RIM) {
		s.vendors[sha256.Sum256(root.Raw)] = true
	}
	return nil
}

// Complete gathers all that e needs to be appraised at now: from the cache, then from what came with the evidence, then
// from the vendors' services. It returns what it got, also with an error; that is a *MissingError for each thing that
// is missing, joined. It doesn't say whether the evidence is good.
func (s *Store) Complete(ctx context.Context, e *attest.Evidence, now time.Time) (attest.Collateral, error) {
	items, err := s.Items(ctx, e, now)
	var c attest.Collateral
	return c, errors.Join(err, c.Add(items))
}

// Items gathers the same as items, for a worker to staple to its evidence.
func (s *Store) Items(ctx context.Context, e *attest.Evidence, now time.Time) ([]attest.Item, error) {
	if e == nil || now.IsZero() {
		return nil, errors.New("gathering collateral: no evidence, or no time")
	}
	ctx, cancel := context.WithTimeout(ctx, gatherMax)
	defer cancel()
	g := newGathering(s, e, now)
	var wg sync.WaitGroup
	wg.Go(func() { g.cpu(ctx) })
	wg.Go(func() { g.devices(ctx) })
	wg.Wait()
	var items []attest.Item
	for _, key := range slices.Sorted(maps.Keys(g.items)) { // the same items in the same order
		items = append(items, g.items[key])
	}
	return items, errors.Join(g.errs...)
}
