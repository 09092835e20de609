//! Voices that calls of accounts made. Their names are the clients' own and pass as they are; what is kept is
//! whose they are, and where.

use filegate_types::{AccountId, ChannelId, FileId, KeyId, UnixMillis};

use super::replicas::{IDS_MAX, file_id};
use super::sql::{self, Row, Value};
use super::{Catalog, corrupt_column, places, synced};
use crate::error::StoreError;

/// A voice of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoiceRow {
    /// Its name.
    pub voice_id: String,
    /// Where it is.
    pub channel_id: ChannelId,
    /// Whether it is known to be there.
    pub state: VoiceState,
    /// The file it was cloned from.
    pub file_id: Option<FileId>,
    /// When it was claimed.
    pub created_at: UnixMillis,
}

/// See [`VoiceRow::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VoiceState {
    /// Upstream has not answered yet, or its answer was lost.
    Claimed,
    /// It is there.
    Ready,
}

impl VoiceState {
    /// The name in rows and replies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Ready => "ready",
        }
    }
}

impl Catalog {
    /// The account's own among these names, on all channels.
    pub async fn voices(
        &self,
        account: AccountId,
        names: Vec<String>,
    ) -> Result<Vec<VoiceRow>, StoreError> {
        self.engine
            .read_few("looking for voices", move |c| {
                let mut found = Vec::new();
                for some in names.chunks(IDS_MAX) {
                    let mut statement = c.prepare_cached(&format!(
                        "SELECT {VOICE} FROM voices
                         WHERE account_id = ?1 AND state <> 'deleted' AND voice_id IN ({})",
                        places(2, some.len())
                    ))?;
                    let names = some.iter().map(|name| Value::Text(name.clone()));
                    let values: Vec<_> =
                        [Value::Integer(account.0)].into_iter().chain(names).collect();
                    for row in statement.query_map(&values[..], voice)? {
                        found.push(row?);
                    }
                }
                Ok(found)
            })
            .await
    }

    /// Every voice of the account.
    pub async fn all_voices(&self, account: AccountId) -> Result<Vec<VoiceRow>, StoreError> {
        self.engine
            .read("listing voices", move |c| {
                let mut statement = c.prepare_cached(&format!(
                    "SELECT {VOICE} FROM voices WHERE account_id = ?1 AND state <> 'deleted'
                     ORDER BY voice_id, channel_id"
                ))?;
                statement.query_map([account.0], voice)?.collect()
            })
            .await
    }

    /// Whose these names are, on which channel, whoever that is: so that a name of somebody else is refused.
    pub async fn voice_owners(
        &self,
        names: Vec<String>,
    ) -> Result<Vec<(String, ChannelId, AccountId)>, StoreError> {
        self.engine
            .read_few("looking for the owners of voices", move |c| {
                let mut found = Vec::new();
                for some in names.chunks(IDS_MAX) {
                    let mut statement = c.prepare_cached(&format!(
                        "SELECT voice_id, channel_id, account_id FROM voices
                         WHERE voice_id IN ({}) AND state <> 'deleted'",
                        places(1, some.len())
                    ))?;
                    let values: Vec<_> =
                        some.iter().map(|name| Value::Text(name.clone())).collect();
                    let rows = statement.query_map(&values[..], |row| {
                        Ok((row.get(0)?, ChannelId(row.get(1)?), AccountId(row.get(2)?)))
                    })?;
                    for row in rows {
                        found.push(row?);
                    }
                }
                Ok(found)
            })
            .await
    }

