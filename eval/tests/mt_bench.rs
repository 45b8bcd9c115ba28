//! `orpo-eval mt-bench` against a stand-in model and judge, which fail and babble as real ones do.

mod support;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use support::{read_json, read_lines, stderr};

/// A server that is both: asked as `judge`, it judges. How often a request matching a pattern fails before it works, or what
/// it says, is set by the test.
#[derive(Clone, Default)]
struct Server {
    requests: Arc<Mutex<Vec<Value>>>,
    /// Requests whose last message holds the first text fail with 400 as long as the number is above zero.
    failing: Arc<Mutex<HashMap<&'static str, usize>>>,
    /// The judge's verdict where the last message holds the first text; the first match counts.
    verdicts: Arc<Vec<(&'static str, &'static str)>>,
}

impl Server {
    fn start(failing: &[(&'static str, usize)], verdicts: &[(&'static str, &'static str)]) -> (Self, String) {
        let server = Self {
            requests: Arc::default(),
            failing: Arc::new(Mutex::new(failing.iter().copied().collect())),
            verdicts: Arc::new(verdicts.to_vec()),
        };
        let router = Router::new()
            .route("/v1/models", get(async || Json(json!({"data": [{"id": "org/tiny"}]}))))
            .route("/v1/chat/completions", post(chat))
            .with_state(server.clone());
        (server, support::serve(router))
    }

    /// The requests to the model, or to the judge.
    fn requests(&self, model: &str) -> Vec<Value> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|body| body["model"] == model).cloned().collect()
    }
}

fn last_message(body: &Value) -> &str {
    body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap()
}

