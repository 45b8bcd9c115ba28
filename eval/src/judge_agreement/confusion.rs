//! Which winners the reference and the judge name.

use serde::Serialize;
use serde_json::{Value, json};

use crate::compare::pair::Winner;

/// Counts of pairs by the winner of the reference (rows) and of the judge (columns), in the order A, B, tie.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Confusion(pub [[usize; 3]; 3]);

const WINNERS: [Winner; 3] = [Winner::A, Winner::B, Winner::Tie];

impl Confusion {
    /// Counts pairs of winners, the reference's first.
    pub fn of(winners: impl IntoIterator<Item = (Winner, Winner)>) -> Self {
        let index = |winner: Winner| WINNERS.iter().position(|&one| one == winner).expect("all winners are listed");
        let mut counts = [[0; 3]; 3];
        for (reference, judge) in winners {
            counts[index(reference)][index(judge)] += 1;
        }
        Self(counts)
    }

    /// The sum of several.
    pub fn sum<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut sum = Self::default();
        for Self(counts) in all {
            for (row, more) in sum.0.iter_mut().zip(counts) {
                row.iter_mut().zip(more).for_each(|(count, more)| *count += more);
            }
        }
        sum
    }

    /// All pairs.
    pub fn total(&self) -> usize {
        self.0.iter().flatten().sum()
    }

    /// Pairs with the same winner, a tie being one.
    pub fn agreed(&self) -> usize {
        (0..3).map(|index| self.0[index][index]).sum()
    }

    /// Cohen's kappa: the agreement beyond what the shares of each winner would give by chance. `None` without pairs, or where
    /// both always name the same one.
    pub fn kappa(&self) -> Option<f64> {
        let n = self.total() as f64;
        let row = |index: usize| self.0[index].iter().sum::<usize>() as f64 / n;
        let column = |index: usize| self.0.iter().map(|row| row[index]).sum::<usize>() as f64 / n;
        let by_chance: f64 = (0..3).map(|index| row(index) * column(index)).sum();
        let agreed = self.agreed() as f64 / n;
        (by_chance < 1.0 - 1e-12).then(|| (agreed - by_chance) / (1.0 - by_chance)).filter(|kappa| kappa.is_finite())
    }

    /// By the reference's winner, then by the judge's.
    pub fn to_json(self) -> Value {
        let name = |winner: Winner| serde_json::to_value(winner).expect("a winner is a word");
        let named = |counts: [usize; 3]| json!({"a": counts[0], "b": counts[1], "tie": counts[2]});
        let rows = WINNERS.iter().zip(self.0);
        rows.map(|(&winner, counts)| (name(winner).as_str().unwrap_or_default().to_owned(), named(counts))).collect()
    }
}

impl Serialize for Confusion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::cohens_kappa;
    use Winner::{A, B, Tie};

    #[test]
    fn kappa_is_that_of_single_ratings() {
        let ratings = [(A, A), (A, B), (B, B), (B, B), (Tie, A), (Tie, Tie), (A, A), (B, A)];
        let confusion = Confusion::of(ratings);
        assert_eq!((confusion.total(), confusion.agreed()), (8, 5));
        assert!((confusion.kappa().unwrap() - cohens_kappa(&ratings).unwrap()).abs() < 1e-12);
        assert_eq!(Confusion::sum(&[confusion, confusion]).total(), 16);
        assert_eq!(confusion.to_json()["tie"], json!({"a": 1, "b": 0, "tie": 1}));
    }

    #[test]
    fn the_reference_itself_agrees_and_its_opposite_does_not() {
        assert_eq!(Confusion::of([(A, A), (B, B), (Tie, Tie)]).kappa(), Some(1.0));
        assert_eq!(Confusion::of([(A, B), (B, A)]).kappa(), Some(-1.0));
        assert_eq!((Confusion::of([(A, A)]).kappa(), Confusion::default().kappa()), (None, None));
    }
}
