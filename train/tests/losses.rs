//! Losses, schedules and truncation rules against the numbers of the Python reference implementations (TRL 1.16,
//! transformers 5.23, in float64; the odds ratio's edges in 80 digits).

mod support;

use orpo_train::data::{Kept, Limits, Truncation};
use orpo_train::loss::{
    Divergence, Form, NllTarget, Pair, PairLoss, PairTerm, Response, kto, kto_baseline, mmpo, mmpo_odds, nll_weights,
    odds_ratio, odpo,
};
use orpo_train::optim::{Schedule, ScheduleKind, ScheduleOptions};
use proptest::prelude::*;
use serde_json::Value;
use support::{close, read_json, shared};

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// The six pairs that every case is about.
struct Inputs {
    pairs: Vec<Pair>,
    references: Vec<(f64, f64)>,
    score_margins: Vec<f64>,
    mismatched_ratios: Vec<f64>,
}

impl Inputs {
    fn of(value: &Value) -> Self {
        let zip =
            |a: &str, b: &str| -> Vec<(f64, f64)> { numbers(&value[a]).into_iter().zip(numbers(&value[b])).collect() };
        let responses = |logps: &str, tokens: &str| -> Vec<Response> {
            zip(logps, tokens).into_iter().map(|(logp, tokens)| Response { logp, tokens }).collect()
        };
        let sides = responses("chosen_logps", "chosen_tokens").into_iter();
        let pairs = sides.zip(responses("rejected_logps", "rejected_tokens"));
        Self {
            pairs: pairs.map(|(chosen, rejected)| Pair { chosen, rejected }).collect(),
            references: zip("ref_chosen_logps", "ref_rejected_logps"),
            score_margins: zip("score_chosen", "score_rejected").into_iter().map(|(w, l)| w - l).collect(),
            mismatched_ratios: zip("kl_policy_logps", "kl_ref_logps").into_iter().map(|(p, r)| p - r).collect(),
        }
    }

    fn ratios(&self) -> Vec<Pair> {
        self.pairs.iter().zip(&self.references).map(|(pair, reference)| pair.relative_to(*reference)).collect()
    }

    /// The mean negative log-likelihood of the chosen responses as terms whose mean it is.
    fn likelihood(&self, target: NllTarget) -> Vec<PairTerm> {
        let lengths: Vec<(usize, usize)> = self.pairs.iter().map(|pair| (0, pair.chosen.tokens as usize)).collect();
        let count = self.pairs.len() as f64;
        let term = |(pair, (_, weight)): (&Pair, (f64, f64))| PairTerm {
            loss: -weight * count * pair.chosen.logp,
            grad_chosen: -weight * count,
            grad_rejected: 0.0,
        };
        self.pairs.iter().zip(nll_weights(&lengths, target)).map(term).collect()
    }

