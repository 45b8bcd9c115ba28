//! Which stages run, and why: reruns, changes, kills.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::setting::{Setting, signal, stderr, stdout};
use crate::stand_in::StandIn;

/// A server that says the same in lower case, as the prompts want it, if it is asked as `orpo`.
fn models(delay: Duration) -> StandIn {
    const TEXT: &str = "The weather was fine all day, and we were happy that it did not rain on us";
    StandIn::start(delay, |model, _| if model == "orpo" { TEXT.to_lowercase() } else { TEXT.into() })
}

/// `orpo run pipeline.toml` with all models served by a stand-in.
fn run<'a>(url: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["run", "pipeline.toml"];
    args.extend(url.iter().flat_map(|url| ["--endpoint", url.as_str()]));
    args.extend(more);
    args
}

fn endpoints(stand_in: &StandIn, models: &[&str]) -> Vec<String> {
    models.iter().map(|model| format!("{model}={}", stand_in.url)).collect()
}

#[test]
fn two_variants_run_once_and_then_only_what_has_changed() {
    let setting = Setting::with_base();
    setting.write("pipeline.toml", &Setting::two_variants());
    let stand_in = models(Duration::ZERO);
    let urls = endpoints(&stand_in, &["base", "orpo", "sft"]);
    let names = |stages: &[(String, String)], up_to_date: bool| -> Vec<String> {
        let wanted = stages.iter().filter(|(_, what)| (what == "up to date") == up_to_date);
        wanted.map(|(name, _)| name.clone()).collect()
    };

    // The plan and the run agree, and the plan writes nothing.
    let plan = stdout(&setting.succeed(&["plan", "pipeline.toml"]));
    assert!(plan.contains("train:sft") && plan.contains("6 steps") && plan.contains("3 prompts"), "{plan}");
    assert!(plan.contains("12 of 12 stages to run"), "{plan}");
    assert!(!setting.path("run").exists());
    let stages = setting.stages_of(&run(&urls, &[]));
    let all = names(&stages, false);
    assert_eq!(all.len(), 12, "{stages:?}");
    assert!(names(&stages, true).is_empty());
    for (variant, beta) in [("orpo", 0.5), ("sft", 0.0)] {
        let manifest = setting.json(&format!("run/{variant}/model/orpo_manifest.json"));
        assert_eq!(manifest["recipe"]["training"]["beta"], beta);
    }
    // What orpo says is in lower case, what the others say is not.
    let compared = setting.json("run/compare/orpo-vs-sft/results.json");
    assert_eq!((&compared["n_wins"], &compared["n_losses"]), (&json!(3), &json!(0)));
    assert!(fs::read_to_string(setting.path("run/report.html")).unwrap().contains("Two variants"));
    let manifest = setting.json("run/orpo_manifest.json");
    assert_eq!(manifest["variants"].as_object().unwrap().len(), 2);
    assert_eq!(manifest["results"].as_object().unwrap().len(), 6);

    // Where a model is asked is not what it is: nothing runs again without the stand-in.
    let stages = setting.stages_of(&["run", "pipeline.toml", "--resume"]);
    assert_eq!(names(&stages, true), all);
    let plan = setting.succeed(&["plan", "pipeline.toml", "--json"]);
    let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert!(plan["stages"].as_array().unwrap().iter().all(|stage| stage["action"] == "up_to_date"), "{plan}");

    // A changed beta trains one variant again, with all that hangs on it and only that.
    let before = fs::read(setting.path("run/orpo/model/model.safetensors")).unwrap();
    setting.write("pipeline.toml", &Setting::two_variants().replace("beta = 0.5", "beta = 0.1"));
    let stages = setting.stages_of(&run(&urls, &["--resume"]));
    // The stand-in says the same again, so that there is nothing to compare anew.
    let again = ["train:orpo", "score:orpo", "ifeval:orpo", "report"];
    let ran = names(&stages, false);
    assert_eq!(ran, again.map(String::from).to_vec(), "{stages:?}");
    let why = |name: &str| stages.iter().find(|(stage, _)| stage == name).unwrap().1.clone();
    assert_eq!(why("train:orpo"), "training.beta 0.5 → 0.1");
    assert_eq!(why("ifeval:orpo"), "train:orpo ran again");
    assert_eq!(fs::read(setting.path("run/orpo.previous/model/model.safetensors")).unwrap(), before);
    assert!(setting.path("run/eval/orpo/ifeval.previous/results.json").exists());

    // Data by content, and lost or changed outputs.
    let prompts = fs::read_to_string(setting.path("prompts.jsonl")).unwrap();
    setting.write("prompts.jsonl", &prompts.replace("storm", "thunder"));
    fs::remove_file(setting.path("run/eval/sft/score.json")).unwrap();
    setting.write("run/sft/metrics.jsonl", "{}\n");
    let plan = stdout(&setting.succeed(&["plan", "pipeline.toml"]));
    for words in [
        "output sft/metrics.jsonl was changed",
        "ifeval.data changed: prompts.jsonl",
        "train:sft runs first",
        "compare.data changed: prompts.jsonl",
    ] {
        assert!(plan.contains(words), "no `{words}` in\n{plan}");
    }
    let stages = setting.stages_of(&run(&urls, &["--resume"]));
    assert_eq!(names(&stages, true), ["train:orpo", "score:base", "score:orpo"], "{stages:?}");
    let why = |name: &str| stages.iter().find(|(stage, _)| stage == name).unwrap().1.clone();
    // The same training gives the same weights: the score is only missing.
    assert!(why("score:sft").starts_with("output eval/sft/score.json is gone"), "{stages:?}");
}

