//! What the tests share: a server fixture, sample media, raw sockets, Redis, strace.

pub mod http;
pub mod redis;
pub mod samples;
pub mod server;
pub mod trace;
