package tdx_test

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	simtdx "cocoon/attest/simtee/tdx"
	"cocoon/attest/tdx"
)

// fullTD is a TD with something else in every field.
func fullTD(v15 bool) tdx.TD {
	td := tdx.TD{
		V15: v15, TEETCBSVN: tdx.SVNs{7, 1, 3}, XFAM: 0x602e7,
		Attributes: tdx.AttrSEPTVEDisable | tdx.AttrPKS,
	}
	random := rand.NewChaCha8([32]byte{1})
	for _, m := range []*tdx.Measurement{
		&td.MRSEAM, &td.MRTD, &td.MRConfigID, &td.MROwner, &td.MROwnerConfig, &td.RTMR[0], &td.RTMR[1], &td.RTMR[2],
		&td.RTMR[3],
	} {
		_, _ = random.Read(m[:])
	}
	_, _ = random.Read(td.ReportData[:])
	if v15 {
		td.TEETCBSVN2 = tdx.SVNs{9, 1, 3}
		_, _ = random.Read(td.MRServiceTD[:])
	}
	return td
}

// All three forms of a quote, from platforms of both CAs, give back what was put in.
func TestSimulatedQuotes(t *testing.T) {
	for _, x := range []struct {
		name    string
		version uint16
		v15     bool
		ca      tdx.CA
	}{
		{"v4", 4, false, tdx.PlatformCA},
		{"v5 of TD 1.0", 5, false, tdx.PlatformCA},
		{"v5 of TD 1.5", 5, true, tdx.PlatformCA},
		{"v4, processor CA", 4, false, tdx.ProcessorCA},
		{"v5, processor CA", 5, true, tdx.ProcessorCA},
	} {
		t.Run(x.name, func(t *testing.T) {
			s := newSimOf(t, tdx.Platform{CA: x.ca})
			td := fullTD(x.v15)
			c := s.collateral(simtdx.Collateral{})
			claims, err := tdx.Verify(s.quote(simtdx.Quote{Version: x.version, TD: td}), c, s.options())
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(td, claims.TD); d != "" {
				t.Errorf("TD (-put in +claimed):\n%s", d)
			}
			if d := cmp.Diff(s.Platform(), claims.Platform); d != "" {
				t.Errorf("platform (-made +claimed):\n%s", d)
			}
			if claims.Platform.CA != x.ca || claims.Platform.HasInstance != (x.ca == tdx.PlatformCA) {
				t.Errorf("got %+v, want CA %s", claims.Platform, x.ca)
			}
			if claims.Version != x.version || claims.TCB.Status != tdx.StatusUpToDate || claims.TCBEvaluation != 18 ||
				(claims.TCB.Current != nil) != x.v15 {
				t.Errorf("got version %d, %+v, evaluation %d", claims.Version, claims.TCB, claims.TCBEvaluation)
			}
			if want := simNow.Add(30 * 24 * time.Hour); !claims.Expires.Equal(want) {
				t.Errorf("expires %s, want %s", claims.Expires, want)
			}
			if want := simNow.Add(-24 * time.Hour); !claims.Issued.Equal(want) {
				t.Errorf("issued %s, want %s", claims.Issued, want)
			}
		})
	}
}

