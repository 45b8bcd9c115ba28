//! `orpo-eval judge-agreement` with stand-in judges of known behaviour, and on the official annotations.

mod support;

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use support::{read_json, read_lines, reference, stderr, text, unpack};

/// Judges by name: `reference`, `flipped`, `first`, `longer`, `random`. The second of two answers tells the reference's preference
/// in its text; `x` fills both up.
#[derive(Clone, Default)]
struct Server {
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Server {
    fn start() -> (Self, String) {
        let server = Self::default();
        let router = Router::new()
            .route("/v1/models", get(async || Json(json!({"data": [{"id": "judge"}]}))))
            .route("/v1/chat/completions", post(chat))
            .with_state(server.clone());
        (server, support::serve(router))
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn answer_1(length: usize) -> String {
    format!("<one>{}", "x".repeat(length))
}

fn answer_2(length: usize, preference: f64) -> String {
    format!("<two {preference}>{}", "x".repeat(length))
}

async fn chat(State(server): State<Server>, Json(body): Json<Value>) -> Json<Value> {
    server.asked.lock().unwrap().push(body.clone());
    let prompt = body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap();
    let (one, two) = (prompt.find("<one>").unwrap(), prompt.find("<two ").unwrap());
    let preference: f64 = prompt[two + 5..].split('>').next().unwrap().parse().unwrap();
    let length = |from: usize| {
        let mark = prompt[from..].find('>').unwrap() + 1;
        mark + prompt[from + mark..].bytes().take_while(|&byte| byte == b'x').count()
    };
    let for_one = match body["model"].as_str().unwrap() {
        "reference" => 2.0 - preference,
        "flipped" => preference - 1.0,
        "first" => f64::from(one < two),
        "longer" => match length(one).cmp(&length(two)) {
            Ordering::Less => 0.0,
            Ordering::Equal => 0.5,
            Ordering::Greater => 1.0,
        },
        "random" => f64::from(orpo_files::sha256(prompt.as_bytes()).as_bytes()[0] % 2),
        other => panic!("no judge is called {other}"),
    };
    let for_first = if one < two { for_one } else { 1.0 - for_one };
    let usage = json!({"prompt_tokens": 100, "completion_tokens": 1});
    if body["logprobs"] != true {
        let verdict = if for_first > 0.5 {
            "[[A]]"
        } else if for_first < 0.5 {
            "[[B]]"
        } else {
            "[[C]]"
        };
        let content = if prompt.contains("mute") { "I cannot say." } else { verdict };
        let message = json!({"role": "assistant", "content": content});
        return Json(json!({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}));
    }
    let probability = for_first.clamp(1e-9, 1.0 - 1e-9);
    let top = json!([{"token": "m", "logprob": probability.ln()}, {"token": "M", "logprob": (1.0 - probability).ln()}]);
    let choice = json!({"message": {"role": "assistant", "content": "m"}, "finish_reason": "length",
        "logprobs": {"content": [{"token": "m", "top_logprobs": top}]}});
    Json(json!({"choices": [choice], "usage": usage}))
}

fn judge_agreement(arguments: &[&str]) -> Output {
    support::program("judge-agreement", arguments).output().unwrap()
}

fn results(arguments: &[&str]) -> Value {
    let output = judge_agreement(&[arguments, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Official annotations of four models on forty prompts; later models are better, and the last prompt has equal answers.
fn write_annotations(directory: &Path) -> Vec<String> {
    let row = |model: usize, number: usize| {
        let preference = if (number * 7 + model * 3) % 10 > 7 - model { 1.9 } else { 1.2 };
        let one = answer_1(10 + number);
        let two = answer_2(15 + (number * 13 + model) % 30, preference);
        let (two, preference) = if number == 39 { (one.clone(), 1.5) } else { (two, preference) };
        json!({"instruction": format!("prompt {number}"), "output_1": one, "generator_1": "base", "output_2": two,
            "generator_2": format!("m{model}"), "annotator": "official", "preference": preference})
    };
    let write = |model: usize| {
        let path = directory.join(format!("m{model}.json"));
        let rows: Vec<Value> = (0..40).map(|number| row(model, number)).collect();
        std::fs::write(&path, json!(rows).to_string()).unwrap();
        text(&path).to_owned()
    };
    (0..4).map(write).collect()
}

#[test]
fn judges_of_known_behaviour_have_the_figures_that_they_must() {
    let (server, endpoint) = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let files = write_annotations(directory.path());
    let ask = |judge: &str| {
        let mut arguments = vec!["--annotations"];
        arguments.extend(files.iter().map(String::as_str));
        arguments.extend(["--judge-endpoint", &endpoint, "--judge-model", judge]);
        results(&arguments)
    };
    let value = |results: &Value, name: &str| results["metrics"][name]["value"].as_f64().unwrap();
    let share = |results: &Value, of: &str, name: &str| results[of][name]["value"].as_f64().unwrap();

    let found = ask("reference");
    for name in ["agreement", "agreement_without_ties", "cohens_kappa", "spearman", "kendall"] {
        assert_eq!(value(&found, name), 1.0, "{name}: {found:#}");
    }
    assert_eq!(share(&found, "bias", "self_consistency"), 1.0);
    assert_eq!(share(&found, "bias", "first_place"), 0.5);
    assert_eq!(found["bias"]["longer"]["value"], found["reference_bias"]["longer"]["value"]);
    // Four equal pairs are no agreement; the others are asked about in both orders.
    assert_eq!((found["metrics"]["agreement"]["n"].as_u64(), server.asked()), (Some(156), 312));
    assert_eq!((&found["counts"]["total"], &found["counts"]["identical"]), (&json!(160), &json!(4)));
    assert_eq!(found["judge"]["requests"]["prompt_tokens"], 31200);
    let standing = &found["models"]["m3"];
    let difference = standing["win_rate"].as_f64().unwrap() - standing["reference_win_rate"].as_f64().unwrap();
    assert!(difference.abs() < 1e-9, "{standing}");

    let found = ask("flipped");
    assert_eq!((value(&found, "agreement"), value(&found, "spearman")), (0.0, -1.0));
    assert!(value(&found, "cohens_kappa") < -0.5, "{found:#}");

    let found = ask("first");
    assert_eq!((share(&found, "bias", "first_place"), share(&found, "bias", "self_consistency")), (1.0, 0.0));
    assert_eq!(share(&found, "bias", "longer"), 0.5);
    assert_eq!((value(&found, "agreement"), value(&found, "cohens_kappa")), (0.0, 0.0));
    assert!(found["metrics"]["spearman"]["reason"].as_str().unwrap().starts_with("not defined"), "{found:#}");

    let found = ask("longer");
    assert_eq!((share(&found, "bias", "longer"), share(&found, "bias", "first_place")), (1.0, 0.5));
    assert!(found["bias"]["length_correlation"].as_f64().unwrap() > 0.8);
    assert!(share(&found, "reference_bias", "longer") < 0.8);

    let found = ask("random");
    let interval = |metric: &Value| -> [f64; 2] { serde_json::from_value(metric["ci95"].clone()).unwrap() };
    for (metric, expected) in [
        (&found["metrics"]["cohens_kappa"], 0.0),
        (&found["bias"]["first_place"], 0.5),
        (&found["bias"]["longer"], 0.5),
        (&found["bias"]["self_consistency"], 0.5),
    ] {
        let [low, high] = interval(metric);
        assert!(low < expected && expected < high, "{metric} {expected}");
    }
}

#[test]
fn nothing_is_asked_twice_and_one_order_is_half() {
    let (server, endpoint) = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let files = write_annotations(directory.path());
    let out = directory.path().join("out");
    let mut arguments = vec!["--annotations", &files[0], &files[1], "--judge-endpoint", &endpoint];
    arguments.extend(["--judge-model", "first", "--out", text(&out), "--seed", "3"]);
    let one_order = [&arguments[..], &["--one-order", "--limit", "20"]].concat();
    let found = results(&one_order);
    let asked = server.asked();
    assert!((18..=20).contains(&asked), "{asked}: one of ten prompts at most has equal answers");
    assert_eq!(found["judge"]["orders"], "one");
    assert_eq!((&found["bias"]["first_place"]["value"], found["bias"].get("self_consistency")), (&json!(1.0), None));
    // Both models have the same prompts.
    let samples = read_lines(&out.join("samples.jsonl"));
    let prompts = |model: &str| -> Vec<&Value> {
        samples.iter().filter(|sample| sample["generator_2"] == model).map(|sample| &sample["prompt"]).collect()
    };
    assert_eq!((samples.len(), prompts("m0")), (20, prompts("m1")));
    results(&one_order);
    assert_eq!(server.asked(), asked);
    // The other order is all that is missing, and then the other prompts.
    results(&[&arguments[..], &["--limit", "20"]].concat());
    assert_eq!(server.asked(), 2 * asked);
    results(&arguments);
    assert_eq!(server.asked(), 2 * 78);
    let results = read_json(&out.join("results.json"));
    for field in ["task", "task_version", "metrics", "counts", "judge", "reference", "seed", "started_at", "seconds"] {
        assert!(!results[field].is_null(), "{field}");
    }
    assert_eq!(results["reference"]["annotators"], json!(["official"]));

    // What was found is a file of decisions, with the order of each.
    let samples = out.join("samples.jsonl");
    let output = judge_agreement(&["--annotations", &files[0], "--decisions", text(&samples), "--max-unscored", "0"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    // The pair of equal answers is the same one for both models.
    assert!(stderr(&output).contains("note: left out for want of a reference: 39 decisions"), "{}", stderr(&output));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("the judge prefers the answer shown first in 100.00 % ("), "{table}");
    assert!(table.contains("the judge names the same winner in both orders in 0.00 % ("), "{table}");
    assert_eq!(server.asked(), 2 * 78);
}

#[test]
fn people_are_the_yardstick() {
    let (_, endpoint) = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let votes = directory.path().join("votes.jsonl");
    let row = |number: usize, preference: f64, annotator: &str| {
        // The judge is told the opinion of most, which is not that of the last.
        json!({"instruction": format!("prompt {number}"), "output_1": answer_1(10), "output_2": answer_2(20, 2.0),
            "preference": preference, "annotator": annotator})
        .to_string()
    };
    let rows: Vec<String> = (0..10)
        .flat_map(|number| [row(number, 2.0, "ann"), row(number, 2.0, "bob"), row(number, 1.0, "cid")])
        .collect();
    std::fs::write(&votes, rows.join("\n")).unwrap();
    let judge = ["--judge-endpoint", &endpoint, "--judge-model", "reference", "--judge-prompts", "embedded"];
    let found = results(&[&["--votes", text(&votes)][..], &judge].concat());
    let value = |name: &str| found["metrics"][name]["value"].as_f64().unwrap();
    assert_eq!(value("agreement"), 1.0);
    // Without `ann` the others are one to one, a coin; without `cid` they agree with the judge.
    assert!((value("human_agreement") - (0.5 + 0.5 + 0.0) / 3.0).abs() < 1e-12);
    assert!((value("agreement_leave_one_out") - (0.5 + 0.5 + 1.0) / 3.0).abs() < 1e-12);
    assert!(found["metrics"].get("spearman").is_none() && found.get("models").is_none());
    assert_eq!(found["judge"]["prompt"], "orpo-pair-v2");
    let table = judge_agreement(&[&["--votes", text(&votes)][..], &judge].concat());
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("human_agreement") && table.contains("10 pairs: 10 scored, 0 unscored"), "{table}");
    assert!(
        table.contains("20 requests to the judge, 0 of them answered before: 2000 tokens sent, 20 received"),
        "{table}"
    );
}

#[test]
fn what_is_not_decided_is_counted_by_reason() {
    let (_, endpoint) = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let votes = directory.path().join("votes.jsonl");
    let row = |prompt: &str, preference: f64| {
        json!({"instruction": prompt, "output_1": answer_1(10), "output_2": answer_2(20, preference),
            "preference": preference})
        .to_string()
    };
    std::fs::write(&votes, [row("mute", 1.0), row("p", 2.0), row("q", 1.5)].join("\n")).unwrap();
    let arguments = [
        "--votes",
        text(&votes),
        "--judge-endpoint",
        &endpoint,
        "--judge-model",
        "reference",
        "--judge-prompts",
        "embedded",
    ];
    let output = judge_agreement(&[&arguments[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let message = "1 of 3 pairs are not decided (1 no verdict); the first: the judge's reply holds no verdict";
    assert!(stderr(&output).contains(message), "{}", stderr(&output));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["counts"]["unscored_by_reason"], json!({"no_reply": 0, "no_verdict": 1}));
    assert_eq!(
        found["confusion"],
        json!({"a": {"a": 0, "b": 0, "tie": 0}, "b": {"a": 0, "b": 1, "tie": 0},
        "tie": {"a": 0, "b": 0, "tie": 1}})
    );
    let output = judge_agreement(&[&arguments[..], &["--max-unscored", "40%"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let output = judge_agreement(&[&arguments[..], &["--price-in", "1", "--price-out", "1"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("this costs money; add --yes to agree"), "{}", stderr(&output));
}

#[test]
fn wrong_usage_is_one_message() {
    let directory = tempfile::tempdir().unwrap();
    let files = write_annotations(directory.path());
    let output = judge_agreement(&["--annotations", &files[0]]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("error: who decides? give --judge-endpoint URL"), "{}", stderr(&output));
    let other = directory.path().join("other.json");
    std::fs::write(&other, r#"{"instruction": "i", "output_1": "a", "output_2": "b", "preference": 1}"#).unwrap();
    let output = judge_agreement(&["--annotations", &files[0], "--decisions", text(&other)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("it decides none of the reference's pairs"), "{}", stderr(&output));
    for wrong in [&["--judge-model", "m"][..], &["--annotations", &files[0], "--votes", &files[1]]] {
        assert_eq!(judge_agreement(wrong).status.code(), Some(2), "{wrong:?}");
    }
    let help = judge_agreement(&["--help"]);
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(help.contains("Examples:") && help.contains("\"output_2\": \"8\", \"preference\": 1"), "{help}");
}

#[derive(Deserialize)]
struct Annotation {
    index: usize,
    len_1: usize,
    len_2: usize,
    same_output: bool,
    preference: Option<f64>,
}

/// The official annotations of 13 models, with stand-ins for the answers, which are of the same lengths.
fn official(directory: &Path, into: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory.join("annotations")).unwrap() {
        let path = entry.unwrap().path();
        let model = path.file_name().unwrap().to_str().unwrap().strip_suffix(".jsonl.gz").unwrap().to_owned();
        let row = |row: Annotation| {
            let one = format!("{:>width$}", "one", width = row.len_1);
            let two = if row.same_output { one.clone() } else { format!("{model:<width$}", width = row.len_2) };
            json!({"instruction": format!("prompt {}", row.index), "output_1": one, "generator_1": "gpt4_1106_preview",
                "output_2": two, "generator_2": model, "annotator": "weighted_alpaca_eval_gpt4_turbo",
                "preference": row.preference})
            .to_string()
        };
        let rows: Vec<String> = unpack::<Annotation>(&path).into_iter().map(row).collect();
        let path = into.join(format!("{model}.jsonl"));
        std::fs::write(&path, rows.join("\n")).unwrap();
        paths.push(path);
    }
    assert_eq!(paths.len(), 13);
    paths
}

#[test]
fn official_annotations_agree_with_themselves_and_rank_as_published() {
    let Some(shared) = reference("alpaca_eval") else { return };
    let directory = tempfile::tempdir().unwrap();
    let paths = official(&shared, directory.path());
    let files: Vec<&str> = paths.iter().map(|path| text(path)).collect();
    let found = results(&[&["--annotations"][..], &files, &["--decisions"], &files].concat());
    for name in ["agreement", "agreement_without_ties", "cohens_kappa", "spearman", "kendall"] {
        assert_eq!(found["metrics"][name]["value"], 1.0, "{name}");
    }
    assert_eq!(found["counts"]["unscored"], 0);
    let expected = read_json(&shared.join("expected_metrics.json"));
    let models = found["models"].as_object().unwrap();
    assert_eq!(models.len(), 13);
    for (model, standing) in models {
        let official = expected[model]["win_rate"].as_f64().unwrap();
        for side in ["win_rate", "reference_win_rate"] {
            let ours = standing[side].as_f64().unwrap();
            assert!((ours - official).abs() < 1e-6, "{model} {side}: {ours} {official}");
        }
    }
    println!("the official judge: {}", found["reference_bias"]);
}