#[test]
fn until_stops_after_a_kind_of_stage() {
    let setting = Setting::with_base();
    let stages = setting.stages_of(&["run", "pipeline.toml", "--until", "train"]);
    assert_eq!(stages, [("train:orpo".to_owned(), String::new())]);
    assert!(!setting.path("run/eval").exists());
    let stages = setting.stages_of(&["run", "pipeline.toml", "--resume", "--until", "score"]);
    assert_eq!(stages.len(), 3);
    assert_eq!(stages[0].1, "up to date");
    let summary = setting.json("run/summary.json");
    assert!(summary["orpo"]["pairs"].is_object() && summary["orpo"]["ifeval"].is_null());
}

#[test]
fn a_killed_training_goes_on_to_the_same_weights() {
    let setting = Setting::with_base();
    let pipeline = Setting::pipeline(1500).replace("save_steps = 2", "save_steps = 50");
    setting.write("pipeline.toml", &pipeline);
    setting.write("whole.toml", &pipeline.replace("out = \"run\"", "out = \"whole\""));
    setting.succeed(&["run", "whole.toml", "--until", "train"]);
    let args = ["run", "pipeline.toml", "--resume", "--until", "train"];
    let mut child = setting.spawn(&args);
    setting.wait_for_lines("run/orpo/metrics.jsonl", 120, &mut child);
    signal(&child, Signal::SIGKILL);
    child.wait().unwrap();
    assert!(!setting.path("run/orpo/model").exists(), "there was nothing left to kill");
    let output = setting.succeed(&args);
    let said = stderr(&output);
    assert!(said.contains("==> train:orpo: it was begun and not finished; resuming"), "{said}");
    assert!(said.contains("going on after step"), "{said}");
    let weights = |out: &str| fs::read(setting.path(out).join("orpo/model/model.safetensors")).unwrap();
    assert!(weights("run") == weights("whole"), "a killed run ends in the same bits");
}

#[test]
fn a_killed_evaluation_asks_only_what_is_missing() {
    let setting = Setting::with_base();
    let words: Vec<String> = (0..120).map(|number| format!("word {number}")).collect();
    setting.write_prompts(&words);
    let slow = models(Duration::from_millis(100));
    let urls = endpoints(&slow, &["base", "orpo"]);
    setting.succeed(&run(&urls, &["--until", "score"]));
    let args = run(&urls, &["--resume"]);
    let mut child = setting.spawn(&args);
    setting.wait_for_lines("run/eval/base/ifeval/samples.partial.jsonl", 20, &mut child);
    signal(&child, Signal::SIGKILL);
    child.wait().unwrap();
    assert!(!setting.path("run/eval/base/ifeval/results.json").exists(), "there was nothing left to kill");
    let stages = setting.stages_of(&args);
    assert!(stages.contains(&("ifeval:base".into(), "it was begun and not finished; resuming".into())), "{stages:?}");
    let results = setting.json("run/eval/base/ifeval/results.json");
    assert_eq!((&results["counts"]["scored"], &results["counts"]["errors"]), (&json!(120), &json!(0)));
    let asked = slow.asked("base");
    let twice = asked.values().filter(|&&times| times > 1).count();
    assert_eq!(asked.len(), 120);
    assert!(twice <= 8, "only what was in flight is asked again, and that were {twice}");
}

