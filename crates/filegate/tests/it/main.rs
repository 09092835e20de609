//! The binary from outside.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as the tests do")]

mod cli;
mod content;
mod delete;
#[path = "../../../client/tests/it/fake.rs"]
mod fake;
mod hostile;
mod http_errors;
mod kit;
mod links;
mod list;
mod matrix;
mod operators;
mod ops;
mod refusal;
mod retrieve;
mod s3;
mod upload;
