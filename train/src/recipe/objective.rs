//! The recipe's loss keys, and what they mean together.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TrainingSection;
use crate::loss::{Divergence, Form, NllTarget, PairLoss};
use crate::step::Objective;

/// Which loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum ObjectiveKind {
    /// Odds ratio preference optimisation on pairs.
    #[default]
    Orpo,
    /// Plain next-token loss on documents.
    Sft,
    /// Likelihood and the odds ratio, with `beta` as a temperature instead of a weight.
    OrpoBeta,
    /// Likelihood and the probability ratio, the ablation of the ORPO paper.
    ProbabilityRatio,
    /// Likelihood and `beta` times ASFT's alignment term.
    Asft,
    /// Contrastive preference optimisation; its form is `loss_type`.
    Cpo,
    /// SimPO.
    Simpo,
    /// AlphaPO.
    #[serde(rename = "alphapo")]
    #[value(name = "alphapo")]
    AlphaPo,
    /// Direct preference optimisation against the starting model; its form is `loss_type`.
    Dpo,
}

/// Forms of the CPO and the DPO loss, under TRL's names where TRL has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// The logistic loss of the margin; with `label_smoothing` conservative DPO.
    #[default]
    Sigmoid,
    /// The hinge loss of the margin.
    Hinge,
    /// IPO on averages per token.
    Ipo,
    /// DPO only: IPO on sums, as its paper writes it.
    IpoSum,
    /// DPO only: the logistic loss of the margin of averages.
    SigmoidNorm,
    /// DPO only: robust to a known share of wrong labels.
    Robust,
    /// DPO only: EXO.
    ExoPair,
    /// DPO only: NCA.
    NcaPair,
    /// DPO only: BCO without its baseline.
    BcoPair,
    /// DPO only: SPPO with hard labels.
    SppoHard,
    /// DPO only: optimal transport of the batch's margins.
    Aot,
    /// DPO only: APO for chosen responses better than the model's.
    ApoZero,
    /// DPO only: APO for chosen responses worse than the model's.
    ApoDown,
    /// DPO only: DiscoPOP.
    Discopop,
    /// DPO only: DPO-Positive.
    Dpop,
    /// DPO only: Cal-DPO.
    CalDpo,
}

/// TRL's `f_divergence_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DivergenceType {
    /// Log-ratios as they are.
    #[default]
    ReverseKl,
    /// Forward Kullback-Leibler.
    ForwardKl,
    /// Jensen and Shannon's.
    JsDivergence,
    /// The alpha divergence, with `f_alpha_divergence_coef`.
    AlphaDivergence,
}

/// The loss that `section` asks for.
///
/// # Errors
/// A sentence about the first key that does not belong to the objective. Ranges are checked before.
pub(super) fn resolve(section: &TrainingSection) -> Result<Objective, String> {
    let mut keys = Keys::of(section);
    let beta = section.beta;
    let nll = |default| section.nll.unwrap_or(default);
    let (full, response) = (NllTarget::Full, NllTarget::ResponseTokens);
    let objective = match section.objective {
        ObjectiveKind::Sft if nll(full).is_authors() => {
            return Err("`training.nll` = \"authors\" is a way to score pairs; use \"full\" for documents".into());
        }
        ObjectiveKind::Sft => Objective::Sft { nll: nll(full) },
        ObjectiveKind::Orpo => Objective::Orpo { beta, nll: nll(full) },
        ObjectiveKind::OrpoBeta => Objective::pairs(PairLoss::free(Form::OrpoBeta, beta), 1.0, nll(full)),
        ObjectiveKind::ProbabilityRatio => {
            let lambda = keys.take("lambda", 1.0);
            Objective::pairs(PairLoss::free(Form::ProbabilityRatio { lambda }, beta), 1.0, nll(full))
        }
        ObjectiveKind::Asft => Objective::pairs(PairLoss::free(Form::Asft, beta), 1.0, nll(full)),
        ObjectiveKind::Cpo => {
            let form = match section.loss_type.unwrap_or_default() {
                LossType::Sigmoid => Form::Sigmoid { label_smoothing: keys.take("label_smoothing", 0.0) },
                LossType::Hinge => Form::Hinge,
                LossType::Ipo => Form::Ipo,
                other => return Err(format!("`training.loss_type` = {} needs objective \"dpo\"", name(&other))),
            };
            let weight = keys.take("cpo_alpha", 1.0);
            Objective::pairs(PairLoss::free(form, beta), weight, nll(response))
        }
        ObjectiveKind::Simpo | ObjectiveKind::AlphaPo => {
            let gamma = keys.take("simpo_gamma", 0.5);
            let label_smoothing = keys.take("label_smoothing", 0.0);
            let form = match section.objective {
                ObjectiveKind::Simpo => Form::Simpo { gamma, label_smoothing },
                _ => {
                    let alpha = keys.take("alpha", 0.0);
                    Form::AlphaPo { gamma, alpha, label_smoothing }
                }
            };
            let weight = keys.take("cpo_alpha", 0.0);
            Objective::pairs(PairLoss::free(form, beta), weight, nll(response))
        }
        ObjectiveKind::Dpo => {
            let loss_type = section.loss_type.unwrap_or_default();
            let form = dpo_form(loss_type, &mut keys)?;
            let divergence = divergence(section.f_divergence_type.unwrap_or_default(), loss_type, &mut keys)?;
            let weight = keys.take("rpo_alpha", 0.0);
            let loss = PairLoss { form, beta, reference: true, divergence };
            Objective::pairs(loss, weight, nll(response))
        }
    };
    let divides_by_beta =
        matches!(section.loss_type, Some(LossType::Ipo | LossType::IpoSum | LossType::SppoHard | LossType::CalDpo));
    if divides_by_beta && beta == 0.0 {
        return Err("`training.beta` must be above 0 for this `loss_type`".into());
    }
    keys.finish(section)?;
    Ok(objective)
}

