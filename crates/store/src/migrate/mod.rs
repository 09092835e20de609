//! Moving a gateway to other stores while it serves.
//!
//! ```text
//! 1 begin     the target says what it is filled from           crash: begun again
//! 2 pass      table by table, both sides in the order of their  crash: the next pass goes on: what is there
//!             keys: what differs is made alike. A file's blob       is not copied again, since a row in
//!             is copied, and read back, before its row              the target has a whole blob there
//!   … again, while the source serves, until little differs
//! 3 seal      the source takes no more changes                  crash: it stays sealed, and answers reads;
//! 4 pass      what changed since, until nothing differs             cut over again, or take the seal off
//! 5 settle    counters of ids; the books of the target          crash: as above
//! 6 open      the target no longer says that it is being filled  COMMIT POINT: it can be served
//! ```
//!
//! The same in every direction: SQLite or PostgreSQL, a data directory or S3, on either side. Blobs never
//! change, so only rows are ever compared.

mod reader;
mod seal;
mod tables;

use std::cmp::Ordering;
use std::sync::Arc;

use filegate_types::{BlobKey, FileId, UnixMillis};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::blobs::{BLOB_BLOCK_BYTES, Blobs, Pace};
use crate::catalog::sql::{Connection, Dialect, OptionalExtension as _, Value};
use crate::catalog::{Catalog, JobKind, enqueue_purge};
use crate::error::StoreError;
use reader::Reader;
use tables::{CALLBACKS, JOBS, META, OWN_MARKS, Row, TABLES, Table, file};

/// In `meta` of a sealed store: where it went.
pub(crate) const MOVED_TO: &str = "moved_to";
/// In `meta` of a store that is being filled: the [`STORE_ID`] of where from.
pub(crate) const MOVING_FROM: &str = "moving_from";
/// In `meta`: tells one store from another. Moves, since the gateway is the same.
const STORE_ID: &str = "store_id";

/// Rows of one transaction in the target.
const BATCH: usize = 500;
/// Passes over a sealed source, which cannot change, until they must have come to an end.
const LAST_PASSES_MAX: usize = 4;

/// The stores of a gateway.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its rows.
    pub catalog: Catalog,
    /// Its bytes.
    pub blobs: Blobs,
}

/// A move from one place to another.
#[derive(Debug)]
pub struct Mover {
    from: Place,
    to: Place,
    /// Blobs that are copied at a time.
    parallel: usize,
}

/// What a pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// Rows of the source that were looked at.
    pub rows: u64,
    /// Rows that were added to the target.
    pub added: u64,
    /// Rows that were changed there.
    pub changed: u64,
    /// Rows that were removed there.
    pub removed: u64,
    /// Rows that changed while they were looked at: the next pass has them.
    pub later: u64,
    /// Blobs that were copied and read back.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files whose content in the source is not what was stored: they are marked, and move without it.
    pub damaged: u64,
}

impl Passed {
    /// Rows in which the two differed.
    pub fn differences(&self) -> u64 {
        self.added + self.changed + self.removed + self.later
    }
}

/// Rows to be made alike, of one table.
#[derive(Debug, Default)]
struct Batch {
    add: Vec<Row>,
    change: Vec<Row>,
    remove: Vec<Row>,
}

impl Batch {
    fn len(&self) -> usize {
        self.add.len() + self.change.len() + self.remove.len()
    }

    /// Each row by itself.
    fn singles(&self) -> Vec<Self> {
        let one = |row: &Row| vec![row.clone()];
        let added = self.add.iter().map(|row| Self { add: one(row), ..Self::default() });
        let changed = self.change.iter().map(|row| Self { change: one(row), ..Self::default() });
        let removed = self.remove.iter().map(|row| Self { remove: one(row), ..Self::default() });
        added.chain(changed).chain(removed).collect()
    }
}

impl Mover {
    /// A move that copies `parallel` blobs at a time.
    pub fn new(from: Place, to: Place, parallel: usize) -> Self {
        Self { from, to, parallel: parallel.max(1) }
    }

    /// Marks the target as one that is being filled from the source.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] if the target has something of another gateway.
    pub async fn begin(&self, fresh_id: [u8; 16]) -> Result<(), StoreError> {
        let (id, _) = self.from.catalog.meta_init(STORE_ID, fresh_id.to_vec()).await?;
        let marked = self.to.catalog.meta(MOVING_FROM).await?;
        if marked.as_ref() == Some(&id) {
            return Ok(());
        }
        let used = "SELECT EXISTS (SELECT 1 FROM accounts) OR EXISTS (SELECT 1 FROM files)
                        OR EXISTS (SELECT 1 FROM meta WHERE name = 'link_secret')";
        let used: bool = self
            .to
            .catalog
            .run_read("looking into the target", move |c| c.query_row(used, (), |row| row.get(0)))
            .await?;
        if used || marked.is_some() {
            let why =
                "the target is in use by another gateway: name an empty database or directory";
            return Err(StoreError::Unusable(why.to_owned()));
        }
        self.to.catalog.meta_set(MOVING_FROM, id).await
    }

