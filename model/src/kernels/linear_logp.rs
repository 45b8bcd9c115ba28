//! Log-probabilities of given tokens straight from hidden states, without a `(rows, vocab)` tensor.

use std::sync::Arc;

use rayon::prelude::*;

use super::linear::{Input, Linear, linear};
use super::math::exp;
use super::matmul::{Output, Threads, View, ViewMut, matmul};
use super::{column_sums, refuse};
use crate::array::Array;
use crate::error::ModelError;
use crate::formulas::{LogSumExp, soft_cap};
use crate::param::Param;
use crate::product::{Onto, product_by_rows};

/// Rows of the head that are multiplied at a time; the logits of one tile live at once.
const TILE: usize = LogSumExp::PIECE;

/// The output layer.
#[derive(Debug, Clone)]
pub struct Head {
    /// `(vocab, hidden)`.
    pub weight: Arc<Param>,
    /// `(vocab)`.
    pub bias: Option<Arc<Param>>,
    /// Logits become `cap * tanh(logit / cap)` (Gemma 2).
    pub softcap: Option<f32>,
}

/// Log-probabilities of labels, and what [`linear_logp_backward`] needs.
#[derive(Debug, Clone)]
pub struct LabelLogps {
    /// Natural logarithms, one a row.
    pub values: Vec<f32>,
    /// Of each row's logits.
    log_sum_exp: Vec<f32>,
}

/// The running state of one row over the tiles.
#[derive(Clone, Copy, Default)]
struct Row {
    all: LogSumExp,
    label_logit: f32,
}

impl Head {
    /// First rows of the weight's tiles and their numbers.
    fn tiles(&self) -> Result<impl Iterator<Item = (usize, usize)> + use<>, ModelError> {
        let (vocab, _) = self.weight.dims2()?;
        Ok((0..vocab).step_by(TILE).map(move |first| (first, TILE.min(vocab - first))))
    }

    fn bias(&self) -> Result<Option<Vec<f32>>, ModelError> {
        self.bias.as_ref().map(|bias| bias.values()).transpose()
    }

    /// Logits before the soft limit: the product of `hidden` with the tile's rows `w`.
    fn product(&self, hidden: &Array, w: &[f32], bias: Option<&[f32]>, logits: &mut [f32]) {
        product_by_rows(hidden.values(), w, hidden.width(), bias, logits, Onto::Nothing);
    }

    /// Takes a row of products to its logits.
    #[inline(always)]
    fn limit(&self, logits: &mut [f32]) {
        if let Some(cap) = self.softcap {
            soft_cap(logits, cap);
        }
    }

    fn check(&self, hidden: &Array, labels: &[u32]) -> Result<(), ModelError> {
        let (vocab, width) = self.weight.dims2()?;
        if hidden.shape() != (labels.len(), width) {
            return refuse(format!(
                "linear_logp: hidden {:?}, head {:?}, {} labels",
                hidden.shape(),
                self.weight.shape(),
                labels.len()
            ));
        }
        match labels.iter().find(|label| **label as usize >= vocab) {
            Some(label) => refuse(format!("label {label} is not below vocab_size = {vocab}")),
            None => Ok(()),
        }
    }
}

/// `softcap(h W^T + b)`: hidden states `(rows, hidden)` to logits `(rows, vocab)`, without a backward pass.
///
/// # Errors
/// When the shapes do not match.
pub fn logits(hidden: &Array, head: &Head) -> Result<Array, ModelError> {
    let output = Linear { bias: head.bias.clone(), ..Linear::plain(head.weight.clone()) };
    let mut logits = linear(Input::Plain(hidden), None, &output, None)?;
    head.limit(logits.values_mut());
    Ok(logits)
}

/// `log softmax(logits)[labels]` with `logits = softcap(h W^T + b)`: hidden states `(rows, hidden)`, one label a row. Only
/// the log-sum-exp of each row is kept for the backward pass, which computes the logits again tile by tile.
///
/// # Errors
/// When the shapes do not match or a label is not below `vocab`.
pub fn linear_logp(hidden: &Array, head: &Head, labels: &[u32]) -> Result<LabelLogps, ModelError> {
    head.check(hidden, labels)?;
    let rows = hidden.rows();
    let (vocab, _) = head.weight.dims2()?;
    let bias = head.bias()?;
    let mut tile = vec![0f32; rows * TILE.min(vocab)];
    let mut state = vec![Row::default(); rows];
    for (first, count) in head.tiles()? {
        let tile = &mut tile[..rows * count];
        let bias = bias.as_ref().map(|bias| &bias[first..first + count]);
        head.weight.with_rows(first..first + count, |w| head.product(hidden, w, bias, tile))?;
        let rows = tile.par_chunks_exact_mut(count).zip(state.par_iter_mut()).zip(labels.par_iter());
        rows.with_min_len(32).for_each(|((logits, row), label)| {
            head.limit(logits);
            if let Some(logit) = (*label as usize).checked_sub(first).and_then(|at| logits.get(at)) {
                row.label_logit = *logit;
            }
            row.all.add(logits);
        });
    }
    let values = state.iter().map(|row| row.all.log_probability(row.label_logit)).collect();
    Ok(LabelLogps { values, log_sum_exp: state.iter().map(|row| row.all.value() as f32).collect() })
}

