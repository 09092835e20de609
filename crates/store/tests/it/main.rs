//! The contract of the store, over real files.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as the tests do")]

mod admin;
mod blobs;
mod books;
mod callbacks;
mod catalog;
mod channels;
mod fsck;
mod postgres;
mod relay;
mod replay;
mod support;
mod sweep;
