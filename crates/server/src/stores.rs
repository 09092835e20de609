//! Which stores a gateway has, and who else may be using them.
//!
//! | `database_url` | `blob_url` | rows | bytes | in `data_dir` |
//! |---|---|---|---|---|
//! | – | – | SQLite | the data directory | everything |
//! | – | set | SQLite | S3 | the catalog, what is being received |
//! | set | – | PostgreSQL | the data directory | blobs, what is being received |
//! | set | set | PostgreSQL | S3 | what is being received |
//!
//! Rows in PostgreSQL may be used by other replicas at the same moment: nothing is swept up at a start that
//! might be theirs, and leases say whose a thing is. A directory has one server at a time in any case.

use std::sync::Arc;

use filegate_store::{
    Blobs, Catalog, DataDir, PostgresOptions, Reserve, StoreError, is_behind, replay,
};

use crate::config::Config;

/// The stores of one gateway.
#[derive(Debug)]
pub struct Stores {
    /// The rows.
    pub catalog: Catalog,
    /// The bytes.
    pub blobs: Blobs,
    /// Space for deletes on a full disk, where the catalog is on ours.
    pub(crate) reserve: Option<Arc<Reserve>>,
}

impl Stores {
    /// Opens the stores that `config` names, making and migrating what is missing. A server may be using them: if not,
    /// what a crash left to [replay] is replayed, and only for that the lock is taken.
    pub async fn open(config: &Config) -> Result<Self, StoreError> {
        let keeps = config.keeps_here();
        let dir = keeps.any().then(|| DataDir::open_for(&config.data_dir, keeps)).transpose()?;
        let stores = Self::open_in(config, dir.as_ref()).await?;
        if let Some(dir) = &dir
            && is_behind(&stores.catalog, &stores.blobs).await?
        {
            match dir.lock() {
                Ok(_lock) => stores.replay().await.map(drop)?,
                // That is what it is doing.
                Err(StoreError::InUse(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(stores)
    }

    /// Commits what a crash kept from the catalog; says how many files that are. Only the holder of the directory's lock
    /// may, before anything is changed.
    pub(crate) async fn replay(&self) -> Result<u64, StoreError> {
        if !is_behind(&self.catalog, &self.blobs).await? {
            return Ok(0);
        }
        // There may be no room but this.
        if let Some(reserve) = &self.reserve {
            reserve.restore();
        }
        replay(&self.catalog, &self.blobs).await
    }

    /// As [`open`](Self::open), but a data directory with a catalog has to be there.
    pub async fn open_existing(config: &Config) -> Result<Self, StoreError> {
        Self::refuse_absent(config)?;
        Self::open(config).await
    }

    /// Refuses if the catalog is to be in a data directory and is not.
    pub fn refuse_absent(config: &Config) -> Result<(), StoreError> {
        if config.keeps_here().rows {
            DataDir::open_existing(&config.data_dir)?;
        }
        Ok(())
    }

    /// `dir` is the data directory, where it is to hold something.
    pub(crate) async fn open_in(
        config: &Config,
        dir: Option<&DataDir>,
    ) -> Result<Self, StoreError> {
        let here = || dir.ok_or_else(|| StoreError::Unusable("no data directory".to_owned()));
        let (catalog, reserve) = if config.is_replicated() {
            (Catalog::connect(Self::postgres_options(config)).await?, None)
        } else {
            let reserve = Arc::new(Reserve::of(here()?));
            (Catalog::open(here()?, Arc::clone(&reserve))?, Some(reserve))
        };
        let blobs = match config.s3_options().map_err(|e| StoreError::Unusable(e.to_string()))? {
            Some(options) => Blobs::s3(options, &config.data_dir.join("tmp"))?,
            None => Blobs::local(here()?),
        };
        Ok(Self { catalog, blobs, reserve })
    }

    /// The database that the settings name.
    pub fn postgres_options(config: &Config) -> PostgresOptions {
        PostgresOptions {
            url: config.database_url.expose().to_owned(),
            connections: config.database.connections,
            connect_timeout: config.database.connect_timeout.0,
            statement_timeout: config.database.statement_timeout.0,
            wait: config.database.wait.0,
        }
    }
}
