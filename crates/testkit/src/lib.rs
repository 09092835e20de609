//! What the tests share: a server fixture, sample media, raw sockets, strace, a balancer, a proxy with faults.

pub mod balancer;
pub mod http;
pub mod proxy;
pub mod random;
pub mod samples;
pub mod server;
pub mod trace;
