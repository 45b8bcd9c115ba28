//! Which examples make which step: a pure function of seed, epoch and lengths, so that a resumed run needs no state to
//! continue the order.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::Mixture;

/// Sorting by length happens within this many micro-batches, as in transformers: the order stays random beyond them.
const MEGABATCH: usize = 50;

/// How many examples make a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchSize {
    /// So many; the last one of an epoch may have fewer.
    Examples(usize),
    /// As many as fit into so many tokens, a pair's shared prompt counted once; at least one.
    Tokens(usize),
}

/// How the examples of an epoch become steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// Size of a micro-batch.
    pub size: BatchSize,
    /// Whether a micro-batch is made of examples of similar length.
    pub group_by_length: bool,
    /// Micro-batches of one step.
    pub accumulation: usize,
    /// Seed of the order.
    pub seed: u64,
}

impl Batching {
    /// The steps of `epoch`, each a list of micro-batches of examples, whose lengths are `lengths`. The examples are those
    /// of `mixture`; the last step may be smaller.
    pub fn epoch(&self, mixture: &Mixture, lengths: &[usize], epoch: usize) -> Vec<Vec<Vec<usize>>> {
        let mut order = mixture.epoch(self.seed, epoch);
        let micro_batches = if self.group_by_length {
            let mut micro_batches = Vec::new();
            for megabatch in order.chunks_mut(self.megabatch(lengths)) {
                megabatch.sort_by_key(|index| std::cmp::Reverse(lengths[*index]));
                micro_batches.extend(self.size.split(megabatch, lengths));
            }
            micro_batches.shuffle(&mut epoch_rng(!self.seed, epoch));
            micro_batches
        } else {
            self.size.split(&order, lengths)
        };
        micro_batches.chunks(self.accumulation).map(|step| step.to_vec()).collect()
    }

    /// Examples that are sorted together: whole micro-batches, and at least four such groups where there are examples
    /// enough (the rule of transformers' `LengthGroupedSampler`).
    fn megabatch(&self, lengths: &[usize]) -> usize {
        let size = match self.size {
            BatchSize::Examples(size) => size,
            BatchSize::Tokens(budget) => budget * lengths.len() / lengths.iter().sum::<usize>().max(1),
        };
        let size = size.max(1);
        size * (lengths.len() / (4 * size)).clamp(1, MEGABATCH)
    }
}

impl BatchSize {
    /// Cuts `order` into micro-batches without changing it.
    pub fn split(self, order: &[usize], lengths: &[usize]) -> Vec<Vec<usize>> {
        match self {
            Self::Examples(size) => order.chunks(size).map(|chunk| chunk.to_vec()).collect(),
            Self::Tokens(budget) => {
                let mut micro_batches: Vec<Vec<usize>> = Vec::new();
                let mut tokens = 0;
                for index in order {
                    tokens += lengths[*index];
                    match micro_batches.last_mut() {
                        Some(last) if tokens <= budget => last.push(*index),
                        _ => {
                            micro_batches.push(vec![*index]);
                            tokens = lengths[*index];
                        }
                    }
                }
                micro_batches
            }
        }
    }
}

/// A permutation of `0..count` for `epoch`.
pub(super) fn epoch_order(count: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut epoch_rng(seed, epoch));
    order
}

/// The random numbers of an epoch.
fn epoch_rng(seed: u64, epoch: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch as u64);
    rng
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(lengths: &[usize]) -> Mixture {
        Mixture::new(vec![(0..lengths.len(), 1.0)])
    }

    fn batching(size: BatchSize, group_by_length: bool, accumulation: usize) -> Batching {
        Batching { size, group_by_length, accumulation, seed: 1 }
    }

    #[test]
    fn the_order_changes_with_seed_and_epoch() {
        let plain = batching(BatchSize::Examples(4), false, 1);
        let lengths = [1; 100];
        assert_eq!(plain.epoch(&all(&lengths), &lengths, 0), plain.epoch(&all(&lengths), &lengths, 0));
        assert_ne!(plain.epoch(&all(&lengths), &lengths, 0), plain.epoch(&all(&lengths), &lengths, 1));
        assert_ne!(
            plain.epoch(&all(&lengths), &lengths, 0),
            Batching { seed: 2, ..plain }.epoch(&all(&lengths), &lengths, 0)
        );
    }

    #[test]
    fn only_the_last_step_is_smaller() {
        let steps = batching(BatchSize::Examples(2), false, 2).epoch(&all(&[1; 11]), &[1; 11], 0);
        let sizes: Vec<Vec<usize>> = steps.iter().map(|step| step.iter().map(Vec::len).collect()).collect();
        assert_eq!(sizes, [vec![2, 2], vec![2, 2], vec![2, 1]]);
    }

    #[test]
    fn grouping_makes_micro_batches_of_similar_length() {
        let lengths: Vec<usize> = (0..1000).map(|i| 10 + i * 7919 % 500).collect();
        let spread = |group_by_length| -> usize {
            let steps = batching(BatchSize::Examples(8), group_by_length, 1).epoch(&all(&lengths), &lengths, 0);
            let range = |batch: &Vec<usize>| {
                let of = || batch.iter().map(|i| lengths[*i]);
                of().max().unwrap() - of().min().unwrap()
            };
            steps.iter().flatten().map(range).sum::<usize>() / steps.len()
        };
        assert!(spread(true) * 8 < spread(false), "{} against {}", spread(true), spread(false));
        // The batches themselves come in random order.
        let first: Vec<usize> = batching(BatchSize::Examples(8), true, 1)
            .epoch(&all(&lengths), &lengths, 0)
            .iter()
            .map(|step| lengths[step[0][0]])
            .collect();
        assert!(!first.is_sorted() && !first.iter().rev().is_sorted());
    }

    proptest! {
        #[test]
        fn every_example_once_an_epoch_within_the_budget(
            lengths in prop::collection::vec(1usize..60, 1..200),
            size in prop_oneof![(1usize..10).prop_map(BatchSize::Examples), (60usize..200).prop_map(BatchSize::Tokens)],
            group_by_length: bool,
            accumulation in 1usize..5,
            epoch in 0usize..3,
        ) {
            let steps = batching(size, group_by_length, accumulation).epoch(&all(&lengths), &lengths, epoch);
            let mut seen: Vec<usize> = steps.iter().flatten().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert!(seen.into_iter().eq(0..lengths.len()));
            for micro_batch in steps.iter().flatten() {
                prop_assert!(!micro_batch.is_empty());
                match size {
                    BatchSize::Examples(size) => prop_assert!(micro_batch.len() <= size),
                    BatchSize::Tokens(budget) => {
                        prop_assert!(micro_batch.iter().map(|i| lengths[*i]).sum::<usize>() <= budget);
                    }
                }
            }
            let (last, whole) = steps.split_last().unwrap();
            prop_assert!(whole.iter().all(|step| step.len() == accumulation));
            prop_assert!((1..=accumulation).contains(&last.len()));
        }
    }
}
