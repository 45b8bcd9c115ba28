//! What servers say beside, in front of and instead of a text: the text counts, errors are told in the server's words, and what
//! is no answer is asked for again.

mod support;

use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use orpo_eval::asking::Party;
use orpo_eval::body::Edits;
use orpo_eval::client::{Client, Retry};
use orpo_eval::judge::verdicts::VerdictStore;
use orpo_eval::judge::{Judge, JudgeError, Pace, Request};
use orpo_eval::learning::Action;
use orpo_eval::progress::Progress;
use orpo_eval::reasoning::{Format, Reasoning};
use orpo_eval::reply::{NoAnswer, Reply, Unusable};
use serde_json::{Value, json};
use support::{orpo_eval, program, read_json, read_lines, reference, stderr, text, unpack, write_data};

/// What a stand-in answers: a status and a body.
type Answer = (u16, String);

/// The requests that a stand-in got.
type Asked = Arc<Mutex<Vec<Value>>>;

/// A server that answers chat requests by a function of the body and of how many there were before.
fn stub(answer: impl Fn(&Value, usize) -> Answer + Send + Sync + 'static) -> (Asked, String) {
    let asked = Asked::default();
    let (seen, answer) = (asked.clone(), Arc::new(answer));
    let chat = move |Json(body): Json<Value>| {
        let (seen, answer) = (seen.clone(), answer.clone());
        async move {
            let before = seen.lock().unwrap().len();
            seen.lock().unwrap().push(body.clone());
            let (status, text) = answer(&body, before);
            (StatusCode::from_u16(status).unwrap(), [(header::CONTENT_TYPE, "application/json")], text).into_response()
        }
    };
    let router = Router::new()
        .route("/v1/models", get(async || Json(json!({"data": [{"id": "m"}]}))))
        .route("/v1/chat/completions", post(chat));
    (asked, support::serve(router))
}

fn count(asked: &Asked) -> usize {
    asked.lock().unwrap().len()
}

fn prompt(body: &Value) -> &str {
    body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap()
}

/// A reply with this text.
fn says(content: &str) -> Answer {
    ends(&json!(content), "stop")
}

/// A reply with this content that ended for this reason.
fn ends(content: &Value, reason: &str) -> Answer {
    let choice = json!({"message": {"role": "assistant", "content": content}, "finish_reason": reason});
    (200, json!({"choices": [choice]}).to_string())
}

fn error(status: u16, message: &str) -> Answer {
    (status, json!({"error": {"message": message}}).to_string())
}

fn results_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(output)))
}

#[test]
fn what_stands_beside_the_text_costs_nobody_the_text() {
    let choice = json!({"message": {"content": "fine"}, "finish_reason": "stop"});
    let with = |usage: Value| json!({"choices": [choice], "usage": usage}).to_string();
    let parts = |parts: Value| json!({"choices": [{"message": {"content": parts}}]}).to_string();
    let bodies = [
        json!({"choices": [choice]}).to_string(),
        with(json!(null)),
        with(json!({})),
        with(json!({"total_tokens": 5})),
        with(json!({"prompt_tokens": 3.0, "completion_tokens": 2.5})),
        with(json!({"prompt_tokens": 3, "completion_tokens": null})),
        with(json!({"prompt_tokens": -1, "completion_tokens": -1})),
        with(json!("many")),
        parts(json!([{"type": "text", "text": "fi"}, {"type": "text", "text": "ne"}])),
        parts(json!([{"type": "thinking", "thinking": [{"type": "text", "text": "a, b"}]}, {"type": "text", "text": "fine"}])),
        format!("\u{feff}{}", with(json!(null))),
        with(json!("odd")).replace("\"odd\"", "NaN"),
        with(json!("odd")).replace("\"odd\"", "1e999"),
        with(json!("odd")).replace("fine", "fine \\ud83d"),
        json!({"choices": [{"message": {"content": "fine", "refusal": null, "tool_calls": null}, "finish_reason": null}],
            "error": null, "system_fingerprint": {}}).to_string(),
    ];
    let prompts: Vec<String> = (0..bodies.len()).map(|index| index.to_string()).collect();
    let n = bodies.len();
    let (asked, endpoint) = stub(move |body, _| (200, bodies[prompt(body).parse::<usize>().unwrap()].clone()));
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &prompts.iter().map(String::as_str).collect::<Vec<_>>());
    let out = directory.path().join("out");
    let output = orpo_eval(&["--endpoint", &endpoint, "--data", &data, "--out", text(&out)]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(count(&asked), n, "nothing is asked twice");
    for sample in read_lines(&out.join("samples.jsonl")) {
        assert!(sample["response"].as_str().unwrap().starts_with("fine"), "{sample}");
    }
}

