//! `GET /`: the playground, one page that asks nobody but this server.

use std::path::Path;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, header};
use axum::response::{Html, IntoResponse};
use tokio::io::AsyncReadExt;

use crate::state::AppState;

const PAGE: &str = include_str!("../playground/index.html");
/// Stands in the page where the nonce belongs.
const NONCE: &str = "{{nonce}}";
/// Stands in the page where the link to the report is hidden, or not.
const REPORT: &str = "{{report}}";
/// A report's own policy is within this many bytes of its beginning.
const HEAD: u64 = 4096;

/// The page. Only its own script and style run, and those of the report, which the page opens where a key is needed to read
/// it; and only this server can be asked.
pub(super) async fn playground(State(state): State<Arc<AppState>>) -> impl IntoResponse {
    let report = match &state.report {
        Some(path) => head(path).await,
        None => None,
    };
    let [scripts, styles] = ["script-src", "style-src"].map(|directive| hashes(report.as_deref(), directive));
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'{scripts}; style-src 'nonce-{nonce}'{styles}; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers: [(HeaderName, String); 4] = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".into()),
        (header::REFERRER_POLICY, "no-referrer".into()),
        (header::CACHE_CONTROL, "no-store".into()),
    ];
    let page = PAGE.replace(NONCE, &nonce).replace(REPORT, if report.is_some() { "" } else { "hidden" });
    (headers, Html(page))
}

/// The beginning of a file; `None` if it is not there.
async fn head(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    tokio::fs::File::open(path).await.ok()?.take(HEAD).read_to_end(&mut bytes).await.ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a report's own policy allows by hash, to be appended to this page's: a page that another one opens from memory is
/// bound by the policies of both.
fn hashes(report: Option<&str>, directive: &str) -> String {
    let head = report.unwrap_or_default().replace("&#x27;", "'").replace("&#x2f;", "/");
    let sources = head.split_once(directive).map_or("", |(_, rest)| rest.split([';', '"']).next().unwrap_or_default());
    let is_hash = |source: &&str| {
        source.starts_with("'sha256-")
            && source.ends_with('\'')
            && source.chars().all(|c| c.is_ascii_alphanumeric() || "'-+/=".contains(c))
    };
    sources.split_ascii_whitespace().filter(is_hash).map(|source| format!(" {source}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hashes_are_taken_over_from_a_report() {
        let report = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src &#x27;none&#x27;; \
                      script-src &#x27;sha256-a&#x2f;b+c=&#x27; &#x27;unsafe-inline&#x27; https:; \
                      style-src &#x27;sha256-d=&#x27;\"><title>script-src 'sha256-e='</title>";
        assert_eq!(hashes(Some(report), "script-src"), " 'sha256-a/b+c='");
        assert_eq!(hashes(Some(report), "style-src"), " 'sha256-d='");
        assert_eq!(hashes(Some("<title>no policy</title>"), "script-src"), "");
        assert_eq!(hashes(None, "style-src"), "");
    }
}
