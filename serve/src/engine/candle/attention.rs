//! Self-attention with a key-value cache, as the decoders here share it.

use candle_core::{Device, Module, Result, Tensor};
use candle_nn::Linear;
use candle_nn::kv_cache::KvCache;
use candle_nn::ops::softmax_last_dim;

use super::decoder::PASS;
use super::rotary::Rotary;

/// The attention of one layer: what it is fed continues what it was fed before.
pub struct Attention {
    projections: Projections,
    heads: usize,
    key_value_heads: usize,
    cache: KvCache,
}

/// The matrices of an [`Attention`].
pub struct Projections {
    /// `(hidden, heads * head_dim)`.
    pub query: Linear,
    /// `(hidden, key_value_heads * head_dim)`.
    pub key: Linear,
    /// As `key`.
    pub value: Linear,
    /// `(heads * head_dim, hidden)`.
    pub output: Linear,
}

impl Attention {
    /// `heads` is a multiple of `key_value_heads`; neighbouring heads share keys and values.
    pub fn new(projections: Projections, heads: usize, key_value_heads: usize) -> Self {
        Self { projections, heads, key_value_heads, cache: empty_cache() }
    }

    /// Forgets what it was fed.
    pub fn clear(&mut self) {
        self.cache = empty_cache();
    }

    /// Mixes the rows of `input`, `(ids, hidden)`, with those before them. `rotary` holds the positions of these rows,
    /// `mask` is [`causal_mask`]'s.
    ///
    /// # Errors
    /// candle's.
    pub fn forward(&mut self, input: &Tensor, rotary: Option<&Rotary>, mask: Option<&Tensor>) -> Result<Tensor> {
        let ids = input.dim(0)?;
        let rotated = |rows: Tensor| rotary.map_or(Ok(rows.clone()), |rotary| rotary.rotate(&rows));
        let queries = rotated(split(&self.projections.query.forward(input)?, self.heads)?)?;
        let keys = rotated(split(&self.projections.key.forward(input)?, self.key_value_heads)?)?;
        let values = split(&self.projections.value.forward(input)?, self.key_value_heads)?;
        let head_dim = queries.dim(2)?;
        let (keys, values) = self.cache.append(&keys, &values)?;
        let seen = keys.dim(1)?;

        // The heads that share keys are one long head.
        let shared = (self.key_value_heads, self.heads / self.key_value_heads * ids, head_dim);
        let queries = (queries * (head_dim as f64).powf(-0.5))?.reshape(shared)?;
        let mut scores = queries.matmul(&keys.t()?)?.reshape((self.heads, ids, seen))?;
        if let Some(mask) = mask {
            scores = scores.broadcast_add(mask)?;
        }
        let weights = softmax_last_dim(&scores)?.reshape((shared.0, shared.1, seen))?;
        let mixed = weights.matmul(&values)?.reshape((self.heads, ids, head_dim))?;
        self.projections.output.forward(&mixed.transpose(0, 1)?.reshape((ids, self.heads * head_dim))?)
    }
}

/// `(ids, heads * head_dim)` to `(heads, ids, head_dim)`.
fn split(rows: &Tensor, heads: usize) -> Result<Tensor> {
    rows.reshape((rows.dim(0)?, heads, rows.dim(1)? / heads))?.transpose(0, 1)?.contiguous()
}

/// What is added to the scores of `ids` queries that follow `seen` keys, `(ids, seen + ids)`; none for one query, which
/// sees every key.
///
/// # Errors
/// candle's.
pub fn causal_mask(ids: usize, seen: usize) -> Result<Option<Tensor>> {
    if ids == 1 {
        return Ok(None);
    }
    let sees = |query: usize, key: usize| if key <= seen + query { 0.0 } else { f32::NEG_INFINITY };
    let mask: Vec<f32> = (0..ids).flat_map(|query| (0..seen + ids).map(move |key| sees(query, key))).collect();
    Tensor::from_vec(mask, (ids, seen + ids), &Device::Cpu).map(Some)
}

/// `(heads, ids, head_dim)`, with room for a pass to begin with.
fn empty_cache() -> KvCache {
    KvCache::new(1, PASS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: usize = 8;

    /// A matrix of `rows` outputs that depends on `salt`.
    fn matrix(rows: usize, salt: usize) -> Tensor {
        let values: Vec<f32> = (0..rows * HIDDEN).map(|index| ((index * 31 + salt * 17) as f32).sin()).collect();
        Tensor::from_vec(values, (rows, HIDDEN), &Device::Cpu).unwrap()
    }

    fn attention(key: Tensor, value: Tensor, key_value_heads: usize) -> Attention {
        let linear = |weight| Linear::new(weight, None);
        let (query, output) = (linear(matrix(HIDDEN, 1)), linear(matrix(HIDDEN, 4)));
        Attention::new(Projections { query, key: linear(key), value: linear(value), output }, 4, key_value_heads)
    }

    /// Both heads twice, one behind the other.
    fn twice(rows: &Tensor) -> Tensor {
        let heads = rows.reshape((2, 1, 2, HIDDEN)).unwrap();
        Tensor::cat(&[&heads, &heads], 1).unwrap().reshape((HIDDEN, HIDDEN)).unwrap()
    }

    #[test]
    fn shared_keys_are_those_of_neighbouring_heads_in_one_pass_and_in_several() {
        let (key, value) = (matrix(4, 2), matrix(4, 3));
        let input = matrix(5, 5);
        let mask = causal_mask(5, 0).unwrap();
        let whole = attention(twice(&key), twice(&value), 4).forward(&input, None, mask.as_ref()).unwrap();
        let mut shared = attention(key, value, 2);
        let mut parts = Vec::new();
        for (start, ids) in [(0, 2), (2, 2), (4, 1)] {
            let mask = causal_mask(ids, start).unwrap();
            parts.push(shared.forward(&input.narrow(0, start, ids).unwrap(), None, mask.as_ref()).unwrap());
        }
        let difference = (Tensor::cat(&parts, 0).unwrap() - whole).unwrap().abs().unwrap().max_all().unwrap();
        assert!(difference.to_scalar::<f32>().unwrap() < 1e-6, "{difference}");
    }
}
