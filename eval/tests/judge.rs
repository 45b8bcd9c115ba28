//! A judge that misbehaves in every way that servers do: everything is asked again or counted, and nothing is lost.

mod support;

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use orpo_eval::asking::Party;
use orpo_eval::body::Edits;
use orpo_eval::client::{Client, Retry};
use orpo_eval::judge::cost::Prices;
use orpo_eval::judge::verdicts::VerdictStore;
use orpo_eval::judge::{Judge, JudgeError, Outcome, Pace, Reply, Request, Tally};
use orpo_eval::progress::Progress;
use orpo_eval::reasoning::{Format, Reasoning};
use serde_json::{Value, json};

/// What has been asked, in order; and the most requests that were open at a time.
#[derive(Default)]
struct Seen {
    asked: Vec<String>,
    open: usize,
    most_open: usize,
}

/// Answers by the question's first word; a number in front is how often it misbehaves before it answers.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Seen>>);

async fn chat(State(Server(seen)): State<Server>, Json(body): Json<Value>) -> Response {
    let question = body["messages"][0]["content"].as_str().unwrap().to_owned();
    let before = {
        let mut seen = seen.lock().unwrap();
        seen.asked.push(question.clone());
        seen.open += 1;
        seen.most_open = seen.most_open.max(seen.open);
        seen.asked.iter().filter(|asked| **asked == question).count() - 1
    };
    let response = answer(&question, before).await;
    seen.lock().unwrap().open -= 1;
    response
}

async fn answer(question: &str, before: usize) -> Response {
    let good = |with_logprobs: bool| {
        let top = json!([{"token": "m", "logprob": -0.1}, {"token": "M", "logprob": -2.4}]);
        let logprobs =
            with_logprobs.then(|| json!({"content": [{"token": "m", "logprob": -0.1, "top_logprobs": top}]}));
        let choice = json!({"message": {"content": "m"}, "logprobs": logprobs, "finish_reason": "stop"});
        Json(json!({"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 1}})).into_response()
    };
    match (question.split(' ').next().unwrap(), before) {
        ("busy", 0) => (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "0.05")]).into_response(),
        ("broken", 0..2) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        ("half", 0) => "{\"choices\": [{\"mess".into_response(),
        ("hollow", 0) => "{\"choices\": []}".into_response(),
        ("denied", _) => (StatusCode::UNAUTHORIZED, "{\"error\": {\"message\": \"wrong key\"}}").into_response(),
        ("refused", _) => (StatusCode::BAD_REQUEST, "{\"error\": {\"message\": \"no\"}}").into_response(),
        ("bare", _) => good(false),
        ("slow", _) => {
            tokio::time::sleep(Duration::from_millis(100)).await;
            good(true)
        }
        ("hanging", 0) => {
            tokio::time::sleep(Duration::from_secs(30)).await;
            good(true)
        }
        _ => good(true),
    }
}

fn start() -> (Server, String) {
    let server = Server::default();
    let router = Router::new().route("/v1/chat/completions", post(chat)).with_state(server.clone());
    (server, support::serve(router))
}

fn judge(endpoint: &str, concurrency: usize) -> Judge {
    let retry =
        Retry { retries: 3, first: Duration::from_millis(5), longest: Duration::from_secs(1), ..Retry::default() };
    Judge {
        client: Client::new(endpoint, None, Duration::from_secs(1), retry).unwrap(),
        party: Party::Judge,
        concurrency,
        pace: Pace::new(None, None),
        prices: None,
        max_cost: None,
        edits: Edits::default(),
        reasoning: Reasoning::new([Format::Auto]),
        retry_unscored: false,
        used: Mutex::default(),
    }
}

fn request(question: &str) -> Request {
    let message = json!({"role": "user", "content": question});
    Request::new(json!({"model": "j", "messages": [message], "max_tokens": 1, "logprobs": true}))
}

fn ask(judge: &Judge, path: &Path, questions: &[&str]) -> Result<(Vec<Outcome>, Tally), JudgeError> {
    let requests: Vec<Request> = questions.iter().map(|question| request(question)).collect();
    let mut store = VerdictStore::open(path).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let fit = |reply: &Reply| reply.top_logprobs(0).map(|_| ()).ok_or_else(|| "it returns no logprobs".to_owned());
    runtime.block_on(judge.ask(&requests, &mut store, fit, &Progress::new(true)))
}

fn asked(server: &Server) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for question in &server.0.lock().unwrap().asked {
        *counts.entry(question.clone()).or_default() += 1;
    }
    counts
}

