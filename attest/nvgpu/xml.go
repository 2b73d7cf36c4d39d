package nvgpu

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Limits on a RIM. NVIDIA's have 64 measurements with up to 4 alternatives, in 18 to 26 KiB.
const (
	RIMMax   = 64 << 10 // bytes
	depthMax = 12       // elements in elements
	nodeMax  = 512      // elements
	attrMax  = 32       // attributes of one
)

// name is an XML name with its namespace resolved: what a prefix is called means nothing.
type name struct{ space, local string }

type attr struct {
	name
	prefix, value string
}

// node is an element of the small subset of XML that we take: elements, attributes, text. No comments, processing
// instructions, document types, CDATA sections, entities or character references: NVIDIA's RIMs have none, and they are
// what signed XML has been forged with.
type node struct {
	name
	prefix   string
	declared map[string]string // namespaces declared here, by prefix
	scope    map[string]string // and all that are in force
	attrs    []attr
	children []any // *node or string
}

// parseXML reads a document. Bytes that XML treats in ways of its own are refused beforehand, so that what Go's
// tokenizer hands out is what the bytes say.
func parseXML(doc []byte) (*node, error) {
	for _, bad := range []string{"&", "<!", "<?", "\r", "\x00"} {
		if bytes.Contains(doc, []byte(bad)) {
			return nil, fmt.Errorf("%q is not taken", bad)
		}
	}
	d := xml.NewDecoder(bytes.NewReader(doc))
	b := builder{}
	for {
		t, err := d.RawToken()
		switch {
		case errors.Is(err, io.EOF):
			if b.root == nil || len(b.open) > 0 {
				return nil, errors.New("no end")
			}
			return b.root, nil
		case err != nil:
			return nil, errors.New("not well formed") // the tokenizer's words repeat the document's
		}
		if err := b.add(t); err != nil {
			return nil, err
		}
	}
}

// builder makes a tree of tokens.
type builder struct {
	root  *node
	open  []*node
	nodes int
}

func (b *builder) add(t xml.Token) error {
	switch t := t.(type) {
	case xml.StartElement:
		return b.start(t)
	case xml.EndElement:
		if len(b.open) == 0 {
			return errors.New("an end without a start")
		}
		if n := b.open[len(b.open)-1]; t.Name.Space != n.prefix || t.Name.Local != n.local {
			return errors.New("the end of another element")
		}
		b.open = b.open[:len(b.open)-1]
	case xml.CharData:
		if len(b.open) == 0 {
			if len(bytes.TrimSpace(t)) > 0 {
				return errors.New("text outside of the element")
			}
			return nil
		}
		n := b.open[len(b.open)-1]
		n.children = append(n.children, string(t))
	default:
		return fmt.Errorf("%T is not taken", t)
	}
	return nil
}

func (b *builder) start(t xml.StartElement) error {
	if b.nodes++; b.nodes > nodeMax || len(b.open) == depthMax || len(t.Attr) > attrMax {
		return fmt.Errorf("more than %d elements, %d deep, or %d attributes", nodeMax, depthMax, attrMax)
	}
	n := &node{prefix: t.Name.Space, declared: map[string]string{}, scope: map[string]string{}}
	n.local = t.Name.Local
	if len(b.open) > 0 {
		parent := b.open[len(b.open)-1]
		parent.children = append(parent.children, n)
		n.scope = parent.scope
	} else if b.root != nil {
		return errors.New("two elements at the top")
	} else {
		b.root = n
	}
	if err := n.declare(t.Attr); err != nil {
		return err
	}
	if err := n.resolve(t.Attr); err != nil {
		return err
	}
	b.open = append(b.open, n)
	return nil
}

// declare reads the namespace declarations.
func (n *node) declare(attrs []xml.Attr) error {
	for _, a := range attrs {
		prefix, is := namespace(a)
		if !is {
			continue
		}
		if _, again := n.declared[prefix]; again || a.Value == "" || prefix == "xml" || prefix == "xmlns" ||
			strings.Contains(prefix, ":") || strings.ContainsAny(a.Value, "\t\n <>\"") {
			return errors.New("a strange namespace declaration")
		}
		n.declared[prefix] = a.Value
	}
	if len(n.declared) > 0 {
		n.scope = maps.Clone(n.scope)
		maps.Copy(n.scope, n.declared)
	}
	return nil
}

func namespace(a xml.Attr) (prefix string, is bool) {
	if a.Name.Space == "xmlns" {
		return a.Name.Local, true
	}
	return "", a.Name.Space == "" && a.Name.Local == "xmlns"
}

