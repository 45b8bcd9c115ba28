//! A judge as they are in 2026: it refuses `max_tokens`, `temperature` and log-probabilities, thinks before its verdict, sometimes
//! thinks until its limit, and its service fails in every known way. Runs of all three commands go on over all of that, and
//! nothing that was answered is asked again.

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex};

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use support::{program, read_json, reference, stderr, text, unpack};

/// What the judge is going to do once, and how often it has answered each body.
#[derive(Debug, Default)]
struct State {
    armed: Option<Value>,
    fired: usize,
    refused: HashMap<String, usize>,
    answered: HashMap<String, usize>,
}

type Judge = Arc<Mutex<State>>;

fn start() -> (Judge, String) {
    let judge = Judge::default();
    let seen = judge.clone();
    let chat = move |Json(body): Json<Value>| {
        let seen = seen.clone();
        async move {
            let (status, text) = answer(&mut seen.lock().unwrap(), &body);
            (StatusCode::from_u16(status).unwrap(), [(header::CONTENT_TYPE, "application/json")], text).into_response()
        }
    };
    let router = Router::new()
        .route("/v1/models", get(async || Json(json!({"data": [{"id": "j"}]}))))
        .route("/v1/chat/completions", post(chat));
    (judge, support::serve(router))
}

/// True if a known error is about this body.
fn is_about(when: &Value, body: &Value) -> bool {
    let has = |name: &Value| name.as_str().is_some_and(|name| body.get(name).is_some());
    let value = &body[when["has"].as_str().unwrap_or("?")];
    match when {
        _ if when["role"].is_string() => body["messages"][0]["role"] == when["role"],
        _ if when["has_all"].is_array() => when["has_all"].as_array().unwrap().iter().all(has),
        _ if when["response_format"].is_string() => body["response_format"]["type"] == when["response_format"],
        _ if when["has"].is_string() => {
            has(&when["has"])
                && when.get("equal").is_none_or(|equal| value == equal)
                && when.get("not_equal").is_none_or(|other| value.as_f64() != other.as_f64())
        }
        _ => true,
    }
}