#[test]
fn everything_is_asked_again_or_counted() {
    let (server, endpoint) = start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("verdicts.jsonl");
    let questions = ["good", "busy", "broken", "half", "hollow", "refused", "bare", "slow", "hanging", "good"];
    let (outcomes, tally) = ask(&judge(&endpoint, 4), &path, &questions).unwrap();
    let replied: Vec<bool> = outcomes.iter().map(|outcome| outcome.reply().is_some()).collect();
    assert_eq!(replied, [true, true, true, true, true, false, true, true, true, true]);
    assert!(outcomes[5].problem().unwrap().ends_with("answered 400: no"), "{:?}", outcomes[5]);
    assert_eq!(outcomes[6].reply().unwrap().top_logprobs(0), None);
    let expected = Tally { requests: 9, failed: 1, prompt_tokens: 80, completion_tokens: 8, ..Tally::default() };
    assert_eq!(tally, expected);
    let expected =
        [("good", 1), ("busy", 2), ("broken", 3), ("half", 2), ("hollow", 2), ("refused", 1), ("hanging", 2)];
    let counts = asked(&server);
    for (question, times) in expected {
        assert_eq!(counts[question], times, "{question}");
    }
    // The second run asks what has failed, and nothing else.
    let (outcomes, tally) = ask(&judge(&endpoint, 4), &path, &questions).unwrap();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.reply().is_some()).count(), 9);
    assert_eq!((tally.cached, tally.failed), (8, 1));
    let again = asked(&server);
    let more: Vec<&String> = again.keys().filter(|question| again[*question] != counts[*question]).collect();
    assert_eq!(more, ["refused"]);
}

#[test]
fn a_judge_without_logprobs_is_found_out_by_its_first_reply() {
    let (server, endpoint) = start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("verdicts.jsonl");
    let error = ask(&judge(&endpoint, 4), &path, &["bare 1", "bare 2", "bare 3"]).unwrap_err().to_string();
    assert!(error.ends_with("cannot be used: it returns no logprobs"), "{error}");
    assert_eq!(asked(&server).len(), 1);
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1, "what was paid for is kept");
}

#[test]
fn a_judge_that_is_not_there_or_lets_nobody_in_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = ask(&judge(&format!("http://127.0.0.1:{port}"), 4), &directory.path().join("v"), &["a", "b"]);
    assert!(matches!(error, Err(JudgeError::Unreachable(_))), "{error:?}");
    let (server, endpoint) = start();
    let error = ask(&judge(&endpoint, 4), &directory.path().join("v"), &["denied 1", "denied 2"]).unwrap_err();
    assert!(error.to_string().ends_with("answered 401: wrong key"), "{error}");
    assert_eq!(asked(&server).len(), 1, "the same key would be refused again");
}

#[test]
fn the_spending_cap_holds() {
    let (server, endpoint) = start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("verdicts.jsonl");
    // By the server's count each costs 10 + 1; by the estimate at most 6 + 1.
    let prices = Some(Prices { prompt: 1e6, completion: 1e6 });
    let run = || Judge { prices, max_cost: Some(39.0), ..judge(&endpoint, 1) };
    let questions: Vec<String> = (0..9).map(|number| format!("good {number}")).collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    let (outcomes, tally) = ask(&run(), &path, &questions).unwrap();
    assert_eq!((tally.dollars, tally.failed), (Some(33.0), 6));
    assert_eq!(asked(&server).len(), 3);
    assert_eq!(outcomes[3], Outcome::NotAsked("not asked: the spending cap is reached".into()));
    let (_, tally) = ask(&run(), &path, &questions).unwrap();
    assert_eq!((tally.cached, tally.failed), (3, 3), "the next run goes on where this one stopped");
}

#[test]
fn many_requests_are_in_flight() {
    let (server, endpoint) = start();
    let directory = tempfile::tempdir().unwrap();
    let questions: Vec<String> = (0..512).map(|number| format!("slow {number}")).collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    let started = Instant::now();
    let (_, tally) = ask(&judge(&endpoint, 256), &directory.path().join("v"), &questions).unwrap();
    println!("512 replies of 0.1 s in {:?}", started.elapsed());
    assert_eq!(tally.failed, 0);
    assert_eq!(server.0.lock().unwrap().most_open, 256);
}
