//! The front door from outside: who comes in, and how much at a time.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as the tests do")]

mod fairness;
mod limits;
mod network;
mod tenants;