fn answer(state: &mut State, body: &Value) -> (u16, String) {
    let key = body.to_string();
    if let Some(row) = state.armed.take_if(|row| is_about(&row["when"], body)) {
        state.fired += 1;
        let said = row["body"].as_str().map_or_else(|| row["body"].to_string(), str::to_owned);
        return (row["status"].as_u64().unwrap() as u16, said);
    }
    let unsupported = |field: &str| format!("Unsupported parameter: '{field}' is not supported with this model.");
    let first = |fields: &[&'static str]| fields.iter().copied().find(|field| body.get(*field).is_some());
    let warm = body.get("temperature").filter(|temperature| temperature.as_f64() != Some(1.0));
    let message = if first(&["max_tokens"]).is_some() {
        Some(unsupported("max_tokens") + " Use 'max_completion_tokens' instead.")
    } else if let Some(value) = warm {
        Some(format!("Unsupported value: 'temperature' does not support {value} with this model."))
    } else if let Some(field) = first(&["logprobs", "top_logprobs", "top_p"]) {
        Some(unsupported(field))
    } else {
        first(&["structured_outputs", "guided_choice", "seed"])
            .map(|field| format!("Unrecognized request argument supplied: {field}"))
    };
    if let Some(message) = message {
        *state.refused.entry(key).or_default() += 1;
        return (
            400,
            json!({"error": {"message": message, "type": "invalid_request_error", "param": null}}).to_string(),
        );
    }
    *state.answered.entry(key).or_default() += 1;
    let question = body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap();
    let room = body["max_completion_tokens"].as_u64().unwrap();
    if question.contains("abyss") || (question.contains("deep") && room <= 2048) {
        let usage = json!({"prompt_tokens": 10, "completion_tokens": room,
            "completion_tokens_details": {"reasoning_tokens": room}});
        let choice = json!({"message": {"content": ""}, "finish_reason": "length"});
        return (200, json!({"choices": [choice], "usage": usage}).to_string());
    }
    let verdict = if body.get("response_format").is_some() {
        "{\"verdict\": \"M\"}"
    } else if question.contains("[[A]]") || body["messages"][0]["content"].as_str().unwrap().contains("[[A]]") {
        "[[C]]"
    } else if question.contains("[[") || body["messages"][0]["content"].as_str().unwrap().contains("[[") {
        "Rating: [[8]]"
    } else {
        "M"
    };
    let usage =
        json!({"prompt_tokens": 10, "completion_tokens": 7, "completion_tokens_details": {"reasoning_tokens": 5}});
    let choice =
        json!({"message": {"content": format!("<think>m or M? [[3]]</think>{verdict}")}, "finish_reason": "stop"});
    (200, json!({"choices": [choice], "usage": usage}).to_string())
}

/// Runs a command once for every known error, each time with one item more than before, so that there is something to ask; then
/// once more without an error. Returns the results of the last run.
fn over_all_errors(rows: &[Value], judge: &Judge, run: impl Fn(usize) -> Output, out: &Path) -> Value {
    for (index, row) in rows.iter().enumerate() {
        judge.lock().unwrap().armed = Some(row.clone());
        let output = run(index + 1);
        assert!(output.status.code().is_some_and(|code| code <= 2), "{row}: {}", stderr(&output));
        judge.lock().unwrap().armed = None;
    }
    let output = run(rows.len());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let requests: usize = judge.lock().unwrap().answered.len();
    let output = run(rows.len());
    assert!(stderr(&output).contains("judge: 0 requests to ask"), "{}", stderr(&output));
    let state = judge.lock().unwrap();
    assert_eq!(state.answered.len(), requests);
    // The others are about fields that the judge is not sent any more, or never was.
    assert_eq!(state.fired, 13);
    let twice: Vec<&String> =
        state.answered.iter().chain(&state.refused).filter(|(_, times)| **times > 1).map(|(body, _)| body).collect();
    assert!(twice.is_empty(), "asked twice: {twice:?}");
    read_json(&out.join("results.json"))
}

fn fields(learnt: &Value) -> Vec<&str> {
    learnt.as_array().unwrap().iter().map(|lesson| lesson["field"].as_str().unwrap()).collect()
}

/// What the judge is asked about: two of the items make it think long.
fn topic(index: usize) -> String {
    match index {
        3 | 20 => format!("deep {index}"),
        7 => format!("abyss {index}"),
        _ => format!("topic {index}"),
    }
}

#[test]
fn every_benchmark_gets_its_verdicts_from_a_judge_of_today() {
    let Some(shared) = reference("judge_endpoints") else { return };
    let rows: Vec<Value> = unpack(&shared.join("error_bodies.jsonl"));
    let n = rows.len();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let write = |name: &str, rows: Vec<Value>| {
        std::fs::write(path(name), rows.iter().map(|row| row.to_string() + "\n").collect::<String>()).unwrap();
    };
    let outputs = |suffix: &str| {
        (0..n).map(|index| json!({"instruction": topic(index), "output": format!("{index}{suffix}")})).collect()
    };
    write("a.jsonl", outputs("!"));
    write("b.jsonl", outputs("?"));
    write(
        "q.jsonl",
        (0..n).map(|index| json!({"question_id": index + 1, "category": "writing", "turns": [topic(index)]})).collect(),
    );
    write(
        "answers.jsonl",
        (0..n)
            .map(|index| json!({"question_id": index + 1, "model_id": "a", "choices": [{"turns": ["said"]}]}))
            .collect(),
    );
    let limits = ["--judge-retries", "0", "--judge-concurrency", "4", "--max-unscored", "100%", "--quiet"];
    let run = |command: &str, endpoint: &str, out: &str, arguments: &[&str], limit: usize| {
        let (out, limit) = (path(out), limit.to_string());
        let judge = ["--judge-endpoint", endpoint, "--judge-model", "j", "--out", text(&out), "--limit", &limit];
        program(command, &[arguments, &judge, &limits].concat()).output().unwrap()
    };
    let (a, b, questions, answers) = (path("a.jsonl"), path("b.jsonl"), path("q.jsonl"), path("answers.jsonl"));

    // AlpacaEval: no log-probabilities, so a constrained verdict.
    let (judge, endpoint) = start();
    let files = ["--outputs", text(&a), "--reference", text(&b)];
    let alpaca = |limit| run("alpaca", &endpoint, "alpaca", &files, limit);
    let results = over_all_errors(&rows, &judge, alpaca, &path("alpaca"));
    let found = &results["judge"];
    assert_eq!(
        (&found["measure"], &found["verdict"]["field"]),
        (&json!("unweighted"), &json!("response_format")),
        "{found}"
    );
    assert_eq!(
        (&found["outcomes"]["verdict"], &found["outcomes"]["empty_after_reasoning"]),
        (&json!(n - 1), &json!(1))
    );
    assert_eq!(results["counts"]["scored"], n - 1);
    let learnt = fields(&found["learnt"]);
    for field in ["max_tokens", "logprobs", "structured_outputs", "guided_choice", "temperature"] {
        assert!(learnt.contains(&field), "{field}: {learnt:?}");
    }
    assert_eq!(found["parameters"].get("temperature"), None, "what was sent is recorded");

    // MT-Bench: one question of one turn each.
    let (judge, endpoint) = start();
    let files = ["--questions", text(&questions), "--answers", text(&answers)];
    let mt_bench = |limit| run("mt-bench", &endpoint, "mt", &files, limit);
    let results = over_all_errors(&rows, &judge, mt_bench, &path("mt"));
    let found = &results["judge"];
    assert_eq!(
        (&found["outcomes"]["verdict"], &found["outcomes"]["empty_after_reasoning"]),
        (&json!(n - 1), &json!(1))
    );
    assert_eq!((&results["metrics"]["average"]["value"], &results["counts"]["scored"]), (&json!(8.0), &json!(n - 1)));
    assert_eq!(fields(&found["learnt"]), ["max_tokens", "temperature"]);

    // Pairs, in both orders.
    let (judge, endpoint) = start();
    let compare = |limit| run("compare", &endpoint, "compare", &[text(&a), text(&b)], limit);
    let results = over_all_errors(&rows, &judge, compare, &path("compare"));
    let found = &results["judge"]["outcomes"];
    assert_eq!((&found["verdict"], &found["empty_after_reasoning"]), (&json!(2 * (n - 1)), &json!(2)));
    assert_eq!((&results["counts"]["scored"], &results["n_ties"]), (&json!(n - 1), &json!(n - 1)));
}

/// AlpacaEval with three instructions.
fn alpaca(directory: &Path, endpoint: &str, out: &str, more: &[&str]) -> Output {
    let rows = |suffix: &str| -> Value {
        (0..3).map(|index| json!({"instruction": topic(index), "output": format!("{index}{suffix}")})).collect()
    };
    let (a, b, out) = (directory.join("a.json"), directory.join("b.json"), directory.join(out));
    std::fs::write(&a, rows("!").to_string()).unwrap();
    std::fs::write(&b, rows("?").to_string()).unwrap();
    let files = ["--outputs", text(&a), "--reference", text(&b), "--out", text(&out), "--quiet"];
    program("alpaca", &[&files[..], &["--judge-endpoint", endpoint, "--judge-model", "j"], more].concat())
        .output()
        .unwrap()
}

#[test]
fn samples_are_kept_apart_and_other_measures_are_not_mixed_in() {
    let (judge, endpoint) = start();
    let directory = tempfile::tempdir().unwrap();
    let sampled = ["--judge-verdict", "text", "--judge-samples", "3"];
    let output = alpaca(directory.path(), &endpoint, "out", &sampled);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("win_rate (share of 3 samples)"), "{table}");
    assert!(
        table.contains("measure: share of 3 samples, from the judge's text; not comparable with weighted numbers"),
        "{table}"
    );
    assert!(table.contains("judge: 9 verdicts\n") && table.contains("45 of them reasoning"), "{table}");
    let results = read_json(&directory.path().join("out/results.json"));
    assert_eq!((&results["judge"]["measure"], &results["counts"]["scored"]), (&json!("share of 3 samples"), &json!(3)));
    // This judge takes no seed, so that the samples of one pair are the same request; each was answered once, and is kept.
    assert_eq!(judge.lock().unwrap().answered.values().sum::<usize>(), 9);
    assert_eq!(alpaca(directory.path(), &endpoint, "out", &sampled).status.code(), Some(0));
    assert_eq!(judge.lock().unwrap().answered.values().sum::<usize>(), 9);

    let output = alpaca(directory.path(), &endpoint, "out", &["--judge-verdict", "text"]);
    let message =
        "holds a run with other settings: measure \"share of 3 samples\", not \"unweighted\"; choose another --out";
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains(message), "{}", stderr(&output));
    assert_eq!(judge.lock().unwrap().answered.values().sum::<usize>(), 9, "nothing was asked for that");

    let output = alpaca(directory.path(), &endpoint, "other", &["--judge-verdict", "logprobs", "--judge-samples", "2"]);
    assert!(stderr(&output).contains("--judge-samples is for verdicts that are not weighted"), "{}", stderr(&output));
    let output = alpaca(directory.path(), &endpoint, "other", &["--judge-verdict", "logprobs"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("use --judge-verdict auto"), "{}", stderr(&output));
}
