//! Data and losses against the Python reference implementations (transformers 5.23, TRL 1.16), where the shared data is
//! at hand.

mod reference;

use std::path::Path;

use orpo_chat::ChatTokenizer;
use orpo_train::data::{Boundary, Sequence, Tokeniser, read_preferences};
use orpo_train::loss::odds_ratio;
use orpo_train::optim::{Schedule, ScheduleKind};
use reference::{close, ids, json, numbers, shared};
use serde_json::Value;

#[test]
fn tokenisation_and_truncation() {
    for family in ["llama", "mistral"] {
        let Some(dir) = shared(&format!("train/golden/{family}")) else { return };
        println!("{family}");
        compare_tokenisation(&dir);
    }
}

fn compare_tokenisation(dir: &Path) {
    let reference = json(&dir.join("tokenization.json"));
    let chat = ChatTokenizer::from_dir(&dir.join("model")).unwrap();
    let pairs = read_preferences(&dir.join("pairs.jsonl")).unwrap();
    let labels = |sequence: &Sequence| -> Vec<i64> {
        let id = |(i, id): (usize, &u32)| if i < sequence.prompt_len { -100 } else { i64::from(*id) };
        sequence.ids.iter().enumerate().map(id).collect()
    };
    let compare = |max_length: usize, rows: &Value| {
        let tokeniser = Tokeniser::new(&chat, max_length, Boundary::Trl);
        for (row, (line, pair)) in rows.as_array().unwrap().iter().zip(&pairs) {
            let empty = |side: &str| ids(&row[side]).iter().all(|label| *label == -100);
            match tokeniser.pair(*line, pair).unwrap() {
                Ok(example) => {
                    let rejected = example.rejected.unwrap();
                    assert_eq!(labels(&example.chosen), ids(&row["chosen_labels"]), "line {line}");
                    assert_eq!(labels(&rejected), ids(&row["rejected_labels"]), "line {line}");
                    let input: Vec<i64> = rejected.ids.iter().map(|id| i64::from(*id)).collect();
                    assert_eq!(input, ids(&row["rejected_input_ids"]), "line {line}");
                }
                // The reference goes on with an empty response, whose mean is 0/0.
                Err(_) => assert!(empty("chosen_labels") || empty("rejected_labels"), "line {line} was dropped"),
            }
        }
    };
    compare(usize::MAX, &reference["rows"]);
    for (max_length, rows) in reference["truncated"].as_object().unwrap() {
        compare(max_length.parse().unwrap(), rows);
    }
}

#[test]
fn odds_ratio_at_the_edges() {
    let Some(path) = shared("train/golden/losses/orpo_edge_cases.json") else { return };
    for case in json(&path).as_array().unwrap() {
        let number = |name: &str| case[name].as_f64().unwrap();
        let term = odds_ratio(number("a"), number("b"));
        let relative = |what: &str, got: f64, want: f64| {
            // Below the smallest normal number nothing is left to compare.
            let tolerance = 1e-9 * want.abs().max(1e-290);
            close(&format!("{what} of {case}"), got, want, tolerance.max(if what == "log_odds" { 1e-12 } else { 0.0 }));
        };
        relative("log_odds", term.log_odds, number("log_odds"));
        relative("or_loss", -term.log_sigmoid, number("or_loss"));
        relative("grad_a", term.grad_chosen, number("grad_a"));
        relative("grad_b", term.grad_rejected, number("grad_b"));
    }
}

#[test]
fn schedules() {
    let Some(path) = shared("train/golden/losses/schedules.json") else { return };
    let mut compared = 0;
    for (name, case) in json(&path).as_object().unwrap() {
        let kind = match case["name"].as_str().unwrap() {
            "constant" | "constant_with_warmup" => ScheduleKind::Constant,
            "linear" => ScheduleKind::Linear,
            "cosine" => ScheduleKind::Cosine,
            "inverse_sqrt" => ScheduleKind::InverseSqrt,
            other => {
                println!("not a schedule of this program: {other}");
                continue;
            }
        };
        if !case["extra"].as_object().unwrap().is_empty() {
            println!("an option that this program does not have: {name}");
            continue;
        }
        let count = |name: &str| case[name].as_u64().unwrap() as usize;
        // transformers' `constant` has no warm-up whatever is asked for; `constant_with_warmup` does.
        let warmup_steps = if case["name"] == "constant" { 0 } else { count("warmup_steps") };
        let schedule = Schedule {
            kind,
            learning_rate: case["base_lr"].as_f64().unwrap(),
            warmup_steps,
            total_steps: count("total_steps"),
        };
        for (step, want) in numbers(&case["lr_used_at_step_1..N"]).into_iter().enumerate() {
            close(&format!("{name} step {}", step + 1), schedule.rate(step), want, 1e-15);
        }
        compared += 1;
    }
    assert!(compared >= 4, "only {compared} schedules compared");
}
