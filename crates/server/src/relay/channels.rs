//! Channels as they are now: their rows, what their answers say of them, and how much they may be given.
//!
//! Rows are read when calls come, at most twice a second, so that what another process changes holds within a
//! second; a change of this process's holds at once. What an answer says of a channel counts here from that moment, and
//! is written to its row for other replicas to see ([`health`](super::health)).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use filegate_store::{ChannelRow, StoreError};
use filegate_types::{ChannelCondition, ChannelId, ChannelState, Clock, UnixMillis};
use http::HeaderValue;

use super::health::{Fault, Health, Standing, TroubleKind};
use super::http::Origin;
use super::pool::Pool;
use crate::app::App;
use crate::config::Relay as Settings;
use crate::lifecycle::Tasks;
use crate::secrets::Secrets;

/// How long rows are used before they are read again.
const ROWS_LIFE: Duration = Duration::from_millis(500);
/// All channels.
#[derive(Debug)]
pub(crate) struct Channels {
    known: Mutex<Known>,
    /// One reads for all.
    reading: tokio::sync::Mutex<()>,
    tasks: Tasks,
}

/// What was read, and when.
#[derive(Debug, Default)]
struct Known {
    channels: Arc<BTreeMap<ChannelId, Arc<Channel>>>,
    read_at: Option<Instant>,
    /// Counts what was announced: a read that began before sees too little.
    generation: u64,
}

/// A channel.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) id: ChannelId,
    facts: RwLock<Arc<Facts>>,
    pub(crate) pool: Arc<Pool>,
    trouble: Mutex<Health>,
    in_flight: AtomicU32,
}

/// How nearly all calls end.
const ANSWERED: &str = "answered";

/// What operators say of a channel.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) row: ChannelRow,
    /// Where and with which key; `None` if it cannot be called.
    pub(crate) access: Option<Access>,
    /// Calls on their way to it, for metrics. To look it up for each call would cost more than to count.
    in_flight: metrics::Gauge,
    /// Those that it answered.
    answered: metrics::Counter,
}

/// What it takes to call a channel.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) origin: Origin,
    /// The key.
    pub(crate) key: HeaderValue,
    /// `Bearer` and the key.
    pub(crate) bearer: HeaderValue,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// A call on its way to a channel.
#[derive(Debug)]
pub(crate) struct Busy {
    channel: Arc<Channel>,
    began: UnixMillis,
    /// Whether it is the one that shows whether trouble is over.
    tries: bool,
    noted: AtomicBool,
    in_flight: metrics::Gauge,
}

/// Why a channel has no room for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// `max_concurrency` calls are in progress, or another one tries whether it is well again.
    InFlight,
    /// `max_rpm` is used up, for so many seconds.
    Rate(u32),
}

