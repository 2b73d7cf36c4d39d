package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

const (
	// DocumentIDMax bounds a document's ID, bytes: an account's name, a key's hash.
	DocumentIDMax = 128
	// DocumentMax bounds a document's body, bytes: an API key with long lists of models has a few KiB.
	DocumentMax = 64 << 10

	// pageDocuments is how many documents are in memory at once: 8 MiB at most.
	pageDocuments = 128
)

var (
	// ErrNoDocument marks a document that there is not, or not any more.
	ErrNoDocument = errors.New("there is no such document")
	// ErrChanged marks a change of a document that somebody else changed, made or deleted meanwhile: read it again.
	ErrChanged = errors.New("the document was changed meanwhile")
)

// Document is a small record that the gateways of a ledger share, such as an API key.
type Document struct {
	Kind    string // 1 to KindMax of a-z 0-9 - _
	ID      string // 1 to DocumentIDMax printable ASCII characters without blanks
	Version int64  // of the change that made it: counts up over all documents
	Body    []byte // 1 to DocumentMax bytes; nil: it was deleted
}

// Check returns [ErrInvalid] with the reason unless all fields are as documented.
func (d Document) Check() error {
	blank := func(r rune) bool { return r <= ' ' || r > '~' }
	switch {
	case !isKind(d.Kind):
		return fmt.Errorf("document %w: kind %.100q", ErrInvalid, d.Kind)
	case d.ID == "" || len(d.ID) > DocumentIDMax || strings.ContainsFunc(d.ID, blank):
		return fmt.Errorf("document %w: ID %.200q", ErrInvalid, d.ID)
	case d.Body != nil && len(d.Body) == 0 || len(d.Body) > DocumentMax:
		return fmt.Errorf("document %s %s %w: a body of %d bytes", d.Kind, d.ID, ErrInvalid, len(d.Body))
	case d.Version < 0 || d.Version == 0 && d.Body == nil:
		return fmt.Errorf("document %s %s %w: version %d", d.Kind, d.ID, ErrInvalid, d.Version)
	}
	return nil
}

// PutDocument makes a document, changes or deletes it, and gives the version of that change. d.Version is the version
// that it replaces; 0 says that there must be none yet. If there is another one, or none, the error is [ErrChanged].
// A body of nil deletes; [Ledger.Documents] tells of that too. After any other error the change may have been made or
// not: read the document.
func (l *Ledger) PutDocument(ctx context.Context, d Document) (version int64, err error) {
	if err := d.Check(); err != nil {
		return 0, err
	}
	err = l.db.update(ctx, func(tx *sql.Tx) error {
		// The lock of this row is kept until the transaction ends: nobody gets a later version and commits earlier.
		err := tx.QueryRowContext(ctx, `UPDATE documents_version SET version = version + 1 RETURNING version`).Scan(&version)
		if err != nil {
			return err
		}
		is, _, err := l.db.document(ctx, tx, d.Kind, d.ID)
		if err != nil && !errors.Is(err, ErrNoDocument) {
			return err
		}
		if is != d.Version {
			return ErrChanged
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO documents (kind, id, version, body) VALUES ($1, $2, $3, $4)
			ON CONFLICT (kind, id) DO UPDATE SET version = excluded.version, body = excluded.body`, d.Kind, d.ID, version, d.Body)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("writing document %s %s: %w", d.Kind, d.ID, err)
	}
	return version, nil
}

// Document gives a document, or [ErrNoDocument].
func (l *Ledger) Document(ctx context.Context, kind, id string) (Document, error) {
	d := Document{Kind: kind, ID: id}
	var err error
	if d.Version, d.Body, err = l.db.document(ctx, l.db.read, kind, id); err != nil {
		return Document{}, fmt.Errorf("reading document %.100q %.200q: %w", kind, id, classify(err))
	}
	return d, nil
}

// rowQuerier is what reads one row: the database or a transaction.
type rowQuerier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// document reads a document that is not deleted.
func (s *store) document(ctx context.Context, q rowQuerier, kind, id string) (version int64, body []byte, err error) {
	err = q.QueryRowContext(ctx, `SELECT version, body FROM documents WHERE kind = $1 AND id = $2 AND body IS NOT NULL`,
		kind, id).Scan(&version, &body)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNoDocument
	}
	return version, body, err
}

// Documents calls f with every document that was made, changed or deleted after that version, of all kinds and in the
// order of their versions, until f returns an error, which it returns. Who goes on from the last version that it got
// misses no change. Of a document that changed often only the latest comes. f may use the ledger.
func (l *Ledger) Documents(ctx context.Context, after int64, f func(Document) error) error {
	for {
		page, err := l.documents(ctx, after)
		if err != nil {
			return fmt.Errorf("reading documents: %w", classify(err))
		}
		for _, d := range page {
			if err := f(d); err != nil {
				return err
			}
			after = d.Version
		}
		if len(page) < pageDocuments {
			return nil
		}
	}
}

func (l *Ledger) documents(ctx context.Context, after int64) ([]Document, error) {
	rows, err := l.db.read.QueryContext(ctx, `SELECT kind, id, version, body FROM documents WHERE version > $1
		ORDER BY version LIMIT $2`, after, pageDocuments)
	if err != nil {
		return nil, err
	}
	var page []Document
	err = each(rows, func() error {
		var d Document
		if err := rows.Scan(&d.Kind, &d.ID, &d.Version, &d.Body); err != nil {
			return err
		}
		page = append(page, d)
		return nil
	})
	return page, err
}