    /// The terms of a case, or nothing where it is none of this program's losses.
    fn terms(&self, name: &str, params: &Value) -> Option<Vec<PairTerm>> {
        let number = |name: &str| params[name].as_f64().unwrap_or_else(|| panic!("no parameter {name} in {params}"));
        let free = |form: Form, beta: &str| PairLoss::free(form, number(beta)).terms(&self.pairs, &[]);
        let referenced = |form: Form, beta: &str, divergence: Option<Divergence>| {
            let loss = PairLoss { form, beta: number(beta), reference: true, divergence };
            loss.terms(&self.pairs, &self.references)
        };
        let against = |form: Form| referenced(form, "beta", None);
        let label_smoothing = params["label_smoothing"].as_f64().unwrap_or(0.0);
        let scored = |pairs: &[Pair], term: &dyn Fn(&Pair, f64) -> PairTerm| -> Vec<PairTerm> {
            pairs.iter().zip(&self.score_margins).map(|(pair, margin)| term(pair, *margin)).collect()
        };
        let plain = Form::Sigmoid { label_smoothing: 0.0 };
        Some(match name {
            "orpo_odds_term" => free(Form::Orpo, "lambda"),
            "orpo_response_nll_seq_mean" => {
                let odds = free(Form::Orpo, "lambda");
                self.likelihood(NllTarget::ResponseSequences).into_iter().zip(odds).map(|(a, b)| sum(a, b)).collect()
            }
            "orpo_beta" => free(Form::OrpoBeta, "beta"),
            "probability_ratio" => free(Form::ProbabilityRatio { lambda: number("lambda") }, "beta"),
            "asft" => free(Form::Asft, "lambda"),
            "sft_seq_mean" => self.likelihood(NllTarget::ResponseSequences),
            "sft_token_mean" => self.likelihood(NllTarget::ResponseTokens),
            "cpo" => free(Form::Sigmoid { label_smoothing }, "beta"),
            "cpo_hinge" => free(Form::Hinge, "beta"),
            "cpo_ipo" => free(Form::Ipo, "beta"),
            "simpo" => free(Form::Simpo { gamma: number("gamma"), label_smoothing }, "beta"),
            "alphapo" => {
                free(Form::AlphaPo { gamma: number("gamma"), alpha: number("alpha"), label_smoothing }, "beta")
            }
            "dpo" | "cdpo" => against(Form::Sigmoid { label_smoothing }),
            "robust_dpo" => against(Form::Robust { label_smoothing }),
            "dpo_hinge" => against(Form::Hinge),
            "ipo_length_normalised" => against(Form::Ipo),
            "ipo_sum" => referenced(Form::IpoSum, "tau", None),
            "dpo_length_normalised" => against(Form::Simpo { gamma: 0.0, label_smoothing }),
            "sppo_hard" => against(Form::SppoHard),
            "nca_pair" => against(Form::NcaPair),
            "bco_pair" => against(Form::BcoPair),
            "exo_pair" => against(Form::ExoPair { label_smoothing }),
            "apo_zero" => against(Form::ApoZero),
            "apo_down" => against(Form::ApoDown),
            "discopop" => against(Form::Discopop { tau: number("tau") }),
            "aot" => against(Form::Aot { label_smoothing }),
            "dpop" => against(Form::Dpop { lambda: number("lambda") }),
            "cal_dpo" => against(Form::CalDpo),
            "fdpo_forward_kl" => referenced(plain, "beta", Some(Divergence::ForwardKl)),
            "fdpo_js_divergence" => referenced(plain, "beta", Some(Divergence::JensenShannon)),
            "fdpo_alpha_divergence" => referenced(plain, "beta", Some(Divergence::Alpha(number("alpha")))),
            "mmpo" => scored(&self.ratios(), &|pair, margin| mmpo(pair, margin, number("beta"), number("gamma"))),
            "mmpo_odds" => scored(&self.pairs, &|pair, margin| mmpo_odds(pair, margin, number("gamma"))),
            "odpo" => scored(&self.ratios(), &|pair, margin| odpo(pair, margin, number("beta"), number("alpha"))),
            "kto" => {
                let baseline = kto_baseline(&self.mismatched_ratios);
                close("kto baseline", baseline, number("z0"), 1e-12);
                let (desirable, undesirable) = (number("desirable_weight"), number("undesirable_weight"));
                // The mean over both responses of all pairs.
                let term = |pair: &Pair| {
                    let (good, grad_good) = kto(pair.chosen.logp, baseline, number("beta"), true);
                    let (bad, grad_bad) = kto(pair.rejected.logp, baseline, number("beta"), false);
                    PairTerm {
                        loss: (desirable * good + undesirable * bad) / 2.0,
                        grad_chosen: desirable * grad_good / 2.0,
                        grad_rejected: undesirable * grad_bad / 2.0,
                    }
                };
                self.ratios().iter().map(term).collect()
            }
            _ => return None,
        })
    }
}

fn sum(a: PairTerm, b: PairTerm) -> PairTerm {
    PairTerm {
        loss: a.loss + b.loss,
        grad_chosen: a.grad_chosen + b.grad_chosen,
        grad_rejected: a.grad_rejected + b.grad_rejected,
    }
}

#[test]
fn every_loss_equals_its_reference() {
    let Some(path) = shared("train/golden/losses/losses.json") else { return };
    let file = read_json(&path);
    let inputs = Inputs::of(&file["inputs"]);
    let cases = file["losses"].as_array().unwrap();
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let terms = inputs.terms(name, &case["params"]).unwrap_or_else(|| panic!("no loss {name}"));
        let count = terms.len() as f64;
        let relative = |what: &str, got: f64, want: f64| {
            close(&format!("{what} of {name} {}", case["params"]), got, want, 1e-9 * want.abs().max(1e-12));
        };
        relative("mean", terms.iter().map(|term| term.loss).sum::<f64>() / count, case["mean"].as_f64().unwrap());
        for (i, (grad_chosen, grad_rejected)) in
            numbers(&case["grad_chosen_logps"]).into_iter().zip(numbers(&case["grad_rejected_logps"])).enumerate()
        {
            relative("grad_chosen_logps", terms[i].grad_chosen / count, grad_chosen);
            relative("grad_rejected_logps", terms[i].grad_rejected / count, grad_rejected);
        }
        let mut losses: Vec<(f64, f64)> =
            inputs.pairs.iter().zip(&terms).map(|(pair, term)| (pair.margin(), term.loss)).collect();
        if name == "aot" {
            // The reference lists them in the order of the margins.
            losses.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        let mut per_pair = numbers(&case["per_pair"]);
        if name == "sft_token_mean" {
            // A mean over tokens has no value per pair; the reference repeats the mean.
            let mean = case["mean"].as_f64().unwrap();
            per_pair = per_pair.into_iter().map(|value| value / mean).collect();
            losses = losses.into_iter().map(|_| (0.0, 1.0)).collect();
        }
        for ((_, got), want) in losses.into_iter().zip(per_pair) {
            relative("per_pair", got, want);
        }
    }
    println!("{} cases", cases.len());
}

/// Every loss that a recipe can ask for.
fn choices(beta: f64) -> Vec<PairLoss> {
    let label_smoothing = 0.1;
    let free = [
        Form::Orpo,
        Form::OrpoBeta,
        Form::ProbabilityRatio { lambda: 0.7 },
        Form::Asft,
        Form::Sigmoid { label_smoothing },
        Form::Hinge,
        Form::Ipo,
        Form::Simpo { gamma: 0.3, label_smoothing },
        Form::AlphaPo { gamma: 0.3, alpha: 0.25, label_smoothing },
    ];
    let of_ratios = [
        Form::IpoSum,
        Form::SppoHard,
        Form::CalDpo,
        Form::NcaPair,
        Form::BcoPair,
        Form::ApoZero,
        Form::ApoDown,
        Form::Dpop { lambda: 2.0 },
        Form::Aot { label_smoothing },
    ];
    let of_differences = [
        Form::Sigmoid { label_smoothing },
        Form::Hinge,
        Form::Ipo,
        Form::Simpo { gamma: 0.0, label_smoothing: 0.0 },
        Form::Robust { label_smoothing },
        Form::ExoPair { label_smoothing },
        Form::Discopop { tau: 0.5 },
    ];
    let against = |form, divergence| PairLoss { form, beta, reference: true, divergence };
    let mut choices: Vec<PairLoss> = free.into_iter().map(|form| PairLoss::free(form, beta)).collect();
    choices.extend(of_ratios.map(|form| against(form, None)));
    for divergence in [None, Some(Divergence::ForwardKl), Some(Divergence::JensenShannon), Some(Divergence::Alpha(0.5))]
    {
        choices.extend(of_differences.map(|form| against(form, divergence)));
    }
    choices
}

fn pair(chosen: f64, rejected: f64) -> Pair {
    Pair { chosen: Response { logp: chosen, tokens: 3.0 }, rejected: Response { logp: rejected, tokens: 5.0 } }
}

const GRAD_CHOSEN: fn(&PairTerm) -> f64 = |term| term.grad_chosen;
const GRAD_REJECTED: fn(&PairTerm) -> f64 = |term| term.grad_rejected;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn gradients_equal_difference_quotients(
        chosen in -4.0..-0.1, rejected in -4.0..-0.1, reference in (-4.0..-0.1, -4.0..-0.1),
    ) {
        for loss in choices(0.4) {
            let term = |chosen, rejected| loss.terms(&[pair(chosen, rejected)], &[reference])[0];
            let here = term(chosen, rejected);
            let h = 1e-5;
            for (by, of) in [((h, 0.0), GRAD_CHOSEN), ((0.0, h), GRAD_REJECTED)] {
                let (up, down) = (term(chosen + by.0, rejected + by.1), term(chosen - by.0, rejected - by.1));
                let (got, slopes) = (of(&here), (of(&up), of(&down)));
                // The quotient lies between the slopes at both ends, also where there is a corner between them.
                let quotient = (up.loss - down.loss) / (2.0 * h);
                let tolerance = 1e-5 * (1.0 + got.abs()) + (slopes.0 - slopes.1).abs();
                prop_assert!((got - quotient).abs() <= tolerance, "{loss:?}: {got}, quotient {quotient}");
            }
        }
    }
}

#[test]
fn nothing_is_nan_for_probabilities_near_one_and_near_zero() {
    let ends = [0.0, -1e-300, -1e-12, -1.0, -800.0, -1e5];
    for loss in [0.1, 10.0].into_iter().flat_map(choices) {
        for (chosen, rejected) in ends.iter().flat_map(|a| ends.map(|b| (*a, b))) {
            let term = loss.terms(&[pair(chosen, rejected)], &[(-3.0, -5.0)])[0];
            let all = [term.loss, term.grad_chosen, term.grad_rejected];
            assert!(all.iter().all(|x| x.is_finite()), "{loss:?} {chosen} {rejected}: {term:?}");
        }
    }
}

#[test]
fn odds_ratio_at_the_edges() {
    let Some(path) = shared("train/golden/losses/orpo_edge_cases.json") else { return };
    for case in read_json(&path).as_array().unwrap() {
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
    for (name, case) in read_json(&path).as_object().unwrap() {
        let kind: ScheduleKind = serde_json::from_value(case["name"].clone()).unwrap();
        let options: ScheduleOptions = serde_json::from_value(case["extra"].clone()).unwrap();
        let count = |name: &str| case[name].as_u64().unwrap() as usize;
        let schedule = Schedule {
            kind,
            options,
            learning_rate: case["base_lr"].as_f64().unwrap(),
            warmup_steps: count("warmup_steps"),
            total_steps: count("total_steps"),
        };
        let rates = numbers(&case["lr_used_at_step_1..N"]);
        assert_eq!(rates.len(), schedule.total_steps);
        for (step, want) in rates.into_iter().enumerate() {
            close(&format!("{name} step {}", step + 1), schedule.rate(step), want, 1e-15);
        }
    }
}

#[test]
fn truncation_rules() {
    let Some(path) = shared("train/golden/losses/truncation.json") else { return };
    for case in read_json(&path).as_array().unwrap() {
        let count = |name: &str| case[name].as_u64().unwrap() as usize;
        let limits = Limits { max_length: count("max_length"), max_prompt_length: count("max_prompt_length") };
        let by_mode: Truncation = serde_json::from_value(case["truncation_mode"].clone()).unwrap();
        let (prompt, chosen, rejected) = (count("prompt_tokens"), count("chosen_tokens"), count("rejected_tokens"));
        for (reference, rule) in [
            ("trl_1.16", Truncation::Response),
            ("trl_0.8_to_0.26", by_mode),
            ("llama_factory", Truncation::Proportional),
        ] {
            let range = |name: &str| {
                let bounds = numbers(&case[reference][name]);
                bounds[0] as usize..bounds[1] as usize
            };
            for (response, kept) in [(chosen, "chosen_kept"), (rejected, "rejected_kept")] {
                let want = Kept { prompt: range("prompt_kept"), response: range(kept).end };
                assert_eq!(range(kept).start, 0);
                assert_eq!(rule.keep(limits, prompt, response, chosen.max(rejected)), want, "{reference}: {case}");
            }
        }
    }
}
