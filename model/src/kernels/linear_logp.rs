//! Log-probabilities of given tokens straight from hidden states, without a `(rows, vocab)` tensor.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::math::{exp, max, sum_exp, tanh};
use super::matmul::{Output, Threads, View, ViewMut, matmul};
use super::{column_sums, slice, tensor_like, with_slice};
use crate::param::Param;

/// Rows of the head that are multiplied at a time; the logits of one tile live at once.
const TILE: usize = 1024;

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

/// `log softmax(logits)[labels]` with `logits = softcap(h W^T + b)`: hidden states `(rows, hidden)`, one label a row;
/// returns `(rows)` natural logarithms. Only the log-sum-exp of each row is kept for the backward pass, which computes
/// the logits again tile by tile.
///
/// # Errors
/// When the shapes do not match or a label is not below `vocab`.
pub fn linear_logp(hidden: &Tensor, head: &Head, labels: &[u32]) -> Result<Tensor> {
    let (rows, width) = hidden.dims2()?;
    let (vocab, expected) = head.weight.dims2()?;
    if width != expected || labels.len() != rows {
        candle_core::bail!(
            "linear_logp: hidden {:?}, head {:?}, {} labels",
            hidden.shape(),
            head.weight.shape(),
            labels.len()
        );
    }
    if let Some(label) = labels.iter().find(|label| **label as usize >= vocab) {
        candle_core::bail!("label {label} is not below vocab_size = {vocab}");
    }
    let op = LinearLogp { head: head.clone(), labels: labels.to_vec(), log_sum_exp: Mutex::default() };
    hidden.contiguous()?.apply_op1(op)
}

struct LinearLogp {
    head: Head,
    labels: Vec<u32>,
    log_sum_exp: Mutex<Vec<f32>>,
}

/// The running state of one row over the tiles.
#[derive(Clone, Copy)]
struct Row {
    max: f32,
    sum: f32,
    label_logit: f32,
}

/// Products of one tile to logits, in place.
#[inline(always)]
fn finish(logits: &mut [f32], bias: Option<&[f32]>, softcap: Option<f32>) {
    if let Some(bias) = bias {
        logits.iter_mut().zip(bias).for_each(|(logit, bias)| *logit += bias);
    }
    if let Some(cap) = softcap {
        logits.iter_mut().for_each(|logit| *logit = cap * tanh(*logit / cap));
    }
}

impl LinearLogp {
    /// First rows of the head's tiles and their numbers.
    fn tiles(&self) -> Result<impl Iterator<Item = (usize, usize)> + use<>> {
        let (vocab, _) = self.head.weight.dims2()?;
        Ok((0..vocab).step_by(TILE).map(move |first| (first, TILE.min(vocab - first))))
    }

    fn bias(&self) -> Result<Option<Vec<f32>>> {
        self.head.bias.as_ref().map(|bias| bias.with_values(<[f32]>::to_vec)).transpose()
    }
}

