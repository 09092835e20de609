//! What the tests share: a server fixture, sample media, raw sockets, strace.

pub mod http;
pub mod samples;
pub mod server;
pub mod trace;
