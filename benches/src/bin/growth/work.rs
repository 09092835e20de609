//! The calls that are measured, and one way to make them.

use std::net::SocketAddr;

use bytes::Bytes;
use filegate_benches::Failed;
use filegate_load::{CallError, Next, Outcome, Plan, Reply, Request, Work, body, run};
use filegate_testkit::rows;

/// Bytes of the file of an upload.
const FILE_BYTES: u64 = 100_000;
const RETRIEVE: &str = "/minimax/v1/files/retrieve?file_id=";

/// Where calls go, with a key of the large account.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) key: String,
}

/// What is known of a file of the large account, any of so many rows.
#[derive(Debug)]
pub(crate) struct Retrieve<'a> {
    pub(crate) target: &'a Target,
    pub(crate) rows: i64,
}

/// An upload of 100 KB.
#[derive(Debug)]
pub(crate) struct Upload(Request);

impl Upload {
    pub(crate) fn new(target: &Target) -> Self {
        let address = target.address.to_string();
        let request =
            filegate_testkit::http::Request::new(&address, "POST", "/minimax/v1/files/upload");
        let request =
            request.bearer(&target.key).form("voice_clone", "growth.wav", &body::wav(FILE_BYTES));
        Self(Request::whole(request.bytes()))
    }
}

impl Retrieve<'_> {
    /// An even row, spread over all of them so that neighbours are not asked for one after the other.
    fn id(&self, nth: u64) -> i64 {
        let mixed = (nth + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        rows::id_of(((mixed >> 1).cast_signed() % self.rows) & !1)
    }
}

impl Work for Retrieve<'_> {
    type Yield = ();

    fn request(&self, nth: u64) -> Request {
        let Target { address, key } = self.target;
        let id = self.id(nth);
        Request::whole(Bytes::from(format!(
            "GET {RETRIEVE}{id} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n\r\n"
        )))
    }

    fn judge(&self, nth: u64, _step: u32, reply: &Reply<'_>) -> Result<Next<()>, CallError> {
        succeeded(reply, &format!("\"file_id\":{}", self.id(nth)))
    }
}

impl Work for Upload {
    type Yield = ();

    fn request(&self, _nth: u64) -> Request {
        self.0.clone()
    }

    fn judge(&self, _nth: u64, _step: u32, reply: &Reply<'_>) -> Result<Next<()>, CallError> {
        succeeded(reply, "\"file_id\":")
    }
}

fn succeeded(reply: &Reply<'_>, holds: &str) -> Result<Next<()>, CallError> {
    reply.expect_status(200)?;
    let text = String::from_utf8_lossy(reply.body);
    if text.contains("\"status_code\":0") && text.contains(holds) {
        return Ok(Next::Done(()));
    }
    Err(CallError::Broken(format!("no success: {text}")))
}

/// Carries out a plan; a call that fails makes all of it fail.
pub(crate) fn all_of<W: Work>(plan: &Plan, work: &W) -> Result<Outcome<W::Yield>, Failed> {
    let outcome = run(plan, work)?;
    match &outcome.first_error {
        None => Ok(outcome),
        Some(error) => Err(format!(
            "{} of {} calls failed, the first: {error}",
            outcome.failed,
            outcome.failed + outcome.done
        )
        .into()),
    }
}
