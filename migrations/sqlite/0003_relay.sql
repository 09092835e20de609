-- Upstream accounts, what of ours is on them, and what of theirs is ours.

-- An upstream account: where it is, its key, and how it may be used.
CREATE TABLE channels (
    channel_id INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT    NOT NULL,
    -- Whose it is: NULL for the operator's, which any account may use that is tied to no others.
    account_id INTEGER REFERENCES accounts (account_id),
    base_url   TEXT    NOT NULL,
    -- The key, sealed (store/src/seal.rs); empty once the channel is removed.
    sealed_key BLOB    NOT NULL,
    -- Its last four characters.
    key_hint   TEXT    NOT NULL,
    state      TEXT    NOT NULL DEFAULT 'active'
        CHECK (state IN ('active', 'draining', 'disabled', 'removed')),
    -- weight, priority, limits, purposes, region, as JSON.
    settings   TEXT    NOT NULL DEFAULT '{}',
    created_at INTEGER NOT NULL,
    -- What its answers say of it. Every replica looks here; `until` is when it is asked again.
    condition  TEXT    NOT NULL DEFAULT 'well'
        CHECK (condition IN ('well', 'cooling', 'out_of_balance', 'key_refused')),
    condition_until INTEGER,
    condition_since INTEGER,
    condition_why   TEXT NOT NULL DEFAULT ''
) STRICT;

-- Those that are removed stay, for what hangs on them, and their names are free again.
CREATE UNIQUE INDEX channels_by_name ON channels (name) WHERE state <> 'removed';

-- A file's copy on a channel.
CREATE TABLE replicas (
    file_id     INTEGER NOT NULL,
    channel_id  INTEGER NOT NULL REFERENCES channels (channel_id),
    account_id  INTEGER NOT NULL,
    -- uploading: `holder` is at it until `lease_until`; gone: upstream said so.
    state       TEXT    NOT NULL CHECK (state IN ('uploading', 'ready', 'gone')),
    upstream_id TEXT,
    holder      TEXT    NOT NULL DEFAULT '',
    lease_until INTEGER,
    created_at  INTEGER NOT NULL,
    -- When upstream forgets it, as far as is known.
    expires_at  INTEGER,
    used_at     INTEGER NOT NULL,
    -- How often it was uploaded there.
    uploads     INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (file_id, channel_id)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX replicas_by_upstream ON replicas (channel_id, upstream_id)
    WHERE upstream_id IS NOT NULL;

-- A file that was born upstream and is read through from there. Once its bytes are kept it is a row of
-- `files`, under the same id.
CREATE TABLE adopted (
    file_id     INTEGER PRIMARY KEY CHECK (file_id > 0),
    account_id  INTEGER NOT NULL REFERENCES accounts (account_id),
    key_id      INTEGER,
    purpose     TEXT    NOT NULL,
    filename    TEXT    NOT NULL,
    bytes       INTEGER NOT NULL DEFAULT 0,
    channel_id  INTEGER NOT NULL REFERENCES channels (channel_id),
    upstream_id TEXT    NOT NULL,
    task_id     INTEGER,
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER,
    UNIQUE (channel_id, upstream_id)
) STRICT;

CREATE INDEX adopted_by_account ON adopted (account_id, file_id);
CREATE INDEX adopted_by_expiry ON adopted (expires_at) WHERE expires_at IS NOT NULL;

-- A task that was begun upstream, under an id of ours.
CREATE TABLE tasks (
    task_id      INTEGER PRIMARY KEY CHECK (task_id > 0),
    account_id   INTEGER NOT NULL REFERENCES accounts (account_id),
    key_id       INTEGER,
    channel_id   INTEGER NOT NULL REFERENCES channels (channel_id),
    upstream_id  TEXT    NOT NULL,
    -- The path of the call that began it.
    path         TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    UNIQUE (channel_id, upstream_id)
) STRICT;

CREATE INDEX tasks_by_account ON tasks (account_id, task_id);

-- A voice that a call has made, or is about to make: the name is claimed before upstream is asked.
CREATE TABLE voices (
    channel_id INTEGER NOT NULL REFERENCES channels (channel_id),
    voice_id   TEXT    NOT NULL,
    account_id INTEGER NOT NULL REFERENCES accounts (account_id),
    key_id     INTEGER,
    -- claimed: upstream has not answered yet, or its answer was lost; ready; deleted.
    state      TEXT    NOT NULL CHECK (state IN ('claimed', 'ready', 'deleted')),
    -- The file it was cloned from.
    file_id    INTEGER,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (channel_id, voice_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX voices_by_account ON voices (account_id, voice_id);
CREATE INDEX voices_by_name ON voices (voice_id);

-- Money reserved for relayed calls in progress. Captured or voided with the row.
CREATE TABLE holds (
    hold_id     TEXT    PRIMARY KEY,
    account_id  INTEGER NOT NULL REFERENCES accounts (account_id),
    key_id      INTEGER NOT NULL,
    path        TEXT    NOT NULL,
    amount      INTEGER NOT NULL CHECK (amount > 0),
    created_at  INTEGER NOT NULL,
    lease_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX holds_by_lease ON holds (lease_until);

-- What upstream takes for a relayed path on a channel; the empty path is for all others.
CREATE TABLE costs (
    channel_id INTEGER NOT NULL REFERENCES channels (channel_id),
    path       TEXT    NOT NULL,
    -- call, kilounit
    unit       TEXT    NOT NULL,
    amount     INTEGER NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (channel_id, path, unit)
) STRICT, WITHOUT ROWID;

-- Relayed calls that succeeded, by UTC day (YYYY-MM-DD): what they brought and what they cost.
CREATE TABLE relayed (
    day        TEXT    NOT NULL,
    channel_id INTEGER NOT NULL,
    account_id INTEGER NOT NULL,
    path       TEXT    NOT NULL,
    calls      INTEGER NOT NULL,
    -- What replies count: characters, tokens.
    units      INTEGER NOT NULL,
    charged    INTEGER NOT NULL,
    cost       INTEGER NOT NULL,
    PRIMARY KEY (day, channel_id, account_id, path)
) STRICT, WITHOUT ROWID;

-- Where a client wants to be told of a task; upstream is given an address of ours instead.
CREATE TABLE callbacks (
    callback_id TEXT    PRIMARY KEY,
    account_id  INTEGER NOT NULL REFERENCES accounts (account_id),
    key_id      INTEGER NOT NULL,
    channel_id  INTEGER NOT NULL REFERENCES channels (channel_id),
    -- The path of the call that asked for it.
    path        TEXT    NOT NULL,
    url         TEXT    NOT NULL,
    -- Whether the bytes of files that it tells of are kept here.
    keep        INTEGER NOT NULL CHECK (keep IN (0, 1)),
    created_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX callbacks_by_age ON callbacks (created_at);

-- What upstream has said to one of them and the client has not yet taken.
CREATE TABLE deliveries (
    delivery_id INTEGER PRIMARY KEY AUTOINCREMENT,
    callback_id TEXT    NOT NULL REFERENCES callbacks (callback_id),
    body        BLOB    NOT NULL,
    created_at  INTEGER NOT NULL
) STRICT;

CREATE INDEX deliveries_by_callback ON deliveries (callback_id, delivery_id);
