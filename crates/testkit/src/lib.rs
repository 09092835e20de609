//! What the tests share: a server fixture, a PostgreSQL, an S3 server, Redis, sample media, raw sockets, strace.

pub mod http;
pub mod postgres;
pub mod redis;
pub mod s3;
pub mod samples;
pub mod server;
pub mod trace;
