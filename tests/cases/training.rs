//! Whole training runs: that they end well, resume exactly, and mean the same however they are cut.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::setting::Case;

fn metrics(case: &Case, run: &str) -> Vec<Value> {
    case.rows(&format!("{run}/metrics.jsonl"))
}

#[test]
fn models_whose_pad_is_their_eos_learn_to_stop() {
    let Some(case) = Case::open("14-pad-is-eos") else { return };
    // The other two golden models have a sliding window of 16 tokens, which is all the context that is served.
    for family in ["llama", "qwen2"] {
        let said = case.orpo(&["train", "run", &format!("{family}.toml")]);
        assert_eq!(said.code, Some(0), "{family}: {}", said.stderr);
        let server = case.serve(&case.path(&format!("out-{family}/model")), &[]);
        for (number, answer) in [("one", "one"), ("two", "two two"), ("three", "three three three")] {
            let messages = json!([{"role": "user", "content": format!("Say {number}.")}]);
            let choice = server.chat(&json!({"model": "m", "messages": messages, "max_tokens": 40, "temperature": 0}));
            assert_eq!(choice["finish_reason"], "stop", "{family}: {choice}");
            assert_eq!(choice["message"]["content"].as_str().unwrap().trim(), answer, "{family}");
        }
    }
}

#[test]
fn examples_weigh_the_same_however_a_step_is_cut() {
    let Some(case) = Case::open("17-gradient-accumulation") else { return };
    let losses = ["b1g8-ex", "b4g2-ex", "b8g1-ex"].map(|name| {
        let said =
            case.orpo(&["train", "run", &format!("{name}.toml"), "--set", "training.loss_weighting=\"examples\""]);
        assert_eq!(said.code, Some(0), "{name}: {}", said.stderr);
        let of = |row: &Value| row["loss"].as_f64().unwrap();
        metrics(&case, &format!("out-{name}")).iter().map(of).collect::<Vec<f64>>()
    });
    for other in &losses[1..] {
        for (one, other) in losses[0].iter().zip(other) {
            // Sums in another order.
            assert!((one - other).abs() < 1e-4, "{losses:?}");
        }
    }
}

#[test]
fn a_killed_adapter_run_ends_in_the_same_bytes() {
    let Some(case) = Case::open("31-kill-and-resume-lora") else { return };
    assert_eq!(case.orpo(&["train", "run", "whole.toml"]).code, Some(0));
    let mut command = case.command(&["train", "run", "killed.toml"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    let lines = || fs::read_to_string(case.path("out-killed/metrics.jsonl")).unwrap_or_default().lines().count();
    while lines() < 25 {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "there was nothing to kill");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!case.path("out-killed/model").exists());
    let said = case.orpo(&["train", "run", "killed.toml", "--resume"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let weights = |run: &str| fs::read(case.path(run).join("model/adapter_model.safetensors")).unwrap();
    assert!(weights("out-whole") == weights("out-killed"));
}

#[test]
fn a_probability_near_one_stays_finite() {
    let Some(case) = Case::open("32-probability-near-one") else { return };
    let said = case.orpo(&["train", "run", "r.toml"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let rows = metrics(&case, "out");
    let last = rows.last().unwrap();
    assert!(rows.len() == 400 && rows.iter().all(|row| row["loss"].is_f64() && row["grad_norm"].is_f64()));
    assert!(last["loss"].as_f64() < Some(1e-4) && last["log_odds_chosen"].as_f64() > Some(15.0), "{last}");
}
