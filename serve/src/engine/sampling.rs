//! From logits to a token: pure, reproducible, and with the log-probability of what was chosen.

use std::borrow::Cow;
use std::collections::BTreeMap;

use orpo_model::LogSumExp;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::constraint::{Constraint, ConstraintError};

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token (the lowest id on ties); above 0 the logits are divided by it.
    pub temperature: f64,
    /// Only the `top_k` most likely tokens can be chosen; `None` is all.
    pub top_k: Option<usize>,
    /// Only the smallest set of most likely tokens that together reach this probability can be chosen; 1 is all.
    pub top_p: f64,
    /// Only tokens at least this fraction as likely as the most likely one can be chosen; 0 is all.
    pub min_p: f64,
    /// Taken off the logit of every token that the reply has already.
    pub presence_penalty: f64,
    /// Taken off the logit of a token once for each time that the reply has it already.
    pub frequency_penalty: f64,
    /// Divides positive and multiplies negative logits of every token that the reply has already (CTRL, arXiv
    /// 1909.05858); 1 is off. The prompt's tokens are not penalised.
    pub repetition_penalty: f64,
    /// What is added to the logits of single tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// How many tokens a reply has before one of `endings` can be chosen.
    pub min_tokens: usize,
    /// The tokens that end a reply. A constrained reply ends when it is complete, whatever `min_tokens` says.
    pub endings: Vec<u32>,
    /// What the reply must look like.
    pub constraint: Option<Constraint>,
    /// The seed of the request's own random numbers; `None` takes one from the operating system.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    /// OpenAI's defaults: temperature 1, no truncation, no penalties, no seed.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            min_tokens: 0,
            endings: Vec::new(),
            constraint: None,
            seed: None,
        }
    }
}

impl Sampling {
    /// The same for the `index`-th of several replies to one prompt: a seed gives each its own random numbers, the first
    /// those that it has alone.
    pub fn of_choice(&self, index: usize) -> Self {
        // The increment of SplitMix64: an odd number, so that no two indices meet.
        let seed = self.seed.map(|seed| seed.wrapping_add((index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        Self { seed, ..self.clone() }
    }

    fn penalises(&self) -> bool {
        self.presence_penalty != 0.0 || self.frequency_penalty != 0.0 || self.repetition_penalty != 1.0
    }
}

/// A chosen token. Log-probabilities are natural, of the model's own distribution: before bias, penalties,
/// constraints, temperature and truncation.
#[derive(Debug, Clone, PartialEq)]
pub struct SampledToken {
    /// The token.
    pub id: u32,
    /// Its log-probability.
    pub logprob: f32,
    /// The most likely tokens and their log-probabilities, best first, lowest id first on ties.
    pub top: Vec<(u32, f32)>,
}

/// Why no token can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SamplingError {
    /// The logits contain NaN or +infinity, or are -infinity throughout.
    #[error("the model's logits are not finite")]
    NotFinite,
    /// The constraint cannot go on.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// A given token is beyond the vocabulary.
    #[error("token {0} is not in the model's vocabulary")]
    UnknownToken(u32),
}

/// Chooses the tokens of one reply.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha12Rng,
    /// How often each token was chosen.
    chosen: BTreeMap<u32, u32>,
    /// How many tokens were chosen.
    count: usize,
}

impl Sampler {
    /// A sampler with its own random numbers.
    pub fn new(sampling: Sampling) -> Self {
        let seed = sampling.seed.unwrap_or_else(rand::random);
        Self { sampling, rng: ChaCha12Rng::seed_from_u64(seed), chosen: BTreeMap::new(), count: 0 }
    }

    /// Chooses among the first `choosable` of `logits` (a model's vocabulary can be padded beyond its tokenizer's).
    ///
    /// # Errors
    /// [`SamplingError`].
    pub fn sample(
        &mut self,
        logits: &[f32],
        choosable: usize,
        top_logprobs: usize,
    ) -> Result<SampledToken, SamplingError> {
        let total = log_sum_exp(logits)?;
        let choosable = &logits[..choosable.min(logits.len())];
        let adjusted = self.adjust(choosable);
        let Self { sampling, rng, .. } = self;
        let id = match sampling.constraint.take() {
            None => pick(sampling, rng, &adjusted).ok_or(SamplingError::NotFinite)?,
            Some(mut constraint) => {
                let id = constraint.choose(&mut adjusted.into_owned(), |logits| pick(sampling, rng, logits));
                sampling.constraint = Some(constraint);
                id?
            }
        };
        self.count += 1;
        if self.sampling.penalises() {
            *self.chosen.entry(id).or_default() += 1;
        }
        Ok(described(logits, total, id, choosable, top_logprobs))
    }

