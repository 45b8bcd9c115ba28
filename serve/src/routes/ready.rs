//! `GET /ready`: requests can be expected to succeed.

use std::sync::Arc;

use axum::extract::State;

use crate::openai::{ApiError, ErrorKind};
use crate::state::AppState;

/// 200 when the models are loaded and the engines are well, else 503.
pub(super) async fn ready(State(state): State<Arc<AppState>>) -> Result<&'static str, ApiError> {
    if state.models()?.iter().all(|served| served.engine.is_ready()) {
        Ok("ready\n")
    } else {
        Err(ApiError::new(ErrorKind::NotReady, "the engine is recovering from a failure; retry in a moment"))
    }
}
