//! What stands around every request: keys, ids, logs, metrics, CORS, limits, panics, the end, HTTPS.

mod common;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Double, MODEL, PROMPT_TOKENS, Server, body, eventually, limits, says, tokenizer};
use orpo_serve::engine::{Engine, EngineError, GenerateRequest, Generation, Scoring};
use orpo_serve::host::Hosts;
use orpo_serve::keys::ApiKeys;
use orpo_serve::limits::Limits;
use orpo_serve::served::Served;
use orpo_serve::server;
use orpo_serve::state::{Access, AppState};
use orpo_serve::tls;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

async fn guarded(engine: Double, access: Access) -> (Server, Arc<AppState>) {
    let (server, state) = Server::guarded(limits(), access).await;
    state.serve(Served::new(MODEL, Arc::new(engine), tokenizer()));
    (server, state)
}

fn keys() -> ApiKeys {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "anna:sk-secret-a\nben:sk-secret-b\n").unwrap();
    ApiKeys::from_file(file.path()).unwrap()
}

impl Server {
    fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.get(format!("{}{path}", self.url))
    }

    async fn text(&self, path: &str) -> String {
        self.get(path).send().await.unwrap().text().await.unwrap()
    }
}

#[tokio::test]
async fn with_keys_all_but_health_ready_and_the_page_want_one() {
    let (server, _) = guarded(Double::new(says("abc")), Access { keys: Some(keys()), ..Access::default() }).await;
    for open in ["/health", "/ready", "/"] {
        assert_eq!(server.get(open).send().await.unwrap().status(), 200, "{open}");
    }
    for path in ["/v1/models", "/metrics", "/v1/nothing", "/healthy"] {
        for header in [None, Some("Bearer sk-wrong"), Some("Bearer "), Some("Basic sk-secret-a"), Some("sk-secret-a")] {
            let request =
                header.iter().fold(server.get(path), |request, value| request.header("authorization", *value));
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 401, "{path} {header:?}");
            assert_eq!(response.headers()["www-authenticate"], "Bearer");
            let error: Value = response.json().await.unwrap();
            assert_eq!(error["error"]["code"], "invalid_api_key");
            assert_eq!(error["error"]["type"], "invalid_request_error");
            assert!(!error.to_string().contains("sk-"), "{error}");
        }
    }
    assert_eq!(server.chat(json!({})).await.0, 401);
    for key in ["sk-secret-a", "sk-secret-b"] {
        assert_eq!(server.get("/v1/models").bearer_auth(key).send().await.unwrap().status(), 200);
        assert_eq!(server.post(&body(json!({}))).bearer_auth(key).send().await.unwrap().status(), 200);
    }
    assert_eq!(
        server.get("/v1/models").header("authorization", "bearer  sk-secret-b").send().await.unwrap().status(),
        200
    );
    assert_eq!(server.get("/v1/nothing").bearer_auth("sk-secret-a").send().await.unwrap().status(), 404);
    let metrics = server.get("/metrics").bearer_auth("sk-secret-a").send().await.unwrap().text().await.unwrap();
    for line in [
        r#"orpo_serve_http_requests_total{route="/v1/models",method="GET",status="200",api_key="anna"} 1"#,
        r#"orpo_serve_http_requests_total{route="/v1/models",method="GET",status="200",api_key="ben"} 2"#,
        r#"orpo_serve_http_requests_total{route="unmatched",method="GET",status="401",api_key=""} 10"#,
        r#"orpo_serve_errors_total{route="/metrics",code="invalid_api_key"} 5"#,
    ] {
        assert!(metrics.lines().any(|other| other == line), "{line}\n{metrics}");
    }
    assert!(!metrics.contains("sk-"), "{metrics}");
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_keeps_the_client_s() {
    let server = Server::start(Double::new(says("abc"))).await;
    for path in ["/v1/models", "/health", "/v1/nothing"] {
        let given = server.get(path).header("x-request-id", "my-id-1").send().await.unwrap();
        assert_eq!(given.headers()["x-request-id"], "my-id-1");
        let made = server.get(path).send().await.unwrap().headers()["x-request-id"].to_str().unwrap().to_string();
        let other = server.get(path).send().await.unwrap().headers()["x-request-id"].to_str().unwrap().to_string();
        assert!(made.starts_with("req_") && made != other, "{made} {other}");
        // What could break a log is not taken over.
        for unfit in ["two words", "", &"x".repeat(200)] {
            let answer = server.get(path).header("x-request-id", unfit).send().await.unwrap();
            assert!(answer.headers()["x-request-id"].to_str().unwrap().starts_with("req_"));
        }
    }
    let stream = server.post(&body(json!({"stream": true}))).header("x-request-id", "s").send().await.unwrap();
    assert_eq!(stream.headers()["x-request-id"], "s");
}

