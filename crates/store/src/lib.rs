//! The catalog (rows) and the blob store (bytes).
//!
//! Both are durable when a call returns, and neither knows of the other: the order in which they
//! are used is the upload pipeline's (`filegate-server`, `intake`), and what a crash between them
//! leaves is found again by [`replay()`], [`sweep()`], [`fsck`] and the janitor.

pub mod backup;
pub mod blobs;
pub mod catalog;
pub mod datadir;
pub mod error;
pub mod fsck;
pub mod migrate;
mod replay;
pub mod seal;
mod sweep;

pub use blobs::{
    BLOB_BLOCK_BYTES, BlobList, BlobReader, BlobStream, BlobSum, Blobs, LifecycleRule, LocalBlobs,
    Memory, Pace, Piece, S3Blobs, S3Checksum, S3Facts, S3Fault, S3Options, S3Setting, S3Unchecked,
    SmallBlob, TempBlob,
};
pub use catalog::admin;
pub use catalog::{
    AccountTerms, AdoptedFile, BookFault, Callback, Caller, Catalog, ChannelRow, Claim,
    CommitOutcome, CostRow, DeleteCause, DeleteOutcome, Delivery, DrainProgress, FirstAnswer, Held,
    Job, JobKind, KeepOutcome, KeptAnswer, KeyDraft, KeyRow, NewAdopted, NewFile, NewHold, NewTask,
    NewUpload, OnChannel, PostgresFacts, PostgresOptions, Quota, RelayPrices, Relayed,
    RelayedUsage, Replica, ReplicaState, Short, TaskRow, Uploaded, Usage, VoiceRow, VoiceState,
    WholeUpload,
};
pub use datadir::{DataDir, Keeps, Reserve};
pub use error::{SqlError, StoreError};
pub use replay::{is_behind, replay};
pub use seal::{SealError, Sealer, Unsealed};
pub use sweep::sweep;
