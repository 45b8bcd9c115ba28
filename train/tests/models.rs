//! Every architecture against numbers of the Python reference implementations (transformers 5.23 in float64, TRL 1.16,
//! peft 0.21), where the shared data is at hand. Tolerances are those of that data's README.

mod support;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use orpo_train::generate::greedy;
use orpo_train::loss::{NllTarget, PreferenceMetrics};
use orpo_train::model::lora::{ADAPTER_FILE, BaseStorage, LoraConfig, LoraSetup};
use orpo_train::model::{Decoder, PackedRows, Trained, WeightFiles};
use orpo_train::optim::{AdamW, AdamWConfig, Schedule, ScheduleKind};
use orpo_train::step::{Objective, forward, forward_backward};
use serde_json::Value;
use support::{batches, close, collect, each_family, load, numbers, orpo, read_json, relative_error, shared, values};

const LOGIT_TOLERANCE: f64 = 1e-4;
const LOSS_TOLERANCE: f64 = 2e-5;
const GRADIENT_TOLERANCE: f64 = 1e-4;

#[test]
fn logits_and_token_logps() {
    each_family(|family, dir| {
        let decoder = load(dir, Trained::Nothing);
        let reference = candle_core::safetensors::load(dir.join("forward.safetensors"), &Device::Cpu).unwrap();
        let logits = reference["logits"].to_dtype(DType::F32).unwrap();
        let token_logps = reference["token_logps"].to_vec2::<f64>().unwrap();
        let examples = &batches(dir)[0];
        let sequences = examples.iter().map(|e| &e.chosen).chain(examples.iter().map(|e| e.rejected.as_ref().unwrap()));
        let mut row = 0;
        for (i, sequence) in sequences.enumerate() {
            let rows = PackedRows::single(sequence.ids.clone());
            let ours = decoder.logits(&rows).unwrap();
            let theirs = logits.narrow(0, row, sequence.ids.len()).unwrap();
            let difference = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(f64::from(difference) < LOGIT_TOLERANCE, "{family}: logits differ by {difference}");
            row += sequence.ids.len();

            let predicting: Vec<u32> = (0..sequence.ids.len() as u32 - 1).collect();
            let hidden = decoder.hidden_states(&rows).unwrap();
            let logps =
                decoder.logps(&hidden, &predicting, &sequence.ids[1..], None).unwrap().to_vec1::<f32>().unwrap();
            for (at, logp) in logps.iter().enumerate() {
                close(
                    &format!("{family}: token {at} of row {i}"),
                    f64::from(*logp),
                    token_logps[i][at],
                    LOSS_TOLERANCE,
                );
            }
        }
        assert_eq!(row, logits.dim(0).unwrap());
    });
}

#[test]
fn loss_parts_and_metrics() {
    each_family(|family, dir| {
        let decoder = load(dir, Trained::Nothing);
        let reference = read_json(&dir.join("forward.json"));
        let float64 = &reference["float64"];
        let batch = collect(&batches(dir)[0]);
        let mut totals = 0;
        for beta in [0.1, 0.25, 1.0] {
            for (nll, name, total) in [
                (NllTarget::Full, "nll_full", "full"),
                (NllTarget::ResponseTokens, "nll_resp_tok", "resp_tok"),
                (NllTarget::ResponseSequences, "nll_resp_seq", "resp_seq"),
            ] {
                let metrics = forward(&decoder, &batch, &Objective::Orpo { beta, nll }).unwrap();
                let what = format!("{family} {name}");
                close(&what, metrics.nll_loss, float64[name].as_f64().unwrap(), LOSS_TOLERANCE);
                close(&what, -metrics.log_odds_ratio, float64["or_loss"].as_f64().unwrap(), LOSS_TOLERANCE);
                if let Some(want) = float64["total"][format!("{total}@{beta:?}")].as_f64() {
                    close(&what, metrics.loss, want, LOSS_TOLERANCE);
                    totals += 1;
                }
            }
        }
        assert_eq!(totals, float64["total"].as_object().unwrap().len(), "every total was compared");

        let want = &reference["trl_metrics_beta_0.1_float32"];
        let got = serde_json::to_value(forward(&decoder, &batch, &orpo(0.1)).unwrap()).unwrap();
        let mut compared = 0;
        for (name, value) in got.as_object().unwrap() {
            if let Some(want) = want[name].as_f64() {
                close(&format!("{family} {name}"), value.as_f64().unwrap(), want, LOSS_TOLERANCE);
                compared += 1;
            }
        }
        assert_eq!(compared, 10, "every metric has a reference");
        each_pair(family, &decoder, dir, float64);
    });
}

