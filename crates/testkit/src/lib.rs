//! What the tests share: a server fixture, databases, sample media, raw sockets, strace.

pub mod http;
pub mod postgres;
pub mod samples;
pub mod server;
pub mod trace;
