//! The sockets: accept, serve, and when told to stop, finish what runs within a bounded time.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::record::Client;
use crate::routes::router;
use crate::state::AppState;

/// How long a connection may take for its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may take for the head of its next request, idle time included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// What connections get at the end, at least, for bytes that are written but not yet sent.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// Told `true` when the server is to stop.
pub type Stop = watch::Receiver<bool>;

/// Serves HTTP until `stop`, then answers new requests with 503 and gives running ones `drain` to finish. A connection
/// that cannot be accepted is logged, and the next one waited for.
pub async fn serve(listener: TcpListener, state: Arc<AppState>, stop: Stop, drain: Duration) {
    serve_with(listener, None, state, stop, drain).await;
}

/// As [`serve`], over HTTPS if there is an acceptor.
pub async fn serve_with(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    state: Arc<AppState>,
    stop: Stop,
    drain: Duration,
) {
    let (close, closing) = watch::channel(false);
    let router = router(state.clone());
    let mut connections = JoinSet::new();
    let mut drained = pin!(drained(&state, stop, drain));
    let deadline = loop {
        tokio::select! {
            deadline = &mut drained => break deadline,
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => {
                    let service = TowerToHyperService::new(router.clone().layer(Extension(Client(client))));
                    connections.spawn(connection(stream, tls.clone(), service, closing.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    // Most likely there are no file descriptors left, which only time can mend.
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    };
    drop(listener);
    close.send_replace(true);
    let closed = async { while connections.join_next().await.is_some() {} };
    // What is left is cut off with the set.
    let _ = timeout_at(deadline.max(Instant::now() + FLUSH_TIME), closed).await;
}

/// Returns when `stop` is told, or when there is nobody left to tell.
pub async fn stopped(mut stop: Stop) {
    let _ = stop.wait_for(|&stop| stop).await;
}

/// Waits for `stop` and then, at most for `drain`, until nothing runs any more; returns the end of that time.
async fn drained(state: &AppState, stop: Stop, drain: Duration) -> Instant {
    stopped(stop).await;
    state.stop();
    // Without a model nothing was ever taken.
    if state.models().is_ok() {
        tracing::info!("stopping: nothing new is taken, running requests are finished");
    }
    let deadline = Instant::now() + drain;
    if timeout_at(deadline, state.idle()).await.is_err() {
        tracing::warn!(seconds = drain.as_secs(), "requests still running when the time to finish was over");
    }
    deadline
}

type Service = TowerToHyperService<Router>;

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, service: Service, closing: Stop) {
    // Tokens are to leave one by one.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return http(stream, service, closing).await };
    match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => http(stream, service, closing).await,
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake timed out"),
    }
}

async fn http<S>(stream: S, service: Service, closing: Stop)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection broke off");
    }
}