/// The averages of each pair, one pair at a time.
fn each_pair(what: &str, decoder: &Decoder, dir: &Path, want: &Value) {
    for (i, example) in batches(dir)[0].iter().enumerate() {
        let PreferenceMetrics { logps_chosen, logps_rejected, log_odds_chosen, .. } =
            forward(decoder, &collect(std::slice::from_ref(example)), &orpo(0.1)).unwrap();
        close(&format!("{what} chosen"), logps_chosen, numbers(&want["avg_logps_chosen"])[i], LOSS_TOLERANCE);
        close(&format!("{what} rejected"), logps_rejected, numbers(&want["avg_logps_rejected"])[i], LOSS_TOLERANCE);
        if let Some(log_odds) = want["log_odds"].as_array() {
            close(&format!("{what} log odds"), log_odds_chosen, log_odds[i].as_f64().unwrap(), LOSS_TOLERANCE);
        }
    }
}

/// A bias that moves all scores of a query by the same amount does nothing: its gradient is 0 in exact arithmetic, what
/// is left is noise, and Adam makes steps of it.
fn without_effect(family: &str, name: &str) -> bool {
    family.starts_with("opt") && name.ends_with("k_proj.bias")
}

#[test]
fn gradients() {
    each_family(|family, dir| {
        for beta in ["0.1", "1.0"] {
            let file = dir.join(format!("grads_trl_lambda{beta}.safetensors"));
            let reference = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
            for checkpointing in [false, true] {
                let decoder = load(dir, Trained::Everything).with_activation_checkpointing(checkpointing);
                forward_backward(&decoder, &collect(&batches(dir)[0]), &orpo(beta.parse().unwrap())).unwrap();
                assert_eq!(decoder.params().len(), reference.len());
                for param in decoder.params() {
                    let grad = &param.slot().grad;
                    if without_effect(family, param.name()) {
                        assert!(grad.iter().all(|g| g.abs() < 1e-5), "{family} {}: {grad:?}", param.name());
                        continue;
                    }
                    let error = relative_error(grad, &reference[param.name()]);
                    assert!(error < GRADIENT_TOLERANCE, "{family} {}: relative error {error:e}", param.name());
                }
            }
        }
    });
}

/// Trains as the reference did and returns the loss and gradient norm of every step. Each step takes the mean over
/// `accumulation` parts of the next batch.
fn train(
    decoder: &Decoder,
    dir: &Path,
    hyper: &Value,
    total_steps: usize,
    accumulation: usize,
    mut each: impl FnMut(usize),
) -> Vec<(f64, f64, f64)> {
    let number = |name: &str| hyper[name].as_f64().unwrap();
    let config = AdamWConfig {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: hyper["eps"].as_f64().unwrap_or(1e-8),
        weight_decay: number("weight_decay"),
        max_grad_norm: Some(number("max_grad_norm")),
    };
    let schedule = Schedule {
        kind: ScheduleKind::Cosine,
        options: Default::default(),
        learning_rate: number("learning_rate"),
        warmup_steps: number("warmup_steps") as usize,
        total_steps,
    };
    let batches = batches(dir);
    let mut optimizer = AdamW::new(&decoder.trainable(), config, 0);
    (0..total_steps)
        .map(|step| {
            let batch = &batches[step % 4];
            let mut loss = 0.0;
            for part in batch.chunks(batch.len() / accumulation) {
                let metrics = forward_backward(decoder, &collect(part), &orpo(number("lambda"))).unwrap();
                loss += metrics.loss / accumulation as f64;
            }
            let rate = schedule.rate(step);
            let norm = optimizer.step(rate, 1.0 / accumulation as f64).unwrap();
            each(step + 1);
            (loss, norm, rate)
        })
        .collect()
}

