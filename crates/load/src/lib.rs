//! Load on an HTTP/1.1 server, and what came of it.
//!
//! The load must cost less than what it measures: requests are made before the clock starts and written to plain sockets
//! as they are ([`http`]), a body is shared by all calls, and latencies go into a histogram ([`engine`]). What the load costs
//! all the same is measured, and said when it may be what limits ([`Outcome::doubt`]).
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use filegate_load::{CallError, Next, Plan, Reply, Request, Work, run};
//!
//! struct Ping(Request);
//!
//! impl Work for Ping {
//!     type Yield = ();
//!     fn request(&self, _nth: u64) -> Request {
//!         self.0.clone()
//!     }
//!     fn judge(&self, _nth: u64, _step: u32, reply: &Reply<'_>) -> Result<Next<()>, CallError> {
//!         reply.expect_status(200)?;
//!         Ok(Next::Done(()))
//!     }
//! }
//!
//! let ping = Ping(Request::whole("GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
//! let outcome = run(&Plan::new("127.0.0.1:8080", 32, Duration::from_secs(2)), &ping)?;
//! assert_eq!(outcome.failed, 0);
//! # Ok::<(), std::io::Error>(())
//! ```

pub mod body;
pub mod engine;
pub mod http;
pub mod process;

pub use engine::{Next, Outcome, Plan, Work, run};
pub use http::{CallError, Connection, Reply, Request};
