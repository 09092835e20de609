-- The catalog of an embedded gateway. Times are Unix milliseconds; ids of files are the wire's.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE accounts (
    account_id INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE keys (
    key_id     INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES accounts (account_id),
    -- SHA-256 of the key: the key itself is shown once and kept nowhere.
    key_hash   BLOB    NOT NULL UNIQUE CHECK (length(key_hash) = 32),
    name       TEXT    NOT NULL,
    -- The last four characters, by which people tell keys apart.
    hint       TEXT    NOT NULL,
    scopes     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER
) STRICT;

-- An upload in progress. Its bytes, if any, belong to nobody else until the row is gone.
CREATE TABLE uploads (
    blob_key    TEXT    PRIMARY KEY,
    account_id  INTEGER NOT NULL REFERENCES accounts (account_id),
    started_at  INTEGER NOT NULL,
    lease_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX uploads_by_lease ON uploads (lease_until);

-- A committed file. A row here has its whole blob on disk.
CREATE TABLE files (
    file_id    INTEGER PRIMARY KEY CHECK (file_id > 0),
    account_id INTEGER NOT NULL REFERENCES accounts (account_id),
    purpose    TEXT    NOT NULL,
    filename   TEXT    NOT NULL,
    bytes      INTEGER NOT NULL,
    media_type TEXT    NOT NULL,
    blob_key   TEXT    NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    damaged_at INTEGER,
    sha256     BLOB    NOT NULL CHECK (length(sha256) = 32),
    media      TEXT    NOT NULL,
    -- CRC-32C of each 256 KiB block, four bytes little-endian each: reads check what they serve.
    block_sums BLOB    NOT NULL
) STRICT;

CREATE INDEX files_by_account ON files (account_id, file_id);
CREATE INDEX files_by_purpose ON files (account_id, purpose, file_id);
CREATE INDEX files_by_expiry ON files (expires_at) WHERE expires_at IS NOT NULL;

-- Work that a commit has promised. Done at least once; every kind is idempotent.
CREATE TABLE jobs (
    job_id     INTEGER PRIMARY KEY,
    kind       TEXT    NOT NULL,
    target     TEXT    NOT NULL,
    run_at     INTEGER NOT NULL,
    attempts   INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    UNIQUE (kind, target)
) STRICT;

CREATE INDEX jobs_by_time ON jobs (run_at);
