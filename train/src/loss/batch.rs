//! A batch's loss from the log-probabilities of its tokens.

use std::ops::Range;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::form::{Form, PairLoss};
use super::odds_ratio;
use super::pair::{Pair, Response};

/// Where a pair's log-probabilities stand in the batch's list.
#[derive(Debug, Clone, PartialEq)]
pub struct PairSpans {
    /// Tokens of the prompt, from the second on (nothing predicts the first).
    pub prompt: Range<usize>,
    /// Tokens of the chosen response.
    pub chosen: Range<usize>,
    /// Tokens of the rejected response; empty for next-token training.
    pub rejected: Range<usize>,
    /// How many of the last tokens of `chosen` the negative log-likelihood leaves out: none, but in the authors'
    /// convention.
    pub unlearnt: usize,
}

impl PairSpans {
    /// The tokens of the chosen response that the negative log-likelihood looks at.
    fn learnt(&self) -> Range<usize> {
        self.chosen.start..self.chosen.end - self.unlearnt
    }

    /// Sums and lengths of both responses.
    fn pair(&self, logps: &[f32]) -> Pair {
        let response = |span: &Range<usize>| Response { logp: sum(logps, span), tokens: span.len() as f64 };
        Pair { chosen: response(&self.chosen), rejected: response(&self.rejected) }
    }
}

/// Which tokens the negative log-likelihood term averages over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum NllTarget {
    /// All prompt and chosen tokens of the micro-batch together (TRL).
    #[default]
    Full,
    /// All chosen response tokens of the micro-batch together.
    ResponseTokens,
    /// The mean over pairs of each chosen response's own mean (LLaMA-Factory).
    ResponseSequences,
    /// As `Full`, but without any EOS; the average log-probabilities of the responses then also count the padding
    /// token (an EOS) that follows them (the ORPO authors' code).
    Authors,
    /// As `Authors`, the likelihood over the response alone (the authors' option to leave out the prompt).
    AuthorsResponse,
}

impl NllTarget {
    /// Whether examples are to be scored in the authors' convention.
    pub fn is_authors(self) -> bool {
        matches!(self, Self::Authors | Self::AuthorsResponse)
    }
}

/// Means over the pairs of a batch, under TRL's names.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct PreferenceMetrics {
    /// The loss itself.
    pub loss: f64,
    /// The negative log-likelihood term.
    pub nll_loss: f64,
    /// Mean of `log sigmoid(log_odds)`.
    pub log_odds_ratio: f64,
    /// Mean of the log odds.
    pub log_odds_chosen: f64,
    /// `beta` times the mean average log-probability of the chosen responses.
    #[serde(rename = "rewards/chosen")]
    pub rewards_chosen: f64,
    /// The same for the rejected responses.
    #[serde(rename = "rewards/rejected")]
    pub rewards_rejected: f64,
    /// Share of pairs whose chosen response has the higher average log-probability.
    #[serde(rename = "rewards/accuracies")]
    pub rewards_accuracies: f64,
    /// `rewards/chosen - rewards/rejected`.
    #[serde(rename = "rewards/margins")]
    pub rewards_margins: f64,
    /// Mean average log-probability of the chosen responses.
    #[serde(rename = "logps/chosen")]
    pub logps_chosen: f64,
    /// The same for the rejected responses.
    #[serde(rename = "logps/rejected")]
    pub logps_rejected: f64,
}

impl PreferenceMetrics {
    /// The mean of several batches' metrics, each with its weight.
    pub fn weighted_mean(parts: &[(Self, f64)]) -> Self {
        let total: f64 = parts.iter().map(|(_, weight)| weight).sum();
        let mean = |field: fn(&Self) -> f64| parts.iter().map(|(m, w)| field(m) * w).sum::<f64>() / total;
        Self {
            loss: mean(|m| m.loss),
            nll_loss: mean(|m| m.nll_loss),
            log_odds_ratio: mean(|m| m.log_odds_ratio),
            log_odds_chosen: mean(|m| m.log_odds_chosen),
            rewards_chosen: mean(|m| m.rewards_chosen),
            rewards_rejected: mean(|m| m.rewards_rejected),
            rewards_accuracies: mean(|m| m.rewards_accuracies),
            rewards_margins: mean(|m| m.rewards_margins),
            logps_chosen: mean(|m| m.logps_chosen),
            logps_rejected: mean(|m| m.logps_rejected),
        }
    }
}