// resolve looks up the names of the element and its attributes.
func (n *node) resolve(attrs []xml.Attr) error {
	var known bool
	if n.space, known = n.scope[n.prefix]; !known || strings.Contains(n.local, ":") {
		return errors.New("an element without a namespace")
	}
	for _, x := range attrs {
		if _, is := namespace(x); is {
			continue
		}
		a := attr{name{"", x.Name.Local}, x.Name.Space, x.Value}
		if a.prefix != "" { // the default namespace is not one of attributes
			if a.space, known = n.scope[a.prefix]; !known {
				return errors.New("an attribute with an unknown prefix")
			}
		}
		if strings.Contains(a.local, ":") || strings.ContainsAny(a.value, "\t\n") {
			return errors.New("a strange attribute")
		}
		if slices.ContainsFunc(n.attrs, func(o attr) bool { return o.name == a.name }) {
			return fmt.Errorf("attribute %s twice", quote(a.local))
		}
		n.attrs = append(n.attrs, a)
	}
	return nil
}

// canonical writes the node in Canonical XML 1.1, as if skip weren't there. Entities, comments, xml: attributes and
// default attributes, which the standard has rules for, don't get past the parser.
func canonical(w *bytes.Buffer, n *node, rendered map[string]string, skip *node) {
	tag := n.local
	if n.prefix != "" {
		tag = n.prefix + ":" + tag
	}
	w.WriteString("<" + tag)
	out := make(map[string]string, len(n.scope))
	maps.Copy(out, rendered)
	for _, prefix := range slices.Sorted(maps.Keys(n.scope)) {
		uri := n.scope[prefix]
		if had, ok := rendered[prefix]; ok && had == uri {
			continue
		}
		out[prefix] = uri
		if prefix == "" {
			writeAttr(w, "xmlns", uri)
		} else {
			writeAttr(w, "xmlns:"+prefix, uri)
		}
	}
	attrs := slices.SortedFunc(slices.Values(n.attrs), func(a, b attr) int {
		return strings.Compare(a.space+"\x00"+a.local, b.space+"\x00"+b.local)
	})
	for _, a := range attrs {
		if a.prefix == "" {
			writeAttr(w, a.local, a.value)
		} else {
			writeAttr(w, a.prefix+":"+a.local, a.value)
		}
	}
	w.WriteString(">")
	for _, c := range n.children {
		switch c := c.(type) {
		case string:
			w.WriteString(strings.ReplaceAll(c, ">", "&gt;")) // & and < can't be in it
		case *node:
			if c != skip {
				canonical(w, c, out, skip)
			}
		}
	}
	w.WriteString("</" + tag + ">")
}

// writeAttr needs to escape quotes only: the parser takes no ampersand, no control characters and, for XML forbids it,
// no "<" in values.
func writeAttr(w *bytes.Buffer, name, value string) {
	w.WriteString(" " + name + `="` + strings.ReplaceAll(value, `"`, "&quot;") + `"`)
}

// only returns the node's children, which have to be exactly these elements, in this order, and white space.
func (n *node) only(want ...name) ([]*node, error) {
	var got []*node
	for _, c := range n.children {
		switch c := c.(type) {
		case *node:
			if len(got) == len(want) || c.name != want[len(got)] {
				return nil, fmt.Errorf("%s in %s is out of place", quote(c.local), quote(n.local))
			}
			got = append(got, c)
		case string:
			if strings.TrimSpace(c) != "" {
				return nil, fmt.Errorf("text in %s", quote(n.local))
			}
		}
	}
	if len(got) < len(want) {
		return nil, fmt.Errorf("no %s in %s", quote(want[len(got)].local), quote(n.local))
	}
	return got, nil
}

// repeated returns the node's children, one or more up to most, all of one name.
func (n *node) repeated(want name, most int) ([]*node, error) {
	count := 0
	for _, c := range n.children {
		if _, is := c.(*node); is {
			count++
		}
	}
	if count < 1 || count > most {
		return nil, fmt.Errorf("%d elements in %s, want 1 to %d", count, quote(n.local), most)
	}
	return n.only(slices.Repeat([]name{want}, count)...)
}

// text returns the text of an element that has nothing else.
func (n *node) text() (string, error) {
	var b strings.Builder
	for _, c := range n.children {
		s, ok := c.(string)
		if !ok {
			return "", fmt.Errorf("an element in %s", quote(n.local))
		}
		b.WriteString(s)
	}
	if len(n.attrs) > 0 {
		return "", fmt.Errorf("attributes of %s", quote(n.local))
	}
	return b.String(), nil
}

// base64 decodes the text of an element: standard alphabet, padded, line breaks and nothing else in between.
func (n *node) base64() ([]byte, error) {
	s, err := n.text()
	if err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.Strict().DecodeString(strings.ReplaceAll(s, "\n", ""))
	if err != nil {
		return nil, fmt.Errorf("%s is not base64", quote(n.local))
	}
	return b, nil
}

// attr returns an attribute's value, or nothing.
func (n *node) attr(space, local string) string {
	for _, a := range n.attrs {
		if a.name == (name{space, local}) {
			return a.value
		}
	}
	return ""
}

// algorithm wants the node to have that one attribute and no content.
func (n *node) algorithm(want string) error {
	if got := n.attr("", "Algorithm"); got != want || len(n.attrs) != 1 || len(n.children) != 0 {
		return fmt.Errorf("%s is %s, want %s", quote(n.local), quote(got), want)
	}
	return nil
}
