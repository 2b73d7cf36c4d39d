package tdx

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// Sizes and types of a TDX quote, from "Intel TDX DCAP Quoting Library API", appendix A.3 (version 4) and A.4
// (version 5).
const (
	headerLen     = 48
	td10Len       = 584 // TDREPORT's body of TDX 1.0
	td15Len       = 648 // and of TDX 1.5: TEE_TCB_SVN_2 and MRSERVICETD at its end
	qeReportLen   = 384
	p256Len       = 64 // an ECDSA P-256 signature (r, s) or public key (x, y), big endian
	keyTypeP256   = 2
	teeTDX        = 0x81
	bodyTD10      = 2 // version 5 only
	bodyTD15      = 3
	certQEReport  = 6                                  // certification data: QE report, its signature, the data below
	certPCKChain  = 5                                  // the PCK certificate's chain as PEM
	intelQEVendor = "939a7233f79c4ca9940a0db3957f0607" // the UUID of Intel's quoting enclave
)

// Limits.
const (
	// QuoteMax is the most bytes a quote may have: real ones have 5 kB, and configfs-tsm hands out buffers of 8 kB.
	QuoteMax = 16 << 10
	// paddingMax is the most zero bytes after a quote: the size of the buffer that guests get it in, which some hand on
	// whole. Nobody signs them, so they must be zero, and the fewer the better.
	paddingMax = 8 << 10
)

// Quote is a parsed TDX quote, version 4 or 5. Nothing in it is authenticated: that is Verify's work.
type Quote struct {
	Version  uint16   // 4 or 5
	UserData [20]byte // the header's: the quoting enclave's ID of the platform in its first 16 bytes
	TD       TD       // the TD's report

	signed    []byte // header and body: what the attestation key signs
	signature []byte
	key       []byte // the attestation key, x and y
	qe        enclaveReport
	qeSig     []byte // of qe.raw, by the PCK
	qeAuth    []byte // hashed into qe.data beside the attestation key
	pckChain  []byte // PEM
}

// enclaveReport is the SGX report of the quoting enclave (Intel SDM volume 3D, REPORT without its MAC).
type enclaveReport struct {
	raw        []byte
	cpuSVN     [16]byte
	miscSelect []byte // 4 B, little endian
	attributes []byte // 16 B
	mrEnclave  [32]byte
	mrSigner   [32]byte
	prodID     uint16
	svn        uint16
	data       []byte // 64 B
}

// Parse reads a quote: version 4 with a TD report 1.0, version 5 with a TD report 1.0 or 1.5, attestation key ECDSA
// P-256, certified by a PCK chain inside. It refuses everything else, bytes left over in any part of it, and anything
// but zeros after it. Its errors are *Error with CheckFormat. The result refers to raw.
func Parse(raw []byte) (*Quote, error) {
	if len(raw) > QuoteMax {
		return nil, refuse(CheckFormat, fmt.Sprintf("%d bytes", len(raw)), fmt.Sprintf("at most %d", QuoteMax), nil)
	}
	r := &reader{rest: raw}
	q := &Quote{}
	if err := q.readHeader(r); err != nil {
		return nil, err
	}
	if err := q.readBody(r); err != nil {
		return nil, err
	}
	q.signed = raw[:len(raw)-len(r.rest)]
	auth := r.sized32("signature data")
	if r.err != nil {
		return nil, r.err
	}
	if len(r.rest) > paddingMax {
		return nil, refuse(CheckFormat, fmt.Sprintf("%d bytes after the quote", len(r.rest)),
			fmt.Sprintf("at most %d", paddingMax), nil)
	}
	if !zero(r.rest) {
		return nil, refuse(CheckFormat, "data after the quote", "zeros or nothing", nil)
	}
	if err := q.readAuth(&reader{rest: auth}); err != nil {
		return nil, err
	}
	return q, nil
}

func (q *Quote) readHeader(r *reader) error {
	q.Version = r.u16("version")
	keyType, tee := r.u16("attestation key type"), r.u32("TEE type")
	r.take("reserved bytes", 4) // version 4: once the SVNs of QE and PCE; nobody reads them, the signature covers them
	vendor := hex.EncodeToString(r.take("QE vendor", 16))
	copy(q.UserData[:], r.take("user data", len(q.UserData)))
	switch {
	case r.err != nil:
		return r.err
	case q.Version != 4 && q.Version != 5:
		return refuse(CheckFormat, fmt.Sprintf("version %d", q.Version), "4 or 5", nil)
	case keyType != keyTypeP256:
		return refuse(CheckFormat, fmt.Sprintf("attestation key type %d", keyType), "2 (ECDSA P-256)", nil)
	case tee != teeTDX:
		return refuse(CheckFormat, fmt.Sprintf("TEE type %#x", tee), "0x81 (TDX)", nil)
	case vendor != intelQEVendor:
		return refuse(CheckFormat, "QE vendor "+vendor, intelQEVendor+" (Intel)", nil)
	}
	return nil
}

