//! The formulas of a row, each once. The trainer's forward pass and the server's call the same functions, so that what is
//! served is what was trained, to the bit.

use crate::config::Activation;
use crate::kernels::math::{dot, exp, gelu_tanh, max, silu, sum, sum_exp, tanh};

/// A norm with its weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowNorm<'a> {
    /// The factor.
    pub weight: &'a [f32],
    /// What is added at the end: then the mean is taken off before. None for the root mean square.
    pub bias: Option<&'a [f32]>,
    /// 1 where the weights of a root mean square are stored as differences from 1 (Gemma), 0 otherwise.
    pub offset: f32,
    /// Added to the variance, or to the mean square.
    pub eps: f32,
}

impl RowNorm<'_> {
    /// Mean (0 for the root mean square) and factor of a row.
    #[inline(always)]
    pub(crate) fn statistics(&self, x: &[f32]) -> (f32, f32) {
        let n = x.len() as f32;
        if self.bias.is_none() {
            return (0.0, 1.0 / (dot(x, x) / n + self.eps).sqrt());
        }
        let mean = sum(x) / n;
        let square = x.iter().map(|v| (v - mean) * (v - mean));
        // In f64: large activations leave little of the difference.
        let variance = square.map(f64::from).sum::<f64>() / f64::from(n);
        (mean, 1.0 / (variance as f32 + self.eps).sqrt())
    }

    /// The norm of a row, in its place.
    #[inline(always)]
    pub(crate) fn apply(&self, x: &mut [f32]) {
        let (mean, factor) = self.statistics(x);
        let weighted = x.iter_mut().zip(self.weight);
        match self.bias {
            None => weighted.for_each(|(x, weight)| *x = *x * factor * (self.offset + weight)),
            Some(bias) => {
                weighted.zip(bias).for_each(|((x, weight), bias)| *x = (*x - mean) * factor * weight + bias);
            }
        }
    }
}

/// Cosine and sine of the angle by which `position` rotates the pair of columns of a frequency in radians.
#[inline(always)]
pub(crate) fn angle(position: u32, frequency: f32) -> (f32, f32) {
    // An f32 angle, as transformers computes it: that of a late position is rounded in the same way.
    let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
    (cos as f32, sin as f32)
}

/// Rotates the first columns of a head by their angles, in halves as Hugging Face's checkpoints have them.
#[inline(always)]
pub(crate) fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    let (left, right) = head[..2 * half].split_at_mut(half);
    for i in 0..half {
        let (a, b) = (left[i], right[i]);
        left[i] = a * cos[i] - b * sin[i];
        right[i] = b * cos[i] + a * sin[i];
    }
}

/// The activation of every element of `x`, in its place.
pub(crate) fn activate(activation: Activation, x: &mut [f32]) {
    match activation {
        Activation::Silu => x.iter_mut().for_each(|x| *x = silu(*x)),
        Activation::GeluTanh => x.iter_mut().for_each(|x| *x = gelu_tanh(*x)),
        Activation::Relu => x.iter_mut().for_each(|x| *x = relu(*x)),
    }
}

/// `activation(gate) * up`, element by element, written to `gate`.
pub(crate) fn gate(activation: Activation, gate: &mut [f32], up: &[f32]) {
    let both = gate.iter_mut().zip(up);
    match activation {
        Activation::Silu => both.for_each(|(gate, up)| *gate = silu(*gate) * up),
        Activation::GeluTanh => both.for_each(|(gate, up)| *gate = gelu_tanh(*gate) * up),
        Activation::Relu => both.for_each(|(gate, up)| *gate = relu(*gate) * up),
    }
}

#[inline(always)]
fn relu(x: f32) -> f32 {
    if x > 0.0 { x } else { 0.0 }
}

/// `cap * tanh(x / cap)` of every element.
#[inline(always)]
pub(crate) fn soft_cap(x: &mut [f32], cap: f32) {
    x.iter_mut().for_each(|x| *x = cap * tanh(*x / cap));
}

/// The logarithm of the sum of `e^logit`, over pieces of [`LogSumExp::PIECE`] logits one after the other.
#[derive(Debug, Clone, Copy)]
pub struct LogSumExp {
    largest: f32,
    /// Of `e^(logit - largest)`.
    sum: f64,
}

impl Default for LogSumExp {
    fn default() -> Self {
        Self { largest: f32::NEG_INFINITY, sum: 0.0 }
    }
}

impl LogSumExp {
    /// Logits of a piece; only the last may have fewer.
    pub const PIECE: usize = 1024;

    /// Of a whole row of logits.
    pub fn of(logits: &[f32]) -> Self {
        let mut all = Self::default();
        logits.chunks(Self::PIECE).for_each(|piece| all.add(piece));
        all
    }

    /// Adds the next piece.
    pub fn add(&mut self, logits: &[f32]) {
        let largest = max(logits).max(self.largest);
        // Without a finite logit there is nothing to be shifted by.
        let shift = if largest.is_finite() { largest } else { 0.0 };
        let before = if self.sum == 0.0 { 0.0 } else { self.sum * f64::from(exp(self.largest - shift)) };
        self.sum = before + f64::from(sum_exp(logits, shift));
        self.largest = largest;
    }

    /// The logarithm; not finite if a logit is NaN or infinite, or all are minus infinity.
    pub fn value(&self) -> f64 {
        f64::from(self.largest) + self.sum.ln()
    }

    /// The log-probability of a token with this logit.
    pub fn log_probability(&self, logit: f32) -> f32 {
        (f64::from(logit) - self.value()) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::random;

    #[test]
    fn log_sum_exp_equals_the_slow_one() {
        for n in [1, 5, 1024, 1025, 5000] {
            let logits: Vec<f32> = random(n, 1).iter().map(|x| x * 20.0 + 7.0).collect();
            let slow = logits.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
            let all = LogSumExp::of(&logits);
            assert!((all.value() - slow).abs() < 1e-6, "{n}: {} is not {slow}", all.value());
            assert!((f64::from(all.log_probability(logits[0])) - (f64::from(logits[0]) - slow)).abs() < 3e-6);
        }
    }

    #[test]
    fn what_is_not_finite_shows_and_what_cannot_be_chosen_does_not_count() {
        const NONE: f32 = f32::NEG_INFINITY;
        let mut logits = vec![NONE; 3000];
        assert!(!LogSumExp::of(&logits).value().is_finite());
        logits[2048] = 3.0;
        assert!((LogSumExp::of(&logits).value() - 3.0).abs() < 1e-6);
        for nonsense in [f32::NAN, f32::INFINITY] {
            for at in [0, 1500, 2999] {
                let mut logits = logits.clone();
                logits[at] = nonsense;
                assert!(!LogSumExp::of(&logits).value().is_finite());
            }
        }
    }
}
