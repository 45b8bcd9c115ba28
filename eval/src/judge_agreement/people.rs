//! Several votes on a pair: the majority, and how far the voters agree among themselves.

use super::{Item, Vote};
use crate::compare::pair::Winner;

/// The winners with the most votes.
fn modes<'a>(votes: impl Iterator<Item = &'a Vote>) -> Vec<Winner> {
    let mut counts = [(Winner::A, 0), (Winner::B, 0), (Winner::Tie, 0)];
    for vote in votes {
        let winner = Winner::of(vote.preference);
        counts.iter_mut().filter(|(candidate, _)| *candidate == winner).for_each(|(_, count)| *count += 1);
    }
    let most = counts.iter().map(|(_, count)| *count).max().filter(|&most| most > 0);
    counts.into_iter().filter(|(_, count)| Some(*count) == most).map(|(winner, _)| winner).collect()
}

/// How far a winner agrees with those that have the most votes: where several have, with one of them that a coin chooses.
fn agreement(winner: Winner, modes: &[Winner]) -> f64 {
    if modes.contains(&winner) { 1.0 / modes.len() as f64 } else { 0.0 }
}

impl Item {
    /// The winner with the most votes; a tie where several have as many. None without votes.
    pub fn majority(&self) -> Option<Winner> {
        match modes(self.votes.iter())[..] {
            [] => None,
            [winner] => Some(winner),
            _ => Some(Winner::Tie),
        }
    }

    /// For each vote, how far it agrees with the majority of the others, and how far the judge does: two numbers from 0 to 1 that
    /// can be compared, as both are measured against the same people. Takes two votes; the judge's is None without a verdict.
    pub fn leave_one_out(&self) -> Vec<(f64, Option<f64>)> {
        if self.votes.len() < 2 {
            return Vec::new();
        }
        let judge = self.winner();
        let one = |index: usize| {
            let others = self.votes.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, vote)| vote);
            let modes = modes(others);
            let own = Winner::of(self.votes[index].preference);
            (agreement(own, &modes), judge.map(|winner| agreement(winner, &modes)))
        };
        (0..self.votes.len()).map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(votes: &[f64], judge: Option<f64>) -> Item {
        let votes = votes.iter().map(|&preference| Vote { annotator: None, preference }).collect();
        Item { votes, unplaced: judge, ..Item::default() }
    }

    #[test]
    fn the_majority_is_the_most_frequent_winner() {
        for (votes, winner) in [
            (&[1.0, 1.0, 0.0][..], Some(Winner::A)),
            (&[1.0, 0.0], Some(Winner::Tie)),
            (&[0.5, 0.5, 0.0], Some(Winner::Tie)),
            (&[0.2, 0.0, 1.0, 0.5], Some(Winner::B)),
            (&[], None),
        ] {
            assert_eq!(item(votes, None).majority(), winner, "{votes:?}");
        }
    }

    #[test]
    fn people_and_judge_are_measured_against_the_same_people() {
        // Three for A and one for B: without one for A two remain against one; without B, all agree.
        let found = item(&[1.0, 1.0, 1.0, 0.0], Some(0.9)).leave_one_out();
        assert_eq!(found, [(1.0, Some(1.0)), (1.0, Some(1.0)), (1.0, Some(1.0)), (0.0, Some(1.0))]);
        // Two against two: the others are always two to one for the other side.
        let found = item(&[1.0, 1.0, 0.0, 0.0], Some(0.9)).leave_one_out();
        assert_eq!(found, [(0.0, Some(0.0)), (0.0, Some(0.0)), (0.0, Some(1.0)), (0.0, Some(1.0))]);
        // Among three, two that differ are a coin.
        assert_eq!(item(&[1.0, 1.0, 0.0], None).leave_one_out()[0], (0.5, None));
        assert!(item(&[1.0], Some(1.0)).leave_one_out().is_empty());
    }
}
