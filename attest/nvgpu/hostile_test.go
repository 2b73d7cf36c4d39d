package nvgpu_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"cocoon/attest/nvgpu"
	sim "cocoon/attest/simtee/nvgpu"

	"github.com/google/go-cmp/cmp"
)

// subjects are devices whose evidence is worth being broken: simulated ones, and real ones where they are at hand.
func subjects(t *testing.T) map[string]*world {
	t.Helper()
	out := map[string]*world{"simulated": newWorld(t, sim.Config{}, sim.DeviceConfig{Arch: nvgpu.LS10})}
	out["simulated"].o.Skip = []nvgpu.Check{nvgpu.CheckDeviceOCSP, nvgpu.CheckRIM}
	return out
}

// TestFlips changes every byte of a report, one bit each: none is accepted.
func TestFlips(t *testing.T) {
	t.Run("simulated LS10", func(t *testing.T) {
		t.Parallel()
		w := subjects(t)["simulated"]
		flipReport(t, w, 3*raceStep)
	})
	for name, step := range map[string]int{"nvs_hopper": 1, "nvs_switch": 1, "nvs_blackwell": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := nvgpu.Evidence{
				Report: hexVector(t, "evidence/"+name+"AttestationReport.txt"), Chain: vector(t, "evidence/"+name+"CertChain.txt"),
			}
			flipReport(t, &world{e: e, o: nvgpu.Options{
				Roots: vendor(t), Now: day(today), Nonce: nonceOf(t, e.Report),
				Skip: []nvgpu.Check{nvgpu.CheckDeviceOCSP, nvgpu.CheckRIM, nvgpu.CheckFWID},
			}}, step*raceStep)
		})
	}
}

func flipReport(t *testing.T, w *world, step int) {
	t.Helper()
	w.o.Cache = nvgpu.NewSignatureCache(100)
	if _, err := w.verify(); err != nil {
		t.Fatal(err)
	}
	good := w.e.Report
	for i := 0; i < len(good); i += step {
		w.e.Report = bytes.Clone(good)
		w.e.Report[i] ^= 1 << (i % 8)
		if _, err := w.verify(); err == nil {
			t.Errorf("byte %d of %d changed: accepted", i, len(good))
		}
	}
	for i := range good {
		if _, err := nvgpu.ParseReport(good[:i]); err == nil {
			t.Errorf("cut at %d: accepted", i)
		}
	}
	w.e.Report = append(bytes.Clone(good), 0) // as some drivers do
	if _, err := w.verify(); err != nil {
		t.Errorf("with a zero byte behind: %v", err)
	}
	for _, tail := range []string{"\x01", "\x00\x00", "\x00\x01"} {
		w.e.Report = append(bytes.Clone(good), tail...)
		if _, err := w.verify(); err == nil {
			t.Errorf("with %q behind: accepted", tail)
		}
	}
}

// Every byte of a chain, changed, is refused.
func TestChainFlips(t *testing.T) {
	w := subjects(t)["simulated"]
	w.o.Cache = nvgpu.NewSignatureCache(100)
	good := w.e.Chain
	for i := 0; i < len(good); i += 2 * raceStep {
		w.e.Chain = bytes.Clone(good)
		w.e.Chain[i] ^= 1 << (i % 8)
		if _, err := w.verify(); err == nil {
			t.Errorf("byte %d of %d changed: accepted (%q)", i, len(good), good[max(0, i-10):min(len(good), i+10)])
		}
	}
}

