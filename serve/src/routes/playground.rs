//! `GET /`: the playground, one page that asks nobody but this server.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, header};
use axum::response::{Html, IntoResponse};

use crate::state::AppState;

const PAGE: &str = include_str!("../playground/index.html");
/// Stands in the page where the nonce belongs.
const NONCE: &str = "{{nonce}}";
/// Stands in the page where the link to the report is hidden, or not.
const REPORT: &str = "{{report}}";

/// The page. Only its own script and style run, and only this server can be asked.
pub(super) async fn playground(State(state): State<Arc<AppState>>) -> impl IntoResponse {
    let is_there = match &state.report {
        Some(path) => tokio::fs::try_exists(path).await.unwrap_or(false),
        None => false,
    };
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers: [(HeaderName, String); 4] = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".into()),
        (header::REFERRER_POLICY, "no-referrer".into()),
        (header::CACHE_CONTROL, "no-store".into()),
    ];
    let page = PAGE.replace(NONCE, &nonce).replace(REPORT, if is_there { "" } else { "hidden" });
    (headers, Html(page))
}
