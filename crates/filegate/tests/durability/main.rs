//! The durability and the bounds of a server, proved by breaking things on purpose: kills, faults of
//! the disk, a full disk, hostile clients. Needs strace and `unshare`.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as the tests do")]
#![expect(clippy::print_stderr, reason = "figures and seeds, shown by the test runner")]

mod crash;
mod faults;
mod full;
mod kit;
mod lifecycle;
mod order;
mod resources;
