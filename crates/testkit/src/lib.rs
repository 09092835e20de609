//! What the tests share: a server fixture, sample media, raw sockets, strace, a balancer, a proxy with faults.

pub mod balancer;
pub mod garage;
pub mod http;
pub mod place;
pub mod proxy;
pub mod random;
pub mod samples;
pub mod server;
pub mod trace;
