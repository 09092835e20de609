//! What the tests share: a server fixture, sample media, raw sockets, strace, a balancer, a proxy with faults,
//! the servers that a scale-out gateway stands on, and catalogs of many rows.

pub mod balancer;
pub mod garage;
pub mod http;
pub mod place;
pub mod postgres;
pub mod proxy;
pub mod random;
pub mod redis;
pub mod rows;
pub mod s3;
pub mod samples;
pub mod server;
pub mod trace;
