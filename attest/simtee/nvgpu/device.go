package nvgpu

import (
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	"cocoon/attest/nvgpu"
)

// Opaque fields that a simulated device reports: see attest/nvgpu.
const (
	OpaqueDriver        = 3
	OpaqueVBIOS         = 6
	OpaqueNVDEC0        = 11
	OpaqueBoardID       = 14
	OpaqueChipSKU       = 15
	OpaqueProject       = 17
	OpaqueProjectSKU    = 18
	OpaqueFWID          = 20
	OpaqueProtectedPCIe = 21
	OpaquePDI           = 22
	OpaqueSwitchGPUs    = 26
	OpaqueVersion       = 34
	OpaqueChip          = 35
	OpaqueFeature       = 36
)

// Versions of a device, unless told otherwise.
const (
	Driver = "999.10.01"
	VBIOS  = "96.00.AA.00.01"
)

// DeviceConfig says what a device is.
type DeviceConfig struct {
	Arch   nvgpu.Arch // zero: Hopper
	Driver string     // zero: the constant; a switch has none
	VBIOS  string     // zero: the constant
	Serial uint64     // PDI and serial number; 0: a random one
	NVDEC0 bool       // the video decoder is there, and measurement 35 counts
}

// Device is a simulated GPU or switch. The exported fields may be changed before Evidence to make it a broken one; then
// don't use it concurrently.
type Device struct {
	// Measurements by RIM index: 64 of a GPU, 31 of a switch.
	Measurements [][48]byte
	// Opaque is what the report says besides. A field that is deleted is left out.
	Opaque map[uint16][]byte

	arch      nvgpu.Arch
	pki       *PKI
	driver    string
	vbios     string
	pdi       [8]byte
	rom, leaf authority
}

// NewDevice makes a device with its own keys: boot ROM and firmware.
func (p *PKI) NewDevice(c DeviceConfig) (*Device, error) {
	if c.Arch == "" {
		c.Arch = nvgpu.Hopper
	}
	if c.Arch != nvgpu.Hopper && c.Arch != nvgpu.Blackwell && c.Arch != nvgpu.LS10 {
		return nil, fmt.Errorf("making a simulated device: no architecture %q", c.Arch)
	}
	if c.VBIOS == "" {
		c.VBIOS = VBIOS
	}
	if c.Driver == "" && c.Arch != nvgpu.LS10 {
		c.Driver = Driver
	}
	d := &Device{arch: c.Arch, pki: p, driver: c.Driver, vbios: c.VBIOS}
	if binary.BigEndian.PutUint64(d.pdi[:], c.Serial); c.Serial == 0 {
		_, _ = rand.Read(d.pdi[:]) // never fails
	}
	fwid := digest("firmware", d.chip(), d.vbios)
	if err := d.certify(fwid); err != nil {
		return nil, fmt.Errorf("making a simulated device: %w", err)
	}
	d.measure()
	if err := d.describe(c, fwid); err != nil {
		return nil, err
	}
	return d, nil
}

// chip is the name in RIMs, token the one in certificates.
func (d *Device) chip() string { return strings.ReplaceAll(d.token(), "_", "") }

func (d *Device) token() string {
	switch d.arch {
	case nvgpu.LS10:
		return "LS_10"
	case nvgpu.Blackwell:
		return "GB100"
	default:
		return "GH100"
	}
}

// certify makes the boot ROM's and the leaf's certificates.
func (d *Device) certify(fwid [48]byte) error {
	end := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	if d.pki.c.DeviceLife != 0 {
		end = d.pki.c.Now.Add(d.pki.c.DeviceLife)
	}
	unit, prefix := "GSP", byte(0x41)
	if d.arch == nvgpu.LS10 {
		unit, prefix = "FSP", 0x50
	}
	name := d.token() + " A01 " + unit
	t := template(name+" BROM", end, true)
	t.SerialNumber = new(big.Int).SetBytes(append([]byte{prefix}, d.pdi[:]...))
	t.KeyUsage = x509.KeyUsageCertSign
	var err error
	if d.rom, err = d.pki.issue(t, &d.pki.provisioner); err != nil {
		return err
	}
	t = template(name+" FMC LF", end, false)
	sum := digest("leaf", d.pdi, fwid) // the same for one chip with one firmware
	t.SerialNumber = positive(sum[:20])
	t.ExtraExtensions, err = d.extensions(fwid)
	if err != nil {
		return err
	}
	d.leaf, err = d.pki.issue(t, &d.rom)
	return err
}

