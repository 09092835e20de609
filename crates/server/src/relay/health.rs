//! How well a channel is: what its answers say of it, and for how long it is left alone.
//!
//! | trouble | from | until | ends |
//! |---|---|---|---|
//! | limited | 1002, 1039, 1041, 2045, 429 | `Retry-After`, else `relay.cool_down` | then, by itself |
//! | failing | `relay.breaker_failures` in a row | `relay.breaker_pause`, doubled each time | with the one call, or the probe, that goes through |
//! | out of balance | 1008, 402 | `relay.unusable_pause` | with the one call that goes through and costs something |
//! | key refused | 1004, 2049, 401, 403 | `relay.unusable_pause` | with the one call, or the probe, that goes through, or a new key |

use std::time::Duration;

use filegate_store::ChannelRow;
use filegate_types::{ChannelCondition, UnixMillis};

use crate::config::Relay as Settings;

/// The longest pause of a channel that fails.
const PAUSE_MAX: Duration = Duration::from_mins(5);
/// How a row says that its channel fails, rather than that it is over a limit.
const FAILING: &str = "failing";

/// What this process has seen of a channel.
#[derive(Debug, Default)]
pub(super) struct Health {
    failures: u32,
    /// How often it was given a pause since it last was well.
    pauses: u32,
    trouble: Option<Trouble>,
    /// A call is on its way that shows whether it is over.
    pub(super) trying: bool,
}

/// Why a channel is not called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) kind: TroubleKind,
    pub(crate) until: UnixMillis,
    noted_at: UnixMillis,
}

/// See the table above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TroubleKind {
    Limited,
    Failing,
    OutOfBalance,
    KeyRefused,
}

/// What a channel's failure says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is over a limit of its own; it may have said for how long.
    Limited(Option<Duration>),
    /// It has no money.
    OutOfBalance,
    /// Its key is refused.
    KeyRefused,
    /// No connection could be made.
    Unreachable,
    /// It failed, or its answers make no sense.
    Failed,
    /// It took too long.
    TimedOut,
}

/// Whether a channel may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It may.
    Well,
    /// One call may, to see whether it is over.
    Try,
    /// It may not.
    Out(Trouble),
}

impl Health {
    /// Whether calls may be made at `now`, by this and by what the channel's row says.
    pub(super) fn standing(&self, row: &ChannelRow, now: UnixMillis) -> Standing {
        match self.trouble(row) {
            None => Standing::Well,
            Some(trouble) if trouble.until > now => Standing::Out(trouble),
            Some(trouble) if trouble.kind == TroubleKind::Limited => Standing::Well,
            Some(trouble) if self.trying => Standing::Out(trouble),
            Some(_) => Standing::Try,
        }
    }

    /// What is wrong, whether or not that keeps calls away.
    pub(super) fn trouble(&self, row: &ChannelRow) -> Option<Trouble> {
        self.trouble.or_else(|| Trouble::of_row(row))
    }

    /// Whether another replica has seen, after this was noted, that all is well.
    pub(super) fn is_over_by(&self, row: &ChannelRow) -> bool {
        self.trouble.is_some_and(|trouble| {
            row.condition == ChannelCondition::Well
                && row.condition_since.is_some_and(|since| since > trouble.noted_at)
        })
    }

    /// Notes a failure.
    pub(super) fn failed(
        &mut self,
        settings: &Settings,
        fault: Fault,
        began: UnixMillis,
        now: UnixMillis,
    ) -> Option<Trouble> {
        let kind = match fault {
            Fault::Limited(_) => TroubleKind::Limited,
            Fault::OutOfBalance => TroubleKind::OutOfBalance,
            Fault::KeyRefused => TroubleKind::KeyRefused,
            Fault::Unreachable | Fault::Failed | Fault::TimedOut => TroubleKind::Failing,
        };
        let pause = match fault {
            Fault::Limited(pause) => pause.unwrap_or(settings.cool_down.0),
            Fault::OutOfBalance | Fault::KeyRefused => settings.unusable_pause.0,
            _ => {
                self.failures = self.failures.saturating_add(1);
                let paused = self.trouble.filter(|trouble| trouble.kind == TroubleKind::Failing);
                let opens = match paused {
                    // It began before the pause: it says nothing new.
                    Some(trouble) => began >= trouble.until,
                    None => self.failures >= settings.breaker_failures.max(1),
                };
                if !opens {
                    return None;
                }
                let pause = settings.breaker_pause.0 * 2u32.saturating_pow(self.pauses.min(16));
                self.pauses += 1;
                pause.min(PAUSE_MAX.max(settings.breaker_pause.0))
            }
        };
        let trouble = Trouble { kind, until: now.plus(pause), noted_at: now };
        if let Some(other) = self.trouble
            && other.until > now
            && (other.kind > kind || (other.kind == kind && other.until >= trouble.until))
        {
            return None;
        }
        self.trouble = Some(trouble);
        Some(trouble)
    }

    /// Notes that a call which began at `began` went through; says whether trouble is over by that.
    pub(super) fn went_through(
        &mut self,
        row: &ChannelRow,
        began: UnixMillis,
        costs: bool,
    ) -> bool {
        let trouble = self.trouble(row);
        if let Some(trouble) = trouble {
            // It began before the trouble, or asks for nothing that the trouble keeps from it.
            let tells = began >= trouble.noted_at
                && (began >= trouble.until || trouble.kind != TroubleKind::Limited)
                && (costs || trouble.kind != TroubleKind::OutOfBalance);
            if !tells {
                return false;
            }
        }
        *self = Self { trying: self.trying, ..Self::default() };
        trouble.is_some()
    }
}

impl Trouble {
    /// What a row says.
    fn of_row(row: &ChannelRow) -> Option<Self> {
        let kind = match row.condition {
            ChannelCondition::Well => return None,
            ChannelCondition::Cooling if row.condition_why.starts_with(FAILING) => {
                TroubleKind::Failing
            }
            ChannelCondition::Cooling => TroubleKind::Limited,
            ChannelCondition::OutOfBalance => TroubleKind::OutOfBalance,
            ChannelCondition::KeyRefused => TroubleKind::KeyRefused,
        };
        let noted_at = row.condition_since.unwrap_or(UnixMillis(0));
        Some(Self { kind, until: row.condition_until.unwrap_or(UnixMillis(0)), noted_at })
    }
}

#[cfg(test)]
impl Trouble {
    pub(super) fn at(kind: TroubleKind, until: UnixMillis, noted_at: UnixMillis) -> Self {
        Self { kind, until, noted_at }
    }
}

impl TroubleKind {
    pub(super) fn condition(self) -> ChannelCondition {
        match self {
            Self::Limited | Self::Failing => ChannelCondition::Cooling,
            Self::OutOfBalance => ChannelCondition::OutOfBalance,
            Self::KeyRefused => ChannelCondition::KeyRefused,
        }
    }

    pub(super) fn why(self) -> &'static str {
        match self {
            Self::Limited => "limited: it answered that it is over a limit",
            Self::Failing => "failing: it was not reached, or answered nothing of use",
            Self::OutOfBalance => "it answered that it has no money",
            Self::KeyRefused => "it answered that its key is not good",
        }
    }
}

impl Fault {
    /// The name in metrics and in what clients are told.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Limited(_) => "limited",
            Self::OutOfBalance => "out_of_balance",
            Self::KeyRefused => "key_refused",
            Self::Unreachable => "unreachable",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
        }
    }
}