#[test]
fn an_error_with_a_good_status_is_told_and_its_code_decides() {
    let (asked, endpoint) = stub(|body, before| match (prompt(body), before) {
        ("busy", 0) => (200, json!({"error": {"message": "overloaded", "code": 429}}).to_string()),
        ("gone", _) => (200, json!({"choices": null, "error": {"message": "bad gateway", "code": 502}}).to_string()),
        ("refused", _) => (200, json!({"error": {"message": "not that", "code": 400}}).to_string()),
        ("page", _) => (200, "<!DOCTYPE html><html><title>Just a moment</title></html>".into()),
        ("failed", _) => {
            let choice = json!({"message": {"content": ""}, "finish_reason": "error", "error": {"code": 502, "message": "upstream"}});
            (200, json!({"choices": [choice]}).to_string())
        }
        _ => says("fine"),
    });
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["busy", "gone", "refused", "page", "failed"]);
    let out = directory.path().join("out");
    let arguments =
        ["--endpoint", &endpoint, "--data", &data, "--out", text(&out), "--retries", "1", "--concurrency", "1"];
    let output = orpo_eval(&arguments);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let errors: Vec<String> = read_lines(&out.join("samples.jsonl"))
        .iter()
        .map(|sample| sample["error"].as_str().unwrap_or_default().to_owned())
        .collect();
    for (error, words) in errors.iter().zip([
        "",
        "answered 502: bad gateway",
        "answered 400: not that",
        "sent a web page instead of a reply (`Just a moment`)",
        "answered 502: upstream",
    ]) {
        assert!(error.contains(words) && error.is_empty() == words.is_empty(), "{error}");
    }
    let times = |what: &str| asked.lock().unwrap().iter().filter(|body| prompt(body) == what).count();
    assert_eq!(["busy", "gone", "refused", "page", "failed"].map(times), [2, 2, 1, 1, 2]);
}

#[test]
fn what_a_server_did_not_finish_is_asked_for_by_the_next_run() {
    let (asked, endpoint) = stub(|body, before| match (prompt(body), before) {
        ("error", 0..3) => ends(&json!(""), "error"),
        ("filter", 0..3) => ends(&json!("a, b"), "content_filter"),
        _ => says("fine"),
    });
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["plain", "error", "filter"]);
    let out = directory.path().join("out");
    let arguments =
        ["--endpoint", &endpoint, "--data", &data, "--out", text(&out), "--retries", "0", "--concurrency", "1"];
    let output = orpo_eval(&arguments);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let results = read_json(&out.join("results.json"));
    let counts = ["scored", "unscored", "errors"].map(|name| results["counts"][name].as_u64().unwrap());
    assert_eq!((counts, &results["metrics"]["prompt_strict"]["value"]), ([1, 2, 2], &json!(1.0)));
    let samples = read_lines(&out.join("samples.jsonl"));
    assert!(samples[1]["error"].as_str().unwrap().contains("the reply ended with `error`"), "{}", samples[1]);
    assert!(
        samples[2]["error"].as_str().unwrap().contains("its content filter says `content_filter`"),
        "{}",
        samples[2]
    );
    assert_eq!((&samples[1]["response"], &samples[2]["response"]), (&Value::Null, &Value::Null));
    let output = orpo_eval(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(count(&asked), 5);

    // Earlier versions took such a reply for an empty response.
    let written = std::fs::read_to_string(out.join("samples.jsonl")).unwrap();
    let mut lines: Vec<String> = written.lines().map(str::to_owned).collect();
    let mut old: Value = serde_json::from_str(&lines[1]).unwrap();
    (old["response"], old["finish_reason"]) = (json!(""), json!("error"));
    lines[1] = old.to_string();
    std::fs::write(out.join("samples.jsonl"), lines.join("\n") + "\n").unwrap();
    assert_eq!(orpo_eval(&arguments).status.code(), Some(0));
    assert_eq!(count(&asked), 6);
}

