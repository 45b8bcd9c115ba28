//! Official data from a stand-in hub: download, cache, and everything that can go wrong.

mod support;

use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use orpo_eval::mt_bench::OFFICIAL as MT_BENCH;
use orpo_eval::official::{Hub, Kind, OfficialFile};
use support::{stderr, text};

const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";
const CONTENT: &[u8] = b"{\"key\": 1}\n{\"key\": 2}\n{\"key\": 3}\n";
const FILE: OfficialFile = OfficialFile {
    kind: Kind::Dataset,
    repository: "acme/prompts",
    revision: REVISION,
    file: "prompts.jsonl",
    // sha256sum of CONTENT
    sha256: "05748e7dc701cf8c3686de48c7d59268a98fa2eac13775ca34646b7e778ea612",
    option: "--data",
};

/// What the hub does.
#[derive(Clone, Copy, PartialEq)]
enum Behaviour {
    Serve,
    /// Other content than the pinned one.
    Wrong,
    /// Breaks the connection in the middle of a file.
    CutOff,
    /// Only this token is let in.
    Token(&'static str),
    /// 503.
    Down,
}

#[derive(Clone)]
struct StandIn {
    behaviour: Arc<Mutex<Behaviour>>,
    paths: Arc<Mutex<Vec<String>>>,
    url: String,
}

impl StandIn {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let hub = Self { behaviour: Arc::new(Mutex::new(Behaviour::Serve)), paths: Arc::default(), url };
        let router = Router::new().fallback(answer).with_state(hub.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), router).await.unwrap();
            });
        });
        hub
    }

    fn set(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    fn requests(&self) -> usize {
        self.paths.lock().unwrap().len()
    }

    fn client(&self, cache: &Path) -> Hub {
        Hub::new(&self.url, cache, None)
    }
}

