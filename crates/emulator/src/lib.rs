//! A stand-in for MiniMax: what a test suite calls instead of `api.minimax.io`.
//!
//! It answers in upstream's shapes, with upstream's codes, literals and quirks, and not with the checks of
//! filegate's own gateway: a sample of eight seconds is taken at the upload and refused at `voice_clone`, a name
//! without an extension is refused, ids are numbers in one reply and strings in another. What it makes is real:
//! audio that decodes, videos that play, an archive that unpacks. Faults come on order, from a file or through
//! control calls, and everything that was asked can be read back.
//!
//! The evidence for each shape was gathered from public pages and published clients; where there is none,
//! `docs/EMULATOR.md` says so.
//!
//! # Why a crate of its own
//!
//! Nothing of this may ever answer for the product, and nothing of the product may lean on it: the server does not
//! depend on this crate, and this crate knows neither the store nor the server (`types, form, media <- emulator <-
//! filegate`). The compiler keeps it so. It also stands for *upstream* in the tests of the relay, and a stand-in that
//! shared the gateway's code would agree with its mistakes; only the reader of forms, the measuring of media and plain
//! values are shared, each tested against independent oracles.
//!
//! # Bounds
//!
//! Everything is in memory and gone with the process. Bytes of files, results and JSON that arrives are bounded by
//! [`Options::memory_max`], rows by constants beside their tables. Uploads are read in pieces and not held twice, but
//! for samples that are measured (20 MiB, 50 MiB for a video). An answer that is being made is not counted: the largest
//! is five minutes of stereo in hex.
//!
//! # Time and chance
//!
//! The clock runs with the machine's and can be moved on, or stands still until it is. All chance (ids, Trace-Ids,
//! which call a fault of `probability = 0.1` hits) is drawn from one seed: with a clock that stands, the same calls in
//! the same order get the same bytes.

mod accept;
mod app;
mod auth;
mod body;
mod callbacks;
mod calls;
mod clock;
mod control;
mod faults;
mod layer;
mod links;
mod make;
mod reply;
mod rng;
mod routes;
mod socket;
mod speech;
mod world;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use filegate_types::units::Bytes;

use crate::app::App;
pub use crate::clock::ClockMode;
pub use crate::faults::{Fault, Kind, Script, ScriptError};

/// How long a stop waits for calls that are being answered.
const STOP_MAX: Duration = Duration::from_secs(2);

/// An account upstream: a key with files, voices and tasks of its own.
#[derive(Debug, Clone)]
pub struct AccountOptions {
    /// What faults, control calls and the record of calls know it by.
    pub name: String,
    /// What its callers send.
    pub key: String,
}

/// How the emulator is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen.
    pub listen: SocketAddr,
    /// At least one.
    pub accounts: Vec<AccountOptions>,
    /// What goes wrong from the start.
    pub script: Script,
    /// Where all chance comes from.
    pub seed: u64,
    /// How its time passes.
    pub clock: ClockMode,
    /// Bytes of files and results held, all accounts together.
    pub memory_max: Bytes,
    /// How long a task (a video, a long text) takes by the emulator's clock.
    pub task_time: Duration,
    /// How much of each request's body the record of calls keeps; with 0, the default, headers are not kept either.
    pub record_body_max: Bytes,
    /// What each account may spend, in units (a character of speech is 1). Unlimited if absent.
    pub balance: Option<u64>,
    /// What the links it gives out begin with, when it is reached through something else.
    pub public_url: Option<String>,
}

impl Options {
    /// One account with `key` on a free port, time and memory as usual.
    pub fn new(key: &str) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            accounts: vec![AccountOptions { name: "a1".to_owned(), key: key.to_owned() }],
            script: Script::default(),
            seed: 0,
            clock: ClockMode::Running,
            memory_max: Bytes::mib(1024),
            task_time: Duration::from_secs(10),
            record_body_max: Bytes(0),
            balance: None,
            public_url: None,
        }
    }
}

/// A key that looks like one of upstream's, the `nth` of this seed.
pub fn made_key(seed: u64, nth: usize) -> String {
    let mut rng = rng::Rng::new(seed ^ 0x006b_6579, nth as u64);
    (0..4).fold(String::from("sk-api-emulated-"), |key, _| format!("{key}{:016x}", rng.next()))
}

/// A running emulator. Dropping it leaves it running until the runtime ends.
#[derive(Debug)]
pub struct Emulator {
    /// Where it listens.
    pub address: SocketAddr,
    app: Arc<App>,
}

impl Emulator {
    /// Begins to listen and serve.
    ///
    /// # Errors
    /// When the address cannot be listened on, or no account is named.
    pub async fn start(options: Options) -> io::Result<Self> {
        if options.accounts.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no account is named"));
        }
        let listener = tokio::net::TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let app = App::new(options, address)?;
        let router = routes::router(&app);
        app.tasks.spawn(accept::serve(listener, router, app.tasks.clone()));
        app.tasks.spawn(callbacks::run(Arc::clone(&app)));
        Ok(Self { address, app })
    }

    /// Stops: calls that are being answered end, those that stall are cut off.
    pub async fn stop(self) {
        self.app.tasks.stop(STOP_MAX).await;
    }
}