fn dpo_form(loss_type: LossType, keys: &mut Keys) -> Result<Form, String> {
    Ok(match loss_type {
        LossType::Sigmoid => Form::Sigmoid { label_smoothing: keys.take("label_smoothing", 0.0) },
        LossType::Hinge => Form::Hinge,
        LossType::Ipo => Form::Ipo,
        LossType::IpoSum => Form::IpoSum,
        LossType::SigmoidNorm => Form::Simpo { gamma: 0.0, label_smoothing: 0.0 },
        LossType::Robust => Form::Robust { label_smoothing: keys.take("label_smoothing", 0.0) },
        LossType::ExoPair => {
            let label_smoothing = keys.take("label_smoothing", 1e-3);
            if label_smoothing == 0.0 {
                return Err("`training.label_smoothing` must be above 0 for \"exo_pair\"".into());
            }
            Form::ExoPair { label_smoothing }
        }
        LossType::NcaPair => Form::NcaPair,
        LossType::BcoPair => Form::BcoPair,
        LossType::SppoHard => Form::SppoHard,
        LossType::Aot => Form::Aot { label_smoothing: keys.take("label_smoothing", 0.0) },
        LossType::ApoZero => Form::ApoZero,
        LossType::ApoDown => Form::ApoDown,
        LossType::Discopop => Form::Discopop { tau: keys.take("discopop_tau", 0.05) },
        LossType::Dpop => Form::Dpop { lambda: keys.take("lambda", 50.0) },
        LossType::CalDpo => Form::CalDpo,
    })
}

/// The divergence, where the loss is one of differences of scores (TRL refuses the others, too).
fn divergence(kind: DivergenceType, loss_type: LossType, keys: &mut Keys) -> Result<Option<Divergence>, String> {
    use LossType as L;
    let of_differences = [L::Sigmoid, L::SigmoidNorm, L::Hinge, L::Ipo, L::ExoPair, L::Robust, L::Discopop];
    if kind != DivergenceType::ReverseKl && !of_differences.contains(&loss_type) {
        return Err(format!("`training.f_divergence_type` does not go with `loss_type` = {}", name(&loss_type)));
    }
    Ok(match kind {
        DivergenceType::ReverseKl => None,
        DivergenceType::ForwardKl => Some(Divergence::ForwardKl),
        DivergenceType::JsDivergence => Some(Divergence::JensenShannon),
        DivergenceType::AlphaDivergence => {
            let alpha = keys.take("f_alpha_divergence_coef", 0.5);
            // Its limit at 1 is the log-ratio itself.
            ((alpha - 1.0).abs() >= 1e-6).then_some(Divergence::Alpha(alpha))
        }
    })
}

fn name(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("a name")
}