    /// Makes the target like the source, as far as the source holds still.
    pub async fn pass(
        &self,
        now: UnixMillis,
        progress: &mut impl FnMut(&Passed),
    ) -> Result<Passed, StoreError> {
        self.run(false, now, progress).await
    }

    /// Seals the source, copies what is left, and opens the target. `name` is where the gateway is from
    /// then on, in words without secrets.
    pub async fn cut_over(
        &self,
        name: String,
        now: UnixMillis,
        progress: &mut impl FnMut(&Passed),
    ) -> Result<Passed, StoreError> {
        if let Some(fault) = self.from.catalog.check_books().await?.first() {
            return Err(StoreError::Unusable(format!(
                "the books of the source do not balance ({} of account {} is {}, its rows add up to {}): see \
                 `filegate fsck`",
                fault.what, fault.account, fault.kept, fault.counted
            )));
        }
        seal_as(&self.from.catalog, name).await?;
        let mut all = Passed::default();
        for _ in 0..LAST_PASSES_MAX {
            let passed = self.run(true, now, progress).await?;
            all.rows = passed.rows;
            all.added += passed.added;
            all.changed += passed.changed;
            all.removed += passed.removed;
            all.blobs += passed.blobs;
            all.bytes += passed.bytes;
            all.damaged += passed.damaged;
            if passed.differences() == 0 {
                self.settle().await?;
                return Ok(all);
            }
        }
        Err(StoreError::Unusable("the source changes although it is sealed".to_owned()))
    }

    /// Steps 5 and 6.
    async fn settle(&self) -> Result<(), StoreError> {
        if let Some(fault) = self.to.catalog.check_books().await?.first() {
            return Err(StoreError::Unusable(format!(
                "the books of the target do not balance: {} of account {} is {}, its rows add up to {}",
                fault.what, fault.account, fault.kept, fault.counted
            )));
        }
        self.to
            .catalog
            .run_write("opening the target", |c| {
                if c.dialect() == Dialect::Postgres {
                    number_on(c)?;
                }
                c.execute("DELETE FROM meta WHERE name = ?1", [MOVING_FROM]).map(drop)
            })
            .await
    }

    async fn run(
        &self,
        last: bool,
        now: UnixMillis,
        progress: &mut impl FnMut(&Passed),
    ) -> Result<Passed, StoreError> {
        let mut passed = Passed::default();
        for table in &TABLES {
            self.table(table, last, now, &mut passed, progress).await?;
        }
        Ok(passed)
    }