/// Compares what training changed. Adam turns gradients near 0 into whole steps and their rounding with them, so that the
/// tolerance of a tensor is ten times the error that the reference's own loop in float32 has in it: `float32` where it
/// was recorded, and at least `least`.
fn assert_deltas(family: &str, decoder: &Decoder, before: &[Vec<f32>], file: &Path, float32: &Value, least: f64) {
    let reference = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let params = decoder.trainable();
    assert_eq!(params.len(), reference.len());
    for (param, before) in params.iter().zip(before) {
        if without_effect(family, param.name()) {
            continue;
        }
        let delta: Vec<f32> = values(param).iter().zip(before).map(|(a, b)| a - b).collect();
        let want = &reference[param.name()];
        if want.abs().unwrap().max_all().unwrap().to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap() == 0.0 {
            assert!(delta.iter().all(|d| *d == 0.0), "{}", param.name());
            continue;
        }
        let error = relative_error(&delta, want);
        let tolerance = 10.0 * float32[param.name()].as_f64().unwrap_or(0.0).max(least);
        assert!(error < tolerance, "{} in {}: relative error {error:e}", param.name(), file.display());
    }
}

fn assert_curve(what: &str, curve: &[(f64, f64, f64)], want: &Value, tolerance: f64) {
    let want = want.as_array().unwrap();
    assert_eq!(curve.len(), want.len());
    for ((loss, norm, rate), want) in curve.iter().zip(want) {
        let what = format!("{what} step {}", want["step"]);
        close(&format!("{what} loss"), *loss, want["loss"].as_f64().unwrap(), tolerance);
        close(&format!("{what} lr"), *rate, want["lr"].as_f64().unwrap(), 1e-12);
        let want = want["grad_norm"].as_f64().unwrap();
        close(&format!("{what} grad norm"), *norm, want, 1e-2 * want);
    }
}

fn snapshot(decoder: &Decoder) -> Vec<Vec<f32>> {
    decoder.trainable().iter().map(|param| values(param)).collect()
}

#[test]
fn training_curves_and_steps() {
    each_family(|family, dir| {
        let training = read_json(&dir.join("training.json"));
        // Run A: loss 1e-3 over 50 steps, run B: 1e-4. Run B's first steps are so small that the weights' last bits show.
        for (run, curve_tolerance, least) in [("A", 1e-3, 5e-5), ("B", 1e-4, 6e-3)] {
            let float32 = &training[run]["float32_same_loop_delta_step5_relative_error"];
            let decoder = load(dir, Trained::Everything);
            let before = snapshot(&decoder);
            let curve = train(&decoder, dir, &training[run]["hyperparameters"], 50, 1, |step| {
                let file = dir.join(format!("delta_run{run}_step{step}.safetensors"));
                if file.exists() {
                    assert_deltas(family, &decoder, &before, &file, float32, least);
                }
            });
            assert_curve(&format!("{family} run {run}"), &curve, &training[run]["curve"], curve_tolerance);
        }
        let decoder = load(dir, Trained::Everything);
        let curve = train(&decoder, dir, &training["A"]["hyperparameters"], 20, 2, |_| {});
        assert_curve(&format!("{family} run C"), &curve, &training["C_accumulate_2"]["curve"], 1e-3);
    });
}

fn lora(dir: &Path, adapter: &str) -> LoraSetup {
    let dir = dir.join("lora").join(adapter);
    LoraSetup {
        config: LoraConfig::from_dir(&dir).unwrap(),
        base: BaseStorage::Source,
        seed: 0,
        initial: Some(WeightFiles::open_file(&dir.join(ADAPTER_FILE)).unwrap()),
    }
}

