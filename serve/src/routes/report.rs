//! `GET /report`: the report of an evaluation, a file that another program writes.

use std::io;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, header};
use axum::response::{Html, IntoResponse};

use crate::openai::{ApiError, ErrorKind};
use crate::state::AppState;

/// The page, read anew each time: it may appear, or be replaced, while the server runs. It brings its own policy of what
/// may run in it.
pub(super) async fn report(State(state): State<Arc<AppState>>) -> Result<impl IntoResponse, ApiError> {
    let absent = |message: String| ApiError::new(ErrorKind::ReportNotFound, message);
    let path = state.report.as_ref();
    let path = path.ok_or_else(|| absent("no report is served here; start the server with --report FILE".into()))?;
    let page = tokio::fs::read(path).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            absent("there is no report yet; it appears when an evaluation has written it".into())
        }
        _ => {
            tracing::error!(file = %path.display(), %error, "the report cannot be read");
            ApiError::new(ErrorKind::Internal, "the report cannot be read; the server's log says why")
        }
    })?;
    let headers: [(HeaderName, &str); 3] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Html(page)))
}
