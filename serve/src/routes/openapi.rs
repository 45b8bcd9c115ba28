//! `GET /openapi.json`: what this server answers, for tools and people.

use axum::http::header;
use axum::response::IntoResponse;

/// The committed document.
pub(super) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("../../openapi.json"))
}
