package nvgpu

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Opaque fields of a report: type and length (little endian, 16 bit) and value. Numbers and meanings are those of
// NVIDIA/attestation-sdk (gpu and switch opaque data parsers).
const (
	opDriver        = 3  // driver version, ASCII
	opVBIOS         = 6  // VBIOS version: two little-endian words on a GPU, ASCII on a switch
	opNVDEC0        = 11 // nvdecOn, nvdecOff
	opBoardID       = 14 // little endian, 32 bit
	opChipSKU       = 15 // ASCII
	opProject       = 17 // ASCII
	opProjectSKU    = 18 // ASCII
	opFWID          = 20 // SHA-384 of the firmware that the leaf key was made for
	opProtectedPCIe = 21 // ppcieOn, ppcieOff
	opPDI           = 22 // a GPU's: the switches at the end of its links; a switch's: its own
	opSwitchGPUs    = 26 // a switch's: the GPUs at the end of its links
	opOpaqueVersion = 34 // little endian, 16 bit
	opChip          = 35 // ASCII
	opFeature       = 36 // little endian, 16 bit: Mode, from opaque version 1 on
)

// The values of flags: one byte each, far apart.
const (
	flagOn  = 0xaa
	flagOff = 0x55
)

// versionMax and idMax bound the strings that a report may name itself with.
const (
	versionMax = 24
	idMax      = 16
)

func (r *Report) parseOpaque(b []byte) error {
	r.opaque = make(map[uint16][]byte)
	for len(b) > 0 {
		if len(b) < 4 {
			return malformed("opaque data", fmt.Sprintf("%d bytes left", len(b)), "a whole field")
		}
		id, n := binary.LittleEndian.Uint16(b), int(binary.LittleEndian.Uint16(b[2:]))
		if b = b[4:]; n > len(b) {
			return malformed(fmt.Sprintf("opaque field %d", id), fmt.Sprintf("length %d", n), fmt.Sprintf("at most %d", len(b)))
		}
		if _, again := r.opaque[id]; again {
			return malformed(fmt.Sprintf("opaque field %d", id), "it twice", "each once")
		}
		if len(r.opaque) == opaqueMax {
			return malformed("opaque fields", "more", fmt.Sprintf("at most %d", opaqueMax))
		}
		r.opaque[id] = b[:n]
		b = b[n:]
	}
	return nil
}

// text reads an ASCII field: zero bytes end it, and what it may hold is what versions and part numbers are made of,
// since it goes into names of files and into logs.
func (r *Report) text(id uint16, most int) (string, error) {
	s := strings.TrimRight(string(r.opaque[id]), "\x00")
	if s == "" {
		return "", malformed(fmt.Sprintf("opaque field %d", id), "nothing", "text")
	}
	if len(s) > most || strings.ContainsFunc(s, func(c rune) bool { return !plain(c) }) {
		return "", malformed(fmt.Sprintf("opaque field %d", id), quote(s),
			fmt.Sprintf("letters, digits, dots; at most %d", most))
	}
	return s, nil
}

func plain(c rune) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '.'
}

// vbios renders the version as NVIDIA's RIMs do, for instance 96.00.9F.00.01.
func (r *Report) vbios(arch Arch) (string, error) {
	if arch == LS10 {
		return r.text(opVBIOS, versionMax)
	}
	b := r.opaque[opVBIOS]
	if len(b) != 8 || b[5]|b[6]|b[7] != 0 {
		return "", malformed("VBIOS version", short(b), "5 bytes in two words")
	}
	return fmt.Sprintf("%02X.%02X.%02X.%02X.%02X", b[3], b[2], b[1], b[0], b[4]), nil
}

// flag reads a one-byte flag; set says whether the report has it.
func (r *Report) flag(id uint16) (on, set bool, err error) {
	b, ok := r.opaque[id]
	if !ok {
		return false, false, nil
	}
	if len(b) != 1 || b[0] != flagOn && b[0] != flagOff {
		return false, false, malformed(fmt.Sprintf("opaque field %d", id), short(b), "aa or 55")
	}
	return b[0] == flagOn, true, nil
}

// word reads a little-endian number of 16 bits.
func (r *Report) word(id uint16) (v uint16, set bool, err error) {
	b, ok := r.opaque[id]
	if !ok {
		return 0, false, nil
	}
	if len(b) != 2 {
		return 0, false, malformed(fmt.Sprintf("opaque field %d", id), fmt.Sprintf("%d bytes", len(b)), "2")
	}
	return binary.LittleEndian.Uint16(b), true, nil
}

// mode tells how the GPU is shared out, where the report says so.
func (r *Report) mode() (Mode, error) {
	version, set, err := r.word(opOpaqueVersion)
	if err != nil || !set || version < 1 {
		return ModeUnsaid, err
	}
	v, set, err := r.word(opFeature)
	if err != nil || !set {
		return ModeUnsaid, err
	}
	switch v {
	case 0:
		return ModeSPT, nil
	case 1:
		return ModeMPT, nil
	case 2:
		return ModePPCIE, nil
	}
	return ModeUnsaid, malformed("feature flag", fmt.Sprint(v), "0, 1 or 2")
}
