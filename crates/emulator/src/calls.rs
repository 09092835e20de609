//! The record of calls: what was asked and how it was answered, so that tests can count.

use std::collections::VecDeque;

use filegate_types::UnixMillis;
use serde::Serialize;
use serde_json::Value;

/// Calls kept; older ones are forgotten, and counted as such.
const CALLS_MAX: usize = 20_000;

/// A call.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Call {
    /// Its place in the order of arrival, from 1.
    pub(crate) nth: u64,
    /// When it arrived, by the emulator's clock, in Unix milliseconds.
    pub(crate) at_ms: UnixMillis,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    /// Whose key was sent; null for none or an unknown one.
    pub(crate) account: Option<String>,
    pub(crate) trace_id: String,
    /// The kind of the fault that it met.
    pub(crate) fault: Option<&'static str>,
    /// Null while it runs, and when no answer was given.
    pub(crate) status: Option<u16>,
    /// `base_resp.status_code`; null when the answer has none.
    pub(crate) code: Option<i64>,
    /// Bytes of the request's body that were read.
    pub(crate) bytes: u64,
    /// Their SHA-256, in hex.
    pub(crate) sha256: String,
    /// What else is known, such as an upload's file.
    pub(crate) note: Value,
    /// Whether it has ended, however.
    pub(crate) ended: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Calls {
    kept: VecDeque<Call>,
    last: u64,
}

impl Calls {
    /// Keeps a call that has arrived; gives its number.
    pub(crate) fn begin(&mut self, mut call: Call) -> u64 {
        self.last += 1;
        call.nth = self.last;
        if self.kept.len() >= CALLS_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(call);
        self.last
    }

    /// Changes a call that is still kept.
    pub(crate) fn update(&mut self, nth: u64, change: impl FnOnce(&mut Call)) {
        // Numbers are consecutive, also after a clear.
        let first = self.kept.front().map_or(0, |call| call.nth);
        let place = nth.checked_sub(first).and_then(|place| usize::try_from(place).ok());
        if let Some(call) = place.and_then(|place| self.kept.get_mut(place)) {
            change(call);
        }
    }

    pub(crate) fn kept(&self) -> impl Iterator<Item = &Call> {
        self.kept.iter()
    }

    /// How many there were since the start.
    pub(crate) fn total(&self) -> u64 {
        self.last
    }

    pub(crate) fn clear(&mut self) {
        self.kept.clear();
    }
}
