package tdx

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"cocoon/attest/tdx"
)

// What a simulated platform is, unless told otherwise: up to date by Collateral's levels.
const (
	cpuSVN    = "03030202040100050000000000000000"
	pceSVN    = 13
	qeSVN     = 8
	qeProdID  = 2
	teeTCBSVN = "07010300000000000000000000000000" // a module 1.x with SVN 7
	xfam      = 0x602e7                            // what TDs on Sapphire Rapids have
	qeVendor  = "939a7233f79c4ca9940a0db3957f0607" // Intel's quoting enclave
)

// Machine is a simulated platform: a PCK of its PKI, and a quoting enclave with its attestation key.
type Machine struct {
	pki         *PKI
	ca, pck     *entity
	platform    tdx.Platform
	attestation *ecdsa.PrivateKey
}

// Machine makes a platform. Zero values of p get defaults, random IDs among them; its serial is the certificate's.
func (p *PKI) Machine(platform tdx.Platform) (*Machine, error) {
	ca, err := p.ca(platform.CA)
	if err != nil {
		return nil, err
	}
	m := &Machine{pki: p, ca: ca, platform: platform}
	if err := m.setDefaults(); err != nil {
		return nil, err
	}
	ext, err := sgxExtension(&m.platform)
	if err != nil {
		return nil, err
	}
	if m.pck, err = p.issue(ca, namePCK, false, ext); err != nil {
		return nil, err
	}
	m.platform.Serial = fmt.Sprintf("%x", m.pck.cert.SerialNumber)
	m.attestation, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return m, err
}

func (m *Machine) setDefaults() error {
	p := &m.platform
	if p.CA == "" {
		p.CA = tdx.PlatformCA
	}
	if p.PPID == [16]byte{} {
		if _, err := rand.Read(p.PPID[:]); err != nil {
			return err
		}
	}
	if p.CA == tdx.PlatformCA && !p.HasInstance {
		p.HasInstance, p.Type = true, tdx.SGXScalable
		if _, err := rand.Read(p.Instance[:]); err != nil {
			return err
		}
		p.Dynamic, p.CachedKeys, p.SMT = new(bool), new(bool), new(bool)
	}
	if p.FMSPC == [6]byte{} {
		p.FMSPC = [6]byte{'S', 'I', 'M'}
	}
	if p.CPUSVN == (tdx.SVNs{}) {
		if _, err := hex.Decode(p.CPUSVN[:], []byte(cpuSVN)); err != nil {
			return err
		}
	}
	if p.PCESVN == 0 {
		p.PCESVN = pceSVN
	}
	return nil
}

// Platform returns what the machine's PCK certificate says.
func (m *Machine) Platform() tdx.Platform { return m.platform }

// Quote is what to sign.
type Quote struct {
	Version uint16 // 4 or 5; 0 means 5 for TD.V15, else 4
	TD      tdx.TD // zero TEETCBSVN, TEETCBSVN2 and XFAM get defaults
	QESVN   uint16 // of the quoting enclave; 0 means a current one

	// Auth is the QE's authentication data; nil means the usual 32 bytes.
	Auth []byte
	// Edit, for tests, changes the QE's report of 384 bytes before it is signed.
	Edit func(report []byte)
}

// Quote makes a quote: header, body, signature by the attestation key, and that key's certification.
func (m *Machine) Quote(q Quote) ([]byte, error) {
	if err := q.setDefaults(); err != nil {
		return nil, err
	}
	signed, err := q.signed()
	if err != nil {
		return nil, err
	}
	signature, err := sign(m.attestation, signed)
	if err != nil {
		return nil, err
	}
	point, err := m.attestation.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	key := point[1:] // without the tag of uncompressed points
	certification, err := m.certification(&q, key)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	auth := slices.Concat(signature, key, le.AppendUint16(nil, 6), sized(certification))
	return slices.Concat(signed, sized(auth)), nil
}