#[test]
fn refusals_empty_responses_and_reasoning_are_counted() {
    let (_, endpoint) = stub(|body, _| match prompt(body) {
        "refuse" => (200, json!({"choices": [{"message": {"content": null, "refusal": "I cannot."}}]}).to_string()),
        "nothing" => ends(&Value::Null, "stop"),
        "cut" => ends(&json!(""), "length"),
        "think" => says("<think>a, b</think>fine"),
        _ => says("fine"),
    });
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["refuse", "nothing", "cut", "think", "plain"]);
    let out = directory.path().join("out");
    let output = orpo_eval(&["--endpoint", &endpoint, "--data", &data, "--out", text(&out)]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let counts = &read_json(&out.join("results.json"))["counts"];
    let found = ["scored", "refused", "empty", "truncated", "errors"].map(|name| counts[name].as_u64().unwrap());
    assert_eq!(found, [5, 1, 2, 1, 0], "{counts}");
    let refusal = &read_lines(&out.join("samples.jsonl"))[0];
    assert_eq!((&refusal["response"], &refusal["finish_reason"]), (&json!("I cannot."), &json!("refusal")));
    let message = stderr(&output);
    for note in [
        "note: some responses are refusals, as the server marked them (1); their words are scored",
        "warning: some responses are empty (2); --max-tokens gives more room to those that were cut off",
        "note: some responses hold reasoning such as <think> (1), which is scored as part of them; --strip-reasoning auto takes \
         it out",
    ] {
        assert!(message.lines().any(|line| line == note), "{message}");
    }
    let again =
        orpo_eval(&["--endpoint", &endpoint, "--data", &data, "--out", text(&out), "--strip-reasoning", "auto"]);
    assert!(!stderr(&again).contains("hold reasoning"), "{}", stderr(&again));
}

/// A model or judge that takes no `max_tokens`.
fn wants_another_limit(reply: &'static str) -> impl Fn(&Value, usize) -> Answer + Send + Sync + 'static {
    move |body, _| match body.get("max_tokens") {
        Some(_) => {
            error(400, "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.")
        }
        None => says(reply),
    }
}

#[test]
fn a_refused_field_is_learnt_unless_the_user_has_set_it() {
    let (asked, endpoint) = stub(wants_another_limit("fine"));
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["a", "b", "c"]);
    let out = directory.path().join("out");
    let arguments = ["--endpoint", &endpoint, "--data", &data, "--out", text(&out), "--max-tokens", "77"];
    let output = orpo_eval(&[&arguments[..4], &["--body", "max_tokens=77"]].concat());
    assert_eq!((output.status.code(), count(&asked)), (Some(2), 1), "{}", stderr(&output));
    let advice = "Use 'max_completion_tokens' instead; rename the field with --body max_tokens= --body max_completion_tokens=77\n";
    assert!(
        stderr(&output).starts_with("error: the model cannot be asked: ") && stderr(&output).ends_with(advice),
        "{}",
        stderr(&output)
    );
    // What is learnt is one refused request, said and recorded.
    let learning = directory.path().join("learning");
    let output = orpo_eval(&[&arguments[..4], &["--max-tokens", "77", "--out", text(&learning)]].concat());
    assert_eq!((output.status.code(), count(&asked)), (Some(0), 5), "{}", stderr(&output));
    let note =
        "note: the model's server takes `max_completion_tokens` instead of `max_tokens`: the limit of 77 tokens stays";
    assert!(stderr(&output).starts_with(note), "{}", stderr(&output));
    let learnt = &read_json(&learning.join("results.json"))["learnt"];
    assert_eq!((&learnt[0]["field"], &learnt[0]["action"]), (&json!("max_tokens"), &json!("renamed")), "{learnt}");
    asked.lock().unwrap().truncate(1);
    let edits = ["--body", "max_tokens=", "--body", "max_completion_tokens=77", "--body", "reasoning_effort=low"];
    let output = orpo_eval(&[&arguments[..], &edits].concat());
    assert_eq!((output.status.code(), count(&asked)), (Some(0), 4), "{}", stderr(&output));
    let sent = json!({"temperature": 0.0, "max_completion_tokens": 77, "reasoning_effort": "low"});
    for name in ["results.json", "settings.json"] {
        assert_eq!(read_json(&out.join(name))["sampling"], sent, "{name}");
    }
    let mut body = asked.lock().unwrap()[1].clone();
    body.as_object_mut().unwrap().retain(|name, _| name != "model" && name != "messages");
    assert_eq!(body, sent);
    let output = orpo_eval(&arguments);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("holds a run with other settings"), "{}", stderr(&output));
}

#[test]
fn a_web_page_or_a_wrong_model_ends_the_run_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["a", "b", "c"]);
    for (answer, words) in [
        ((200, "<html><title>Log in</title></html>".to_owned()), "a web page instead of a reply (`Log in`)"),
        (error(404, "no model `m`"), "answered 404: no model `m`"),
        (error(402, "no credit"), "answered 402: no credit"),
    ] {
        let (asked, endpoint) = stub(move |_, _| answer.clone());
        let output = orpo_eval(&["--endpoint", &endpoint, "--data", &data]);
        assert_eq!((output.status.code(), count(&asked)), (Some(2), 1), "{}", stderr(&output));
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
}

