//! How often the rows of several sources are used in an epoch.

use std::ops::Range;

use super::order::epoch_order;

/// Examples of several sources with a weight each: every example of a source is used so many times an epoch, and of a
/// fraction so many examples are drawn anew for each epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    parts: Vec<(Range<usize>, f64)>,
}

impl Mixture {
    /// A mixture of `parts`: ranges of examples with their weights.
    pub fn new(parts: Vec<(Range<usize>, f64)>) -> Self {
        Self { parts }
    }

    /// How many examples an epoch has, the same for every epoch.
    pub fn epoch_len(&self) -> usize {
        self.parts.iter().map(|(range, weight)| range.len() * weight.floor() as usize + drawn(range, *weight)).sum()
    }

    /// The examples of `epoch` in the order of their use, a function of `seed` and `epoch` alone. With all weights 1 it
    /// is [`epoch_order`].
    pub fn epoch(&self, seed: u64, epoch: usize) -> Vec<usize> {
        let mut examples = Vec::with_capacity(self.epoch_len());
        for (index, (range, weight)) in self.parts.iter().enumerate() {
            for _ in 0..weight.floor() as usize {
                examples.extend(range.clone());
            }
            let drawn = drawn(range, *weight);
            if drawn > 0 {
                // A seed of its own, so that what is drawn does not depend on the other sources.
                let order = epoch_order(range.len(), seed.wrapping_add(1 + index as u64), epoch);
                examples.extend(order.into_iter().take(drawn).map(|i| range.start + i));
            }
        }
        epoch_order(examples.len(), seed, epoch).into_iter().map(|i| examples[i]).collect()
    }
}

/// How many examples the fraction of a weight stands for.
fn drawn(range: &Range<usize>, weight: f64) -> usize {
    (range.len() as f64 * weight.fract()).round() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_weights_change_nothing() {
        let mixture = Mixture::new(vec![(0..7, 1.0), (7..10, 1.0)]);
        assert_eq!(mixture.epoch_len(), 10);
        assert_eq!(mixture.epoch(5, 2), epoch_order(10, 5, 2));
    }

    #[test]
    fn weights_count_uses_and_fractions_are_drawn_anew() {
        let mixture = Mixture::new(vec![(0..10, 2.5), (10..14, 0.5), (14..20, 1.0)]);
        let epoch = |epoch| {
            let mut counts = [0usize; 20];
            let examples = mixture.epoch(1, epoch);
            assert_eq!(examples.len(), mixture.epoch_len());
            examples.into_iter().for_each(|i| counts[i] += 1);
            counts
        };
        let counts = epoch(0);
        assert_eq!(counts[..10].iter().sum::<usize>(), 25);
        assert!(counts[..10].iter().all(|count| (2..=3).contains(count)));
        assert_eq!(counts[10..14].iter().sum::<usize>(), 2);
        assert!(counts[14..].iter().all(|count| *count == 1));
        assert_eq!(counts, epoch(0));
        assert_ne!(counts, epoch(1));
    }
}
