package devnet

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"

	"cocoon/internal/durable"
	"cocoon/internal/recordfile"
)

// live makes a chain in which all sorts of things happen: hashes are of its masterchain blocks by seqno.
func live(t testing.TB, o Options) (hashes []string) {
	t.Helper()
	n := newNetwork(t, o)
	alice := v5(t, nil, "alice")
	fund(t, n, alice.WalletAddress(), "100")
	seqno := uint32(0)
	for i := range 4 {
		n.SkewClock(time.Duration(i) * 37 * time.Minute)
		if i%3 == 2 { // a contract sends, in a block of its own
			if err := n.SendExternal(v5Message(t, alice, seqno, stranger(fmt.Sprint(i)), "1.5")); err != nil {
				t.Fatal(err)
			}
			seqno++
		}
		if err := n.Faucet(stranger(fmt.Sprint("f", i)), tlb.MustFromTON("3"), fmt.Sprint("gift ", i)); err != nil {
			t.Fatal(err)
		}
		mine(t, n, 1+i%3)
	}
	hashes = hashesOf(n)
	n.Close()
	return hashes
}

func hashesOf(n *Network) []string {
	hashes := []string{""}
	for _, b := range n.bySeqno[master][1:] {
		hashes = append(hashes, hex.EncodeToString(b.id.RootHash)+hex.EncodeToString(b.id.FileHash))
	}
	return hashes
}

