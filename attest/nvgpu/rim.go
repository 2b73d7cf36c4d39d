package nvgpu

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Names and algorithms of NVIDIA's RIMs: SWID tags (ISO/IEC 19770-2) with an enveloped signature (XML Signature 1.1).
const (
	nsSWID   = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
	nsRIM    = "https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/"
	nsSHA384 = "http://www.w3.org/2001/04/xmlenc#sha384"
	nsDSig   = "http://www.w3.org/2000/09/xmldsig#"

	algC14N      = "http://www.w3.org/2006/12/xml-c14n11"
	algEnveloped = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
	algECDSA     = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
	algSHA384    = "http://www.w3.org/2001/04/xmldsig-more#sha384"

	nvidiaPEN = "5703" // NVIDIA's private enterprise number at IANA
)

// The editions of a RIM.
const (
	editionGPU    = "GPU"
	editionSwitch = "SWITCH"
)

const alternativeMax = 16 // values that one measurement may have; 4 seen

// RIMKind says what a RIM has reference values of.
type RIMKind string

// The kinds. A document doesn't say which it is; its version, which has to be the report's, does.
const (
	DriverRIM RIMKind = "driver"
	VBIOSRIM  RIMKind = "vbios" // of a GPU, or of a switch
)

// RIM is a parsed reference integrity manifest. Nothing in it is to be believed before verify.
type RIM struct {
	Product string // "GH100"
	Version string // of the driver or VBIOS
	Edition string // "GPU" or "SWITCH"
	TagID   string
	golden  map[int]golden // by index

	sum        [32]byte // SHA-256 of the document
	body       []byte   // canonical form of the document without its signature
	signedInfo []byte   // canonical form of SignedInfo
	digest     []byte   // of body, as SignedInfo has it
	signature  []byte
	certs      []*x509.Certificate // signer first
}

// golden is the reference value of one measurement: any of the values will do.
type golden struct {
	active bool
	values [][digestLen]byte
}

// ParseRIM reads a RIM. Its form is fixed: NVIDIA's elements in NVIDIA's order and no others, which leaves no place to
// hide a second payload or signature in.
func ParseRIM(doc []byte) (*RIM, error) {
	if len(doc) > RIMMax {
		return nil, fail(CheckSize, "RIM", fmt.Sprintf("%d bytes", len(doc)), fmt.Sprintf("at most %d", RIMMax))
	}
	r := &RIM{sum: sha256.Sum256(doc)}
	root, err := parseXML(doc)
	if err == nil {
		err = r.read(root)
	}
	if err != nil {
		return nil, fail(CheckRIM, "document", err.Error(), "a RIM of NVIDIA's form")
	}
	return r, nil
}

func (r *RIM) read(root *node) error {
	if root.name != (name{nsSWID, "SoftwareIdentity"}) {
		return fmt.Errorf("%s at the top", quote(root.local))
	}
	parts, err := root.only(
		name{nsSWID, "Entity"},
		name{nsSWID, "Meta"},
		name{nsSWID, "Payload"},
		name{nsDSig, "Signature"},
	)
	if err != nil {
		return err
	}
	if _, err := parts[0].only(); err != nil {
		return err
	}
	r.TagID = root.attr("", "tagId")
	if err := r.readMeta(root, parts[1]); err != nil {
		return err
	}
	if err := r.readPayload(parts[2]); err != nil {
		return err
	}
	if err := r.readSignature(parts[3]); err != nil {
		return err
	}
	var w bytes.Buffer
	canonical(&w, root, nil, parts[3])
	r.body = w.Bytes()
	return nil
}

func (r *RIM) readMeta(root, meta *node) error {
	if _, err := meta.only(); err != nil {
		return err
	}
	r.Product, r.Version = meta.attr("", "product"), meta.attr("", "colloquialVersion")
	r.Edition = meta.attr("", "edition")
	for _, c := range []struct{ what, got, want string }{
		{"name", root.attr("", "name"), r.Product},
		{"corpus", root.attr("", "corpus"), "false"},
		{"patch", root.attr("", "patch"), "false"},
		{"supplemental", root.attr("", "supplemental"), "false"},
		{"payload type", meta.attr("", "PayloadType"), "direct"},
		{"platform model", meta.attr(nsRIM, "PlatformModel"), r.Product},
		{"platform maker", meta.attr(nsRIM, "PlatformManufacturerId"), nvidiaPEN},
		{"firmware maker", meta.attr(nsRIM, "FirmwareManufacturerId"), nvidiaPEN},
		{"binding", meta.attr(nsRIM, "BindingSpec"), "RIMIM"},
	} {
		if c.got != c.want || c.got == "" {
			return fmt.Errorf("%s %s, want %s", c.what, quote(c.got), quote(c.want))
		}
	}
	if r.Edition != editionGPU && r.Edition != editionSwitch {
		return fmt.Errorf("edition %s", quote(r.Edition))
	}
	if r.Version == "" || len(r.Version) > versionMax || len(r.Product) > idMax || len(r.TagID) > 128 {
		return errors.New("version, product or tag of a strange length")
	}
	return nil
}

