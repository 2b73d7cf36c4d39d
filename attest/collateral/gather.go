package collateral

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"cocoon/attest"
	"cocoon/attest/nvgpu"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
	"cocoon/internal/strictjson"
)

// Limits on what one evidence makes us do.
const (
	stapledMax  = entriesMax // items that come with it: a whole bundle is welcome
	triesMax    = 8          // of them to verify for one want
	wantsAtOnce = 16
)

// gathering is one call of Items.
type gathering struct {
	store   *Store
	e       *attest.Evidence
	now     time.Time
	stapled func() *stapled // what came with the evidence, read when first needed

	mu    sync.Mutex
	items map[string]attest.Item // by want.key, or by hash for what isn't kept
	errs  []error
}

func newGathering(s *Store, e *attest.Evidence, now time.Time) *gathering {
	return &gathering{
		store: s, e: e, now: now, items: map[string]attest.Item{},
		stapled: sync.OnceValue(func() *stapled { return readStapled(e.Endorsements) }),
	}
}

func (g *gathering) add(key string, item attest.Item) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.items[key] = item
}

func (g *gathering) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.errs = append(g.errs, err)
}

func (g *gathering) missing(item string, err error) { g.fail(&MissingError{Item: item, Err: err}) }

// resolve gets what w asks for: from the cache, from among what was stapled, or from the service, if genuine (which may
// be nil) doesn't object to asking on behalf of this evidence. It returns nil if that failed.
func (g *gathering) resolve(ctx context.Context, w *want, stapled func() [][]byte, genuine func() error) *facts {
	key := w.key()
	if e := g.store.cached(w, g.now); e != nil {
		g.add(key, e.item())
		return e.facts
	}
	f, data, bad := g.pick(w, stapled())
	if f != nil {
		g.store.remind(w, g.now)
		g.add(key, attest.Item{Kind: w.Kind, Data: data})
		return f
	}
	if genuine != nil {
		if err := genuine(); err != nil {
			g.missing(w.title(), fmt.Errorf("nobody is asked for evidence that isn't genuine: %w", err))
			return nil
		}
	}
	e, err := g.store.fetch(ctx, w, g.now)
	if err != nil {
		if bad != nil {
			err = fmt.Errorf("%w; what came with the evidence: %w", err, bad)
		}
		g.fail(err)
		return nil
	}
	g.add(key, e.item())
	return e.facts
}

// pick takes the first that is good, or says what was wrong with the last.
func (g *gathering) pick(w *want, stapled [][]byte) (*facts, []byte, error) {
	var bad error
	for _, data := range stapled[:min(len(stapled), triesMax)] {
		f, err := g.store.inspect(w, data, g.now)
		if err == nil && !g.now.Before(f.until) {
			err = fmt.Errorf("it ended %s", stamp(f.until))
		}
		if err == nil {
			err = g.store.known(w, f)
		}
		if err == nil {
			return f, data, nil
		}
		bad = err
	}
	return nil, nil, bad
}

// cpu gathers what the CPU's report needs.
func (g *gathering) cpu(ctx context.Context) {
	switch g.e.TEE {
	case attest.SNP:
		g.snp(ctx)
	case attest.TDX:
		g.tdx(ctx)
	default:
		g.missing("collateral of the CPU", fmt.Errorf("its kind %.32q is unknown", g.e.TEE))
	}
}

func (g *gathering) snp(ctx context.Context) {
	r, err := snp.ParseReport(g.e.CPU)
	if err != nil {
		g.missing("collateral of the CPU", err)
		return
	}
	var key *facts
	line := r.Line
	w, err := keyOfReport(r)
	if err == nil {
		w.chains = g.stapled().chains(line)
		key = g.resolve(ctx, w, func() [][]byte { return g.stapled().keysFor(w) }, nil)
	} else if key, line = g.passKey(r); key == nil {
		g.missing("endorsement key", fmt.Errorf("none for this report came with the evidence, and %w", err))
	}
	if key == nil {
		return
	}
	chain := &want{
		Kind: attest.SNPChain, Line: line, Signer: r.Signer, Root: sha256.Sum256(key.chain.ARK),
		chains: []snp.Chain{key.chain},
	}
	lists := func() [][]byte { return g.stapled().lists(chain) }
	if g.resolve(ctx, chain, lists, nil) != nil {
		return
	}
	// Without a list the certificates are worth something still: the policy may not ask for lists.
	if data, err := chainItem(chain, key.chain); err == nil {
		g.add(chain.key(), attest.Item{Kind: attest.SNPChain, Data: data})
	}
}

