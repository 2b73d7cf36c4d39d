package collateral_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/attest"
	"cocoon/attest/collateral"
	"cocoon/attest/nvgpu"
	simgpu "cocoon/attest/simtee/nvgpu"
	simsnp "cocoon/attest/simtee/snp"
	"cocoon/attest/snp"
)

func TestComplete(t *testing.T) {
	for _, line := range []snp.Line{snp.Genoa, snp.Turin} {
		t.Run(string(line), func(t *testing.T) {
			w := newWorldOf(t, line, nvgpu.Hopper, nvgpu.Blackwell)
			s := newStore(t, w.config())
			e := w.withGPU()
			w.complete(s, e, simNow)
			// 2 devices with 2 RIMs each; OCSP: 1 boot ROM each, provisioner and identity, RIM signer and its CA.
			want := map[string]int{"vcek": 1, "certs": 1, "crl": 1, "rim": 4, "ocsp": 6}
			if d := cmp.Diff(want, w.asked); d != "" {
				t.Error(d)
			}
			w.complete(s, w.withGPU(), simNow.Add(hour))
			if d := cmp.Diff(want, w.asked); d != "" {
				t.Error("the second time", d)
			}
		})
	}
	t.Run("TDX", func(t *testing.T) {
		w := newWorld(t)
		s := newStore(t, w.config())
		w.complete(s, w.tdxOnly(), simNow)
		w.complete(s, w.tdxOnly(), simNow.Add(29*day))
		if d := cmp.Diff(map[string]int{"tcb": 1, "qe": 1, "pckcrl": 1, "rootcrl": 1}, w.asked); d != "" {
			t.Error(d)
		}
	})
	t.Run("PCCS", func(t *testing.T) {
		w := newWorld(t)
		c := w.config()
		c.IntelCRL = ""
		w.complete(newStore(t, c), w.tdxOnly(), simNow)
	})
	t.Run("protected PCIe", func(t *testing.T) {
		w := newWorldOf(t, snp.Genoa, nvgpu.Hopper, nvgpu.LS10)
		if err := simgpu.Link(w.set[:1], w.set[1:]); err != nil {
			t.Fatal(err)
		}
		w.complete(newStore(t, w.config()), w.withGPU(), simNow)
	})
}

// What a machine staples is enough, and nobody is asked.
func TestStapled(t *testing.T) {
	w := newWorld(t)
	full := newStore(t, w.config())
	for name, e := range map[string]*attest.Evidence{"snp": w.withGPU(), "tdx": w.tdxOnly()} {
		t.Run(name, func(t *testing.T) {
			items := must[[]attest.Item](t)(full.Items(t.Context(), e, simNow))
			var garbage []attest.Item
			for _, kind := range []attest.Kind{
				attest.SNPKey, attest.SNPChain, attest.TDXCollateral, attest.GPURIM, attest.GPUOCSP, "nothing",
			} {
				garbage = append(garbage, attest.Item{Kind: kind}, attest.Item{Kind: kind, Data: []byte("{}")},
					attest.Item{Kind: kind, Data: items[0].Data})
			}
			e.Endorsements = append(garbage, items...)
			s := newStore(t, w.off())
			got := must[[]attest.Item](t)(s.Items(t.Context(), e, simNow))
			if d := cmp.Diff(items, got); d != "" {
				t.Error(d)
			}
			w.complete(s, e, simNow)
			if st := s.Status(simNow); len(st) > 0 {
				t.Errorf("it keeps what a peer sent: %+v", st)
			}
			e.Endorsements = nil
			w.fails(s, e, simNow, "switched off")
		})
	}
}