/// The gradient of the hidden states, given that of the log-probabilities; that of the head goes to its slots.
///
/// # Errors
/// When the shapes do not match.
pub fn linear_logp_backward(
    hidden: &Array,
    head: &Head,
    labels: &[u32],
    logps: &LabelLogps,
    dlogps: &[f32],
) -> Result<Array, ModelError> {
    head.check(hidden, labels)?;
    if logps.log_sum_exp.len() != labels.len() || dlogps.len() != labels.len() {
        return refuse(format!("linear_logp: {} gradients for {} labels", dlogps.len(), labels.len()));
    }
    let (rows, width) = hidden.shape();
    let (vocab, _) = head.weight.dims2()?;
    let bias = head.bias()?;
    let mut tile = vec![0f32; rows * TILE.min(vocab)];
    let mut dhidden = Array::zeros(rows, width);
    let hidden_rows = View::new(hidden.values(), rows, width);
    for (first, count) in head.tiles()? {
        let tile = &mut tile[..rows * count];
        let bias = bias.as_ref().map(|bias| &bias[first..first + count]);
        head.weight.with_rows(first..first + count, |w| {
            head.product(hidden, w, bias, tile);
            // d logp / d logit = [label] - softmax
            let each = tile.par_chunks_exact_mut(count).zip(logps.log_sum_exp.par_iter());
            let each = each.zip(dlogps.par_iter()).zip(labels.par_iter());
            each.with_min_len(32).for_each(|(((logits, lse), dlogp), label)| {
                head.limit(logits);
                let label = (*label as usize).checked_sub(first).filter(|at| *at < count);
                let label_logit = label.map(|at| logits[at]);
                match head.softcap {
                    None => logits.iter_mut().for_each(|logit| *logit = -dlogp * exp(*logit - lse)),
                    Some(cap) => logits.iter_mut().for_each(|logit| {
                        let t = *logit / cap;
                        *logit = -dlogp * exp(*logit - lse) * (1.0 - t * t);
                    }),
                }
                if let (Some(at), Some(logit)) = (label, label_logit) {
                    let slope = head.softcap.map_or(1.0, |cap| 1.0 - (logit / cap) * (logit / cap));
                    logits[at] += dlogp * slope;
                }
            });
            let dlogits = View::new(tile, rows, count);
            let output = if first == 0 { Output::Overwrite } else { Output::Add };
            matmul(
                ViewMut::new(dhidden.values_mut(), rows, width),
                output,
                1.0,
                dlogits,
                View::new(w, count, width),
                Threads::All,
            );
        })?;
        if head.weight.is_trainable() {
            let mut slot = head.weight.slot();
            let dw = ViewMut::new(&mut slot.grad[first * width..], count, width);
            matmul(dw, Output::Add, 1.0, View::new(tile, rows, count).t(), hidden_rows, Threads::All);
        }
        if let Some(bias) = head.bias.as_ref().filter(|bias| bias.is_trainable()) {
            column_sums(tile, &mut bias.slot().grad[first..first + count]);
        }
    }
    Ok(dhidden)
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn plain(weight: &Arc<Param>) -> Head {
        Head { weight: weight.clone(), bias: None, softcap: None }
    }

    fn check_logps(params: &[Arc<Param>], labels: &[u32], head: impl Fn(&[Arc<Param>]) -> Head) {
        let forward = |x: &Array, p: &[Arc<Param>]| linear_logp(x, &head(p), labels).unwrap();
        check_gradients(
            &[random_array(4, 3, 1)],
            params,
            |x, p| Array::new(4, 1, forward(&x[0], p).values),
            |x, p, dy| {
                let logps = forward(&x[0], p);
                vec![linear_logp_backward(&x[0], &head(p), labels, &logps, dy.values()).unwrap()]
            },
        );
    }

    #[test]
    fn gradients_within_one_tile_and_across_tiles() {
        for vocab in [11, 2 * TILE + 3] {
            let labels = [0, vocab as u32 - 1, 5, 5];
            check_logps(&[random_param(&[vocab, 3], 2)], &labels, |p| plain(&p[0]));
            let params = [random_param(&[vocab, 3], 2), random_param(&[vocab], 3)];
            check_logps(&params, &labels, |p| Head {
                weight: p[0].clone(),
                bias: Some(p[1].clone()),
                softcap: Some(1.5),
            });
        }
    }

    #[test]
    fn equals_log_softmax() {
        let hidden = random_array(3, 4, 1);
        let head = random_param(&[TILE + 7, 4], 2);
        let labels = [0, TILE as u32 + 6, 17];
        let ours = linear_logp(&hidden, &plain(&head), &labels).unwrap().values;
        let tensor_of_hidden =
            candle_core::Tensor::from_slice(hidden.values(), (3, 4), &candle_core::Device::Cpu).unwrap();
        let logits = tensor_of_hidden.matmul(&tensor(&head).t().unwrap()).unwrap();
        let theirs = candle_nn::ops::log_softmax(&logits, 1).unwrap().to_vec2::<f32>().unwrap();
        for (row, label) in labels.iter().enumerate() {
            assert!((ours[row] - theirs[row][*label as usize]).abs() < 2e-6);
        }
    }

    #[test]
    fn logits_and_their_logarithms_agree() {
        let hidden = random_array(3, 4, 1);
        let (weight, bias) = (random_param(&[9, 4], 2), random_param(&[9], 3));
        let head = Head { weight, bias: Some(bias), softcap: Some(1.5) };
        let logits = logits(&hidden, &head).unwrap();
        for (row, logp) in linear_logp(&hidden, &head, &[8, 0, 3]).unwrap().values.iter().enumerate() {
            let logits = logits.row(row);
            let sum: f32 = logits.iter().map(|logit| logit.exp()).sum();
            assert!((logits[[8, 0, 3][row]] - sum.ln() - logp).abs() < 1e-6);
        }
    }

    #[test]
    fn a_label_outside_the_vocabulary_is_refused() {
        let error = linear_logp(&random_array(1, 3, 1), &plain(&random_param(&[5, 3], 2)), &[5]).unwrap_err();
        assert!(error.to_string().contains("vocab_size = 5"), "{error}");
    }
}