// prefix tells whether a chain is the beginning of another.
func prefix(a, b []string) bool {
	if len(a) > len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// still is a clock that stands, so that a chain is the same each time it's made.
func still() time.Time { return time.Unix(1_790_000_000, 0) }

func TestRestart(t *testing.T) {
	dir := t.TempDir()
	o := Options{Dir: dir, Clock: still, Seed: 5}
	hashes := live(t, o)
	n := newNetwork(t, o)
	if got := hashesOf(n); len(got) != len(hashes) || !prefix(got, hashes) {
		t.Fatalf("%d blocks of %d, or others", len(got), len(hashes))
	}
	if want := still().Add(6 * 37 * time.Minute); !n.Now().Equal(want) {
		t.Errorf("its clock is at %v, want %v", n.Now(), want)
	}
	if b := n.Balance(stranger("f1")); b.Int64() != 3e9 {
		t.Errorf("a balance of %v", b)
	}
	// It's no copy: what comes next is the same as if it had never stopped, and is kept again.
	mine(t, n, 2)
	more := hashesOf(n)
	n.Close()
	if got := hashesOf(newNetwork(t, o)); !prefix(more, got) || len(got) != len(more) {
		t.Error("the second restart comes to another chain")
	}
}

// Clients find the liteservers where they were.
func TestRestartKeepsServers(t *testing.T) {
	o := Options{Dir: t.TempDir()}
	n := newNetwork(t, o)
	for range 2 {
		if err := n.Listen("127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	config := must(n.ConfigJSON())
	n.Close()
	n = newNetwork(t, o)
	for range 2 {
		if err := n.Listen("127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	if again := must(n.ConfigJSON()); !bytes.Equal(again, config) {
		t.Errorf("%s\nwas\n%s", again, config)
	}
	taken := n.Servers()[0].Addr()
	n.Close()
	other := newNetwork(t, Options{})
	if err := other.Listen(taken.String()); err != nil {
		t.Fatal(err)
	}
	n = newNetwork(t, o)
	if err := n.Listen("127.0.0.1:0"); err != nil || n.Servers()[0].Addr() == taken {
		t.Errorf("with its port taken: %v, on %v", err, n.Servers()[0].Addr())
	}
	must(client(t, n, ton.ProofCheckPolicySecure).GetMasterchainInfo(deadline(t)))
}

// Wherever the file ends, the chain up to there is the one that there was, and it goes on.
func TestTornAnywhere(t *testing.T) {
	dir := t.TempDir()
	hashes := live(t, Options{Dir: dir, Clock: still})
	whole := must(os.ReadFile(filepath.Join(dir, chainName)))
	torn := filepath.Join(t.TempDir(), "torn")
	if err := os.Mkdir(torn, 0o700); err != nil {
		t.Fatal(err)
	}
	blocks := 0
	for _, end := range offsets(t, dir, int64(len(whole))) {
		if err := os.WriteFile(filepath.Join(torn, chainName), whole[:end], 0o600); err != nil {
			t.Fatal(err)
		}
		n, err := New(Options{Dir: torn, Clock: still})
		if err != nil {
			t.Fatalf("%d of %d bytes: %v", end, len(whole), err)
		}
		got := hashesOf(n)
		if n.mc.head.id.SeqNo > 1 && !prefix(got, hashes) {
			t.Fatalf("%d of %d bytes: another chain", end, len(whole))
		}
		if len(got) < blocks {
			t.Fatalf("%d of %d bytes: %d blocks, with less of the file there were %d", end, len(whole), len(got)-1, blocks-1)
		}
		blocks = len(got)
		if end%3 == 0 {
			mine(t, n, 1)
		}
		after := hashesOf(n)
		n.Close()
		if end%3 != 0 {
			continue
		}
		if n, err = New(Options{Dir: torn, Clock: still}); err != nil || !prefix(after, hashesOf(n)) {
			t.Fatalf("%d of %d bytes, and a block more: %v", end, len(whole), err)
		}
		n.Close()
	}
	if blocks != len(hashes) {
		t.Errorf("%d blocks of %d from the whole file", blocks, len(hashes))
	}
}

// offsets are all those around the ends of records, and some within them. (The test was run once with each byte.)
func offsets(t *testing.T, dir string, size int64) []int64 {
	t.Helper()
	list := []int64{0, 1, size - 1, size}
	f, err := recordfile.OpenReader(filepath.Join(dir, chainName), recordfile.Options{
		Magic: magic, Each: func(at int64, record []byte) error {
			list = append(list, at-1, at, at+recordfile.FrameSize+int64(len(record))/2)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// What can't be continued is refused, with the reason, and left as it is.
func TestRefusesOtherChains(t *testing.T) {
	dir := t.TempDir()
	o := Options{Dir: dir, Clock: still}
	live(t, o)
	file := filepath.Join(dir, chainName)
	whole := must(os.ReadFile(file))
	for name, o := range map[string]Options{
		"seed":     {Dir: dir, Seed: 1},
		"size":     {Dir: dir, MaxTxPerBlock: 3},
		"delivery": {Dir: dir, NextBlockDelivery: true},
		"params":   {Dir: dir, ConfigBOC: must(readTestdata("mainnet-config-2026-04-17.boc"))},
	} {
		if _, err := New(o); !errors.Is(err, ErrOtherChain) {
			t.Errorf("%s: %v", name, err)
		}
	}
	holder := newNetwork(t, o)
	if _, err := New(o); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("two at a time: %v", err)
	}
	holder.Close()
	damaged := bytes.Clone(whole)
	damaged[len(damaged)/2] ^= 1
	for name, c := range map[string]struct {
		text []byte
		want error
	}{
		"damage":    {damaged, recordfile.ErrDamaged},
		"something": {[]byte("something else entirely"), recordfile.ErrFormat},
	} {
		if err := os.WriteFile(file, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(o); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if left := must(os.ReadFile(file)); !bytes.Equal(left, c.text) {
			t.Errorf("%s: it was changed", name)
		}
	}
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	newNetwork(t, o)
}

// Records that no network wrote end in errors.
func TestForeignRecords(t *testing.T) {
	dir := t.TempDir()
	live(t, Options{Dir: dir, Clock: still})
	file := filepath.Join(dir, chainName)
	whole := must(os.ReadFile(file))
	for name, record := range map[string]string{
		"no kind":        "?",
		"a header":       "h{}",
		"a short block":  "b\x01",
		"another block":  "b\x01\x00\x00\x00\x00\x00\x00\x00\x00",
		"an endless one": "b\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
		"an odd skew":    "b\x01\x00\x00\x00\x00\x00\x00\x00\x00\x80",
		"no message":     "inoise",
		"no external":    "xnoise",
	} {
		if err := os.WriteFile(file, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		f := must(recordfile.Open(file, recordfile.Options{Magic: magic}))
		if _, err := f.Append([]byte(record)); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if n, err := New(Options{Dir: dir, Clock: still}); err == nil {
			n.Close()
			t.Errorf("%s: taken", name)
		}
	}
}

// A block that can't be written is never seen, and is the last.
func TestFullDisk(t *testing.T) {
	n := newNetwork(t, Options{Dir: t.TempDir()})
	before := n.Seqno()
	if err := n.journal.file.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.Mine(); !errors.Is(err, recordfile.ErrClosed) || n.Seqno() != before || !errors.Is(n.Err(), err) {
		t.Errorf("%v, block %d after %d", err, n.Seqno(), before)
	}
	if err := n.Wait(t.Context(), before+1); !errors.Is(err, recordfile.ErrClosed) {
		t.Errorf("who waits hears %v", err)
	}
	if err := n.Faucet(stranger("a"), tlb.MustFromTON("1"), ""); err == nil {
		t.Error("it takes messages")
	}
}
