//! From pairs of games to wins, losses and ties.
//!
//! As in FastChat's `show_result.py`: a pair counts only if both games have a verdict; it is a win if both games say
//! the same model and else a tie. The intervals of `win_rate` and `loss_rate` are Wilson's and take pairs for
//! independent; that of `win_rate_adjusted`, in which a tie is half a win, takes questions for the observations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::judged::Sample;
use super::judgment::{GameWinner, PairJudgment};
use super::{Id, Turn};
use crate::bias::{Bias, Judged};
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

/// What the verdicts depend on besides quality; the answers of a question are one group. Lengths are those of the answers in
/// the samples, where they have some.
pub fn bias<'a>(judgments: impl IntoIterator<Item = &'a PairJudgment>, samples: &[Sample]) -> Option<Bias> {
    type Key<'a> = (&'a Id, Turn, &'a str, &'a str);
    let answers: BTreeMap<Key<'_>, [&str; 2]> = samples
        .iter()
        .filter_map(|sample| match (&sample.models[..], &sample.responses[..]) {
            ([first, second], [Some(one), Some(other)]) => {
                Some(((&sample.question_id, sample.turn, first.as_str(), second.as_str()), [one.as_str(), other]))
            }
            _ => None,
        })
        .collect();
    let preference = |winner: GameWinner| match winner {
        GameWinner::Model1 => Some(1.0),
        GameWinner::Model2 => Some(0.0),
        GameWinner::Tie => Some(0.5),
        GameWinner::Error => None,
    };
    let mut groups: BTreeMap<&Id, Vec<Judged>> = BTreeMap::new();
    for judgment in judgments {
        let PairJudgment { question_id, turn, model_1, model_2, g1_winner, g2_winner, .. } = judgment;
        let texts = answers.get(&(question_id, *turn, model_1.as_str(), model_2.as_str()));
        if texts.is_some_and(|[one, other]| one == other) {
            continue;
        }
        let lengths = texts.map(|texts| texts.map(|text| text.chars().count()));
        let placed = [*g1_winner, *g2_winner].map(preference);
        groups.entry(question_id).or_default().push(Judged { placed, unplaced: None, lengths });
    }
    Bias::of(&groups.into_values().collect::<Vec<_>>())
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

    #[test]
    fn places_and_lengths_are_told_apart() {
        let row = |id: u32, first: &str, second: &str| {
            serde_json::from_value::<PairJudgment>(
                serde_json::json!({"question_id": id, "model_1": "m", "model_2": "n",
                "g1_winner": first, "g2_winner": second, "judge": ["j", "pair-v2"], "turn": 1}),
            )
            .unwrap()
        };
        // The first place twice, the longer answer twice, and the same answer.
        let judgments = [row(1, "model_1", "model_2"), row(2, "model_2", "model_2"), row(3, "tie", "tie")];
        let sample = |id: u32, responses: [&str; 2]| Sample {
            question_id: row(id, "tie", "tie").question_id,
            category: None,
            turn: judgments[0].turn,
            prompt: None,
            models: vec!["m".into(), "n".into()],
            responses: responses.map(|text| Some(text.to_owned())).to_vec(),
            score: None,
            winner: None,
            games: Vec::new(),
            reason: None,
            unscored: None,
        };
        let samples = [sample(1, ["äöü", "ab"]), sample(2, ["a", "ab"]), sample(3, ["same", "same"])];
        let found = bias(&judgments, &samples).unwrap();
        assert_eq!((found.pairs, found.first_place.unwrap().value), (2, Some(0.75)));
        assert_eq!((found.self_consistency.unwrap().value, found.longer.unwrap().value), (Some(0.5), Some(0.75)));
        // A file of judgments has no answers.
        let found = bias(&judgments, &[]).unwrap();
        assert_eq!((found.pairs, found.longer, found.mean_length), (3, None, None));
    }
}
