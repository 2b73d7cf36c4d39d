package ledger

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
)

func TestTampered(t *testing.T) {
	cases := map[string]struct{ statement, want string }{
		"balance":         {`UPDATE accounts SET balance = balance + 1 WHERE name = 'fees'`, "account fees has a balance of 4 nanoTON, its legs sum to 3"},
		"two balances":    {`UPDATE accounts SET balance = balance + CASE name WHEN 'fees' THEN 1 ELSE -1 END WHERE name IN ('fees', 'chain')`, "account chain"},
		"leg":             {`UPDATE legs SET amount = amount + 1 WHERE n = 1`, "its legs sum to 1 nanoTON"},
		"both legs":       {`UPDATE legs SET amount = amount * 2`, "digest differs"},
		"leg elsewhere":   {`UPDATE legs SET account = (SELECT id FROM accounts WHERE name = 'test') WHERE n = 1`, "digest differs"},
		"leg of nobody":   {`UPDATE legs SET account = 99 WHERE n = 1`, "no such account"},
		"leg gone":        {`DELETE FROM legs WHERE n = 0`, "leg 0 is not there"},
		"legs gone":       {`DELETE FROM legs`, "has no legs"},
		"last leg gone":   {`DELETE FROM legs WHERE n = 1`, "1 legs, want 2"},
		"time of a leg":   {`UPDATE legs SET at = at + 1 WHERE n = 1`, "its time"},
		"kind":            {`UPDATE transfers SET kind = 'other'`, "digest differs"},
		"ref":             {`UPDATE transfers SET ref = 'other'`, "digest differs"},
		"time":            {`UPDATE transfers SET at = at + 1`, "its time"},
		"transfer gone":   {`DELETE FROM transfers`, "legs belong to no transfer"},
		"account gone":    {`DELETE FROM accounts WHERE name = 'fees'`, "no such account"},
		"account renamed": {`UPDATE accounts SET name = 'network' WHERE name = 'fees'`, "digest differs"},
		"account added":   {`INSERT INTO accounts (name, balance) VALUES ('customer:eve', 5)`, "account customer:eve has a balance of 5 nanoTON, its legs sum to 0"},
		"digest":          {`UPDATE transfers SET digest = id`, "digest differs"},
	}
	onBoth(t, func(t *testing.T, url string) {
		l := mustOpen(t, url)
		if l.db.postgres {
			change(t, l, `ALTER TABLE legs DROP CONSTRAINT legs_transfer_fkey, DROP CONSTRAINT legs_account_fkey`)
		} else {
			change(t, l, `PRAGMA foreign_keys = 0`)
		}
		for name, c := range cases {
			wipe(t, l)
			mustPost(t, l, pay("in", "chain", "fees", 3))
			change(t, l, `INSERT INTO accounts (name) VALUES ('test'), ('customer:bob')`)
			wantSound(t, l)
			change(t, l, c.statement)
			report, err := l.Audit(t.Context())
			if err != nil || report.OK() || !strings.Contains(report.Difference, c.want) {
				t.Errorf("%s: Audit = %+v, %v, want %q", name, report, err, c.want)
			}
			// Open compares no balance with its legs: it does not see what somebody made sum to zero.
			again, err := Open(t.Context(), url)
			if quiet := name == "two balances"; quiet != (err == nil) || err != nil && !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s: Open = %v", name, err)
			}
			if err == nil {
				again.Close()
			}
		}
	})
}

// What must not go below zero does not even when the program is wrong.
func TestDatabaseRefusesDebt(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		l := mustOpen(t, url)
		mustPost(t, l, pay("in", "chain", "customer:ann", 3))
		_, err := l.db.write.ExecContext(t.Context(), `UPDATE accounts SET balance = -1 WHERE name = 'customer:ann'`)
		if err == nil {
			t.Error("a customer owes money")
		}
	})
}

func TestNewerSchema(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		l := mustOpen(t, url)
		mustPost(t, l, pay("in", "chain", "fees", 3))
		change(t, l, `UPDATE ledger_schema SET version = 7`)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		var before []byte
		if !l.db.postgres {
			before, _ = os.ReadFile(sqlitePath(url))
		}
		if _, err := Open(t.Context(), url); !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "7") {
			t.Fatalf("Open = %v", err)
		}
		if !l.db.postgres {
			if after, _ := os.ReadFile(sqlitePath(url)); !bytes.Equal(before, after) {
				t.Error("a refused file was changed")
			}
		}
	})
}

// A damaged file is an error that says so, or harmless; it is never a wrong balance.
func TestCorruptFile(t *testing.T) {
	path := t.TempDir() + "/ledger.db"
	l := mustOpen(t, "sqlite:"+path)
	var batch []Transfer
	for i := range 300 {
		batch = append(batch, pay(strings.Repeat("x", i%200)+string(rune('a'+i/200)), "chain", workerAccount(i%50), 7))
	}
	mustPost(t, l, batch...)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	damage := map[string][]byte{"text": []byte(strings.Repeat("no database ", 1000)), "half": good[:len(good)/2/page*page]}
	for at := 0; at < len(good); at += page {
		bad := bytes.Clone(good)
		copy(bad[at:], bytes.Repeat([]byte{0xa5}, 64))
		damage["page "+string(rune('0'+at/page))] = bad
	}
	for name, bad := range damage {
		file := "sqlite:" + t.TempDir() + "/ledger.db"
		if err := os.WriteFile(sqlitePath(file), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Open(t.Context(), file)
		var report Report
		if err == nil {
			report, err = l.Audit(t.Context())
			l.Close()
		}
		if !errors.Is(err, ErrCorrupt) && report.OK() {
			t.Errorf("%s: %+v, %v", name, report, err)
		}
	}
}
