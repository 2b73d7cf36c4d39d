package nvgpu

import (
	"encoding/binary"
	"fmt"
)

// Sizes of an SPDM 1.1 exchange (DSP0274, tables of GET_MEASUREMENTS and MEASUREMENTS).
const (
	requestLen   = 37 // header 4, nonce 32, slot 1
	headLen      = 8  // response: header 4, blocks 1, record length 3
	nonceLen     = 32
	signatureLen = 96 // P-384: r and s, big endian, 48 bytes each
	digestLen    = 48 // SHA-384
	blockHead    = 7  // index 1, specification 1, size 2, value type 1, value size 2
	blockLen     = blockHead + digestLen
)

// Limits on a report. The largest seen is 4,274 bytes with 64 blocks and 17 opaque fields.
const (
	ReportMax = 8 << 10 // bytes of a report
	blockMax  = 64      // measurement blocks: the RIMs number them 0 to 63
	opaqueMax = 64      // opaque fields
)

// Report is a parsed SPDM 1.1 measurement exchange: NVIDIA's devices hand out the request that they were asked with and
// their signed response in one piece. Parsing checks form, not truth.
type Report struct {
	Nonce          [nonceLen]byte // the requester's nonce: the one that binds
	ResponderNonce [nonceLen]byte
	opaque         map[uint16][]byte
	// measurements by RIM index: the RIMs count from 0, SPDM counts from 1.
	measurements map[int][]byte
	signed, sig  []byte // the device signs SHA-384(request | response without signature)
}

// Measurement returns the SHA-384 digest with this RIM index (SPDM's index less one), or nil.
func (r *Report) Measurement(index int) []byte { return r.measurements[index] }

// ParseReport takes a report as NVML and NSCQ return it. Some drivers append one zero byte, which no signature covers:
// that one byte is let pass, anything else after the signature is refused. The report shares b's memory.
func ParseReport(b []byte) (*Report, error) {
	if len(b) > ReportMax {
		return nil, fail(CheckSize, "report", fmt.Sprintf("%d bytes", len(b)), fmt.Sprintf("at most %d", ReportMax))
	}
	if least := requestLen + headLen + nonceLen + 2 + signatureLen; len(b) < least {
		return nil, malformed("length", fmt.Sprint(len(b)), fmt.Sprintf("at least %d", least))
	}
	if err := checkHeads(b); err != nil {
		return nil, err
	}
	r := &Report{Nonce: [nonceLen]byte(b[4:])}
	head, rest := b[requestLen:requestLen+headLen], b[requestLen+headLen:]
	recordLen := int(head[5]) | int(head[6])<<8 | int(head[7])<<16
	if most := len(rest) - nonceLen - 2 - signatureLen; recordLen > most {
		return nil, malformed("measurement record length", fmt.Sprint(recordLen), fmt.Sprintf("at most %d", most))
	}
	if err := r.parseBlocks(int(head[4]), rest[:recordLen]); err != nil {
		return nil, err
	}
	rest = rest[recordLen:]
	r.ResponderNonce = [nonceLen]byte(rest)
	opaqueLen := int(binary.LittleEndian.Uint16(rest[nonceLen:]))
	rest = rest[nonceLen+2:]
	if most := len(rest) - signatureLen; opaqueLen > most {
		return nil, malformed("opaque length", fmt.Sprint(opaqueLen), fmt.Sprintf("at most %d", most))
	}
	if err := r.parseOpaque(rest[:opaqueLen]); err != nil {
		return nil, err
	}
	r.sig = rest[opaqueLen : opaqueLen+signatureLen]
	tail := rest[opaqueLen+signatureLen:]
	if len(tail) > 1 || len(tail) == 1 && tail[0] != 0 {
		return nil, malformed("bytes after the signature", fmt.Sprintf("%d (%s)", len(tail), short(tail)),
			"none, or one zero byte")
	}
	r.signed = b[:len(b)-len(tail)-signatureLen]
	return r, nil
}

// checkHeads wants the one exchange that NVIDIA's devices make: all measurements, signed, slot 0.
func checkHeads(b []byte) error {
	want := [4]byte{0x11, 0xe0, 0x01, 0xff} // SPDM 1.1, GET_MEASUREMENTS, signature requested, all blocks
	if got := [4]byte(b); got != want {
		return malformed("request head", short(got[:]), short(want[:]))
	}
	if slot := b[requestLen-1]; slot != 0 {
		return malformed("request slot", fmt.Sprint(slot), "0")
	}
	want = [4]byte{0x11, 0x60, 0, 0} // SPDM 1.1, MEASUREMENTS, no parameters
	if got := [4]byte(b[requestLen:]); got != want {
		return malformed("response head", short(got[:]), short(want[:]))
	}
	return nil
}

// parseBlocks takes the measurement record: blocks in DMTF's format, SHA-384 digests only.
func (r *Report) parseBlocks(blocks int, record []byte) error {
	if blocks == 0 || blocks > blockMax {
		return malformed("measurement blocks", fmt.Sprint(blocks), fmt.Sprintf("1 to %d", blockMax))
	}
	if len(record) != blocks*blockLen {
		return malformed("measurement record length", fmt.Sprint(len(record)), fmt.Sprint(blocks*blockLen))
	}
	r.measurements = make(map[int][]byte, blocks)
	for ; len(record) > 0; record = record[blockLen:] {
		index, size := int(record[0]), int(binary.LittleEndian.Uint16(record[2:]))
		subject := fmt.Sprintf("measurement block %d", index)
		if index < 1 || index > blockMax {
			return malformed(subject, "that index", fmt.Sprintf("1 to %d", blockMax))
		}
		if record[1] != 1 || size != blockLen-4 { // specification 1 is DMTF's own
			return malformed(subject, fmt.Sprintf("specification %d, size %d", record[1], size),
				fmt.Sprintf("1, %d", blockLen-4))
		}
		if n := int(binary.LittleEndian.Uint16(record[5:])); record[4] != 1 || n != digestLen {
			return malformed(subject, fmt.Sprintf("value type %d, size %d", record[4], n), fmt.Sprintf("1, %d", digestLen))
		}
		if r.measurements[index-1] != nil {
			return malformed(subject, "it twice", "each once")
		}
		r.measurements[index-1] = record[blockHead:blockLen]
	}
	return nil
}

func malformed(subject, got, want string) error { return fail(CheckReport, subject, got, want) }