impl CustomOp1 for LinearLogp {
    fn name(&self) -> &'static str {
        "linear-logp"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = layout.shape().dims2()?;
        let (vocab, _) = self.head.weight.dims2()?;
        let bias = self.bias()?;
        let hidden = View::new(slice(storage, layout)?, rows, width);
        let mut tile = vec![0f32; rows * TILE.min(vocab)];
        let mut state = vec![Row { max: f32::NEG_INFINITY, sum: 0.0, label_logit: 0.0 }; rows];
        for (first, count) in self.tiles()? {
            let tile = &mut tile[..rows * count];
            let bias = bias.as_ref().map(|bias| &bias[first..first + count]);
            self.head.weight.with_rows(first..first + count, |w| {
                let w = View::new(w, count, width);
                matmul(ViewMut::new(tile, rows, count), Output::Overwrite, 1.0, hidden, w.t(), Threads::All);
            })?;
            let rows = tile.par_chunks_exact_mut(count).zip(state.par_iter_mut()).zip(self.labels.par_iter());
            rows.with_min_len(32).for_each(|((logits, row), label)| {
                finish(logits, bias, self.head.softcap);
                if let Some(logit) = (*label as usize).checked_sub(first).and_then(|at| logits.get(at)) {
                    row.label_logit = *logit;
                }
                let new_max = max(logits).max(row.max);
                row.sum = row.sum * exp(row.max - new_max) + sum_exp(logits, new_max);
                row.max = new_max;
            });
        }
        let log_sum_exp: Vec<f32> = state.iter().map(|row| row.max + row.sum.ln()).collect();
        let logps = state.iter().zip(&log_sum_exp).map(|(row, lse)| row.label_logit - lse).collect();
        *self.log_sum_exp.lock().expect("nothing panics while it is held") = log_sum_exp;
        Ok((CpuStorage::F32(logps), rows.into()))
    }

    fn bwd(&self, hidden: &Tensor, _logps: &Tensor, dlogps: &Tensor) -> Result<Option<Tensor>> {
        let (rows, width) = hidden.dims2()?;
        let (vocab, _) = self.head.weight.dims2()?;
        let bias = self.bias()?;
        let log_sum_exp = self.log_sum_exp.lock().expect("nothing panics while it is held");
        let mut tile = vec![0f32; rows * TILE.min(vocab)];
        let mut dhidden = vec![0f32; rows * width];
        let mut backward = |hidden: &[f32], dlogps: &[f32]| -> Result<()> {
            let hidden = View::new(hidden, rows, width);
            for (first, count) in self.tiles()? {
                let tile = &mut tile[..rows * count];
                let bias = bias.as_ref().map(|bias| &bias[first..first + count]);
                self.head.weight.with_rows(first..first + count, |w| {
                    let w = View::new(w, count, width);
                    matmul(ViewMut::new(tile, rows, count), Output::Overwrite, 1.0, hidden, w.t(), Threads::All);
                    // d logp / d logit = [label] - softmax
                    let each = tile.par_chunks_exact_mut(count).zip(log_sum_exp.par_iter());
                    let each = each.zip(dlogps.par_iter()).zip(self.labels.par_iter());
                    each.with_min_len(32).for_each(|(((logits, lse), dlogp), label)| {
                        finish(logits, bias, self.head.softcap);
                        let label = (*label as usize).checked_sub(first).filter(|at| *at < count);
                        let label_logit = label.map(|at| logits[at]);
                        match self.head.softcap {
                            None => logits.iter_mut().for_each(|logit| *logit = -dlogp * exp(*logit - lse)),
                            Some(cap) => logits.iter_mut().for_each(|logit| {
                                let t = *logit / cap;
                                *logit = -dlogp * exp(*logit - lse) * (1.0 - t * t);
                            }),
                        }
                        if let (Some(at), Some(logit)) = (label, label_logit) {
                            let slope = self.head.softcap.map_or(1.0, |cap| 1.0 - (logit / cap) * (logit / cap));
                            logits[at] += dlogp * slope;
                        }
                    });
                    let dlogits = View::new(tile, rows, count);
                    let output = if first == 0 { Output::Overwrite } else { Output::Add };
                    matmul(ViewMut::new(&mut dhidden, rows, width), output, 1.0, dlogits, w, Threads::All);
                })?;
                if self.head.weight.is_trainable() {
                    let mut slot = self.head.weight.slot();
                    let dw = ViewMut::new(&mut slot.grad[first * width..], count, width);
                    matmul(dw, Output::Add, 1.0, View::new(tile, rows, count).t(), hidden, Threads::All);
                }
                if let Some(bias) = self.head.bias.as_ref().filter(|bias| bias.is_trainable()) {
                    column_sums(tile, &mut bias.slot().grad[first..first + count]);
                }
            }
            Ok(())
        };
        with_slice(hidden, |h| with_slice(dlogps, |d| backward(h, d)))???;
        Ok(Some(tensor_like(dhidden, hidden)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::*;

    fn plain(weight: &Arc<Param>) -> Head {
        Head { weight: weight.clone(), bias: None, softcap: None }
    }

    #[test]
    fn gradients_within_one_tile_and_across_tiles() {
        for vocab in [11, 2 * TILE + 3] {
            let last = vocab as u32 - 1;
            let labels = [0, last, 5, 5];
            let head = random_param(&[vocab, 3], 2);
            check_gradients(&[random_var(&[4, 3], 1)], &[head], |x, p| {
                linear_logp(&x[0], &plain(&p[0]), &labels).unwrap()
            });
            let params = [random_param(&[vocab, 3], 2), random_param(&[vocab], 3)];
            check_gradients(&[random_var(&[4, 3], 1)], &params, |x, p| {
                let head = Head { weight: p[0].clone(), bias: Some(p[1].clone()), softcap: Some(1.5) };
                linear_logp(&x[0], &head, &labels).unwrap()
            });
        }
    }

    #[test]
    fn equals_log_softmax() {
        let hidden = random_var(&[3, 4], 1);
        let head = random_param(&[TILE + 7, 4], 2);
        let labels = [0, TILE as u32 + 6, 17];
        let ours = linear_logp(hidden.as_tensor(), &plain(&head), &labels).unwrap().to_vec1::<f32>().unwrap();
        let logits = hidden.matmul(&head.weight().unwrap().t().unwrap()).unwrap();
        let theirs = candle_nn::ops::log_softmax(&logits, 1).unwrap().to_vec2::<f32>().unwrap();
        for (row, label) in labels.iter().enumerate() {
            assert!((ours[row] - theirs[row][*label as usize]).abs() < 2e-6);
        }
    }

    #[test]
    fn a_label_outside_the_vocabulary_is_refused() {
        let error =
            linear_logp(random_var(&[1, 3], 1).as_tensor(), &plain(&random_param(&[5, 3], 2)), &[5]).unwrap_err();
        assert!(error.to_string().contains("vocab_size = 5"), "{error}");
    }
}