// Lengths that lie, and counts.
func TestReportLengths(t *testing.T) {
	w := subjects(t)["simulated"]
	good := w.e.Report
	record := 37 + 8
	opaque := record + 31*55 + 32
	for _, c := range []struct {
		name  string
		at    int
		with  string
		words string
	}{
		{"SPDM 1.2", 0, "\x12", "request head"},
		{"unsigned", 2, "\x00", "request head"},
		{"one block", 3, "\x01", "request head"},
		{"slot 1", 36, "\x01", "slot"},
		{"SPDM 1.2 answer", 37, "\x12", "response head"},
		{"error answer", 38, "\x7f", "response head"},
		{"no block", 41, "\x00", "measurement blocks: got 0"},
		{"63 blocks", 41, "\x3f", "measurement record length"},
		{"65 blocks", 41, "\x41", "measurement blocks: got 65"},
		{"long record", 42, "\xff\xff\xff", "measurement record length: got 16777215"},
		{"no record", 42, "\x00\x00\x00", "measurement record length: got 0"},
		{"block 0", record, "\x00", "block 0"},
		{"block 65", record, "\x41", "block 65"},
		{"block twice", record, "\x02", "block 2: got it twice"},
		{"not DMTF", record + 1, "\x02", "specification 2"},
		{"long block", record + 2, "\xff\xff", "size 65535"},
		{"raw value", record + 4, "\x81", "value type 129"},
		{"long value", record + 5, "\xff\xff", "size 65535"},
		{"long opaque data", opaque, "\xff\xff", "opaque length"},
		{"no opaque data", opaque, "\x00\x00", "after the signature"},
		{"opaque field cut", opaque, "\x03\x00", "opaque data: got 3"},
		{"long opaque field", opaque + 4, "\xff\xff", "opaque field 6"},
		{"opaque field twice", opaque + 2 + 4 + 14, "\x06", "opaque field 6: got it twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(good)
			copy(b[c.at:], c.with)
			_, err := nvgpu.ParseReport(b)
			wantCheck(t, err, nvgpu.CheckReport, c.words)
		})
	}
}

// signedDoc is a RIM to take apart.
type signedDoc struct {
	t                        *testing.T
	w                        *world
	doc                      string
	payload, signature, cert string
	evil                     string // the payload, with a value less
}

func newSignedDoc(t *testing.T) *signedDoc {
	t.Helper()
	d := &signedDoc{t: t, w: newWorld(t, sim.Config{}, sim.DeviceConfig{})}
	d.doc = string(d.w.c.RIMs[0])
	between := func(from, to string) string {
		i, j := strings.Index(d.doc, from), strings.LastIndex(d.doc, to)
		if i < 0 || j < i {
			t.Fatal(from, to)
		}
		return d.doc[i : j+len(to)]
	}
	d.payload = between("<ns0:Payload>", "</ns0:Payload>")
	d.signature = between("<ds:Signature ", "</ds:Signature>")
	d.cert = between("<ds:X509Certificate>", "</ds:X509Certificate>")
	d.evil = strings.Replace(d.payload, `active="True"`, `active="False"`, 1)
	return d
}

func (d *signedDoc) replace(old, with string) string {
	d.t.Helper()
	if !strings.Contains(d.doc, old) {
		d.t.Fatalf("no %q in the RIM", old)
	}
	return strings.Replace(d.doc, old, with, 1)
}