    async fn table(
        &self,
        table: &'static Table,
        last: bool,
        now: UnixMillis,
        passed: &mut Passed,
        progress: &mut impl FnMut(&Passed),
    ) -> Result<(), StoreError> {
        let mut ours = Reader::new(&self.from.catalog, table);
        let mut theirs = Reader::new(&self.to.catalog, table);
        let mut batch = Batch::default();
        loop {
            let order = match (ours.front().await?, theirs.front().await?) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(one), Some(other)) => compare(&one[..table.key], &other[..table.key]),
            };
            let one = if order.is_le() { ours.take() } else { None };
            let other = if order.is_ge() { theirs.take() } else { None };
            passed.rows += u64::from(one.is_some());
            match (one, other) {
                (Some(row), None) if moves(table, &row) => batch.add.push(row),
                (None, Some(row)) if moves(table, &row) => batch.remove.push(row),
                (Some(row), Some(other)) if row != other && moves(table, &row) => {
                    batch.change.push(row);
                }
                _ => {}
            }
            if batch.len() >= BATCH {
                self.apply(table, std::mem::take(&mut batch), last, now, passed).await?;
                progress(passed);
            }
        }
        self.apply(table, batch, last, now, passed).await?;
        progress(passed);
        Ok(())
    }

    async fn apply(
        &self,
        table: &'static Table,
        mut batch: Batch,
        last: bool,
        now: UnixMillis,
        passed: &mut Passed,
    ) -> Result<(), StoreError> {
        if table.name == tables::FILES.name {
            batch.add = self.bring_blobs(batch.add, last, now, passed).await?;
        }
        if batch.len() == 0 {
            return Ok(());
        }
        let batch = Arc::new(batch);
        match self.write(table, Arc::clone(&batch), now, passed).await {
            // A row may rest on one that came to the source after that one's table was looked at.
            Err(StoreError::Catalog { .. }) if !last => {
                for single in batch.singles() {
                    match self.write(table, Arc::new(single), now, passed).await {
                        Err(StoreError::Catalog { .. }) => passed.later += 1,
                        written => written?,
                    }
                }
                Ok(())
            }
            written => written,
        }
    }

    /// Makes the target alike in one transaction.
    async fn write(
        &self,
        table: &'static Table,
        batch: Arc<Batch>,
        now: UnixMillis,
        passed: &mut Passed,
    ) -> Result<(), StoreError> {
        let made = [batch.add.len(), batch.change.len(), batch.remove.len()];
        self.to
            .catalog
            .run_write("filling the target", move |c| {
                for row in &batch.remove {
                    // Rows that rest on it come to their turn later.
                    if table.name == CALLBACKS.name {
                        c.prepare_cached("DELETE FROM deliveries WHERE callback_id = ?1")?
                            .queue([text(&row[0])])?;
                    }
                    c.prepare_cached(&table.delete())?.execute(&row[..table.key])?;
                    if table.name == tables::FILES.name {
                        enqueue_purge(c, text(&row[file::BLOB_KEY]), now)?;
                    }
                }
                for row in &batch.change {
                    c.prepare_cached(&table.update())?.queue(row.as_slice())?;
                }
                for row in &batch.add {
                    c.prepare_cached(&table.insert())?.queue(row.as_slice())?;
                }
                Ok(())
            })
            .await?;
        passed.added += made[0] as u64;
        passed.changed += made[1] as u64;
        passed.removed += made[2] as u64;
        Ok(())
    }

    /// Copies the blobs of files that the target has not; gives the rows that can follow.
    async fn bring_blobs(
        &self,
        rows: Vec<Row>,
        last: bool,
        now: UnixMillis,
        passed: &mut Passed,
    ) -> Result<Vec<Row>, StoreError> {
        let brought: Vec<(Row, Brought)> = stream::iter(rows)
            .map(|row| async move {
                let brought = self.bring(&row).await?;
                Ok::<_, StoreError>((row, brought))
            })
            .buffered(self.parallel)
            .try_collect()
            .await?;
        let mut ready = Vec::with_capacity(brought.len());
        for (row, brought) in brought {
            match brought {
                Brought::Copied(bytes) => {
                    passed.blobs += 1;
                    passed.bytes += bytes;
                    ready.push(row);
                }
                Brought::There => ready.push(row),
                Brought::Damaged if is_marked(&row) => {
                    passed.damaged += 1;
                    ready.push(row);
                }
                // Marked in the source, it is another row: the next pass moves it.
                Brought::Damaged if !last => {
                    self.mark_damaged(&row, now).await?;
                    passed.later += 1;
                }
                Brought::Damaged => {
                    return Err(StoreError::Damaged(text(&row[file::BLOB_KEY]).to_owned()));
                }
            }
        }
        Ok(ready)
    }

    /// Marks a file whose content is wrong, unless it was deleted since its row was read.
    async fn mark_damaged(&self, row: &Row, now: UnixMillis) -> Result<(), StoreError> {
        let Value::Integer(id) = row[file::ID] else { return Ok(()) };
        let Ok(file_id) = FileId::new(id) else { return Ok(()) };
        tracing::error!(%file_id, "migrate.damaged: the content of this file is not what was stored");
        self.from.catalog.mark_damaged(file_id, Some(now)).await
    }

    /// Copies one blob, unless it is there, and reads it back.
    async fn bring(&self, row: &Row) -> Result<Brought, StoreError> {
        let unreadable = || StoreError::Unusable("a row of files cannot be read".to_owned());
        let key: BlobKey = text(&row[file::BLOB_KEY]).parse().map_err(|_bad| unreadable())?;
        let (Value::Integer(bytes), Value::Blob(sha256), Value::Blob(sums)) =
            (&row[file::BYTES], &row[file::SHA256], &row[file::BLOCK_SUMS])
        else {
            return Err(unreadable());
        };
        let bytes = bytes.cast_unsigned();
        let is_whole = |found: Option<(u64, [u8; 32])>| {
            found.is_some_and(|(length, digest)| length == bytes && digest[..] == sha256[..])
        };
        let back = |key: BlobKey| async move { self.to.blobs.digest(&key, |_| Pace::Go).await };
        // From a pass that was cut off before the row came.
        if self.to.blobs.length(&key).await?.is_some() {
            if is_whole(back(key.clone()).await?) {
                return Ok(Brought::There);
            }
            self.to.blobs.purge(&key).await?;
        }
        match self.copy(&key, bytes, sums.clone()).await {
            Err(StoreError::Damaged(_)) => return Ok(Brought::Damaged),
            copied => copied?,
        }
        if is_whole(back(key.clone()).await?) {
            return Ok(Brought::Copied(bytes));
        }
        self.to.blobs.purge(&key).await?;
        // Either side may be wrong; the source is asked by itself.
        if is_whole(self.from.blobs.digest(&key, |_| Pace::Go).await?) {
            let why = format!("blob {key} is not in the target what was sent there");
            return Err(StoreError::Unusable(why));
        }
        Ok(Brought::Damaged)
    }

    async fn copy(&self, key: &BlobKey, bytes: u64, sums: Vec<u8>) -> Result<(), StoreError> {
        let reader = self.from.blobs.open(key, bytes, sums).await?;
        let mut stream = reader.stream(0, bytes);
        if bytes <= BLOB_BLOCK_BYTES as u64 {
            let mut whole = Vec::with_capacity(bytes as usize);
            while let Some(piece) = stream.next().await? {
                whole.extend_from_slice(&piece);
            }
            return self.to.blobs.land_whole(key.clone(), whole.into()).await.map(drop);
        }
        let (blobs, name) = (self.to.blobs.clone(), key.clone());
        let mut temp = blocking(move || blobs.create(name)).await?;
        while let Some(piece) = stream.next().await? {
            temp = blocking(move || temp.write(&piece).map(|()| temp)).await?;
        }
        self.to.blobs.land(temp).await.map(drop)
    }
}

