//! `GET /health`: the process lives.

/// Always 200.
pub(super) async fn health() -> &'static str {
    "ok\n"
}
