package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/nanoton"
)

func TestCommit(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		l := mustOpen(t, url)
		in := pay("in", "chain", "customer:ann", 100)
		a, b := Document{Kind: "payout", ID: "a", Body: []byte("1")}, Document{Kind: "batch", ID: "a", Body: []byte("2")}
		versions, err := l.Commit(t.Context(), []Transfer{in}, []Document{a, b})
		if err != nil || len(versions) != 2 || versions[0] <= 0 || versions[1] <= versions[0] {
			t.Fatalf("versions %v, %v", versions, err)
		}
		a.Version, b.Version = versions[0], versions[1]
		if diff := cmp.Diff([]Document{a, b}, documents(t, l, 0)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}

		// A posted transfer again has no effect, and its documents still do.
		a.Body, b.Body = nil, []byte("3")
		versions, err = l.Commit(t.Context(), []Transfer{in, in}, []Document{b, a})
		if err != nil || len(versions) != 2 || versions[0] <= b.Version || versions[1] <= versions[0] {
			t.Fatalf("versions %v, %v", versions, err)
		}
		b.Version, a.Version = versions[0], versions[1]
		if diff := cmp.Diff([]Document{b, a}, documents(t, l, 0)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if versions, err := l.Commit(t.Context(), nil, nil); versions != nil || err != nil {
			t.Errorf("nothing: %v, %v", versions, err)
		}
		versions, err = l.Commit(t.Context(), []Transfer{pay("out", "customer:ann", "chain", 1)}, nil)
		if versions != nil || err != nil {
			t.Errorf("without documents: %v, %v", versions, err)
		}
		wantBalances(t, l, map[Account]nanoton.Amount{"chain": -99, "customer:ann": 99})
		wantSound(t, l)
	})
}

// Whatever of a commit can't be, nothing of it is; and versions that were not used are no gap that a reader waits for.
func TestCommitRefuses(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		l := mustOpen(t, url)
		mustPost(t, l, pay("in", "chain", "customer:ann", 100))
		is := put(t, l, Document{Kind: "payout", ID: "is", Body: []byte("1")})
		good, made := pay("good", "chain", "customer:ann", 1), Document{Kind: "payout", ID: "new", Body: []byte("x")}
		stale := Document{Kind: "payout", ID: "is", Version: is.Version + 1, Body: []byte("2")}
		for name, c := range map[string]struct {
			transfers []Transfer
			documents []Document
			want      error
		}{
			"overdrawn":     {[]Transfer{good, pay("over", "customer:ann", "payouts", 102)}, []Document{made}, ErrOverdrawn},
			"conflict":      {[]Transfer{good, pay("in", "chain", "customer:ann", 99)}, []Document{made}, ErrConflict},
			"stale":         {[]Transfer{good}, []Document{made, stale}, ErrChanged},
			"is there":      {[]Transfer{good}, []Document{made, {Kind: "payout", ID: "is", Body: []byte("2")}}, ErrChanged},
			"is not there":  {[]Transfer{good}, []Document{made, {Kind: "payout", ID: "none", Version: 1, Body: []byte("2")}}, ErrChanged},
			"none to go":    {[]Transfer{good}, []Document{made, {Kind: "payout", ID: "none", Version: 1}}, ErrChanged},
			"posted, stale": {[]Transfer{pay("in", "chain", "customer:ann", 100)}, []Document{made, stale}, ErrChanged},
			"twice":         {[]Transfer{good}, []Document{made, made}, ErrInvalid},
			"no document":   {[]Transfer{good}, []Document{made, {}}, ErrInvalid},
			"no transfer":   {[]Transfer{good, {}}, []Document{made}, ErrInvalid},
			"many":          {[]Transfer{good}, manyDocuments(DocumentsMax + 1), ErrInvalid},
		} {
			versions, err := l.Commit(t.Context(), c.transfers, c.documents)
			if !errors.Is(err, c.want) || versions != nil {
				t.Errorf("%s: %v, %v", name, versions, err)
			}
			if _, refused := errors.AsType[*Refusal](err); refused != (c.want == ErrOverdrawn || c.want == ErrConflict) {
				t.Errorf("%s: %v", name, err)
			}
			wantBalances(t, l, map[Account]nanoton.Amount{"chain": -100, "customer:ann": 100})
			if diff := cmp.Diff([]Document{is}, documents(t, l, 0)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
		has, err := l.Has(t.Context(), good.ID)
		if err != nil || has[0] {
			t.Errorf("Has = %v, %v", has, err)
		}
		_, err = l.Commit(t.Context(), nil, []Document{made, stale})
		if !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), "payout is ") {
			t.Errorf("the error does not name the document: %v", err)
		}
		versions, err := l.Commit(t.Context(), []Transfer{good}, manyDocuments(DocumentsMax))
		if err != nil || len(versions) != DocumentsMax || !slices.IsSorted(versions) {
			t.Fatalf("%d versions, %v", len(versions), err)
		}
		if all := documents(t, l, is.Version); len(all) != DocumentsMax || all[7].ID != "7" || all[7].Version != versions[7] {
			t.Errorf("%d documents", len(all))
		}
		wantSound(t, l)
	})
}