#[test]
fn a_server_without_a_list_of_models_is_asked_for_a_named_one() {
    let chat = async || Json(json!({"choices": [{"message": {"content": "fine"}}]}));
    let endpoint = support::serve(Router::new().route("/v1/chat/completions", post(chat)));
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["a"]);
    let output = orpo_eval(&["--endpoint", &endpoint, "--data", &data]);
    let advice = "/v1/models answered 404: (its body is empty); name the model with --model, or check --endpoint\n";
    assert!(output.status.code() == Some(2) && stderr(&output).ends_with(advice), "{}", stderr(&output));
    let output = orpo_eval(&["--endpoint", &endpoint, "--data", &data, "--model", "m"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

/// MT-Bench with one question of two turns.
struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { directory: tempfile::tempdir().unwrap() };
        bench.write("q.jsonl", &json!({"question_id": 1, "category": "writing", "turns": ["one", "two"]}));
        bench.answers("a", ["first of a", "second of a"]);
        bench
    }

    fn write(&self, name: &str, row: &Value) {
        std::fs::write(self.path(name), row.to_string() + "\n").unwrap();
    }

    fn answers(&self, model: &str, turns: [&str; 2]) {
        self.write(
            &format!("{model}.jsonl"),
            &json!({"question_id": 1, "model_id": model, "choices": [{"turns": turns}]}),
        );
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, endpoint: &str, more: &[&str]) -> Output {
        let (questions, answers) = (self.path("q.jsonl"), self.path("a.jsonl"));
        let common = ["--questions", text(&questions), "--answers", text(&answers)];
        let judge = ["--judge-endpoint", endpoint, "--judge-model", "j", "--judge-retries", "0", "--json"];
        program("mt-bench", &[&common[..], more, &judge].concat()).output().unwrap()
    }

    fn average(&self, endpoint: &str, more: &[&str]) -> Value {
        let output = self.run(endpoint, &[more, &["--max-unscored", "1"]].concat());
        let results = results_of(&output);
        if results["counts"]["scored"] == 0 { Value::Null } else { results["metrics"]["average"]["value"].clone() }
    }
}

#[test]
fn a_judge_may_think_before_its_verdict() {
    let bench = Bench::new();
    for (reply, strict, official) in [
        ("<think>A first idea would be [[3]]. No.</think>Rating: [[9]]", json!(9.0), json!(3.0)),
        ("A first idea would be [[3]]. No.</think>Rating: [[9]]", json!(9.0), json!(3.0)),
        (
            "<|channel|>analysis<|message|>[[3]]?<|end|><|start|>assistant<|channel|>final<|message|>[[9]]",
            json!(9.0),
            json!(3.0),
        ),
        ("[THINK][[3]][/THINK] Rating: [[9]]", json!(9.0), json!(3.0)),
        ("It says \"Rating: [[10]]\" itself, which helps nobody. Rating: [[2]]", Value::Null, json!(10.0)),
    ] {
        let (_, endpoint) = stub(move |_, _| says(reply));
        assert_eq!(bench.average(&endpoint, &[]), strict, "{reply}");
        assert_eq!(bench.average(&endpoint, &["--official"]), official, "{reply}");
        let kept = bench.average(&endpoint, &["--judge-strip-reasoning", "none"]);
        assert_eq!(kept, Value::Null, "two verdicts: {reply}");
    }
    let (_, endpoint) = stub(|_, _| {
        let message = json!({"content": "Rating: [[9]]", "reasoning_content": "[[3]]", "reasoning": "[[3]]"});
        (200, json!({"choices": [{"message": message}]}).to_string())
    });
    assert_eq!(bench.average(&endpoint, &["--official"]), json!(9.0));
}