// A report that doesn't name its key takes it from the evidence.
func TestPassedKeys(t *testing.T) {
	w := newWorld(t)
	crl := must[[]byte](t)(w.amd.CRL(simsnp.CRLConfig{}))
	end := w.amd.Endorsements(crl)[snp.Genoa]
	chain := must[[]byte](t)(json.Marshal(attest.SNPChainItem{
		Line: snp.Genoa, ARK: end.ARK, ASK: end.ASK, ASVK: end.ASVK, CRLs: [][]byte{crl},
	}))
	for name, c := range map[string]struct {
		report simsnp.ReportConfig
		kind   snp.Signer
	}{
		"VLEK":      {simsnp.ReportConfig{Signer: snp.VLEK}, snp.VLEK},
		"masked":    {simsnp.ReportConfig{MaskChipID: true}, snp.VCEK},
		"version 2": {simsnp.ReportConfig{Version: 2}, snp.VCEK},
	} {
		t.Run(name, func(t *testing.T) {
			e := w.evidence(attester{tee: attest.SNP, report: c.report})
			s := newStore(t, w.config())
			w.fails(s, e, simNow, "no endorsement key", "none for this report came with the evidence")
			key := must[[]byte](t)(w.chips[0].Certificate(simsnp.KeyConfig{Kind: c.kind, TCB: w.tcb}))
			other := must[[]byte](t)(w.chips[0].Certificate(simsnp.KeyConfig{Kind: c.kind, TCB: snp.TCB{Boot: 1}}))
			e.Endorsements = []attest.Item{
				{Kind: attest.SNPKey, Data: other}, {Kind: attest.SNPKey, Data: key}, {Kind: attest.SNPChain, Data: chain},
			}
			w.complete(s, e, simNow)
			if n := w.total("vcek"); n > 0 {
				t.Errorf("%d questions for a key", n)
			}
		})
	}
}

// What a peer staples about revocation serves at once, and is asked for soon.
func TestStapledIsRenewed(t *testing.T) {
	w := newWorld(t)
	e := w.withGPU()
	e.Endorsements = must[[]attest.Item](t)(newStore(t, w.config()).Items(t.Context(), e, simNow))
	before := w.total()
	s := newStore(t, w.config())
	w.complete(s, e, simNow)
	if w.total() != before {
		t.Error("somebody was asked")
	}
	if err := s.Refresh(t.Context(), simNow); err != nil {
		t.Fatal(err)
	}
	// One list, and five responses; neither VCEK nor RIMs.
	if n := w.total() - before; n != 6 || w.total("vcek", "rim") != 3 {
		t.Errorf("%d questions: %v", n, w.asked)
	}
	// From now on the store's own count: the peer can't keep a revocation from us.
	w.change(func() { w.status = simgpu.Status{Revoked: true, ThisUpdate: simNow.Add(hour)}; w.now = simNow.Add(day) })
	if err := s.Refresh(t.Context(), simNow.Add(20*hour)); err != nil {
		t.Fatal(err)
	}
	c, err := s.Complete(t.Context(), e, simNow.Add(20*hour))
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, w.verify(e, c, simNow.Add(20*hour)), "revoked since")
}

// Only what exists is asked for.
func TestGenuineFirst(t *testing.T) {
	w := newWorld(t)
	other := newWorld(t)
	flip := func(e *attest.Evidence, change func([]attest.Device)) *attest.Evidence {
		var list []attest.Device
		if err := json.Unmarshal(e.Devices, &list); err != nil {
			t.Fatal(err)
		}
		change(list)
		e.Devices = must[[]byte](t)(json.Marshal(list))
		return e
	}
	nonce := w.withGPU()
	nonce.Nonce[0] ^= 1
	for name, e := range map[string]*attest.Evidence{
		"signature": flip(w.withGPU(), func(l []attest.Device) { l[0].Report[len(l[0].Report)-1] ^= 1 }),
		"nonce":     nonce,
		"root":      other.withGPU(),
		"TDX root":  other.tdxOnly(),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, w.config())
			w.fails(s, e, simNow, "isn't genuine")
			if n := w.total("rim", "ocsp", "tcb"); n != 0 {
				t.Errorf("%d questions", n)
			}
		})
	}
	for name, e := range map[string]*attest.Evidence{
		"no report":   {TEE: attest.SNP, Devices: []byte("[]")},
		"no quote":    {TEE: attest.TDX, Devices: []byte("[]")},
		"no kind":     {TEE: "abacus", Devices: []byte("[]")},
		"no devices":  flip(w.withGPU(), func(l []attest.Device) { l[0] = attest.Device{} }),
		"no list":     {TEE: attest.SNP, Devices: []byte("{")},
		"many":        {TEE: attest.SNP, Devices: []byte("[" + strings.Repeat("{},", 32) + "{}]")},
		"broken cert": flip(w.withGPU(), func(l []attest.Device) { l[0].Chain = l[0].Chain[1:] }),
	} {
		t.Run(name, func(t *testing.T) {
			w.fails(newStore(t, w.off()), e, simNow, "no collateral of")
		})
	}
	s := newStore(t, w.off())
	if _, err := s.Complete(t.Context(), nil, simNow); err == nil {
		t.Error("nothing was complete")
	}
	if _, err := s.Complete(t.Context(), w.snpOnly(), time.Time{}); err == nil {
		t.Error("complete at no time")
	}
}