func manyDocuments(n int) []Document {
	all := make([]Document, n)
	for i := range all {
		all[i] = Document{Kind: "many", ID: strconv.Itoa(i), Body: []byte("x")}
	}
	return all
}

// Many take the next step from one document at a time, on two connections, with transfers and documents in any order:
// each step is taken once, and the money moves as often as the document says.
func TestCommitConcurrently(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		one, two := mustOpen(t, url), mustOpen(t, url)
		const writers, each = 6, 10
		shared := []string{"p", "q"}
		for _, id := range shared {
			put(t, one, Document{Kind: "counter", ID: id, Body: []byte("0")})
		}
		var wg sync.WaitGroup
		for w := range writers {
			l := []*Ledger{one, two}[w%2]
			wg.Go(func() {
				for i := 0; i < each; {
					changed, err := countUp(t.Context(), l, shared, w, i)
					if err != nil {
						t.Error(err)
						return
					}
					if !changed {
						i++
					}
				}
			})
		}
		wg.Wait()
		for _, id := range shared {
			if d, err := one.Document(t.Context(), "counter", id); err != nil || string(d.Body) != strconv.Itoa(writers*each) {
				t.Errorf("%s counts %s, %v", id, d.Body, err)
			}
		}
		wantBalances(t, one, map[Account]nanoton.Amount{"chain": -writers * each, "customer:ann": writers * each})
		if all := documents(t, one, 0); len(all) != writers*each+len(shared) {
			t.Errorf("%d documents", len(all))
		}
		wantSound(t, one)
	})
}

// countUp counts both counters up by one, with a transfer and a document of its own, or says that they were changed.
func countUp(ctx context.Context, l *Ledger, counters []string, writer, i int) (changed bool, err error) {
	name := fmt.Sprintf("%d-%d", writer, i)
	all := []Document{{Kind: "step", ID: name, Body: []byte(name)}}
	for _, id := range counters {
		d, err := l.Document(ctx, "counter", id)
		if err != nil {
			return false, err
		}
		n, err := strconv.Atoi(string(d.Body))
		if err != nil {
			return false, err
		}
		d.Body = []byte(strconv.Itoa(n + 1))
		all = append(all, d)
	}
	t := pay(name, "chain", "customer:ann", 1)
	if writer%2 == 1 { // whatever the order of the caller's
		slices.Reverse(all)
		slices.Reverse(t.Legs)
	}
	_, err = l.Commit(ctx, []Transfer{t}, all)
	if errors.Is(err, ErrChanged) {
		return true, nil
	}
	return false, err
}

