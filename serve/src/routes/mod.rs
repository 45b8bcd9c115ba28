//! The routes, one handler a file.

mod answer;
mod chat;
mod completions;
mod health;
mod models;
mod ready;
mod tokenize;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::routing::{get, post};

use crate::openai::{ApiError, ErrorKind};
use crate::state::AppState;

/// All routes over `state`.
pub fn router(state: Arc<AppState>) -> Router {
    let body_limit = DefaultBodyLimit::max(state.limits.max_body_bytes);
    Router::new()
        .route("/v1/chat/completions", post(chat::chat_completions))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/models", get(models::models))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/tokenizer_info", get(tokenize::tokenizer_info))
        .route("/health", get(health::health))
        .route("/ready", get(ready::ready))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(body_limit)
        .with_state(state)
}

async fn not_found(method: Method, uri: Uri) -> ApiError {
    ApiError::new(ErrorKind::RouteNotFound, format!("unknown route `{method} {}`", uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::new(ErrorKind::MethodNotAllowed, format!("`{}` does not answer {method}", uri.path()))
}
