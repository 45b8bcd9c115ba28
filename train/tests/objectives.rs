//! Every objective through a whole run, and what each must show there.

mod support;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use orpo_train::recipe::Recipe;
use orpo_train::run::{Outcome, run};
use serde_json::Value;
use support::{close, shared};

/// A run of the reference's smallest model on its pairs, in `dir`.
fn recipe(dir: &Path, golden: &Path, training: &str) -> Recipe {
    let path = dir.join("recipe.toml");
    let text = format!(
        "output_dir = \"run\"\n[model]\npath = \"{0}/model\"\n[data]\ntrain = \"{0}/pairs.jsonl\"\n\
         validation = \"{0}/pairs.jsonl\"\nmax_length = 60\n[training]\nbatch_size = 4\nmax_steps = 3\n\
         learning_rate = 1e-3\n{training}",
        std::path::absolute(golden).unwrap().display()
    );
    std::fs::write(&path, text).unwrap();
    Recipe::load(&path, &[]).unwrap()
}

fn metrics(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("run/metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_objective_trains() {
    let Some(golden) = shared("train/golden/llama") else { return };
    for training in [
        "objective = \"orpo\"\nnll = \"authors\"\n",
        "objective = \"orpo_beta\"\n",
        "objective = \"probability_ratio\"\n",
        "objective = \"asft\"\n",
        "objective = \"cpo\"\nloss_type = \"hinge\"\n",
        "objective = \"simpo\"\nbeta = 2.0\nsimpo_gamma = 1.0\n",
        "objective = \"alphapo\"\nbeta = 2.0\nalpha = 0.25\n",
        "objective = \"dpo\"\nloss_type = \"aot\"\n",
    ] {
        let dir = tempfile::tempdir().unwrap();
        run(&recipe(dir.path(), &golden, training), false, &AtomicBool::new(false)).unwrap();
        let lines = metrics(dir.path());
        let all_finite = lines.iter().all(|line| line.as_object().unwrap().values().all(|value| value.is_number()));
        assert!(lines.len() == 4 && all_finite, "{training}: {lines:?}");
        assert_eq!(lines[0].get("log_odds_chosen").is_some(), training.contains("\"orpo\""), "{training}");
    }
}

#[test]
fn dpo_starts_at_its_reference_and_keeps_it_through_a_resume() {
    let Some(golden) = shared("train/golden/llama") else { return };
    let training = "objective = \"dpo\"\n";
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(&recipe(whole.path(), &golden, training), false, &AtomicBool::new(false)).unwrap();
    let recipe = recipe(parts.path(), &golden, training);
    assert_eq!(run(&recipe, false, &AtomicBool::new(true)).unwrap(), Outcome::Interrupted { step: 1 });
    run(&recipe, true, &AtomicBool::new(false)).unwrap();
    let lines = (metrics(whole.path()), metrics(parts.path()));
    close("first loss", lines.0[0]["loss"].as_f64().unwrap(), std::f64::consts::LN_2, 1e-6);
    assert!(lines.0[3]["eval_loss"].as_f64().unwrap() < std::f64::consts::LN_2);
    for (whole, parts) in lines.0.iter().zip(&lines.1) {
        for name in ["loss", "rewards/margins", "grad_norm", "eval_loss"] {
            assert_eq!(whole.get(name), parts.get(name), "{name}");
        }
    }
}
