//! Catalogs of many files, made in SQL: for what asks how something grows with its rows.
//!
//! The rows are numbered from 0. Half of them, the even ones, belong to one large account, the others to accounts of a thousand files. They
//! have no blobs.

use std::path::Path;

use tokio_postgres::Client;

/// What filling can fail with.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Files of each account but the large one.
pub const FILES_EACH: i64 = 1_000;
/// The large account.
pub const LARGE: i64 = 1;

/// The distance of two ids.
const STEP: i64 = 4096;
/// When all of them were made; Unix milliseconds.
const CREATED_AT: i64 = 1_700_000_000_000;
/// Rows of one transaction.
const CHUNK: i64 = 500_000;

/// Whose the row is.
#[must_use]
pub fn account_of(row: i64) -> i64 {
    if row % 2 == 0 { LARGE } else { 2 + row / 2 / FILES_EACH }
}

/// The id of the row's file. Ids that a server gives are larger.
#[must_use]
pub fn id_of(row: i64) -> i64 {
    (row + 1) * STEP
}

/// Fills the catalog at `path`, which a server or `Catalog::open` has made. One that has these rows already stays as it is, but for the
/// files that a server has taken since: their rows go.
///
/// # Errors
/// What SQLite says, and a catalog that holds other rows.
pub fn sqlite(path: &Path, rows: i64) -> Result<(), Failed> {
    let connection = rusqlite::Connection::open(path)?;
    connection.execute(
        "DELETE FROM files WHERE file_id > ?1 AND created_at <> ?2",
        [id_of(rows - 1), CREATED_AT],
    )?;
    let there: i64 = connection.query_row("SELECT count(*) FROM files", [], |row| row.get(0))?;
    if there != 0 {
        return expected(there, rows);
    }
    connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000")?;
    let accounts = account_of(rows | 1);
    connection.execute_batch(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {accounts})
         INSERT INTO accounts (account_id, name, created_at) SELECT i, 'account-' || i, 0 FROM n WHERE true
         ON CONFLICT DO NOTHING"
    ))?;
    for from in (0..rows).step_by(CHUNK as usize) {
        let to = (from + CHUNK).min(rows) - 1;
        let random = "lower(hex(randomblob(10)))";
        connection.execute_batch(&format!(
            "WITH RECURSIVE n(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i < {to})
             {}",
            fill("n", random, "randomblob(32)", "x'00000000'")
        ))?;
        progress(to + 1, rows);
    }
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
    Ok(())
}

/// Fills the database of `client`, as [`sqlite`] does; its schema is there.
///
/// # Errors
/// What PostgreSQL says, and a database that holds other rows.
pub async fn postgres(client: &Client, rows: i64) -> Result<(), Failed> {
    let there: i64 = client.query_one("SELECT count(*) FROM files", &[]).await?.get(0);
    if there != 0 {
        return expected(there, rows);
    }
    let accounts = account_of(rows | 1);
    client
        .batch_execute(&format!(
            "SET synchronous_commit = off; SET maintenance_work_mem = '1GB';
             INSERT INTO accounts (account_id, name, created_at)
             SELECT i, 'account-' || i, 0 FROM generate_series(1, {accounts}) i ON CONFLICT DO NOTHING"
        ))
        .await?;
    for from in (0..rows).step_by(CHUNK as usize) {
        let to = (from + CHUNK).min(rows) - 1;
        let numbers = format!("generate_series({from}::bigint, {to}) i");
        let random = "substr(md5(i::text), 1, 20)";
        client
            .batch_execute(&fill(&numbers, random, "sha256(int8send(i))", "'\\x00000000'"))
            .await?;
        progress(to + 1, rows);
    }
    client.batch_execute("VACUUM ANALYZE files").await?;
    Ok(())
}

fn expected(there: i64, rows: i64) -> Result<(), Failed> {
    if there == rows {
        return Ok(());
    }
    Err(format!("{there} rows are there where {rows} are wanted: the filling was broken off?")
        .into())
}

/// Rows from the numbers `i` of `numbers`, in SQL that both databases know.
fn fill(numbers: &str, random_hex: &str, digest: &str, sums: &str) -> String {
    format!(
        "INSERT INTO files (file_id, account_id, purpose, filename, bytes, media_type, blob_key, created_at, sha256,
                            media, block_sums)
         SELECT (i + 1) * {STEP}, CASE WHEN i % 2 = 0 THEN {LARGE} ELSE 2 + i / 2 / {FILES_EACH} END, 'voice_clone',
                'recording-' || i || '.mp3', 176000, 'audio/mpeg', '018f0a1b2c3d' || {random_hex}, {CREATED_AT},
                {digest}, '{{\"format\":\"mp3\",\"duration_ms\":12000,\"channels\":1,\"sample_rate\":32000}}', {sums}
         FROM {numbers}"
    )
}

#[expect(clippy::print_stderr, reason = "what a bench tells while it prepares")]
fn progress(done: i64, all: i64) {
    eprint!("\r{done} of {all} rows{}", if done == all { "\n" } else { "" });
}
