//! `GET /ready`: requests can be expected to succeed.

use std::sync::Arc;

use axum::extract::State;

use crate::openai::ApiError;
use crate::state::AppState;

/// 200 when the models are loaded, the engines are well and the server is not stopping, else 503.
pub(super) async fn ready(State(state): State<Arc<AppState>>) -> Result<&'static str, ApiError> {
    state.ready().map(|()| "ready\n")
}
