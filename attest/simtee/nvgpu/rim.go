package nvgpu

import (
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cocoon/attest/nvgpu"
)

// RIMConfig says what a RIM is about.
type RIMConfig struct {
	Product string // "GH100"
	Version string
	Edition string             // "GPU" or "SWITCH"
	Golden  map[int][][48]byte // active values, by index; the other indices up to 63 are there, inactive
}

// The RIM is written in canonical form, so that its bytes are what gets signed: a second opinion about what canonical
// is.
const (
	rimHead = `<SoftwareIdentity xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd" ` +
		`xmlns:ns0="http://standards.iso.org/iso/19770/-2/2015/schema.xsd" ` +
		`xmlns:ns2="http://www.w3.org/2001/04/xmlenc#sha384" corpus="false" name="%[1]s" ` +
		`patch="false" supplemental="false" tagId="%[2]s" tagVersion="0" version="1.0">` + "\n" +
		`    <ns0:Entity name="SIMULATED" role="softwareCreator tagCreator"></ns0:Entity>` + "\n" +
		`    <ns0:Meta ` +
		`xmlns:ns1="https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/" ` +
		`PayloadType="direct" colloquialVersion="%[3]s" edition="%[4]s" product="%[1]s" revision="r1" ` +
		`ns1:BindingSpec="RIMIM" ns1:BindingSpecVersion="1.01" ns1:FirmwareManufacturer="SIMULATED" ` +
		`ns1:FirmwareManufacturerId="5703" ` +
		`ns1:PlatformManufacturerId="5703" ns1:PlatformManufacturerStr="SIMULATED" ` +
		`ns1:PlatformModel="%[1]s"></ns0:Meta>` + "\n" +
		`    <ns0:Payload>` + "\n"
	rimTail = "    </ns0:Payload>\n"
	rimEnd  = "</SoftwareIdentity>"

	signedInfo = `<ds:SignedInfo%s><ds:CanonicalizationMethod Algorithm="http://www.w3.org/2006/12/xml-c14n11">` +
		`</ds:CanonicalizationMethod><ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384">` +
		`</ds:SignatureMethod><ds:Reference URI=""><ds:Transforms>` +
		`<ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"></ds:Transform>` +
		`<ds:Transform Algorithm="http://www.w3.org/2006/12/xml-c14n11"></ds:Transform></ds:Transforms>` +
		`<ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#sha384"></ds:DigestMethod>` +
		`<ds:DigestValue>%s</ds:DigestValue></ds:Reference></ds:SignedInfo>`
	// signedInfoScope is what canonical form adds to SignedInfo when it's taken out of the document.
	signedInfoScope = ` xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd" ` +
		`xmlns:ds="http://www.w3.org/2000/09/xmldsig#" ` +
		`xmlns:ns0="http://standards.iso.org/iso/19770/-2/2015/schema.xsd" ` +
		`xmlns:ns2="http://www.w3.org/2001/04/xmlenc#sha384"`
)

// RIM makes a signed RIM.
func (p *PKI) RIM(c RIMConfig) ([]byte, error) {
	tag := digest("tag", c.Product, c.Version)
	var b strings.Builder
	fmt.Fprintf(&b, rimHead, c.Product, fmt.Sprintf("%x", tag), c.Version, c.Edition)
	for i := range 64 {
		b.WriteString(resource(i, c.Golden[i]))
	}
	b.WriteString(rimTail)
	sum := sha512.Sum384([]byte(b.String() + rimEnd))
	return p.signRIM(b.String(), sum)
}

// resource is one measurement, attributes in canonical order.
func resource(i int, values [][48]byte) string {
	active := "True"
	if len(values) == 0 {
		active, values = "False", make([][48]byte, 1)
	}
	var hashes strings.Builder
	for j, v := range values {
		fmt.Fprintf(&hashes, ` ns2:Hash%d="%x"`, j, v)
	}
	return fmt.Sprintf(`        <ns0:Resource active="%s" alternatives="%d" index="%d" name="Measurement_%d" size="48" `+
		`type="Measurement"%s></ns0:Resource>`+"\n", active, len(values), i, i, hashes.String())
}

func (p *PKI) signRIM(head string, sum [48]byte) ([]byte, error) {
	b64 := base64.StdEncoding.EncodeToString
	sig, err := p.rimSigner.sign(fmt.Appendf(nil, signedInfo, signedInfoScope, b64(sum[:])))
	if err != nil {
		return nil, fmt.Errorf("signing a simulated RIM: %w", err)
	}
	b := []byte(head)
	b = append(b, `<ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#">`...)
	b = fmt.Appendf(b, signedInfo, "", b64(sum[:]))
	b = fmt.Appendf(b, "<ds:SignatureValue>%s</ds:SignatureValue><ds:KeyInfo><ds:X509Data>", b64(sig))
	for _, c := range []authority{p.rimSigner, p.rimCA, p.rimRoot} {
		b = fmt.Appendf(b, "<ds:X509Certificate>%s</ds:X509Certificate>", b64(c.cert.Raw))
	}
	return append(b, "</ds:X509Data></ds:KeyInfo></ds:Signature>"+rimEnd...), nil
}

// RIMConfigs are the RIMs of the device's release: driver and VBIOS, or the switch's one.
func (d *Device) RIMConfigs() []RIMConfig {
	configs := map[nvgpu.RIMKind]RIMConfig{}
	for i := range d.Measurements {
		kind := d.owner(i)
		if kind == "" {
			continue
		}
		c, known := configs[kind]
		if !known {
			c = RIMConfig{Product: d.chip(), Version: d.vbios, Edition: "GPU", Golden: map[int][][48]byte{}}
			if kind == nvgpu.DriverRIM {
				c.Version = d.driver
			}
			if d.arch == nvgpu.LS10 {
				c.Edition = "SWITCH"
			}
			configs[kind] = c
		}
		c.Golden[i] = [][48]byte{d.reference(kind, i)}
	}
	var out []RIMConfig
	for _, kind := range slices.Sorted(maps.Keys(configs)) {
		out = append(out, configs[kind])
	}
	return out
}

// reference is what the release's RIM says, whatever has become of the device's own measurements.
func (d *Device) reference(kind nvgpu.RIMKind, i int) [48]byte {
	version := d.vbios
	if kind == nvgpu.DriverRIM {
		version = d.driver
	}
	return digest(string(kind), d.chip(), version, i)
}