// What the TCB's parts are rated by, and how the ratings join.
func TestSimulatedTCB(t *testing.T) {
	s := newSim(t)
	pcesvn := func(n int) func(info, _ map[string]any) {
		return func(info, _ map[string]any) {
			info["tcbLevels"].([]any)[0].(map[string]any)["tcb"].(map[string]any)["pcesvn"] = n
		}
	}
	v15 := func(launch, current tdx.SVNs) tdx.TD {
		return tdx.TD{V15: true, TEETCBSVN: launch, TEETCBSVN2: current}
	}
	v10 := func(svn tdx.SVNs) tdx.TD { return tdx.TD{TEETCBSVN: svn} }
	for _, x := range []struct {
		name       string
		td         tdx.TD
		qeSVN      uint16
		collateral simtdx.Collateral
		want       tdx.Status // or:
		refusal    tdx.Check
		advisory   string
	}{
		{name: "current", want: "UpToDate"},
		{name: "module 3.x", td: v10(tdx.SVNs{3, 3, 3}), want: "UpToDate"},
		{name: "module 0, rated by the platform's level", td: v10(tdx.SVNs{5, 0, 3}), want: "UpToDate"},
		{name: "module 0, too old", td: v10(tdx.SVNs{4, 0, 3}), refusal: tdx.CheckTCBLevel},
		{name: "module outdated", td: v10(tdx.SVNs{5, 1, 3}), want: "OutOfDate", advisory: "INTEL-SA-01036"},
		{name: "module by status", collateral: simtdx.Collateral{Module: "OutOfDate"}, want: "OutOfDate"},
		{name: "module below all levels", td: v10(tdx.SVNs{1, 1, 3}), refusal: tdx.CheckTCBLevel},
		{name: "module unknown", td: v10(tdx.SVNs{7, 2, 3}), refusal: tdx.CheckModule},
		{name: "module revoked", collateral: simtdx.Collateral{Module: "Revoked"}, refusal: tdx.CheckTCBStatus},
		{name: "late microcode too old", td: v10(tdx.SVNs{7, 1, 2}), refusal: tdx.CheckTCBLevel},
		{name: "QE outdated", qeSVN: 3, want: "OutOfDate"},
		{name: "QE below all levels", qeSVN: 1, refusal: tdx.CheckTCBLevel},
		{name: "QE revoked", collateral: simtdx.Collateral{QE: "Revoked"}, refusal: tdx.CheckTCBStatus},
		{
			name: "platform revoked under a current module", collateral: simtdx.Collateral{Platform: "Revoked"},
			refusal: tdx.CheckTCBStatus,
		},
		{
			name: "platform outdated under a current module", collateral: simtdx.Collateral{Edit: pcesvn(14)},
			want: "OutOfDate", advisory: "INTEL-SA-00837",
		},
		{name: "platform by status", collateral: simtdx.Collateral{
			Platform: "SWHardeningNeeded", Advisories: []string{"INTEL-SA-00001"},
		}, want: "SWHardeningNeeded", advisory: "INTEL-SA-00001"},
		{
			name: "configuration, module outdated", td: v10(tdx.SVNs{4, 1, 3}),
			collateral: simtdx.Collateral{Platform: "ConfigurationNeeded"}, want: "OutOfDateConfigurationNeeded",
		},
		{
			name: "launched outdated, current now", td: v15(tdx.SVNs{4, 1, 3}, tdx.SVNs{7, 1, 3}), want: "TDRelaunchAdvised",
			advisory: "INTEL-SA-01099",
		},
		{
			name: "launched by 1.x outdated, 3.x now", td: v15(tdx.SVNs{4, 1, 3}, tdx.SVNs{3, 3, 3}),
			want: "TDRelaunchAdvised",
		},
		{
			name: "the same where configuration is needed", td: v15(tdx.SVNs{4, 1, 3}, tdx.SVNs{7, 1, 3}),
			collateral: simtdx.Collateral{Platform: "ConfigurationAndSWHardeningNeeded"},
			want:       "TDRelaunchAdvisedConfigurationNeeded",
		},
		{name: "outdated then and now", td: v15(tdx.SVNs{3, 1, 3}, tdx.SVNs{5, 1, 3}), want: "OutOfDate"},
		{
			name: "QE outdated, so a relaunch won't do", td: v15(tdx.SVNs{4, 1, 3}, tdx.SVNs{7, 1, 3}), qeSVN: 3,
			want: "OutOfDate",
		},
		{name: "launched current, outdated now", td: v15(tdx.SVNs{7, 1, 3}, tdx.SVNs{5, 1, 3}), want: "OutOfDate"},
		{name: "module unknown now", td: v15(tdx.SVNs{7, 1, 3}, tdx.SVNs{7, 2, 3}), refusal: tdx.CheckModule},
		{
			name: "module revoked now", td: v15(tdx.SVNs{3, 3, 3}, tdx.SVNs{7, 1, 3}),
			collateral: simtdx.Collateral{Module: "Revoked"}, refusal: tdx.CheckTCBStatus,
		},
	} {
		t.Run(x.name, func(t *testing.T) {
			raw := s.quote(simtdx.Quote{TD: x.td, QESVN: x.qeSVN})
			claims, err := tdx.Verify(raw, s.collateral(x.collateral), s.options())
			if x.refusal != "" {
				wantRefusal(t, err, x.refusal)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if claims.TCB.Status != x.want || (x.advisory != "" && !slices.Contains(claims.TCB.Advisories, x.advisory)) {
				t.Errorf("got %+v, want %s by %q", claims.TCB, x.want, x.advisory)
			}
		})
	}
}

// Evidence that is whole but not what the collateral describes, or not Intel's.
func TestSimulatedForgeries(t *testing.T) {
	s, foreign := newSim(t), newSim(t)
	sibling := s.sibling(tdx.Platform{})
	raw, other := s.quote(simtdx.Quote{}), sibling.quote(simtdx.Quote{})
	mine, theirs := certificates(chainOf(raw)), certificates(chainOf(foreign.quote(simtdx.Quote{})))
	edited := func(f func(report []byte)) []byte { return s.quote(simtdx.Quote{Edit: f}) }
	l := find(raw)
	for _, x := range []struct {
		name  string
		quote []byte
		want  tdx.Check
	}{
		{"a look-alike PKI", foreign.quote(simtdx.Quote{}), tdx.CheckRoot},
		{
			"the pinned root above a look-alike chain", withChain(raw, slices.Concat(theirs[0], theirs[1], mine[2])),
			tdx.CheckPCKChain,
		},
		{"a look-alike PCK under our CA", withChain(raw, slices.Concat(theirs[0], mine[1], mine[2])), tdx.CheckPCKChain},
		{"chain without its root", withChain(raw, slices.Concat(mine[0], mine[1])), tdx.CheckPCKChain},
		{"chain in another order", withChain(raw, slices.Concat(mine[1], mine[0], mine[2])), tdx.CheckPCKChain},
		{"four certificates", withChain(raw, slices.Concat(mine[0], mine[1], mine[1], mine[2])), tdx.CheckPCKChain},
		{"the CA as PCK", withChain(raw, slices.Concat(mine[1], mine[1], mine[2])), tdx.CheckPCKChain},
		{"no chain", withChain(raw, nil), tdx.CheckPCKChain},
		{
			"text between certificates", withChain(raw, slices.Concat(mine[0], []byte("x\n"), mine[1], mine[2])),
			tdx.CheckPCKChain,
		},
		{
			"space between certificates", withChain(raw, slices.Concat(mine[0], []byte("\n"), mine[1], mine[2])),
			tdx.CheckPCKChain,
		},
		{
			"two NULs after the chain", withChain(raw, slices.Concat(mine[0], mine[1], mine[2], []byte{0, 0})),
			tdx.CheckPCKChain,
		},
		{"another platform's PCK", withChain(raw, chainOf(other)), tdx.CheckQEReport},
		{"another platform's QE report", with(raw, l.report, other[l.report:l.report+448]...), tdx.CheckQEReport},
		{"another attestation key", with(raw, l.key, other[l.key:l.key+64]...), tdx.CheckAttestationKey},
		{"attestation key not named", edited(func(r []byte) { r[320] ^= 1 }), tdx.CheckAttestationKey},
		{"more than the key named", edited(func(r []byte) { r[383] = 1 }), tdx.CheckAttestationKey},
		{"altered QE report", with(raw, l.report+258, 99), tdx.CheckQEReport},
		{"QE of another signer", edited(func(r []byte) { r[128] ^= 1 }), tdx.CheckQE},
		{"another product of the signer", edited(func(r []byte) { r[256] = 1 }), tdx.CheckQE},
		{"QE in debug mode", edited(func(r []byte) { r[48] |= 2 }), tdx.CheckQE},
		{"QE with MISCSELECT", edited(func(r []byte) { r[16] = 1 }), tdx.CheckQE},
		{"module of another signer", s.quote(simtdx.Quote{TD: tdx.TD{MRSignerSEAM: tdx.Measurement{1}}}), tdx.CheckModule},
		{"module under debug", s.quote(simtdx.Quote{TD: tdx.TD{SEAMAttributes: 1}}), tdx.CheckModule},
		{"zero signature", with(raw, l.sig, make([]byte, 64)...), tdx.CheckQuoteSignature},
		{"zero QE signature", with(raw, l.reportSig, make([]byte, 64)...), tdx.CheckQEReport},
		{"other report data", with(raw, 48+520, 1), tdx.CheckQuoteSignature},
	} {
		t.Run(x.name, func(t *testing.T) {
			_, err := tdx.Verify(x.quote, s.collateral(simtdx.Collateral{}), s.options())
			wantRefusal(t, err, x.want)
		})
	}
	o := intel(t, simNow)
	_, err := tdx.Verify(raw, s.collateral(simtdx.Collateral{}), o)
	wantRefusal(t, err, tdx.CheckRoot)
}

// One NUL after the PCK chain, as Intel's QE puts there, and zeros after the quote, are no forgery.
func TestPadding(t *testing.T) {
	s := newSim(t)
	raw, c := s.quote(simtdx.Quote{}), s.collateral(simtdx.Collateral{})
	for _, x := range []struct {
		name  string
		quote []byte
		want  tdx.Check
	}{
		{"a zero within the signature data", with(append(slices.Clone(raw), 0), find(raw).size,
			binary.LittleEndian.AppendUint32(nil, uint32(len(raw)+1-find(raw).sig))...), tdx.CheckFormat},
		{"NUL after the chain", withChain(raw, append(slices.Clone(chainOf(raw)), 0)), ""},
		{"one zero", append(slices.Clone(raw), 0), ""},
		{"the most zeros", append(slices.Clone(raw), make([]byte, 8192)...), ""},
		{"one more", append(slices.Clone(raw), make([]byte, 8193)...), tdx.CheckFormat},
		{"a one behind zeros", append(slices.Clone(raw), append(make([]byte, 100), 1)...), tdx.CheckFormat},
		{"two quotes", append(slices.Clone(raw), raw...), tdx.CheckFormat},
		{"more than any quote", append(slices.Clone(raw), make([]byte, tdx.QuoteMax)...), tdx.CheckFormat},
	} {
		t.Run(x.name, func(t *testing.T) {
			_, err := tdx.Verify(x.quote, c, s.options())
			if x.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantRefusal(t, err, x.want)
		})
	}
}

// Sizes of the QE's authentication data: those that fit verify, and whatever the field says instead, nothing panics. (A
// quote with another size at byte 1218 makes a well-known library index out of range.)
func TestAuthDataSizes(t *testing.T) {
	t.Parallel()
	s := newSim(t)
	c := s.collateral(simtdx.Collateral{})
	for _, n := range []int{0, 1, 31, 32, 33, 255, 256, 1024, 8000} {
		raw := s.quote(simtdx.Quote{Auth: bytes.Repeat([]byte{7}, n)})
		if _, err := tdx.Verify(raw, c, s.options()); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	for _, q := range []simtdx.Quote{{}, {Version: 5}, {TD: tdx.TD{V15: true}}} {
		raw := s.quote(q)
		l := find(raw)
		if q.Version == 0 && !q.TD.V15 && l.authSize != 1218 {
			t.Errorf("authentication data's size is at %d, want 1218", l.authSize)
		}
		right := binary.LittleEndian.Uint16(raw[l.authSize:])
		changed := slices.Clone(raw)
		for n := range 1 << 16 {
			if n > len(raw) && n < 1<<16-300 && n%251 != 0 {
				continue // all sizes that could end within the quote, and the largest; of those between, a sample
			}
			binary.LittleEndian.PutUint16(changed[l.authSize:], uint16(n))
			_, whole := tdx.Parse(changed)
			_, cut := tdx.Parse(changed[:l.authSize+2]) // nothing behind the size
			if (whole == nil) != (n == int(right)) || cut == nil {
				t.Fatalf("size %d instead of %d: %v; cut behind it: %v", n, right, whole, cut)
			}
		}
	}
}

// The 32-bit sizes around their bounds.
func TestSizes(t *testing.T) {
	s := newSim(t)
	for _, q := range []simtdx.Quote{{}, {Version: 5}, {TD: tdx.TD{V15: true}}} {
		raw := s.quote(q)
		l := find(raw)
		chainSize := l.authData + 32 + 2
		for _, off := range []int{l.size, l.certSize, chainSize} {
			right := binary.LittleEndian.Uint32(raw[off:])
			for _, n := range []uint32{0, 1, right - 1, right + 1, right + 2, 1<<31 - 1, 1 << 31, 1<<32 - 1} {
				_, err := tdx.Parse(with(raw, off, binary.LittleEndian.AppendUint32(nil, n)...))
				wantRefusal(t, err, tdx.CheckFormat)
			}
		}
		for n := range len(raw) {
			_, err := tdx.Parse(raw[:n])
			wantRefusal(t, err, tdx.CheckFormat)
		}
	}
}

// Headers and bodies of other kinds.
func TestOtherFormats(t *testing.T) {
	s := newSim(t)
	v4, v5 := s.quote(simtdx.Quote{}), s.quote(simtdx.Quote{TD: tdx.TD{V15: true}})
	l := find(v4)
	for name, raw := range map[string][]byte{
		"nothing":                  nil,
		"version 3":                with(v4, 0, 3),
		"version 6":                with(v4, 0, 6),
		"version 4 + 256":          with(v4, 1, 1),
		"version 5 that is 4":      with(v4, 0, 5),
		"version 4 that is 5":      with(v5, 0, 4),
		"attestation key P-384":    with(v4, 2, 3),
		"SGX":                      with(v4, 4, 0),
		"another vendor's QE":      with(v4, 12, 0),
		"body of SGX":              with(v5, 48, 1),
		"body 1.0 of 1.5's size":   with(v5, 48, 2),
		"body of type 4":           with(v5, 48, 4),
		"body of another size":     with(v5, 50, 0x89),
		"huge body":                with(v5, 53, 0xff),
		"certification type 5":     with(v4, l.kind, 5),
		"PCK certification ID 1":   with(v4, l.authData+32, 1),
		"certification type 6+2^8": with(v4, l.kind+1, 1),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tdx.Parse(raw)
			wantRefusal(t, err, tdx.CheckFormat)
		})
	}
}

