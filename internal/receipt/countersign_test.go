package receipt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// singles are n receipts of as many requests, as batch has them, each with a signature of its own.
func singles(t testing.TB, n int) (rs []Receipt, all []*Signed) {
	t.Helper()
	for i := range n {
		r := sample()
		r.Request = fmt.Sprintf("req_%032x", i)
		r.Req, r.Resp = sha256.Sum256([]byte{1, byte(i)}), sha256.Sum256([]byte{2, byte(i)})
		rs, all = append(rs, r), append(all, mustSign(t, r))
	}
	return rs, all
}

// copies are of receipts that are to stay what they are.
func copies(rs []*Signed) (all []*Signed) {
	for _, s := range rs {
		c := *s
		all = append(all, &c)
	}
	return all
}

func idsOf(rs []*Signed) (ids []Digest) {
	for _, s := range rs {
		ids = append(ids, s.ID())
	}
	return ids
}

func mustSignIDs(t testing.TB, rs []*Signed) [ed25519.SignatureSize]byte {
	t.Helper()
	signature, err := SignIDs(idsOf(rs), testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

// What a worker signs again is what it would have signed as a batch at once, to the byte, whatever signatures there were
// before; and each receipt is good by itself.
func TestShare(t *testing.T) {
	for _, n := range []int{2, 3, 5, 8, 31, 100} {
		rs, all := singles(t, n)
		want, err := SignBatch(rs, testKey(1))
		if err != nil {
			t.Fatal(err)
		}
		copy(all, batch(t, 3)[:2]) // some had shared another one
		for i, s := range all {    // as they come to a gateway
			if all[i], err = parseEvent(bytes.TrimSuffix(s.Wire(), []byte("\n"))); err != nil {
				t.Fatal(err)
			}
		}
		v := NewVerifier(public(testKey(1)))
		shared := copies(all)
		if err := v.Share(shared, mustSignIDs(t, all)); err != nil {
			t.Fatalf("%d: %v", n, err)
		}
		again := copies(shared)
		if err := v.Share(again, mustSignIDs(t, shared)); err != nil { // it may be asked again
			t.Fatal(err)
		}
		for i, s := range shared {
			wire := s.Wire()
			back, err := Parse(wire)
			if err != nil || !same(back, want[i]) || !bytes.Equal(wire, want[i].Wire()) || !bytes.Equal(wire, again[i].Wire()) {
				t.Fatalf("%d of %d: %v\n%s", i, n, err, wire)
			}
			if s.ID() != all[i].ID() || s.Receipt != all[i].Receipt || !bytes.Equal(s.Append([]byte("x"))[1:], wire) {
				t.Fatalf("%d of %d is another receipt", i, n)
			}
			if kept, err := ParseRecord(s.AppendRecord(nil)); err != nil || !same(kept, s) || v.Verify(kept) != nil {
				t.Fatalf("%d of %d as a record: %v", i, n, err)
			}
			if errors.Join(back.Verify(public(testKey(1))), s.Verify(public(testKey(1))), v.Verify(s)) != nil {
				t.Fatalf("%d of %d does not verify", i, n)
			}
			item := Item{Signed: s, Keyset: []byte("{}")}
			if items, err := Read(item.Append(nil)); err != nil || items[0].Verify(public(testKey(1))) != nil {
				t.Fatalf("%d of %d in a file: %v", i, n, err)
			}
		}
	}
}

// unsigned is the receipt with a signature of noise, in a batch also with a path of noise.
func unsigned(t *testing.T, s *Signed) *Signed {
	t.Helper()
	wire := s.Wire()
	i := bytes.Index(wire, []byte(signatureHead)) + len(signatureHead)
	copy(wire[i:], strings.Repeat("Abc+", 8))
	if i := bytes.Index(wire, []byte(" path ")); i > 0 {
		copy(wire[i+6:], strings.Repeat("0123", 8))
	}
	noise, err := Parse(wire)
	if err != nil || noise.Verify(public(testKey(1))) == nil {
		t.Fatalf("%v: %s", err, wire)
	}
	return noise
}

// A receipt that nobody signed passes by no signature but one over its very ID, in its place.
func TestShareForged(t *testing.T) {
	_, all := singles(t, 5)
	key := NewVerifier(public(testKey(1)))
	good := mustSignIDs(t, all)
	noise := slices.Clone(all)
	noise[2], noise[3] = unsigned(t, all[2]), unsigned(t, batch(t, 5)[3])
	shared := copies(noise)
	if err := key.Share(shared, good); err != nil {
		t.Fatal(err)
	}
	for i, s := range shared { // the worker has signed them, now
		if err := s.Verify(public(testKey(1))); err != nil || s.ID() != all[i].ID() {
			t.Errorf("%d: %v", i, err)
		}
	}
	other := sample()
	other.Req = sum(77)
	forged := slices.Clone(all)
	forged[2] = unsigned(t, mustSign(t, other))
	swapped := slices.Clone(all)
	swapped[0], swapped[1] = swapped[1], swapped[0]
	changed := good
	changed[7]++
	of := func(rs ...*Signed) [ed25519.SignatureSize]byte { return mustSignIDs(t, rs) }
	single := [ed25519.SignatureSize]byte(ed25519.Sign(testKey(1), all[0].id[:]))
	for name, c := range map[string]struct {
		v         *Verifier
		rs        []*Signed
		signature [ed25519.SignatureSize]byte
	}{
		"one forged":       {key, forged, good},
		"another order":    {key, swapped, good},
		"one less":         {key, all[:4], good},
		"one more":         {key, append(slices.Clone(all), all[0]), good},
		"signed one less":  {key, all, of(all[:4]...)},
		"signed others":    {key, all, of(forged...)},
		"no signature":     {key, all, [ed25519.SignatureSize]byte{}},
		"a bit":            {key, all, changed},
		"of one":           {key, all, single},
		"one":              {key, all[:1], single},
		"none":             {key, nil, good},
		"too many":         {key, slices.Repeat(all[:1], BatchMax+1), good},
		"another key":      {NewVerifier(public(testKey(2))), all, good},
		"no key":           {NewVerifier(nil), all, good},
		"a key of garbage": {NewVerifier(make([]byte, 5)), all, good},
	} {
		rs := copies(c.rs)
		if err := c.v.Share(rs, c.signature); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
		for i, s := range rs {
			if !same(s, c.rs[i]) {
				t.Errorf("%s: receipt %d has changed", name, i)
			}
		}
	}
}

func TestSignIDsRefused(t *testing.T) {
	for _, n := range []int{0, 1, BatchMax + 1} {
		if signature, err := SignIDs(make([]Digest, n), testKey(1)); err == nil || signature != [ed25519.SignatureSize]byte{} {
			t.Errorf("%d: signed", n)
		}
	}
	if _, err := SignIDs(make([]Digest, BatchMax), testKey(1)); err != nil {
		t.Error(err)
	}
}

func TestCountersignBody(t *testing.T) {
	_, all := singles(t, 5)
	body := CountersignBody(sum(9), all)
	keyset, ids, err := ParseCountersign(body)
	if err != nil || keyset != sum(9) || !slices.Equal(ids, idsOf(all)) {
		t.Errorf("%v, %v, %v", keyset, ids, err)
	}
	if want := append(bytes.Clone(keyset[:]), all[0].id[:]...); !bytes.HasPrefix(body, want) || len(body) != 6*32 {
		t.Errorf("the form has changed: %x", body)
	}
	for _, size := range []int{0, 1, 32, 64, 95, 97, 32 * (CountersignMax + 2), 1 << 20} {
		if _, ids, err := ParseCountersign(make([]byte, size)); !errors.Is(err, ErrForm) || ids != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if _, ids, err := ParseCountersign(make([]byte, 32*(CountersignMax+1))); err != nil || len(ids) != CountersignMax {
		t.Errorf("%d, %v", len(ids), err)
	}
}

func FuzzParseCountersign(f *testing.F) {
	_, all := singles(f, 3)
	f.Add(CountersignBody(sum(9), all))
	f.Add([]byte{})
	f.Add(make([]byte, 64))
	f.Add(make([]byte, 97))
	f.Fuzz(func(t *testing.T, body []byte) {
		keyset, ids, err := ParseCountersign(body)
		if err != nil {
			if !errors.Is(err, ErrForm) {
				t.Fatal(err)
			}
			return
		}
		again := bytes.Clone(keyset[:])
		for _, id := range ids {
			again = append(again, id[:]...)
		}
		if !bytes.Equal(again, body) || len(ids) < 2 || len(ids) > CountersignMax {
			t.Fatalf("%x is read as %x", body, again)
		}
	})
}

// BenchmarkShare is what a gateway does with the receipts that it settles at once, and SignIDs what the worker does.
func BenchmarkShare(b *testing.B) {
	for _, n := range []int{8, 256} {
		all := batch(b, n)
		signature := mustSignIDs(b, all)
		perReceipt := func(b *testing.B) {
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/receipt")
		}
		b.Run(fmt.Sprintf("share/%d", n), func(b *testing.B) {
			v := NewVerifier(public(testKey(1)))
			b.ReportAllocs()
			for b.Loop() {
				clear(v.verified) // else it is not verified again
				if err := v.Share(all, signature); err != nil {
					b.Fatal(err)
				}
			}
			perReceipt(b)
		})
		b.Run(fmt.Sprintf("record/%d", n), func(b *testing.B) {
			out := make([]byte, 0, RecordMax)
			b.ReportAllocs()
			for b.Loop() {
				for _, s := range all {
					out = s.AppendRecord(out[:0])
				}
			}
			b.ReportMetric(float64(len(out)), "bytes")
			perReceipt(b)
		})
		b.Run(fmt.Sprintf("sign/%d", n), func(b *testing.B) {
			ids := idsOf(all)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := SignIDs(ids, testKey(1)); err != nil {
					b.Fatal(err)
				}
			}
			perReceipt(b)
		})
	}
}
