//! Embedding tables: the start of the forward pass and the end of the backward pass.

use super::refuse;
use crate::array::Array;
use crate::error::ModelError;
use crate::param::Param;

/// The rows of the table `(vocab, hidden)` for `ids`; [`accumulate_embedding_grad`] takes their gradient.
///
/// # Errors
/// When an id is not below `vocab`.
pub fn embedding(ids: &[u32], weight: &Param) -> Result<Array, ModelError> {
    let (vocab, hidden) = weight.dims2()?;
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
        return refuse(format!("token id {id} is not below the model's vocab_size = {vocab}"));
    }
    let mut values = Vec::with_capacity(ids.len() * hidden);
    weight.each_row(ids, |row| values.extend_from_slice(row))?;
    Ok(Array::new(ids.len(), hidden, values))
}

/// Adds `scale` times the gradient `(rows, hidden)` of the embedded rows to the table's slot, but for the id `untrained`.
///
/// # Errors
/// When the shapes do not match.
pub fn accumulate_embedding_grad(
    ids: &[u32],
    grad: &Array,
    scale: f32,
    untrained: Option<u32>,
    weight: &Param,
) -> Result<(), ModelError> {
    if !weight.is_trainable() {
        return Ok(());
    }
    let hidden = grad.width();
    if grad.rows() != ids.len() {
        return refuse(format!("{} rows of gradient for {} tokens", grad.rows(), ids.len()));
    }
    let mut slot = weight.slot();
    for (id, grad) in ids.iter().zip(grad.values().chunks_exact(hidden)).filter(|(id, _)| Some(**id) != untrained) {
        let row = &mut slot.grad[*id as usize * hidden..(*id as usize + 1) * hidden];
        row.iter_mut().zip(grad).for_each(|(sum, g)| *sum += scale * g);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::values::Values;
    use safetensors::Dtype;

    #[test]
    fn rows_come_out_and_gradients_add_up_per_token() {
        let weight = random_param(&[5, 3], 1);
        let ids = [4, 0, 4];
        let table = weight.values().unwrap();
        let rows = [&table[12..], &table[..3], &table[12..]].concat();
        assert_eq!(embedding(&ids, &weight).unwrap(), Array::new(3, 3, rows));

        let grad = Array::new(3, 3, vec![1., 2., 3., 10., 20., 30., 4., 5., 6.]);
        accumulate_embedding_grad(&ids, &grad, 1.0, None, &weight).unwrap();
        accumulate_embedding_grad(&ids, &grad, 2.0, Some(0), &weight).unwrap();
        let slot = weight.slot();
        assert_eq!(slot.grad[12..], [15., 21., 27.]);
        assert_eq!(slot.grad[..3], [10., 20., 30.]);
        assert_eq!(slot.grad[3..12], [0.0; 9]);
    }

    #[test]
    fn narrow_tables_are_widened() {
        let values = [1.0, 2.0, -0.5, 0.25];
        for dtype in [Dtype::BF16, Dtype::F16] {
            let narrow = Values::from_bytes(dtype, &Values::to_bytes(dtype, &values));
            let rows = embedding(&[1, 0], &Param::frozen("w", &[2, 2], narrow)).unwrap();
            assert_eq!(rows.values(), [-0.5, 0.25, 1.0, 2.0]);
        }
    }

    #[test]
    fn an_id_outside_the_vocabulary_is_refused() {
        let error = embedding(&[5], &random_param(&[5, 3], 1)).unwrap_err();
        assert!(error.to_string().contains("vocab_size = 5"), "{error}");
    }
}
