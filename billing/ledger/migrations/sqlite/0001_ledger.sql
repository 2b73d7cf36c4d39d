-- The names of accounts, and what each holds: the sum of its legs, kept in the same transaction that writes the legs.
CREATE TABLE accounts (
    id      INTEGER PRIMARY KEY,
    name    TEXT    NOT NULL UNIQUE,
    balance INTEGER NOT NULL DEFAULT 0,
    CHECK (balance >= 0 OR name IN ('chain', 'suspense', 'fees', 'network', 'payouts', 'test'))
) STRICT;

-- One row for each transfer, never changed. at is nanoseconds since 1970; digest is SHA-256 over all of the content.
CREATE TABLE transfers (
    seq    INTEGER PRIMARY KEY,
    id     BLOB    NOT NULL UNIQUE,
    digest BLOB    NOT NULL,
    kind   TEXT    NOT NULL,
    at     INTEGER NOT NULL,
    ref    TEXT    NOT NULL
) STRICT;

-- The legs of the transfers, never changed. at repeats that of the transfer, for the index.
CREATE TABLE legs (
    transfer INTEGER NOT NULL REFERENCES transfers (seq),
    n        INTEGER NOT NULL,
    account  INTEGER NOT NULL REFERENCES accounts (id),
    amount   INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    PRIMARY KEY (transfer, n)
) STRICT, WITHOUT ROWID;

CREATE INDEX legs_by_account ON legs (account, at, transfer);

-- How long each gateway may spend its allotments. beats counts renewals, so that others see it alive without comparing
-- clocks; reclaimed is 1 from the moment its allotments were taken back until it asks for new ones.
CREATE TABLE leases (
    gateway   TEXT    NOT NULL PRIMARY KEY,
    until     INTEGER NOT NULL,
    beats     INTEGER NOT NULL,
    reclaimed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
