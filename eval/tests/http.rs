//! The program against a stand-in server that misbehaves in every way that servers do.

mod support;

use std::collections::{HashMap, HashSet};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use support::{orpo_eval, read_json, read_lines, stderr, text, write_data};

/// What the server does with a request.
#[derive(Clone, Copy, PartialEq)]
enum Behaviour {
    /// A reply with this text.
    Say(&'static str),
    /// A reply that is cut off at the token limit.
    CutOff,
    /// A reply with this text and with reasoning beside it.
    Reason(&'static str),
    /// 429 with a `Retry-After` of so many seconds.
    Busy(u64),
    /// 500.
    Broken,
    /// 400 with an error object.
    Refuse,
    /// Half a JSON document.
    HalfJson,
    /// A reply after this many milliseconds.
    Slow(u64),
}

/// Behaviours by prompt, one for each further request of it; the last one stays.
type Script = HashMap<String, Vec<Behaviour>>;

#[derive(Clone, Default)]
struct Server {
    script: Arc<Script>,
    /// The bodies of the chat requests, with the time of each.
    requests: Arc<Mutex<Vec<(Instant, Value)>>>,
    authorizations: Arc<Mutex<Vec<Option<String>>>>,
}

impl Server {
    /// Starts a server with the given behaviours; prompts outside of the script are answered with their own text.
    fn start(script: &[(&str, &[Behaviour])]) -> (Self, String) {
        let script = script.iter().map(|(prompt, behaviours)| ((*prompt).to_owned(), behaviours.to_vec())).collect();
        let server = Self { script: Arc::new(script), ..Self::default() };
        let router = Router::new()
            .route("/v1/models", get(models))
            .route("/v1/chat/completions", post(chat))
            .with_state(server.clone());
        (server, support::serve(router))
    }

    /// How often each prompt was asked.
    fn asked(&self) -> HashMap<String, usize> {
        let mut asked = HashMap::new();
        for (_, body) in self.requests.lock().unwrap().iter() {
            *asked.entry(prompt_of(body)).or_default() += 1;
        }
        asked
    }
}

/// The user's message, which is the last one.
fn prompt_of(body: &Value) -> String {
    body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap().to_owned()
}

async fn models(State(server): State<Server>, headers: HeaderMap) -> Json<Value> {
    let authorization = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
    server.authorizations.lock().unwrap().push(authorization);
    // Two names of one model.
    Json(json!({"object": "list", "data": [{"id": "first-model", "root": "m"}, {"id": "second-model", "root": "m"}]}))
}

async fn chat(State(server): State<Server>, Json(body): Json<Value>) -> Response {
    let prompt = prompt_of(&body);
    let before = server.asked().get(&prompt).copied().unwrap_or(0);
    server.requests.lock().unwrap().push((Instant::now(), body));
    let reply = |text: &str, finish_reason: &str| {
        let message = json!({"role": "assistant", "content": text});
        let choice = json!({"index": 0, "message": message, "finish_reason": finish_reason});
        Json(json!({"id": "x", "choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}))
            .into_response()
    };
    let Some(behaviours) = server.script.get(&prompt) else { return reply(&prompt, "stop") };
    match behaviours[before.min(behaviours.len() - 1)] {
        Behaviour::Say(text) => reply(text, "stop"),
        Behaviour::CutOff => reply("a, b and", "length"),
        Behaviour::Reason(text) => {
            let message = json!({"content": text, "reasoning_content": "a, b", "reasoning": "a, b"});
            Json(json!({"choices": [{"message": message, "finish_reason": "stop"}]})).into_response()
        }
        Behaviour::Busy(seconds) => {
            let retry_after = [(header::RETRY_AFTER, seconds.to_string())];
            (StatusCode::TOO_MANY_REQUESTS, retry_after, "{\"error\": \"busy\"}").into_response()
        }
        Behaviour::Broken => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Behaviour::Refuse => (StatusCode::BAD_REQUEST, Json(json!({"error": {"message": "too long"}}))).into_response(),
        Behaviour::HalfJson => "{\"choices\": [{\"mess".into_response(),
        Behaviour::Slow(milliseconds) => {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            reply("at last", "stop")
        }
    }
}

#[test]
fn a_run_survives_busy_broken_and_half_replies() {
    let (server, endpoint) = Server::start(&[
        ("busy", &[Behaviour::Busy(1), Behaviour::Say("fine")]),
        ("broken", &[Behaviour::Broken, Behaviour::Say("a, b")]),
        ("half", &[Behaviour::HalfJson, Behaviour::Say("fine")]),
        ("cut", &[Behaviour::CutOff]),
    ]);
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["busy", "broken", "half", "cut", "plain"]);
    let out = directory.path().join("out");
    let output = orpo_eval(&["--endpoint", &endpoint, "--data", &data, "--out", text(&out), "--max-tokens", "77"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));

    let results = read_json(&out.join("results.json"));
    assert_eq!(results["task"], "ifeval");
    assert_eq!(results["model"], "first-model");
    assert_eq!(results["endpoint"], format!("{endpoint}/v1"));
    assert_eq!(results["sampling"], json!({"temperature": 0.0, "max_tokens": 77}));
    let counts = json!({"total": 5, "scored": 5, "unscored": 0, "errors": 0, "truncated": 1, "stripped_reasoning": 0,
        "unterminated_reasoning": 0, "refused": 0, "empty": 0, "retries": 3});
    assert_eq!(results["counts"], counts);
    assert_eq!(results["requests"], json!({"concurrency": 8, "timeout_secs": 300, "retries": 5}));
    assert!(
        stderr(&output).contains("warning: 1 of 5 responses were cut off at the token limit; --max-tokens raises it")
    );
    assert_eq!(results["metrics"]["prompt_strict"]["value"], 0.6);
    assert_eq!(results["metrics"]["prompt_strict"]["n"], 5);
    assert_eq!(results["by_instruction"]["punctuation:no_comma"]["strict_correct"], 3);

    let samples = read_lines(&out.join("samples.jsonl"));
    let keys: Vec<_> = samples.iter().map(|sample| sample["key"].as_u64().unwrap()).collect();
    assert_eq!(keys, [0, 1, 2, 3, 4], "samples are in the order of the data");
    assert_eq!(samples[1]["response"], "a, b");
    assert_eq!(samples[1]["reasons"], json!(["found 1 comma, exactly 0 required"]));
    assert_eq!(samples[3]["finish_reason"], "length");
    assert!(!out.join("samples.partial.jsonl").exists());

    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(stdout.contains("prompt_strict") && stdout.contains("60.00") && stdout.contains("1 truncated"), "{stdout}");

    // Retry-After is honoured, and every request is the one that was ordered.
    let requests = server.requests.lock().unwrap();
    let busy: Vec<_> = requests.iter().filter(|(_, body)| prompt_of(body) == "busy").map(|(at, _)| *at).collect();
    assert!(busy[1] - busy[0] >= Duration::from_millis(990), "{:?}", busy[1] - busy[0]);
    for (_, body) in requests.iter() {
        let expected = json!({"model": "first-model", "messages": [{"role": "user", "content": prompt_of(body)}],
            "temperature": 0.0, "max_tokens": 77});
        assert_eq!(*body, expected);
    }
}

#[test]
fn what_fails_is_counted_and_asked_again_while_the_rest_is_not() {
    let (server, endpoint) = Server::start(&[
        ("refused", &[Behaviour::Refuse, Behaviour::Say("fine")]),
        ("broken", &[Behaviour::Broken, Behaviour::Broken, Behaviour::Say("fine")]),
    ]);
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["a", "refused", "broken", "b"]);
    let out = directory.path().join("out");
    let arguments = ["--endpoint", &endpoint, "--data", &data, "--out", text(&out), "--retries", "1", "--model", "m"];
    let output = orpo_eval(&arguments);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("2 of 4 prompts could not be scored"), "{}", stderr(&output));
    assert!(stderr(&output).contains("answered 400: too long"), "{}", stderr(&output));
    let results = read_json(&out.join("results.json"));
    assert_eq!(results["counts"]["errors"], 2);
    assert_eq!(results["metrics"]["inst_loose"]["n"], 2);
    let refused = &read_lines(&out.join("samples.jsonl"))[1];
    assert_eq!((&refused["response"], &refused["strict"]), (&Value::Null, &json!([])));

    let output = orpo_eval(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let expected =
        [("a", 1), ("b", 1), ("refused", 2), ("broken", 3)].map(|(prompt, times)| (prompt.to_owned(), times));
    assert_eq!(server.asked(), HashMap::from(expected));
    assert_eq!(read_json(&out.join("results.json"))["counts"]["scored"], 4);

    // A third time there is nothing to ask, and other settings are refused.
    assert_eq!(orpo_eval(&arguments).status.code(), Some(0));
    assert_eq!(server.asked().values().sum::<usize>(), 7);
    let before = std::fs::read(out.join("results.json")).unwrap();
    let output = orpo_eval(&[&arguments[..], &["--temperature", "0.7"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("holds a run with other settings: sampling"), "{}", stderr(&output));
    let output = orpo_eval(&[&arguments[..], &["--limit", "2"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("2 responses beyond those that --limit selects"), "{}", stderr(&output));
    assert_eq!(std::fs::read(out.join("results.json")).unwrap(), before);
}

#[test]
fn a_killed_run_goes_on_where_it_was() {
    a_run_goes_on_after(Signal::SIGKILL, None);
}

#[test]
fn a_stopped_run_says_so_and_goes_on_where_it_was() {
    a_run_goes_on_after(Signal::SIGTERM, Some(130));
}

fn a_run_goes_on_after(signal: Signal, code: Option<i32>) {
    let (server, endpoint) = Server::start(&[("slow", &[Behaviour::Slow(60_000), Behaviour::Say("fine")])]);
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["a", "b", "slow", "c"]);
    let out = directory.path().join("out");
    let arguments = ["--endpoint", &endpoint, "--data", &data, "--out", text(&out), "--concurrency", "1"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_orpo-eval"))
        .arg("ifeval")
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.asked().len() < 3 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
    assert_eq!(child.wait().unwrap().code(), code);
    assert!(!out.join("samples.jsonl").exists() && !out.join("results.json").exists());
    let partial = out.join("samples.partial.jsonl");
    assert_eq!(read_lines(&partial).len(), 2);
    // Half a line, as a kill in the middle of a write would leave it.
    let half = std::fs::read_to_string(&partial).unwrap() + "{\"key\": 3, \"resp";
    std::fs::write(&partial, half).unwrap();

    let output = orpo_eval(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let expected = [("a", 1), ("b", 1), ("slow", 2), ("c", 1)].map(|(prompt, times)| (prompt.to_owned(), times));
    assert_eq!(server.asked(), HashMap::from(expected));
    assert_eq!(read_lines(&out.join("samples.jsonl")).len(), 4);
}

#[test]
fn a_timeout_is_an_error_of_one_request() {
    let (_, endpoint) = Server::start(&[("slow", &[Behaviour::Slow(60_000)])]);
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["a", "slow"]);
    let output =
        orpo_eval(&["--endpoint", &endpoint, "--data", &data, "--timeout-secs", "1", "--retries", "0", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("no answer in time"), "{}", stderr(&output));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(results["counts"]["errors"], 1);
}

#[test]
fn a_server_that_is_down_is_one_message() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let output = orpo_eval(&["--endpoint", &format!("http://{address}"), "--out", text(&out)]);
    assert_eq!(output.status.code(), Some(2));
    let stderr = stderr(&output);
    assert!(stderr.starts_with(&format!("error: cannot reach http://{address}/v1/models: ")), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(!out.exists());
}

#[test]
fn of_several_models_one_must_be_named() {
    let models = json!({"data": [{"id": "base", "root": "base"}, {"id": "tuned", "root": "base", "parent": "base"}]});
    let server = Server::default();
    let router = Router::new()
        .route("/v1/models", get(move || async move { Json(models) }))
        .route("/v1/chat/completions", post(chat))
        .with_state(server.clone());
    let endpoint = support::serve(router);
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["plain"]);
    let out = directory.path().join("out");
    let arguments = ["--endpoint", &endpoint, "--data", &data, "--out", text(&out)];
    let output = orpo_eval(&arguments);
    assert_eq!(output.status.code(), Some(2));
    let expected =
        format!("error: {endpoint}/v1/models lists several models (`base`, `tuned`); name one with --model\n");
    assert_eq!(stderr(&output), expected);
    assert!(server.requests.lock().unwrap().is_empty() && !out.exists());
    let output = orpo_eval(&[&arguments[..], &["--model", "tuned"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(server.requests.lock().unwrap()[0].1["model"], "tuned");
}

#[test]
fn a_server_that_goes_away_ends_the_run_soon() {
    // Answers the model list, then closes every connection without a word.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for (index, stream) in listener.incoming().take(100).enumerate() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            if index == 0 {
                let body = r#"{"data": [{"id": "m"}]}"#;
                let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all((head + body).as_bytes()).unwrap();
            }
        }
    });
    let output =
        orpo_eval(&["--endpoint", &format!("http://{address}"), "--retries", "0", "--concurrency", "1", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(results["counts"]["errors"], results["counts"]["total"]);
    assert_eq!(results["counts"]["scored"], 0);
}

#[test]
fn a_key_is_sent_and_never_written() {
    let (server, endpoint) = Server::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let output = Command::new(env!("CARGO_BIN_EXE_orpo-eval"))
        .args(["ifeval", "--endpoint", &endpoint, "--limit", "2", "--out", text(&out)])
        .env("OPENAI_API_KEY", "sk-other")
        .env("ORPO_EVAL_API_KEY", "sk-secret")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(*server.authorizations.lock().unwrap(), [Some("Bearer sk-secret".to_owned())]);
    let mut written = output.stdout;
    written.extend(output.stderr);
    for entry in std::fs::read_dir(&out).unwrap() {
        written.extend(std::fs::read(entry.unwrap().path()).unwrap());
    }
    assert!(!String::from_utf8(written).unwrap().contains("sk-"));
    // A larger limit in the same directory asks the rest.
    let output = orpo_eval(&["--endpoint", &endpoint, "--limit", "5", "--out", text(&out)]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(server.requests.lock().unwrap().len(), 5);
}

#[test]
fn settings_are_sent_recorded_and_compared() {
    let (server, endpoint) = Server::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["a"]);
    let out = directory.path().join("out");
    let plain = ["--endpoint", &endpoint, "--data", &data, "--out", text(&out)];
    let arguments =
        [&plain[..], &["--top-p", "0.5", "--seed", "-7", "--system", "Be brief", "--temperature", "1"]].concat();
    let output = orpo_eval(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let expected = json!({"model": "first-model", "temperature": 1.0, "max_tokens": 1280, "top_p": 0.5, "seed": -7,
        "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "a"}]});
    assert_eq!(server.requests.lock().unwrap()[0].1, expected);
    let sampling = json!({"temperature": 1.0, "max_tokens": 1280, "top_p": 0.5, "seed": -7});
    for name in ["results.json", "settings.json"] {
        let recorded = read_json(&out.join(name));
        assert_eq!((&recorded["sampling"], &recorded["system"]), (&sampling, &json!("Be brief")), "{name}");
    }
    let output = orpo_eval(&[&plain[..], &["--temperature", "1", "--top-p", "0.5", "--seed", "-7"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("other settings: system \"Be brief\", not null; choose"), "{}", stderr(&output));
}

#[test]
fn reasoning_is_taken_out_anew_from_what_is_on_disk() {
    let (server, endpoint) = Server::start(&[
        ("thinks", &[Behaviour::Say("<think>a, b</think>\n\nfine")]),
        ("never ends", &[Behaviour::Say("<think>a, b")]),
        ("apart", &[Behaviour::Reason("fine")]),
    ]);
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["thinks", "never ends", "apart"]);
    let out = directory.path().join("out");
    let arguments = ["--endpoint", &endpoint, "--data", &data, "--out", text(&out)];
    let run = |more: &[&str]| {
        let output = orpo_eval(&[&arguments[..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let samples = read_lines(&out.join("samples.jsonl"));
        let results = read_json(&out.join("results.json"));
        (samples, results)
    };
    let (samples, results) = run(&["--strip-reasoning", "think"]);
    assert_eq!((&samples[0]["response"], &samples[0]["strict"]), (&json!("fine"), &json!([true])));
    assert_eq!(samples[0]["raw_response"], "<think>a, b</think>\n\nfine");
    assert_eq!((&samples[1]["response"], &samples[1]["loose"]), (&json!(""), &json!([false])));
    assert_eq!((&samples[2]["response"], &samples[2]["raw_response"]), (&json!("fine"), &Value::Null));
    assert_eq!(results["strip_reasoning"], json!(["think"]));
    assert_eq!(results["counts"]["stripped_reasoning"], 2);
    assert_eq!(results["counts"]["unterminated_reasoning"], 1);

    let (samples, results) = run(&[]);
    assert_eq!(
        (&samples[0]["response"], &samples[0]["strict"]),
        (&json!("<think>a, b</think>\n\nfine"), &json!([false]))
    );
    assert_eq!((&results["strip_reasoning"], &results["counts"]["stripped_reasoning"]), (&json!([]), &json!(0)));
    let (samples, _) = run(&["--strip-reasoning", "harmony", "--strip-reasoning", "<think>...</think>"]);
    assert_eq!(samples[0]["response"], "fine");
    assert_eq!(server.requests.lock().unwrap().len(), 3, "nothing is asked twice");
}

#[test]
fn a_server_that_wants_to_be_left_alone_is_obeyed_or_left() {
    let (server, endpoint) = Server::start(&[
        ("soon", &[Behaviour::Busy(2), Behaviour::Say("fine")]),
        ("tomorrow", &[Behaviour::Busy(86_400), Behaviour::Say("fine")]),
    ]);
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["soon", "tomorrow", "never asked"]);
    let out = directory.path().join("out");
    let arguments =
        ["--endpoint", &endpoint, "--data", &data, "--out", text(&out), "--concurrency", "1", "--max-wait-secs", "2"];
    let started = Instant::now();
    let output = orpo_eval(&arguments);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(started.elapsed() >= Duration::from_secs(2));
    let message = "answered 429 and asks to be left alone for 86400 seconds; run again then, or raise --max-wait-secs";
    assert!(stderr(&output).contains(message), "{}", stderr(&output));
    let asked = HashMap::from([("soon".to_owned(), 2), ("tomorrow".to_owned(), 1)]);
    assert_eq!(server.asked(), asked);
    assert_eq!(read_json(&out.join("results.json"))["counts"]["retries"], 1);
    assert_eq!(orpo_eval(&arguments).status.code(), Some(0));
    assert_eq!(read_json(&out.join("results.json"))["counts"]["scored"], 3);
}

/// What has arrived is never asked again, whenever the process is killed; what was on its way may be.
#[test]
fn kills_at_any_moment_lose_nothing_that_has_arrived() {
    const PROMPTS: usize = 80;
    const CONCURRENCY: usize = 4;
    let prompts: Vec<String> = (0..PROMPTS).map(|index| format!("prompt {index}")).collect();
    let behaviours: Vec<[Behaviour; 1]> =
        (0..PROMPTS as u64).map(|index| [Behaviour::Slow(5 + index * 7 % 40)]).collect();
    let script: Vec<(&str, &[Behaviour])> =
        prompts.iter().zip(&behaviours).map(|(prompt, behaviour)| (&prompt[..], &behaviour[..])).collect();
    let (server, endpoint) = Server::start(&script);
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &prompts.iter().map(|prompt| &prompt[..]).collect::<Vec<_>>());
    let out = directory.path().join("out");
    let concurrency = CONCURRENCY.to_string();
    let arguments = ["--endpoint", &endpoint, "--data", &data, "--out", text(&out), "--concurrency", &concurrency];
    let mut kept: HashSet<String> = HashSet::new();
    let mut kills = 0;
    // The moments are spread over start, requests and end of a run; randomness of the machine does the rest.
    for milliseconds in [15, 40, 70, 110, 90, 60, 130, 30, 100] {
        let asked_before = server.asked();
        let mut child = Command::new(env!("CARGO_BIN_EXE_orpo-eval"))
            .arg("ifeval")
            .args(arguments)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        kills += usize::from(child.wait().unwrap().code().is_none());
        let asked = server.asked();
        for prompt in &kept {
            assert_eq!(asked[prompt], asked_before[prompt], "`{prompt}` had been answered");
        }
        let partial = std::fs::read_to_string(out.join("samples.partial.jsonl")).unwrap_or_default();
        let whole = partial.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        kept.extend(whole.map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            prompts[row["key"].as_u64().unwrap() as usize].clone()
        }));
    }
    assert!(kills >= 5, "{kills} kills");
    let asked_before = server.asked();
    let output = orpo_eval(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let asked = server.asked();
    assert!(kept.iter().all(|prompt| asked[prompt] == asked_before[prompt]));
    assert_eq!(asked.len(), PROMPTS);
    let total: usize = asked.values().sum();
    assert!(total <= PROMPTS + kills * CONCURRENCY, "{total} requests after {kills} kills");
    let samples = read_lines(&out.join("samples.jsonl"));
    let keys: Vec<u64> = samples.iter().map(|sample| sample["key"].as_u64().unwrap()).collect();
    assert_eq!(keys, (0..PROMPTS as u64).collect::<Vec<_>>());
    assert!(samples.iter().all(|sample| sample["response"] == "at last"));
    println!("{kills} kills, {} prompts kept by then, {total} requests for {PROMPTS} prompts", kept.len());
}

#[test]
fn a_server_that_comes_back_is_waited_for_and_says_where_its_model_comes_from() {
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["one", "two", "three", "four"]);
    let out = directory.path().join("out");
    // Nobody listens yet, but somebody will.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let endpoint = format!("http://{address}");
    let arguments = ["--endpoint", &endpoint, "--data", &data, "--out", text(&out), "--retries", "0"];
    let mut command = support::program("ifeval", &[&arguments[..], &["--outage-secs", "120"]].concat());
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // Its first tries have failed by then; that they do not end it is what is tested.
    std::thread::sleep(Duration::from_millis(600));
    let listener = TcpListener::bind(address).unwrap();
    let card = json!({"id": "m", "lineage": {"step": 7}});
    let router = Router::new()
        .route("/v1/models", get(move || async move { Json(json!({"data": [card]})) }))
        .route("/v1/chat/completions", post(chat))
        .with_state(Server::default());
    support::serve_on(listener, router);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let results = read_json(&out.join("results.json"));
    assert_eq!((&results["counts"]["errors"], &results["lineage"]), (&json!(0), &json!({"step": 7})), "{results}");
}
