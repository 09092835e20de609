//! `GET /v1/files/retrieve_content`: the bytes; of anything but a generated video.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use futures_util::{StreamExt as _, stream};
use http::HeaderValue;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};

use crate::app::App;
use crate::body::id_parameter;
use crate::layer::Caller;
use crate::reply::Refusal;
use crate::world::Stored;

pub(crate) async fn handle(
    State(app): State<Arc<App>>,
    Extension(Caller(ix)): Extension<Caller>,
    request: Request,
) -> Result<Response, Refusal> {
    let id = id_parameter(request.uri().query(), "file_id").ok_or_else(Refusal::file_not_found)?;
    let world = app.world();
    let file = world.file(ix, id, app.clock.now())?;
    if file.purpose == "video_generation" {
        return Err(Refusal::invalid_purpose());
    }
    Ok(stored(&file.content, "application/octet-stream"))
}

/// Content as the body of an answer.
pub(super) fn stored(content: &Stored, media_type: &'static str) -> Response {
    let blocks = stream::iter(content.blocks()).map(Ok::<_, std::convert::Infallible>);
    let mut response = Response::new(Body::from_stream(blocks));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(content.len()));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
