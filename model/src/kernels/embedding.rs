//! Embedding tables: the start of the forward pass and the end of the backward pass.

use candle_core::{DType, Device, Result, Tensor};

use super::with_slice;
use crate::param::Param;

/// The rows of the table `(vocab, hidden)` for `ids`, f32, outside any graph; [`accumulate_embedding_grad`] takes their
/// gradient after the backward pass.
///
/// # Errors
/// When an id is not below `vocab`.
pub fn embedding(ids: &[u32], weight: &Param) -> Result<Tensor> {
    let (vocab, _hidden) = weight.dims2()?;
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
        candle_core::bail!("token id {id} is not below the model's vocab_size = {vocab}");
    }
    let ids = Tensor::new(ids, &Device::Cpu)?;
    weight.stored()?.index_select(&ids, 0)?.to_dtype(DType::F32)
}

/// Adds `scale` times the gradient `(rows, hidden)` of the embedded rows to the table's slot, but for the id `untrained`.
///
/// # Errors
/// When the shapes do not match.
pub fn accumulate_embedding_grad(
    ids: &[u32],
    grad: &Tensor,
    scale: f32,
    untrained: Option<u32>,
    weight: &Param,
) -> Result<()> {
    if !weight.is_trainable() {
        return Ok(());
    }
    let (rows, hidden) = grad.dims2()?;
    if rows != ids.len() {
        candle_core::bail!("{rows} rows of gradient for {} tokens", ids.len());
    }
    let mut slot = weight.slot();
    with_slice(grad, |grad| {
        for (id, grad) in ids.iter().zip(grad.chunks_exact(hidden)).filter(|(id, _)| Some(**id) != untrained) {
            let row = &mut slot.grad[*id as usize * hidden..(*id as usize + 1) * hidden];
            row.iter_mut().zip(grad).for_each(|(sum, g)| *sum += scale * g);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::*;

    #[test]
    fn rows_come_out_and_gradients_add_up_per_token() {
        let weight = random_param(&[5, 3], 1);
        let ids = [4, 0, 4];
        let rows = embedding(&ids, &weight).unwrap().to_vec2::<f32>().unwrap();
        let table = weight.weight().unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(rows, [table[4].clone(), table[0].clone(), table[4].clone()]);

        let grad = Tensor::new(&[[1f32, 2., 3.], [10., 20., 30.], [4., 5., 6.]], &Device::Cpu).unwrap();
        accumulate_embedding_grad(&ids, &grad, 1.0, None, &weight).unwrap();
        accumulate_embedding_grad(&ids, &grad, 2.0, Some(0), &weight).unwrap();
        let slot = weight.slot();
        assert_eq!(slot.grad[12..], [15., 21., 27.]);
        assert_eq!(slot.grad[..3], [10., 20., 30.]);
        assert_eq!(slot.grad[3..12], [0.0; 9]);
    }

    #[test]
    fn an_id_outside_the_vocabulary_is_refused() {
        let error = embedding(&[5], &random_param(&[5, 3], 1)).unwrap_err();
        assert!(error.to_string().contains("vocab_size = 5"), "{error}");
    }
}