#[tokio::test]
async fn metrics_count_requests_tokens_and_times() {
    let server = Server::start(Double::new(says("abcd"))).await;
    for stream in [false, true] {
        let response = server.post(&body(json!({"stream": stream}))).send().await.unwrap();
        response.text().await.unwrap();
    }
    assert_eq!(server.chat(json!({"temperature": "hot"})).await.0, 400);
    assert_eq!(server.chat(json!({"max_tokens": 1})).await.0, 200);
    let response = server.get("/metrics").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let metrics = response.text().await.unwrap();
    // Two replies of four letters and an end token, one of one letter.
    for line in [
        r#"orpo_serve_http_requests_total{route="/v1/chat/completions",method="POST",status="200",api_key=""} 3"#
            .into(),
        r#"orpo_serve_http_requests_total{route="/v1/chat/completions",method="POST",status="400",api_key=""} 1"#
            .into(),
        r#"orpo_serve_errors_total{route="/v1/chat/completions",code="invalid_value"} 1"#.into(),
        r#"orpo_serve_e2e_request_latency_seconds_count{route="/v1/chat/completions"} 3"#.into(),
        r#"orpo_serve_e2e_request_latency_seconds_bucket{route="/v1/chat/completions",le="+Inf"} 3"#.into(),
        format!("orpo_serve_prompt_tokens_total{{model_name=\"{MODEL}\"}} {}", 3 * PROMPT_TOKENS),
        format!("orpo_serve_generation_tokens_total{{model_name=\"{MODEL}\"}} 11"),
        format!("orpo_serve_engine_failures_total{{model_name=\"{MODEL}\"}} 0"),
        format!("orpo_serve_time_to_first_token_seconds_count{{model_name=\"{MODEL}\"}} 3"),
        format!("orpo_serve_time_per_output_token_seconds_count{{model_name=\"{MODEL}\"}} 8"),
        "orpo_serve_num_requests_running 0".to_string(),
        "orpo_serve_num_requests_waiting 0".to_string(),
        "orpo_serve_max_requests_waiting 4".to_string(),
        "orpo_serve_ready 1".to_string(),
        format!("orpo_serve_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(metrics.lines().any(|other| other == line), "{line}\n{metrics}");
    }
    // Every sample belongs to the family announced last.
    let mut family = "";
    for line in metrics.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(announced) => family = announced.split(' ').next().unwrap(),
            None => assert!(line.starts_with("# HELP") || line.starts_with(family), "{line}"),
        }
    }
}

#[tokio::test]
async fn metrics_show_what_runs_waits_fails_and_leaves() {
    let engine = Double::new(says("abcdefgh")).paced(Duration::from_millis(50));
    let (running, cancelled) = (engine.running.clone(), engine.cancelled.clone());
    let (server, state) = guarded(engine, Access::default()).await;
    let first = tokio::spawn(server.post(&body(json!({"stream": true}))).send());
    eventually("one runs", || running.load(Ordering::SeqCst) == 1).await;
    let second = tokio::spawn(server.post(&body(json!({}))).send());
    eventually("one waits", || state.admission.waiting() == 1).await;
    let metrics = server.text("/metrics").await;
    assert!(metrics.contains("orpo_serve_num_requests_running 1\n"), "{metrics}");
    assert!(metrics.contains("orpo_serve_num_requests_waiting 1\n"), "{metrics}");
    drop(first.await.unwrap().unwrap());
    eventually("it is cancelled", || cancelled.load(Ordering::SeqCst) == 1).await;
    second.await.unwrap().unwrap();
    let gone =
        r#"orpo_serve_http_requests_total{route="/v1/chat/completions",method="POST",status="499",api_key=""} 1"#;
    let metrics = server.text("/metrics").await;
    assert!(metrics.lines().any(|line| line == gone), "{metrics}");

    let server = Server::start(Double::new(common::Behaviour::FailsAfter(2))).await;
    assert_eq!(server.chat(json!({})).await.0, 500);
    let metrics = server.text("/metrics").await;
    assert!(metrics.contains(&format!("orpo_serve_engine_failures_total{{model_name=\"{MODEL}\"}} 1\n")), "{metrics}");
}

