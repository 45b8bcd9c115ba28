//! A server on 127.0.0.1 that answers as the hub does what a client of the hub asks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

/// The commit of every repository.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong on purpose.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// Only this token is let in.
    Token(&'static str),
    /// A file's bytes end before the announced length.
    BreakOff,
    /// A file's bytes end early, and no length is announced.
    TooShort,
}

struct Repository {
    name: String,
    files: BTreeMap<String, Vec<u8>>,
    fault: Mutex<Fault>,
    requests: AtomicUsize,
}

/// Serves until it is dropped.
pub struct StandIn {
    url: String,
    repository: Arc<Repository>,
    _runtime: tokio::runtime::Runtime,
}

impl StandIn {
    pub fn start(name: &str, files: &[(&str, &[u8])]) -> Self {
        let repository = Arc::new(Repository {
            name: name.into(),
            files: files.iter().map(|(name, content)| (name.to_string(), content.to_vec())).collect(),
            fault: Mutex::new(Fault::None),
            requests: AtomicUsize::new(0),
        });
        let router = Router::new()
            .route("/api/models/{owner}/{name}/revision/{revision}", get(listing))
            .route("/{owner}/{name}/resolve/{revision}/{*file}", get(file))
            .layer(from_fn_with_state(repository.clone(), gate))
            .with_state(repository.clone());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { url, repository, _runtime: runtime }
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }

    pub fn set(&self, fault: Fault) {
        *self.repository.fault.lock().unwrap() = fault;
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.repository.requests.load(Ordering::SeqCst)
    }
}

async fn gate(State(repository): State<Arc<Repository>>, request: Request, next: Next) -> Response {
    repository.requests.fetch_add(1, Ordering::SeqCst);
    let fault = *repository.fault.lock().unwrap();
    let authorization = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match fault {
        Fault::Token(token) if authorization != Some(&format!("Bearer {token}")) => {
            StatusCode::UNAUTHORIZED.into_response()
        }
        _ => next.run(request).await,
    }
}

async fn listing(
    State(repository): State<Arc<Repository>>,
    Path((owner, name, revision)): Path<(String, String, String)>,
) -> Response {
    if !repository.has(&owner, &name, &revision) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let files = repository.files.iter().map(|(name, content)| json!({"rfilename": name, "size": content.len()}));
    axum::Json(json!({"sha": COMMIT, "siblings": files.collect::<Vec<_>>()})).into_response()
}

async fn file(
    State(repository): State<Arc<Repository>>,
    Path((owner, name, revision, file)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let content = repository.files.get(&file).filter(|_| repository.has(&owner, &name, &revision));
    let Some(content) = content else { return StatusCode::NOT_FOUND.into_response() };
    let range = headers.get(header::RANGE).map_or("bytes=0-", |range| range.to_str().unwrap());
    let (first, last) = range.trim_start_matches("bytes=").split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    let is_probe = last == "0";
    let end = if is_probe { 1 } else { content.len() };
    let part = content[first.min(end)..end].to_vec();
    let fault = *repository.fault.lock().unwrap();
    let response = Response::builder()
        .status(StatusCode::PARTIAL_CONTENT)
        .header(header::ETAG, format!("\"{}\"", file.replace('/', "-")))
        .header("x-repo-commit", COMMIT)
        .header(header::CONTENT_RANGE, format!("bytes {first}-{}/{}", end.saturating_sub(1), content.len()));
    let half = part[..part.len() / 2].to_vec();
    let response = match fault {
        Fault::BreakOff if !is_probe => {
            let broken = std::io::Error::other("broken off");
            let chunks = futures::stream::iter([Ok(half), Err(broken)]);
            response.header(header::CONTENT_LENGTH, part.len()).body(Body::from_stream(chunks))
        }
        Fault::TooShort if !is_probe => {
            let chunks = futures::stream::iter([Ok::<_, std::io::Error>(half)]);
            response.body(Body::from_stream(chunks))
        }
        _ => response.body(Body::from(part)),
    };
    response.unwrap()
}

impl Repository {
    fn has(&self, owner: &str, name: &str, revision: &str) -> bool {
        format!("{owner}/{name}") == self.name && ["main", COMMIT].contains(&revision)
    }
}
