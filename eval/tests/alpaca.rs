//! `orpo-eval alpaca` against a stand-in model and judge, and on the official program's annotations.

mod support;

use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use orpo_eval::alpaca::is_switched;
use serde_json::{Value, json};
use support::{read_json, read_lines, reference, stderr, text, unpack};

/// A server that is both: asked as `judge`, it prefers the answer that is `good`, with a probability of 0.9; asked as
/// `judge-first`, the one that is shown first.
#[derive(Clone, Default)]
struct Server {
    requests: Arc<Mutex<Vec<Value>>>,
    /// Whether the judge gives log-probabilities.
    logprobs: bool,
    /// Requests about these words fail with 400, so many times.
    failing: Arc<Mutex<Vec<(&'static str, usize)>>>,
}

impl Server {
    fn start(logprobs: bool, failing: &[(&'static str, usize)]) -> (Self, String) {
        let server = Self { logprobs, failing: Arc::new(Mutex::new(failing.to_vec())), ..Self::default() };
        let router = Router::new()
            .route("/v1/models", get(async || Json(json!({"data": [{"id": "org/tiny"}]}))))
            .route("/v1/chat/completions", post(chat))
            .with_state(server.clone());
        (server, support::serve(router))
    }

    /// The requests to this model.
    fn requests(&self, model: &str) -> Vec<Value> {
        self.requests.lock().unwrap().iter().filter(|body| body["model"] == model).cloned().collect()
    }
}

fn last_message(body: &Value) -> &str {
    body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap()
}

async fn chat(State(server): State<Server>, Json(body): Json<Value>) -> Response {
    server.requests.lock().unwrap().push(body.clone());
    let text = last_message(&body);
    for (word, times) in server.failing.lock().unwrap().iter_mut() {
        if *times > 0 && text.contains(*word) {
            *times -= 1;
            return (StatusCode::BAD_REQUEST, Json(json!({"error": {"message": "too long"}}))).into_response();
        }
    }
    let usage = json!({"prompt_tokens": 100, "completion_tokens": 1});
    if !body["model"].as_str().unwrap().starts_with("judge") {
        let finish_reason = if text.contains("long") { "length" } else { "stop" };
        let message = json!({"role": "assistant", "content": answer(text)});
        let choice = json!({"message": message, "finish_reason": finish_reason});
        return Json(json!({"choices": [choice], "usage": usage})).into_response();
    }
    let first_is_good = text.find("good").unwrap_or(usize::MAX) < text.find("reference").unwrap_or(usize::MAX);
    let (likely, other) = if text.contains("odd") {
        ("Neither", "Both")
    } else if body["model"] == "judge-first" || first_is_good == text.contains("good") {
        ("m", "M")
    } else {
        ("M", "m")
    };
    let top = json!([{"token": likely, "logprob": 0.9_f64.ln()}, {"token": other, "logprob": 0.1_f64.ln()}]);
    let mut choice = json!({"message": {"role": "assistant", "content": likely}, "finish_reason": "length"});
    if server.logprobs {
        choice["logprobs"] = json!({"content": [{"token": likely, "top_logprobs": top}]});
    }
    Json(json!({"choices": [choice], "usage": usage})).into_response()
}

/// What the model says.
fn answer(instruction: &str) -> String {
    match instruction {
        text if text.contains("same") => format!("reference for {text}"),
        text if text.contains("think") => "<think>hm</think>good".into(),
        text if text.contains("bad") => "bad answer".into(),
        _ => "good answer".into(),
    }
}

fn alpaca(arguments: &[&str]) -> Output {
    support::program("alpaca", arguments).output().unwrap()
}

/// The baseline's answers to some instructions, in a file.
fn write_reference(directory: &Path, instructions: &[&str]) -> String {
    let rows: Vec<Value> = instructions
        .iter()
        .enumerate()
        .map(|(index, instruction)| {
            json!({"dataset": if index % 2 == 0 { "even" } else { "odd" }, "instruction": instruction,
                "output": format!("reference for {instruction}"), "generator": "base"})
        })
        .collect();
    let path = directory.join("reference.json");
    std::fs::write(&path, serde_json::to_string_pretty(&rows).unwrap()).unwrap();
    text(&path).to_owned()
}

/// Two instructions that are shown in either order.
fn switched_and_not() -> [String; 2] {
    let of =
        |switched| (0..).map(|number| format!("write {number}")).find(|text| is_switched(text, 0) == switched).unwrap();
    [of(true), of(false)]
}

#[test]
fn a_run_from_the_first_answer_to_the_leaderboard() {
    let (server, endpoint) = Server::start(true, &[]);
    let directory = tempfile::tempdir().unwrap();
    let [switched, straight] = switched_and_not();
    let reference = write_reference(directory.path(), &[&switched, &straight, "same", "bad", "long"]);
    let out = directory.path().join("out");
    let arguments = [
        "--endpoint",
        &endpoint,
        "--reference",
        &reference,
        "--judge-endpoint",
        &endpoint,
        "--judge-model",
        "judge",
        "--out",
        text(&out),
        "--price-in",
        "10",
        "--price-out",
        "30",
        "--yes",
    ];
    let output = alpaca(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("judge: 4 requests to ask"), "{}", stderr(&output));
    assert!(stderr(&output).contains("1 answer cut off at the token limit"), "{}", stderr(&output));

    // Equal answers are not asked about; the others are, in the order of the coin.
    let judged = server.requests("judge");
    assert_eq!((server.requests("org/tiny").len(), judged.len()), (5, 4));
    for (instruction, is_switched) in [(&switched, true), (&straight, false)] {
        let body = judged.iter().find(|body| last_message(body).contains(instruction.as_str())).unwrap();
        assert_eq!(
            (&body["max_tokens"], &body["top_logprobs"], &body["temperature"]),
            (&json!(1), &json!(5), &json!(1))
        );
        let prompt = last_message(body);
        assert_eq!(prompt.find("good answer") < prompt.find("reference for"), is_switched, "{prompt}");
    }
    let asked = &server.requests("org/tiny")[0];
    assert_eq!((&asked["temperature"], &asked["max_tokens"]), (&json!(0.7), &json!(2048)));

    let results = read_json(&out.join("results.json"));
    assert_eq!((&results["task"], &results["model"]), (&json!("alpaca"), &json!("org/tiny")));
    let close = |value: &Value, expected: f64| assert!((value.as_f64().unwrap() - expected).abs() < 1e-9, "{value}");
    close(&results["metrics"]["win_rate"]["value"], 100.0 * (3.0 * 0.9 + 0.5 + 0.1) / 5.0);
    close(&results["metrics"]["discrete_win_rate"]["value"], 70.0);
    assert_eq!(results["metrics"].get("length_controlled_winrate"), None);
    assert_eq!(results["lc"], Value::Null);
    assert!(results["lc_missing"].as_str().unwrap().contains("df_gamed.csv"));
    let counts = json!({"total": 5, "scored": 5, "unscored": 0, "errors": 0, "truncated": 1, "stripped_reasoning": 0,
        "unterminated_reasoning": 0, "refused": 0, "empty": 0, "retries": 0, "no_answer": 0, "no_verdict": 0, "unparsed": 0, "n_wins": 3,
        "n_wins_base": 1, "n_draws": 1, "n_total": 5});
    assert_eq!(results["counts"], counts);
    assert_eq!(results["avg_length"], (3 * 11 + 10 + "reference for same".len()) / 5);
    assert_eq!(results["by_dataset"]["even"]["n"], 3);
    let judge = &results["judge"];
    assert_eq!((&judge["annotator"], &judge["model"]), (&json!("orpo_eval_weighted"), &json!("judge")));
    assert_eq!((&judge["seed"], &judge["templating"]), (&json!(0), &json!("safe")));
    assert_eq!(judge["orders"], "one");
    assert_eq!((&results["bias"]["pairs"], results["bias"].get("self_consistency")), (&json!(4), None));
    assert_eq!(judge["template_sha256"].as_str().unwrap().len(), 64);

    let annotations = read_json(&out.join("annotations.json"));
    let columns: Vec<&String> = annotations[0].as_object().unwrap().keys().collect();
    assert_eq!(
        columns,
        [
            "dataset",
            "instruction",
            "output_1",
            "generator_1",
            "output_2",
            "generator_2",
            "annotator",
            "preference",
            "preference_price_per_example",
            "preference_version",
            "preference_raw_completion"
        ]
    );
    close(&annotations[0]["preference"], 1.9);
    close(&annotations[1]["preference"], 1.9);
    assert_eq!(
        (&annotations[2]["preference"], &annotations[2]["preference_raw_completion"]),
        (&json!(1.5), &Value::Null)
    );
    close(&annotations[3]["preference"], 1.1);
    close(&annotations[0]["preference_price_per_example"], (100.0 * 10.0 + 30.0) / 1e6);
    assert_eq!(annotations[0]["preference_raw_completion"]["message"]["content"], "m");
    let outputs = read_json(&out.join("model_outputs.json"));
    let expected =
        json!({"dataset": "even", "instruction": switched, "output": "good answer", "generator": "org/tiny"});
    assert_eq!(outputs[0], expected);
    let samples = read_lines(&out.join("samples.jsonl"));
    assert_eq!((&samples[0]["prompt"], &samples[0]["is_switched"]), (&json!(switched), &json!(true)));
    assert_eq!(samples[4]["finish_reason"], "length");
    let leaderboard = std::fs::read_to_string(out.join("leaderboard.csv")).unwrap();
    let rows: Vec<&str> = leaderboard.lines().collect();
    assert!(rows[1].starts_with("org/tiny,") && rows[1].ends_with(",3,1,1,5,70.0,community,12,,"), "{leaderboard}");

    // Nothing is asked twice, and the files of this run are as good as a server.
    assert_eq!(alpaca(&arguments).status.code(), Some(0));
    assert_eq!(server.requests.lock().unwrap().len(), 9);
    let again = directory.path().join("again");
    let annotations = out.join("annotations.json");
    let leaderboard = out.join("leaderboard.csv");
    let arguments =
        ["--annotations", text(&annotations), "--leaderboard", text(&leaderboard), "--name", "other", "--out"];
    let output = alpaca(&[&arguments[..], &[text(&again)]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("alpaca, other against base, by orpo_eval_weighted") && table.contains("66.00"), "{table}");
    let rows = std::fs::read_to_string(again.join("leaderboard.csv")).unwrap();
    assert!(rows.contains("\norg/tiny,") && rows.contains("\nother,"), "{rows}");
    let outputs = out.join("model_outputs.json");
    let arguments = [
        "--outputs",
        text(&outputs),
        "--reference",
        &reference,
        "--judge-endpoint",
        &endpoint,
        "--judge-model",
        "judge",
    ];
    let verdicts = out.join("verdicts.jsonl");
    let output = alpaca(&[&arguments[..], &["--json", "--verdicts", text(&verdicts)]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let second: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(second["metrics"], results["metrics"]);
    assert_eq!(server.requests.lock().unwrap().len(), 9);
}

#[test]
fn both_orders_cancel_a_liking_for_a_place() {
    let (server, endpoint) = Server::start(true, &[("reference for broken", 1)]);
    let directory = tempfile::tempdir().unwrap();
    let [switched, straight] = switched_and_not();
    let reference = write_reference(directory.path(), &[&switched, &straight, "same", "broken"]);
    let out = directory.path().join("out");
    let outputs = directory.path().join("outputs.json");
    let rows = [switched.as_str(), &straight, "same", "broken"]
        .map(|instruction| json!({"instruction": instruction, "output": answer(instruction), "generator": "m"}));
    std::fs::write(&outputs, json!(rows).to_string()).unwrap();
    let alpaca = |judge: &str, more: &[&str]| {
        let arguments = [
            "--outputs",
            text(&outputs),
            "--reference",
            &reference,
            "--judge-endpoint",
            &endpoint,
            "--judge-model",
            judge,
            "--judge-concurrency",
            "1",
            "--max-unscored",
            "1",
        ];
        let output = alpaca(&[&arguments[..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        output
    };
    alpaca("judge-first", &["--both-orders", "--out", text(&out)]);
    // Three pairs are asked about twice; one of the orders of the last fails, so that it has no preference.
    assert_eq!(server.requests("judge-first").len(), 6);
    let results = read_json(&out.join("results.json"));
    assert_eq!((&results["judge"]["orders"], &results["counts"]["unscored"]), (&json!("both"), &json!(1)));
    assert_eq!(results["judge"]["annotator"], "orpo_eval_weighted_both_orders");
    let close = |value: &Value, expected: f64| assert!((value.as_f64().unwrap() - expected).abs() < 1e-9, "{value}");
    close(&results["metrics"]["win_rate"]["value"], 50.0);
    let bias = &results["bias"];
    assert_eq!((&bias["first_place"]["value"], &bias["self_consistency"]["value"]), (&json!(1.0), &json!(0.0)));
    let samples = read_lines(&out.join("samples.jsonl"));
    for sample in &samples[..2] {
        close(&sample["verdicts"][0], 1.1);
        close(&sample["verdicts"][1], 1.9);
        assert_eq!(sample["is_switched"], Value::Null);
    }
    assert_eq!((&samples[2]["preference"], samples[2].get("verdicts")), (&json!(1.5), None));
    assert_eq!((&samples[3]["preference"], samples[3]["verdicts"][0].is_null()), (&Value::Null, true));
    let annotations = read_json(&out.join("annotations.json"));
    assert_eq!(annotations[0]["annotator"], "orpo_eval_weighted_both_orders");
    assert_eq!(annotations[0]["preference_raw_completion"].as_array().unwrap().len(), 2);

    // The order of the coin is one of both: only the other one is left to ask, and what the coin alone says is another number.
    let verdicts = directory.path().join("verdicts.jsonl");
    alpaca("judge", &["--verdicts", text(&verdicts)]);
    assert_eq!(server.requests("judge").len(), 3);
    let output = alpaca("judge", &["--both-orders", "--verdicts", text(&verdicts)]);
    assert_eq!(server.requests("judge").len(), 6);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("by orpo_eval_weighted_both_orders"), "{table}");
    assert!(table.contains("the judge prefers the answer shown first in 50.00 % ("), "{table}");
    assert!(table.contains("the judge names the same winner in both orders in 100.00 %"), "{table}");
}

/// Without a length that varies, what is due to length cannot be told, however many orders were asked.
#[test]
fn length_control_over_both_orders_says_where_it_is_not_identifiable() {
    let (_, endpoint) = Server::start(true, &[]);
    let directory = tempfile::tempdir().unwrap();
    let [a, b] = switched_and_not();
    let reference = write_reference(directory.path(), &[&a, &b]);
    let outputs = directory.path().join("outputs.json");
    let rows = [&a, &b].map(|instruction| {
        json!({"instruction": instruction, "output": format!("good reference for {instruction}"), "generator": "m"})
    });
    std::fs::write(&outputs, json!(rows).to_string()).unwrap();
    let gamed = directory.path().join("df_gamed.csv");
    std::fs::write(
        &gamed,
        "preference,std_delta_len,instruction_difficulty,not_gamed_baseline,index\n0.5,0.1,0.2,False,0\n\
         0.4,0.2,0.1,False,1\n",
    )
    .unwrap();
    let output = alpaca(&[
        "--outputs",
        text(&outputs),
        "--reference",
        &reference,
        "--judge-endpoint",
        &endpoint,
        "--judge-model",
        "judge",
        "--both-orders",
        "--gamed",
        text(&gamed),
        "--json",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    let metric = &results["metrics"]["length_controlled_winrate"];
    assert_eq!(metric["value"], Value::Null, "{results}");
    assert!(metric["reason"].as_str().unwrap().starts_with("not identifiable: "), "{metric}");
}

#[test]
fn a_judge_without_log_probabilities_is_asked_once() {
    let (server, endpoint) = Server::start(false, &[]);
    let directory = tempfile::tempdir().unwrap();
    let reference = write_reference(directory.path(), &["a", "b", "c"]);
    let arguments =
        ["--endpoint", &endpoint, "--reference", &reference, "--judge-endpoint", &endpoint, "--judge-model", "judge"];
    let output = alpaca(&[&arguments[..], &["--judge-verdict", "logprobs"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("needs the log-probabilities of the likeliest tokens"), "{}", stderr(&output));
    assert!(stderr(&output).contains("or an annotator with another parser"), "{}", stderr(&output));
    assert_eq!(server.requests("judge").len(), 1);
}

#[test]
fn what_has_no_preference_is_counted_and_is_no_tie() {
    let (server, endpoint) = Server::start(true, &[("judged late", 1), ("answered late", 1)]);
    let directory = tempfile::tempdir().unwrap();
    let reference = write_reference(directory.path(), &["a", "odd", "judged", "answered late", "think"]);
    let out = directory.path().join("out");
    let arguments = [
        "--endpoint",
        &endpoint,
        "--reference",
        &reference,
        "--judge-endpoint",
        &endpoint,
        "--judge-model",
        "judge",
        "--out",
        text(&out),
        "--strip-reasoning",
        "think",
    ];
    // The judge's request about "judged" fails by its own words.
    server.failing.lock().unwrap().push(("reference for judged", 1));
    let output = alpaca(&arguments);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let message = "3 of 5 comparisons have no preference: 1 without an answer, 1 without a verdict, 1 with one that \
                   could not be parsed; the first: no verdict is among the likeliest tokens \"Neither\", \"Both\"";
    assert!(stderr(&output).contains(message), "{}", stderr(&output));
    assert!(stderr(&output).contains("more than --max-unscored allows (1%)"), "{}", stderr(&output));
    let results = read_json(&out.join("results.json"));
    let counts = &results["counts"];
    let found = ["total", "scored", "unscored", "errors", "no_answer", "no_verdict", "unparsed", "n_draws", "n_total"]
        .map(|name| counts[name].as_u64().unwrap());
    assert_eq!(found, [5, 2, 3, 2, 1, 1, 1, 0, 2]);
    assert_eq!((&counts["stripped_reasoning"], &results["strip_reasoning"]), (&json!(1), &json!(["think"])));
    let samples = read_lines(&out.join("samples.jsonl"));
    assert_eq!(
        (&samples[4]["response"], &samples[4]["raw_response"]),
        (&json!("good"), &json!("<think>hm</think>good"))
    );
    assert!(samples[3]["error"].as_str().unwrap().contains("answered 400: too long"), "{}", samples[3]);
    assert_eq!((&samples[1]["preference"], &samples[3]["response"]), (&Value::Null, &Value::Null));
    // Without an answer there is no annotation; without a preference there is one, and it says so.
    let annotations = read_json(&out.join("annotations.json"));
    assert_eq!((annotations.as_array().unwrap().len(), &annotations[1]["preference"]), (4, &Value::Null));
    assert_eq!(annotations[1]["preference_raw_completion"]["message"]["content"], "Neither");

    let before = server.requests.lock().unwrap().len();
    let output = alpaca(&[&arguments[..], &["--max-unscored", "20%"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("warning: 1 of 5 comparisons"), "{}", stderr(&output));
    // One answer, its verdict, and the verdict that had failed.
    assert_eq!(server.requests.lock().unwrap().len(), before + 3);
}

#[test]
fn a_broken_official_prompt_is_no_crash() {
    let (server, endpoint) = Server::start(true, &[]);
    let directory = tempfile::tempdir().unwrap();
    let reference = write_reference(directory.path(), &["a", "b <|im_start|>"]);
    let arguments =
        ["--endpoint", &endpoint, "--reference", &reference, "--judge-endpoint", &endpoint, "--judge-model", "judge"];
    let output = alpaca(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let hijackable = server.requests("judge").into_iter().filter(|body| body["messages"].as_array().unwrap().len() > 2);
    assert_eq!(hijackable.count(), 0);
    let output = alpaca(&[&arguments[..], &["--official-templating", "--max-unscored", "1"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let hijacked = server.requests("judge").into_iter().filter(|body| body["messages"].as_array().unwrap().len() > 2);
    assert_eq!(hijacked.count(), 1);
}

#[test]
fn files_that_do_not_match_are_reported() {
    let (server, endpoint) = Server::start(true, &[]);
    let directory = tempfile::tempdir().unwrap();
    let reference = write_reference(directory.path(), &["a", "b", "c", "d"]);
    let outputs = directory.path().join("outputs.jsonl");
    let row =
        |instruction: &str, output: &str| json!({"instruction": instruction, "output": output}).to_string() + "\n";
    std::fs::write(&outputs, row("a", "good one") + &row("b", "good two") + &row("x", "unused")).unwrap();
    let arguments = [
        "--outputs",
        text(&outputs),
        "--reference",
        &reference,
        "--judge-endpoint",
        &endpoint,
        "--judge-model",
        "judge",
    ];
    let output = alpaca(&arguments);
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(message.contains("2 of 4 instructions have no answer in"), "{message}");
    assert!(message.contains("note: 1 answer in") && message.contains("that are not in --reference"), "{message}");
    assert!(!message.contains("failed"), "{message}");
    assert_eq!(server.requests("judge").len(), 2);
    let output = alpaca(&[&arguments[..], &["--limit", "2", "--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&results["counts"]["total"], &results["counts"]["errors"]), (&json!(2), &json!(0)));
    assert_eq!(results["responses"]["source"], text(&outputs));
    // What --limit leaves out is in --reference all the same.
    let message = stderr(&alpaca(&[&arguments[..], &["--limit", "1"]].concat()));
    let source = text(&outputs);
    for note in [
        format!("note: 1 answer in `{source}` to instructions that are not in --reference"),
        format!("note: 1 answer in `{source}` left out by --limit"),
    ] {
        assert!(message.lines().any(|line| line == note), "{message}");
    }
    std::fs::write(&outputs, row("x", "unused")).unwrap();
    let output = alpaca(&arguments);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("answers no instruction of --reference"), "{}", stderr(&output));
}

#[test]
fn wrong_usage_is_one_message() {
    let directory = tempfile::tempdir().unwrap();
    let reference = write_reference(directory.path(), &["a"]);
    let nowhere = "http://127.0.0.1:9";
    let judge = ["--judge-endpoint", nowhere, "--judge-model", "j", "--judge-retries", "0"];
    let asked = ["--endpoint", nowhere, "--reference", &reference];
    let absent = directory.path().join("absent.json");
    let absent = text(&absent);
    let cases: [(Vec<&str>, &str); 7] = [
        (vec![], "required arguments were not provided"),
        (vec!["--endpoint", nowhere], "--reference <FILE>"),
        (vec!["--annotations", absent, "--outputs", absent], "cannot be used with"),
        (vec!["--annotations", absent], "absent.json`: No such file or directory"),
        (vec!["--annotations", absent, "--gamed", absent], "absent.json`: No such file or directory"),
        (asked.to_vec(), "--judge-endpoint is needed"),
        ([&asked[..], &judge].concat(), "the judge does not answer; is it up, and --judge-endpoint right?"),
    ];
    for (arguments, message) in cases {
        let output = alpaca(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(message), "{arguments:?}: {}", stderr(&output));
    }
    let other = directory.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("results.json"), "{}").unwrap();
    let output = alpaca(&["--annotations", absent, "--out", text(&other)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("it holds `results.json` of something else"), "{}", stderr(&output));
    let help = alpaca(&["--help"]);
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(help.contains("[default: 2048]") && help.contains("evaluators_configs"), "{help}");
}

/// An official file of annotations, with answers of the right lengths.
fn write_annotations(data: &Path, model: &str, path: &Path) {
    let length = |row: &Value, name: &str| usize::try_from(row[name].as_u64().unwrap()).unwrap();
    let rows: Vec<Value> = unpack::<Value>(&data.join("annotations").join(format!("{model}.jsonl.gz")))
        .iter()
        .map(|row| {
            json!({"instruction": row["index"].to_string(), "output_1": "ü".repeat(length(row, "len_1")),
                "generator_1": "gpt4_1106_preview", "output_2": "y".repeat(length(row, "len_2")), "generator_2": model,
                "annotator": "weighted_alpaca_eval_gpt4_turbo", "preference": row["preference"]})
        })
        .collect();
    std::fs::write(path, serde_json::to_string(&rows).unwrap()).unwrap();
}

#[test]
fn official_annotations_give_the_official_leaderboard() {
    let Some(data) = reference("alpaca_eval") else { return };
    let directory = tempfile::tempdir().unwrap();
    let expected = read_json(&data.join("expected_metrics.json"));
    let official = std::fs::read_to_string(data.join("leaderboard_weighted_alpaca_eval_gpt4_turbo.csv")).unwrap();
    let (gamed, difficulty) =
        (data.join("df_gamed_reconstructed.csv.gz"), data.join("instruction_difficulty_recovered.csv"));
    let leaderboard = data.join("leaderboard_weighted_alpaca_eval_gpt4_turbo.csv");
    let mut times = Vec::new();
    for model in expected.as_object().unwrap().keys() {
        let annotations = directory.path().join("annotations.json");
        write_annotations(&data, model, &annotations);
        let out = directory.path().join(model);
        let started = std::time::Instant::now();
        let output = alpaca(&[
            "--annotations",
            text(&annotations),
            "--gamed",
            text(&gamed),
            "--instruction-difficulty",
            text(&difficulty),
            "--leaderboard",
            text(&leaderboard),
            "--out",
            text(&out),
        ]);
        times.push(started.elapsed());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let results = read_json(&out.join("results.json"));
        let expected = &expected[model];
        let published = &expected["leaderboard"];
        let metric = |name: &str| results["metrics"][name]["value"].as_f64().unwrap();
        assert!((metric("win_rate") - published["win_rate"].as_f64().unwrap()).abs() < 1e-9, "{model}");
        assert!(
            (metric("discrete_win_rate") - published["discrete_win_rate"].as_f64().unwrap()).abs() < 1e-9,
            "{model}"
        );
        let stderr = results["metrics"]["win_rate"]["stderr"].as_f64().unwrap();
        assert!((stderr - published["standard_error"].as_f64().unwrap()).abs() < 1e-9, "{model}");
        assert_eq!(results["avg_length"], expected["avg_length"], "{model}");
        let official_lc = match expected["lc"].get("numpy_argsort") {
            Some(lc) => lc["length_controlled_winrate"].as_f64().unwrap(),
            None => 50.0,
        };
        assert!((metric("length_controlled_winrate") - official_lc).abs() < 0.11, "{model}");
        if model != "gpt4_1106_preview" {
            assert_eq!(results["lc"]["fold_layout"], "numpy_argsort");
            assert_eq!(results["lc"]["coef"].as_array().unwrap().len(), 3);
            let published = published["length_controlled_winrate"].as_f64().unwrap();
            println!("{model}: {:.3} here, {published:.3} on the leaderboard", metric("length_controlled_winrate"));
        }
        // Our row stands among the published ones, in their columns.
        let written = std::fs::read_to_string(out.join("leaderboard.csv")).unwrap();
        assert_eq!(written.lines().next(), official.lines().next());
        let rows = |text: &str| -> Vec<String> {
            let mut rows: Vec<String> =
                text.lines().filter(|line| !line.starts_with(&format!("{model},"))).map(str::to_owned).collect();
            rows.sort();
            rows
        };
        assert_eq!(rows(&written), rows(&official), "{model}");
        let row = written.lines().find(|line| line.starts_with(&format!("{model},"))).unwrap();
        assert_eq!(row.split(',').count(), 12, "{row}");
        let annotations = read_json(&out.join("annotations.json"));
        assert!(annotations[0]["glm_preference"].is_f64());
    }
    times.sort();
    println!("seconds for one model: {:.2?}", times[times.len() / 2]);
}
