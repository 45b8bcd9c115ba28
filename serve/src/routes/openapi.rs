//! `GET /openapi.json`: the description of all routes.

use axum::http::header;
use axum::response::IntoResponse;

const DOCUMENT: &str = include_str!("../openai/openapi.json");

/// The document as it is committed.
pub(super) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}
