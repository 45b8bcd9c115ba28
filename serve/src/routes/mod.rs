//! The routes, one handler a file.

mod adapters;
mod answer;
mod chat;
mod completions;
mod health;
mod metrics;
mod models;
mod openapi;
mod playground;
mod ready;
mod report;
mod tokenize;

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
use axum::routing::{get, post};

use crate::layers;
use crate::openai::{ApiError, ErrorKind};
use crate::state::AppState;

/// All routes over `state`, with what stands around them.
pub fn router(state: Arc<AppState>) -> Router {
    let routes = Router::new()
        .route("/", get(playground::playground))
        .route("/v1/chat/completions", post(chat::chat_completions))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/models", get(models::models))
        .route("/v1/models/{*model}", get(models::model))
        .route("/v1/load_lora_adapter", post(adapters::load))
        .route("/v1/unload_lora_adapter", post(adapters::unload))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/tokenizer_info", get(tokenize::tokenizer_info))
        .route("/health", get(health::health))
        .route("/ready", get(ready::ready))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(openapi::openapi))
        .route("/report", get(report::report))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .with_state(state.clone());
    layers::around(routes, &state)
}

async fn not_found(method: Method, uri: Uri) -> ApiError {
    ApiError::new(ErrorKind::RouteNotFound, format!("unknown route `{method} {}`", uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::new(ErrorKind::MethodNotAllowed, format!("`{}` does not answer {method}", uri.path()))
}