func TestDocumentsOf(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		l := mustOpen(t, url)
		of := func(kind string, after int64) (all []Document) {
			t.Helper()
			err := l.DocumentsOf(t.Context(), kind, after, func(d Document) error {
				all = append(all, d)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return all
		}
		a := put(t, l, Document{Kind: "rate", ID: "a", Body: []byte("1")})
		put(t, l, Document{Kind: "key", ID: "a", Body: []byte("2")})
		b := put(t, l, Document{Kind: "rate", ID: "b", Body: []byte("3")})
		if diff := cmp.Diff([]Document{a, b}, of("rate", 0)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		a.Body = nil
		a = put(t, l, a)
		if diff := cmp.Diff([]Document{b, a}, of("rate", 0)); diff != "" {
			t.Errorf("with a deleted one (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]Document{a}, of("rate", b.Version)); diff != "" {
			t.Errorf("after the second (-want +got):\n%s", diff)
		}
		if all := of("none", 0); all != nil {
			t.Errorf("%v", all)
		}
		stop := errors.New("stop")
		if err := l.DocumentsOf(t.Context(), "rate", 0, func(Document) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("got %v", err)
		}
		if _, err := l.Commit(t.Context(), nil, manyDocuments(2*pageDocuments+1)); err != nil {
			t.Fatal(err)
		}
		if n := len(of("many", 0)); n != 2*pageDocuments+1 {
			t.Errorf("%d documents", n)
		}
		if l.db.postgres { // of a table as small as this one it reads all
			return
		}
		var plan strings.Builder
		rows, err := l.db.read.QueryContext(t.Context(), `EXPLAIN QUERY PLAN SELECT kind, id, version, body FROM documents
			WHERE version > $1 AND kind = $3 ORDER BY version LIMIT $2`, 0, 1, "rate")
		if err != nil {
			t.Fatal(err)
		}
		err = each(rows, func() error {
			var id, parent, unused int
			var detail string
			err := rows.Scan(&id, &parent, &unused, &detail)
			plan.WriteString(detail)
			return err
		})
		if err != nil || !strings.Contains(plan.String(), "documents_by_kind") || strings.Contains(plan.String(), "TEMP") {
			t.Errorf("%v: %s", err, plan.String())
		}
	})
}

// Money that is on the chain is owed to its owners, so its accounts are below zero; theirs never are.
func TestAccountsOnChain(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		l := mustOpen(t, url)
		collateral := Account("collateral:" + strings.TrimPrefix(string(workerAccount(1)), "worker:"))
		want := map[Account]nanoton.Amount{}
		for i, a := range []Account{"transit", "cold", "tab:ann", collateral} {
			mustPost(t, l, pay(fmt.Sprint(i), a, "customer:ann", 10))
			want[a] = -10
		}
		want["customer:ann"] = 40
		wantBalances(t, l, want)
		if err := l.Post(t.Context(), []Transfer{pay("more", "customer:ann", "tab:ann", 41)}); !errors.Is(err, ErrOverdrawn) {
			t.Errorf("got %v", err)
		}
		for _, a := range []Account{"customer:bob", workerAccount(2), "allotment:tab:ann"} {
			_, err := l.db.write.ExecContext(t.Context(), `INSERT INTO accounts (name, balance) VALUES ($1, -1)`, string(a))
			if err == nil {
				t.Errorf("%s owes money", a)
			}
		}
		wantSound(t, l)
	})
}

// A ledger of the schema before keeps everything, and then lets the new accounts go below zero.
func TestMigratesAccounts(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		before(t, url, 3)
		l := mustOpen(t, url)
		wantBalances(t, l, map[Account]nanoton.Amount{"chain": -7, "customer:ann": 7})
		if report := wantSound(t, l); report != (Report{Accounts: 3, Transfers: 1, Legs: 2}) {
			t.Errorf("report %+v", report)
		}
		mustPost(t, l, pay("top-up", "tab:ann", "customer:ann", 3), pay("again", "chain", "customer:ann", 1))
		wantBalances(t, l, map[Account]nanoton.Amount{"chain": -8, "tab:ann": -3, "customer:ann": 11})
		wantSound(t, l)
		_, err := l.db.write.ExecContext(t.Context(), `DELETE FROM accounts WHERE name = 'customer:ann'`)
		if err == nil {
			t.Error("an account with legs can be deleted: the tables do not refer to each other any more")
		}
	})
}

// before makes a ledger as it was at an older schema, with an account that has no legs among others.
func before(t *testing.T, url string, version int) {
	t.Helper()
	s, err := openStore(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.close() }()
	folder := map[bool]string{false: "migrations/sqlite", true: "migrations/postgres"}[s.postgres]
	files, err := fs.ReadDir(migrations, folder)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.update(t.Context(), makeVersion(t.Context())); err != nil {
		t.Fatal(err)
	}
	statements := []string{`UPDATE ledger_schema SET version = ` + strconv.Itoa(version)}
	for i := range version {
		step, err := fs.ReadFile(migrations, folder+"/"+files[i].Name())
		if err != nil {
			t.Fatal(err)
		}
		statements = append(statements, string(step))
	}
	for _, statement := range append(statements, `INSERT INTO accounts (name) VALUES ('worker:none')`) {
		if _, err := s.write.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	l := &Ledger{db: s}
	mustPost(t, l, pay("in", "chain", "customer:ann", 7))
}
