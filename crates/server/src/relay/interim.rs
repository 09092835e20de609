//! What other branches bring, until they are merged: rows of channels (store) and the table of calls.

use std::borrow::Cow;

use filegate_store::StoreError;
use filegate_types::{
    AccountId, ChannelCondition, ChannelId, ChannelSettings, ChannelState, UnixMillis,
};
use http::Method;

use crate::app::App;

/// As `filegate_store::ChannelRow` will be.
#[derive(Debug, Clone)]
pub(crate) struct ChannelRow {
    pub(crate) channel_id: ChannelId,
    pub(crate) name: String,
    pub(crate) account_id: Option<AccountId>,
    pub(crate) base_url: String,
    pub(crate) sealed_key: Vec<u8>,
    pub(crate) state: ChannelState,
    pub(crate) settings: ChannelSettings,
    pub(crate) condition: ChannelCondition,
    pub(crate) condition_until: Option<UnixMillis>,
}

/// As `Catalog::channels` will be.
pub(crate) async fn channels(_app: &App) -> Result<Vec<ChannelRow>, StoreError> {
    Ok(vec![])
}

/// Whether a call changes anything upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It may be made twice.
    None,
    /// It makes or deletes something.
    Lasting,
}

/// What is known of a call.
#[derive(Debug, Clone)]
pub(crate) struct CallRules {
    pub(crate) name: Cow<'static, str>,
    pub(crate) effect: Effect,
}

/// As `calls::lookup` will be.
pub(crate) fn lookup(method: &Method, path: &str) -> CallRules {
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let harmless = [
        "/v1/get_voice",
        "/v1/t2a_v2",
        "/v1/chat/completions",
        "/v1/text/chatcompletion_v2",
        "/v1/responses",
        "/anthropic/v1/messages",
        "/v1/coding_plan/vlm",
    ];
    let effect = if reads || harmless.contains(&path) { Effect::None } else { Effect::Lasting };
    CallRules { name: path.to_owned().into(), effect }
}
