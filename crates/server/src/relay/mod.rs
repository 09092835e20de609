//! Calls that are upstream's to answer, on a channel.

mod body;
pub(crate) mod calls;
pub(crate) mod events;
mod headers;
mod http;
pub(crate) mod ids;
mod interim;
pub mod json;
pub(crate) mod money;
pub(crate) mod named;
pub(crate) mod replicate;
pub(crate) mod target;

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use filegate_types::{ApiError, Call, ErrorCode};

use crate::app::App;
use crate::config::Config;
use crate::http::layer::Trace;
use crate::http::{auth, reply};
use crate::lifecycle::Tasks;
use target::Target;

/// What relayed calls share.
#[derive(Debug)]
pub(crate) struct Relay {
    /// What is copied to channels at the moment.
    pub(crate) replicator: replicate::Replicator,
    /// What is held for calls in progress, and counts of those that cost nothing.
    pub(crate) books: money::Books,
}

impl Relay {
    pub(crate) fn new(_config: &Config, _tasks: &Tasks) -> Self {
        Self { replicator: replicate::Replicator::default(), books: money::Books::default() }
    }

    /// Whether there is a channel at all.
    pub(crate) async fn has_channels(&self, app: &App) -> bool {
        interim::channels(app).await.is_ok_and(|rows| !rows.is_empty())
    }
}

/// Answers a call from a channel.
pub(crate) async fn handle(app: &Arc<App>, target: Target, request: Request) -> Response {
    let _rules = interim::lookup(request.method(), &target.known_as);
    let trace = request.extensions().get::<Trace>().cloned().expect("the outermost layer sets it");
    let admitted = auth::admit(app, request.headers(), &trace, Call::Relay).await;
    crate::http::body::drain(request, app);
    let error = admitted.err().unwrap_or_else(|| ApiError::plain(ErrorCode::Internal));
    reply::refusal(&error, reply::bare)
}

/// Writes down what was counted.
pub(crate) async fn write_down(app: &App) -> Result<(), filegate_store::StoreError> {
    money::write_down(app).await?;
    replicate::write_down(app).await
}