/// The parameters that were given, each to be taken by the loss that has it.
struct Keys(Vec<(&'static str, f64)>);

impl Keys {
    fn of(section: &TrainingSection) -> Self {
        let given = [
            ("label_smoothing", section.label_smoothing),
            ("lambda", section.lambda),
            ("cpo_alpha", section.cpo_alpha),
            ("rpo_alpha", section.rpo_alpha),
            ("simpo_gamma", section.simpo_gamma),
            ("alpha", section.alpha),
            ("discopop_tau", section.discopop_tau),
            ("f_alpha_divergence_coef", section.f_alpha_divergence_coef),
        ];
        Self(given.into_iter().filter_map(|(key, value)| Some((key, value?))).collect())
    }

    fn take(&mut self, key: &str, default: f64) -> f64 {
        let at = self.0.iter().position(|(given, _)| *given == key);
        at.map_or(default, |at| self.0.remove(at).1)
    }

    /// Nothing may be left that the loss does not look at.
    fn finish(self, section: &TrainingSection) -> Result<(), String> {
        let paired = matches!(section.objective, ObjectiveKind::Cpo | ObjectiveKind::Dpo);
        let left = self.0.first().map(|(key, _)| *key);
        let left = left.or((section.loss_type.is_some() && !paired).then_some("loss_type"));
        let divergence = section.f_divergence_type.is_some() && section.objective != ObjectiveKind::Dpo;
        match left.or(divergence.then_some("f_divergence_type")) {
            None => Ok(()),
            Some(key) => Err(format!("`training.{key}` is not a parameter of objective {}", name(&section.objective))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(toml: &str) -> TrainingSection {
        toml::from_str(toml).unwrap()
    }

    #[test]
    fn objectives_and_their_defaults() {
        let resolve = |toml: &str| resolve(&section(toml)).unwrap();
        assert_eq!(resolve(""), Objective::Orpo { beta: 0.1, nll: NllTarget::Full });
        let simpo = Form::Simpo { gamma: 1.0, label_smoothing: 0.0 };
        assert_eq!(
            resolve("objective = \"simpo\"\nbeta = 2.0\nsimpo_gamma = 1.0"),
            Objective::pairs(PairLoss::free(simpo, 2.0), 0.0, NllTarget::ResponseTokens)
        );
        let cpo = Form::Sigmoid { label_smoothing: 0.1 };
        assert_eq!(
            resolve("objective = \"cpo\"\nlabel_smoothing = 0.1\nnll = \"full\""),
            Objective::pairs(PairLoss::free(cpo, 0.1), 1.0, NllTarget::Full)
        );
        let dpo = resolve("objective = \"dpo\"\nloss_type = \"ipo\"\nf_divergence_type = \"js_divergence\"");
        assert!(dpo.needs_reference());
        assert_eq!(resolve("objective = \"sft\""), Objective::Sft { nll: NllTarget::Full });
    }

    #[test]
    fn every_loss_type_has_a_form() {
        for loss_type in [
            "sigmoid",
            "hinge",
            "ipo",
            "ipo_sum",
            "sigmoid_norm",
            "robust",
            "exo_pair",
            "nca_pair",
            "bco_pair",
            "sppo_hard",
            "aot",
            "apo_zero",
            "apo_down",
            "discopop",
            "dpop",
            "cal_dpo",
        ] {
            let toml = format!("objective = \"dpo\"\nloss_type = \"{loss_type}\"");
            assert!(resolve(&section(&toml)).unwrap().needs_reference(), "{loss_type}");
        }
    }

    #[test]
    fn a_key_that_the_loss_does_not_look_at_is_refused() {
        for (toml, expected) in [
            ("simpo_gamma = 1.0", "`training.simpo_gamma` is not a parameter of objective \"orpo\""),
            ("objective = \"cpo\"\nrpo_alpha = 1.0", "rpo_alpha"),
            ("objective = \"simpo\"\nloss_type = \"ipo\"", "loss_type"),
            ("objective = \"cpo\"\nf_divergence_type = \"forward_kl\"", "f_divergence_type"),
            ("objective = \"cpo\"\nloss_type = \"nca_pair\"", "needs objective \"dpo\""),
            ("objective = \"dpo\"\nloss_type = \"aot\"\nf_divergence_type = \"forward_kl\"", "does not go with"),
            ("objective = \"dpo\"\nloss_type = \"exo_pair\"\nlabel_smoothing = 0.0", "above 0"),
            ("objective = \"cpo\"\nloss_type = \"ipo\"\nbeta = 0.0", "`training.beta` must be above 0"),
            ("objective = \"sft\"\nnll = \"authors\"", "a way to score pairs"),
        ] {
            let error = resolve(&section(toml)).unwrap_err();
            assert!(error.contains(expected), "{toml}: {error}");
        }
    }
}
