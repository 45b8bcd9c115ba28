//! Numbers of the Python reference implementations (transformers 5.23 in float64, TRL 1.16), where the shared data is
//! at hand (`$ORPO_SHARED`, or `../../shared`). Tolerances are those of that data's README.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use orpo_chat::ChatTokenizer;
use orpo_train::data::{Boundary, Example, Selection, Sequence, Tokeniser, collate, read_preferences};
use orpo_train::loss::{NllTarget, PreferenceMetrics, odds_ratio};
use orpo_train::model::{Decoder, ModelConfig, PackedRows, WeightFiles};
use orpo_train::optim::{AdamW, AdamWConfig, Schedule, ScheduleKind};
use orpo_train::step::{Objective, forward, forward_backward};
use serde_json::Value;

const LOGIT_TOLERANCE: f64 = 1e-4;
const LOSS_TOLERANCE: f64 = 2e-5;
const GRADIENT_TOLERANCE: f64 = 1e-4;

fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var("ORPO_SHARED").unwrap_or_else(|_| "../../shared".into());
    let path = Path::new(&root).join(path);
    if !path.exists() {
        println!("skipped: no `{}`", path.display());
        return None;
    }
    Some(path)
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn ids(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|x| x.as_i64().unwrap()).collect()
}

fn close(what: &str, got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance, "{what}: {got}, reference {want}, difference {:e}", got - want);
}

fn load(dir: &Path) -> Decoder {
    let model = dir.join("model");
    let (config, _) = ModelConfig::from_dir(&model).unwrap();
    Decoder::load(&config, &WeightFiles::open(&model).unwrap(), true).unwrap()
}

/// The reference's padded batches as examples: chosen rows first, then rejected.
fn batches(dir: &Path) -> Vec<Vec<Example>> {
    let file = json(&dir.join("batches.json"));
    let sequence = |ids_row: &Value, mask: &Value, labels: &Value| {
        let length = ids(mask).iter().filter(|m| **m == 1).count();
        let prompt_len = ids(labels)[..length].iter().take_while(|label| **label == -100).count();
        Sequence { ids: ids(ids_row)[..length].iter().map(|id| *id as u32).collect(), prompt_len }
    };
    let batch = |batch: &Value| {
        let rows = batch["input_ids"].as_array().unwrap().len();
        let row = |i: usize| sequence(&batch["input_ids"][i], &batch["attention_mask"][i], &batch["labels"][i]);
        (0..rows / 2)
            .map(|i| Example { line: i + 1, chosen: row(i), rejected: Some(row(rows / 2 + i)) })
            .collect::<Vec<_>>()
    };
    file["batches"].as_array().unwrap().iter().map(batch).collect()
}

fn orpo(beta: f64) -> Objective {
    Objective::Orpo { beta, nll: NllTarget::Full }
}

fn collect(examples: &[Example]) -> orpo_train::data::Batch {
    collate(&examples.iter().collect::<Vec<_>>())
}

#[test]
fn llama_logits_and_token_logps() {
    let Some(dir) = shared("train/golden/llama") else { return };
    let decoder = load(&dir);
    let reference = candle_core::safetensors::load(dir.join("forward.safetensors"), &Device::Cpu).unwrap();
    let logits = reference["logits"].to_dtype(DType::F32).unwrap();
    let examples = &batches(&dir)[0];
    let sequences = examples.iter().map(|e| &e.chosen).chain(examples.iter().map(|e| e.rejected.as_ref().unwrap()));
    let mut row = 0;
    for sequence in sequences {
        let ours = decoder.logits(&PackedRows::single(sequence.ids.clone())).unwrap();
        let theirs = logits.narrow(0, row, sequence.ids.len()).unwrap();
        let difference = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(f64::from(difference) < LOGIT_TOLERANCE, "logits differ by {difference}");
        row += sequence.ids.len();
    }
    assert_eq!(row, logits.dim(0).unwrap());
}

#[test]
fn llama_loss_parts_and_metrics() {
    let Some(dir) = shared("train/golden/llama") else { return };
    let decoder = load(&dir);
    let reference = json(&dir.join("forward.json"));
    let float64 = &reference["float64"];
    let batch = collect(&batches(&dir)[0]);
    for beta in [0.1, 1.0] {
        for (nll, name, total) in [
            (NllTarget::Full, "nll_full", "full"),
            (NllTarget::ResponseTokens, "nll_resp_tok", "resp_tok"),
            (NllTarget::ResponseSequences, "nll_resp_seq", "resp_seq"),
        ] {
            let metrics = forward(&decoder, &batch, &Objective::Orpo { beta, nll }).unwrap();
            close(name, metrics.nll_loss, float64[name].as_f64().unwrap(), LOSS_TOLERANCE);
            close("or_loss", -metrics.log_odds_ratio, float64["or_loss"].as_f64().unwrap(), LOSS_TOLERANCE);
            if let Some(want) = float64["total"][format!("{total}@{beta:?}")].as_f64() {
                close(total, metrics.loss, want, LOSS_TOLERANCE);
            }
        }
    }
    let want = &reference["trl_metrics_beta_0.1_float32"];
    let got = serde_json::to_value(forward(&decoder, &batch, &orpo(0.1)).unwrap()).unwrap();
    let mut compared = 0;
    for (name, value) in got.as_object().unwrap() {
        let key = if name == "nll_loss" || want.get(name).is_some() { name.as_str() } else { continue };
        close(key, value.as_f64().unwrap(), want[key].as_f64().unwrap(), LOSS_TOLERANCE);
        compared += 1;
    }
    assert_eq!(compared, 10, "every metric has a reference");

    // The averages of each pair, one pair at a time.
    let (chosen, rejected) = (numbers(&float64["avg_logps_chosen"]), numbers(&float64["avg_logps_rejected"]));
    for (i, example) in batches(&dir)[0].iter().enumerate() {
        let PreferenceMetrics { logps_chosen, logps_rejected, log_odds_chosen, .. } =
            forward(&decoder, &collect(std::slice::from_ref(example)), &orpo(0.1)).unwrap();
        close("avg_logps_chosen", logps_chosen, chosen[i], LOSS_TOLERANCE);
        close("avg_logps_rejected", logps_rejected, rejected[i], LOSS_TOLERANCE);
        close("log_odds", log_odds_chosen, numbers(&float64["log_odds"])[i], LOSS_TOLERANCE);
    }
}