    /// The logits after penalties and bias, without endings that come too early.
    fn adjust<'a>(&self, logits: &'a [f32]) -> Cow<'a, [f32]> {
        let mut adjusted = Cow::Borrowed(logits);
        let Sampling { presence_penalty, frequency_penalty, repetition_penalty, .. } = self.sampling;
        for (&id, &count) in &self.chosen {
            let logit = &mut adjusted.to_mut()[id as usize];
            let scaled = f64::from(*logit) * if *logit > 0.0 { repetition_penalty.recip() } else { repetition_penalty };
            *logit = (scaled - presence_penalty - frequency_penalty * f64::from(count)) as f32;
        }
        for &(id, bias) in &self.sampling.logit_bias {
            if let Some(logit) = adjusted.to_mut().get_mut(id as usize) {
                *logit += bias;
            }
        }
        if self.count < self.sampling.min_tokens {
            for &id in &self.sampling.endings {
                if let Some(logit) = adjusted.to_mut().get_mut(id as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        adjusted
    }
}

/// Takes one of the tokens that have a finite logit.
fn pick(sampling: &Sampling, rng: &mut ChaCha12Rng, logits: &[f32]) -> Option<u32> {
    let best = argmax(logits).filter(|&best| logits[best as usize].is_finite())?;
    Some(if sampling.temperature == 0.0 { best } else { draw(sampling, rng, logits, best) })
}

/// Draws by weight `exp((logit - max) / temperature)` among the tokens that top-k, top-p and min-p leave.
fn draw(sampling: &Sampling, rng: &mut ChaCha12Rng, logits: &[f32], best: u32) -> u32 {
    let max = f64::from(logits[best as usize]);
    let weigh = |logit: f32| ((f64::from(logit) - max) / sampling.temperature).exp();
    let mut candidates: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|&logit| weigh(logit))).collect();
    if let Some(top_k) = sampling.top_k.filter(|&top_k| top_k < candidates.len()) {
        let top_k = top_k.max(1);
        candidates.select_nth_unstable_by(top_k - 1, heavier_first);
        candidates.truncate(top_k);
    }
    if sampling.top_p < 1.0 {
        keep_nucleus(&mut candidates, sampling.top_p);
    }
    // The most likely token weighs 1.
    candidates.retain(|&(_, weight)| weight >= sampling.min_p);
    let total: f64 = candidates.iter().map(|&(_, weight)| weight).sum();
    let mut left = rng.random::<f64>() * total;
    for &(id, weight) in &candidates {
        left -= weight;
        if left < 0.0 {
            return id;
        }
    }
    best
}

/// A given token as if it had been chosen, with the alternatives among the first `choosable` of `logits`.
///
/// # Errors
/// [`SamplingError`].
pub fn score(logits: &[f32], id: u32, choosable: usize, top_logprobs: usize) -> Result<SampledToken, SamplingError> {
    if id as usize >= logits.len() {
        return Err(SamplingError::UnknownToken(id));
    }
    let total = log_sum_exp(logits)?;
    Ok(described(logits, total, id, &logits[..choosable.min(logits.len())], top_logprobs))
}

fn described(logits: &[f32], total: LogSumExp, id: u32, candidates: &[f32], top_logprobs: usize) -> SampledToken {
    let logprob = |id: u32| total.log_probability(logits[id as usize]);
    let top = most_likely(candidates, top_logprobs).into_iter().map(|id| (id, logprob(id))).collect();
    SampledToken { id, logprob: logprob(id), top }
}

