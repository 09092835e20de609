//! The front door, from outside: who may come in, what it costs, what is remembered.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as the tests do")]

mod books;
mod idempotency;
mod kit;
mod retention;