enum Brought {
    Copied(u64),
    There,
    Damaged,
}

/// Takes the seal off a store that was to be moved and was not.
pub async fn unseal(catalog: &Catalog) -> Result<(), StoreError> {
    catalog
        .run_write("unsealing", |c| {
            seal::unseal(c)?;
            c.execute("DELETE FROM meta WHERE name = ?1", [MOVED_TO]).map(drop)
        })
        .await
}

/// Refuses a store that went elsewhere, or that is being filled.
pub async fn refuse_unfinished(catalog: &Catalog) -> Result<(), StoreError> {
    if let Some(place) = catalog.meta(MOVED_TO).await? {
        return Err(StoreError::Unusable(format!(
            "this store was moved to {}: serve that, or take the seal off with `filegate migrate --unseal`",
            String::from_utf8_lossy(&place)
        )));
    }
    if catalog.meta(MOVING_FROM).await?.is_some() {
        let why = "this store is being filled by `filegate migrate`: serve it after its --cut-over";
        return Err(StoreError::Unusable(why.to_owned()));
    }
    Ok(())
}

/// Step 3; a source that is sealed already stays so.
async fn seal_as(catalog: &Catalog, name: String) -> Result<(), StoreError> {
    catalog
        .run_write("sealing", move |c| {
            let sealed = c
                .query_row("SELECT value FROM meta WHERE name = ?1", [MOVED_TO], |_| Ok(()))
                .optional()?;
            if sealed.is_some() {
                return Ok(());
            }
            c.execute(
                "INSERT INTO meta (name, value) VALUES (?1, ?2)",
                (MOVED_TO, name.as_bytes()),
            )?;
            seal::seal(c)
        })
        .await
}

/// Goes on numbering after the highest that came.
fn number_on(c: &Connection) -> crate::catalog::sql::Result<()> {
    for table in TABLES.iter().filter(|table| table.numbered) {
        let (name, id) = (table.name, table.columns[0]);
        c.execute_batch(&format!(
            "SELECT setval(pg_get_serial_sequence('{name}', '{id}'), (SELECT coalesce(max({id}), 0) + 1 FROM {name}),
                           false)"
        ))?;
    }
    Ok(())
}

fn moves(table: &Table, row: &Row) -> bool {
    let first = text(&row[0]);
    !(table.name == META.name && OWN_MARKS.contains(&first)
        || table.name == JOBS.name && first == JobKind::PurgeBlob.name())
}

fn is_marked(row: &Row) -> bool {
    row[file::DAMAGED_AT] != Value::Null
}

fn text(value: &Value) -> &str {
    if let Value::Text(text) = value { text } else { "" }
}

/// Keys as both databases sort them: numbers by size, texts by their bytes.
fn compare(one: &[Value], other: &[Value]) -> Ordering {
    let each = |(one, other): (&Value, &Value)| match (one, other) {
        (Value::Integer(one), Value::Integer(other)) => one.cmp(other),
        (Value::Text(one), Value::Text(other)) => one.as_bytes().cmp(other.as_bytes()),
        _ => Ordering::Equal,
    };
    one.iter().zip(other).map(each).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::Closed))
}
