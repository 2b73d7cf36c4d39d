package receipt

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"testing"
)

// shapes are receipts with all that a record may have, and may not.
func shapes(t testing.TB) []*Signed {
	t.Helper()
	bare := sample()
	bare.Route, bare.Weights, bare.Engine, bare.Mode, bare.TTFT = Digest{}, Digest{}, Digest{}, Simulated, 0
	follower := sample()
	follower.Seq, follower.Prev, follower.Status = 1, sum(9), Length
	long, err := SignBatch(slices.Repeat([]Receipt{longest()}, BatchMax), testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	all := append(batch(t, 5), mustSign(t, sample()), mustSign(t, bare), mustSign(t, follower), long[0], long[BatchMax-1])
	interim := sample()
	interim.Kind = Interim
	return append(all, mustSign(t, interim))
}

func TestRecord(t *testing.T) {
	for i, s := range shapes(t) {
		record := s.AppendRecord([]byte("x"))[1:]
		back, err := ParseRecord(record)
		if err != nil || !same(back, s) || back.Verify(public(testKey(1))) != nil {
			t.Fatalf("%d: %v", i, err)
		}
		if len(record) > RecordMax || 2*len(record) > len(s.Wire()) {
			t.Errorf("%d: %d bytes, and %d of text", i, len(record), len(s.Wire()))
		}
	}
}

// What is in files is read by later versions too.
func TestRecordGolden(t *testing.T) {
	s := batch(t, 3)[1]
	s.signature = [64]byte{1}
	const want = "010701010000000000000000000000000000000001"
	if got := hex.EncodeToString(s.AppendRecord(nil)); got[:len(want)] != want || len(got) != 2*411 {
		t.Errorf("the form has changed: %d bytes, %s", len(got)/2, got)
	}
}

// Each byte of a record counts: with any one changed it is none, or its signature fails.
func TestRecordEveryByte(t *testing.T) {
	for _, s := range []*Signed{batch(t, 5)[4], mustSign(t, sample())} {
		record, key := s.AppendRecord(nil), public(testKey(1))
		if _, err := ParseRecord(append(bytes.Clone(record), 0)); !errors.Is(err, ErrForm) {
			t.Errorf("with a byte more: %v", err)
		}
		for i := range record {
			if _, err := ParseRecord(record[:i]); !errors.Is(err, ErrForm) {
				t.Fatalf("cut at %d: %v", i, err)
			}
			for bit := range 8 {
				b := bytes.Clone(record)
				b[i] ^= 1 << bit
				if got, err := ParseRecord(b); err == nil && got.Verify(key) == nil {
					t.Fatalf("byte %d, bit %d: passes", i, bit)
				}
			}
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	for _, s := range shapes(f) {
		f.Add(s.AppendRecord(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseRecord(b)
		if err != nil {
			if !errors.Is(err, ErrForm) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(s.AppendRecord(nil), b) || len(b) > RecordMax || s.Receipt.ID() != s.ID() {
			t.Fatalf("%x is read as %x", b, s.AppendRecord(nil))
		}
		if text, err := Parse(s.Wire()); err != nil || !same(text, s) {
			t.Fatalf("its text is another receipt: %v", err)
		}
	})
}
