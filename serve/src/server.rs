//! The sockets: accept, serve, and when told to stop, finish what runs within a bounded time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::routes::router;
use crate::state::AppState;

/// Told `true` when the server is to stop.
pub type Stop = watch::Receiver<bool>;

/// Serves until `stop`, then accepts nothing new and gives running requests `drain` to finish.
///
/// # Errors
/// Those of accepting connections.
pub async fn serve(listener: TcpListener, state: Arc<AppState>, stop: Stop, drain: Duration) -> io::Result<()> {
    let serving = axum::serve(listener, router(state)).with_graceful_shutdown(stopped(stop.clone()));
    tokio::select! {
        result = serving => result,
        () = drained(stop, drain) => {
            tracing::warn!(seconds = drain.as_secs(), "requests still running when the time to finish was over");
            Ok(())
        }
    }
}

/// Returns when `stop` is told, or when there is nobody left to tell.
pub async fn stopped(mut stop: Stop) {
    let _ = stop.wait_for(|&stop| stop).await;
}

async fn drained(stop: Stop, drain: Duration) {
    stopped(stop).await;
    tracing::info!("stopping: no new connections, running requests are finished");
    tokio::time::sleep(drain).await;
}