    /// Claims a name on a channel before upstream is asked to make the voice. False: it is another account's
    /// there. One statement: of two accounts that claim one name, the second sees the row of the first.
    pub async fn claim_voice(
        &self,
        account: AccountId,
        key: KeyId,
        channel: ChannelId,
        voice_id: String,
        file: Option<FileId>,
        now: UnixMillis,
    ) -> Result<bool, StoreError> {
        self.engine
            .write(synced("claiming a voice"), move |c| {
                // A voice that is there stays what it is: upstream will refuse to make it again.
                c.prepare_cached(
                    "INSERT INTO voices (channel_id, voice_id, account_id, key_id, state, file_id,
                                         created_at)
                     VALUES (?1, ?2, ?3, ?4, 'claimed', ?5, ?6)
                     ON CONFLICT (channel_id, voice_id) DO UPDATE SET
                         account_id = excluded.account_id, key_id = excluded.key_id,
                         state = CASE voices.state WHEN 'ready' THEN 'ready' ELSE 'claimed' END,
                         file_id = CASE voices.state WHEN 'ready' THEN voices.file_id
                                                     ELSE excluded.file_id END,
                         created_at = CASE voices.state WHEN 'ready' THEN voices.created_at
                                                        ELSE excluded.created_at END
                     WHERE voices.account_id = excluded.account_id OR voices.state = 'deleted'",
                )?
                .execute((channel.0, &voice_id, account.0, key.0, file.map(FileId::get), now.0))
                .map(|claimed| claimed == 1)
            })
            .await
    }

    /// Writes down that a voice is there, be it claimed before or named by upstream. False: it is another
    /// account's there.
    pub async fn voice_ready(
        &self,
        account: AccountId,
        channel: ChannelId,
        voice_id: String,
        now: UnixMillis,
    ) -> Result<bool, StoreError> {
        self.engine
            .write(synced("noting a voice"), move |c| {
                c.prepare_cached(
                    "INSERT INTO voices (channel_id, voice_id, account_id, state, created_at)
                     VALUES (?1, ?2, ?3, 'ready', ?4)
                     ON CONFLICT (channel_id, voice_id) DO UPDATE SET
                         account_id = excluded.account_id, state = 'ready'
                     WHERE voices.account_id = excluded.account_id OR voices.state = 'deleted'",
                )?
                .execute((channel.0, &voice_id, account.0, now.0))
                .map(|noted| noted == 1)
            })
            .await
    }

    /// Gives a claim back: upstream refused to make the voice. One that is there stays.
    pub async fn voice_unclaimed(
        &self,
        account: AccountId,
        channel: ChannelId,
        voice_id: String,
    ) -> Result<(), StoreError> {
        self.engine
            .write(super::relaxed("giving up a voice"), move |c| {
                c.prepare_cached(
                    "DELETE FROM voices WHERE channel_id = ?1 AND voice_id = ?2
                       AND account_id = ?3 AND state = 'claimed'",
                )?
                .queue((channel.0, &voice_id, account.0))
            })
            .await
    }

    /// Writes down that upstream has deleted a voice of the account.
    pub async fn voice_deleted(
        &self,
        account: AccountId,
        channel: ChannelId,
        voice_id: String,
    ) -> Result<(), StoreError> {
        self.engine
            .write(synced("noting that a voice is deleted"), move |c| {
                c.prepare_cached(
                    "UPDATE voices SET state = 'deleted'
                     WHERE channel_id = ?1 AND voice_id = ?2 AND account_id = ?3",
                )?
                .queue((channel.0, &voice_id, account.0))
            })
            .await
    }
}

const VOICE: &str = "voice_id, channel_id, state, file_id, created_at";

fn voice(row: &Row<'_>) -> sql::Result<VoiceRow> {
    let state: String = row.get(2)?;
    let state = match state.as_str() {
        "claimed" => VoiceState::Claimed,
        "ready" => VoiceState::Ready,
        _ => return Err(corrupt_column(2, std::io::Error::other("an unknown state of a voice"))),
    };
    let cloned_from: Option<i64> = row.get(3)?;
    Ok(VoiceRow {
        voice_id: row.get(0)?,
        channel_id: ChannelId(row.get(1)?),
        state,
        file_id: cloned_from.map(|_| file_id(row, 3)).transpose()?,
        created_at: UnixMillis(row.get(4)?),
    })
}
