//! The promises about durability and resources, held against a machine that breaks: processes killed
//! at chosen system calls, disks that fail or fill, clients that stall.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as the tests do")]

mod crash;
mod faults;
mod full;
mod lifecycle;
mod order;
mod resources;
mod support;
