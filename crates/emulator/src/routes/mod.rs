//! What upstream answers: one route, one file.

mod content;
mod delete;
mod delete_voice;
mod download;
mod get_voice;
mod list;
mod retrieve;
mod speech;
mod speech_async;
mod speech_async_query;
mod speech_socket;
mod upload;
mod video;
mod video_query;
mod voice_clone;

pub(crate) use video_query::shown as shown_video;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::handler::Handler as _;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{get, post};

use crate::app::App;
use crate::{control, layer, links, reply};

/// Everything that is served.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let api = Router::new()
        .route("/v1/files/upload", post(upload::handle))
        .route("/v1/files/list", get(list::handle))
        .route("/v1/files/retrieve", get(retrieve::handle))
        .route("/v1/files/retrieve_content", get(content::handle))
        .route("/v1/files/delete", post(delete::handle))
        .route("/v1/voice_clone", post(voice_clone::handle))
        .route("/v1/get_voice", post(get_voice::handle))
        .route("/v1/delete_voice", post(delete_voice::handle))
        .route("/v1/t2a_v2", post(speech::handle))
        .route(layer::SOCKET_PATH, get(speech_socket::handle))
        .route("/v1/t2a_async_v2", post(speech_async::handle))
        .route("/v1/query/t2a_async_query_v2", get(speech_async_query::handle))
        .route("/v1/video_generation", post(video::handle))
        .route("/v1/query/video_generation", get(video_query::handle))
        .method_not_allowed_fallback(unknown_path)
        .route_layer(from_fn_with_state(Arc::clone(app), layer::wrap));
    let keyless = || from_fn_with_state(Arc::clone(app), layer::wrap_keyless);
    let downloads = Router::new()
        .route(&format!("{}/{{*object}}", links::PREFIX), get(download::handle))
        .route_layer(keyless());
    api.merge(downloads)
        .merge(control::router())
        .fallback(unknown_path.layer(keyless()))
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::clone(app))
}

async fn unknown_path(request: Request) -> Response {
    layer::drain(request).await;
    reply::unknown_path()
}
