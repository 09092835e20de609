//! The record of calls: what was asked and how it was answered, so that tests can count.

use std::collections::VecDeque;

use filegate_types::UnixMillis;
use serde::Serialize;
use serde_json::Value;

/// Calls kept; older ones are forgotten, and counted as such.
const CALLS_MAX: usize = 20_000;
/// Bytes of bodies kept; beyond that, too, older calls are forgotten.
const BODIES_BYTES_MAX: usize = 256 << 20;

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
    /// Its headers in their order but for credentials, when bodies are kept.
    pub(crate) headers: Vec<(String, String)>,
    /// How its body begins, when bodies are kept; what is not UTF-8 is replaced.
    pub(crate) body: Option<String>,
    /// What else is known, such as an upload's file.
    pub(crate) note: Value,
    /// Whether it has ended, however.
    pub(crate) ended: bool,
}

impl Call {
    fn body_bytes(&self) -> usize {
        self.body.as_ref().map_or(0, String::len)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Calls {
    kept: VecDeque<Call>,
    last: u64,
    /// Bytes of the bodies in `kept`.
    body_bytes: usize,
}

impl Calls {
    /// Keeps a call that has arrived; gives its number.
    pub(crate) fn begin(&mut self, mut call: Call) -> u64 {
        self.last += 1;
        call.nth = self.last;
        if self.kept.len() >= CALLS_MAX {
            self.forget_oldest();
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
            let before = call.body_bytes();
            change(call);
            self.body_bytes = self.body_bytes - before + call.body_bytes();
        }
        while self.body_bytes > BODIES_BYTES_MAX {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let forgotten = self.kept.pop_front().map_or(0, |call| call.body_bytes());
        self.body_bytes -= forgotten;
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
        self.body_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        Call {
            nth: 0,
            at_ms: UnixMillis(0),
            method: String::new(),
            path: String::new(),
            query: String::new(),
            account: None,
            trace_id: String::new(),
            fault: None,
            status: None,
            code: None,
            bytes: 0,
            sha256: String::new(),
            headers: vec![],
            body: None,
            note: Value::Null,
            ended: false,
        }
    }

    #[test]
    fn the_oldest_are_forgotten_by_number_and_by_size() {
        let mut calls = Calls::default();
        for _nth in 0..=CALLS_MAX {
            calls.begin(call());
        }
        let first = |calls: &Calls| calls.kept().next().map(|call| call.nth);
        assert_eq!((first(&calls), calls.total()), (Some(2), CALLS_MAX as u64 + 1));
        calls.update(1, |_forgotten| unreachable!());
        calls.update(2, |call| call.ended = true);
        assert!(calls.kept().next().is_some_and(|call| call.ended));

        calls.clear();
        assert_eq!(first(&calls), None);
        let nth = [calls.begin(call()), calls.begin(call()), calls.begin(call())];
        for nth in nth {
            calls.update(nth, |call| call.body = Some("x".repeat(BODIES_BYTES_MAX / 2)));
        }
        assert_eq!(first(&calls), Some(nth[1]));
        assert_eq!(calls.body_bytes, BODIES_BYTES_MAX);
    }
}
