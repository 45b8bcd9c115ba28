//! Sums, and picking rows.

use rayon::prelude::*;

use super::refuse;
use crate::array::Array;
use crate::error::ModelError;

const CHUNK: usize = 1 << 14;

/// `x += y`.
///
/// # Errors
/// When the shapes differ.
pub fn add(x: &mut Array, y: &Array) -> Result<(), ModelError> {
    if x.shape() != y.shape() {
        return refuse(format!("a sum of {:?} and {:?}", x.shape(), y.shape()));
    }
    let chunks = x.values_mut().par_chunks_mut(CHUNK).zip(y.values().par_chunks(CHUNK));
    chunks.for_each(|(x, y)| x.iter_mut().zip(y).for_each(|(x, y)| *x += y));
    Ok(())
}

/// `x *= factor`.
pub fn scale(x: &mut Array, factor: f32) {
    x.values_mut().par_chunks_mut(CHUNK).for_each(|x| x.iter_mut().for_each(|x| *x *= factor));
}

/// Some rows of `x`, each as often as it is named.
///
/// # Errors
/// When there is no such row.
pub fn select_rows(x: &Array, rows: &[u32]) -> Result<Array, ModelError> {
    let mut values = Vec::with_capacity(rows.len() * x.width());
    for row in rows {
        if *row as usize >= x.rows() {
            return refuse(format!("row {row} of {} rows", x.rows()));
        }
        values.extend_from_slice(x.row(*row as usize));
    }
    Ok(Array::new(rows.len(), x.width(), values))
}

/// The backward pass of [`select_rows`] from an array of `count` rows: what is there for each row is added up.
///
/// # Errors
/// When there is no such row, or there are not as many rows as names.
pub fn spread_rows(grad: &Array, rows: &[u32], count: usize) -> Result<Array, ModelError> {
    let width = grad.width();
    let mut sums = Array::zeros(count, width);
    if grad.rows() != rows.len() || rows.iter().any(|row| *row as usize >= count) {
        return refuse(format!("{} rows for {rows:?} of {count}", grad.rows()));
    }
    for (grad, row) in grad.values().chunks_exact(width).zip(rows) {
        let sum = &mut sums.values_mut()[*row as usize * width..][..width];
        sum.iter_mut().zip(grad).for_each(|(sum, grad)| *sum += grad);
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_out_and_their_gradients_add_up() {
        let x = Array::new(3, 2, vec![1., 2., 3., 4., 5., 6.]);
        assert_eq!(select_rows(&x, &[2, 0, 2]).unwrap().values(), [5., 6., 1., 2., 5., 6.]);
        let grad = Array::new(3, 2, vec![1., 2., 10., 20., 100., 200.]);
        assert_eq!(spread_rows(&grad, &[2, 0, 2], 3).unwrap().values(), [10., 20., 0., 0., 101., 202.]);
        assert!(select_rows(&x, &[3]).is_err() && spread_rows(&grad, &[0, 1, 3], 3).is_err());
    }

    #[test]
    fn shapes_of_a_sum_must_be_equal() {
        let mut x = Array::new(1, 2, vec![1., 2.]);
        add(&mut x, &Array::new(1, 2, vec![0.5, -1.])).unwrap();
        scale(&mut x, 2.0);
        assert_eq!(x.values(), [3., 2.]);
        assert!(add(&mut x, &Array::zeros(2, 1)).is_err());
    }
}
