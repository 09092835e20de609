//! The front door, from outside: who may come in, what it costs, what is refused, what is remembered, and
//! what operators do.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as the tests do")]

mod admin;
mod adopted;
mod backup;
mod books;
mod channels;
mod cli;
mod doctor;
mod fairness;
mod idempotency;
mod kit;
mod limits;
mod migrate;
mod moderation;
mod moderation_kit;
mod moderation_services;
mod network;
mod resources;
mod retention;
mod s3;
mod shared_limits;
mod tenants;
