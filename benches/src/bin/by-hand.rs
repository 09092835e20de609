//! What people write by hand: a few lines of axum that stream a form's file to the disk.
//!
//! ```text
//! by-hand PORT DIR [--sync] [--sha256]
//! ```
//!
//! `POST /files` takes a multipart form and answers `{"id": …, "bytes": …, "sha256": …}`; `GET /files/ID` gives the file. With
//! `--sync` a file's data are synced before it is answered (its name is not); with `--sha256` they are hashed on the way.
//! It checks nothing else, has no rows, and whoever comes may do all.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "it is what others write, with what they use"
)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Json;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Multipart, Path, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use filegate_benches::Failed;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::ReaderStream;

struct Service {
    dir: PathBuf,
    sync: bool,
    sha256: bool,
    next: AtomicU64,
}

#[derive(Serialize)]
struct Stored {
    id: u64,
    bytes: u64,
    sha256: Option<String>,
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [port, dir, switches @ ..] = words.as_slice() else {
        return Err("by-hand PORT DIR [--sync] [--sha256]".into());
    };
    let has = |switch: &str| switches.iter().any(|word| word == switch);
    let service = Service {
        dir: dir.into(),
        sync: has("--sync"),
        sha256: has("--sha256"),
        next: AtomicU64::new(0),
    };
    tokio::fs::create_dir_all(&service.dir).await?;
    let router = axum::Router::new()
        .route("/files", post(upload))
        .route("/files/{id}", get(download))
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::new(service));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port.parse::<u16>()?)).await?;
    // Those who have met the 40 ms of Nagle's algorithm set it.
    let listener = listener.tap_io(|stream| {
        let _slower = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await?;
    Ok(())
}

type Refusal = (StatusCode, String);

fn failed(error: impl std::fmt::Display) -> Refusal {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

async fn upload(
    State(service): State<Arc<Service>>,
    mut form: Multipart,
) -> Result<Json<Stored>, Refusal> {
    while let Some(mut field) = form.next_field().await.map_err(failed)? {
        if field.name() != Some("file") {
            continue;
        }
        let id = service.next.fetch_add(1, Ordering::Relaxed);
        let mut file = File::create(service.dir.join(id.to_string())).await.map_err(failed)?;
        let (mut bytes, mut hash) = (0, service.sha256.then(Sha256::new));
        while let Some(chunk) = field.chunk().await.map_err(failed)? {
            bytes += chunk.len() as u64;
            if let Some(hash) = &mut hash {
                hash.update(&chunk);
            }
            file.write_all(&chunk).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        if service.sync {
            file.sync_data().await.map_err(failed)?;
        }
        let sha256 = hash.map(|hash| filegate_benches::hex(&hash.finalize()));
        return Ok(Json(Stored { id, bytes, sha256 }));
    }
    Err((StatusCode::BAD_REQUEST, "no file".to_owned()))
}

async fn download(
    State(service): State<Arc<Service>>,
    Path(id): Path<u64>,
) -> Result<([(HeaderName, String); 1], Body), Refusal> {
    let file = File::open(service.dir.join(id.to_string())).await.map_err(failed)?;
    let length = file.metadata().await.map_err(failed)?.len();
    Ok((
        [(header::CONTENT_LENGTH, length.to_string())],
        Body::from_stream(ReaderStream::with_capacity(file, 64 << 10)),
    ))
}
