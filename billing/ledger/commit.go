package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
)

// Commit posts transfers and changes documents in one transaction: all of it, or nothing. The rules are those of
// [Ledger.Post] and [Ledger.PutDocument]: a transfer that is posted already with the same content has no effect, and
// the documents are still checked; [ErrChanged] names the first document that is of another version than its maker
// knew, and then nothing is posted. versions are those of the changes, in the order of the documents, of which there
// may be [DocumentsMax], each once. After an error that is none of the two's own, all of it may have been done or
// nothing: read one of the documents.
func (l *Ledger) Commit(ctx context.Context, transfers []Transfer, documents []Document) (versions []int64, err error) {
	batch, err := prepare(transfers)
	if err != nil {
		return nil, err
	}
	if err := checkDocuments(documents); err != nil {
		return nil, err
	}
	if len(batch) == 0 && len(documents) == 0 {
		return nil, nil
	}
	err = l.db.update(ctx, func(tx *sql.Tx) error {
		if err := l.db.postLocked(ctx, tx, batch); err != nil {
			return err
		}
		versions, err = l.db.putDocuments(ctx, tx, documents)
		return err
	})
	if err == nil {
		return versions, nil
	}
	_, refused := errors.AsType[*Refusal](err)
	switch {
	case refused:
		return nil, err
	case len(documents) == 0:
		return nil, fmt.Errorf("posting %d transfers: %w", len(transfers), err)
	case len(transfers) == 0 && len(documents) == 1:
		return nil, fmt.Errorf("writing document %s %s: %w", documents[0].Kind, documents[0].ID, err)
	}
	return nil, fmt.Errorf("committing %d transfers and %d documents: %w", len(transfers), len(documents), err)
}

// documentKey is what names a document.
type documentKey struct{ kind, id string }

// checkDocuments checks what can be without the database.
func checkDocuments(documents []Document) error {
	if len(documents) > DocumentsMax {
		return fmt.Errorf("commit %w: %d documents, at most %d", ErrInvalid, len(documents), DocumentsMax)
	}
	seen := make(map[documentKey]bool, len(documents))
	for _, d := range documents {
		if err := d.Check(); err != nil {
			return err
		}
		key := documentKey{d.Kind, d.ID}
		if seen[key] {
			return fmt.Errorf("commit %w: document %s %s is there twice", ErrInvalid, d.Kind, d.ID)
		}
		seen[key] = true
	}
	return nil
}

// putDocuments changes documents, each once, in a transaction that has all its other locks.
func (s *store) putDocuments(ctx context.Context, tx *sql.Tx, documents []Document) (versions []int64, err error) {
	if len(documents) == 0 {
		return nil, nil
	}
	// The lock of this row is kept until the transaction ends: nobody gets a later version and commits earlier. It is
	// one for all, so it comes last.
	var last int64
	err = tx.QueryRowContext(ctx, `UPDATE documents_version SET version = version + $1 RETURNING version`,
		len(documents)).Scan(&last)
	if err != nil {
		return nil, err
	}
	is, err := s.documentVersions(ctx, tx, documents)
	if err != nil {
		return nil, err
	}
	versions = make([]int64, len(documents))
	for i, d := range documents {
		if version := is[documentKey{d.Kind, d.ID}]; version != d.Version {
			return nil, fmt.Errorf("document %s %s is of version %d, not %d: %w", d.Kind, d.ID, version, d.Version, ErrChanged)
		}
		versions[i] = last - int64(len(documents)-1-i)
	}
	const columns = 4
	next := versions
	for chunk := range slices.Chunk(documents, chunkRows) {
		args := make([]any, 0, columns*len(chunk))
		for i, d := range chunk {
			args = append(args, d.Kind, d.ID, next[i], d.Body)
		}
		next = next[len(chunk):]
		_, err := tx.ExecContext(ctx, `INSERT INTO documents (kind, id, version, body) VALUES `+s.params(len(chunk), columns)+`
			ON CONFLICT (kind, id) DO UPDATE SET version = excluded.version, body = excluded.body`, args...)
		if err != nil {
			return nil, err
		}
	}
	return versions, nil
}

// documentVersions gives the versions of those of the documents that there are and that are not deleted.
func (s *store) documentVersions(ctx context.Context, tx *sql.Tx, documents []Document) (map[documentKey]int64, error) {
	is := make(map[documentKey]int64, len(documents))
	for chunk := range slices.Chunk(documents, chunkRows) {
		args := make([]any, 0, 2*len(chunk))
		for _, d := range chunk {
			args = append(args, d.Kind, d.ID)
		}
		rows, err := tx.QueryContext(ctx, `SELECT kind, id, version FROM documents
			WHERE (kind, id) IN (VALUES `+s.params(len(chunk), 2)+`) AND body IS NOT NULL`, args...)
		if err != nil {
			return nil, err
		}
		err = each(rows, func() error {
			var key documentKey
			var version int64
			err := rows.Scan(&key.kind, &key.id, &version)
			is[key] = version
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return is, nil
}
