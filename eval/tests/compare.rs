//! `orpo-eval compare` against a stand-in judge, and with a checklist.

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use support::{read_lines, stderr, text};

/// A judge that names the answer with `good` in it, the first one if both or neither have it, and no answer where the
/// question is `mute`. Also the models `m` and `n`, which answer with their name. It takes a while.
#[derive(Clone, Default)]
struct Server {
    asked: Arc<Mutex<Vec<Value>>>,
    delay: Duration,
}

async fn chat(State(server): State<Server>, Json(body): Json<Value>) -> Json<Value> {
    server.asked.lock().unwrap().push(body.clone());
    tokio::time::sleep(server.delay).await;
    let text = body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap();
    let content = match body["model"].as_str().unwrap() {
        "judge" if text.contains("mute") => "I cannot say.".to_owned(),
        "judge" => {
            let (first, second) = (text.find("good"), text.rfind("good"));
            let middle = text.len() / 2;
            let second_alone = first.is_some_and(|at| at > middle) && second.is_some();
            format!("So: [[{}]]", if second_alone { "B" } else { "A" })
        }
        model => format!("{model} says so"),
    };
    let choice = json!({"message": {"role": "assistant", "content": content}, "finish_reason": "stop"});
    Json(json!({"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 2}}))
}

impl Server {
    fn start(delay: Duration) -> (Self, String) {
        let server = Self { delay, ..Self::default() };
        let router = Router::new()
            .route("/v1/models", get(async || Json(json!({"data": [{"id": "m"}]}))))
            .route("/v1/chat/completions", post(chat))
            .with_state(server.clone());
        (server, support::serve(router))
    }

    /// How often each body was asked.
    fn counts(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for body in self.asked.lock().unwrap().iter() {
            *counts.entry(body.to_string()).or_default() += 1;
        }
        counts
    }
}

fn compare(arguments: &[&str]) -> Output {
    support::program("compare", arguments).output().unwrap()
}

fn write_answers(path: &Path, answers: &[(&str, &str)]) {
    let rows =
        answers.iter().map(|(prompt, response)| json!({"prompt": prompt, "response": response}).to_string() + "\n");
    std::fs::write(path, rows.collect::<String>()).unwrap();
}

fn samples(out: &Path) -> Vec<Value> {
    read_lines(&out.join("samples.jsonl"))
}

#[test]
fn a_judge_decides_in_both_orders() {
    let (server, endpoint) = Server::start(Duration::ZERO);
    let directory = tempfile::tempdir().unwrap();
    let (a, b, out) = (directory.path().join("a"), directory.path().join("b"), directory.path().join("out"));
    write_answers(&a, &[("p", "good"), ("q", "bad"), ("r", "bad"), ("same", "x"), ("mute", "y"), ("alone", "z")]);
    write_answers(&b, &[("mute", "w"), ("p", "bad"), ("q", "good"), ("r", "worse"), ("same", "x")]);
    let judge = ["--judge-endpoint", &endpoint, "--judge-model", "judge"];
    let arguments = [&[text(&a), text(&b), "--out", text(&out), "--json"][..], &judge].concat();
    let output = compare(&arguments);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let message = stderr(&output);
    assert!(message.contains("left out for want of a counterpart: 1 answer of A and 0 answers of B"), "{message}");
    assert!(
        message.contains("1 of 5 pairs are not decided; the first: the judge's reply holds no verdict"),
        "{message}"
    );
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    let winners: Vec<Value> = samples(&out).iter().map(|sample| sample["winner"].clone()).collect();
    assert_eq!(winners, [json!("a"), json!("b"), json!("tie"), json!("tie"), Value::Null]);
    assert_eq!((&results["n_wins"], &results["n_losses"], &results["n_ties"]), (&json!(1), &json!(1), &json!(2)));
    assert_eq!(results["metrics"]["win_rate"]["value"], 0.5);
    // Of p, q and r both orders agree on two; of r the first shown is preferred; equal answers are not asked about, and of
    // `mute` there is no verdict.
    assert_eq!(results["order"]["consistency"], 2.0 / 3.0);
    let bias = &results["bias"];
    assert_eq!((&bias["pairs"], &bias["verdicts"]), (&json!(3), &json!(6)));
    assert_eq!(bias["self_consistency"]["value"], 2.0 / 3.0);
    // One half each of p and q, all of r.
    assert_eq!(bias["first_place"]["value"], 2.0 / 3.0);
    // `good` twice, and of `bad` and `worse` neither.
    assert_eq!(bias["longer"]["value"], 2.5 / 3.0);
    assert_eq!(results["judge"]["model"], "judge");
    assert_eq!(results["judge"]["template_sha256"].as_str().unwrap().len(), 64);
    assert_eq!(server.asked.lock().unwrap().len(), 8);
    // Again: what is answered is not asked again, be its verdict readable or not.
    assert_eq!(compare(&arguments).status.code(), Some(1));
    assert_eq!(server.asked.lock().unwrap().len(), 8);
    let allowed = compare(&[&arguments[..], &["--max-unscored", "20%"]].concat());
    assert_eq!(allowed.status.code(), Some(0), "{}", stderr(&allowed));
    // Repetitions are other requests; and the judge agrees with what it said before.
    let earlier = out.join("samples.jsonl");
    let again = directory.path().join("again");
    let more = ["--judge-repeats", "2", "--agree-with", text(&earlier), "--max-unscored", "1"];
    let output = compare(&[&[text(&a), text(&b), "--out", text(&again), "--json"][..], &judge, &more].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(server.asked.lock().unwrap().len(), 8 + 16);
    assert_eq!(
        (&results["repeats"]["agreement"], &results["agreement"][0]["cohens_kappa"]),
        (&json!(1.0), &json!(1.0))
    );
}

#[test]
fn where_nothing_is_decided_there_is_no_rate_whatever_is_allowed() {
    let (_, endpoint) = Server::start(Duration::ZERO);
    let directory = tempfile::tempdir().unwrap();
    let (a, b) = (directory.path().join("a"), directory.path().join("b"));
    write_answers(&a, &[("mute", "x"), ("mute, too", "y")]);
    write_answers(&b, &[("mute", "z"), ("mute, too", "w")]);
    let arguments =
        [text(&a), text(&b), "--judge-endpoint", &endpoint, "--judge-model", "judge", "--max-unscored", "1"];
    let output = compare(&[&arguments[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    let nothing = json!({"value": null, "stderr": null, "ci95": null, "n": 0, "reason": "nothing was scored"});
    for name in ["win_rate", "win_rate_adjusted", "length_controlled_win_rate"] {
        assert_eq!(results["metrics"][name], nothing, "{name}");
    }
    assert_eq!((&results["sign_test_p"], &results["avg_length"]), (&Value::Null, &Value::Null));
    let table = compare(&arguments);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("sign test p = -") && !table.contains("0.00"), "{table}");
}

#[test]
fn servers_answer_first() {
    let (server, endpoint) = Server::start(Duration::ZERO);
    let directory = tempfile::tempdir().unwrap();
    let (prompts, out) = (directory.path().join("prompts"), directory.path().join("out"));
    write_answers(&prompts, &[("p", ""), ("q", "")]);
    let arguments = [
        &endpoint,
        &endpoint,
        "--model-b",
        "n",
        "--prompts",
        text(&prompts),
        "--judge-endpoint",
        &endpoint,
        "--judge-model",
        "judge",
        "--out",
        text(&out),
    ];
    for _ in 0..2 {
        let output = compare(&arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(String::from_utf8_lossy(&output.stdout).contains("compare, A = m, B = n"));
        assert_eq!(server.asked.lock().unwrap().len(), 4 + 4);
    }
    assert_eq!(samples(&out)[1]["response_b"], "n says so");
    let output = compare(&[&endpoint, text(&prompts), "--judge", "checklist"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stderr(&output), "error: --prompts FILE is needed to ask a server\n");
}

#[test]
fn a_checklist_needs_no_judge() {
    let directory = tempfile::tempdir().unwrap();
    let (a, b, data) = (directory.path().join("a"), directory.path().join("b"), directory.path().join("data"));
    let row = |key: u32, prompt: &str| {
        json!({"key": key, "prompt": prompt, "kwargs": [{}, {}],
            "instruction_id_list": ["punctuation:no_comma", "startend:quotation"]})
        .to_string()
    };
    std::fs::write(&data, [row(1, "p"), row(2, "q"), row(3, "r")].join("\n")).unwrap();
    write_answers(&a, &[("p", "\"a\""), ("q", "a"), ("r", "\"a, b\"")]);
    write_answers(&b, &[("p", "a"), ("q", "a, b"), ("r", "\"a, b\"")]);
    let arguments = [text(&a), text(&b), "--judge", "checklist", "--data", text(&data)];
    let output = compare(&[&arguments[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&results["n_wins"], &results["n_ties"]), (&json!(2), &json!(1)));
    assert_eq!(results["mcnemar"], json!({"only_a": 1, "only_b": 0, "p": 1.0}));
    assert_eq!(results["sign_test_p"], 0.5);
    let table = compare(&arguments);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("A wins 2, B wins 0, 1 tie; sign test p = 0.5000"), "{table}");
    let output = compare(&[text(&a), text(&b), "--judge", "checklist"]);
    assert_eq!(output.status.code(), Some(2));
    let expected = "error: `embedded` has none of these prompts; name their data with --data\n";
    assert_eq!(stderr(&output), expected);
    let output = compare(&[text(&a), text(&b)]);
    let message = stderr(&output);
    assert!(message.contains("who decides?") && output.status.code() == Some(2), "{message}");
}

#[test]
fn what_costs_money_wants_agreement() {
    let (server, endpoint) = Server::start(Duration::ZERO);
    let directory = tempfile::tempdir().unwrap();
    let (a, b) = (directory.path().join("a"), directory.path().join("b"));
    write_answers(&a, &[("p", "good"), ("q", "good")]);
    write_answers(&b, &[("p", "bad"), ("q", "bad")]);
    let judge = ["--judge-endpoint", &endpoint, "--judge-model", "judge", "--price-in", "1", "--price-out", "1000"];
    let arguments = [&[text(&a), text(&b)][..], &judge].concat();
    let output = compare(&arguments);
    assert_eq!(output.status.code(), Some(2));
    let message = stderr(&output);
    assert!(message.contains("judge: 4 requests to ask, 0 answered before; about"), "{message}");
    assert!(message.contains("error: this costs money; add --yes to agree"), "{message}");
    assert_eq!(server.asked.lock().unwrap().len(), 0);
    // 2048 reply tokens cost 2.05 at most, and 0.002 in fact.
    let output = compare(&[&arguments[..], &["--yes", "--max-cost", "2.06", "--judge-concurrency", "1"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let output = compare(&[&arguments[..], &["--yes", "--max-cost", "2"]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("not asked: the spending cap is reached"), "{}", stderr(&output));
    assert_eq!(server.asked.lock().unwrap().len(), 4);
}

/// The verdicts that are in the store when the process dies are never asked for again.
#[test]
fn kills_at_random_moments_lose_nothing_that_was_kept() {
    const PAIRS: usize = 60;
    const CONCURRENCY: usize = 4;
    let (server, endpoint) = Server::start(Duration::from_millis(20));
    let directory = tempfile::tempdir().unwrap();
    let (a, b, out) = (directory.path().join("a"), directory.path().join("b"), directory.path().join("out"));
    let prompts: Vec<String> = (0..PAIRS).map(|number| format!("question {number}")).collect();
    write_answers(&a, &prompts.iter().map(|prompt| (prompt.as_str(), "good")).collect::<Vec<_>>());
    write_answers(&b, &prompts.iter().map(|prompt| (prompt.as_str(), "bad")).collect::<Vec<_>>());
    let concurrency = CONCURRENCY.to_string();
    let arguments = [
        text(&a),
        text(&b),
        "--judge-endpoint",
        &endpoint,
        "--judge-model",
        "judge",
        "--judge-concurrency",
        &concurrency,
        "--out",
        text(&out),
    ];
    let kept = || -> Vec<String> {
        let text = std::fs::read_to_string(out.join("verdicts.jsonl")).unwrap_or_default();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str::<Value>(line).unwrap()["request"].to_string()).collect()
    };
    let mut kills = 0;
    for milliseconds in [90, 150, 210, 120, 180, 240, 100, 160] {
        let before: HashMap<String, usize> = server.counts();
        let stored = kept();
        let mut child =
            support::program("compare", &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        kills += usize::from(child.wait().unwrap().code().is_none());
        let after = server.counts();
        assert!(stored.iter().all(|body| after[body] == before[body]), "a stored verdict was asked for again");
    }
    let output = compare(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let counts = server.counts();
    let total: usize = counts.values().sum();
    println!("{kills} kills, {total} requests for {} verdicts", 2 * PAIRS);
    assert!(kills >= 4, "{kills} kills");
    assert_eq!((counts.len(), kept().len()), (2 * PAIRS, 2 * PAIRS));
    assert!(total <= 2 * PAIRS + kills * CONCURRENCY, "{total} requests after {kills} kills");
    assert!(samples(&out).iter().all(|sample| sample["winner"] == "a"));
}