/// Relative error of `ours` against `theirs` in the Euclidean norm.
fn relative_error(ours: &[f32], theirs: &Tensor) -> f64 {
    let theirs = theirs.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(ours.len(), theirs.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let difference = square(&mut ours.iter().zip(&theirs).map(|(a, b)| f64::from(a - b)));
    (difference / square(&mut theirs.iter().map(|b| f64::from(*b)))).sqrt()
}

#[test]
fn llama_gradients() {
    let Some(dir) = shared("train/golden/llama") else { return };
    for beta in ["0.1", "1.0"] {
        let decoder = load(&dir);
        let file = dir.join(format!("grads_trl_lambda{beta}.safetensors"));
        let reference = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        forward_backward(&decoder, &collect(&batches(&dir)[0]), &orpo(beta.parse().unwrap())).unwrap();
        assert_eq!(decoder.params().len(), reference.len());
        for param in decoder.params() {
            let error = relative_error(&param.slot().grad, &reference[param.name()]);
            assert!(error < GRADIENT_TOLERANCE, "{}: relative error {error:e}", param.name());
        }
    }
}

/// Trains as the reference did and returns the loss and gradient norm of every step.
fn train(decoder: &Decoder, dir: &Path, run: &Value, mut each: impl FnMut(usize)) -> Vec<(f64, f64, f64)> {
    let hyper = &run["hyperparameters"];
    let number = |name: &str| hyper[name].as_f64().unwrap();
    let config = AdamWConfig {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: number("eps"),
        weight_decay: number("weight_decay"),
        max_grad_norm: Some(number("max_grad_norm")),
    };
    let schedule = Schedule {
        kind: ScheduleKind::Cosine,
        learning_rate: number("learning_rate"),
        warmup_steps: number("warmup_steps") as usize,
        total_steps: number("total_steps") as usize,
    };
    let batches = batches(dir);
    let mut optimizer = AdamW::new(decoder.params(), config, 0);
    (0..schedule.total_steps)
        .map(|step| {
            let batch = collect(&batches[step % 4]);
            let metrics = forward_backward(decoder, &batch, &orpo(number("lambda"))).unwrap();
            let rate = schedule.rate(step);
            let norm = optimizer.step(rate, 1.0).unwrap();
            each(step + 1);
            (metrics.loss, norm, rate)
        })
        .collect()
}

fn assert_deltas(decoder: &Decoder, before: &[Vec<f32>], file: &Path, tolerance: f64) {
    let reference = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    for (param, before) in decoder.params().iter().zip(before) {
        let after = param.weight().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let delta: Vec<f32> = after.iter().zip(before).map(|(a, b)| a - b).collect();
        let error = relative_error(&delta, &reference[param.name()]);
        assert!(error < tolerance, "{} in {}: relative error {error:e}", param.name(), file.display());
    }
}

#[test]
fn llama_training_curves_and_steps() {
    let Some(dir) = shared("train/golden/llama") else { return };
    let training = json(&dir.join("training.json"));
    // Run A: loss 1e-3 over 50 steps, run B: 1e-4. The tolerance of the deltas allows ten times the error that the
    // reference's own float32 loop has, which the file records (up to 5e-5 in run A and 6e-3 in run B, whose first
    // steps are so small that the weights' last bits show).
    for (run, curve_tolerance, delta_tolerance) in [("A", 1e-3, 5e-4), ("B", 1e-4, 6e-2)] {
        let decoder = load(&dir);
        let weights = |decoder: &Decoder| -> Vec<Vec<f32>> {
            let flat =
                |p: &std::sync::Arc<orpo_train::ops::Param>| p.weight().flatten_all().unwrap().to_vec1().unwrap();
            decoder.params().iter().map(flat).collect()
        };
        let before = weights(&decoder);
        let curve = train(&decoder, &dir, &training[run], |step| {
            let file = dir.join(format!("delta_run{run}_step{step}.safetensors"));
            if file.exists() {
                assert_deltas(&decoder, &before, &file, delta_tolerance);
            }
        });
        for ((loss, norm, rate), want) in curve.iter().zip(training[run]["curve"].as_array().unwrap()) {
            let step = &want["step"];
            close(&format!("run {run} step {step} loss"), *loss, want["loss"].as_f64().unwrap(), curve_tolerance);
            close(&format!("run {run} step {step} lr"), *rate, want["lr"].as_f64().unwrap(), 1e-12);
            let want = want["grad_norm"].as_f64().unwrap();
            close(&format!("run {run} step {step} grad norm"), *norm, want, 1e-2 * want);
        }
    }
}

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
    let pairs = read_preferences(&dir.join("pairs.jsonl"), &Selection::default()).unwrap();
    assert!(pairs.dropped().is_empty());
    let pairs: Vec<_> = pairs.used().collect();
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
