//! Requests and bytes in a minute, counted for all replicas together.
//!
//! The rule is the one of [`gate::limits`](crate::gate::limits), as a bucket that leaks: a meter is how
//! much is used and when that was so. A limit is part of its meter's name, so one that was changed
//! starts anew, and replicas with different settings do not reset each other's. A meter that nothing
//! is used of any more expires.

use std::sync::{Arc, LazyLock};

use filegate_types::ApiError;
use filegate_types::units::Bytes;
use redis::Script;

use super::link::{Away, Link};
use crate::gate::Subject;
use crate::gate::limits::{Allowance, Cells, Rate, bytes_used_up};

static REQUESTS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("requests.lua")));
static BYTES: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("bytes.lua")));

/// The meters of everybody.
#[derive(Debug)]
pub(crate) struct SharedMeters {
    link: Arc<Link>,
}

impl SharedMeters {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link }
    }

    /// Counts a request for each of `asked` in turn, as far as the first that has none left; gives what
    /// is left of each.
    pub(crate) async fn requests(
        &self,
        asked: &[(Subject, Rate)],
    ) -> Result<(Vec<Allowance>, Result<(), ApiError>), Away> {
        let mut script = REQUESTS.prepare_invoke();
        // Nothing in a minute is nothing to ask for, but who is before it is charged.
        for (subject, rate) in asked.iter().take_while(|(_, rate)| rate.per_minute > 0) {
            let (per_minute, burst) = (rate.per_minute, rate.burst);
            let name = format_args!("r:{}:{per_minute}:{burst}", id(*subject));
            script.key(self.link.name(name));
            script.arg(rate.each().as_secs_f64() * 1e6).arg(burst);
        }
        let answers: Vec<(bool, u32, u64)> = if asked.first().is_some_and(|a| a.1.per_minute > 0) {
            self.link.ask(&script).await?
        } else {
            vec![]
        };
        let mut left = Vec::new();
        for (i, (subject, rate)) in asked.iter().enumerate() {
            match answers.get(i) {
                Some(&(true, remaining, _)) => left.push(rate.allowance(remaining)),
                Some(&(false, _, micros)) => {
                    left.push(rate.nothing_left());
                    return Ok((left, Err(rate.used_up(*subject, seconds(micros)))));
                }
                None => {
                    left.push(rate.nothing_left());
                    return Ok((left, Err(rate.used_up(*subject, 60))));
                }
            }
        }
        Ok((left, Ok(())))
    }

    /// Charges the bytes of an upload to each of `asked` in turn, as far as the first that has too few
    /// left.
    pub(crate) async fn upload(
        &self,
        asked: &[(Subject, Bytes)],
        declared: Option<u64>,
    ) -> Result<Result<(), ApiError>, Away> {
        let charge = |cells: &Cells| cells.of(declared.unwrap_or(1)).get();
        let answers = self.charge("now", asked, charge).await?;
        for (i, (subject, per_minute)) in asked.iter().enumerate() {
            match answers.get(i) {
                Some((true, _)) => {}
                Some(&(false, micros)) => {
                    return Ok(Err(bytes_used_up(*subject, *per_minute, seconds(micros))));
                }
                None => return Ok(Err(bytes_used_up(*subject, *per_minute, 60))),
            }
        }
        Ok(Ok(()))
    }

    /// Charges what came of an upload without a declared length.
    pub(crate) async fn received(
        &self,
        asked: &[(Subject, Bytes)],
        bytes: u64,
    ) -> Result<(), Away> {
        // One cell of it was charged when it was let in.
        let charge = |cells: &Cells| cells.of(bytes).get() - 1;
        self.charge("owed", asked, charge).await.map(drop)
    }

    async fn charge(
        &self,
        how: &str,
        asked: &[(Subject, Bytes)],
        charge: impl Fn(&Cells) -> u32,
    ) -> Result<Vec<(bool, u64)>, Away> {
        let mut script = BYTES.arg(how);
        for (subject, per_minute) in asked.iter().take_while(|(_, per_minute)| per_minute.0 > 0) {
            let cells = Cells::of_minute(*per_minute);
            script.key(self.link.name(format_args!("b:{}:{}", id(*subject), per_minute.0)));
            script.arg(cells.each().as_secs_f64() * 1e6).arg(cells.count).arg(charge(&cells));
        }
        if asked.first().is_none_or(|(_, per_minute)| per_minute.0 == 0) {
            return Ok(vec![]);
        }
        self.link.ask(&script).await
    }
}

/// What is said of a wait: never less than it takes.
fn seconds(micros: u64) -> u64 {
    micros.div_ceil(1_000_000)
}

/// Whose it is, in the names of keys.
pub(super) fn id(subject: Subject) -> String {
    match subject {
        Subject::Key(key) => format!("k{}", key.0),
        Subject::Account(account) => format!("a{}", account.0),
        Subject::Channel(channel) => format!("c{}", channel.0),
    }
}
