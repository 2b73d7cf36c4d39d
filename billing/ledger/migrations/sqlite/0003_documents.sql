-- Small records that the gateways of a ledger share: API keys, accounts. A row whose body is NULL is one that was
-- deleted. version is that of the change that made it so.
CREATE TABLE documents (
    kind    TEXT    NOT NULL,
    id      TEXT    NOT NULL,
    version INTEGER NOT NULL UNIQUE,
    body    BLOB,
    PRIMARY KEY (kind, id)
) STRICT;

-- The version of the latest change, in its one row, which whoever changes a document locks first: so versions become
-- visible in their order.
CREATE TABLE documents_version (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    version INTEGER NOT NULL
) STRICT;

INSERT INTO documents_version VALUES (1, 0);