async fn answer(State(hub): State<StandIn>, uri: Uri, headers: HeaderMap) -> Response {
    hub.paths.lock().unwrap().push(uri.path().to_owned());
    let behaviour = *hub.behaviour.lock().unwrap();
    let authorization = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
    match behaviour {
        Behaviour::Down => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Behaviour::Token(token) if authorization != Some(format!("Bearer {token}")) => {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        _ => {}
    }
    let known = [
        (format!("/datasets/{}/resolve/{REVISION}/{}", FILE.repository, FILE.file), REVISION),
        (
            "/datasets/google/IFEval/resolve/966cd89545d6b6acfd7638bc708b98261ca58e84/ifeval_input_data.jsonl".into(),
            "966cd89545d6b6acfd7638bc708b98261ca58e84",
        ),
        (
            format!("/spaces/lmsys/mt-bench/resolve/{}/data/mt_bench/question.jsonl", MT_BENCH.revision),
            MT_BENCH.revision,
        ),
    ];
    let Some((_, commit)) = known.iter().find(|(path, _)| path == uri.path()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let content: &'static [u8] = if behaviour == Behaviour::Wrong { b"<html>Please log in</html>" } else { CONTENT };
    let range = headers[header::RANGE].to_str().unwrap().strip_prefix("bytes=").unwrap();
    let (first, last) = range.split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    let end = last.parse().map_or(content.len(), |last: usize| last + 1);
    let body = if behaviour == Behaviour::CutOff && last.is_empty() {
        let half = Ok(Bytes::from_static(&content[first..first + 10]));
        let cut = Err(std::io::Error::other("cut off"));
        Body::from_stream(futures::stream::iter([half, cut]))
    } else {
        Body::from(&content[first..end])
    };
    let mut response = (StatusCode::PARTIAL_CONTENT, body).into_response();
    let range = format!("bytes {first}-{}/{}", end - 1, content.len());
    for (name, value) in [("x-repo-commit", *commit), ("etag", "\"tag\""), ("content-range", &range)] {
        response.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
    }
    response
}

#[test]
fn a_file_is_fetched_once_and_then_needs_no_server() {
    let (server, cache) = (StandIn::start(), tempfile::tempdir().unwrap());
    let hub = server.client(cache.path());
    assert_eq!(hub.read(&FILE).unwrap(), CONTENT);
    let requests = server.requests();
    server.set(Behaviour::Down);
    assert_eq!(hub.read(&FILE).unwrap(), CONTENT);
    assert_eq!(Hub::new("http://127.0.0.1:9", cache.path(), None).read(&FILE).unwrap(), CONTENT);
    assert_eq!(server.requests(), requests);
    let other = OfficialFile { file: "other.jsonl", ..FILE };
    let error = hub.read(&other).unwrap_err().to_string();
    let expected = format!("cannot fetch hub:acme/prompts@{REVISION}:other.jsonl: {} answers 503", server.url);
    assert!(error.starts_with(&expected) && error.ends_with("--data FILE reads a local copy"), "{error}");
}

#[test]
fn what_the_hub_refuses_is_said_with_what_to_do() {
    let (server, cache) = (StandIn::start(), tempfile::tempdir().unwrap());
    let message = |file: &OfficialFile| server.client(cache.path()).read(file).unwrap_err().to_string();
    let error = message(&OfficialFile { repository: "acme/nothing", ..FILE });
    assert!(error.contains("has no such file (404); check HF_ENDPOINT"), "{error}");
    server.set(Behaviour::Token("secret"));
    let error = message(&FILE);
    assert!(error.contains("refuses access (401); HF_TOKEN may hold a token"), "{error}");
    assert_eq!(Hub::new(&server.url, cache.path(), Some("secret".into())).read(&FILE).unwrap(), CONTENT);
    let down = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let empty = tempfile::tempdir().unwrap();
    let error = Hub::new(&down, empty.path(), None).read(&FILE).unwrap_err().to_string();
    assert!(error.contains("check the network and HF_ENDPOINT") && error.contains("--data FILE"), "{error}");
}

#[test]
fn wrong_content_is_refused_with_both_hashes_and_does_not_stay() {
    let (server, cache) = (StandIn::start(), tempfile::tempdir().unwrap());
    let hub = server.client(cache.path());
    server.set(Behaviour::Wrong);
    let error = hub.read(&FILE).unwrap_err().to_string();
    // printf '<html>Please log in</html>' | sha256sum
    let found = "39bb8635d641dc29f401c1a029e80226f00e52eec6aff7e610ffdfd96b4954ab";
    assert!(error.contains(&format!("its SHA-256 is {found}, not {}; run again", FILE.sha256)), "{error}");
    server.set(Behaviour::Serve);
    assert_eq!(hub.read(&FILE).unwrap(), CONTENT);
    // What the cache holds is checked every time.
    let cached = cache.path().join(format!("datasets--acme--prompts/snapshots/{REVISION}/prompts.jsonl"));
    std::fs::write(&cached, "changed").unwrap();
    let error = hub.read(&FILE).unwrap_err().to_string();
    assert!(error.contains(text(&cached)) && error.contains("remove it to fetch it anew"), "{error}");
    std::fs::remove_file(&cached).unwrap();
    assert_eq!(hub.read(&FILE).unwrap(), CONTENT);
}

#[test]
fn a_download_that_is_cut_off_goes_on() {
    let (server, cache) = (StandIn::start(), tempfile::tempdir().unwrap());
    let hub = server.client(cache.path());
    server.set(Behaviour::CutOff);
    let error = hub.read(&FILE).unwrap_err().to_string();
    assert!(error.contains("run again to go on"), "{error}");
    server.set(Behaviour::Serve);
    assert_eq!(hub.read(&FILE).unwrap(), CONTENT);
}

/// The program asks for the published prompts by their pinned commit, and takes no others for them.
#[test]
fn the_program_refuses_other_prompts_than_the_published_ones() {
    let (server, home, directory) = (StandIn::start(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let responses = directory.path().join("responses.jsonl");
    std::fs::write(&responses, "{\"key\": 1, \"response\": \"a\"}").unwrap();
    let run = |endpoint: &str, arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_orpo-eval"))
            .args(arguments)
            .env("HF_ENDPOINT", endpoint)
            .env("HF_HOME", home.path())
            .env("HF_TOKEN", "")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
        stderr(&output)
    };
    let ifeval = ["ifeval", "--data", "official", "--responses", text(&responses)];
    let error = run(&server.url, &ifeval);
    let name = "hub:google/IFEval@966cd89545d6b6acfd7638bc708b98261ca58e84:ifeval_input_data.jsonl";
    let hashes =
        format!("its SHA-256 is {}, not 6a85310ca8ce15eff755aa08a3a4ff931c7e273e7515ebb3c492ea85fd8288f2", FILE.sha256);
    assert!(error.contains(&format!("is not {name}: {hashes}")), "{error}");
    let down = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    assert!(run(&down, &ifeval).starts_with(&format!("error: cannot fetch {name}: ")));

    // MT-Bench's questions come from a space.
    let mt_bench = ["mt-bench", "--questions", "official", "--judgments", text(&responses)];
    let error = run(&server.url, &mt_bench);
    let hashes = format!("its SHA-256 is {}, not {}", FILE.sha256, MT_BENCH.sha256);
    assert!(error.contains(&hashes) && error.contains("a local copy with --questions FILE"), "{error}");
}