func (q *Quote) setDefaults() error {
	if q.Version == 0 {
		q.Version = 4
		if q.TD.V15 {
			q.Version = 5
		}
	}
	if q.Version != 5 && (q.Version != 4 || q.TD.V15) {
		return fmt.Errorf("no TD report of that kind in quote version %d", q.Version)
	}
	var current tdx.SVNs
	if _, err := hex.Decode(current[:], []byte(teeTCBSVN)); err != nil {
		return err
	}
	if q.TD.TEETCBSVN == (tdx.SVNs{}) {
		q.TD.TEETCBSVN = current
	}
	if q.TD.V15 && q.TD.TEETCBSVN2 == (tdx.SVNs{}) {
		q.TD.TEETCBSVN2 = current
	}
	if q.TD.XFAM == 0 {
		q.TD.XFAM = xfam
	}
	if q.QESVN == 0 {
		q.QESVN = qeSVN
	}
	if q.Auth == nil {
		q.Auth = make([]byte, 32)
		for i := range q.Auth {
			q.Auth[i] = byte(i)
		}
	}
	if len(q.Auth) > 1<<16-1 {
		return fmt.Errorf("authentication data of %d bytes does not fit", len(q.Auth))
	}
	return nil
}

// signed returns header and body.
func (q *Quote) signed() ([]byte, error) {
	le := binary.LittleEndian
	b := le.AppendUint16(nil, q.Version)
	b = le.AppendUint16(b, 2)         // attestation key: ECDSA P-256
	b = le.AppendUint32(b, 0x81)      // TDX
	b = append(b, make([]byte, 4)...) // reserved
	b, err := hex.AppendDecode(b, []byte(qeVendor))
	if err != nil {
		return nil, err
	}
	b = append(b, make([]byte, 20)...) // user data
	t := &q.TD
	if q.Version == 5 {
		kind, size := uint16(2), uint32(584)
		if t.V15 {
			kind, size = 3, 648
		}
		b = le.AppendUint32(le.AppendUint16(b, kind), size)
	}
	b = slices.Concat(b, t.TEETCBSVN[:], t.MRSEAM[:], t.MRSignerSEAM[:])
	b = le.AppendUint64(b, t.SEAMAttributes)
	b = le.AppendUint64(b, uint64(t.Attributes))
	b = le.AppendUint64(b, t.XFAM)
	b = slices.Concat(b, t.MRTD[:], t.MRConfigID[:], t.MROwner[:], t.MROwnerConfig[:])
	for i := range t.RTMR {
		b = append(b, t.RTMR[i][:]...)
	}
	b = append(b, t.ReportData[:]...)
	if t.V15 {
		b = slices.Concat(b, t.TEETCBSVN2[:], t.MRServiceTD[:])
	}
	return b, nil
}

// certification returns the QE's report, which names the attestation key, with the PCK's signature and chain.
func (m *Machine) certification(q *Quote, key []byte) ([]byte, error) {
	le := binary.LittleEndian
	report := make([]byte, 384)
	copy(report, m.platform.CPUSVN[:])
	report[48] = 0x15 // INIT, MODE64BIT, PROVISION_KEY
	report[56] = 0xe7 // XFRM
	signer := m.pki.qeSigner()
	copy(report[128:], signer[:])
	le.PutUint16(report[256:], qeProdID)
	le.PutUint16(report[258:], q.QESVN)
	sum := sha256.Sum256(slices.Concat(key, q.Auth))
	copy(report[320:], sum[:])
	if q.Edit != nil {
		q.Edit(report)
	}
	signature, err := sign(m.pck.key, report)
	if err != nil {
		return nil, err
	}
	auth := append(le.AppendUint16(nil, uint16(len(q.Auth))), q.Auth...)
	return slices.Concat(report, signature, auth, le.AppendUint16(nil, 5), sized(chain(m.pck, m.ca, m.pki.root))), nil
}

// sized returns data with its 32-bit size before it.
func sized(data []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(data))), data...)
}
