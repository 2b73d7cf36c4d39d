// Package simtee simulates confidential machines whole: CPUs by AMD and Intel, GPUs and switches by NVIDIA, and what
// those vendors say about them. Everything that the vendors would keep secret is in one folder (Open), so that the
// machines of several processes hang on the same roots, which say SIMULATED in their names.
//
// Its evidence goes through the very verifiers that real evidence does, and proves nothing: whoever has the folder can
// sign what he likes. A policy admits it only if it names the roots (PolicyYAML), and then the verdict is simulated.
package simtee

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"cocoon/attest/nvgpu"
	simnvgpu "cocoon/attest/simtee/nvgpu"
	simsnp "cocoon/attest/simtee/snp"
	simtdx "cocoon/attest/simtee/tdx"
	"cocoon/attest/snp"
)

const (
	// rsaBits is of the simulated AMD's keys: AMD's own have 4096, which take seconds to find.
	rsaBits = 2048
	// certYears is how long NVIDIA's simulated signer of reference values lives, and at least as long as all other
	// certificates above machines.
	certYears = 7
	// lifeYears is how long a vendor can be opened: what is made then still has a year.
	lifeYears = certYears - 1
	// backdate is how long before their making certificates and collateral begin: clocks differ.
	backdate = time.Hour
)

// lines are the product lines of the simulated AMD: those that are fit for use. (Milan's keys can be extracted.)
func lines() []snp.Line { return []snp.Line{snp.Genoa, snp.Turin} }

// Vendor is a simulated AMD, Intel and NVIDIA at once. It may be used by several goroutines.
type Vendor struct {
	made   time.Time
	amd    map[snp.Line]*simsnp.Authority
	intel  *simtdx.PKI
	nvidia *simnvgpu.PKI
}

// New makes a vendor with keys of its own, in memory. Its certificates begin an hour before now.
func New(now time.Time) (*Vendor, error) {
	if now.IsZero() {
		return nil, errors.New("making simulated vendors: no time")
	}
	v := &Vendor{made: now.UTC(), amd: map[snp.Line]*simsnp.Authority{}}
	all := lines()
	made, failed := make([]*simsnp.Authority, len(all)), make([]error, len(all)+2)
	var wg sync.WaitGroup
	for i, line := range all { // finding primes takes nearly all the time
		wg.Go(func() {
			made[i], failed[i] = simsnp.NewAuthority(simsnp.Config{Line: line, Now: now, RSABits: rsaBits})
		})
	}
	v.intel, failed[len(all)] = simtdx.NewPKI(now)
	life := now.AddDate(certYears, 0, 0).Sub(now)
	v.nvidia, failed[len(all)+1] = simnvgpu.New(simnvgpu.Config{Now: now, SignerLife: life})
	wg.Wait()
	if err := errors.Join(failed...); err != nil {
		return nil, fmt.Errorf("making simulated vendors: %w", err)
	}
	for i, line := range all {
		v.amd[line] = made[i]
	}
	return v, nil
}

// SNPRoots are what to pin to believe the simulated AMD.
func (v *Vendor) SNPRoots() []snp.Root {
	var roots []snp.Root
	for _, line := range lines() {
		roots = append(roots, v.amd[line].Root())
	}
	return roots
}

// TDXRoot is what to pin to believe the simulated Intel.
func (v *Vendor) TDXRoot() *x509.Certificate { return v.intel.Root() }

// GPURoots are what to pin to believe the simulated NVIDIA.
func (v *Vendor) GPURoots() nvgpu.Roots { return v.nvidia.Roots() }

// saved is a vendor's file.
type saved struct {
	About  string              `json:"about"` // for who looks into the file
	V      int                 `json:"v"`
	Made   time.Time           `json:"made"`
	AMD    map[snp.Line]string `json:"amd"` // PEM, as are the others
	Intel  string              `json:"intel"`
	NVIDIA string              `json:"nvidia"`
}

// savedVersion is that of saved.
const savedVersion = 1

func (v *Vendor) marshal() ([]byte, error) {
	s := saved{
		About: "SIMULATED hardware vendors: whoever has this file can forge their evidence. See README.",
		V:     savedVersion, Made: v.made, AMD: map[snp.Line]string{},
	}
	for line, a := range v.amd {
		text, err := a.Marshal()
		if err != nil {
			return nil, err
		}
		s.AMD[line] = string(text)
	}
	intel, err := v.intel.Marshal()
	if err != nil {
		return nil, err
	}
	nvidia, err := v.nvidia.Marshal()
	if err != nil {
		return nil, err
	}
	s.Intel, s.NVIDIA = string(intel), string(nvidia)
	return json.MarshalIndent(s, "", "  ")
}

// parse reads what marshal wrote, for use at the time now.
func parse(text []byte, now time.Time) (*Vendor, error) {
	var s saved
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, err
	}
	if s.V != savedVersion {
		return nil, fmt.Errorf("version %d, want %d", s.V, savedVersion)
	}
	if now.Before(s.Made.Add(-backdate)) || now.After(s.Made.AddDate(lifeYears, 0, 0)) {
		return nil, fmt.Errorf("made on %s, which is not good on %s", s.Made.Format(time.DateOnly), now.Format(time.DateOnly))
	}
	v := &Vendor{made: s.Made, amd: map[snp.Line]*simsnp.Authority{}}
	if have := slices.Sorted(maps.Keys(s.AMD)); !slices.Equal(have, lines()) {
		return nil, fmt.Errorf("AMD's product lines are %v, want %v", have, lines())
	}
	var err error
	for line, authority := range s.AMD {
		if v.amd[line], err = simsnp.ParseAuthority([]byte(authority), now); err != nil {
			return nil, err
		}
		if got := v.amd[line].Root().Line; got != line {
			return nil, fmt.Errorf("AMD's root for %q is one for %q", line, got)
		}
	}
	if v.intel, err = simtdx.ParsePKI([]byte(s.Intel), now); err != nil {
		return nil, err
	}
	v.nvidia, err = simnvgpu.Parse([]byte(s.NVIDIA), simnvgpu.Config{Now: now})
	return v, err
}
