//! The front door, from outside: who may come in, what it costs, what is refused, what is remembered.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as the tests do")]

mod books;
mod fairness;
mod idempotency;
mod kit;
mod limits;
mod moderation;
mod moderation_kit;
mod moderation_services;
mod network;
mod retention;
mod tenants;
