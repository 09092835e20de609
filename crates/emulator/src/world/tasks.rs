//! Tasks: long texts and videos. What becomes of one depends on the clock alone.

use std::time::Duration;

use filegate_types::UnixMillis;

use super::{AccountIx, World};
use crate::reply::Refusal;

/// Tasks in an account.
const TASKS_MAX: usize = 100_000;
/// How long the result of a long text is kept.
pub(crate) const SPEECH_KEPT: Duration = Duration::from_hours(9);

/// What a task makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Product {
    /// A tar of purpose `t2a_async`.
    Speech,
    /// An mp4 of purpose `video_generation`.
    Video {
        /// In pixels.
        width: u32,
        /// In pixels.
        height: u32,
    },
}

/// What a query says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Preparing,
    Queueing,
    Processing,
    Success,
    Fail,
    Expired,
}

/// When a task gets where, from its creation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) queueing: UnixMillis,
    pub(crate) processing: UnixMillis,
    pub(crate) done: UnixMillis,
}

impl Times {
    /// Queueing after a tenth of `all`, processing after three.
    pub(crate) fn new(created: UnixMillis, all: Duration) -> Self {
        Self {
            queueing: created.plus(all / 10),
            processing: created.plus(all * 3 / 10),
            done: created.plus(all),
        }
    }
}

/// Where news of a task go.
#[derive(Debug, Clone)]
pub(crate) struct Callback {
    pub(crate) url: String,
    /// What was told last.
    pub(crate) told: Option<Status>,
}

#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) id: i64,
    pub(crate) product: Product,
    pub(crate) file_id: i64,
    pub(crate) times: Times,
    /// It was made to fail.
    pub(crate) fails: bool,
    pub(crate) callback: Option<Callback>,
}

impl Task {
    pub(crate) fn status(&self, now: UnixMillis) -> Status {
        let speech = self.product == Product::Speech;
        if now < self.times.done {
            return match () {
                () if speech || now >= self.times.processing => Status::Processing,
                () if now >= self.times.queueing => Status::Queueing,
                () => Status::Preparing,
            };
        }
        match () {
            () if self.fails => Status::Fail,
            () if speech && now >= self.times.done.plus(SPEECH_KEPT) => Status::Expired,
            () => Status::Success,
        }
    }
}

impl World {
    pub(crate) fn add_task(&mut self, ix: AccountIx, task: Task) -> Result<(), Refusal> {
        let tasks = &mut self.account_mut(ix).tasks;
        if tasks.len() >= TASKS_MAX {
            return Err(Refusal::full("tasks of the account"));
        }
        tasks.insert(task.id, task);
        Ok(())
    }

    /// The task, if the account has it and it makes such a thing.
    pub(crate) fn task(&self, ix: AccountIx, id: i64, speech: bool) -> Option<&Task> {
        let task = self.account(ix).tasks.get(&id)?;
        ((task.product == Product::Speech) == speech).then_some(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_alone_decides() {
        let task = |product, fails| Task {
            id: 1,
            product,
            file_id: 2,
            times: Times::new(UnixMillis(1000), Duration::from_secs(10)),
            fails,
            callback: None,
        };
        let video = task(Product::Video { width: 2, height: 2 }, false);
        let at = |seconds| video.status(UnixMillis(1000).plus(Duration::from_secs(seconds)));
        assert_eq!(
            [at(0), at(1), at(3), at(9), at(10), at(1_000_000)],
            [
                Status::Preparing,
                Status::Queueing,
                Status::Processing,
                Status::Processing,
                Status::Success,
                Status::Success
            ]
        );
        assert_eq!(task(Product::Speech, true).status(UnixMillis(11_000)), Status::Fail);
        let speech = task(Product::Speech, false);
        assert_eq!(speech.status(UnixMillis(1000)), Status::Processing);
        assert_eq!(speech.status(UnixMillis(11_000).plus(SPEECH_KEPT)), Status::Expired);
    }
}