impl Channels {
    pub(crate) fn new(tasks: &Tasks) -> Self {
        Self {
            known: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            tasks: tasks.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was changed: the next call reads rows again.
    pub(crate) fn forget(&self) {
        let mut known = self.lock();
        known.generation += 1;
        known.read_at = None;
    }

    fn fresh(&self) -> Option<Arc<BTreeMap<ChannelId, Arc<Channel>>>> {
        let known = self.lock();
        known
            .read_at
            .is_some_and(|at| at.elapsed() < ROWS_LIFE)
            .then(|| Arc::clone(&known.channels))
    }

    /// All channels, those that are removed too.
    ///
    /// # Errors
    /// Those of the catalog.
    pub(crate) async fn all(
        &self,
        app: &App,
    ) -> Result<Arc<BTreeMap<ChannelId, Arc<Channel>>>, StoreError> {
        if let Some(channels) = self.fresh() {
            return Ok(channels);
        }
        let _one = self.reading.lock().await;
        if let Some(channels) = self.fresh() {
            return Ok(channels);
        }
        let (generation, read_at) = (self.lock().generation, Instant::now());
        let rows = app.catalog.channels().await?;
        let mut known = self.lock();
        let mut channels = BTreeMap::new();
        for row in rows {
            let id = row.channel_id;
            let channel = match known.channels.get(&id) {
                Some(channel) => {
                    channel.update(row, &app.secrets);
                    Arc::clone(channel)
                }
                None => Arc::new(Channel::new(row, &app.config.relay, &self.tasks, &app.secrets)),
            };
            channels.insert(id, channel);
        }
        known.channels = Arc::new(channels);
        if known.generation == generation {
            known.read_at = Some(read_at);
        }
        Ok(Arc::clone(&known.channels))
    }
}

impl Facts {
    fn of(row: ChannelRow, secrets: &Secrets) -> Self {
        let called = matches!(row.state, ChannelState::Active | ChannelState::Draining);
        let access = called.then(|| Access::of(&row, secrets)).flatten();
        Self::with(row, access)
    }

    fn with(row: ChannelRow, access: Option<Access>) -> Self {
        let in_flight =
            metrics::gauge!("filegate_channel_calls_in_flight", "channel" => row.name.clone());
        let answered = calls_total(&row.name, ANSWERED);
        Self { row, access, in_flight, answered }
    }
}

impl Access {
    fn of(row: &ChannelRow, secrets: &Secrets) -> Option<Self> {
        let opened = secrets.open(row);
        let key = opened
            .inspect_err(|error| {
                let (channel, error) = (&row.name, error as &dyn std::error::Error);
                tracing::error!(channel, error, "relay.channel.key");
            })
            .ok()?;
        let Some(origin) = Origin::of(&row.base_url) else {
            tracing::error!(channel = row.name, "relay.channel.url: it is no http or https URL");
            return None;
        };
        let secret = |text: String| {
            let mut value = HeaderValue::try_from(text).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        Some(Self { origin, bearer: secret(format!("Bearer {key}"))?, key: secret(key)? })
    }
}

impl Channel {
    fn new(row: ChannelRow, settings: &Settings, tasks: &Tasks, secrets: &Secrets) -> Self {
        Self {
            id: row.channel_id,
            facts: RwLock::new(Arc::new(Facts::of(row, secrets))),
            pool: Pool::new(settings, tasks),
            trouble: Mutex::default(),
            in_flight: AtomicU32::new(0),
        }
    }

    /// What operators say of it.
    pub(crate) fn facts(&self) -> Arc<Facts> {
        Arc::clone(&self.facts.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was read.
    fn update(&self, row: ChannelRow, secrets: &Secrets) {
        let facts = self.facts();
        let moved = row.base_url != facts.row.base_url || row.sealed_key != facts.row.sealed_key;
        {
            let mut health = self.health();
            // Another key, or word of another replica's that it is well again.
            if moved || health.is_over_by(&row) {
                *health = Health::default();
            }
        }
        if row == facts.row && facts.access.is_some() {
            return;
        }
        let reopened = moved || row.state != facts.row.state || facts.access.is_none();
        let fresh = if reopened {
            self.pool.clear();
            Facts::of(row, secrets)
        } else {
            Facts::with(row, facts.access.clone())
        };
        *self.facts.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
    }

    /// Whether it may be called at `now`, by what was seen here and by what its row says.
    pub(crate) fn standing(&self, now: UnixMillis) -> Standing {
        self.health().standing(&self.facts().row, now)
    }

    /// What it ails, whether or not that keeps calls from it.
    pub(crate) fn trouble(&self) -> Option<TroubleKind> {
        self.health().trouble(&self.facts().row).map(|trouble| trouble.kind)
    }

    /// Takes a place for a call.
    pub(crate) async fn enter(self: &Arc<Self>, app: &App) -> Result<Busy, Full> {
        let facts = self.facts();
        let now = app.clock.now();
        let most = facts.row.settings.max_concurrency.unwrap_or(u32::MAX);
        let taken = self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Acquire, |calls| {
            (calls < most).then_some(calls + 1)
        });
        taken.map_err(|_most| Full::InFlight)?;
        let mut busy = Busy {
            channel: Arc::clone(self),
            began: now,
            tries: false,
            noted: AtomicBool::new(false),
            in_flight: facts.in_flight.clone(),
        };
        facts.in_flight.increment(1);
        if let Some(per_minute) = facts.row.settings.max_rpm
            && let Err(wait_s) = app.gate.channel(self.id, per_minute).await
        {
            return Err(Full::Rate(wait_s));
        }
        let ends_by_trying = matches!(self.standing(now), Standing::Try);
        let mut health = self.health();
        if ends_by_trying {
            if std::mem::replace(&mut health.trying, true) {
                return Err(Full::InFlight);
            }
            busy.tries = true;
        }
        drop(health);
        Ok(busy)
    }

    /// Notes that a call which began at `began` went through; gives what its row said if trouble is over by that.
    fn went_through(&self, began: UnixMillis, costs: bool) -> Option<ChannelCondition> {
        let mut health = self.health();
        let facts = self.facts();
        if !health.went_through(&facts.row, began, costs) {
            return None;
        }
        let seen = facts.row.condition;
        // Not before the row says so would the next call come this way.
        let row = ChannelRow { condition: ChannelCondition::Well, ..facts.row.clone() };
        let well = Facts::with(row, facts.access.clone());
        *self.facts.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(well);
        Some(seen)
    }
}

impl Busy {
    /// Its channel.
    pub(crate) fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// The channel answered. `costs`: whether it would not have without money.
    pub(crate) fn answered(&self, app: &Arc<App>, costs: bool) {
        self.count(ANSWERED);
        if let Some(seen) = self.channel.went_through(self.began, costs) {
            self.channel.note(app, seen, ChannelCondition::Well, None, "");
        }
    }

    /// It did not, or said that it cannot.
    pub(crate) fn failed(&self, app: &Arc<App>, fault: Fault) {
        self.count(fault.name());
        let (settings, now) = (&app.config.relay, app.clock.now());
        if let Some(trouble) = self.channel.health().failed(settings, fault, self.began, now) {
            let channel = &self.channel.facts().row.name;
            tracing::warn!(channel, why = trouble.kind.why(), "relay.channel.trouble");
            let condition = trouble.kind.condition();
            let seen = self.channel.facts().row.condition;
            self.channel.note(app, seen, condition, Some(trouble.until), trouble.kind.why());
        }
    }

    fn count(&self, outcome: &'static str) {
        self.noted.store(true, Ordering::Relaxed);
        let facts = self.channel.facts();
        if outcome == ANSWERED {
            facts.answered.increment(1);
        } else {
            calls_total(&facts.row.name, outcome).increment(1);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.channel.in_flight.fetch_sub(1, Ordering::AcqRel);
        if self.tries {
            self.channel.health().trying = false;
        }
        self.in_flight.decrement(1);
    }
}

/// Calls to a channel that ended so.
fn calls_total(channel: &str, outcome: &'static str) -> metrics::Counter {
    metrics::counter!("filegate_channel_calls_total", "channel" => channel.to_owned(), "outcome" => outcome)
}

impl Channel {
    /// Writes its condition to its row, for other replicas.
    fn note(
        self: &Arc<Self>,
        app: &Arc<App>,
        seen: ChannelCondition,
        condition: ChannelCondition,
        until: Option<UnixMillis>,
        why: &'static str,
    ) {
        let (channel, app) = (Arc::clone(self), Arc::clone(app));
        let tasks = app.tasks.clone();
        tasks.spawn(async move {
            let now = app.clock.now();
            let noted =
                app.catalog.set_condition(channel.id, condition, until, why.to_owned(), seen, now);
            match noted.await {
                Ok(_changed) => app.relay.channels.forget(),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "relay.channel.note.failed");
                }
            }
        });
    }
}

/// Condition and calls of every channel, for metrics.
pub(crate) fn describe(channels: &BTreeMap<ChannelId, Arc<Channel>>, clock: &dyn Clock) {
    let mut names = HashMap::new();
    for channel in channels.values() {
        let facts = channel.facts();
        if facts.row.state == ChannelState::Removed {
            continue;
        }
        let condition = match channel.standing(clock.now()) {
            Standing::Well => ChannelCondition::Well,
            Standing::Out(trouble) => trouble.kind.condition(),
            Standing::Try => facts.row.condition,
        };
        names.insert(facts.row.name.clone(), condition);
    }
    for (name, condition) in names {
        for each in ChannelCondition::ALL {
            metrics::gauge!("filegate_channel_condition", "channel" => name.clone(), "condition" => each.name())
                .set(f64::from(u8::from(each == condition)));
        }
    }
}

#[cfg(test)]
mod tests {
    use filegate_types::ChannelSettings;

    use super::*;
    use crate::config::Config;

    fn row() -> ChannelRow {
        ChannelRow {
            channel_id: ChannelId(1),
            name: "one".to_owned(),
            account_id: None,
            base_url: "http://upstream".to_owned(),
            sealed_key: vec![],
            key_hint: String::new(),
            state: ChannelState::Active,
            settings: ChannelSettings::default(),
            created_at: UnixMillis(0),
            condition: ChannelCondition::Well,
            condition_until: None,
            condition_since: None,
            condition_why: String::new(),
        }
    }

    fn secrets() -> Secrets {
        let nowhere = "/nonexistent".into();
        Secrets::new(&Config { data_dir: nowhere, ..Config::default() }).unwrap()
    }

    fn channel() -> (Channel, Settings) {
        let settings = Settings {
            breaker_failures: 3,
            breaker_pause: filegate_types::units::Span::seconds(5),
            ..Settings::default()
        };
        (Channel::new(row(), &settings, &Tasks::default(), &secrets()), settings)
    }

    fn at(seconds: i64) -> UnixMillis {
        UnixMillis(seconds * 1000)
    }

    fn out(channel: &Channel, now: i64) -> Option<TroubleKind> {
        match channel.standing(at(now)) {
            Standing::Out(trouble) => Some(trouble.kind),
            Standing::Well | Standing::Try => None,
        }
    }

    #[test]
    fn failures_in_a_row_give_a_pause_that_doubles_until_it_is_well() {
        let (channel, settings) = channel();
        let fails =
            |began, now| channel.health().failed(&settings, Fault::Failed, at(began), at(now));
        assert_eq!((fails(0, 0), fails(0, 0)), (None, None));
        channel.went_through(at(0), true);
        assert_eq!((fails(1, 1), fails(1, 1)), (None, None));
        assert_eq!(fails(1, 1).unwrap().until, at(6));
        assert_eq!(out(&channel, 5), Some(TroubleKind::Failing));
        assert_eq!(channel.standing(at(6)), Standing::Try);
        // What began before the pause says nothing new.
        assert_eq!(fails(1, 7), None);
        assert_eq!(fails(7, 7).unwrap().until, at(17));
        assert_eq!(fails(17, 17).unwrap().until, at(37));
        // Nor does what was well before.
        assert_eq!(channel.went_through(at(16), true), None);
        assert_eq!(channel.went_through(at(37), true), Some(ChannelCondition::Well));
        assert_eq!(channel.standing(at(37)), Standing::Well);
        assert_eq!((fails(40, 40), fails(40, 40)), (None, None));
        assert_eq!(fails(40, 40).unwrap().until, at(45));
    }

    #[test]
    fn a_limit_ends_by_itself_and_the_longer_one_counts() {
        let (channel, settings) = channel();
        let limited = |seconds| {
            let pause = Some(Duration::from_secs(seconds));
            channel.health().failed(&settings, Fault::Limited(pause), at(0), at(0))
        };
        assert!(limited(9).is_some());
        assert!(limited(3).is_none());
        assert_eq!(out(&channel, 8), Some(TroubleKind::Limited));
        // A call that got through meanwhile does not end it.
        assert_eq!(channel.went_through(at(1), true), None);
        assert_eq!(out(&channel, 8), Some(TroubleKind::Limited));
        assert_eq!(channel.standing(at(9)), Standing::Well);
    }

    #[test]
    fn what_is_worse_stays_and_what_is_free_does_not_show_money() {
        let (channel, settings) = channel();
        assert!(channel.health().failed(&settings, Fault::OutOfBalance, at(0), at(0)).is_some());
        assert!(channel.health().failed(&settings, Fault::Limited(None), at(0), at(0)).is_none());
        let later = settings.unusable_pause.0.as_secs() as i64 + 1;
        assert_eq!(channel.standing(at(later)), Standing::Try);
        assert_eq!(channel.went_through(at(later), false), None);
        assert!(channel.went_through(at(later), true).is_some());
        assert_eq!(channel.standing(at(later)), Standing::Well);
    }

    #[test]
    fn rows_tell_of_what_other_replicas_have_seen() {
        let (channel, settings) = channel();
        let cooling = ChannelRow {
            condition: ChannelCondition::Cooling,
            condition_until: Some(at(10)),
            condition_since: Some(at(1)),
            condition_why: TroubleKind::Failing.why().to_owned(),
            ..row()
        };
        channel.update(cooling, &secrets());
        assert_eq!(out(&channel, 5), Some(TroubleKind::Failing));
        assert_eq!(channel.standing(at(10)), Standing::Try);
        channel.update(row(), &secrets());
        assert_eq!(channel.standing(at(5)), Standing::Well);

        channel.health().failed(&settings, Fault::KeyRefused, at(20), at(20));
        // A row that was read before it was written down changes nothing; one that was well later does.
        channel.update(row(), &secrets());
        assert_eq!(out(&channel, 21), Some(TroubleKind::KeyRefused));
        channel.update(ChannelRow { condition_since: Some(at(22)), ..row() }, &secrets());
        assert_eq!(channel.standing(at(23)), Standing::Well);
        // So does another key.
        channel.health().failed(&settings, Fault::KeyRefused, at(30), at(30));
        channel.update(ChannelRow { sealed_key: vec![1], ..row() }, &secrets());
        assert_eq!(channel.standing(at(31)), Standing::Well);
    }
}