fn heavier_first(a: &(u32, f64), b: &(u32, f64)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Keeps the shortest run of heaviest candidates that reaches `top_p` of the total, at least one.
fn keep_nucleus(candidates: &mut Vec<(u32, f64)>, top_p: f64) {
    let total: f64 = candidates.iter().map(|&(_, weight)| weight).sum();
    // Candidates lighter than this weigh less than `1 - top_p` together, so that none of them can be in the nucleus:
    // it spares sorting the whole vocabulary.
    let negligible = (1.0 - top_p) * total / candidates.len() as f64;
    candidates.retain(|&(_, weight)| weight >= negligible);
    candidates.sort_unstable_by(heavier_first);
    let mut reached = 0.0;
    let length = candidates.iter().position(|&(_, weight)| {
        reached += weight;
        reached >= top_p * total
    });
    candidates.truncate(length.map_or(candidates.len(), |last| last + 1));
}

/// The index of the largest value, the lowest on ties.
fn argmax(values: &[f32]) -> Option<u32> {
    most_likely(values, 1).first().copied()
}

/// The indices of the `count` largest values, largest first, lowest index first on ties.
fn most_likely(values: &[f32], count: usize) -> Vec<u32> {
    let mut best: Vec<u32> = Vec::with_capacity(count + 1);
    for (id, &value) in (0..).zip(values) {
        let worst = best.last().map(|&last| values[last as usize]);
        if best.len() == count && worst.is_none_or(|worst| value <= worst) {
            continue;
        }
        let place = best.partition_point(|&other| values[other as usize] >= value);
        best.insert(place, id);
        best.truncate(count);
    }
    best
}

/// The total by which the trainer, too, makes log-probabilities.
fn log_sum_exp(logits: &[f32]) -> Result<LogSumExp, SamplingError> {
    let total = LogSumExp::of(logits);
    if total.value().is_finite() { Ok(total) } else { Err(SamplingError::NotFinite) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, 3.0, -1.0];

    fn ids(sampling: Sampling, draws: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling);
        (0..draws).map(|_| sampler.sample(&LOGITS, LOGITS.len(), 0).unwrap().id).collect()
    }

    fn seeded(seed: u64) -> Sampling {
        Sampling { seed: Some(seed), ..Sampling::default() }
    }

    #[test]
    fn temperature_zero_takes_the_lowest_id_among_the_most_likely() {
        assert_eq!(ids(Sampling { temperature: 0.0, ..Sampling::default() }, 3), [1, 1, 1]);
    }

    #[test]
    fn logprobs_are_natural_and_normalised() {
        let mut sampler = Sampler::new(Sampling { temperature: 0.0, ..Sampling::default() });
        let token = sampler.sample(&LOGITS, LOGITS.len(), 5).unwrap();
        // log_softmax([1, 3, 2, 3, -1]) by hand: ln(e + 2 e^3 + e^2 + 1/e) = ln(50.6463) = 3.924866.
        assert!((token.logprob - (3.0 - 3.924866)).abs() < 1e-5, "{}", token.logprob);
        assert_eq!(token.top.iter().map(|top| top.0).collect::<Vec<_>>(), [1, 3, 2, 0, 4]);
        let total: f32 = token.top.iter().map(|top| top.1.exp()).sum();
        assert!((total - 1.0).abs() < 1e-6);
        assert_eq!(token.top[0].1, token.logprob);
    }

    #[test]
    fn a_given_token_is_scored_as_if_it_had_been_chosen() {
        let mut sampler = Sampler::new(Sampling { temperature: 0.0, ..Sampling::default() });
        let chosen = sampler.sample(&LOGITS, 4, 3).unwrap();
        assert_eq!(score(&LOGITS, chosen.id, 4, 3).unwrap(), chosen);
        // Also where it could not be chosen.
        assert!((score(&LOGITS, 4, 4, 0).unwrap().logprob - (-1.0 - 3.924866)).abs() < 1e-5);
        assert_eq!(score(&LOGITS, 5, 4, 0), Err(SamplingError::UnknownToken(5)));
        assert_eq!(score(&[f32::NAN, 1.0], 1, 2, 0), Err(SamplingError::NotFinite));
    }

    #[test]
    fn a_seed_reproduces_and_another_differs() {
        assert_eq!(ids(seeded(7), 64), ids(seeded(7), 64));
        assert_ne!(ids(seeded(7), 64), ids(seeded(8), 64));
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let drawn = ids(seeded(1), 20_000);
        let total = log_sum_exp(&LOGITS).unwrap();
        for (id, &logit) in LOGITS.iter().enumerate() {
            let expected = f64::from(total.log_probability(logit)).exp();
            let seen = drawn.iter().filter(|&&other| other as usize == id).count() as f64 / drawn.len() as f64;
            assert!((seen - expected).abs() < 0.015, "{id}: {seen} instead of {expected}");
        }
    }

    #[test]
    fn top_k_and_top_p_leave_only_the_most_likely() {
        let distinct = |sampling| {
            let mut drawn = ids(sampling, 2_000);
            drawn.sort_unstable();
            drawn.dedup();
            drawn
        };
        assert_eq!(distinct(Sampling { top_k: Some(1), ..seeded(1) }), [1]);
        assert_eq!(distinct(Sampling { top_k: Some(3), ..seeded(1) }), [1, 2, 3]);
        // The two best have 0.398 each, the third 0.146.
        assert_eq!(distinct(Sampling { top_p: 0.0, ..seeded(1) }), [1]);
        assert_eq!(distinct(Sampling { top_p: 0.5, ..seeded(1) }), [1, 3]);
        assert_eq!(distinct(Sampling { top_p: 0.9, ..seeded(1) }), [1, 2, 3]);
    }

    #[test]
    fn min_p_leaves_tokens_near_the_most_likely() {
        let mut drawn = ids(Sampling { min_p: 0.3, ..seeded(1) }, 2_000);
        drawn.sort_unstable();
        drawn.dedup();
        // Token 2 is e^-1 = 0.37 as likely as the best, token 0 e^-2 = 0.14.
        assert_eq!(drawn, [1, 2, 3]);
    }

    #[test]
    fn penalties_fall_on_tokens_of_the_reply() {
        let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
        // Both 3s in turn, each 1.5 lower once chosen: then 2, then the 3s at 1.5 again.
        let presence = Sampling { presence_penalty: 1.5, ..greedy.clone() };
        assert_eq!(ids(presence, 6), [1, 3, 2, 1, 1, 1]);
        // Both 3s fall to 2 and meet token 2 there; one after another all fall to 1, where token 0 is.
        let frequency = Sampling { frequency_penalty: 1.0, ..greedy.clone() };
        assert_eq!(ids(frequency, 6), [1, 3, 1, 2, 3, 0]);
        // Both 3s become 1, then the 2 becomes 2/3: token 0 at 1 is as good as the former 3s.
        let repetition = Sampling { repetition_penalty: 3.0, ..greedy };
        assert_eq!(ids(repetition, 4), [1, 3, 2, 0]);
    }

    #[test]
    fn a_bias_moves_the_choice_but_not_the_log_probability() {
        let bias = vec![(4, 100.0), (9, 1.0)];
        let mut sampler = Sampler::new(Sampling { temperature: 0.0, logit_bias: bias, ..Sampling::default() });
        let token = sampler.sample(&LOGITS, LOGITS.len(), 1).unwrap();
        assert_eq!((token.id, token.top[0].0), (4, 1));
        assert!((token.logprob - (-1.0 - 3.924866)).abs() < 1e-5, "{}", token.logprob);
    }

    #[test]
    fn choices_have_their_own_seeds_and_the_first_the_request_s() {
        let sampling = seeded(7);
        assert_eq!(sampling.of_choice(0), sampling);
        assert_ne!(ids(sampling.of_choice(1), 64), ids(sampling.clone(), 64));
        assert_eq!(ids(sampling.of_choice(1), 64), ids(sampling.of_choice(1), 64));
    }

    #[test]
    fn the_nucleus_is_that_of_a_full_sort() {
        let mut sampler = ChaCha12Rng::seed_from_u64(3);
        for _ in 0..200 {
            let candidates: Vec<(u32, f64)> = (0..50).map(|id| (id, sampler.random::<f64>().powi(8))).collect();
            let top_p = sampler.random::<f64>();
            let mut sorted = candidates.clone();
            sorted.sort_by(heavier_first);
            let total: f64 = sorted.iter().map(|candidate| candidate.1).sum();
            let mut reached = 0.0;
            let expected: Vec<_> = sorted
                .into_iter()
                .take_while(|candidate| {
                    let wanted = reached < top_p * total;
                    reached += candidate.1;
                    wanted
                })
                .collect();
            let mut nucleus = candidates;
            keep_nucleus(&mut nucleus, top_p);
            assert_eq!(nucleus, expected);
        }
    }

    #[test]
    fn padding_beyond_the_tokenizer_is_never_chosen() {
        let mut sampler = Sampler::new(Sampling { temperature: 0.0, ..Sampling::default() });
        assert_eq!(sampler.sample(&[0.0, 1.0, 9.0], 2, 0).unwrap().id, 1);
    }

    #[test]
    fn logits_that_are_not_finite_are_an_error() {
        let mut sampler = Sampler::new(seeded(1));
        for logits in [[f32::NAN, 1.0], [f32::INFINITY, 1.0], [f32::NEG_INFINITY; 2]] {
            assert_eq!(sampler.sample(&logits, 2, 0), Err(SamplingError::NotFinite));
        }
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY, 1.0], 2, 0).unwrap().id, 1);
    }
}