// TestXMLTricks is what has been done to signed XML, done to a RIM.
func TestXMLTricks(t *testing.T) {
	d := newSignedDoc(t)
	doc, signature, cert, evil, replace := d.doc, d.signature, d.cert, d.evil, d.replace
	const swid = `xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd"`
	for _, c := range []struct{ name, doc, words string }{
		{"document type", `<!DOCTYPE a [<!ENTITY b "c">]>` + doc, `"<!"`},
		{"comment", replace("<ns0:Entity", "<!-- x --><ns0:Entity"), `"<!"`},
		{"comment in the digest", replace("<ds:DigestValue>", "<ds:DigestValue><!---->"), `"<!"`},
		{"CDATA", replace("<ns0:Entity", "<![CDATA[ ]]><ns0:Entity"), `"<!"`},
		{"processing instruction", replace("<ns0:Entity", "<?x y?><ns0:Entity"), `"<?"`},
		{"XML declaration", `<?xml version="1.0" encoding="UTF-16"?>` + doc, `"<?"`},
		{"entity", replace(`edition="GPU"`, `edition="&#71;PU"`), `"&"`},
		{"unknown entity", replace(`edition="GPU"`, `edition="&gpu;"`), `"&"`},
		{"carriage return", replace("\n", "\r\n"), `"\r"`},
		{"tab in an attribute", replace(`revision="r1"`, "revision=\"r\t1\""), "strange attribute"},
		{"no UTF-8", replace(`revision="r1"`, "revision=\"\xff\""), "not well formed"},
		{"second root", doc + doc, "two elements"},
		{"text behind", doc + "x", "text outside"},
		{"no end", doc[:len(doc)-10], "not well formed"},
		{"other end", replace("</ns0:Payload>", "</Payload>"), "another element"},
		{"attribute twice", replace(`index="1"`, `index="1" index="2"`), "attribute \"index\" twice"},
		{
			"attribute twice by namespace",
			replace(`index="1"`, `xmlns:x="http://www.w3.org/2001/04/xmlenc#sha384" x:Hash0="00" index="1"`),
			"attribute \"Hash0\" twice",
		},
		{"attribute in another namespace", replace(`ns2:Hash0=`, `Hash0=`), "no SHA-384"},
		{"attribute beside", replace(`index="1"`, `index="1" ns2:Hash9="00"`), "8 attributes, want 7"},
		{"namespace redefined", replace(`index="1"`, `xmlns:ns2="http://elsewhere/" index="1"`), "no SHA-384"},
		{"namespace undefined", replace(`ns2:Hash0=`, `ns7:Hash0=`), "unknown prefix"},
		{"namespace emptied", replace(`index="1"`, `xmlns:ns2="" index="1"`), "namespace declaration"},
		{"xml attribute", replace(`index="1"`, `xml:base="x" index="1"`), "unknown prefix"},
		{"xml namespace", replace(`index="1"`, `xmlns:xml="x" index="1"`), "namespace declaration"},
		{"element in another namespace", replace(swid, `xmlns="http://elsewhere/"`), "at the top"},
		{"two payloads", replace("<ns0:Payload>", evil+"<ns0:Payload>"), "out of place"},
		{"payload behind", replace("</ds:Signature>", "</ds:Signature>"+evil), "out of place"},
		{
			"payload in the signature", replace("</ds:KeyInfo>", "</ds:KeyInfo><ds:Object>"+evil+"</ds:Object>"),
			"out of place",
		},
		{"payload in the payload", replace("</ns0:Payload>", evil+"</ns0:Payload>"), ""},
		{"payload in a resource", replace("></ns0:Resource>", ">"+evil+"</ns0:Resource>"), "out of place"},
		{"two signatures", replace("<ds:Signature ", signature+"<ds:Signature "), "out of place"},
		{"no signature", strings.Replace(doc, signature, "", 1), "no \"Signature\""},
		{"signature of an inner document", "<SoftwareIdentity " + swid + ">" + doc + "</SoftwareIdentity>", "out of place"},
		{"resource twice", replace(`index="2"`, `index="1"`), "measurement 1 twice"},
		{"index with a plus", replace(`index="1"`, `index="+1"`), "index"},
		{"index 64", replace(`index="1"`, `index="64"`), "index"},
		{"alternatives 0", replace(`alternatives="1"`, `alternatives="0"`), "alternatives"},
		{"alternatives 2", replace(`alternatives="1"`, `alternatives="2"`), "attributes"},
		{"active in lower case", replace(`active="True"`, `active="true"`), "active"},
		{"size 32", replace(`size="48"`, `size="32"`), "48 bytes"},
		{"reference to a part", replace(`URI=""`, `URI="#x"`), "part of the document"},
		{"reference with an id", replace(`URI=""`, `URI="" Id="x"`), "part of the document"},
		{
			"second reference", replace("</ds:SignedInfo>", `<ds:Reference URI=""></ds:Reference></ds:SignedInfo>`),
			"out of place",
		},
		{
			"no transform", replace(`<ds:Transform Algorithm="http://www.w3.org/2006/12/xml-c14n11"></ds:Transform>`, ""),
			"Transform",
		},
		{
			"third transform",
			replace("</ds:Transforms>", `<ds:Transform Algorithm="http://elsewhere/"></ds:Transform></ds:Transforms>`),
			"out of place",
		},
		{"another transform", replace("2000/09/xmldsig#enveloped-signature", "TR/1999/REC-xslt-19991116"), "Transform"},
		{"HMAC", replace("2001/04/xmldsig-more#ecdsa-sha384", "2000/09/xmldsig#hmac-sha1"), "SignatureMethod"},
		{
			"SHA-1",
			replace(`2001/04/xmldsig-more#sha384"></ds:DigestMethod>`, `2000/09/xmldsig#sha1"></ds:DigestMethod>`),
			"DigestMethod",
		},
		{
			"C14N with comments", replace("xml-c14n11\"></ds:Canon", "xml-c14n11#WithComments\"></ds:Canon"),
			"CanonicalizationMethod",
		},
		{"signature with attributes", replace("<ds:SignatureValue>", `<ds:SignatureValue Id="x">`), "attributes"},
		{"key by value", replace("<ds:X509Data>", "<ds:KeyValue></ds:KeyValue><ds:X509Data>"), "out of place"},
		{"no certificate", strings.Replace(doc, cert, "", 1), "0 elements"},
		{
			"certificate that is none", replace(cert, "<ds:X509Certificate>AAAA</ds:X509Certificate>"),
			"certificate that is none",
		},
		{"base64 with spaces", replace("<ds:DigestValue>", "<ds:DigestValue> "), "base64"},
		{"text in between", replace("<ns0:Payload>", "x<ns0:Payload>"), "text in"},
		{"deep", strings.Repeat("<a>", 100), "namespace"},
		{"deep with a namespace", strings.Repeat(`<a xmlns="b">`, 100), "deep"},
		{"wide", `<a xmlns="b">` + strings.Repeat("<c></c>", 5000), "elements"},
		{"many attributes", `<a xmlns="b"` + strings.Repeat(` c="d"`, 5000) + "/>", "attributes"},
		{"nothing", "", "no end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := nvgpu.ParseRIM([]byte(c.doc))
			wantCheck(t, err, nvgpu.CheckRIM, c.words)
		})
	}
}