/// Where B is 0, its gradient is that of the weight, `scale dW A^T`; and that of A is 0.
#[test]
fn adapters_of_the_projections_into_and_out_of_the_blocks() {
    let Some(dir) = shared("train/golden/opt350") else { return };
    let batch = collect(&batches(&dir)[0]);
    let target_modules = vec!["project_in".into(), "project_out".into()];
    let config = LoraConfig { r: 4, lora_alpha: 6.0, lora_dropout: 0.0, target_modules, use_rslora: false };
    let setup = LoraSetup { config, base: BaseStorage::Source, seed: 1, initial: None };
    let (adapted, whole) = (load(&dir, Trained::Adapter(&setup)), load(&dir, Trained::Everything));
    for decoder in [&adapted, &whole] {
        forward_backward(decoder, &batch, &orpo(0.1)).unwrap();
    }
    for name in ["project_in", "project_out"] {
        let weight = whole.params().iter().find(|param| param.name().ends_with(&format!("{name}.weight"))).unwrap();
        let gradient = Tensor::from_slice(&weight.slot().grad, weight.shape(), &Device::Cpu).unwrap();
        let trained = adapted.trainable();
        let side = |side: &str| trained.iter().find(|p| p.name().ends_with(&format!("{name}.{side}.weight"))).unwrap();
        let a = side("lora_A").weight().unwrap();
        let want = (gradient.matmul(&a.t().unwrap()).unwrap() * 1.5).unwrap();
        let error = relative_error(&side("lora_B").slot().grad, &want);
        assert!(error < GRADIENT_TOLERANCE, "{name}: relative error {error:e}");
        assert!(side("lora_A").slot().grad.iter().all(|g| *g == 0.0), "{name}");
    }
}

#[test]
fn adapters_forward_gradients_and_merged() {
    each_family(|family, dir| {
        let reference = read_json(&dir.join("lora/lora.json"));
        let setup = lora(dir, "adapter");
        let decoder = load(dir, Trained::Adapter(&setup));
        let trained: usize = decoder.trainable().iter().map(|param| param.elem_count()).sum();
        assert_eq!(trained as u64, reference["trainable_parameters"].as_u64().unwrap());
        each_pair(&format!("{family} adapter"), &decoder, dir, &reference["adapter_forward"]);
        let batch = collect(&batches(dir)[0]);
        for (nll, name) in [
            (NllTarget::Full, "nll_full"),
            (NllTarget::ResponseTokens, "nll_resp_tok"),
            (NllTarget::ResponseSequences, "nll_resp_seq"),
        ] {
            let metrics = forward(&decoder, &batch, &Objective::Orpo { beta: 0.1, nll }).unwrap();
            let want = reference["adapter_forward"][name].as_f64().unwrap();
            close(&format!("{family} {name}"), metrics.nll_loss, want, LOSS_TOLERANCE);
        }

        forward_backward(&decoder, &batch, &orpo(0.1)).unwrap();
        let file = dir.join("lora/grads_adapter_trl_lambda0.1.safetensors");
        let gradients = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        assert_eq!(decoder.trainable().len(), gradients.len());
        for param in decoder.trainable() {
            let error = relative_error(&param.slot().grad, &gradients[param.name()]);
            assert!(error < GRADIENT_TOLERANCE, "{family} {}: relative error {error:e}", param.name());
        }
        assert!(decoder.params().iter().all(|param| param.slot().grad.is_empty()), "frozen weights have no gradient");

        // Merged into the weights, the model is the same.
        let ids = batches(dir)[0][0].chosen.ids.clone();
        let logits = decoder.logits(&PackedRows::single(ids.clone())).unwrap();
        let merged = load(dir, Trained::Everything);
        for param in decoder.params() {
            let target = merged.params().iter().find(|other| other.name() == param.name()).unwrap();
            target.assign(&decoder.merged_weight(param).unwrap()).unwrap();
        }
        let merged = merged.logits(&PackedRows::single(ids)).unwrap();
        let difference = (logits - merged).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(difference < 1e-5, "{family}: merged logits differ by {difference}");

        let mut stabilised = lora(dir, "adapter");
        stabilised.config.use_rslora = true;
        let decoder = load(dir, Trained::Adapter(&stabilised));
        let want = &reference["rslora_forward"];
        close("scale", f64::from(stabilised.config.scale()), want["scaling"].as_f64().unwrap(), 1e-6);
        each_pair(&format!("{family} rslora"), &decoder, dir, want);
        let total = forward(&decoder, &batch, &orpo(0.1)).unwrap().loss;
        close(&format!("{family} rslora"), total, want["total_full@0.1"].as_f64().unwrap(), LOSS_TOLERANCE);
    });
}

