package device

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/attest"
	"cocoon/attest/snp"
)

type entry struct {
	guid string
	blob []byte
}

// table lays entries out as a host does.
func table(entries ...entry) []byte {
	var head, body []byte
	start := entrySize * (len(entries) + 1)
	for _, e := range entries {
		guid, err := hex.DecodeString(e.guid)
		if err != nil {
			panic(err)
		}
		head = append(head, guid...)
		head = binary.LittleEndian.AppendUint32(head, uint32(start+len(body)))
		head = binary.LittleEndian.AppendUint32(head, uint32(len(e.blob)))
		body = append(body, e.blob...)
	}
	return append(append(head, make([]byte, entrySize)...), body...)
}

func TestTable(t *testing.T) {
	w := newSNP(t)
	ark, ask, asvk := w.chain.ARK, w.chain.ASK, w.chain.ASVK
	crl, err := w.auth.CRL(crlConfig())
	if err != nil {
		t.Fatal(err)
	}
	toPEM := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	vcek, vlek := w.key(t, snp.VCEK), w.key(t, snp.VLEK)
	key := func(der []byte) attest.Item { return attest.Item{Kind: attest.SNPKey, Data: der} }
	chain := func(c attest.SNPChainItem) attest.Item {
		c.Line, c.ARK = snp.Genoa, ark
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return attest.Item{Kind: attest.SNPChain, Data: text}
	}
	unknown := entry{strings.Repeat("ab", 16), []byte("anything")}
	for name, c := range map[string]struct {
		table []byte
		want  []attest.Item
	}{
		"no bytes":   {nil, nil},
		"no entries": {make([]byte, 4096), nil},
		"key":        {table(entry{guidVCEK, vcek}), []attest.Item{key(vcek)}},
		"without root": {
			table(entry{guidVCEK, vcek}, entry{guidASK, ask}), []attest.Item{key(vcek)},
		},
		"chain without key": {table(entry{guidARK, ark}, entry{guidASK, ask}), nil},
		"VCEK": {
			append(table(entry{guidARK, ark}, entry{guidASK, ask}, unknown, entry{guidVCEK, vcek}), make([]byte, 1000)...),
			[]attest.Item{key(vcek), chain(attest.SNPChainItem{ASK: ask})},
		},
		"VLEK": {
			table(entry{guidVLEK, vlek}, entry{guidASK, asvk}, entry{guidARK, ark}),
			[]attest.Item{key(vlek), chain(attest.SNPChainItem{ASVK: asvk})},
		},
		"PEM, with a list": {
			table(entry{guidVCEK, toPEM("CERTIFICATE", vcek)}, entry{guidASK, toPEM("CERTIFICATE", ask)},
				entry{guidARK, append(toPEM("CERTIFICATE", ark), 0)}, entry{guidCRL, toPEM("X509 CRL", crl)}),
			[]attest.Item{key(vcek), chain(attest.SNPChainItem{ASK: ask, CRLs: [][]byte{crl}})},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseTable(c.table)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(c.want) {
				t.Fatalf("%d items, want %d", len(got), len(c.want))
			}
			for i := range got {
				if got[i].Kind != c.want[i].Kind || !bytes.Equal(got[i].Data, c.want[i].Data) {
					t.Errorf("item %d: got %s %.80q, want %s %.80q", i, got[i].Kind, got[i].Data, c.want[i].Kind, c.want[i].Data)
				}
			}
		})
	}
}