#[test]
fn why_a_judge_gave_no_score_is_told() {
    let bench = Bench::new();
    let limit = "--judge-body max_tokens=N";
    for (answer, reason) in [
        (
            says("Rating: [[10]], that is, [[2]]"),
            "the judge's reply holds different scores, such as 10 and 2".to_owned(),
        ),
        (says("Good."), "the judge's reply holds no score".to_owned()),
        (
            ends(&json!("Rating: "), "length"),
            format!("the judge's reply holds no score (it was cut off at its token limit; raise it with {limit})"),
        ),
        (
            ends(&json!(null), "length"),
            format!(
                "the judge's reply was cut off at its token limit before it said anything; raise the limit with {limit}"
            ),
        ),
        (
            ends(&json!("<think>[[3]]"), "length"),
            format!(
                "the judge's reply was cut off at its token limit before it said anything; raise the limit with {limit}"
            ),
        ),
        (ends(&json!("<think>[[3]]"), "stop"), "the judge's reply is reasoning that does not end".to_owned()),
        (says(" "), "the judge's reply is empty".to_owned()),
        (
            (200, json!({"choices": [{"message": {"content": null, "refusal": "No."}}]}).to_string()),
            "the judge's reply is a refusal: No.".to_owned(),
        ),
    ] {
        let (asked, endpoint) = stub(move |_, _| answer.clone());
        let output = bench.run(&endpoint, &["--max-unscored", "1"]);
        // Reasoning that took all the room is given twice as much, once.
        let requests = if reason.contains("before it said anything") { 4 } else { 2 };
        assert_eq!((output.status.code(), count(&asked)), (Some(1), requests), "{}", stderr(&output));
        assert!(stderr(&output).contains(&format!("first reason: {reason}\n")), "{reason}: {}", stderr(&output));
        assert!(stderr(&output).contains("note: --retry-unscored asks the judge again"), "{}", stderr(&output));
        let counts = &results_of(&output)["counts"];
        assert_eq!((&counts["no_verdict"], &counts["scored"]), (&json!(2), &json!(0)));
    }
}

#[test]
fn a_judge_without_room_for_an_answer_is_asked_no_further() {
    let bench = Bench::new();
    bench.answers("b", ["x", "y"]);
    let (asked, endpoint) = stub(|_, _| ends(&json!(""), "length"));
    let other = bench.path("b.jsonl");
    let output = bench.run(&endpoint, &["--answers", text(&other)]);
    // Each of the three had a second chance with twice the room.
    assert_eq!((output.status.code(), count(&asked)), (Some(2), 6), "{}", stderr(&output));
    let message = "its first 3 replies were cut off at the token limit before they said anything; raise the limit with \
                   --judge-body max_tokens=N";
    assert!(stderr(&output).contains(message), "{}", stderr(&output));
}

#[test]
fn a_judge_that_refuses_a_field_is_asked_once_and_takes_another() {
    let bench = Bench::new();
    let (asked, endpoint) = stub(wants_another_limit("Rating: [[8]]"));
    let output = bench.run(&endpoint, &["--judge-body", "max_tokens=2048"]);
    assert_eq!((output.status.code(), count(&asked)), (Some(2), 1), "{}", stderr(&output));
    let advice = "rename the field with --judge-body max_tokens= --judge-body max_completion_tokens=2048\n";
    assert!(stderr(&output).contains("\nerror: the judge cannot be asked: "), "{}", stderr(&output));
    assert!(stderr(&output).ends_with(advice), "{}", stderr(&output));
    let edits =
        ["--judge-body", "max_tokens=", "--judge-body", "max_completion_tokens=9000", "--judge-body", "temperature="];
    let output = bench.run(&endpoint, &edits);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let judge = results_of(&output)["judge"].clone();
    assert_eq!(
        (&judge["max_completion_tokens"], judge.get("max_tokens"), judge.get("temperature")),
        (&json!(9000), None, None)
    );
    assert_eq!(judge["strip_reasoning"], json!(["auto"]));
    let sent = asked.lock().unwrap()[1].clone();
    assert_eq!((&sent["max_completion_tokens"], sent.get("temperature")), (&json!(9000), None));
}