#[test]
fn adapters_train_as_peft_does() {
    each_family(|family, dir| {
        let training = &read_json(&dir.join("lora/lora.json"))["training"];
        let setup = lora(dir, "init");
        for checkpointing in [false, true] {
            let decoder = load(dir, Trained::Adapter(&setup)).with_activation_checkpointing(checkpointing);
            let before = snapshot(&decoder);
            let curve = train(&decoder, dir, &training["hyperparameters"], 50, 1, |step| {
                let file = dir.join(format!("lora/delta_step{step}.safetensors"));
                if file.exists() {
                    assert_deltas(family, &decoder, &before, &file, &Value::Null, 5e-5);
                }
            });
            assert_curve(&format!("{family} adapter"), &curve, &training["curve"], 1e-3);
            let file = dir.join("lora/after_50_steps").join(ADAPTER_FILE);
            let after = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
            for param in decoder.trainable() {
                let error = relative_error(&values(&param), &after[param.name()]);
                assert!(error < 1e-2, "{family} {}: relative error {error:e}", param.name());
            }
        }
    });
}

/// The model quantised block by block must be near the unquantised one, and its adapter must learn.
#[test]
fn quantised_bases_are_near_and_train() {
    each_family(|family, dir| {
        let batch = collect(&batches(dir)[0]);
        let mut setup = lora(dir, "adapter");
        let exact = forward(&load(dir, Trained::Adapter(&setup)), &batch, &orpo(0.1)).unwrap().loss;
        setup.base = BaseStorage::Q8_0;
        let decoder = load(dir, Trained::Adapter(&setup));
        let quantised = forward(&decoder, &batch, &orpo(0.1)).unwrap().loss;
        close(family, quantised, exact, 5e-3);
        assert!(quantised != exact, "{family}: nothing was quantised");
        let hyper = &read_json(&dir.join("lora/lora.json"))["training"]["hyperparameters"];
        let curve = train(&decoder, dir, hyper, 50, 1, |_| {});
        assert!(curve[48].0 < curve[0].0 - 0.1, "{family}: {} to {}", curve[0].0, curve[48].0);
    });
}

#[test]
fn greedy_continuations() {
    each_family(|family, dir| {
        let reference = read_json(&dir.join("generation.json"));
        let eos = reference["eos_token_id"].as_u64().unwrap() as u32;
        for (run, cases) in reference["runs"].as_object().unwrap() {
            let setup = run.strip_prefix("lora/").map(|adapter| lora(dir, adapter));
            let decoder = load(dir, setup.as_ref().map_or(Trained::Nothing, Trained::Adapter));
            for case in cases.as_array().unwrap() {
                let ids = |name: &str| -> Vec<u32> { support::ids(&case[name]).iter().map(|id| *id as u32).collect() };
                let (prompt, want) = (ids("prompt_input_ids"), ids("output_ids"));
                // After a choice between two tokens that are equal to 1e-4 both ways are right.
                let sure = numbers(&case["margin"]).iter().take_while(|margin| **margin > 1e-4).count();
                let got = greedy(&decoder, &prompt, &[eos], sure.min(want.len())).unwrap();
                assert_eq!(got, want[..sure.min(want.len())], "{family} {run}");
            }
        }
    });
}
