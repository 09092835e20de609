//! The accept loop and what holds for every connection.
//!
//! `axum::serve` has no header timeout, no cap and no bound on a client that never reads its answer,
//! so connections are served here, on hyper.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::config::Limits;
use crate::intake::Pieces;
use crate::lifecycle::Tasks;
use crate::rounds::InPlace;
use crate::socket::{Answering, Answers, Guarded};

/// Bytes that a connection buffers; fewer where [`Pieces`] says so.
const BUFFER_BYTES: usize = 128 << 10;
/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// Pause after a failed accept, such as when file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who is at the other end of the connection; in every request's extensions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Serves `router` on `listener` until the server stops.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    pieces: Pieces,
    tasks: Tasks,
) {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    loop {
        let accepted = tokio::select! {
            () = tasks.stopping() => return,
            accepted = async {
                // A place first: what is over the cap waits in the kernel's queue.
                let place = Arc::clone(&places).acquire_owned().await;
                (listener.accept().await, place)
            } => accepted,
        };
        match accepted {
            (Ok((stream, peer)), Ok(place)) => {
                let peer = Peer(peer);
                let (router, limits, pieces) = (router.clone(), limits.clone(), pieces.clone());
                let connection = connection(stream, peer, router, limits, pieces, tasks.clone());
                tasks.spawn(async move {
                    metrics::gauge!("filegate_connections").increment(1);
                    connection.await;
                    metrics::gauge!("filegate_connections").decrement(1);
                    drop(place);
                });
            }
            // An error of one connection, or no descriptors: never the end of the loop.
            (Err(error), _) => {
                tracing::warn!(%error, "http.accept.failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            (_, Err(_closed)) => return,
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: Peer,
    router: Router,
    limits: Limits,
    pieces: Pieces,
    tasks: Tasks,
) {
    // Without it a head and a body written apart wait 40 ms for the client's delayed ACK.
    let _best_effort = stream.set_nodelay(true);
    let answers = Answers::default();
    let io = TokioIo::new(Guarded::new(stream, limits.write_idle.0, answers.clone(), pieces));
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<_>| {
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(answers.clone());
        let answer = answers.begin();
        let answered = router.call(request);
        async move { answered.await.map(|response| response.map(|body| Answering::new(body, answer))) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout.0)
        .max_buf_size(BUFFER_BYTES)
        .max_header_size(HEAD_BYTES_MAX)
        // A client that has sent its request and shut its side still gets its answer.
        .half_close(true)
        .serve_connection(io, service)
        .with_upgrades();
    let mut served = pin!(served);
    let serving = async {
        tokio::select! {
            ended = served.as_mut() => ended,
            () = tasks.stopping() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        }
    };
    let ended = InPlace::new(pin!(serving)).await;
    if let Err(error) = ended {
        // The client's doing, nearly always: worth a look only when looking for it.
        tracing::debug!(%error, "http.connection.ended");
    }
}