func (q *Quote) readBody(r *reader) error {
	size := td10Len
	if q.Version == 5 {
		kind, n := r.u16("body type"), r.u32("body size")
		switch {
		case r.err != nil:
			return r.err
		case kind == bodyTD10 && n == td10Len:
		case kind == bodyTD15 && n == td15Len:
			q.TD.V15, size = true, td15Len
		default:
			return refuse(CheckFormat, fmt.Sprintf("body type %d of %d bytes", kind, n),
				"2 of 584 (TD report 1.0) or 3 of 648 (1.5)", nil)
		}
	}
	body := r.take("TD report", size)
	if r.err != nil {
		return r.err
	}
	q.TD.read(&reader{rest: body})
	return nil
}

// read takes the fields of a body whose size is right. The bytes are those of TDREPORT's TEE_TCB_INFO and TDINFO.
func (t *TD) read(r *reader) {
	fill := func(to []byte) { copy(to, r.take("", len(to))) }
	fill(t.TEETCBSVN[:])
	fill(t.MRSEAM[:])
	fill(t.MRSignerSEAM[:])
	t.SEAMAttributes = r.u64("")
	t.Attributes = Attributes(r.u64(""))
	t.XFAM = r.u64("")
	for _, m := range []*Measurement{&t.MRTD, &t.MRConfigID, &t.MROwner, &t.MROwnerConfig} {
		fill(m[:])
	}
	for i := range t.RTMR {
		fill(t.RTMR[i][:])
	}
	fill(t.ReportData[:])
	if t.V15 {
		fill(t.TEETCBSVN2[:])
		fill(t.MRServiceTD[:])
	}
}

// readAuth reads what follows the signed part: signature, attestation key, and the certification of that key.
func (q *Quote) readAuth(r *reader) error {
	q.signature, q.key = r.take("quote signature", p256Len), r.take("attestation key", p256Len)
	kind := r.u16("certification data type")
	data := r.sized32("certification data")
	switch {
	case r.err != nil:
		return r.err
	case kind != certQEReport:
		return refuse(CheckFormat, fmt.Sprintf("certification data type %d", kind), "6 (QE report)", nil)
	case len(r.rest) != 0:
		return refuse(CheckFormat, fmt.Sprintf("%d bytes after the certification data", len(r.rest)), "none", nil)
	}
	r = &reader{rest: data}
	report := r.take("QE report", qeReportLen)
	q.qeSig = r.take("QE report signature", p256Len)
	q.qeAuth = r.take("QE authentication data", int(r.u16("QE authentication data size")))
	kind = r.u16("PCK certification type")
	q.pckChain = r.sized32("PCK certificate chain")
	switch {
	case r.err != nil:
		return r.err
	case kind != certPCKChain:
		return refuse(CheckFormat, fmt.Sprintf("PCK certification type %d", kind), "5 (PEM chain)", nil)
	case len(r.rest) != 0:
		return refuse(CheckFormat, fmt.Sprintf("%d bytes after the PCK chain", len(r.rest)), "none", nil)
	}
	q.qe.read(report)
	return nil
}

// read takes the fields of a report of the right size.
func (e *enclaveReport) read(raw []byte) {
	e.raw = raw
	copy(e.cpuSVN[:], raw)
	e.miscSelect = raw[16:20]
	e.attributes = raw[48:64]
	copy(e.mrEnclave[:], raw[64:])
	copy(e.mrSigner[:], raw[128:])
	e.prodID = binary.LittleEndian.Uint16(raw[256:])
	e.svn = binary.LittleEndian.Uint16(raw[258:])
	e.data = raw[320:]
}

// reader takes fields off the front; after its first error all it returns is zero.
type reader struct {
	rest []byte
	err  error
}

// take returns n bytes of the input, or, at an error, n zeros (none if n itself is hostile, as it may be up to 2^32).
func (r *reader) take(what string, n int) []byte {
	if r.err == nil && (n < 0 || n > len(r.rest)) {
		r.err = refuse(CheckFormat, fmt.Sprintf("%d bytes left for the %s", len(r.rest), what),
			fmt.Sprintf("%d", n), nil)
	}
	if r.err != nil {
		if n < 0 || n > headerLen {
			return nil
		}
		return make([]byte, n)
	}
	out := r.rest[:n:n]
	r.rest = r.rest[n:]
	return out
}

func (r *reader) u16(what string) uint16 { return binary.LittleEndian.Uint16(r.take(what, 2)) }
func (r *reader) u32(what string) uint32 { return binary.LittleEndian.Uint32(r.take(what, 4)) }
func (r *reader) u64(what string) uint64 { return binary.LittleEndian.Uint64(r.take(what, 8)) }

// sized32 takes a 32-bit size and that many bytes.
func (r *reader) sized32(what string) []byte {
	n := r.u32(what + "'s size")
	if r.err == nil && uint64(n) > uint64(len(r.rest)) { // before int(n), which is negative where int has 32 bits
		r.err = refuse(CheckFormat, fmt.Sprintf("%d bytes left for the %s", len(r.rest), what), fmt.Sprint(n), nil)
	}
	if r.err != nil {
		return nil
	}
	return r.take(what, int(n))
}

func zero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }
