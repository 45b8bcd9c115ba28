//! Every architecture against numbers of the Python reference implementations (transformers 5.23 in float64, TRL 1.16,
//! peft 0.21), where the shared data is at hand. Tolerances are those of that data's README.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use orpo_model::adapter::{ADAPTER_FILE, BaseStorage, LoraConfig, LoraSetup};
use orpo_model::{Decoder, PackedRows, Param, Trained};
use orpo_train::generate::greedy;
use orpo_train::loss::{NllTarget, PreferenceMetrics};
use orpo_train::optim::{AdamW, AdamWConfig, Schedule, ScheduleKind};
use orpo_train::step::{Objective, forward, forward_backward};
use serde_json::Value;
use support::{
    batches, close, collect, each_family, load, numbers, orpo, read_json, relative_error, shared, tensor, values,
};

const LOGIT_TOLERANCE: f64 = 1e-4;
const LOSS_TOLERANCE: f64 = 2e-5;
const GRADIENT_TOLERANCE: f64 = 1e-4;

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

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
            let theirs = logits.narrow(0, row, sequence.ids.len()).unwrap().flatten_all().unwrap();
            let difference = largest_difference(ours.values(), &theirs.to_vec1().unwrap());
            assert!(f64::from(difference) < LOGIT_TOLERANCE, "{family}: logits differ by {difference}");
            row += sequence.ids.len();

            let predicting: Vec<u32> = (0..sequence.ids.len() as u32 - 1).collect();
            let hidden = decoder.hidden_states(&rows).unwrap();
            let scored = decoder.score(hidden, &predicting, &sequence.ids[1..], None).unwrap();
            for (at, logp) in scored.logps().iter().enumerate() {
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

fn adamw(hyper: &Value) -> AdamWConfig {
    let number = |name: &str| hyper[name].as_f64().unwrap();
    AdamWConfig {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: hyper["eps"].as_f64().unwrap_or(1e-8),
        weight_decay: number("weight_decay"),
        max_grad_norm: Some(number("max_grad_norm")),
    }
}

/// Trains as the reference did and returns the loss, gradient norm and rate of every step. Each step takes the mean over
/// `accumulation` parts of the next batch. `follow`, if there is one, looks at the gradients and at what becomes of them.
fn train(
    decoder: &Decoder,
    dir: &Path,
    hyper: &Value,
    total_steps: usize,
    accumulation: usize,
    mut follow: Option<&mut Follower<'_>>,
) -> Vec<(f64, f64, f64)> {
    let number = |name: &str| hyper[name].as_f64().unwrap();
    let config = adamw(hyper);
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
            if let Some(follower) = &mut follow {
                follower.before_step(rate, optimizer.grad_norm());
            }
            let norm = optimizer.step(rate, 1.0 / accumulation as f64).unwrap();
            if let Some(follower) = &mut follow {
                follower.after_step(step + 1);
            }
            (loss, norm, rate)
        })
        .collect()
}

/// Follows the first steps of a training and compares the weights with the reference's after some of them.
///
/// Adam divides a gradient by its own size, so that a gradient near 0 moves its weight by a full step in the direction
/// of its rounding error: no tolerance on the weights holds on every processor. Compared is therefore
/// - our weight with AdamW in float64 on our own gradients, up to the rounding of a 32-bit update, and
/// - the reference's weight with the same, up to what the rounding of our gradient can do to this element
///   ([`Steps::reach`]) and the share `tolerance` of the tensor's change, which is for the different weights that the
///   gradients of later steps are taken at; the first step has none.
struct Follower<'a> {
    family: &'a str,
    /// Of each trained weight.
    steps: Vec<Steps>,
    decoder: &'a Decoder,
    config: AdamWConfig,
    made: usize,
    /// Files of the reference: the weights' changes after some number of steps.
    file: &'a dyn Fn(usize) -> PathBuf,
    /// The relative error in each tensor that the reference's own loop in float32 has after five steps.
    float32: &'a Value,
}

/// Steps that are followed: the reference has no changes after more.
const FOLLOWED: usize = 5;

impl<'a> Follower<'a> {
    /// The gradient in the slots of `measured` and the reference's in the file beside it are of the same weights and
    /// batch: they tell how exact our gradients are on this processor.
    fn new(
        family: &'a str,
        (measured, gradients): (&Decoder, &Path),
        decoder: &'a Decoder,
        config: AdamWConfig,
        file: &'a dyn Fn(usize) -> PathBuf,
        float32: &'a Value,
    ) -> Self {
        let gradients = candle_core::safetensors::load(gradients, &Device::Cpu).unwrap();
        let followed = |(param, measured): (&Arc<Param>, &Arc<Param>)| {
            assert_eq!(param.name(), measured.name());
            let noise = largest_error(&measured.slot().grad, &gradients[param.name()]);
            Steps::new(&values(param), noise)
        };
        let steps = decoder.trainable().iter().zip(&measured.trainable()).map(followed).collect();
        Self { family, steps, decoder, config, made: 0, file, float32 }
    }

    fn before_step(&mut self, rate: f64, norm: f64) {
        self.made += 1;
        if self.made > FOLLOWED {
            return;
        }
        let clip = self.config.max_grad_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
        for (param, steps) in self.decoder.trainable().iter().zip(&mut self.steps) {
            let decay = if param.shape().len() > 1 { self.config.weight_decay } else { 0.0 };
            let config = AdamWConfig { weight_decay: decay, ..self.config };
            let gradient: Vec<f64> = param.slot().grad.iter().map(|g| f64::from(*g) * clip).collect();
            steps.make(&gradient, rate, &config);
        }
    }

    fn after_step(&self, made: usize) {
        if made > FOLLOWED {
            return;
        }
        for (param, steps) in self.decoder.trainable().iter().zip(&self.steps) {
            for (i, got) in values(param).iter().enumerate() {
                close(
                    &format!("{} {} element {i} after step {made}", self.family, param.name()),
                    f64::from(*got),
                    steps.weight[i],
                    steps.rounding[i],
                );
            }
        }
        let file = (self.file)(made);
        if !file.exists() {
            return;
        }
        let reference = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        assert_eq!(self.steps.len(), reference.len());
        for (param, steps) in self.decoder.trainable().iter().zip(&self.steps) {
            if without_effect(self.family, param.name()) {
                continue;
            }
            let tolerance = match made {
                // The reference's gradients, which tell the noise, are stored in 32 bits.
                1 => f64::from(f32::EPSILON),
                _ => 10.0 * self.float32[param.name()].as_f64().unwrap_or(0.0).max(5e-5),
            };
            let error = steps.error_out_of_reach(&reference[param.name()]);
            assert!(error <= tolerance, "{} in {}: relative error {error:e}", param.name(), file.display());
        }
    }
}

/// AdamW in float64 on a tensor, with the interval in which each element would be if the gradients had no rounding.
struct Steps {
    /// How far an element of the gradient is from the exact one at most, as a share of the tensor's norm.
    noise: f64,
    before: Vec<f64>,
    weight: Vec<f64>,
    moments: Vec<Moments>,
    made: i32,
    /// How far from `weight` the exact element may be.
    reach: Vec<f64>,
    /// The same for a 32-bit update with the same gradients.
    rounding: Vec<f64>,
}

/// First and second moment of an element: as computed, the radius of the first, and the bounds of the second.
#[derive(Clone, Default)]
struct Moments {
    first: f64,
    radius: f64,
    second: f64,
    lowest: f64,
    highest: f64,
}

impl Steps {
    fn new(weight: &[f32], noise: f64) -> Self {
        let weight: Vec<f64> = weight.iter().map(|w| f64::from(*w)).collect();
        let zeros = vec![0.0; weight.len()];
        let moments = vec![Moments::default(); weight.len()];
        Self { noise, before: weight.clone(), weight, moments, made: 0, reach: zeros.clone(), rounding: zeros }
    }

    fn make(&mut self, gradient: &[f64], rate: f64, config: &AdamWConfig) {
        let AdamWConfig { beta1, beta2, epsilon, weight_decay, .. } = *config;
        self.made += 1;
        let (first_share, second_share) = (1.0 - beta1.powi(self.made), 1.0 - beta2.powi(self.made));
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        for (i, g) in gradient.iter().enumerate() {
            // Nothing is added up where nothing flows: a token that is not in the batch, an adapter behind a zero.
            let radius = if *g == 0.0 { 0.0 } else { self.noise * norm };
            let mean = |old: f64, new: f64, beta: f64| beta * old + (1.0 - beta) * new;
            let m = &mut self.moments[i];
            *m = Moments {
                first: mean(m.first, *g, beta1),
                radius: mean(m.radius, radius, beta1),
                second: mean(m.second, g * g, beta2),
                lowest: mean(m.lowest, (g.abs() - radius).max(0.0).powi(2), beta2),
                highest: mean(m.highest, (g.abs() + radius).powi(2), beta2),
            };
            let update = |first: f64, second: f64| first / first_share / ((second / second_share).sqrt() + epsilon);
            let exact = update(m.first, m.second);
            let furthest = [m.first - m.radius, m.first + m.radius]
                .into_iter()
                .flat_map(|first| [update(first, m.lowest), update(first, m.highest)])
                .map(|bound| (bound - exact).abs())
                .fold(0.0, f64::max);
            self.reach[i] += rate * furthest;
            self.weight[i] -= rate * (weight_decay * self.weight[i] + exact);
            // The decay's factor, its product and the difference are each rounded to half the weight's last bit. The
            // update is about 1 at most, and takes a dozen operations on moments that are kept in 32 bits.
            let unit = f64::from(f32::EPSILON);
            self.rounding[i] += unit * (2.0 * self.weight[i].abs() + 16.0 * rate);
        }
    }

    /// The part of the distance from the reference's change that is out of every element's reach, relative to it.
    fn error_out_of_reach(&self, reference: &Tensor) -> f64 {
        let reference = reference.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(self.weight.len(), reference.len());
        let mut squares = (0.0, 0.0);
        for (i, want) in reference.iter().map(|want| f64::from(*want)).enumerate() {
            // The reference's changes are stored in 32 bits.
            let known = self.reach[i] + f64::from(f32::EPSILON) * want.abs();
            let error = (self.weight[i] - self.before[i] - want).abs() - known;
            squares.0 += error.max(0.0).powi(2);
            squares.1 += want * want;
        }
        if squares.0 == 0.0 { 0.0 } else { (squares.0 / squares.1).sqrt() }
    }
}

/// The largest error of an element, as a share of the tensor's norm.
fn largest_error(ours: &[f32], theirs: &Tensor) -> f64 {
    let theirs = theirs.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(ours.len(), theirs.len());
    let norm = theirs.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
    let errors = ours.iter().zip(&theirs).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
    errors.fold(0.0, f64::max) / norm
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

/// The decoder with the gradient of the first batch in its slots.
fn with_gradient(decoder: Decoder, dir: &Path, beta: f64) -> Decoder {
    forward_backward(&decoder, &collect(&batches(dir)[0]), &orpo(beta)).unwrap();
    decoder
}

#[test]
fn training_curves_and_steps() {
    each_family(|family, dir| {
        let training = read_json(&dir.join("training.json"));
        // Run A: loss 1e-3 over 50 steps, run B: 1e-4.
        for (run, beta, curve_tolerance) in [("A", "0.1", 1e-3), ("B", "1.0", 1e-4)] {
            let hyper = &training[run]["hyperparameters"];
            let float32 = &training[run]["float32_same_loop_delta_step5_relative_error"];
            let decoder = load(dir, Trained::Everything);
            let measured = with_gradient(load(dir, Trained::Everything), dir, beta.parse().unwrap());
            let gradients = dir.join(format!("grads_trl_lambda{beta}.safetensors"));
            let file = |step: usize| dir.join(format!("delta_run{run}_step{step}.safetensors"));
            let mut follower = Follower::new(family, (&measured, &gradients), &decoder, adamw(hyper), &file, float32);
            let curve = train(&decoder, dir, hyper, 50, 1, Some(&mut follower));
            assert_curve(&format!("{family} run {run}"), &curve, &training[run]["curve"], curve_tolerance);
        }
        let decoder = load(dir, Trained::Everything);
        let curve = train(&decoder, dir, &training["A"]["hyperparameters"], 20, 2, None);
        assert_curve(&format!("{family} run C"), &curve, &training["C_accumulate_2"]["curve"], 1e-3);
    });
}

/// Gradients that differ by as much as their rounding allows lead to weights within the reach that is derived from it,
/// also where a gradient is nothing but rounding; and a larger difference is out of reach.
#[test]
fn the_reach_of_a_step_is_that_of_its_gradients_rounding() {
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    let config = AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, max_grad_norm: None };
    let weight: Vec<f32> = (0..64).map(|_| random() as f32).collect();
    for noise in [1e-7, 1e-5, 1e-3] {
        let (mut ours, mut theirs) = (Steps::new(&weight, noise), Steps::new(&weight, noise));
        for _ in 0..FOLLOWED {
            // Sizes over ten decades, so that some are below their rounding, and some below epsilon.
            let exact: Vec<f64> = (0..64).map(|i| random() * 10f64.powi(-(i % 10))).collect();
            let norm = exact.iter().map(|g| g * g).sum::<f64>().sqrt();
            let rounded: Vec<f64> = exact.iter().map(|g| g + 0.9 * noise * norm * random()).collect();
            ours.make(&rounded, 1e-3, &config);
            theirs.make(&exact, 1e-3, &config);
        }
        let distance = |i: usize| (ours.weight[i] - theirs.weight[i]).abs();
        assert!((0..64).all(|i| distance(i) <= ours.reach[i] * (1.0 + 1e-9)), "{noise}");
        let moved: f64 = (0..64).map(distance).fold(0.0, f64::max);
        assert!(noise < 1e-6 || moved > 1e-4, "a gradient that is rounding moves its weight: {moved}");
        // What is well above its rounding is bounded closely.
        assert!(ours.reach[0] < 50.0 * noise * 1e-3 * FOLLOWED as f64, "{}", ours.reach[0]);
        let change: Vec<f32> = (0..64).map(|i| (theirs.weight[i] - theirs.before[i]) as f32).collect();
        let reference = Tensor::new(change.as_slice(), &Device::Cpu).unwrap();
        assert_eq!(ours.error_out_of_reach(&reference), 0.0);
        let turned = reference.affine(1.01, 0.0).unwrap();
        assert!(ours.error_out_of_reach(&turned) > 1e-3, "{noise}");
    }
}

/// AdamW on given gradients against torch in float64.
#[test]
fn adamw_on_given_gradients() {
    let Some(path) = shared("train/golden/optimizers/optimizers.json") else { return };
    let reference = read_json(&path);
    let mut compared = 0;
    for case in reference["cases"].as_array().unwrap() {
        let params = &case["params"];
        if !case["name"].as_str().unwrap().starts_with("adamw") {
            continue;
        }
        let number = |name: &str| params[name].as_f64().unwrap();
        let config = AdamWConfig {
            beta1: params["betas"][0].as_f64().unwrap(),
            beta2: params["betas"][1].as_f64().unwrap(),
            epsilon: number("eps"),
            weight_decay: number("weight_decay"),
            max_grad_norm: None,
        };
        let initial = |name: &str, shape: &[usize]| {
            let values: Vec<f32> = numbers(&reference["initial"][name]).iter().map(|x| *x as f32).collect();
            Param::trainable(name, shape, values)
        };
        let tensors = [initial("w", &[2, 3]), initial("b", &[3])];
        let mut optimizer = AdamW::new(&tensors, config, 0);
        for (step, gradient) in reference["gradients"].as_array().unwrap().iter().enumerate() {
            for param in &tensors {
                let values: Vec<f32> = numbers(&gradient[param.name()]).iter().map(|x| *x as f32).collect();
                param.slot().grad.copy_from_slice(&values);
            }
            optimizer.step(number("lr"), 1.0).unwrap();
            for param in &tensors {
                let want = numbers(&case["float64"][step][param.name()]);
                for (got, want) in values(param).iter().zip(want) {
                    close(&format!("{} step {step} {}", case["name"], param.name()), f64::from(*got), want, 2e-6);
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 0, "there are cases of AdamW");
}

fn lora(dir: &Path, adapter: &str) -> LoraSetup {
    LoraSetup::from_dir(&dir.join("lora").join(adapter)).unwrap()
}

/// Where B is 0, its gradient is that of the weight, `scale dW A^T`; and that of A is 0.
#[test]
fn adapters_of_the_projections_into_and_out_of_the_blocks() {
    let Some(dir) = shared("train/golden/opt350") else { return };
    let batch = collect(&batches(&dir)[0]);
    let config = LoraConfig::new(4, 6.0, ["project_in", "project_out"]);
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
        let a = tensor(side("lora_A"));
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
        let difference = largest_difference(logits.values(), merged.values());
        assert!(difference < 1e-5, "{family}: merged logits differ by {difference}");

        let mut stabilised = lora(dir, "adapter");
        stabilised.config.use_rslora = true;
        let decoder = load(dir, Trained::Adapter(&stabilised));
        let want = &reference["rslora_forward"];
        close("scale", f64::from(stabilised.config.scale("")), want["scaling"].as_f64().unwrap(), 1e-6);
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
            let hyper = &training["hyperparameters"];
            let decoder = load(dir, Trained::Adapter(&setup)).with_activation_checkpointing(checkpointing);
            let measured = with_gradient(load(dir, Trained::Adapter(&lora(dir, "adapter"))), dir, 0.1);
            let gradients = dir.join("lora/grads_adapter_trl_lambda0.1.safetensors");
            let file = |step: usize| dir.join(format!("lora/delta_step{step}.safetensors"));
            let mut follower =
                Follower::new(family, (&measured, &gradients), &decoder, adamw(hyper), &file, &Value::Null);
            let curve = train(&decoder, dir, hyper, 50, 1, Some(&mut follower));
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
        let curve = train(&decoder, dir, hyper, 50, 1, None);
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
