-- What each customer used: sums by day (2026-11-26, UTC), API key, item and end user. Transfers add to them once. The
-- counts are the caller's. An index of a table without rowid holds the primary key too: by day it is in order.
CREATE TABLE usage (
    customer TEXT    NOT NULL,
    day      TEXT    NOT NULL,
    api_key  TEXT    NOT NULL,
    item     TEXT    NOT NULL,
    end_user TEXT    NOT NULL,
    requests INTEGER NOT NULL,
    count0   INTEGER NOT NULL,
    count1   INTEGER NOT NULL,
    count2   INTEGER NOT NULL,
    count3   INTEGER NOT NULL,
    cost     INTEGER NOT NULL,
    PRIMARY KEY (customer, day, api_key, item, end_user)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_by_day ON usage (day, customer, api_key, item, end_user);

-- How many rows of usage a customer has of a day: they are bounded.
CREATE TABLE usage_days (
    customer TEXT    NOT NULL,
    day      TEXT    NOT NULL,
    lines    INTEGER NOT NULL,
    PRIMARY KEY (customer, day)
) STRICT, WITHOUT ROWID;