/// A loss with its gradient.
#[derive(Debug, Clone)]
pub struct LossOutput<M> {
    /// Derivative with respect to each log-probability, in the order of the list.
    pub grad: Vec<f32>,
    /// The loss and what is logged beside it.
    pub metrics: M,
}

/// `nll + beta * mean(-log sigmoid(log_odds))` (equation 6 with the paper's lambda called `beta`, as TRL does).
///
/// Every pair must have at least one chosen and one rejected token.
pub fn preference(logps: &[f32], pairs: &[PairSpans], beta: f64, target: NllTarget) -> LossOutput<PreferenceMetrics> {
    pairwise(logps, pairs, &[], &PairLoss::free(Form::Orpo, beta), 1.0, target)
}

/// `nll_weight * nll + mean(loss)`. `references` are the reference model's sums over the chosen and the rejected response
/// of each pair, where the loss looks at them. Metrics are those that TRL's trainer of that loss logs.
///
/// Every pair must have at least one chosen and one rejected token.
pub fn pairwise(
    logps: &[f32],
    spans: &[PairSpans],
    references: &[(f64, f64)],
    loss: &PairLoss,
    nll_weight: f64,
    target: NllTarget,
) -> LossOutput<PreferenceMetrics> {
    let mut grad = vec![0f64; logps.len()];
    let nll_loss = nll(logps, spans, target, nll_weight, &mut grad);
    let count = spans.len() as f64;
    let pairs: Vec<Pair> = spans.iter().map(|spans| spans.pair(logps)).collect();
    let mut pair_loss = 0.0;
    for (spans, term) in spans.iter().zip(loss.terms(&pairs, references)) {
        pair_loss += term.loss / count;
        add(&mut grad, &spans.chosen, term.grad_chosen / count);
        add(&mut grad, &spans.rejected, term.grad_rejected / count);
    }
    let metrics =
        PreferenceMetrics { loss: nll_weight * nll_loss + pair_loss, nll_loss, ..measure(&pairs, references, loss) };
    LossOutput { grad: grad.into_iter().map(|g| g as f32).collect(), metrics }
}

/// What is logged about pairs beside the loss.
fn measure(pairs: &[Pair], references: &[(f64, f64)], loss: &PairLoss) -> PreferenceMetrics {
    let count = pairs.len() as f64;
    let mut sums = PreferenceMetrics::default();
    let mut wins = 0;
    for (i, pair) in pairs.iter().enumerate() {
        let odds = odds_ratio(pair.chosen.mean(), pair.rejected.mean());
        sums.log_odds_ratio += odds.log_sigmoid / count;
        sums.log_odds_chosen += odds.log_odds / count;
        let logged = |response: &Response| if loss.averages() { response.mean() } else { response.logp };
        sums.logps_chosen += logged(&pair.chosen) / count;
        sums.logps_rejected += logged(&pair.rejected) / count;
        let compared = if loss.reference { pair.relative_to(references[i]) } else { *pair };
        let (chosen, rejected) = (loss.score(&compared.chosen), loss.score(&compared.rejected));
        sums.rewards_chosen += loss.beta * chosen / count;
        sums.rewards_rejected += loss.beta * rejected / count;
        wins += usize::from(chosen > rejected);
    }
    PreferenceMetrics {
        rewards_accuracies: wins as f64 / count,
        rewards_margins: sums.rewards_chosen - sums.rewards_rejected,
        ..sums
    }
}

/// The negative log-likelihood alone.
pub fn next_token(logps: &[f32], pairs: &[PairSpans], target: NllTarget) -> LossOutput<f64> {
    let mut grad = vec![0f64; logps.len()];
    let loss = nll(logps, pairs, target, 1.0, &mut grad);
    LossOutput { grad: grad.into_iter().map(|g| g as f32).collect(), metrics: loss }
}

/// The mean negative log-likelihood; `weight` times its derivative is added to `grad`.
fn nll(logps: &[f32], pairs: &[PairSpans], target: NllTarget, weight: f64, grad: &mut [f64]) -> f64 {
    let lengths: Vec<(usize, usize)> = pairs.iter().map(|p| (p.prompt.len(), p.learnt().len())).collect();
    let mut loss = 0.0;
    for (pair, (prompt, response)) in pairs.iter().zip(nll_weights(&lengths, target)) {
        for (span, share) in [(&pair.prompt, prompt), (&pair.learnt(), response)] {
            // An empty span has no share, and none of its own mean either.
            if share > 0.0 && !span.is_empty() {
                loss -= share * sum(logps, span);
                add(grad, span, -weight * share);
            }
        }
    }
    loss
}