#[test]
fn a_failed_stage_is_named_with_its_log_and_the_commands_that_repeat_it() {
    let setting = Setting::with_base();
    setting.succeed(&["run", "pipeline.toml", "--until", "train"]);
    // Nobody listens there, and nobody will.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    setting.write("bad.jsonl", "{\"prompt\": \"a\", \"chosen\": \"b\"}\n");
    let text = Setting::pipeline(6).replace("test.jsonl", "bad.jsonl");
    setting.write("pipeline.toml", &text);
    let words = ["stage score:base failed", "run/logs/score-base.log", "orpo train score --model base/model"];
    let output =
        setting.orpo(&["run", "pipeline.toml", "--resume", "--endpoint", &format!("orpo=http://127.0.0.1:{port}")]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    for word in words {
        assert!(said.contains(word), "no `{word}` in\n{said}");
    }
    let log = fs::read_to_string(setting.path("run/logs/score-base.log")).unwrap();
    let command = format!("$ {} train score", env!("CARGO_BIN_EXE_orpo"));
    assert!(log.starts_with(&command) && log.contains("rejected"), "{log}");
    assert_eq!(setting.json("run/stages/score-base.json")["status"], "failed");
}

#[test]
fn a_missing_template_names_the_key_of_the_pipeline() {
    let setting = Setting::with_base();
    let config = setting.path("base/model/tokenizer_config.json");
    let mut json = setting.json("base/model/tokenizer_config.json");
    json.as_object_mut().unwrap().remove("chat_template");
    fs::write(config, json.to_string()).unwrap();
    // What is served without a template cannot be asked, whatever it was trained on.
    for command in ["plan", "run"] {
        setting.refuse(&[command, "pipeline.toml"], &["base/model", "`base.chat_template`", "ifeval:base"]);
    }
    let (without, _) = Setting::pipeline(6).split_once("[ifeval]").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    setting.write("pipeline.toml", &without);
    setting.refuse(&["plan", "pipeline.toml"], &["base/model", "`base.chat_template`"]);
    let said = stderr(&setting.orpo(&["run", "pipeline.toml"]));
    assert!(said.contains("`base.chat_template`"), "{said}");
}

#[test]
fn what_is_wrong_is_said_before_anything_runs() {
    let setting = Setting::with_base();
    let refuse = |text: &str, words: &[&str]| {
        setting.write("wrong.toml", text);
        setting.refuse(&["run", "wrong.toml"], words);
        setting.refuse(&["plan", "wrong.toml"], words);
        assert!(!setting.path("run").exists(), "{text} has left something");
    };
    let pipeline = Setting::pipeline(6);
    refuse(&pipeline.replace("prompts.jsonl", "nowhere.jsonl"), &["nowhere.jsonl", "ifeval.data"]);
    refuse(&pipeline.replace("test.jsonl", "nowhere.jsonl"), &["nowhere.jsonl", "data.test"]);
    refuse(&pipeline.replace("base/model", "nowhere"), &["nowhere", "no such directory"]);
    refuse(&pipeline.replace("prompts.jsonl", "pairs.jsonl"), &["pairs.jsonl:1"]);
    let recipe = "output_dir = \"run\"\n[model]\npath = \"base/model\"\n[data]\ntrain = \"pairs.jsonl\"\n";
    refuse(recipe, &["wrong.toml", "recipe", "train run wrong.toml"]);
    refuse(&format!("{pipeline}temperature = -1\n"), &["stage ifeval:base", "--temperature"]);
    refuse(&format!("{pipeline}[serve]\nquantize = \"q9\"\n"), &["[serve]", "q9", "--quantize"]);
    setting.refuse(&["run", "pipeline.toml", "--endpoint", "dpo=http://127.0.0.1:1"], &["`dpo`", "base, orpo"]);
    setting.refuse(&["run", "pipeline.toml", "--until", "lunch"], &["lunch", "mt-bench"]);
}