// One bit of every third byte, simulated: always run, whatever evidence is at hand.
func TestSimulatedFlips(t *testing.T) {
	t.Parallel()
	s := newSim(t)
	c := s.collateral(simtdx.Collateral{})
	for i, q := range []simtdx.Quote{{TD: tdx.TD{V15: true}}, {}, {Version: 5}} {
		raw := append(s.quote(q), make([]byte, 64)...)
		flips(t, raw, c, s.options(), 3+8*i) // strides that are prime to 8: all bits take part
	}
}

// What a caller must say: nothing is verified by default.
func TestOptions(t *testing.T) {
	s := newSim(t)
	raw, c := s.quote(simtdx.Quote{}), s.collateral(simtdx.Collateral{})
	for name, change := range map[string]func(o *tdx.Options){
		"no roots":  func(o *tdx.Options) { o.Roots = nil },
		"nil root":  func(o *tdx.Options) { o.Roots = []*x509.Certificate{nil} },
		"no time":   func(o *tdx.Options) { o.Now = time.Time{} },
		"no floor":  func(o *tdx.Options) { o.MinTCBEvaluation = 0 },
		"bad floor": func(o *tdx.Options) { o.MinTCBEvaluation = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			o := s.options()
			change(&o)
			_, err := tdx.Verify(raw, c, o)
			wantRefusal(t, err, tdx.CheckOptions)
		})
	}
	_, err := tdx.Verify(raw, nil, s.options())
	wantRefusal(t, err, tdx.CheckOptions)
	_, err = tdx.Verify(raw, c, tdx.Options{})
	wantRefusal(t, err, tdx.CheckOptions)
}

// A verification shares nothing with another, and leaves its input alone.
func TestConcurrent(t *testing.T) {
	s := newSim(t)
	raw, c, o := s.quote(simtdx.Quote{}), s.collateral(simtdx.Collateral{}), s.options()
	before := slices.Clone(raw)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 10 {
				if _, err := tdx.Verify(raw, c, o); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if !bytes.Equal(raw, before) {
		t.Error("the quote was changed")
	}
}