/// The weights of one prompt token and of one response token of each pair in the mean, from the numbers of both.
pub fn nll_weights(lengths: &[(usize, usize)], target: NllTarget) -> Vec<(f64, f64)> {
    let prompts = lengths.iter().map(|(prompt, _)| prompt).sum::<usize>() as f64;
    let responses = lengths.iter().map(|(_, response)| response).sum::<usize>() as f64;
    let weights = |(_, response): &(usize, usize)| match target {
        NllTarget::Full | NllTarget::Authors => (1.0 / (prompts + responses), 1.0 / (prompts + responses)),
        NllTarget::ResponseTokens | NllTarget::AuthorsResponse => (0.0, 1.0 / responses),
        NllTarget::ResponseSequences => (0.0, 1.0 / lengths.len() as f64 / *response as f64),
    };
    lengths.iter().map(weights).collect()
}

fn sum(logps: &[f32], span: &Range<usize>) -> f64 {
    logps[span.clone()].iter().map(|x| *x as f64).sum()
}

fn add(grad: &mut [f64], span: &Range<usize>, value: f64) {
    grad[span.clone()].iter_mut().for_each(|g| *g += value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch() -> (Vec<f32>, Vec<PairSpans>) {
        let logps = (1..=12).map(|i| -0.1 - 0.25 * ((i * 7) % 5) as f32).collect();
        let pairs = vec![
            PairSpans { prompt: 0..2, chosen: 2..5, rejected: 5..7, unlearnt: 0 },
            PairSpans { prompt: 7..7, chosen: 7..8, rejected: 8..12, unlearnt: 0 },
        ];
        (logps, pairs)
    }

    #[test]
    fn the_gradient_equals_difference_quotients() {
        let (logps, pairs) = batch();
        for target in [NllTarget::Full, NllTarget::ResponseTokens, NllTarget::ResponseSequences] {
            let output = preference(&logps, &pairs, 0.7, target);
            for i in 0..logps.len() {
                let loss = |by: f32| {
                    let mut logps = logps.clone();
                    logps[i] += by;
                    preference(&logps, &pairs, 0.7, target).metrics.loss
                };
                let quotient = (loss(1e-3) - loss(-1e-3)) / 2e-3;
                assert!((quotient - output.grad[i] as f64).abs() < 1e-4, "{target:?} {i}");
            }
        }
    }

    #[test]
    fn the_targets_average_over_what_they_say() {
        let (logps, pairs) = batch();
        let sum = |range: Range<usize>| -logps[range].iter().map(|x| *x as f64).sum::<f64>();
        let loss = |target| next_token(&logps, &pairs, target).metrics;
        assert!((loss(NllTarget::Full) - (sum(0..5) + sum(7..8)) / 6.0).abs() < 1e-12);
        assert!((loss(NllTarget::ResponseTokens) - (sum(2..5) + sum(7..8)) / 4.0).abs() < 1e-12);
        assert!((loss(NllTarget::ResponseSequences) - (sum(2..5) / 3.0 + sum(7..8)) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn without_beta_only_the_likelihood_is_left() {
        let (logps, pairs) = batch();
        let preference = preference(&logps, &pairs, 0.0, NllTarget::Full);
        let next_token = next_token(&logps, &pairs, NllTarget::Full);
        assert_eq!(preference.grad, next_token.grad);
        assert_eq!(preference.metrics.loss, next_token.metrics);
    }

    /// Every token by itself: its weight in the likelihood, and what its response's sum weighs in the loss on pairs.
    fn slowly(
        logps: &[f32],
        spans: &[PairSpans],
        references: &[(f64, f64)],
        loss: &PairLoss,
        nll_weight: f64,
        target: NllTarget,
    ) -> (f64, Vec<f64>) {
        let is_learnt = |p: &PairSpans, i: &usize| {
            let prompt = matches!(target, NllTarget::Full | NllTarget::Authors) && p.prompt.contains(i);
            prompt || (p.chosen.contains(i) && *i < p.chosen.end - p.unlearnt)
        };
        let learnt: Vec<usize> = (0..logps.len()).filter(|i| spans.iter().any(|p| is_learnt(p, i))).collect();
        let pairs: Vec<Pair> = spans.iter().map(|p| p.pair(logps)).collect();
        let terms = loss.terms(&pairs, references);
        let mut total = terms.iter().map(|term| term.loss).sum::<f64>() / spans.len() as f64;
        let mut grad = vec![0.0; logps.len()];
        for i in 0..logps.len() {
            for (p, term) in spans.iter().zip(&terms) {
                if is_learnt(p, &i) {
                    let share = match target {
                        NllTarget::ResponseSequences => 1.0 / (spans.len() * (p.chosen.len() - p.unlearnt)) as f64,
                        _ => 1.0 / learnt.len() as f64,
                    };
                    total -= nll_weight * share * f64::from(logps[i]);
                    grad[i] -= nll_weight * share;
                }
                grad[i] += if p.chosen.contains(&i) { term.grad_chosen / spans.len() as f64 } else { 0.0 };
                grad[i] += if p.rejected.contains(&i) { term.grad_rejected / spans.len() as f64 } else { 0.0 };
            }
        }
        (total, grad)
    }

    proptest! {
        #[test]
        fn a_batch_equals_its_tokens_one_by_one(
            lengths in prop::collection::vec((0usize..4, 1usize..5, 1usize..5, 0usize..3), 1..4),
            values in prop::collection::vec(-6.0f32..-0.01, 60),
            target in 0usize..5,
            nll_weight in 0.0..2.0,
            reference: bool,
        ) {
            let mut spans = Vec::new();
            let mut at = 0;
            for (prompt, chosen, rejected, unlearnt) in lengths {
                let mut next = |length: usize| { at += length; at - length..at };
                let unlearnt = unlearnt.min(chosen - 1);
                spans.push(PairSpans { prompt: next(prompt), chosen: next(chosen), rejected: next(rejected), unlearnt });
            }
            let logps = &values[..at];
            let references: Vec<(f64, f64)> = spans.iter().map(|p| (-(p.chosen.len() as f64), -2.5)).collect();
            let target = [
                NllTarget::Full, NllTarget::ResponseTokens, NllTarget::ResponseSequences, NllTarget::Authors,
                NllTarget::AuthorsResponse,
            ][target];
            let loss = PairLoss { reference, ..PairLoss::free(Form::Sigmoid { label_smoothing: 0.1 }, 0.3) };
            let output = pairwise(logps, &spans, &references, &loss, nll_weight, target);
            let (total, grad) = slowly(logps, &spans, &references, &loss, nll_weight, target);
            prop_assert!((output.metrics.loss - total).abs() < 1e-9, "{} {total}", output.metrics.loss);
            for (got, want) in output.grad.iter().zip(grad) {
                prop_assert!((f64::from(*got) - want).abs() < 1e-6, "{got} {want}");
            }
        }
    }

    #[test]
    fn metrics_are_of_what_the_loss_looks_at() {
        let (logps, pairs) = batch();
        let sum = |range: Range<usize>| logps[range].iter().map(|x| *x as f64).sum::<f64>();
        let sums = (sum(2..5) + sum(7..8)) / 2.0;
        let means = (sum(2..5) / 3.0 + sum(7..8)) / 2.0;
        let measured = |loss: PairLoss, references: &[(f64, f64)]| {
            let metrics = pairwise(&logps, &pairs, references, &loss, 0.0, NllTarget::Full).metrics;
            (metrics.logps_chosen, metrics.rewards_chosen)
        };
        let near = |got: (f64, f64), want: (f64, f64)| (got.0 - want.0).abs() + (got.1 - want.1).abs() < 1e-9;
        let sigmoid = PairLoss::free(Form::Sigmoid { label_smoothing: 0.0 }, 0.5);
        assert!(near(measured(sigmoid, &[]), (sums, 0.5 * sums)));
        let simpo = PairLoss::free(Form::Simpo { gamma: 0.0, label_smoothing: 0.0 }, 0.5);
        assert!(near(measured(simpo, &[]), (means, 0.5 * means)));
        let dpo = PairLoss { reference: true, ..simpo };
        assert!(near(measured(dpo, &[(-1.0, 0.0), (-2.0, 0.0)]), (sums, 0.5 * (sums + 1.5))));
    }
}
