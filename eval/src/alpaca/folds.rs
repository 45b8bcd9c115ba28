//! Which rows are held out together when the strength of the penalty is chosen.

use serde::{Deserialize, Serialize};

/// The number of folds.
pub(super) const FOLDS: usize = 5;

/// How rows are dealt out to folds. scikit-learn's `GroupKFold` goes through the groups in the order of a sort of equal
/// keys, so that the official result hangs on how numpy sorts on one machine: by up to 0.13 points.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum FoldLayout {
    /// As numpy sorts without AVX-512, which most published results rest on
    #[default]
    NumpyArgsort,
    /// Row i is in fold i mod 5
    Mod5,
}

impl FoldLayout {
    /// The fold of each of `n` rows.
    pub(super) fn folds(self, n: usize) -> Vec<usize> {
        match self {
            Self::Mod5 => (0..n).map(|row| row % FOLDS).collect(),
            Self::NumpyArgsort => {
                let mut folds = vec![0; n];
                for (turn, row) in sorted_equal_keys(n).into_iter().rev().enumerate() {
                    folds[row] = turn % FOLDS;
                }
                folds
            }
        }
    }
}

/// `np.argsort(np.full(n, 2))`: numpy's quicksort (`aquicksort_`, numpy 1.26), followed with keys that are all equal.
/// Partitions of up to 16 are sorted by insertion, which moves nothing here.
fn sorted_equal_keys(n: usize) -> Vec<usize> {
    const SMALL: usize = 15;
    let mut order: Vec<usize> = (0..n).collect();
    let mut partitions = vec![(0, n.saturating_sub(1))];
    while let Some((mut left, mut right)) = partitions.pop() {
        while right - left > SMALL {
            let middle = left + (right - left) / 2;
            order.swap(middle, right - 1);
            let (mut i, mut j) = (left, right - 1);
            loop {
                i += 1;
                j -= 1;
                if i >= j {
                    break;
                }
                order.swap(i, j);
            }
            order.swap(i, right - 1);
            // The larger part waits.
            if i - left < right - i {
                partitions.push((i + 1, right));
                right = i - 1;
            } else {
                partitions.push((left, i - 1));
                left = i + 1;
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_are_even() {
        for layout in [FoldLayout::NumpyArgsort, FoldLayout::Mod5] {
            for n in [0, 1, 5, 16, 17, 100, 2415] {
                let folds = layout.folds(n);
                let sizes: Vec<usize> =
                    (0..FOLDS).map(|fold| folds.iter().filter(|&&other| other == fold).count()).collect();
                assert_eq!(sizes.iter().sum::<usize>(), n);
                assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
            }
        }
    }

    #[test]
    fn equal_keys_are_sorted_as_numpy_does() {
        // np.argsort(np.full(n, 2)), numpy 1.26.4 with NPY_DISABLE_CPU_FEATURES=AVX512_SKX
        assert_eq!(sorted_equal_keys(16), (0..16).collect::<Vec<_>>());
        let order = [0, 14, 13, 12, 11, 10, 9, 15, 8, 6, 5, 4, 3, 2, 1, 7, 16];
        assert_eq!(sorted_equal_keys(17), order);
        let order = sorted_equal_keys(2415);
        let some = [0, 1, 2, 700, 1207, 2000, 2414].map(|index| order[index]);
        assert_eq!(some, [0, 1606, 1607, 2116, 1207, 1170, 2414]);
    }
}
