package nvgpu

import (
	"bytes"
	"fmt"
	"slices"
)

// NVSwitch evidence has the same form as a GPU's, with fewer measurements, one RIM ("BIOS"), no FWID in the report,
// and physical device identities (PDIs) of its neighbours. With protected PCIe these must close: NVLink is then in
// clear, and a switch that nobody attested could read it.

// Layout of the fields with PDIs.
const (
	pdiLen      = 8
	linkMax     = 18 // a Hopper GPU's NVLinks; field opPDI has one PDI for each
	switchSlots = 8  // field opSwitchGPUs: the GPUs, then which port leads to which, which we have no use for
)

// switchBoard is the part of the RIM's identifier that names the LS10's board: reports don't say it, and there is one.
const switchBoard = "5612_0002_890"

// neighbours reads the PDIs. A switch names itself as well: that has to be who its certificate says it is.
func (r *Report) neighbours(c *Claims) error {
	own, set := r.opaque[opPDI]
	if c.Arch == LS10 {
		if !bytes.Equal(own, c.PDI[:]) {
			return fail(CheckIdentity, "PDI in the report", short(own), short(c.PDI[:]))
		}
		gpus := r.opaque[opSwitchGPUs]
		if len(gpus) < switchSlots*pdiLen {
			return malformed(
				"the switch's GPUs",
				fmt.Sprintf("%d bytes", len(gpus)),
				fmt.Sprintf("at least %d", switchSlots*pdiLen),
			)
		}
		c.GPUPDIs = pdis(gpus[:switchSlots*pdiLen], false)
		return nil
	}
	if set && (len(own)%pdiLen != 0 || len(own) > linkMax*pdiLen) {
		return malformed("the GPU's switches", fmt.Sprintf("%d bytes", len(own)), fmt.Sprintf("up to %d PDIs", linkMax))
	}
	c.SwitchPDIs = pdis(own, true) // a GPU writes them the other way round
	return nil
}

// pdis returns the identities in b, each once, in order; all zeros and all ones mean that nothing is there.
func pdis(b []byte, reversed bool) [][8]byte {
	var out [][8]byte
	for ; len(b) >= pdiLen; b = b[pdiLen:] {
		p := [8]byte(b)
		if reversed {
			slices.Reverse(p[:])
		}
		if p != [8]byte{} && p != [8]byte(bytes.Repeat([]byte{0xff}, pdiLen)) {
			out = append(out, p)
		}
	}
	return sortedPDIs(out)
}

func sortedPDIs(p [][8]byte) [][8]byte {
	slices.SortFunc(p, func(a, b [8]byte) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(p)
}

// Topology wants GPUs and switches to be each other's neighbours and to have no others: every GPU's links end in all of
// the switches given, and every switch's in all of the GPUs. NVIDIA's PPCIE verifier asks the same; that the identities
// are those of the certificates is our own addition (see identify).
func Topology(set []*Claims) error {
	var gpus, switches [][8]byte
	for _, c := range set {
		if c.Arch == LS10 {
			switches = append(switches, c.PDI)
		} else {
			gpus = append(gpus, c.PDI)
		}
	}
	gpus, switches = sortedPDIs(gpus), sortedPDIs(switches)
	if len(gpus) == 0 || len(switches) == 0 {
		return fail(CheckTopology, "", fmt.Sprintf("%d GPUs, %d switches", len(gpus), len(switches)), "some of each")
	}
	for _, c := range set {
		sees, want := c.SwitchPDIs, switches
		if c.Arch == LS10 {
			sees, want = c.GPUPDIs, gpus
		}
		if !slices.Equal(sees, want) {
			return fail(
				CheckTopology,
				fmt.Sprintf("%s %x", c.Arch, c.PDI),
				fmt.Sprintf("neighbours %x", sees),
				fmt.Sprintf("%x", want),
			)
		}
	}
	return nil
}
