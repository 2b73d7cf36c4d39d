package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func documents(t fataler, l *Ledger, after int64) []Document {
	t.Helper()
	var all []Document
	err := l.Documents(context.Background(), after, func(d Document) error {
		all = append(all, d)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func put(t *testing.T, l *Ledger, d Document) Document {
	t.Helper()
	version, err := l.PutDocument(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	d.Version = version
	return d
}

func TestDocuments(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		l := mustOpen(t, url)
		if all := documents(t, l, 0); all != nil {
			t.Fatalf("a new ledger has %v", all)
		}
		a := put(t, l, Document{Kind: "key", ID: "a", Body: []byte("1")})
		b := put(t, l, Document{Kind: "account", ID: "a", Body: bytes.Repeat([]byte{0, 0xff}, DocumentMax/2)})
		first := a.Version
		a.Body = []byte("2")
		a = put(t, l, a)
		c := put(t, l, Document{Kind: "key", ID: "c", Body: []byte("c")})
		for after, want := range map[int64][]Document{0: {b, a, c}, b.Version: {a, c}, a.Version: {c}, c.Version: nil} {
			if diff := cmp.Diff(want, documents(t, l, after)); diff != "" {
				t.Errorf("after %d (-want +got):\n%s", after, diff)
			}
		}
		if got, err := l.Document(t.Context(), "key", "a"); err != nil || !cmp.Equal(got, a) {
			t.Errorf("got %v, %v", got, err)
		}
		for _, d := range []Document{
			{"key", "a", first, []byte("x")}, {"key", "a", 0, []byte("x")}, {"key", "a", first, nil}, {"key", "none", 1, []byte("x")},
		} {
			if _, err := l.PutDocument(t.Context(), d); !errors.Is(err, ErrChanged) {
				t.Errorf("%v: %v", d, err)
			}
		}
		a.Body = nil
		gone := put(t, l, a)
		if diff := cmp.Diff([]Document{gone}, documents(t, l, c.Version)); diff != "" {
			t.Errorf("a deletion (-want +got):\n%s", diff)
		}
		if _, err := l.Document(t.Context(), "key", "a"); !errors.Is(err, ErrNoDocument) {
			t.Errorf("got %v", err)
		}
		if _, err := l.PutDocument(t.Context(), gone); !errors.Is(err, ErrChanged) {
			t.Errorf("deleted twice: %v", err)
		}
		if back := put(t, l, Document{Kind: "key", ID: "a", Body: []byte("3")}); back.Version <= gone.Version {
			t.Errorf("version %d after %d", back.Version, gone.Version)
		}
		stop := errors.New("stop")
		if err := l.Documents(t.Context(), 0, func(Document) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("got %v", err)
		}
		for i := range pageDocuments {
			put(t, l, Document{Kind: "key", ID: fmt.Sprint(i), Body: []byte("x")})
		}
		if n := len(documents(t, l, 0)); n != pageDocuments+3 {
			t.Errorf("%d documents", n)
		}
	})
}

func TestDocumentInvalid(t *testing.T) {
	l := mustOpen(t, backends[0].url(t))
	for _, d := range []Document{
		{"", "a", 0, []byte("x")},
		{"Key", "a", 0, []byte("x")},
		{"key", "", 0, []byte("x")},
		{"key", "a b", 0, []byte("x")},
		{"key", "ü", 0, []byte("x")},
		{"key", strings.Repeat("a", DocumentIDMax+1), 0, []byte("x")},
		{"key", "a", -1, []byte("x")},
		{"key", "a", 0, nil},
		{"key", "a", 0, []byte{}},
		{"key", "a", 0, make([]byte, DocumentMax+1)},
	} {
		if _, err := l.PutDocument(t.Context(), d); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.40v: %v", d, err)
		}
	}
}

// Whoever reads on from the last version that it saw misses nothing, however many write at the same time; and of those
// that change the same document on the same version one wins.
func TestDocumentsConcurrently(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		one, two := mustOpen(t, url), mustOpen(t, url)
		const writers, each = 4, 25
		shared := put(t, one, Document{Kind: "shared", ID: "s", Body: []byte("0")})
		writing, done := context.WithCancel(t.Context())
		seen, last := map[string]bool{}, shared.Version
		var reader, wg sync.WaitGroup
		reader.Go(func() {
			for end := false; !end; {
				end = writing.Err() != nil
				for _, d := range documents(failer{t}, two, last) {
					if d.Version <= last {
						t.Errorf("version %d after %d", d.Version, last)
					}
					last = d.Version
					seen[d.ID] = true
				}
			}
		})
		var mu sync.Mutex
		won := 0
		for w := range writers {
			l := []*Ledger{one, two}[w%2]
			wg.Go(func() {
				for i := range each {
					_, err := l.PutDocument(t.Context(), Document{Kind: "key", ID: fmt.Sprintf("%d-%d", w, i), Body: []byte("x")})
					if err != nil {
						t.Error(err)
					}
				}
				_, err := l.PutDocument(t.Context(), Document{Kind: "shared", ID: "s", Version: shared.Version, Body: []byte{byte(w)}})
				if err != nil && !errors.Is(err, ErrChanged) {
					t.Error(err)
				}
				if err == nil {
					mu.Lock()
					won++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		done()
		reader.Wait()
		if len(seen) != writers*each+1 || won != 1 {
			t.Errorf("saw %d documents of %d; %d won", len(seen), writers*each+1, won)
		}
	})
}

// An operator's command, another process, opens the ledger of a gateway that runs and posts, and changes it.
func TestSecondProcess(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		l := mustOpen(t, url)
		working, done := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		posts := 0
		wg.Go(func() {
			for ; working.Err() == nil; posts++ {
				if err := l.Post(t.Context(), loadBatch("busy", posts)); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Millisecond)
			}
		})
		var commands sync.WaitGroup
		for i := range 3 {
			cmd := job{Do: "put", URL: url, Name: fmt.Sprint("by", i)}.command(t)
			commands.Go(func() {
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
				}
			})
		}
		commands.Wait()
		done()
		wg.Wait()
		if all := documents(t, l, 0); len(all) != 3 || posts == 0 {
			t.Errorf("%d documents, %d posts", len(all), posts)
		}
		if balance, err := l.Balance(t.Context(), "fees"); err != nil || balance != 3 {
			t.Errorf("fees %v, %v", balance, err)
		}
		wantSound(t, l)
	})
}
