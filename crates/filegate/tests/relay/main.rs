//! The relay, from outside: what goes to channels and comes back, where a call goes when a channel fails, and what
//! is done to channels.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as the tests do")]

mod chaos;
mod emulated;
mod events;
mod failover;
mod flows;
mod health;
mod kit;
mod memory;
mod passing;
mod socket;
mod tls;