// Many who want one thing ask once; one who goes away doesn't take the others along.
func TestConcurrent(t *testing.T) {
	w := newWorld(t)
	s := newStore(t, w.config())
	gone, cancel := context.WithCancel(t.Context())
	entered := make(chan struct{})
	release := make(chan struct{})
	var once sync.Once
	w.change(func() {
		w.fault = func(http.ResponseWriter, *http.Request) bool {
			once.Do(func() { close(entered) })
			<-release
			return false
		}
	})
	evidence := []*attest.Evidence{w.withGPU(), w.tdxOnly()}
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := s.Complete(gone, evidence[0], simNow); !errors.Is(err, context.Canceled) {
			t.Errorf("the one who went away got %v", err)
		}
	})
	<-entered
	cancel()
	for i := range 40 {
		wg.Go(func() {
			e := evidence[i%2]
			c, err := s.Complete(t.Context(), e, simNow)
			if err == nil {
				err = w.verify(e, c, simNow)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	close(release)
	wg.Wait()
	want := map[string]int{
		"vcek": 1, "certs": 1, "crl": 1, "rim": 2, "ocsp": 5, "tcb": 1, "qe": 1, "pckcrl": 1, "rootcrl": 1,
	}
	if d := cmp.Diff(want, w.asked); d != "" {
		t.Error(d)
	}
}

// A simulation isn't asked of the vendors' own services, nor anything else of those that are off.
func TestSimulatedAtVendor(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	hosts := map[string]int{}
	client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		hosts[r.URL.Host]++
		return nil, errors.New("no network here")
	})}
	s := newStore(t, collateral.Config{Simulated: w.roots(), Client: client})
	e := w.withGPU()
	e.Endorsements = []attest.Item{
		{Kind: attest.SNPKey, Data: must[[]byte](t)(w.chips[0].Certificate(simsnp.KeyConfig{TCB: w.tcb}))},
	}
	w.fails(s, e, simNow, "no RIM NV_GPU_DRIVER_GH100", "knows nothing of what hangs on root", "no network here")
	w.fails(s, w.tdxOnly(), simNow, "no TDX collateral of FMSPC", "knows nothing of what hangs on root")
	// A chip's root shows in its certificate only, and the one that came along hangs on nothing that did.
	if d := cmp.Diff(map[string]int{"kdsintf.amd.com": 1}, hosts); d != "" {
		t.Error(d)
	}
	if err := s.Refresh(t.Context(), simNow); err != nil {
		t.Errorf("there was something to renew: %v", err)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestConfig(t *testing.T) {
	for _, u := range []string{
		"kds", "ftp://host", "https://", "https://user@host", "https://host?x", "https://host#x", "https://host:x", "\x00",
	} {
		if _, err := collateral.New(collateral.Config{KDS: u}); err == nil || !strings.Contains(err.Error(), "AMD") {
			t.Errorf("%q: %v", u, err)
		}
	}
	if _, err := collateral.New(collateral.Config{Dir: "/dev/null/x"}); err == nil {
		t.Error("a cache that can't be made")
	}
}

// The same items come in the same order: evidence with them has one form.
func TestItemsOrder(t *testing.T) {
	w := newWorld(t)
	s := newStore(t, w.config())
	e := w.withGPU()
	hash := func() [32]byte {
		return sha256.Sum256(must[[]byte](t)(json.Marshal(must[[]attest.Item](t)(s.Items(t.Context(), e, simNow)))))
	}
	first := hash()
	for range 5 {
		if hash() != first {
			t.Fatal("another order")
		}
	}
}

// BenchmarkComplete is what an appraisal pays when all is in the cache, or stapled.
func BenchmarkComplete(b *testing.B) {
	w := newWorldOf(b, snp.Genoa, slices.Repeat([]nvgpu.Arch{nvgpu.Hopper}, 8)...)
	s, off := newStore(b, w.config()), newStore(b, w.off())
	for name, e := range map[string]*attest.Evidence{"snp": w.snpOnly(), "tdx": w.tdxOnly(), "snp+8gpu": w.withGPU()} {
		items := must[[]attest.Item](b)(s.Items(b.Context(), e, simNow))
		b.Run(name+"/cached", func(b *testing.B) {
			for b.Loop() {
				_ = must[attest.Collateral](b)(s.Complete(b.Context(), e, simNow))
			}
		})
		b.Run(name+"/stapled", func(b *testing.B) {
			e := *e
			e.Endorsements = items
			for b.Loop() {
				_ = must[attest.Collateral](b)(off.Complete(b.Context(), &e, simNow))
			}
		})
	}
}