// What is well formed and says something else is refused; what only spells the same in another way is not.
func TestXMLSpellings(t *testing.T) {
	d := newSignedDoc(t)
	w, replace := d.w, d.replace
	for name, doc := range map[string]string{
		"inactive":       strings.Replace(d.doc, d.payload, d.evil, 1),
		"white space":    replace("<ns0:Payload>", " <ns0:Payload>"),
		"entity renamed": replace(`name="SIMULATED"`, `name="NVIDIA"`),
		"prefix renamed": strings.ReplaceAll(d.doc, "ns0", "ns5"),
		"attribute more": replace(`revision="r1"`, `revision="r1" x="y"`),
	} {
		rim, err := nvgpu.ParseRIM([]byte(doc))
		if err != nil {
			t.Fatal(name, err)
		}
		wantCheck(t, nvgpu.VerifyRIM(rim, w.o.Roots.RIM, w.o.Now), nvgpu.CheckRIMSignature, "digest")
	}
	for name, doc := range map[string]string{
		"reference, other spelling": replace(`<ds:Reference URI="">`, `<ds:Reference URI=''>`),
		"attributes in other order": replace(`active="True" alternatives="1"`, `alternatives="1" active="True"`),
		"short end":                 replace("></ns0:Resource>", "/>"),
		"space in a tag":            replace("<ns0:Payload>", "<ns0:Payload  >"),
	} {
		rim, err := nvgpu.ParseRIM([]byte(doc))
		if err != nil {
			t.Fatal(name, err)
		}
		if err := nvgpu.VerifyRIM(rim, w.o.Roots.RIM, w.o.Now); err != nil {
			t.Errorf("%s, the same to XML: %v", name, err)
		}
	}
}

// A RIM with a byte changed is refused, or (where XML has several spellings for a thing) says what it said before.
func TestRIMFlips(t *testing.T) {
	w := newWorld(t, sim.Config{}, sim.DeviceConfig{})
	doc := w.c.RIMs[0]
	rim, err := nvgpu.ParseRIM(doc)
	if err != nil {
		t.Fatal(err)
	}
	want := nvgpu.RIMContent(rim)
	accepted := 0
	for i := 0; i < len(doc); i += 11 * min(raceStep, 3) {
		b := bytes.Clone(doc)
		b[i] ^= 1 << (i / 11 % 8)
		rim, err := nvgpu.ParseRIM(b)
		if err != nil || nvgpu.VerifyRIM(rim, w.o.Roots.RIM, w.o.Now) != nil {
			continue
		}
		accepted++
		if d := cmp.Diff(want, nvgpu.RIMContent(rim)); d != "" {
			t.Errorf("byte %d changed (%q): accepted, and says %s", i, doc[max(0, i-10):min(len(doc), i+10)], d)
		}
	}
	t.Logf("%d of %d accepted", accepted, len(doc)/11)
}

func TestErrorsAreShort(t *testing.T) {
	w := newWorld(t, sim.Config{}, sim.DeviceConfig{})
	w.device.Opaque[sim.OpaqueDriver] = bytes.Repeat([]byte("\x1b[31m"), 400)
	w.e = ask(t, w.device, w.o.Nonce)
	_, err := w.verify()
	wantCheck(t, err, nvgpu.CheckReport, "opaque field 3")
	if s := fmt.Sprint(err); len(s) > 600 || strings.Contains(s, "\x1b") {
		t.Errorf("%d bytes of error: %q", len(s), s)
	}
}
