-- What each customer used: sums by day (2026-11-26, UTC), API key, item and end user. Transfers add to them once. The
-- counts are the caller's. Texts sort by bytes, as in SQLite; the second index has the order of all customers.
CREATE TABLE usage (
    customer TEXT COLLATE "C" NOT NULL,
    day      TEXT COLLATE "C" NOT NULL,
    api_key  TEXT COLLATE "C" NOT NULL,
    item     TEXT COLLATE "C" NOT NULL,
    end_user TEXT COLLATE "C" NOT NULL,
    requests BIGINT NOT NULL,
    count0   BIGINT NOT NULL,
    count1   BIGINT NOT NULL,
    count2   BIGINT NOT NULL,
    count3   BIGINT NOT NULL,
    cost     BIGINT NOT NULL,
    PRIMARY KEY (customer, day, api_key, item, end_user)
);

CREATE INDEX usage_by_day ON usage (day, customer, api_key, item, end_user);

-- How many rows of usage a customer has of a day: they are bounded.
CREATE TABLE usage_days (
    customer TEXT COLLATE "C" NOT NULL,
    day      TEXT COLLATE "C" NOT NULL,
    lines    BIGINT NOT NULL,
    PRIMARY KEY (customer, day)
);
