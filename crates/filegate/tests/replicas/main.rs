//! Several replicas on one PostgreSQL, one S3 store and one Redis, behind a balancer.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as the tests do")]

mod chaos;
#[path = "../relay/emulated.rs"]
mod emulated;
mod fleet;
mod kit;
mod relay;
mod rolling;
mod together;
mod uploads;
