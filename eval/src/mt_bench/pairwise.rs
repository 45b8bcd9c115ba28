//! From pairs of games to wins, losses and ties.
//!
//! As in FastChat's `show_result.py`: a pair counts only if both games have a verdict; it is a win if both games say
//! the same model and else a tie. The intervals of `win_rate` and `loss_rate` are Wilson's and take pairs for
//! independent; that of `win_rate_adjusted`, in which a tie is half a win, takes questions for the observations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Id;
use super::judgment::{GameWinner, PairJudgment};
use crate::stats::Metric;

/// What two games say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PairOutcome {
    /// Both games say the first model.
    #[serde(rename = "model_1")]
    Model1,
    /// Both games say the second model.
    #[serde(rename = "model_2")]
    Model2,
    /// A tie, or two different models.
    Tie,
}

/// What two games say; `None` where either has no verdict.
pub fn outcome(first: GameWinner, second: GameWinner) -> Option<PairOutcome> {
    match (first, second) {
        (GameWinner::Error, _) | (_, GameWinner::Error) => None,
        (GameWinner::Model1, GameWinner::Model1) => Some(PairOutcome::Model1),
        (GameWinner::Model2, GameWinner::Model2) => Some(PairOutcome::Model2),
        _ => Some(PairOutcome::Tie),
    }
}

/// How one model did against the others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Pairs that it won.
    pub win: usize,
    /// Pairs that it lost.
    pub loss: usize,
    /// Pairs that nobody won.
    pub tie: usize,
    /// `win / n`.
    pub win_rate: Metric,
    /// `loss / n`.
    pub loss_rate: Metric,
    /// `(win + tie / 2) / n`.
    pub win_rate_adjusted: Metric,
}

/// The standing of every model; against a baseline only the pairs with it count, and the baseline itself is left out.
pub fn standings(judgments: &[PairJudgment], baseline: Option<&str>) -> BTreeMap<String, Standing> {
    let mut points: BTreeMap<&str, BTreeMap<&Id, Vec<f64>>> = BTreeMap::new();
    for judgment in judgments {
        let PairJudgment { question_id, model_1, model_2, g1_winner, g2_winner, .. } = judgment;
        if baseline.is_some_and(|baseline| baseline != model_1 && baseline != model_2) {
            continue;
        }
        let Some(outcome) = outcome(*g1_winner, *g2_winner) else { continue };
        let [first, second] = match outcome {
            PairOutcome::Model1 => [1.0, 0.0],
            PairOutcome::Model2 => [0.0, 1.0],
            PairOutcome::Tie => [0.5, 0.5],
        };
        for (model, point) in [(model_1, first), (model_2, second)] {
            points.entry(model).or_default().entry(question_id).or_default().push(point);
        }
    }
    points.retain(|&model, _| baseline != Some(model));
    points.into_iter().map(|(model, points)| (model.to_owned(), standing(points.into_values().collect()))).collect()
}

/// The standing of a model whose pairs gave it these points, question by question.
#[expect(clippy::float_cmp, reason = "points are exactly 0, 0.5 or 1")]
fn standing(points: Vec<Vec<f64>>) -> Standing {
    let count = |value: f64| points.iter().flatten().filter(|&&point| point == value).count();
    let (win, loss, tie) = (count(1.0), count(0.0), count(0.5));
    let n = win + loss + tie;
    Standing {
        win,
        loss,
        tie,
        win_rate: Metric::proportion(win, n),
        loss_rate: Metric::proportion(loss, n),
        win_rate_adjusted: Metric::clustered_mean(&points, [0.0, 1.0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use GameWinner::{Error, Model1, Model2, Tie};

    #[test]
    fn two_games_make_one_outcome() {
        assert_eq!(outcome(Model1, Model1), Some(PairOutcome::Model1));
        assert_eq!(outcome(Model2, Model2), Some(PairOutcome::Model2));
        for (first, second) in [(Model1, Model2), (Tie, Tie), (Tie, Model1), (Model2, Tie)] {
            assert_eq!(outcome(first, second), Some(PairOutcome::Tie));
        }
        for (first, second) in [(Error, Model1), (Model1, Error), (Error, Error), (Tie, Error)] {
            assert_eq!(outcome(first, second), None);
        }
    }
}
