//! The order of examples, a function of seed and epoch alone, so that a resumed run needs no state to continue it.

use rand::SeedableRng;
use rand::seq::SliceRandom;

/// A permutation of `0..count` for `epoch`.
pub fn epoch_order(count: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch as u64);
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut rng);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_that_changes_with_seed_and_epoch() {
        let mut order = epoch_order(100, 1, 0);
        assert_eq!(order, epoch_order(100, 1, 0));
        assert_ne!(order, epoch_order(100, 1, 1));
        assert_ne!(order, epoch_order(100, 2, 0));
        order.sort_unstable();
        assert!(order.into_iter().eq(0..100));
    }
}
