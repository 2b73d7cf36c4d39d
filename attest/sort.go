package attest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"cocoon/attest/nvgpu"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
	"cocoon/internal/strictjson"
)

// Limits of sorted collateral: what is needed is 1 key, 1 chain, 1 set, 3 RIMs and 30 OCSP responses; a store adds some
// of its own. Those of GPUs are the verifier's.
const (
	keysMax   = 64
	chainsMax = 16
	setsMax   = 16
	rimsMax   = 64
	ocspMax   = 128
)

// errTooMany is of an item beyond the limits.
var errTooMany = errors.New("too many of its kind")

// Add sorts items in. The error names all that can't be read or are too many; the others are there nevertheless. What is
// there already is not added again, and of two RIMs of one product and version the first is kept: add what comes from
// the own store first.
func (c *Collateral) Add(items []Item) error {
	var errs []error
	for i, item := range items {
		if err := guarded(func() error { return c.add(item) }); err != nil {
			errs = append(errs, fmt.Errorf("collateral %d (%.20q): %w", i, item.Kind, err))
		}
	}
	return errors.Join(errs...)
}

func (c *Collateral) add(item Item) error {
	switch item.Kind {
	case SNPKey:
		return addBytes(&c.SNPKeys, item.Data, keysMax, func() error {
			_, err := snp.ParseEndorsementKey(item.Data)
			return err
		})
	case SNPChain:
		return c.addChain(item.Data)
	case TDXCollateral:
		return c.addTDX(item.Data)
	case GPURIM:
		return c.addRIM(item.Data)
	case GPUOCSP:
		return addBytes(&c.GPU.OCSP, item.Data, ocspMax, func() error {
			_, err := nvgpu.ParseOCSP(item.Data)
			return err
		})
	}
	return errors.New("unknown kind")
}

// addBytes adds what parses and isn't there yet.
func addBytes(to *[][]byte, data []byte, most int, parse func() error) error {
	if slices.ContainsFunc(*to, func(b []byte) bool { return bytes.Equal(b, data) }) {
		return nil
	}
	if len(*to) >= most {
		return errTooMany
	}
	if err := parse(); err != nil {
		return err
	}
	*to = append(*to, data)
	return nil
}

func (c *Collateral) addChain(text []byte) error {
	var item SNPChainItem
	if err := strictjson.Decode(text, &item); err != nil {
		return err
	}
	switch {
	case !slices.Contains(snp.Lines(), item.Line):
		return fmt.Errorf("product line %.40q, want one of %v", item.Line, snp.Lines())
	case len(item.ARK) == 0:
		return errors.New("no ARK")
	case len(c.SNP[item.Line]) >= chainsMax:
		return errTooMany
	}
	if c.SNP == nil {
		c.SNP = map[snp.Line][]snp.Chain{}
	}
	c.SNP[item.Line] = append(c.SNP[item.Line],
		snp.Chain{ARK: item.ARK, ASK: item.ASK, ASVK: item.ASVK, CRLs: item.CRLs})
	return nil
}

func (c *Collateral) addTDX(text []byte) error {
	if len(c.TDX) >= setsMax {
		return errTooMany
	}
	set := new(tdx.Collateral)
	if err := json.Unmarshal(text, set); err != nil {
		return err
	}
	c.TDX = append(c.TDX, set)
	return nil
}

// addRIM keeps one RIM of a product and version: the verifier refuses to choose between two.
func (c *Collateral) addRIM(doc []byte) error {
	if len(c.GPU.RIMs) >= rimsMax {
		return errTooMany
	}
	rim, err := nvgpu.ParseRIM(doc)
	if err != nil {
		return err
	}
	name := rimName{rim.Product, rim.Version, rim.Edition}
	if c.rims[name] {
		return nil
	}
	if c.rims == nil {
		c.rims = map[rimName]bool{}
	}
	c.rims[name] = true
	c.GPU.RIMs = append(c.GPU.RIMs, doc)
	return nil
}
