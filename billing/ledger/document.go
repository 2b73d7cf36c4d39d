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

	// DocumentsMax bounds the documents of one Commit: a batch of 250 payouts changes about as many.
	DocumentsMax = 1000

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
	versions, err := l.Commit(ctx, nil, []Document{d})
	if err != nil {
		return 0, err
	}
	return versions[0], nil
}

// Document gives a document, or [ErrNoDocument].
func (l *Ledger) Document(ctx context.Context, kind, id string) (Document, error) {
	d := Document{Kind: kind, ID: id}
	err := l.db.read.QueryRowContext(ctx, `SELECT version, body FROM documents
		WHERE kind = $1 AND id = $2 AND body IS NOT NULL`, kind, id).Scan(&d.Version, &d.Body)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNoDocument
	}
	if err != nil {
		return Document{}, fmt.Errorf("reading document %.100q %.200q: %w", kind, id, classify(err))
	}
	return d, nil
}

// Documents calls f with every document that was made, changed or deleted after that version, of all kinds and in the
// order of their versions, until f returns an error, which it returns. Who goes on from the last version that it got
// misses no change. Of a document that changed often only the latest comes. f may use the ledger.
func (l *Ledger) Documents(ctx context.Context, after int64, f func(Document) error) error {
	return l.eachDocument(ctx, after, f, `version > $1 ORDER BY version LIMIT $2`)
}

// DocumentsOf is [Ledger.Documents] for the documents of one kind; it costs nothing for those of others. Deleted ones
// come too, with a body of nil.
func (l *Ledger) DocumentsOf(ctx context.Context, kind string, after int64, f func(Document) error) error {
	return l.eachDocument(ctx, after, f, `version > $1 AND kind = $3 ORDER BY version LIMIT $2`, kind)
}

// eachDocument calls f with what a condition finds, page by page: $1 is the version to go on from, $2 the page's size.
func (l *Ledger) eachDocument(ctx context.Context, after int64, f func(Document) error, where string, args ...any) error {
	for {
		page, err := l.documents(ctx, where, append([]any{after, pageDocuments}, args...))
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

func (l *Ledger) documents(ctx context.Context, where string, args []any) ([]Document, error) {
	rows, err := l.db.read.QueryContext(ctx, `SELECT kind, id, version, body FROM documents WHERE `+where, args...)
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