type fwidValue struct {
	Algorithm asn1.ObjectIdentifier
	Digest    []byte
}

// extensions are the leaf's device info, and CompositeDeviceID or DiceTcbInfo.
func (d *Device) extensions(fwid [48]byte) ([]pkix.Extension, error) {
	type otherName struct {
		ID    asn1.ObjectIdentifier
		Value string `asn1:"utf8,explicit,tag:0"`
	}
	other, err := asn1.MarshalWithParams(otherName{
		oid(1, 3, 6, 1, 4, 1, 412, 274, 1),
		fmt.Sprintf("NVIDIA:%s:%X", d.token(), d.pdi),
	}, "tag:0")
	if err != nil {
		return nil, err
	}
	names, err := asn1.Marshal([]asn1.RawValue{{FullBytes: other}})
	if err != nil {
		return nil, err
	}
	id, value := oid(2, 23, 133, 5, 4, 1), any(struct {
		Version int
		Key     asn1.RawValue
		FWID    fwidValue
	}{1, asn1.RawValue{FullBytes: d.rom.cert.RawSubjectPublicKeyInfo}, fwidValue{oidSHA384(), fwid[:]}})
	if d.arch == nvgpu.Blackwell {
		id, value = oid(2, 23, 133, 5, 4, 1, 1), struct {
			SVN   int            `asn1:"tag:3"`
			FWIDs []fwidValue    `asn1:"tag:6"`
			Flags asn1.BitString `asn1:"tag:7"`
		}{
			1,
			[]fwidValue{{oidSHA384(), fwid[:]}, {oidSHA384(), make([]byte, 48)}},
			asn1.BitString{Bytes: []byte{0x80, 0, 0, 1}, BitLength: 32},
		}
	}
	der, err := asn1.Marshal(value)
	return []pkix.Extension{{Id: oid(2, 5, 29, 17), Value: names}, {Id: id, Value: der}}, err
}

func oidSHA384() asn1.ObjectIdentifier { return oid(2, 16, 840, 1, 101, 3, 4, 2, 2) }

// digest is where measurements come from: devices of one release agree.
func digest(parts ...any) [48]byte {
	return sha512.Sum384(fmt.Append([]byte(word), parts...))
}

// measure fills in the measurements: those that a RIM names, by release; others, by device.
func (d *Device) measure() {
	n := 64
	if d.arch == nvgpu.LS10 {
		n = 31
	}
	d.Measurements = make([][48]byte, n)
	for i := range d.Measurements {
		switch d.owner(i) {
		case nvgpu.DriverRIM:
			d.Measurements[i] = digest("driver", d.chip(), d.driver, i)
		case nvgpu.VBIOSRIM:
			d.Measurements[i] = digest("vbios", d.chip(), d.vbios, i)
		default:
			d.Measurements[i] = digest("device", d.pdi, i)
		}
	}
}

// owner says which RIM has a value for a measurement; about as NVIDIA's do.
func (d *Device) owner(i int) nvgpu.RIMKind {
	switch {
	case d.arch == nvgpu.LS10:
		return nvgpu.VBIOSRIM
	case i >= 1 && i <= 20 || i == 35:
		return nvgpu.DriverRIM
	case i >= 21 && i <= 34:
		return nvgpu.VBIOSRIM
	}
	return ""
}

