-- More accounts may be below zero: money on the chain that is not in the hot wallet. SQLite changes no CHECK, so the
-- table is made anew. The legs refer to it all the while: they are checked when this is committed.
PRAGMA defer_foreign_keys = ON;

CREATE TABLE accounts_before AS SELECT id, name, balance FROM accounts;

DROP TABLE accounts;

CREATE TABLE accounts (
    id      INTEGER PRIMARY KEY,
    name    TEXT    NOT NULL UNIQUE,
    balance INTEGER NOT NULL DEFAULT 0,
    CHECK (
        balance >= 0
        OR name IN ('chain', 'suspense', 'fees', 'network', 'payouts', 'test', 'transit', 'cold')
        OR substr(name, 1, 4) = 'tab:' OR substr(name, 1, 11) = 'collateral:'
    )
) STRICT;

INSERT INTO accounts SELECT id, name, balance FROM accounts_before;

DROP TABLE accounts_before;

-- Documents of one kind, in the order of their changes.
CREATE INDEX documents_by_kind ON documents (kind, version);
