package receipt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// batch is n receipts of as many requests, with one signature.
func batch(t testing.TB, n int) []*Signed {
	t.Helper()
	var rs []Receipt
	for i := range n {
		r := sample()
		r.Request = fmt.Sprintf("req_%032x", i)
		r.Req, r.Resp = sha256.Sum256([]byte{1, byte(i)}), sha256.Sum256([]byte{2, byte(i)})
		rs = append(rs, r)
	}
	all, err := SignBatch(rs, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// parseEvent reads into one that has been used before.
func parseEvent(data []byte) (*Signed, error) {
	s := &Signed{Receipt: longest(), id: sum(1), place: place{index: 1, size: 2, path: []Digest{sum(3)}}}
	s.Request, s.Seq = sample().Request, 7
	if err := s.ParseEvent(data); err != nil {
		return nil, err
	}
	return s, nil
}

// same tells whether two are one receipt, with one signature and place.
func same(a, b *Signed) bool {
	return a.Receipt == b.Receipt && a.id == b.id && bytes.Equal(a.Wire(), b.Wire())
}

// hashes are of a tree as package tlog reads it.
type hashes []tlog.Hash

func (h hashes) ReadHashes(indexes []int64) (list []tlog.Hash, err error) {
	for _, i := range indexes {
		list = append(list, h[i])
	}
	return list, nil
}

// The tree is the one that everybody knows: package tlog comes to the same paths, and the root is what is signed.
func TestBatchTree(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 32, 33, 100} {
		all := batch(t, n)
		var tree hashes
		for i, s := range all {
			id := s.ID()
			more, err := tlog.StoredHashes(int64(i), id[:], tree)
			if err != nil {
				t.Fatal(err)
			}
			tree = append(tree, more...)
		}
		root, err := tlog.TreeHash(int64(n), tree)
		if err != nil {
			t.Fatal(err)
		}
		over := batchDigest(n, Digest(root))
		if n == 1 {
			over = all[0].ID()
		}
		for i, s := range all {
			wire := string(s.Wire())
			line := ""
			if n > 1 {
				line = fmt.Sprintf("batch index %d size %d path", i, n)
				path, err := tlog.ProveRecord(int64(n), int64(i), tree)
				if err != nil {
					t.Fatal(err)
				}
				for _, h := range path {
					line += " " + Digest(h).String()
				}
				line += "\n"
			}
			if _, rest, _ := strings.Cut(wire, string(s.append(nil))); !strings.HasPrefix(rest, line+"signature ") {
				t.Fatalf("%d of %d: got %q, want %q", i, n, rest, line)
			}
			back, err := Parse([]byte(wire))
			if err != nil || back.over() != over || back.ID() != s.ID() || back.Verify(public(testKey(1))) != nil || !same(back, s) {
				t.Fatalf("%d of %d: %v", i, n, err)
			}
			if !ed25519.Verify(public(testKey(1)), over[:], back.signature[:]) {
				t.Fatalf("%d of %d: it is not the root that is signed", i, n)
			}
		}
	}
}

func rootOfTwo(a, b Digest) Digest {
	a, b = leaf(a), leaf(b)
	return node(&a, &b)
}

func TestBatchGolden(t *testing.T) {
	want := batchDigest(2, rootOfTwo(sum(1), sum(2))).String()
	if got := "073b26db0317a33f8f52eeaff2d9b4228219c5095420c0fbf5e8d79fb2cbfd5f"; got != want {
		t.Errorf("what is signed has changed: %s, want %s", got, want)
	}
}

func TestSignBatchRefused(t *testing.T) {
	bad := sample()
	bad.Cost++
	worse := sample()
	worse.Model = ""
	for name, rs := range map[string][]Receipt{
		"none": {}, "too many": make([]Receipt, BatchMax+1), "wrong sum": {sample(), bad}, "no model": {worse, sample()},
	} {
		if all, err := SignBatch(rs, testKey(1)); err == nil || all != nil {
			t.Errorf("%s: %v, %v", name, all, err)
		}
	}
}

// Each byte of a receipt in a batch counts, also of its place there.
func TestBatchEveryByte(t *testing.T) {
	for _, s := range []*Signed{batch(t, 3)[2], batch(t, 5)[1]} {
		v := NewVerifier(public(testKey(1)))
		if err := v.Verify(s); err != nil {
			t.Fatal(err)
		}
		wire := s.Wire()
		for i := range wire {
			for _, bit := range []int{0, 1, 5, 7} { // a neighbour, another, the other case, no ASCII
				b := bytes.Clone(wire)
				b[i] ^= 1 << bit
				if got, err := Parse(b); err == nil && v.Verify(got) == nil {
					t.Fatalf("byte %d, bit %d: passes", i, bit)
				}
			}
			if got, err := Parse(append(bytes.Clone(wire[:i]), wire[i+1:]...)); err == nil && v.Verify(got) == nil {
				t.Fatalf("without byte %d: passes", i)
			}
		}
	}
}

// A place has one spelling, and one reading.
func TestBatchSpelling(t *testing.T) {
	s, other := batch(t, 5)[2], batch(t, 5)[3]
	wire := string(s.Wire())
	line := regexp.MustCompile(`batch .*\n`).FindString(wire)
	path := line[strings.Index(line, "path ")+5 : len(line)-1]
	parts := strings.Split(path, " ")
	if len(parts) != 3 {
		t.Fatal(line)
	}
	for name, text := range map[string]string{
		"two lines":       line + line,
		"no path":         "batch index 2 size 5 path\n",
		"short path":      "batch index 2 size 5 path " + strings.Join(parts[:2], " ") + "\n",
		"long path":       "batch index 2 size 5 path " + path + " " + parts[0] + "\n",
		"blank after":     "batch index 2 size 5 path " + path + " \n",
		"two blanks":      "batch index 2 size 5 path  " + path + "\n",
		"capitals":        "batch index 2 size 5 path " + strings.ToUpper(path) + "\n",
		"a zero before":   "batch index 02 size 5 path " + path + "\n",
		"a sign":          "batch index +2 size 5 path " + path + "\n",
		"index as size":   "batch index 5 size 5 path " + path + "\n",
		"negative":        "batch index -1 size 5 path " + path + "\n",
		"size 1":          "batch index 0 size 1 path\n",
		"size 0":          "batch index 0 size 0 path\n",
		"huge size":       "batch index 2 size 4097 path " + path + "\n",
		"endless size":    "batch index 2 size 18446744073709551616 path " + path + "\n",
		"carriage return": line[:len(line)-1] + "\r\n",
		"something else":  "keyset e30=\n",
		"empty line":      "\n",
	} {
		if got, err := Parse([]byte(strings.Replace(wire, line, text, 1))); !errors.Is(err, ErrForm) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	v := NewVerifier(public(testKey(1)))
	for name, text := range map[string]string{
		"none":          "",
		"another index": "batch index 1 size 5 path " + path + "\n",
		"another size":  "batch index 2 size 6 path " + path + "\n", // the same shape, and the same root
		"bigger":        "batch index 2 size 8 path " + path + "\n",
		"another's":     regexp.MustCompile(`batch .*\n`).FindString(string(other.Wire())),
		"swapped":       "batch index 2 size 5 path " + parts[1] + " " + parts[0] + " " + parts[2] + "\n",
	} {
		got, err := Parse([]byte(strings.Replace(wire, line, text, 1)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if err := v.Verify(got); !errors.Is(err, ErrSignature) || got.ID() != s.ID() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A signature of a batch is none of a receipt, and the other way round.
func TestBatchNoID(t *testing.T) {
	all := batch(t, 2)
	single := mustSign(t, all[0].Receipt)
	end := func(s *Signed) string { return string(s.Wire()[len(s.Wire())-signatureLine:]) }
	mixed := strings.Replace(string(all[0].Wire()), end(all[0]), end(single), 1)
	if s, err := Parse([]byte(mixed)); err != nil || !errors.Is(s.Verify(public(testKey(1))), ErrSignature) {
		t.Errorf("%v, %v", s, err)
	}
	if single.ID() != all[0].ID() || single.ID() != single.Receipt.ID() {
		t.Error("the ID hangs on the signature")
	}
}

func TestVerifier(t *testing.T) {
	v := NewVerifier(public(testKey(1)))
	all := batch(t, 8)
	var wg sync.WaitGroup
	for _, s := range all {
		wg.Go(func() {
			if err := v.Verify(s); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(v.verified) != 1 {
		t.Errorf("%d batches are remembered, want 1", len(v.verified))
	}
	forged := *all[3]
	forged.signature[5]++
	if err := v.Verify(&forged); !errors.Is(err, ErrSignature) {
		t.Errorf("another signature over a root that verified: %v", err)
	}
	if err := NewVerifier(public(testKey(2))).Verify(all[0]); !errors.Is(err, ErrSignature) {
		t.Errorf("another key: %v", err)
	}
	for range 2 {
		if err := v.Verify(mustSign(t, sample())); err != nil {
			t.Error(err)
		}
	}
	if len(v.verified) != 1 {
		t.Errorf("%d batches are remembered: what failed, or a receipt by itself", len(v.verified))
	}
	for i := range 3 * verifiedMax { // the oldest go, and come again
		r := sample()
		r.Start -= int64(i)
		pair, err := SignBatch([]Receipt{r, sample()}, testKey(1))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(v.Verify(pair[0]), v.Verify(pair[1])); err != nil {
			t.Fatal(err)
		}
	}
	if len(v.verified) != verifiedMax || v.knows(verified{all[0].over(), all[0].signature}) || v.Verify(all[0]) != nil {
		t.Errorf("%d batches are remembered, want %d, the last ones", len(v.verified), verifiedMax)
	}
}

func TestIs(t *testing.T) {
	for _, s := range append(batch(t, 2), mustSign(t, sample())) {
		if wire := s.Wire(); !Is(wire) || !Is(wire[:len(wire)-1]) || Is(wire[1:]) {
			t.Errorf("%s", wire)
		}
	}
	for _, text := range []string{"", "cocoon-receipt/v1", "cocoon-receipt/v2\n", ` cocoon-receipt/v1\n`, `{"id":1}`} {
		if Is([]byte(text)) {
			t.Errorf("%q", text)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	for _, n := range []int{1, 32} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var rs []Receipt
			for _, s := range batch(b, n) {
				rs = append(rs, s.Receipt)
			}
			key := testKey(1)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := SignBatch(rs, key); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/receipt")
		})
	}
}

// BenchmarkVerify is what a gateway does with a receipt.
func BenchmarkVerify(b *testing.B) {
	for _, n := range []int{1, 32} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var wires [][]byte
			for _, s := range batch(b, n) {
				wires = append(wires, s.Wire())
			}
			key, terms := public(testKey(1)), agreed()
			b.ReportAllocs()
			for b.Loop() {
				v := NewVerifier(key)
				for _, wire := range wires {
					s, err := Parse(wire)
					if err != nil || v.Verify(s) != nil {
						b.Fatal(err)
					}
					terms.Request = s.Request
					if err := s.Check(terms); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/receipt")
		})
	}
}

func BenchmarkParse(b *testing.B) {
	var wires [][]byte
	for _, s := range batch(b, 32) {
		wires = append(wires, s.Wire())
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := Parse(wires[i%len(wires)]); err != nil {
			b.Fatal(err)
		}
	}
}
