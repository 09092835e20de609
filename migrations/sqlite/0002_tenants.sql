-- Accounts with money and limits, moderation, and what operators see. Amounts are micro-units.

ALTER TABLE accounts ADD COLUMN state TEXT NOT NULL DEFAULT 'active'
    CHECK (state IN ('active', 'disabled'));
-- The sum of the account's ledger entries, always.
ALTER TABLE accounts ADD COLUMN balance INTEGER NOT NULL DEFAULT 0;
-- The sum of the holds of its uploads in progress, always. What can be spent is balance - held.
ALTER TABLE accounts ADD COLUMN held INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0);
ALTER TABLE accounts ADD COLUMN limits TEXT NOT NULL DEFAULT '{}';
ALTER TABLE accounts ADD COLUMN settings TEXT NOT NULL DEFAULT '{}';

-- JSON arrays; NULL: any purpose, from anywhere.
ALTER TABLE keys ADD COLUMN purposes TEXT;
ALTER TABLE keys ADD COLUMN networks TEXT;
ALTER TABLE keys ADD COLUMN limits TEXT NOT NULL DEFAULT '{}';
-- The key that this one was made to replace.
ALTER TABLE keys ADD COLUMN replaces INTEGER REFERENCES keys (key_id);

CREATE INDEX keys_by_account ON keys (account_id);

ALTER TABLE uploads ADD COLUMN key_id INTEGER REFERENCES keys (key_id);
-- Money reserved for it; captured by the commit, voided with the row otherwise.
ALTER TABLE uploads ADD COLUMN hold INTEGER NOT NULL DEFAULT 0 CHECK (hold >= 0);

ALTER TABLE files ADD COLUMN key_id INTEGER REFERENCES keys (key_id);
-- `review` and `quarantined` files are listed, and their content is not given out.
ALTER TABLE files ADD COLUMN state TEXT NOT NULL DEFAULT 'ready'
    CHECK (state IN ('ready', 'review', 'quarantined'));
-- What moderation said, as JSON; NULL if it was not asked.
ALTER TABLE files ADD COLUMN verdict TEXT;

CREATE INDEX files_held_back ON files (state, file_id) WHERE state <> 'ready';

-- What each account has stored: the sums of its rows in `files`, kept by the same transactions.
CREATE TABLE stored (
    account_id INTEGER NOT NULL REFERENCES accounts (account_id),
    purpose    TEXT    NOT NULL,
    files      INTEGER NOT NULL CHECK (files >= 0),
    bytes      INTEGER NOT NULL CHECK (bytes >= 0),
    PRIMARY KEY (account_id, purpose)
) STRICT, WITHOUT ROWID;

INSERT INTO stored (account_id, purpose, files, bytes)
SELECT account_id, purpose, count(*), sum(bytes) FROM files GROUP BY account_id, purpose;

-- Append-only. An account's balance is the sum of its amounts.
CREATE TABLE ledger (
    entry_id   INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL REFERENCES accounts (account_id),
    at         INTEGER NOT NULL,
    -- top_up, adjustment, charge, storage
    kind       TEXT    NOT NULL,
    amount     INTEGER NOT NULL CHECK (amount <> 0),
    -- The balance with this entry.
    balance    INTEGER NOT NULL,
    -- What was paid for: files.upload and the like; the empty text for top-ups and adjustments.
    call       TEXT    NOT NULL DEFAULT '',
    key_id     INTEGER,
    file_id    INTEGER,
    reason     TEXT    NOT NULL DEFAULT '',
    -- What may be entered only once for an account, such as a day of storage or a captured upload.
    reference  TEXT,
    UNIQUE (account_id, reference)
) STRICT;

CREATE INDEX ledger_by_account ON ledger (account_id, entry_id);

CREATE TRIGGER ledger_is_append_only_1 BEFORE UPDATE ON ledger
BEGIN SELECT raise(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_is_append_only_2 BEFORE DELETE ON ledger
BEGIN SELECT raise(ABORT, 'the ledger is append-only'); END;

-- The price of a call for a purpose, or for all others if the purpose is empty.
CREATE TABLE prices (
    call    TEXT    NOT NULL,
    purpose TEXT    NOT NULL DEFAULT '',
    -- call, mib, gib_day
    unit    TEXT    NOT NULL,
    amount  INTEGER NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (call, purpose, unit)
) STRICT, WITHOUT ROWID;

-- First answers, for a day. `owner` is `account:N` or `token:N`.
CREATE TABLE idempotency (
    owner       TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    -- SHA-256 of the request it came with.
    fingerprint BLOB    NOT NULL,
    status      INTEGER NOT NULL,
    reply       BLOB    NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_by_age ON idempotency (created_at);

-- Calls that succeeded, by UTC day (YYYY-MM-DD).
CREATE TABLE usage (
    day        TEXT    NOT NULL,
    account_id INTEGER NOT NULL,
    key_id     INTEGER NOT NULL,
    purpose    TEXT    NOT NULL,
    call       TEXT    NOT NULL,
    calls      INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,
    charged    INTEGER NOT NULL,
    PRIMARY KEY (day, account_id, key_id, purpose, call)
) STRICT, WITHOUT ROWID;

-- What became of deleted files: why and when they went, and when their bytes did.
CREATE TABLE receipts (
    file_id    INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL,
    purpose    TEXT    NOT NULL,
    filename   TEXT    NOT NULL,
    bytes      INTEGER NOT NULL,
    sha256     BLOB    NOT NULL,
    blob_key   TEXT    NOT NULL,
    -- client, expired, operator
    cause      TEXT    NOT NULL,
    deleted_at INTEGER NOT NULL,
    purged_at  INTEGER
) STRICT;

CREATE INDEX receipts_by_account ON receipts (account_id, file_id);
CREATE INDEX receipts_by_blob ON receipts (blob_key) WHERE purged_at IS NULL;

-- What moderation refuses: list is sha256, image or term.
CREATE TABLE blocked (
    entry_id   INTEGER PRIMARY KEY AUTOINCREMENT,
    list       TEXT    NOT NULL CHECK (list IN ('sha256', 'image', 'term')),
    value      TEXT    NOT NULL,
    note       TEXT    NOT NULL DEFAULT '',
    created_at INTEGER NOT NULL,
    UNIQUE (list, value)
) STRICT;

CREATE TABLE admin_tokens (
    token_id   INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT    NOT NULL,
    token_hash BLOB    NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    hint       TEXT    NOT NULL,
    -- read-only, support, full
    scope      TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER
) STRICT;

INSERT INTO admin_tokens (name, token_hash, hint, scope, created_at)
SELECT 'first', value, '', 'full', 0 FROM meta WHERE name = 'admin_token_hash';
DELETE FROM meta WHERE name = 'admin_token_hash';

-- Append-only: who did what to what, from where.
CREATE TABLE audit (
    audit_id   INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    -- token:N, or local for the command line on the data directory.
    actor      TEXT    NOT NULL,
    origin     TEXT    NOT NULL,
    action     TEXT    NOT NULL,
    target     TEXT    NOT NULL,
    before     TEXT,
    after      TEXT
) STRICT;

CREATE TRIGGER audit_is_append_only_1 BEFORE UPDATE ON audit
BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_append_only_2 BEFORE DELETE ON audit
BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;