#[test]
fn two_verdicts_on_a_pair_are_none() {
    let bench = Bench::new();
    bench.answers("b", ["first of b", "second of b"]);
    // It prefers `a`, and names the other one first.
    let (_, endpoint) = stub(|body, _| {
        let (good, bad) = if prompt(body).find("of a") < prompt(body).find("of b") { ("A", "B") } else { ("B", "A") };
        says(&format!("Some would answer [[{bad}]], but I do not. My verdict: [[{good}]]"))
    });
    let b = bench.path("b.jsonl");
    let pairs = ["--mode", "pairwise-baseline", "--baseline", "b", "--max-unscored", "1", "--answers", text(&b)];
    let output = bench.run(&endpoint, &pairs);
    let results = results_of(&output);
    assert_eq!((&results["counts"]["no_verdict"], &results["counts"]["scored"]), (&json!(2), &json!(0)));
    let reason = "first reason: the judge's reply holds different verdicts, such as A and B";
    assert!(stderr(&output).contains(reason), "{}", stderr(&output));
    // Officially [[A]] wins wherever it is.
    let official = results_of(&bench.run(&endpoint, &[&pairs[..], &["--official"]].concat()));
    assert_eq!((&official["counts"]["scored"], &official["by_model"]["a"]["tie"]), (&json!(2), &json!(2)));

    let prompts = |name: &str, response: &str| {
        let path = bench.path(name);
        std::fs::write(&path, json!({"prompt": "p", "response": response}).to_string()).unwrap();
        path
    };
    let (a, b) = (prompts("ca", "first of a"), prompts("cb", "first of b"));
    let judge = ["--judge-endpoint", &endpoint, "--judge-model", "j"];
    let output = program("compare", &[&[text(&a), text(&b)][..], &judge].concat()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let reason = "the first: the judge's reply holds different verdicts, such as A and B";
    assert!(stderr(&output).contains(reason), "{}", stderr(&output));
}

#[test]
fn a_reference_that_is_too_short_is_said_to_be() {
    let bench = Bench::new();
    bench.write("q.jsonl", &json!({"question_id": 1, "category": "math", "turns": ["one", "two"]}));
    let (asked, endpoint) = stub(|_, _| says("Rating: [[8]]"));
    let references = bench.path("ref.jsonl");
    for (turns, problem) in [
        (json!(["4"]), "the reference answer to question 1 has 1 turn of 2"),
        (json!(["4", "$ERROR$"]), "the reference answer to question 1 is `$ERROR$`: its request had failed"),
        (json!([]), "no reference answer to question 1 (math)"),
    ] {
        bench.write("ref.jsonl", &json!({"question_id": 1, "choices": [{"turns": turns}]}));
        let output = bench.run(&endpoint, &["--reference-answers", text(&references)]);
        assert_eq!((output.status.code(), count(&asked)), (Some(2), 0));
        assert!(stderr(&output).contains(problem), "{}", stderr(&output));
    }
}

/// A reply of a judge that weighs two tokens.
fn weighs(tokens: &[(&str, f64)]) -> Answer {
    let top: Vec<Value> = tokens.iter().map(|(token, logprob)| json!({"token": token, "logprob": logprob})).collect();
    let logprobs = json!({"content": [{"token": tokens[0].0, "top_logprobs": top}]});
    let choice = json!({"message": {"content": tokens[0].0}, "finish_reason": "length", "logprobs": logprobs});
    (200, json!({"choices": [choice]}).to_string())
}

/// AlpacaEval on four instructions with answers from a file.
fn alpaca(directory: &Path, endpoint: &str, more: &[&str]) -> Output {
    let rows = |suffix: &str| -> String {
        let row = |word: &str| json!({"instruction": format!("say {word}"), "output": format!("{word}{suffix}")});
        json!(["one", "two", "three", "four"].map(row)).to_string()
    };
    let (reference, outputs, out) = (directory.join("ref.json"), directory.join("outs.json"), directory.join("out"));
    std::fs::write(&reference, rows("!")).unwrap();
    std::fs::write(&outputs, rows(" indeed")).unwrap();
    let arguments = ["--outputs", text(&outputs), "--reference", text(&reference), "--out", text(&out), "--json"];
    let judge =
        ["--judge-endpoint", endpoint, "--judge-model", "j", "--judge-retries", "0", "--judge-concurrency", "1"];
    program("alpaca", &[&arguments[..], &judge, more].concat()).output().unwrap()
}

#[test]
fn verdicts_that_could_not_be_read_are_asked_for_again_on_demand() {
    let directory = tempfile::tempdir().unwrap();
    let (asked, endpoint) = stub(|_, before| match before {
        1 => weighs(&[("The", -0.1), ("I", -2.0)]),
        2 => ends(&json!(""), "error"),
        3 => (200, json!({"choices": [{"message": {"content": null, "refusal": "No."}}]}).to_string()),
        _ => weighs(&[("m", -0.1), ("M", -2.3)]),
    });
    let output = alpaca(directory.path(), &endpoint, &[]);
    assert_eq!((output.status.code(), count(&asked)), (Some(1), 4), "{}", stderr(&output));
    let counts = |output: &Output| {
        let counts = results_of(output)["counts"].clone();
        ["scored", "unparsed", "no_verdict"].map(|name| counts[name].as_u64().unwrap())
    };
    assert_eq!(counts(&output), [1, 2, 1], "{}", stderr(&output));
    let message = stderr(&output);
    assert!(
        message.contains("note: --retry-unscored asks the judge again where its reply holds no verdict"),
        "{message}"
    );
    // What failed is asked again; what was said is kept.
    let output = alpaca(directory.path(), &endpoint, &[]);
    assert_eq!((counts(&output), count(&asked)), ([2, 2, 0], 5), "{}", stderr(&output));
    let output = alpaca(directory.path(), &endpoint, &["--retry-unscored"]);
    assert_eq!((counts(&output), count(&asked)), ([4, 0, 0], 7), "{}", stderr(&output));
    assert!(stderr(&output).contains("judge: 2 requests to ask, 2 answered before"), "{}", stderr(&output));
    let output = alpaca(directory.path(), &endpoint, &[]);
    assert_eq!((counts(&output), count(&asked)), ([4, 0, 0], 7), "the last reply counts");
}

#[test]
fn scores_and_pairs_are_asked_for_again_too() {
    let bench = Bench::new();
    let out = bench.path("out");
    let (asked, endpoint) = stub(|_, before| says(if before < 2 { "Good." } else { "Rating: [[8]]" }));
    let counts = |more: &[&str]| {
        let output = bench.run(&endpoint, &[&["--out", text(&out)][..], more].concat());
        results_of(&output)["counts"]["scored"].clone()
    };
    assert_eq!(
        [counts(&[]), counts(&[]), counts(&["--retry-unscored"]), counts(&[])],
        [json!(0), json!(0), json!(2), json!(2)]
    );
    assert_eq!(count(&asked), 4);

    let (a, b, out) = (bench.path("ca"), bench.path("cb"), bench.path("compared"));
    for (path, response) in [(&a, "x"), (&b, "y")] {
        std::fs::write(path, json!({"prompt": "p", "response": response}).to_string()).unwrap();
    }
    let (asked, endpoint) = stub(|_, before| says(if before == 0 { "Neither." } else { "[[A]]" }));
    let arguments = [text(&a), text(&b), "--judge-endpoint", &endpoint, "--judge-model", "j", "--out", text(&out)];
    let code = |more: &[&str]| program("compare", &[&arguments[..], more].concat()).output().unwrap().status.code();
    assert_eq!([code(&[]), code(&[]), code(&["--retry-unscored"])], [Some(1), Some(1), Some(0)]);
    assert_eq!(count(&asked), 3);
}

#[test]
fn a_first_reply_that_says_nothing_condemns_no_judge() {
    for first in [
        ends(&Value::Null, "content_filter"),
        ends(&json!(""), "error"),
        (200, json!({"choices": [{"message": {"content": null, "refusal": "No."}}]}).to_string()),
        (400, json!({"error": {"message": "filtered", "code": "content_filter"}}).to_string()),
        ends(&Value::Null, "stop"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let shown = first.1.clone();
        let (asked, endpoint) =
            stub(move |_, before| if before == 0 { first.clone() } else { weighs(&[("m", -0.1), ("M", -2.3)]) });
        let output = alpaca(directory.path(), &endpoint, &[]);
        assert_eq!((output.status.code(), count(&asked)), (Some(1), 4), "{shown}: {}", stderr(&output));
        assert_eq!(results_of(&output)["counts"]["scored"], 3, "{shown}");
    }
    // A reply with a text does.
    let directory = tempfile::tempdir().unwrap();
    let (asked, endpoint) = stub(|_, before| if before == 0 { ends(&Value::Null, "stop") } else { says("m") });
    let output = alpaca(directory.path(), &endpoint, &["--judge-verdict", "logprobs"]);
    assert_eq!((output.status.code(), count(&asked)), (Some(2), 2), "{}", stderr(&output));
    assert!(stderr(&output).contains("needs the log-probabilities"), "{}", stderr(&output));
}

/// The likeliest first tokens.
fn top(reply: &Reply) -> Value {
    reply.top_logprobs(0).map(|top| json!(top)).unwrap_or_default()
}

#[test]
fn every_known_shape_of_a_reply_is_taken_for_what_it_is() {
    let Some(directory) = reference("judge_endpoints") else { return };
    let rows: Vec<Value> = unpack(&directory.join("reply_shapes.jsonl"));
    assert_eq!(rows.len(), 43);
    let reasoning = Reasoning::new([Format::Auto]);
    for row in rows {
        let expect = &row["expect"];
        let accepted = Reply::accept(row["body"].clone());
        let outcome = match &accepted {
            Err(Unusable::Failed(_)) => "error",
            Err(Unusable::Filtered(_)) => "filtered",
            Err(Unusable::Malformed(_)) => "no_choice",
            Ok(reply) => match reply.without(&reasoning) {
                Err(NoAnswer::Cut) => "empty_length",
                Err(NoAnswer::Refused(words)) => {
                    assert_eq!(words, expect["refusal"].as_str().unwrap_or_default(), "{row}");
                    "refused"
                }
                Err(NoAnswer::Empty | NoAnswer::Unfinished) => "empty",
                Ok(answer) if answer.content().is_none() => "tool_calls",
                Ok(answer) => {
                    assert_eq!(answer.content().as_deref(), expect["content"].as_str(), "{row}");
                    if reply.finish_reason().as_deref() == Some("length") { "cut" } else { "ok" }
                }
            },
        };
        assert_eq!(outcome, expect["outcome"], "{row}");
        let Ok(reply) = accepted else { continue };
        if row["id"] == "reasoning-logprobs" {
            // The list begins with the reasoning, which is no verdict.
            assert_eq!(top(&reply.without(&reasoning).unwrap()), json!([["M", -0.3], ["m", -1.4]]));
        } else {
            assert_eq!(top(&reply), expect["top_logprobs"], "{row}");
        }
    }
}

#[test]
fn every_known_refusal_is_taken_for_what_it_is() {
    let Some(directory) = reference("judge_endpoints") else { return };
    let rows: Vec<Value> = unpack(&directory.join("error_bodies.jsonl"));
    assert_eq!(rows.len(), 35);
    let answers: Vec<(String, Answer)> = rows
        .iter()
        .map(|row| {
            let body = row["body"].as_str().map_or_else(|| row["body"].to_string(), str::to_owned);
            (row["id"].as_str().unwrap().to_owned(), (row["status"].as_u64().unwrap() as u16, body))
        })
        .collect();
    let when: Vec<Value> = rows.iter().map(|row| row["when"].clone()).collect();
    let (_, endpoint) = stub(move |body, _| {
        let row = answers.iter().position(|(id, _)| *id == prompt(body)).unwrap();
        // Without what it objects to, a server answers.
        let has = |name: &Value| name.as_str().is_none_or(|name| body.get(name).is_some());
        let all = when[row]["has_all"].as_array().into_iter().flatten().all(has);
        if has(&when[row]["has"]) && all { answers[row].1.clone() } else { says("fine") }
    });
    let retry = Retry { retries: 0, ..Retry::default() };
    let judge = Judge {
        client: Client::new(&endpoint, None, Duration::from_secs(10), retry).unwrap(),
        party: Party::Judge,
        concurrency: 1,
        pace: Pace::new(None, None),
        prices: None,
        max_cost: None,
        edits: Edits::default(),
        reasoning: Reasoning::default(),
        retry_unscored: false,
        used: Mutex::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for row in rows {
        let (when, remedy) = (&row["when"], &row["remedy"]);
        let role = when["role"].as_str().unwrap_or("user");
        let mut body = json!({"model": "j", "messages": [{"role": role, "content": row["id"]}], "max_tokens": 2048,
            "temperature": 0});
        for name in when["has"]
            .as_str()
            .into_iter()
            .chain(when["has_all"].as_array().into_iter().flatten().filter_map(Value::as_str))
        {
            let given = body[name].clone();
            body[name] = if given.is_null() { when.get("equal").cloned().unwrap_or(json!(1)) } else { given };
        }
        // A gateway passes on what the provider said about a field that is there.
        if let (Some(name), Some(_)) = (remedy["param"].as_str(), when.get("any"))
            && body[name].is_null()
        {
            body[name] = json!(1);
        }
        if let Some(kind) = when.get("response_format") {
            body["response_format"] = json!({"type": kind});
        }
        let mut store = VerdictStore::in_memory();
        let (requests, progress) = ([Request::new(body)], Progress::new(true));
        let asked = judge.ask(&requests, &mut store, |_| Ok(()), &progress);
        let hopeless = match runtime.block_on(asked) {
            Ok(_) => None,
            Err(JudgeError::Hopeless(end)) => Some(end.to_string()),
            Err(other) => panic!("{row}: {other}"),
        };
        let learnt = store.lessons(None, "j");
        let is_learnt = |to: Option<&str>| {
            hopeless.is_none()
                && learnt.len() == 1
                && remedy["param"] == *learnt[0].field
                && learnt[0].to.as_deref() == to
        };
        let param = remedy["param"].as_str().unwrap_or_default();
        let flag = |end: &str| format!("--judge-body {param}={end}");
        let (advice, op) = (hopeless.as_deref().unwrap_or_default(), remedy["op"].as_str().unwrap());
        let is_right = match op {
            "rename" => is_learnt(Some("max_completion_tokens")),
            // Only the user can have set it.
            "remove" if param == "prompt_logprobs" => advice.contains(&flag(" leaves")),
            "remove" => is_learnt(None),
            "no_logprobs" => advice.ends_with("(--annotator-config)") && learnt[0].action == Action::AnotherWay,
            "system_to_user" => advice.ends_with("it does not take this role of a message"),
            "fail" => hopeless.is_some(),
            "retry" | "too_long" => hopeless.is_none(),
            _ => panic!("an unknown remedy: {row}"),
        };
        assert!(is_right, "{row}\n{hopeless:?}");
    }
}