func TestTableRefused(t *testing.T) {
	w := newSNP(t)
	vcek := w.key(t, snp.VCEK)
	good := table(entry{guidVCEK, vcek})
	edit := func(at int, n uint32) []byte {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint32(b[at:], n)
		return b
	}
	var many []entry
	for i := range entriesMax + 1 {
		many = append(many, entry{hex.EncodeToString(bytes.Repeat([]byte{byte(i + 1)}, 16)), []byte("x")})
	}
	twoBlocks := bytes.Repeat(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: vcek}), 2)
	for name, c := range map[string]struct {
		table []byte
		want  string
	}{
		"huge":                  {make([]byte, tableMax+1), "65537 bytes, at most 65536"},
		"one byte":              {[]byte{0}, "without end"},
		"no end":                {good[:entrySize], "without end"},
		"half an end":           {good[:2*entrySize-1], "without end"},
		"truncated":             {good[:len(good)-1], "not within"},
		"offset into head":      {edit(16, 47), "not within 48"},
		"offset beyond":         {edit(16, 1<<31), "not within"},
		"length zero":           {edit(20, 0), "0 bytes"},
		"sum wraps at 32 bits":  {edit(20, 0xffffffff), "not within"},
		"end with a length":     {edit(entrySize+20, 1), "without a GUID"},
		"twice":                 {table(entry{guidVCEK, vcek}, entry{guidVCEK, vcek}), "twice, or too many"},
		"many":                  {table(many...), "twice, or too many"},
		"key of garbage":        {table(entry{guidVCEK, []byte("garbage")}), "endorsement key"},
		"key is the root":       {table(entry{guidVLEK, w.chain.ARK}), "endorsement key"},
		"two PEM blocks":        {table(entry{guidVCEK, twoBlocks}), "one PEM block"},
		"PEM of something else": {table(entry{guidVCEK, []byte("-----BEGIN X-----\n-----END X-----\n")}), "one PEM block"},
		"intermediate of garbage": {
			table(entry{guidVCEK, vcek}, entry{guidARK, w.chain.ARK}, entry{guidASK, []byte("garbage")}), "ASK",
		},
		"list of garbage": {
			table(entry{guidVCEK, vcek}, entry{guidARK, w.chain.ARK}, entry{guidASK, w.chain.ASK},
				entry{guidCRL, []byte("-----BEGIN")}), "revocation list",
		},
	} {
		t.Run(name, func(t *testing.T) {
			items, err := parseTable(c.table)
			if err == nil || !strings.Contains(err.Error(), c.want) || items != nil {
				t.Errorf("got %d items, %v, want %s", len(items), err, c.want)
			}
		})
	}
	for n := range len(good) {
		if items, err := parseTable(good[:n]); n > 0 && (err == nil || items != nil) {
			t.Fatalf("%d bytes of %d: got %d items, %v", n, len(good), len(items), err)
		}
	}
}

// TestTableOfAMD reads certificates of real hardware.
func TestTableOfAMD(t *testing.T) {
	vcek, err := os.ReadFile(filepath.Join(vectorFolder(t), "sev", "vectors", "ms_genoa.vcek.der"))
	if err != nil {
		t.Skip("no real certificate here:", err)
	}
	endorsements, err := snp.AMDEndorsements()
	if err != nil {
		t.Fatal(err)
	}
	c := endorsements[snp.Genoa]
	items, err := parseTable(table(entry{guidVCEK, vcek}, entry{guidASK, c.ASK}, entry{guidARK, c.ARK}))
	if err != nil || len(items) != 2 {
		t.Fatalf("got %d items, %v", len(items), err)
	}
	var chain attest.SNPChainItem
	if err := json.Unmarshal(items[1].Data, &chain); err != nil {
		t.Fatal(err)
	}
	if chain.Line != snp.Genoa || !bytes.Equal(chain.ARK, c.ARK) || !bytes.Equal(chain.ASK, c.ASK) || chain.ASVK != nil {
		t.Error("the chain is not what went in")
	}
}

func FuzzTable(f *testing.F) {
	w := newSNP(f)
	vcek := w.key(f, snp.VCEK)
	f.Add(table(entry{guidVCEK, vcek}, entry{guidARK, w.chain.ARK}, entry{guidASK, w.chain.ASK}))
	f.Add(table(entry{guidVCEK, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: vcek})}))
	f.Add(make([]byte, entrySize))
	f.Fuzz(func(t *testing.T, b []byte) {
		items, err := parseTable(b)
		if err != nil && items != nil {
			t.Error("items and an error")
		}
		for _, i := range items {
			if i.Kind == attest.SNPKey {
				if _, err := snp.ParseEndorsementKey(i.Data); err != nil {
					t.Error(err)
				}
			}
		}
	})
}
