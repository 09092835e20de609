//! The accept loop, and connections that can be cut off with a reset.
//!
//! `axum::serve` gives no hand on the socket; faults need one.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::app::Tasks;

const CONNECTIONS_MAX: usize = 4096;
const BUFFER_BYTES: usize = 64 << 10;
const HEAD_BYTES_MAX: usize = 32 << 10;
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept, such as when file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The hand on a connection; in every request's extensions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wire(CancellationToken);

impl Wire {
    /// Resets the connection: nothing more is read or written, the peer gets an RST.
    pub(crate) fn cut(&self) {
        self.0.cancel();
    }
}

pub(crate) async fn serve(listener: TcpListener, router: Router, tasks: Tasks) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = tasks.stopping() => return,
            accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (listener.accept().await, place)
            } => accepted,
        };
        match accepted {
            (Ok((stream, _peer)), Ok(place)) => {
                let connection = connection(stream, router.clone(), tasks.clone());
                tasks.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            (Err(error), _) => {
                tracing::warn!(%error, "emulator.accept.failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            (_, Err(_closed)) => return,
        }
    }
}

async fn connection(stream: TcpStream, router: Router, tasks: Tasks) {
    let _best_effort = stream.set_nodelay(true);
    let wire = Wire::default();
    let io = TokioIo::new(Held { stream, wire: wire.clone() });
    let router = TowerToHyperService::new(router);
    let handle = wire.clone();
    let service = service_fn(move |mut request: hyper::Request<_>| {
        request.extensions_mut().insert(handle.clone());
        router.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER_BYTES)
        .max_header_size(HEAD_BYTES_MAX)
        // A client that hangs up on a stall has ended its call, and that is to be seen in the record. One that only shuts
        // its side for writing is taken for the same.
        .half_close(false)
        .serve_connection(io, service)
        .with_upgrades();
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        // What is dropped here closes the socket.
        () = wire.0.cancelled() => return,
        () = tasks.stopping() => {
            served.as_mut().graceful_shutdown();
            tokio::select! {
                ended = served => ended,
                () = wire.0.cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "emulator.connection.ended");
    }
}

/// A socket that closes with a reset if the wire was cut.
struct Held {
    stream: TcpStream,
    wire: Wire,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.wire.0.is_cancelled() {
            let _gone_already = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
