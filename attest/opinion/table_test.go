package opinion_test

import (
	"fmt"
)

// What our verifier says where the library says the opposite.
const (
	accept = "accept"
	refuse = "refuse"
)

// difference is evidence that our verifier and the library judge differently.
type difference struct {
	we      string // accept or refuse
	why     string // who is right, and why
	objects bool   // the library isn't known to be at fault: its opinion is a disagreement, and the machine is refused
}

// differences are all that are known, by the names of the evidence. The tests find each of them, and no other.
func differences() map[string]difference {
	all := map[string]difference{}
	add := func(we, why string, names ...string) {
		for _, name := range names {
			all[name] = difference{we: we, why: why}
		}
	}
	differencesSNP(add)
	differencesTDX(add)
	for _, name := range []string{"snp good/stepping 16", "snp good/key usage", "snp good/another locality"} {
		d := all[name]
		d.objects = true
		all[name] = d
	}
	return all
}

func differencesSNP(add func(we, why string, names ...string)) {
	for _, kind := range []string{"VCEK", "VLEK"} {
		for version := 3; version <= 5; version++ {
			add(accept, "go-sev-guest doesn't know the extension 1.3.9 (FMC level) of Turin's keys",
				fmt.Sprintf("snp good/Turin %s version %d", kind, version))
		}
	}
	add(accept, "the same",
		"snp good/Turin Dense", "snp recorded/ms_turin", "snp recorded/oak_turin_oc")
	add(accept, "Genoa's VCEKs have no stepping in their product name; go-sev-guest wants one if the report names no CPU",
		"snp good/Genoa VCEK version 2")
	add(accept, "go-sev-guest takes levels up to 127; AMD's extension has a byte",
		"snp good/boot level 128", "snp good/TEE level 255", "snp good/SNP level 128")
	add(accept, "no CPU says so: CPUID has 4 bits; go-sev-guest writes the report anew before it checks the signature",
		"snp good/stepping 16")
	add(accept, "AMD's certificates have nothing else; go-sev-guest refuses every extension and name that isn't AMD's, "+
		"we what is critical or would matter", "snp good/key usage", "snp good/another locality")

	add(refuse, "go-sev-guest leaves VMPL to its validation",
		"snp bad/VMPL 4", "snp bad/host's report")
	add(refuse, "go-sev-guest leaves platform info to its validation",
		"snp bad/platform bit 6", "snp bad/platform bit 8")
	add(refuse, "go-sev-guest leaves TCB and chip ID to its validation, whether they are the key's included",
		"snp bad/another chip", "snp bad/another TCB", "snp bad/reserved TCB byte")
	add(refuse, "we pick the root by the CPU and refuse unknown ones; go-sev-guest was given the root for those as well",
		"snp bad/unknown CPU", "snp bad/unknown family")
	add(refuse, "go-sev-guest takes mitigation vectors for part of each version",
		"snp bad/mitigation in v3", "snp bad/mitigation in v4")
	add(refuse, "a masked VCEK signs nothing (AMD 56860, MASK_CHIP_KEY); go-sev-guest doesn't look",
		"snp bad/masked VCEK")
	add(refuse, "go-sev-guest reads the first 1184 bytes",
		"snp bad/long report")
	for bit := 4; bit < 8; bit++ {
		add(refuse, "go-sev-guest forgets these bits when it writes the report anew before it checks the signature",
			fmt.Sprintf("snp flips/stepping bit %d", bit))
	}
	for _, kind := range []string{"VCEK", "VLEK"} {
		add(refuse, "go-sev-guest looks for the intermediate certificate only",
			"snp revocation/ARK for "+kind, "snp revocation/chips for "+kind)
		add(refuse, "go-sev-guest doesn't look at extensions of lists: this one may be partial",
			"snp revocation/critical for "+kind)
	}
	add(refuse, "go-sev-guest isn't asked about a stale list, as it would fetch another; ours: revoked is revoked",
		"snp revocation/ASK by stale list for VCEK")
	add(refuse, "our limit", "snp revocation/too many")
}

func differencesTDX(add func(we, why string, names ...string)) {
	add(accept, "go-tdx-guest asks for the Platform CA by name",
		"tdx good/processor CA", "tdx good/processor CA, v5")
	add(accept, "go-tdx-guest compares hexadecimal digits as text, in lower case",
		"tdx good/PCE ID with letters", "tdx good/module 10")
	add(accept, "which status is good enough is for the policy to say; go-tdx-guest takes UpToDate only",
		"tdx good/module OutOfDate", "tdx good/module too old", "tdx good/QE OutOfDate", "tdx good/QE too old",
		"tdx good/SWHardeningNeeded, module 0", "tdx good/to be relaunched")

	add(refuse, "go-tdx-guest rates the module only, from version 1 on, whatever the platform's level",
		"tdx tcb/platform revoked")
	add(refuse, "go-tdx-guest rates the module that launched the TD, not the one that runs now",
		"tdx tcb/module revoked since launch", "tdx tcb/module unknown since launch")
	add(refuse, "go-tdx-guest doesn't look at when collateral was issued",
		"tdx documents/QE identity of 2027", "tdx documents/TCB info of 2027", "tdx documents/no issue date",
		"tdx collateral/future", "tdx collateral/future TCB info", "tdx collateral/future QE identity",
		"tdx collateral/future PCK CRL", "tdx collateral/future root CRL",
		"tdx recorded/qvl_v4 with qvl_v4 60 days before", "tdx recorded/coco_4 with tinfoil_300_2023 60 days before",
		"tdx recorded/cocoon with qvl_outdated 60 days before",
		"tdx recorded/dstack_verifier with qvl_outdated 60 days before",
		"tdx recorded/dstack_quote-report with qvl_outdated 60 days before",
		"tdx recorded/openpcc_az with qvl_outdated 60 days before")
	add(refuse, "go-tdx-guest takes any evaluation number: nothing keeps old collateral from coming back",
		"tdx documents/TCB evaluation 0")
	add(refuse, "go-tdx-guest doesn't look at tcbType, which says how to compare CPUSVNs",
		"tdx documents/TCB type 1")
	add(refuse, "what is missing is zero to go-tdx-guest, or a level that nothing reaches",
		"tdx documents/no status", "tdx documents/no PCESVN", "tdx documents/no SGX components")
	add(refuse, "go-tdx-guest doesn't look at extensions of lists: this one may be partial",
		"tdx collateral/critical extension")
	add(refuse, "nobody signs what comes after the quote: we take zeros only, and a buffer's worth of them",
		"tdx forged/text after the quote", "tdx forged/8193 zeros after the quote")
	add(refuse, "nobody signs how the chain is written, so we take one way only",
		"tdx forged/text between certificates", "tdx forged/space between certificates")
}