// describe fills in the opaque fields.
func (d *Device) describe(c DeviceConfig, fwid [48]byte) error {
	if d.arch == nvgpu.LS10 {
		d.Opaque = map[uint16][]byte{
			OpaqueVBIOS: []byte(d.vbios), OpaquePDI: d.pdi[:], OpaqueSwitchGPUs: make([]byte, 128),
		}
		return nil
	}
	b, err := hex.DecodeString(strings.ReplaceAll(d.vbios, ".", ""))
	if err != nil || len(b) != 5 {
		return fmt.Errorf("making a simulated device: VBIOS %q is not five bytes", d.vbios)
	}
	nvdec := byte(0x55)
	if c.NVDEC0 {
		nvdec = 0xaa
	}
	d.Opaque = map[uint16][]byte{
		OpaqueDriver: append([]byte(d.driver), 0), OpaqueVBIOS: {b[3], b[2], b[1], b[0], b[4], 0, 0, 0},
		OpaqueNVDEC0: {nvdec}, OpaqueBoardID: {1, 0, 0, 0}, OpaqueChipSKU: []byte("000\x00"),
		OpaqueProject: []byte("SIM0\x00"), OpaqueProjectSKU: []byte("0000\x00"), OpaqueFWID: fwid[:],
		OpaqueProtectedPCIe: {0x55}, OpaqueVersion: {1, 0}, OpaqueChip: append([]byte(d.chip()), 0), OpaqueFeature: {0, 0},
	}
	return nil
}

// Link wires GPUs and switches up for protected PCIe: each GPU to each switch.
func Link(gpus, switches []*Device) error {
	if len(gpus) == 0 || len(gpus) > 8 || len(switches) == 0 || len(switches) > 18 {
		return errors.New("linking simulated devices: 1 to 8 GPUs and 1 to 18 switches")
	}
	for _, g := range gpus {
		var links []byte
		for _, s := range switches {
			p := s.pdi
			slices.Reverse(p[:])
			links = append(links, p[:]...)
		}
		g.Opaque[OpaquePDI] = links
		g.Opaque[OpaqueProtectedPCIe] = []byte{0xaa}
		g.Opaque[OpaqueFeature] = []byte{2, 0}
	}
	for _, s := range switches {
		field := make([]byte, 128)
		for i, g := range gpus {
			copy(field[8*i:], g.pdi[:])
		}
		s.Opaque[OpaqueSwitchGPUs] = field
	}
	return nil
}

// Chain is the device's certificates, leaf first, root last.
func (d *Device) Chain() []*x509.Certificate {
	p := d.pki
	return []*x509.Certificate{d.leaf.cert, d.rom.cert, p.provisioner.cert, p.identity.cert, p.root.cert}
}

// Evidence answers a nonce as NVML does (nvmlDeviceGetConfComputeGpuAttestationReport).
func (d *Device) Evidence(nonce [32]byte) (nvgpu.Evidence, error) {
	le := binary.LittleEndian
	b := append([]byte{0x11, 0xe0, 0x01, 0xff}, nonce[:]...)
	b = append(b, 0)
	n := 55 * len(d.Measurements)
	b = append(b, 0x11, 0x60, 0, 0, byte(len(d.Measurements)), byte(n), byte(n>>8), byte(n>>16))
	for i, m := range d.Measurements {
		b = append(b, byte(i+1), 1, 51, 0, 1, 48, 0)
		b = append(b, m[:]...)
	}
	answer := make([]byte, 32)
	_, _ = rand.Read(answer) // never fails
	b = append(b, answer...)
	var opaque []byte
	for _, id := range slices.Sorted(maps.Keys(d.Opaque)) {
		v := d.Opaque[id]
		opaque = le.AppendUint16(le.AppendUint16(opaque, id), uint16(len(v))) //nolint:gosec // ours, and short
		opaque = append(opaque, v...)
	}
	b = le.AppendUint16(b, uint16(len(opaque))) //nolint:gosec // ours, and short
	b = append(b, opaque...)
	sig, err := d.leaf.sign(b)
	if err != nil {
		return nvgpu.Evidence{}, fmt.Errorf("signing simulated evidence: %w", err)
	}
	return nvgpu.Evidence{Report: append(b, sig...), Chain: chainPEM(d.Chain()...)}, nil
}