func (r *RIM) readPayload(payload *node) error {
	resources, err := payload.repeated(name{nsSWID, "Resource"}, blockMax)
	if err != nil {
		return err
	}
	r.golden = make(map[int]golden, len(resources))
	for _, res := range resources {
		if _, err := res.only(); err != nil {
			return err
		}
		index, err := number(res.attr("", "index"), 0, blockMax-1)
		if err != nil {
			return fmt.Errorf("index: %w", err)
		}
		if _, again := r.golden[index]; again {
			return fmt.Errorf("measurement %d twice", index)
		}
		if r.golden[index], err = readGolden(res); err != nil {
			return fmt.Errorf("measurement %d: %w", index, err)
		}
	}
	return nil
}

func readGolden(res *node) (golden, error) {
	var g golden
	if res.attr("", "type") != "Measurement" || res.attr("", "size") != strconv.Itoa(digestLen) {
		return g, errors.New("not a measurement of 48 bytes")
	}
	switch active := res.attr("", "active"); active {
	case "True":
		g.active = true
	case "False":
	default:
		return g, fmt.Errorf("active is %s", quote(active))
	}
	n, err := number(res.attr("", "alternatives"), 1, alternativeMax)
	if err != nil {
		return g, fmt.Errorf("alternatives: %w", err)
	}
	// type, index, active, alternatives, name, size, and the values: nothing that we would overlook.
	if len(res.attrs) != 6+n {
		return g, fmt.Errorf("%d attributes, want %d", len(res.attrs), 6+n)
	}
	for i := range n {
		b, err := hex.DecodeString(res.attr(nsSHA384, "Hash"+strconv.Itoa(i)))
		if err != nil || len(b) != digestLen {
			return g, fmt.Errorf("value %d is no SHA-384", i)
		}
		g.values = append(g.values, [digestLen]byte(b))
	}
	return g, nil
}

// number takes decimal digits as strconv prints them, so that each value has one spelling.
func number(s string, low, high int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || strconv.Itoa(n) != s || n < low || n > high {
		return 0, fmt.Errorf("%s, want %d to %d", quote(s), low, high)
	}
	return n, nil
}

func (r *RIM) readSignature(sig *node) error {
	parts, err := sig.only(name{nsDSig, "SignedInfo"}, name{nsDSig, "SignatureValue"}, name{nsDSig, "KeyInfo"})
	if err != nil {
		return err
	}
	if err := r.readSignedInfo(parts[0]); err != nil {
		return err
	}
	if r.signature, err = parts[1].base64(); err != nil {
		return err
	}
	data, err := parts[2].only(name{nsDSig, "X509Data"})
	if err != nil {
		return err
	}
	certs, err := data[0].repeated(name{nsDSig, "X509Certificate"}, chainLen)
	if err != nil {
		return err
	}
	for _, c := range certs {
		der, err := c.base64()
		if err != nil {
			return err
		}
		cert, err := parseCert(der)
		if err != nil {
			return errors.New("a certificate that is none")
		}
		r.certs = append(r.certs, cert)
	}
	if n := len(sig.attrs) + len(parts[2].attrs) + len(data[0].attrs); n > 0 {
		return errors.New("attributes in the signature")
	}
	return nil
}

// readSignedInfo wants the signature to be over the whole document, in NVIDIA's algorithms.
func (r *RIM) readSignedInfo(info *node) error {
	parts, err := info.only(
		name{nsDSig, "CanonicalizationMethod"},
		name{nsDSig, "SignatureMethod"},
		name{nsDSig, "Reference"},
	)
	if err != nil {
		return err
	}
	ref := parts[2]
	if len(info.attrs) > 0 || len(ref.attrs) != 1 || ref.attrs[0].name != (name{"", "URI"}) || ref.attrs[0].value != "" {
		return errors.New("a reference to a part of the document")
	}
	of, err := ref.only(name{nsDSig, "Transforms"}, name{nsDSig, "DigestMethod"}, name{nsDSig, "DigestValue"})
	if err != nil {
		return err
	}
	transforms, err := of[0].only(name{nsDSig, "Transform"}, name{nsDSig, "Transform"})
	if err != nil {
		return err
	}
	err = errors.Join(parts[0].algorithm(algC14N), parts[1].algorithm(algECDSA), transforms[0].algorithm(algEnveloped),
		transforms[1].algorithm(algC14N), of[1].algorithm(algSHA384))
	if err != nil {
		return err
	}
	if r.digest, err = of[2].base64(); err != nil {
		return err
	}
	var w bytes.Buffer
	canonical(&w, info, nil, nil)
	r.signedInfo = w.Bytes()
	return nil
}

// verify checks the signature and the signer's certificates.
func (r *RIM) verify(roots []*x509.Certificate, now time.Time, cache *SignatureCache) error {
	subject := r.Product + " " + r.Version
	if sum := sha512.Sum384(r.body); !bytes.Equal(sum[:], r.digest) {
		return fail(CheckRIMSignature, subject, "digest "+short(sum[:]), short(r.digest))
	}
	if err := (chain{check: CheckRIMChain, certs: r.certs}).verify(roots, now, cache); err != nil {
		return err
	}
	if !cache.verifyRaw(r.certs[0], r.signedInfo, r.signature) {
		return fail(CheckRIMSignature, subject, "a signature that is not of the signer's key", "")
	}
	return nil
}
