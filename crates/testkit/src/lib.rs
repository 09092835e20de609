//! What the tests share: a server fixture, sample media, raw sockets, Redis, strace.

pub mod http;
pub mod redis;
//! What the tests share: a server fixture, an S3 server, sample media, raw sockets, strace.

pub mod http;
pub mod s3;
pub mod samples;
pub mod server;
pub mod trace;
