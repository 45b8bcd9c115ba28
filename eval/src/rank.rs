//! Correlations of ranks.

use std::cmp::Ordering;

use crate::stats::mean_and_deviation;

/// Spearman's rank correlation of pairs: Pearson's of the ranks, where equal values share the mean of theirs. `None` where one
/// side does not vary.
///
/// ```
/// use orpo_eval::rank::spearman;
///
/// assert_eq!(spearman(&[(1.0, 10.0), (2.0, 20.0), (3.0, 90.0)]), Some(1.0));
/// assert_eq!(spearman(&[(1.0, 10.0), (2.0, 10.0)]), None);
/// ```
pub fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    let first = ranks(&pairs.iter().map(|pair| pair.0).collect::<Vec<_>>());
    let second = ranks(&pairs.iter().map(|pair| pair.1).collect::<Vec<_>>());
    let ((first_mean, first_deviation), (second_mean, second_deviation)) =
        (mean_and_deviation(&first), mean_and_deviation(&second));
    if first_deviation == 0.0 || second_deviation == 0.0 {
        return None;
    }
    let product: f64 = first.iter().zip(&second).map(|(x, y)| (x - first_mean) * (y - second_mean)).sum();
    let correlation = product / ((pairs.len() - 1) as f64 * first_deviation * second_deviation);
    // Rounding can leave a last bit too much.
    Some(if (correlation.abs() - 1.0).abs() < 1e-12 { correlation.signum() } else { correlation })
}

/// Kendall's tau-b of pairs: concordant minus discordant among all twos of them, corrected for ties. `None` where one side does
/// not vary. Takes quadratic time.
pub fn kendall(pairs: &[(f64, f64)]) -> Option<f64> {
    let (mut balance, mut untied) = (0_i64, [0_u64; 2]);
    for (index, one) in pairs.iter().enumerate() {
        for other in &pairs[..index] {
            let [x, y] = [one.0.total_cmp(&other.0), one.1.total_cmp(&other.1)];
            untied[0] += u64::from(x != Ordering::Equal);
            untied[1] += u64::from(y != Ordering::Equal);
            balance += x as i64 * y as i64;
        }
    }
    let norm = (untied[0] as f64 * untied[1] as f64).sqrt();
    (norm > 0.0).then(|| balance as f64 / norm)
}

/// The rank of each value, from 1; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&one, &other| values[one].total_cmp(&values[other]));
    let mut ranks = vec![0.0; values.len()];
    for tied in order.chunk_by(|&one, &other| values[one] == values[other]) {
        let before = order.iter().position(|index| *index == tied[0]).expect("the chunk is a part of the order");
        for &index in tied {
            ranks[index] = before as f64 + (tied.len() as f64 + 1.0) / 2.0;
        }
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlations_are_those_of_scipy() {
        // scipy.stats.spearmanr and kendalltau of [1, 2, 3, 4, 5], [5, 6, 7, 8, 7]: the documentation's own example
        let pairs = [(1.0, 5.0), (2.0, 6.0), (3.0, 7.0), (4.0, 8.0), (5.0, 7.0)];
        assert!((spearman(&pairs).unwrap() - 0.820_782_681_668_123_3).abs() < 1e-12);
        // Concordant 8, discordant 1, one tie: 7 / sqrt(10 * 9)
        assert!((kendall(&pairs).unwrap() - 7.0 / 90.0_f64.sqrt()).abs() < 1e-12);
        // kendalltau([12, 2, 1, 12, 2], [1, 4, 7, 1, 0]): -0.47140452079103173
        let pairs = [(12.0, 1.0), (2.0, 4.0), (1.0, 7.0), (12.0, 1.0), (2.0, 0.0)];
        assert!((kendall(&pairs).unwrap() + 0.471_404_520_791_031_73).abs() < 1e-12);
    }

    #[test]
    fn reversed_is_minus_one_and_a_constant_has_none() {
        let reversed: Vec<(f64, f64)> = (0..13).map(|index| (f64::from(index), f64::from(-index))).collect();
        assert_eq!((spearman(&reversed), kendall(&reversed)), (Some(-1.0), Some(-1.0)));
        for none in [&[][..], &[(1.0, 2.0)], &[(1.0, 2.0), (1.0, 3.0)]] {
            assert_eq!((spearman(none), kendall(none)), (None, None));
        }
    }
}
