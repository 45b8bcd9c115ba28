//! The real program end to end on a tiny setting: real processes, real sockets, real files.

mod elsewhere;
mod judge;
mod setting;
mod stages;
mod stand_in;
mod trace;

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use setting::{Setting, copy_dir, signal, stdout};

fn metrics(setting: &Setting) -> Vec<Value> {
    let text = fs::read_to_string(setting.path("run/orpo/metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn train_serve_evaluate_and_resume() {
    let setting = Setting::with_base();
    let said = stdout(&setting.succeed(&["run", "pipeline.toml"]));
    assert!(said.contains("IFEval instruction-level strict") && said.contains("preference accuracy"), "{said}");

    // Training: every step is logged, and the model directory has its lineage.
    let steps: Vec<u64> = metrics(&setting).iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    let manifest = setting.json("run/orpo/model/orpo_manifest.json");
    assert_eq!(manifest["step"], 6);
    let recorded = manifest["files"].as_object().unwrap();
    for (name, hash) in recorded {
        let path = setting.path("run/orpo/model").join(name);
        assert_eq!(orpo_files::sha256_file(&path).unwrap(), hash.as_str().unwrap(), "{name}");
    }
    for name in
        ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
    {
        assert!(recorded.contains_key(name), "no {name}");
    }

    // Evaluation: both models answered every prompt.
    for model in ["base", "orpo"] {
        let results = setting.json(&format!("run/eval/{model}/ifeval/results.json"));
        assert_eq!((&results["counts"]["total"], &results["counts"]["errors"]), (&json!(3), &json!(0)), "{results}");
        assert!(results["metrics"]["inst_strict"]["value"].is_f64());
        let samples = fs::read_to_string(setting.path(&format!("run/eval/{model}/ifeval/samples.jsonl"))).unwrap();
        assert_eq!(samples.lines().count(), 3);
    }
    let summary = setting.json("run/summary.json");
    assert!(summary["orpo"]["pairs"]["mean_log_odds"].as_f64() > summary["base"]["pairs"]["mean_log_odds"].as_f64());

    // A second run is refused without --resume, and with it computes nothing again.
    setting.refuse(&["run", "pipeline.toml"], &["holds a run already", "--resume"]);
    let weights = fs::metadata(setting.path("run/orpo/model/model.safetensors")).unwrap().modified().unwrap();
    setting.succeed(&["run", "pipeline.toml", "--resume"]);
    let again = fs::metadata(setting.path("run/orpo/model/model.safetensors")).unwrap().modified().unwrap();
    assert_eq!(weights, again);
}

#[test]
fn a_stopped_run_goes_on_to_the_same_weights() {
    let setting = Setting::with_base();
    let recipe = "output_dir = \"OUT\"\n[model]\npath = \"base/model\"\n[data]\ntrain = \"pairs.jsonl\"\nmax_length = 128\n\
                  [training]\nbatch_size = 4\nmax_steps = 400\nlearning_rate = 1e-3\nsave_steps = 0\n";
    for name in ["whole", "stopped"] {
        setting.write(&format!("{name}.toml"), &recipe.replace("OUT", name));
    }
    setting.succeed(&["train", "run", "whole.toml"]);

    let mut child = setting.spawn(&["train", "run", "stopped.toml"]);
    setting.wait_for_lines("stopped/metrics.jsonl", 20, &mut child);
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!setting.path("stopped/model").exists());
    setting.refuse(&["train", "run", "stopped.toml"], &["--resume"]);
    setting.refuse(
        &["train", "run", "stopped.toml", "--resume", "--set", "training.beta=0.3"],
        &["another recipe", "output_dir"],
    );
    setting.succeed(&["train", "run", "stopped.toml", "--resume"]);
    let weights = |name: &str| fs::read(setting.path(name).join("model/model.safetensors")).unwrap();
    assert!(weights("whole") == weights("stopped"), "a resumed run ends in the same bits");
}

#[test]
fn interrupting_the_pipeline_ends_its_children_and_can_go_on() {
    let setting = Setting::with_base();
    setting.write("pipeline.toml", &Setting::pipeline(100_000));
    let mut child = setting.spawn(&["run", "pipeline.toml"]);
    setting.wait_for_lines("run/orpo/metrics.jsonl", 1, &mut child);
    signal(&child, Signal::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // The trainer has ended: the log does not grow any more, and its last state is saved.
    let length = || fs::metadata(setting.path("run/orpo/metrics.jsonl")).unwrap().len();
    let before = length();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(before, length());
    assert_eq!(fs::read_dir(setting.path("run/orpo/checkpoints")).unwrap().count(), 1);
}

#[test]
fn bad_input_gets_one_clear_message() {
    let setting = Setting::with_base();
    let recipe = |name: &str, model: &str, data: &str, more: &str| {
        let text =
            format!("output_dir = \"out-{name}\"\n[model]\npath = \"{model}\"\n[data]\ntrain = \"{data}\"\n{more}");
        setting.write(name, &text);
    };
    let untouched = |name: &str| assert!(!setting.path(&format!("out-{name}")).exists(), "{name} left something");

    recipe("no-model.toml", "nowhere", "pairs.jsonl", "");
    setting.refuse(&["train", "run", "no-model.toml"], &["nowhere", "no such directory"]);
    untouched("no-model.toml");
    setting.refuse(&["serve", "--model", "nowhere"], &["nowhere"]);

    recipe("typo.toml", "base/model", "pairs.jsonl", "[training]\nlearning_rat = 1.0\n");
    setting.refuse(&["train", "run", "typo.toml"], &["typo.toml", "learning_rat", "line 7"]);
    untouched("typo.toml");
    setting.write("typo-pipeline.toml", &Setting::pipeline(1).replace("max_tokens", "max_token"));
    setting.refuse(&["run", "typo-pipeline.toml"], &["typo-pipeline.toml", "max_token"]);

    setting.write(
        "bad.jsonl",
        "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n{\"prompt\": \"a\", \"chosen\": \"b\"}\n",
    );
    recipe("row.toml", "base/model", "bad.jsonl", "");
    setting.refuse(&["train", "run", "row.toml"], &["bad.jsonl", "line 2", "rejected"]);
    untouched("row.toml");

    let corrupt = setting.path("corrupt");
    copy_dir(&setting.path("base/model"), &corrupt);
    let weights = corrupt.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    recipe("corrupt.toml", "corrupt", "pairs.jsonl", "");
    setting.refuse(&["train", "run", "corrupt.toml"], &["corrupt/model.safetensors"]);
    untouched("corrupt.toml");
    setting.refuse(&["serve", "--model", "corrupt"], &["corrupt/model.safetensors"]);

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    setting.refuse(&["serve", "--model", "base/model", "--port", &port], &[&port, "in use"]);
    drop(taken);
    let down = format!("http://127.0.0.1:{port}");
    setting.refuse(&["eval", "ifeval", "--endpoint", &down, "--out", "evaluation", "--retries", "0"], &[&port]);
    assert!(!setting.path("evaluation").join("results.json").exists());
}