#[tokio::test]
async fn pages_of_listed_origins_may_ask_and_others_not() {
    let origins = vec!["https://a.example".parse().unwrap(), "http://localhost:3000".parse().unwrap()];
    let access = Access { keys: Some(keys()), origins, ..Access::default() };
    let (server, _) = guarded(Double::new(says("abc")), access).await;
    let question = async |server: &Server, origin: &str| {
        let request = server.client.request(reqwest::Method::OPTIONS, format!("{}/v1/chat/completions", server.url));
        let request = request.header("origin", origin).header("access-control-request-method", "POST");
        request.header("access-control-request-headers", "authorization, x-stainless-os").send().await.unwrap()
    };
    for origin in ["https://a.example", "http://localhost:3000"] {
        let answer = question(&server, origin).await;
        assert_eq!(answer.status(), 204);
        assert_eq!(answer.headers()["access-control-allow-origin"], origin);
        assert_eq!(answer.headers()["access-control-allow-methods"], "GET, POST");
        assert_eq!(answer.headers()["access-control-allow-headers"], "authorization, x-stainless-os");
        assert_eq!(answer.headers()["vary"], "origin");
        // A refusal can be read, too.
        let answer = server.get("/v1/models").header("origin", origin).send().await.unwrap();
        assert_eq!(answer.status(), 401);
        assert_eq!(answer.headers()["access-control-allow-origin"], origin);
        assert_eq!(
            answer.headers()["access-control-expose-headers"],
            "x-request-id, retry-after, x-unchecked-keywords"
        );
    }
    for origin in ["https://b.example", "https://a.example.evil", "http://localhost:3001", "null"] {
        let answer = question(&server, origin).await;
        assert_ne!(answer.status(), 204);
        assert!(!answer.headers().contains_key("access-control-allow-origin"), "{origin}");
        let answer = server.get("/health").header("origin", origin).send().await.unwrap();
        assert!(!answer.headers().contains_key("access-control-allow-origin"), "{origin}");
        assert_eq!(answer.headers()["vary"], "origin");
    }
    let access = Access { origins: vec!["*".parse().unwrap()], ..Access::default() };
    let (server, _) = guarded(Double::new(says("abc")), access).await;
    assert_eq!(question(&server, "https://any.example").await.headers()["access-control-allow-origin"], "*");
    // By default there is none of it.
    let server = Server::start(Double::new(says("abc"))).await;
    let answer = server.get("/health").header("origin", "https://a.example").send().await.unwrap();
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
    assert!(!answer.headers().contains_key("vary"));
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_a_408() {
    let (server, _) = Server::empty(Limits { body_timeout: Duration::from_millis(100), ..limits() }).await;
    let mut socket = tokio::net::TcpStream::connect(server.url.strip_prefix("http://").unwrap()).await.unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 10\r\n\r\n{";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 4096];
    let length = socket.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("body_timeout"), "{answer}");
}

/// Panics for its first request where the handler asks it something, and for its second where the reply begins.
struct Panicking(Double, [std::sync::atomic::AtomicBool; 2]);

impl Engine for Panicking {
    fn context_length(&self) -> usize {
        assert!(self.1[0].swap(true, Ordering::SeqCst), "secret words");
        self.0.context_length
    }

    fn generate(&self, request: GenerateRequest) -> Result<Generation, EngineError> {
        assert!(self.1[1].swap(true, Ordering::SeqCst), "secret words");
        self.0.generate(request)
    }

    fn score(&self, prompt_ids: Vec<u32>, top_logprobs: usize) -> Result<Scoring, EngineError> {
        self.0.score(prompt_ids, top_logprobs)
    }
}

#[tokio::test]
async fn a_panic_is_a_500_and_the_server_lives_on() {
    let (server, state) = Server::empty(limits()).await;
    let engine = Panicking(Double::new(says("abc")), [false.into(), false.into()]);
    state.serve(Served::new(MODEL, Arc::new(engine), tokenizer()));
    for code in ["internal_error", "engine_failed"] {
        let answer = server.post(&body(json!({}))).send().await.unwrap();
        assert_eq!(answer.status(), 500);
        assert!(answer.headers().contains_key("x-request-id"));
        let error: Value = answer.json().await.unwrap();
        assert_eq!(error["error"]["code"], code);
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    // The slot is free again, and so is the next request.
    assert_eq!(server.chat(json!({})).await.1["choices"][0]["message"]["content"], "abc");
    assert!(server.text("/metrics").await.contains("orpo_serve_num_requests_running 0\n"));
}

#[tokio::test]
async fn while_stopping_new_requests_are_sent_elsewhere_and_running_ones_finished() {
    let engine = Double::new(says("abcdefghijkl")).paced(Duration::from_millis(50));
    let running = engine.running.clone();
    let server = Server::start(engine).await;
    let stream = server.post(&body(json!({"stream": true}))).send().await.unwrap();
    eventually("it runs", || running.load(Ordering::SeqCst) == 1).await;
    let whole = tokio::spawn(server.post(&body(json!({"max_tokens": 1}))).send());
    server.stop();
    let refused = async || {
        loop {
            let answer = server.get("/ready").send().await.unwrap();
            if answer.status() == 503 {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(refused().await.text().await.unwrap().contains("server_stopping"));
    assert_eq!(server.get("/health").send().await.unwrap().status(), 200);
    assert!(server.text("/metrics").await.contains("orpo_serve_ready 0\n"));
    let answer = server.post(&body(json!({}))).send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "5");
    assert_eq!(answer.json::<Value>().await.unwrap()["error"]["code"], "server_stopping");
    let events = common::payloads(&stream.text().await.unwrap());
    assert_eq!(common::text_of(&events), "abcdefghijkl");
    // It came before the stop or after it; both are answered.
    let status = whole.await.unwrap().unwrap().status().as_u16();
    assert!(status == 200 || status == 503, "{status}");
    // Then the server is gone.
    for _ in 0..500 {
        if server.get("/health").send().await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the server did not end");
}

#[tokio::test]
async fn the_page_runs_only_its_own_script_and_asks_nobody_else() {
    let server = Server::start(Double::new(says("abc"))).await;
    let response = server.get("/").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_string();
    assert!(policy.starts_with("default-src 'none'; ") && policy.contains("connect-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    let page = response.text().await.unwrap();
    let nonce = policy.split_once("script-src 'nonce-").unwrap().1.split_once('\'').unwrap().0;
    assert!(page.contains(&format!("<script nonce=\"{nonce}\">")) && !page.contains("{{nonce}}"));
    assert!(!page.contains("http://") && !page.contains("https://"));
    assert!(!server.text("/").await.contains(nonce));
}

#[tokio::test]
async fn the_report_is_read_anew_and_needs_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.html");
    let access = Access { keys: Some(keys()), ..Access::default() };
    let (server, _) = Server::over(AppState::with_access(limits(), access).with_report(Some(path.clone()))).await;
    assert_eq!(server.get("/report").send().await.unwrap().status(), 401);
    let report = async || server.get("/report").bearer_auth("sk-secret-a").send().await.unwrap();
    let absent = report().await;
    assert_eq!(absent.status(), 404);
    assert_eq!(absent.json::<Value>().await.unwrap()["error"]["code"], "report_not_found");
    for text in ["<p>first", "<p>second"] {
        std::fs::write(&path, text).unwrap();
        let response = report().await;
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_string();
        assert_eq!(header("content-type"), "text/html; charset=utf-8");
        assert_eq!(
            (header("x-content-type-options"), header("referrer-policy")),
            ("nosniff".into(), "no-referrer".into())
        );
        assert_eq!(header("cache-control"), "no-store");
        assert!(!response.headers().contains_key("content-security-policy"));
        assert_eq!(response.text().await.unwrap(), text);
    }
    // What is there and cannot be read is the server's failure; its path is for the log.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let failed = report().await;
    assert_eq!(failed.status(), 500);
    assert!(!failed.text().await.unwrap().contains(dir.path().to_str().unwrap()));
    let without = Server::start(Double::new(says("abc"))).await;
    let refused = without.get("/report").send().await.unwrap();
    assert_eq!(refused.status(), 404);
    assert!(refused.text().await.unwrap().contains("--report"));
}

#[tokio::test]
async fn https_with_the_certificate_of_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let made = Command::new("openssl")
        .args("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split(' '))
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout".as_ref(), key.as_os_str(), "-out".as_ref(), cert.as_os_str()])
        .output();
    if !made.is_ok_and(|output| output.status.success()) {
        println!("skipped: no `openssl` to make a certificate");
        return;
    }
    for (cert, key, words) in [(&key, &key, "--tls-cert"), (&cert, &cert, "--tls-key")] {
        let error = tls::acceptor(cert, key).err().expect("it is the wrong file").to_string();
        assert!(error.contains(words), "{error}");
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let state = Arc::new(AppState::new(limits()));
    state.serve(Served::new(MODEL, Arc::new(Double::new(says("abc"))), tokenizer()));
    let (_stop, stopped) = watch::channel(false);
    let acceptor = tls::acceptor(&cert, &key).unwrap();
    tokio::spawn(server::serve_with(listener, Some(acceptor), state, stopped, Duration::ZERO));
    let root = reqwest::Certificate::from_pem(&std::fs::read(&cert).unwrap()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
    let reply = client.post(format!("https://{address}/v1/chat/completions")).json(&body(json!({})));
    let reply: Value = reply.send().await.unwrap().json().await.unwrap();
    assert_eq!(reply["choices"][0]["message"]["content"], "abc");
    // One that speaks plain HTTP, or not at all, does not hold the others up.
    let _silent = tokio::net::TcpStream::connect(address).await.unwrap();
    assert!(client.get(format!("http://{address}/health")).send().await.is_err());
    assert_eq!(client.get(format!("https://{address}/health")).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn foreign_pages_and_names_are_refused_where_there_are_no_keys() {
    let hosts = Hosts::Named(vec!["serve.example".into()]);
    let origins = vec!["https://a.example".parse().unwrap()];
    let (open, _) = guarded(Double::new(says("abc")), Access { hosts, origins, ..Access::default() }).await;
    let own = open.url.strip_prefix("http://").unwrap().to_string();
    let asked = async |server: &Server, headers: &[(&str, &str)]| {
        let request = server.post(&body(json!({})));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json::<Value>().await.unwrap()["error"]["code"].as_str().map(str::to_string))
    };
    let own_origin = format!("http://{own}");
    let foreign = |code: &str| (403, Some(code.to_string()));
    for (headers, expected) in [
        (vec![], (200, None)),
        (vec![("host", "localhost:8000")], (200, None)),
        (vec![("host", "serve.example")], (200, None)),
        (vec![("host", "evil.example")], foreign("foreign_host")),
        (vec![("origin", "http://evil.example")], foreign("foreign_origin")),
        (vec![("origin", "null")], foreign("foreign_origin")),
        (vec![("origin", "https://a.example")], (200, None)),
        // The server's own page, also behind a proxy that calls the server by another name.
        (vec![("origin", own_origin.as_str())], (200, None)),
        (vec![("origin", "https://site.example"), ("sec-fetch-site", "same-origin")], (200, None)),
        (vec![("origin", "https://site.example"), ("sec-fetch-site", "cross-site")], foreign("foreign_origin")),
    ] {
        assert_eq!(asked(&open, &headers).await, expected, "{headers:?}");
    }
    let rebound = open.get("/v1/models").header("host", "evil.example").send().await.unwrap();
    assert_eq!(rebound.status(), 403);
    // A foreign page has no key.
    let (keyed, _) = guarded(Double::new(says("abc")), Access { keys: Some(keys()), ..Access::default() }).await;
    let key = ("authorization", "Bearer sk-secret-a");
    assert_eq!(asked(&keyed, &[key, ("origin", "http://evil.example"), ("host", "x.example")]).await, (200, None));
    assert_eq!(asked(&keyed, &[("origin", "http://evil.example")]).await.0, 401);
}

#[tokio::test]
async fn bodies_are_json_and_say_so() {
    let server = Server::start(Double::new(says("abc"))).await;
    let text = body(json!({})).to_string();
    for (kind, status) in [
        (Some("application/json"), 200),
        (Some("application/json; charset=utf-8"), 200),
        (Some("text/plain"), 415),
        (Some("application/x-www-form-urlencoded"), 415),
        (None, 415),
    ] {
        let request = server.client.post(format!("{}/v1/chat/completions", server.url)).body(text.clone());
        let request = kind.iter().fold(request, |request, kind| request.header("content-type", *kind));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{kind:?}");
        if status == 415 {
            assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "unsupported_media_type");
        }
    }
}

#[tokio::test]
async fn compressed_bodies_are_refused_by_name() {
    let server = Server::start(Double::new(says("abc"))).await;
    let text = body(json!({})).to_string();
    for (coding, status) in [("gzip", 415), ("br, gzip", 415), ("identity", 200)] {
        let request = server.client.post(format!("{}/v1/chat/completions", server.url)).body(text.clone());
        let request = request.header("content-type", "application/json").header("content-encoding", coding);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{coding}");
        if status == 415 {
            assert_eq!(response.headers()["accept-encoding"], "identity");
            let error = response.json::<Value>().await.unwrap()["error"].clone();
            assert_eq!(error["code"], "unsupported_media_type");
            assert!(error["message"].as_str().unwrap().contains(&format!("`Content-Encoding: {coding}`")), "{error}");
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_process_is_told_by_prometheus_names() {
    let metrics = Server::start(Double::new(says("abc"))).await.text("/metrics").await;
    for name in ["cpu_seconds_total", "resident_memory_bytes", "start_time_seconds", "open_fds", "max_fds"] {
        let line = metrics.lines().find(|line| line.starts_with(&format!("process_{name} "))).expect(name);
        assert!(line.split(' ').nth(1).unwrap().parse::<f64>().unwrap() >= 0.0, "{line}");
    }
}
