package tdx_test

import (
	"encoding/asn1"
	"slices"
	"testing"

	"cocoon/attest/tdx"
)

// part is one pair of an SGX extension.
type part struct {
	ID    asn1.ObjectIdentifier
	Value any
}

func oid(tail ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}, tail...)
}

// tcbParts are the TCB of a sound extension.
func tcbParts() []part {
	var all []part
	for i := range 16 {
		all = append(all, part{oid(2, i+1), i})
	}
	return append(all, part{oid(2, 17), 1000}, part{oid(2, 18), make([]byte, 16)})
}

// parts are a sound extension.
func parts() []part {
	return []part{
		{oid(1), make([]byte, 16)},
		{oid(2), tcbParts()},
		{oid(3), []byte{0, 1}},
		{oid(4), []byte{1, 2, 3, 4, 5, 6}},
		{oid(5), asn1.Enumerated(1)},
		{oid(6), make([]byte, 16)},
		{oid(7), []part{{oid(7, 1), true}, {oid(7, 3), false}}},
	}
}

func encode(tb testing.TB, v any) []byte {
	tb.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

func TestPCKExtension(t *testing.T) {
	p, err := tdx.ReadExtension(encode(t, parts()))
	if err != nil {
		t.Fatal(err)
	}
	if p.FMSPC != [6]byte{1, 2, 3, 4, 5, 6} || p.PCEID != [2]byte{0, 1} || p.PCESVN != 1000 || p.CPUSVN[15] != 15 ||
		p.Type != tdx.SGXScalable || !p.HasInstance || p.Dynamic == nil || !*p.Dynamic || p.CachedKeys != nil ||
		p.SMT == nil || *p.SMT {
		t.Errorf("got %+v", p)
	}
	put := func(i int, v any) []part {
		all := parts()
		all[i].Value = v
		return all
	}
	tcb := func(i int, v any) []part {
		all := tcbParts()
		all[i].Value = v
		return put(1, all)
	}
	for name, bad := range map[string]any{
		"empty":                     []part{},
		"no sequence":               7,
		"no PPID":                   parts()[1:],
		"no TCB":                    slices.Delete(parts(), 1, 2),
		"no PCE ID":                 slices.Delete(parts(), 2, 3),
		"no FMSPC":                  slices.Delete(parts(), 3, 4),
		"no type":                   slices.Delete(parts(), 4, 5),
		"FMSPC twice":               append(parts(), parts()[3]),
		"foreign part":              append(parts(), part{asn1.ObjectIdentifier{1, 2, 3}, 1}),
		"short PPID":                put(0, make([]byte, 15)),
		"long FMSPC":                put(3, make([]byte, 7)),
		"PCE ID as a number":        put(2, 1),
		"unknown type":              put(4, asn1.Enumerated(3)),
		"negative type":             put(4, asn1.Enumerated(-1)),
		"type as a number":          put(4, 1),
		"short instance":            put(5, make([]byte, 2)),
		"flag as a number":          put(6, []part{{oid(7, 1), 1}}),
		"flag twice":                put(6, []part{{oid(7, 1), true}, {oid(7, 1), true}}),
		"configuration as a number": put(6, 1),
		"component of 256":          tcb(0, 256),
		"negative component":        tcb(3, -1),
		"component as octets":       tcb(15, []byte{1}),
		"PCESVN of 65536":           tcb(16, 65536),
		"huge PCESVN":               tcb(16, int64(1)<<62),
		"short CPUSVN":              tcb(17, make([]byte, 15)),
		"component missing":         put(1, tcbParts()[1:]),
		"component twice":           put(1, append(tcbParts(), tcbParts()[0])),
		"TCB as a number":           put(1, 1),
	} {
		t.Run(name, func(t *testing.T) {
			if p, err := tdx.ReadExtension(encode(t, bad)); err == nil {
				t.Errorf("taken: %+v", p)
			}
		})
	}
	if _, err := tdx.ReadExtension(append(encode(t, parts()), 0)); err == nil {
		t.Error("a byte after the extension was taken")
	}
	if _, err := tdx.ReadExtension(encode(t, append(parts(), part{oid(8), 1}))); err != nil {
		t.Errorf("with a part that Intel may add: %v", err)
	}
}
