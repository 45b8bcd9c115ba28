//! A small HTTP server on 127.0.0.1 that answers as the hub does what a client of the hub asks. The tests of all crates that
//! use the hub include it by its path.
#![allow(dead_code, reason = "every test takes the part that it needs")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use orpo_hub::Hub;
use serde_json::json;

/// The commit of every repository for which no other is given.
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
    /// Every answer is 503.
    Down,
}

struct Repository {
    /// What `main` stands for.
    commit: String,
    files: BTreeMap<String, Vec<u8>>,
}

struct State {
    /// By `[datasets/|spaces/]owner/name`.
    repositories: BTreeMap<String, Repository>,
    fault: Fault,
    requests: usize,
    stopped: bool,
}

pub struct StandIn {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    pub fn start(repository: &str, files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { repositories: BTreeMap::new(), fault: Fault::None, requests: 0, stopped: false };
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut state = shared.lock().unwrap();
                if state.stopped {
                    return;
                }
                // A client that goes away is not this server's trouble.
                let _ = stream.and_then(|stream| answer(stream, &mut state));
            }
        });
        let server = Self { address, state, thread: Some(thread) };
        server.add(repository, files);
        server
    }

    /// Adds a repository, in the place of one of the same name.
    pub fn add(&self, repository: &str, files: &[(&str, &[u8])]) {
        self.add_at(repository, COMMIT, files);
    }

    pub fn add_at(&self, repository: &str, commit: &str, files: &[(&str, &[u8])]) {
        let files = files.iter().map(|(name, content)| (name.to_string(), content.to_vec())).collect();
        let added = Repository { commit: commit.into(), files };
        self.state.lock().unwrap().repositories.insert(repository.into(), added);
    }

    /// Its client, without a token.
    pub fn hub(&self, cache: &Path) -> Hub {
        Hub::new(&self.url(), cache, None)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, fault: Fault) {
        self.state.lock().unwrap().fault = fault;
    }

    /// Requests answered so far.
    pub fn requests(&self) -> usize {
        self.state.lock().unwrap().requests
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.state.lock().unwrap().stopped = true;
        // Wakes the thread; where that fails it has ended already.
        let _ = TcpStream::connect(self.address);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn answer(mut stream: TcpStream, state: &mut State) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut head = Vec::new();
    for line in BufReader::new(&stream).lines() {
        match line? {
            line if line.is_empty() => break,
            line => head.push(line),
        }
    }
    state.requests += 1;
    let header = |name: &str| {
        head.iter()
            .find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)))
            .map(|h| h.1)
    };
    let path = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    match state.fault {
        Fault::Token(token) if header("authorization") != Some(&format!("Bearer {token}")) => {
            return respond(&mut stream, "401 Unauthorized", "", b"");
        }
        Fault::Down => return respond(&mut stream, "503 Service Unavailable", "", b""),
        _ => {}
    }
    for (repository, Repository { commit, files }) in &state.repositories {
        let is_model = !repository.starts_with("datasets/") && !repository.starts_with("spaces/");
        let kind = if is_model { "/api/models/" } else { "/api/" };
        for revision in ["main", commit.as_str()] {
            if path == format!("{kind}{repository}/revision/{revision}") {
                let files = files.iter().map(|(name, content)| json!({"rfilename": name, "size": content.len()}));
                let listing = json!({"sha": commit, "siblings": files.collect::<Vec<_>>()}).to_string();
                return respond(&mut stream, "200 OK", "", listing.as_bytes());
            }
            let Some(name) = path.strip_prefix(&format!("/{repository}/resolve/{revision}/")) else { continue };
            let Some(content) = files.get(name) else { continue };
            let headers = format!("etag: \"{commit}-{}\"\r\nx-repo-commit: {commit}\r\n", name.replace('/', "-"));
            return send_file(&mut stream, &headers, content, header("range").unwrap_or("bytes=0-"), state.fault);
        }
    }
    respond(&mut stream, "404 Not Found", "", b"")
}

fn send_file(stream: &mut TcpStream, headers: &str, content: &[u8], range: &str, fault: Fault) -> std::io::Result<()> {
    let (first, last) = range.trim_start_matches("bytes=").split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    let is_probe = last == "0";
    let end = if is_probe { 1 } else { content.len() };
    let part = &content[first.min(end)..end];
    let headers = format!("{headers}content-range: bytes {first}-{}/{}\r\n", end.saturating_sub(1), content.len());
    let half = &part[..part.len() / 2];
    match fault {
        Fault::BreakOff if !is_probe => {
            write!(stream, "HTTP/1.1 206 Partial\r\n{headers}content-length: {}\r\n\r\n", part.len())?;
            stream.write_all(half)
        }
        Fault::TooShort if !is_probe => {
            write!(stream, "HTTP/1.1 206 Partial\r\n{headers}connection: close\r\n\r\n")?;
            stream.write_all(half)
        }
        _ => respond(stream, "206 Partial", &headers, part),
    }
}

fn respond(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len())?;
    stream.write_all(body)
}