// passKey finds the endorsement key of a report that doesn't name its own among those stapled. It can't be kept:
// nothing says which other reports it is for.
func (g *gathering) passKey(r *snp.Report) (*facts, snp.Line) {
	tries := 0
	for _, der := range g.stapled().keys {
		k, err := snp.ParseEndorsementKey(der)
		if err != nil || k.Kind != r.Signer || (r.Line != "" && k.Line != r.Line) {
			continue
		}
		if tcb, err := r.ReportedTCB.Decode(k.Line); err != nil || tcb != k.TCB {
			continue
		}
		if tries++; tries > triesMax {
			break
		}
		chains := g.store.chainsFor(&want{Line: k.Line, chains: g.stapled().chains(k.Line)})
		if f, err := g.store.anchorSNPKey(der, chains, g.now); err == nil && g.now.Before(f.until) {
			g.add(fmt.Sprintf("%s %x", attest.SNPKey, sha256.Sum256(der)), attest.Item{Kind: attest.SNPKey, Data: der})
			return f, k.Line
		}
	}
	return nil, ""
}

func (g *gathering) tdx(ctx context.Context) {
	q, err := tdx.Parse(g.e.CPU)
	if err != nil {
		g.missing("collateral of the CPU", err)
		return
	}
	p, root, err := q.VerifyPlatform(tdx.Options{Roots: g.store.roots.Load().TDX, Now: g.now})
	if err != nil {
		g.missing("collateral of the CPU", fmt.Errorf("nobody is asked for evidence that isn't genuine: %w", err))
		return
	}
	w := &want{Kind: attest.TDXCollateral, FMSPC: p.FMSPC[:], CA: p.CA, Root: root}
	g.resolve(ctx, w, func() [][]byte { return g.stapled().tdxFor(w) }, nil)
}

// devices gathers what the devices' evidence needs: RIMs, and OCSP responses for the devices' chains and the RIMs'.
func (g *gathering) devices(ctx context.Context) {
	var list []attest.Device
	if err := json.Unmarshal(g.e.Devices, &list); err != nil {
		g.missing("collateral of the devices", fmt.Errorf("reading their evidence: %w", err))
		return
	}
	if len(list) > nvgpu.DevicesMax {
		g.missing("collateral of the devices", fmt.Errorf("they are %d, at most %d", len(list), nvgpu.DevicesMax))
		return
	}
	genuine := sync.OnceValue(func() error { return g.genuine(list) })
	all := wants{}
	for i, d := range list {
		if err := all.ofDevice(d); err != nil {
			g.missing(fmt.Sprintf("collateral of device %d", i), err)
		}
	}
	signers := wants{}
	var mu sync.Mutex
	g.each(all, func(w *want) {
		if f := g.resolve(ctx, w, func() [][]byte { return g.stapled().gpu(w) }, genuine); f != nil && f.signers != nil {
			mu.Lock()
			defer mu.Unlock()
			signers.ofChain(f.signers, 0)
		}
	})
	g.each(signers, func(w *want) {
		g.resolve(ctx, w, func() [][]byte { return g.stapled().gpu(w) }, genuine)
	})
}

func (g *gathering) each(all wants, do func(*want)) {
	var group errgroup.Group
	group.SetLimit(wantsAtOnce)
	for _, w := range all {
		group.Go(func() error { do(w); return nil })
	}
	_ = group.Wait() // do has no errors
}

// genuine tells whether the devices signed the evidence's nonce: others could invent versions and have us ask for them.
func (g *gathering) genuine(list []attest.Device) error {
	var set []nvgpu.Evidence
	for _, d := range list {
		set = append(set, nvgpu.Evidence{Report: d.Report, Chain: d.Chain})
	}
	o := g.store.gpuOptions(g.now)
	o.Nonce = attest.GPUNonce(g.e.Nonce, g.e.Keyset)
	o.Skip = []nvgpu.Check{
		nvgpu.CheckFWID, nvgpu.CheckDeviceOCSP, nvgpu.CheckRIM, nvgpu.CheckRIMOCSP, nvgpu.CheckTopology,
	}
	_, err := nvgpu.VerifySet(set, nvgpu.Collateral{}, o)
	return err
}

// wants are several, each once, by key.
type wants map[string]*want

