//! Several replicas on one PostgreSQL, one S3 store and one Redis, behind a balancer.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as the tests do")]

mod chaos;
mod fleet;
mod rolling;
mod together;
mod uploads;