async fn chat(State(server): State<Server>, Json(body): Json<Value>) -> Response {
    server.requests.lock().unwrap().push(body.clone());
    let text = last_message(&body).to_owned();
    for (pattern, times) in server.failing.lock().unwrap().iter_mut() {
        if *times > 0 && text.contains(pattern) {
            *times -= 1;
            return (StatusCode::BAD_REQUEST, Json(json!({"error": {"message": "too long"}}))).into_response();
        }
    }
    let content = match body["model"].as_str().unwrap() {
        "judge" => {
            let found = server.verdicts.iter().find(|(pattern, _)| text.contains(*pattern));
            found.map_or("Fine. Rating: [[7]]", |(_, verdict)| verdict).to_owned()
        }
        _ => format!("<think>hm</think>answer to {text}"),
    };
    let finish_reason = if text == "ice-1" { "length" } else { "stop" };
    let choice = json!({"message": {"role": "assistant", "content": content}, "finish_reason": finish_reason});
    Json(json!({"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})).into_response()
}

fn mt_bench(arguments: &[&str]) -> Output {
    support::program("mt-bench", arguments).output().unwrap()
}

fn results(out: &Path) -> Value {
    read_json(&out.join("results.json"))
}

/// Three questions, of which one needs the reference answer beside it.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { directory: tempfile::tempdir().unwrap() };
        let question = |id: u32, category: &str, name: &str| json!({"question_id": id, "category": category, "turns": [format!("{name}-1"), format!("{name}-2")]});
        files.write(
            "questions.jsonl",
            &[question(1, "writing", "poem"), question(2, "math", "sum"), question(3, "stem", "ice")],
        );
        files.write("references.jsonl", &[json!({"question_id": 2, "choices": [{"turns": ["ref-one", "ref-two"]}]})]);
        files
    }

    fn write(&self, name: &str, rows: &[Value]) {
        let text: String = rows.iter().map(|row| row.to_string() + "\n").collect();
        std::fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The arguments of every run, and more.
    fn arguments(&self, endpoint: &str, more: &[&str]) -> Vec<String> {
        let (questions, references) = (self.text("questions.jsonl"), self.text("references.jsonl"));
        let common = [
            ["--questions", &questions],
            ["--reference-answers", &references],
            ["--judge-endpoint", endpoint],
            ["--judge-model", "judge"],
        ];
        common.concat().into_iter().chain(more.iter().copied()).map(str::to_owned).collect()
    }

    fn run(&self, endpoint: &str, more: &[&str]) -> Output {
        let arguments = self.arguments(endpoint, more);
        mt_bench(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

#[test]
fn two_turns_are_answered_and_judged() {
    let (server, endpoint) =
        Server::start(&[], &[("poem-2", "Rating: [[9.5]]"), ("ice-1\n</question>", "Rating: [[3]]")]);
    let files = Files::new();
    let out = files.path("out");
    let arguments =
        ["--endpoint", &endpoint, "--out", &files.text("out"), "--strip-reasoning", "think", "--system", "Be brief."];
    let output = files.run(&endpoint, &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));

    // The second turn sees the first one, without reasoning, at the temperature of the category.
    let requests = server.requests("org/tiny");
    assert_eq!(requests.len(), 6);
    let second = requests.iter().find(|body| last_message(body) == "poem-2").unwrap();
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    let messages = json!([
        message("system", "Be brief."),
        message("user", "poem-1"),
        message("assistant", "answer to poem-1"),
        message("user", "poem-2"),
    ]);
    let expected = json!({"model": "org/tiny", "messages": messages, "temperature": 0.7, "max_tokens": 1024});
    assert_eq!(*second, expected);
    let temperature = |text: &str| {
        requests.iter().find(|body| last_message(body) == text).map(|body| body["temperature"].as_f64().unwrap())
    };
    assert_eq!((temperature("sum-1"), temperature("ice-2")), (Some(0.0), Some(0.1)));

    // The judge sees what it should.
    let judged = server.requests("judge");
    assert_eq!(judged.len(), 6);
    assert!(judged.iter().all(|body| body["temperature"] == 0 && body["max_tokens"] == 2048));
    let math = judged.iter().find(|body| last_message(body).contains("sum-2")).unwrap();
    for part in ["ref-one", "ref-two", "answer to sum-1", "answer to sum-2"] {
        assert!(last_message(math).contains(part), "{math}");
    }
    assert!(judged.iter().all(|body| !last_message(body).contains("think")));

    let results = results(&out);
    assert_eq!(results["task"], "mt-bench");
    assert_eq!(results["model"], "org/tiny");
    assert_eq!(results["metrics"]["first_turn"]["value"], 17.0 / 3.0);
    assert_eq!(results["metrics"]["second_turn"]["value"], 23.5 / 3.0);
    assert_eq!(results["metrics"]["average"]["value"], 40.5 / 6.0);
    assert_eq!(results["metrics"]["average"]["n"], 6);
    assert_eq!(results["by_category"]["writing"]["average"]["value"], 8.25);
    assert_eq!(results["counts"]["unscored"], 0);
    assert_eq!(results["counts"]["truncated"], 1);
    assert!(stderr(&output).contains("1 judgment on answers cut off at the token limit"), "{}", stderr(&output));
    assert_eq!(results["counts"]["stripped_reasoning"], 6);
    assert_eq!(results["sampling"]["temperature"], json!({"writing": 0.7, "math": 0.0, "stem": 0.1}));
    assert_eq!(results["judge"]["model"], "judge");
    assert_eq!(results["judge"]["prompts"]["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(results["judge"]["seed"], Value::Null);

    let answers = read_lines(&out.join("model_answer/org_tiny.jsonl"));
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[0]["choices"], json!([{"index": 0, "turns": ["answer to poem-1", "answer to poem-2"]}]));
    let judgments = read_lines(&out.join("judgments.jsonl"));
    assert_eq!(judgments.len(), 6);
    assert_eq!(judgments[1]["judge"], json!(["judge", "orpo-single-v1-multi-turn"]));
    assert_eq!((&judgments[1]["score"], &judgments[1]["turn"]), (&json!(9.5), &json!(2)));
    assert_eq!(judgments[3]["judge"], json!(["judge", "orpo-single-math-v1-multi-turn"]));
    let samples = read_lines(&out.join("samples.jsonl"));
    assert_eq!(samples[1]["responses"], json!(["answer to poem-2"]));
    assert_eq!((&samples[1]["prompt"], &samples[1]["score"]), (&json!("poem-2"), &json!(9.5)));

    // A second time nothing is asked; what it wrote can be judged and aggregated again.
    let before = std::fs::read(out.join("samples.jsonl")).unwrap();
    let output = files.run(&endpoint, &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(server.requests.lock().unwrap().len(), 12);
    assert_eq!(std::fs::read(out.join("samples.jsonl")).unwrap(), before);
    let output = mt_bench(&["--judgments", &files.text("out/judgments.jsonl"), "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let again: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(again["metrics"], results["metrics"]);
    let answers = files.text("out/model_answer/org_tiny.jsonl");
    let verdicts = files.text("out/verdicts.jsonl");
    let output = files.run(&endpoint, &["--answers", &answers, "--verdicts", &verdicts, "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let again: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&again["metrics"], &again["model"]), (&results["metrics"], &Value::Null));
    assert_eq!(server.requests.lock().unwrap().len(), 12);

    // Something else does not go into the same directory.
    let output = files.run(&endpoint, &[&arguments[..], &["--temperature", "0.5"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("holds a run with other settings: sampling"), "{}", stderr(&output));
}

#[test]
fn what_fails_is_counted_and_asked_again_while_the_rest_is_not() {
    let failing = [("answer to poem-1", 1), ("ice-2", 1)];
    // The judge's request on the second turn of the poem holds the first answer, too.
    let verdicts = [("sum-2", "I follow [1] and say nothing."), ("sum-1\n</question>", "Rating: [[12]]")];
    let (server, endpoint) = Server::start(&failing, &verdicts);
    let files = Files::new();
    let out = files.path("out");
    let arguments = ["--endpoint", &endpoint, "--out", &files.text("out"), "--concurrency", "1"];
    let output = files.run(&endpoint, &[&arguments[..], &["--judge-concurrency", "1"]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("4 of 6 judgments (66.7 %) have no verdict"), "{}", stderr(&output));
    let found = results(&out);
    let counts = &found["counts"];
    for (name, n) in [("total", 6), ("scored", 2), ("unscored", 4), ("errors", 2)] {
        assert_eq!(counts[name], n, "{name}: {counts}");
    }
    for (name, n) in [("no_verdict", 1), ("off_scale", 1), ("judge_failed", 1), ("no_answer", 1), ("missing", 0)] {
        assert_eq!(counts[name], n, "{name}: {counts}");
    }
    let reasons: Vec<String> = read_lines(&out.join("samples.jsonl"))
        .iter()
        .filter_map(|sample| sample["reason"].as_str().map(str::to_owned))
        .collect();
    assert!(reasons[0].contains("answered 400: too long"), "{reasons:?}");
    assert_eq!(reasons[1], "the judge's score 12 is not between 1 and 10");
    assert_eq!(reasons[2], "the judge's reply holds no score");
    assert!(reasons[3].contains("answered 400: too long"), "{reasons:?}");
    assert_eq!(found["metrics"]["average"]["n"], 2);
    // The file holds what the judge said; a reply without a score is -1, and what was never said is not there.
    let scores: Vec<f64> =
        read_lines(&out.join("judgments.jsonl")).iter().map(|row| row["score"].as_f64().unwrap()).collect();
    assert_eq!(scores, [7.0, 12.0, -1.0, 7.0]);
    // Only complete conversations are answers.
    assert_eq!(read_lines(&out.join("model_answer/org_tiny.jsonl")).len(), 2);

    // What has failed works now, and is all that is asked: one answer and two verdicts.
    let (model, judge) = (server.requests("org/tiny").len(), server.requests("judge").len());
    assert_eq!((model, judge), (6, 5));
    let output = files.run(&endpoint, &[&arguments[..], &["--max-unscored", "40%"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!((server.requests("org/tiny").len(), server.requests("judge").len()), (model + 1, judge + 2));
    let found = results(&out);
    assert_eq!((&found["counts"]["scored"], &found["counts"]["unscored"]), (&json!(4), &json!(2)));

    // The official rule finds a score in everything.
    let output = files.run(&endpoint, &[&arguments[..], &["--official", "--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["metrics"]["average"]["value"], f64::from(4 * 7 + 12 + 1) / 6.0);
    assert_eq!(found["judge"]["scores"], "official");
    assert_eq!(server.requests("judge").len(), judge + 2);
}

#[test]
fn pairs_are_judged_in_both_orders() {
    // The judge prefers whatever is shown second.
    let verdicts = [("old poem-1", "[[B]]")];
    let (server, endpoint) = Server::start(&[], &verdicts);
    let files = Files::new();
    let answer = |id: u32, name: &str| {
        let turns = [1, 2].map(|turn| format!("old {name}-{turn}"));
        json!({"question_id": id, "model_id": "old", "choices": [{"index": 0, "turns": turns}]})
    };
    files.write("old.jsonl", &[answer(1, "poem"), answer(3, "ice")]);
    let (old, out) = (files.text("old.jsonl"), files.text("out"));
    let arguments = [
        ["--endpoint", &endpoint],
        ["--answers", &old],
        ["--mode", "pairwise-baseline"],
        ["--baseline", "old"],
        ["--max-unscored", "70%"],
        ["--out", &out],
    ]
    .concat();
    let output = files.run(&endpoint, &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let found = results(&files.path("out"));
    assert_eq!((&found["mode"], &found["baseline"]), (&json!("pairwise-baseline"), &json!("old")));
    // [[B]] in both games of the poem: the first game says old, the second one the new model. The rest says nothing.
    let standing = &found["by_model"]["org/tiny"];
    assert_eq!((&standing["win"], &standing["loss"], &standing["tie"]), (&json!(0), &json!(0), &json!(2)));
    assert_eq!(found["metrics"]["win_rate_adjusted"]["value"], 0.5);
    // The old model has not answered the sum, and the verdicts on ice are scores, which are none here.
    assert_eq!((&found["counts"]["no_answer"], &found["counts"]["no_verdict"]), (&json!(2), &json!(2)));
    assert_eq!(server.requests("judge").len(), 8);
    let judgments = read_lines(&files.path("out/judgments.jsonl"));
    assert_eq!(judgments.len(), 4);
    assert_eq!((&judgments[0]["model_1"], &judgments[0]["model_2"]), (&json!("org/tiny"), &json!("old")));
    assert_eq!((&judgments[0]["g1_winner"], &judgments[0]["g2_winner"]), (&json!("model_2"), &json!("model_1")));
    assert_eq!(judgments[2]["g1_winner"], "error");
    let (one, other) = (judgments[0]["g1_user_prompt"].as_str(), judgments[0]["g2_user_prompt"].as_str());
    let position = |text: Option<&str>, what: &str| text.unwrap().find(what).unwrap();
    assert!(position(one, "answer to poem-1") < position(one, "old poem-1"));
    assert!(position(other, "answer to poem-1") > position(other, "old poem-1"));

    let all = [["--answers", &old], ["--endpoint", &endpoint], ["--mode", "pairwise-all"]].concat();
    let output = files.run(&endpoint, &[&all[..], &["--max-unscored", "1", "--json"]].concat());
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["by_model"].as_object().unwrap().keys().collect::<Vec<_>>(), ["old", "org/tiny"]);
}

#[test]
fn a_killed_run_keeps_every_answer() {
    let (server, endpoint) = Server::start(&[], &[]);
    let files = Files::new();
    std::fs::create_dir(files.path("out")).unwrap();
    let arguments = ["--endpoint", &endpoint, "--out", &files.text("out")];
    assert_eq!(files.run(&endpoint, &arguments).status.code(), Some(0));
    // As if it had been killed in the middle: a log with half a line, and verdicts with half a line.
    for (name, whole) in [("answers.jsonl", 3), ("verdicts.jsonl", 2)] {
        let path = files.path(&format!("out/{name}"));
        let text = std::fs::read_to_string(&path).unwrap();
        let kept: String = text.split_inclusive('\n').take(whole).collect();
        std::fs::write(&path, kept + "{\"question_id\": 1, \"tu").unwrap();
    }
    server.requests.lock().unwrap().clear();
    assert_eq!(files.run(&endpoint, &arguments).status.code(), Some(0));
    assert_eq!((server.requests("org/tiny").len(), server.requests("judge").len()), (3, 4));
    assert_eq!(results(&files.path("out"))["counts"]["scored"], 6);
}

#[test]
fn the_embedded_set_needs_no_file() {
    let (server, endpoint) = Server::start(&[], &[]);
    let output = mt_bench(&["--endpoint", &endpoint, "--judge-endpoint", &endpoint, "--judge-model", "judge"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(stdout.contains("| org/tiny") && stdout.contains("| humanities"), "{stdout}");
    assert!(stdout.contains("80 judgments: 80 scored"), "{stdout}");
    assert_eq!((server.requests("org/tiny").len(), server.requests("judge").len()), (80, 80));
}

#[test]
fn wrong_use_is_one_message() {
    let files = Files::new();
    files.write("bad.jsonl", &[json!({"question_id": 1, "category": "c", "turns": []})]);
    files.write("math.jsonl", &[json!({"question_id": 9, "category": "math", "turns": ["a"]})]);
    files.write("answers.jsonl", &[json!({"question_id": 9, "choices": [{"turns": ["a"]}]})]);
    files.write(
        "twice.jsonl",
        &[
            json!({"question_id": 1, "model": "m", "judge": ["j", "p"], "score": 4, "turn": 1}),
            json!({"question_id": 1, "model": "m", "judge": ["j", "p"], "score": 5, "turn": 1}),
        ],
    );
    let (bad, math, answers, twice) =
        (files.text("bad.jsonl"), files.text("math.jsonl"), files.text("answers.jsonl"), files.text("twice.jsonl"));
    let judge = ["--judge-endpoint", "http://127.0.0.1:9", "--judge-model", "j"];
    let with_judge = |more: &[&str]| [&judge[..], more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
    let plain = |more: &[&str]| more.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    for (arguments, message) in [
        (plain(&[]), "--endpoint <URL>"),
        (plain(&["--endpoint", "http://h"]), "--judge-model is needed"),
        (plain(&["--endpoint", "http://h", "--judge-model", "j"]), "--judge-endpoint is needed"),
        (plain(&["--judgments", &twice, "--endpoint", "http://h"]), "cannot be used with"),
        (with_judge(&["--endpoint", "h"]), "`h` is no usable endpoint"),
        (with_judge(&["--answers", &answers, "--mode", "double"]), "`pairwise-all` is needed"),
        (with_judge(&["--answers", &answers, "--max-unscored", "200%"]), "a percentage like 1%"),
        (with_judge(&["--answers", &answers, "--baseline", "m"]), "only with --mode pairwise-baseline"),
        (with_judge(&["--answers", &answers, "--mode", "pairwise-all"]), "at least two models"),
        (with_judge(&["--answers", &answers, "--questions", &bad]), "bad.jsonl:1: `turns` has 0 entries"),
        (with_judge(&["--answers", &answers, "--questions", &math]), "no reference answer to question 9 (math)"),
        (with_judge(&["--answers", "absent.jsonl"]), "cannot use `absent.jsonl`"),
        (plain(&["--judgments", &answers]), "answers.jsonl:1: not a usable row: missing field `model`"),
        (
            plain(&["--judgments", &twice]),
            "twice.jsonl:2: question 1, turn 1 of `m` is already judged by `j` on line 1",
        ),
    ] {
        let output = mt_bench(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(message), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
    assert_eq!(mt_bench(&["--help"]).status.code(), Some(0));
}
