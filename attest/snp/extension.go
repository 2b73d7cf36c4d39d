package snp

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
)

// extensionOID is the arc of AMD's certificate extensions, 1.3.6.1.4.1.3704.1 (AMD 57230, table of extensions).
const extensionOID = "1.3.6.1.4.1.3704.1."

// The extensions below the arc (AMD 57230).
const (
	extStructVersion = "1" // INTEGER: 0 up to Genoa, 1 from Turin on
	extProductName   = "2" // IA5String
	extBoot          = "3.1"
	extTEE           = "3.2"
	extSNP           = "3.3"
	extReserved4     = "3.4" // not from Turin on
	extReserved5     = "3.5"
	extReserved6     = "3.6"
	extReserved7     = "3.7"
	extMicrocode     = "3.8"
	extFMC           = "3.9" // from Turin on
	extHWID          = "4"   // the chip's bytes, without a tag
	extCSPID         = "5"   // IA5String
)

// Sizes of hwID in bytes, and the most that a text may have: AMD's names have about 30 bytes.
const (
	hwidSize      = 64
	hwidSizeTurin = 8
	extTextMax    = 256
)

// extensions are AMD's extensions of one certificate by what follows the arc.
type extensions map[string][]byte

func collectExtensions(all []pkix.Extension) (extensions, error) {
	m := extensions{}
	for _, e := range all {
		name, ok := strings.CutPrefix(e.Id.String(), extensionOID)
		if !ok {
			continue // not AMD's; critical ones are refused with the certificate
		}
		if _, twice := m[name]; twice {
			return nil, refuse(CheckExtension, name, "two", "one")
		}
		m[name] = e.Value
	}
	return m, nil
}

// readExtensions fills in what AMD's extensions say.
func (k *EndorsementKey) readExtensions(all []pkix.Extension) error {
	m, err := collectExtensions(all)
	if err != nil {
		return err
	}
	if _, ok := m[extStructVersion]; !ok {
		return refuse(CheckExtension, "structVersion", "none", "0 or 1")
	}
	version, err := m.number(extStructVersion)
	if err != nil {
		return err
	}
	if version > 1 {
		return refuse(CheckExtension, "structVersion", version, "0 or 1")
	}
	if err := m.exactly(version, k.Kind); err != nil {
		return err
	}
	if k.Product, err = m.text(extProductName); err != nil {
		return err
	}
	if k.Line = productLine(k.Product); k.Line == "" || (k.Line == Turin) != (version == 1) {
		return refuse(CheckExtension, "productName", fmt.Sprintf("%q with structVersion %d", k.Product, version),
			"Milan or Genoa with 0, Turin with 1")
	}
	if err := k.readLevels(m); err != nil {
		return err
	}
	if k.Kind == VLEK {
		k.CSPID, err = m.text(extCSPID)
		return err
	}
	k.HWID, err = m.chip(version)
	return err
}

// exactly demands the extensions of the structure's version and the kind of key: no fewer, no more.
func (m extensions) exactly(version uint8, kind Signer) error {
	want := []string{
		extStructVersion, extProductName, extBoot, extTEE, extSNP, extReserved5, extReserved6, extReserved7,
		extMicrocode,
	}
	if version == 0 {
		want = append(want, extReserved4)
	} else {
		want = append(want, extFMC)
	}
	if kind == VLEK {
		want = append(want, extCSPID)
	} else {
		want = append(want, extHWID)
	}
	for _, name := range want {
		if _, ok := m[name]; !ok {
			return refuse(CheckExtension, name, "none", fmt.Sprintf("one, in a %v of structVersion %d", kind, version))
		}
	}
	for name := range m {
		if !slices.Contains(want, name) {
			return refuse(CheckExtension, name, "one", fmt.Sprintf("none, in a %v of structVersion %d", kind, version))
		}
	}
	return nil
}

// readLevels reads the security patch levels.
func (k *EndorsementKey) readLevels(m extensions) error {
	levels := map[string]*uint8{
		extBoot: &k.TCB.Boot, extTEE: &k.TCB.TEE, extSNP: &k.TCB.SNP, extMicrocode: &k.TCB.Microcode,
		extFMC: &k.TCB.FMC,
	}
	for _, name := range []string{
		extBoot, extTEE, extSNP, extReserved4, extReserved5, extReserved6, extReserved7, extMicrocode, extFMC,
	} {
		if _, ok := m[name]; !ok {
			continue // exactly has seen to it that it may be missing
		}
		level, err := m.number(name)
		if err != nil {
			return err
		}
		if into := levels[name]; into != nil {
			*into = level
		} else if level != 0 {
			return refuse(CheckExtension, name, level, "0, being reserved")
		}
	}
	return nil
}

// number reads an INTEGER of 0 to 255.
func (m extensions) number(name string) (uint8, error) {
	var n int
	rest, err := asn1.Unmarshal(m[name], &n)
	if err != nil || len(rest) != 0 || n < 0 || n > 255 {
		return 0, refuse(CheckExtension, name, fmt.Sprintf("bytes %.16x", m[name]),
			"an INTEGER of 0 to 255").because(err)
	}
	return uint8(n), nil
}

// text reads an IA5String of printable characters. The tag is looked at here because encoding/asn1 takes any kind of
// string for a string.
func (m extensions) text(name string) (string, error) {
	var v asn1.RawValue
	rest, err := asn1.Unmarshal(m[name], &v)
	ia5 := v.Class == asn1.ClassUniversal && v.Tag == asn1.TagIA5String && !v.IsCompound
	if err != nil || len(rest) != 0 || !ia5 || len(v.Bytes) == 0 || len(v.Bytes) > extTextMax ||
		slices.ContainsFunc(v.Bytes, unprintable) {
		return "", refuse(CheckExtension, name, fmt.Sprintf("bytes %.16x", m[name]),
			fmt.Sprintf("a printable IA5String of 1 to %d bytes", extTextMax)).because(err)
	}
	return string(v.Bytes), nil
}

func unprintable(c byte) bool { return c < ' ' || c > '~' }

// chip reads hwID. AMD's key distribution service leaves the OCTET STRING's tag away; with it is the same.
func (m extensions) chip(version uint8) ([]byte, error) {
	v, want := m[extHWID], hwidSize
	if version == 1 {
		want = hwidSizeTurin
	}
	if len(v) == want+2 && v[0] == asn1.TagOctetString && int(v[1]) == want {
		v = v[2:]
	}
	if len(v) != want || zero(v) {
		return nil, refuse(CheckExtension, "hwID", fmt.Sprintf("%d bytes %.8x", len(v), v),
			fmt.Sprintf("%d bytes, not zero", want))
	}
	return slices.Clone(v), nil
}

// productLine returns the line of a product name: the line's name, which may be followed by a stepping such as -B0
// (AMD 57230, productName), or "".
func productLine(product string) Line {
	name, stepping, cut := strings.Cut(product, "-")
	if cut && (len(stepping) != 2 || stepping[0] < 'A' || stepping[0] > 'Z' || stepping[1] < '0' || stepping[1] > '9') {
		return ""
	}
	if line := Line(name); slices.Contains(Lines(), line) {
		return line
	}
	return ""
}