func (all wants) ofDevice(d attest.Device) error {
	refs, err := nvgpu.RIMRefs(d.Report, d.Chain)
	if err != nil {
		return err
	}
	certs, err := nvgpu.ParseChain(d.Chain)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		w := &want{Kind: attest.GPURIM, RIM: ref, Root: sha256.Sum256(certs[len(certs)-1].Raw)}
		all[w.key()] = w
	}
	all.ofChain(certs, 1) // the device made the first one for itself
	return nil
}

// ofChain wants OCSP responses for the certificates from the one at first up, but the root.
func (all wants) ofChain(certs []*x509.Certificate, first int) {
	for i := first; i < len(certs)-1; i++ {
		w := &want{Kind: attest.GPUOCSP, Root: sha256.Sum256(certs[len(certs)-1].Raw)}
		for _, c := range certs[i:] {
			w.Certs = append(w.Certs, c.Raw)
		}
		all[w.key()] = w
	}
}

// stapled is what came with the evidence, by kind.
type stapled struct {
	keys, tdx  [][]byte
	snp        []attest.SNPChainItem
	rims, ocsp [][]byte
	// What those say that could be read; nil for others.
	parsedRIMs []*nvgpu.RIM
	parsedOCSP []*nvgpu.OCSP
}

// readStapled sorts items. What can't be read is of no use, and no error: something better may be there.
func readStapled(items []attest.Item) *stapled {
	s := new(stapled)
	for _, item := range items[:min(len(items), stapledMax)] {
		switch item.Kind {
		case attest.SNPKey:
			s.keys = append(s.keys, item.Data)
		case attest.TDXCollateral:
			s.tdx = append(s.tdx, item.Data)
		case attest.SNPChain:
			var c attest.SNPChainItem
			if strictjson.Decode(item.Data, &c) == nil {
				s.snp = append(s.snp, c)
			}
		case attest.GPURIM:
			if r, err := nvgpu.ParseRIM(item.Data); err == nil {
				s.rims, s.parsedRIMs = append(s.rims, item.Data), append(s.parsedRIMs, r)
			}
		case attest.GPUOCSP:
			if o, err := nvgpu.ParseOCSP(item.Data); err == nil {
				s.ocsp, s.parsedOCSP = append(s.ocsp, item.Data), append(s.parsedOCSP, o)
			}
		}
	}
	return s
}

// chains are the certificates for a line, as many as are worth a try.
func (s *stapled) chains(line snp.Line) []snp.Chain {
	var all []snp.Chain
	for _, c := range s.snp {
		if c.Line == line && len(all) < triesMax {
			all = append(all, snp.Chain{ARK: c.ARK, ASK: c.ASK, ASVK: c.ASVK})
		}
	}
	return all
}

// keysFor are the endorsement keys that w may ask for.
func (s *stapled) keysFor(w *want) [][]byte {
	return slices.DeleteFunc(slices.Clone(s.keys), func(der []byte) bool {
		k, err := snp.ParseEndorsementKey(der)
		return err != nil || !w.isKey(k)
	})
}

// tdxFor are the collateral that w may ask for, going by whether its text names the FMSPC.
func (s *stapled) tdxFor(w *want) [][]byte {
	return slices.DeleteFunc(slices.Clone(s.tdx), func(text []byte) bool {
		var c tdx.Collateral
		name := fmt.Appendf(nil, "%x", w.FMSPC)
		return json.Unmarshal(text, &c) != nil || !bytes.Contains(bytes.ToLower(c.TCBInfo), name)
	})
}

// lists are the revocation lists for a chain, each as the item that w asks for.
func (s *stapled) lists(w *want) [][]byte {
	var all [][]byte
	for _, c := range s.snp {
		if c.Line != w.Line || sha256.Sum256(c.ARK) != w.Root {
			continue
		}
		for _, crl := range c.CRLs {
			if data, err := chainItem(w, w.chains[0], crl); err == nil {
				all = append(all, data)
			}
		}
	}
	return all
}

// gpu are the RIMs or OCSP responses that may be what w asks for.
func (s *stapled) gpu(w *want) [][]byte {
	var all [][]byte
	if w.Kind == attest.GPURIM {
		for i, r := range s.parsedRIMs {
			if r.Product == w.RIM.Product && r.Version == w.RIM.Version && r.Edition == w.RIM.Edition {
				all = append(all, s.rims[i])
			}
		}
		return all
	}
	certs, err := w.certificates()
	if err != nil {
		return nil
	}
	for i, o := range s.parsedOCSP {
		if o.About(certs[0], certs[1]) {
			all = append(all, s.ocsp[i])
		}
	}
	return all
}
