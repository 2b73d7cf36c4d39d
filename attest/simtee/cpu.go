package simtee

import (
	"encoding/json"
	"sync"
	"time"

	"cocoon/attest"
	simsnp "cocoon/attest/simtee/snp"
	simtdx "cocoon/attest/simtee/tdx"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

// healthy is what an up-to-date machine of a product line reports: its TCB, and which mitigations are in force.
func healthy(line snp.Line) (snp.TCB, uint64) {
	if line == snp.Turin {
		return snp.TCB{FMC: 1, Boot: 1, TEE: 1, SNP: 4, Microcode: 81}, 0x3f
	}
	return snp.TCB{Boot: 10, SNP: 25, Microcode: 84}, 0x1
}

// crlLife and collateralLife are how long revocation lists and Intel's collateral live: as long as Intel's.
const (
	crlLife        = 30 * 24 * time.Hour
	collateralLife = 30 * 24 * time.Hour
)

// evaluation is the tcbEvaluationDataNumber of the collateral.
const evaluation = 18

// amdCPU is a simulated CPU by AMD.
type amdCPU struct {
	c     *Config
	amd   *simsnp.Authority
	chip  *simsnp.Chip
	shelf shelf // of the chain

	mu  sync.Mutex
	key simsnp.KeyConfig // what der certifies
	der []byte
}

func (v *Vendor) newAMD(c *Config) (cpu, error) {
	amd := v.amd[c.Line]
	chip, err := amd.NewChip()
	if err != nil {
		return nil, err
	}
	if id := c.chip("SNP", len(chip.HWID)); id != nil {
		chip.HWID = id
	}
	return &amdCPU{c: c, amd: amd, chip: chip}, nil
}

func (a *amdCPU) evidence(data [64]byte, now time.Time) ([]byte, []attest.Item, error) {
	tcb, mitigations := healthy(a.c.Line)
	o := simsnp.ReportConfig{
		ReportData: data, Measurement: measurement(a.c.Role, "SNP"), TCB: tcb, Mitigation: mitigations,
	}
	if a.c.Hooks.Report != nil {
		a.c.Hooks.Report(&o)
	}
	report, err := a.chip.Report(o)
	if err != nil {
		return nil, nil, err
	}
	key, err := a.certificate(o.Signer, o.TCB)
	if err != nil {
		return nil, nil, err
	}
	items, err := a.shelf.get(now, a.chain)
	if err != nil {
		return nil, nil, err
	}
	return report, append(items, attest.Item{Kind: attest.SNPKey, Data: key}), nil
}

// certificate is that of the endorsement key for a TCB. It lives for a year and more.
func (a *amdCPU) certificate(kind snp.Signer, tcb snp.TCB) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.der == nil || a.key.Kind != kind || a.key.TCB != tcb {
		key := simsnp.KeyConfig{Kind: kind, TCB: tcb}
		der, err := a.chip.Certificate(key)
		if err != nil {
			return nil, err
		}
		a.key, a.der = key, der
	}
	return a.der, nil
}

// chain is what the endorsement key hangs on, with a revocation list.
func (a *amdCPU) chain(now time.Time) ([]attest.Item, error) {
	c := simsnp.CRLConfig{ThisUpdate: now.Add(-backdate), NextUpdate: now.Add(crlLife)}
	if a.c.Hooks.CRL != nil {
		a.c.Hooks.CRL(&c)
	}
	crl, err := a.amd.CRL(c)
	if err != nil {
		return nil, err
	}
	e := a.amd.Endorsements(crl)[a.c.Line]
	text, err := json.Marshal(attest.SNPChainItem{Line: a.c.Line, ARK: e.ARK, ASK: e.ASK, ASVK: e.ASVK, CRLs: e.CRLs})
	return []attest.Item{{Kind: attest.SNPChain, Data: text}}, err
}

// intelCPU is a simulated CPU by Intel.
type intelCPU struct {
	c        *Config
	platform *simtdx.Machine
	shelf    shelf // of the collateral
}

func (v *Vendor) newIntel(c *Config) (cpu, error) {
	var p tdx.Platform
	copy(p.PPID[:], c.chip("TDX", len(p.PPID)))
	platform, err := v.intel.Machine(p)
	if err != nil {
		return nil, err
	}
	return &intelCPU{c: c, platform: platform}, nil
}

func (i *intelCPU) evidence(data [64]byte, now time.Time) ([]byte, []attest.Item, error) {
	q := simtdx.Quote{TD: tdx.TD{ReportData: data, Attributes: tdx.AttrSEPTVEDisable, MRTD: measurement(i.c.Role, "MRTD")}}
	for n := range q.TD.RTMR {
		q.TD.RTMR[n] = measurement(i.c.Role, rtmr(n))
	}
	if i.c.Hooks.Quote != nil {
		i.c.Hooks.Quote(&q)
	}
	quote, err := i.platform.Quote(q)
	if err != nil {
		return nil, nil, err
	}
	items, err := i.shelf.get(now, i.collateral)
	return quote, items, err
}

// collateral is what Intel says about the platform.
func (i *intelCPU) collateral(now time.Time) ([]attest.Item, error) {
	c := simtdx.Collateral{Issued: now.Add(-backdate), NextUpdate: now.Add(collateralLife), Evaluation: evaluation}
	if i.c.Hooks.Collateral != nil {
		i.c.Hooks.Collateral(&c)
	}
	made, err := i.platform.Collateral(c)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(made)
	return []attest.Item{{Kind: attest.TDXCollateral, Data: text}}, err
}
