//! The length-controlled win rate (Dubois et al., arXiv 2404.04475): the win rate that a logistic regression predicts
//! for answers as long as the baseline's. `alpaca_eval/metrics/glm_winrate.py`, `length_controlled_v1`.
//!
//! A preference is explained by three features, `tanh` of the difference of lengths in standard deviations, the
//! difficulty of the instruction, and the model itself; the prediction leaves the first out.

use serde::{Deserialize, Serialize};

use super::folds::{FOLDS, FoldLayout};
use super::gamed::{Difficulty, GamedRow};
use super::metrics::{mean, standard_deviation, standard_error};
use super::solver::{self, D, Observation, sigmoid};

/// What the regression sees of a comparison. Its place in the list decides which instruction's difficulty it is given,
/// as officially: where rows are missing, those behind them are misaligned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// From 1 (for the baseline) to 2 (for the model), if there is one.
    pub preference: Option<f64>,
    /// Unicode code points of the baseline's answer.
    pub length_1: usize,
    /// Unicode code points of the model's answer.
    pub length_2: usize,
}

/// What the regression finds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LengthControlled {
    /// In percent.
    pub win_rate: f64,
    /// The standard error of the mean of the predictions.
    pub standard_error: f64,
    /// The strength of the data against the penalty.
    #[serde(rename = "C")]
    pub c: f64,
    /// The weights of length, difficulty and model.
    pub coef: [f64; D],
    /// The predicted preference for the model of each row, from 0 to 1.
    pub predictions: Vec<f64>,
}

/// Why there is no length-controlled win rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LengthError {
    /// No row has a preference.
    #[error("no comparison has a preference")]
    NoPreferences,
    /// The difficulties are those of another set of instructions.
    #[error("no difficulty is known for instruction {row}: the files belong to a set of {known} instructions")]
    Difficulty {
        /// The row.
        row: usize,
        /// How many difficulties there are.
        known: usize,
    },
    /// Nothing can be said about length.
    #[error("not identifiable: all answers differ from the baseline's by the same length")]
    NoSpread,
}

/// The weight of a gamed row beside a model's: `regularize_to_baseline_lambda`, shared by the two gamed baselines.
const GAMED_WEIGHT: f64 = 0.2 / 2.0;

/// The regression's data.
#[derive(Debug, Clone)]
pub struct LengthRegression {
    /// The gamed rows, then the model's rows with a preference.
    observations: Vec<Observation>,
    /// The difficulty of each of the model's rows.
    difficulties: Vec<f64>,
}

impl LengthRegression {
    /// Puts the features together.
    ///
    /// # Errors
    /// When the rows do not allow a regression.
    pub fn new(rows: &[Row], gamed: &[GamedRow], difficulty: &Difficulty) -> Result<Self, LengthError> {
        let of = |row| difficulty.get(&row).copied().ok_or(LengthError::Difficulty { row, known: difficulty.len() });
        let difficulties = (0..rows.len()).map(of).collect::<Result<Vec<f64>, _>>()?;
        if rows.iter().all(|row| row.preference.is_none()) {
            return Err(LengthError::NoPreferences);
        }
        let deltas: Vec<f64> = rows.iter().map(|row| row.length_1 as f64 - row.length_2 as f64).collect();
        let deviation =
            standard_deviation(&deltas).filter(|&deviation| deviation > 0.0).ok_or(LengthError::NoSpread)?;
        let gamed = gamed.iter().map(|row| Observation {
            features: [row.std_delta_len.tanh(), row.difficulty, 0.0],
            target: row.preference,
            weight: GAMED_WEIGHT,
        });
        let own = rows.iter().zip(&deltas).zip(&difficulties).filter_map(|((row, delta), &difficulty)| {
            let target = row.preference? - 1.0;
            Some(Observation { features: [(delta / deviation).tanh(), difficulty, 1.0], target, weight: 1.0 })
        });
        Ok(Self { observations: gamed.chain(own).collect(), difficulties })
    }

    /// The candidates of C: ten from 1e-4 to 1e4, evenly spaced by their logarithms.
    pub fn strengths() -> [f64; 10] {
        std::array::from_fn(|step| 10.0_f64.powf(-4.0 + 8.0 * step as f64 / 9.0))
    }

    /// The win rate with this C.
    pub fn with_strength(&self, c: f64) -> LengthControlled {
        let coef = solver::fit(&self.observations, c, [0.0; D]);
        let predictions = self.predict(&coef);
        let mean = mean(&predictions).expect("without rows there is no regression");
        let error =
            standard_error(&predictions).expect("without a spread, which takes two rows, there is no regression");
        LengthControlled { win_rate: 100.0 * mean, standard_error: 100.0 * error, c, coef, predictions }
    }

    /// The preference for each of the model's answers, from 0 to 1, if it were as long as the baseline's.
    pub fn predict(&self, coef: &[f64; D]) -> Vec<f64> {
        self.difficulties.iter().map(|difficulty| sigmoid(coef[2] + coef[1] * difficulty)).collect()
    }

    /// The win rate with the C that predicts held-out rows best.
    pub fn fit(&self, layout: FoldLayout) -> LengthControlled {
        self.with_strength(Self::best(&self.scores(layout)))
    }

    /// The C with the highest score, the first of equal ones.
    pub fn best(scores: &[f64; 10]) -> f64 {
        let best = (1..scores.len()).fold(0, |best, next| if scores[next] > scores[best] { next } else { best });
        Self::strengths()[best]
    }

    /// For each C the sum over the folds of minus the mean weighted log-loss of the rows that were held out.
    pub fn scores(&self, layout: FoldLayout) -> [f64; 10] {
        let folds = layout.folds(self.observations.len());
        let mut scores = [0.0; 10];
        for fold in 0..FOLDS {
            let part = |held_out: bool| -> Vec<Observation> {
                let rows = self.observations.iter().zip(&folds);
                rows.filter(|(_, other)| (**other == fold) == held_out).map(|(row, _)| *row).collect()
            };
            let (seen, held_out) = (part(false), part(true));
            let mut coef = [0.0; D];
            for (score, c) in scores.iter_mut().zip(Self::strengths()) {
                coef = solver::fit(&seen, c, coef);
                let loss = |row: &Observation| {
                    row.weight * solver::log_loss(row.target, sigmoid(solver::dot(&coef, &row.features)))
                };
                *score -= held_out.iter().map(loss).sum::<f64>() / held_out.len().max(1) as f64;
            }
        }
        scores
    }
}

/// Where model and baseline are the same, 50 is right by construction.
pub fn of_the_baseline(rows: usize) -> LengthControlled {
    LengthControlled { win_rate: 50.0, standard_error: 0.0, c: 0.0, coef: [0.0; D], predictions: vec![0.5; rows] }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model that is longer where it wins, and a judge that likes length.
    fn rows() -> Vec<Row> {
        let row = |index: usize| Row {
            preference: (index != 7).then_some(if index.is_multiple_of(3) { 1.9 } else { 1.2 }),
            length_1: 100,
            length_2: if index.is_multiple_of(3) { 300 + index } else { 50 + index },
        };
        (0..60).map(row).collect()
    }

    fn gamed() -> Vec<GamedRow> {
        let row = |index: usize| {
            let std_delta_len = index as f64 / 30.0 - 1.0;
            GamedRow { preference: sigmoid(-std_delta_len), std_delta_len, difficulty: 0.0 }
        };
        (0..60).map(row).collect()
    }

    #[test]
    fn length_is_taken_out() {
        let difficulty: Difficulty = (0..60).map(|row| (row, (row % 5) as f64 / 5.0 - 0.4)).collect();
        let regression = LengthRegression::new(&rows(), &gamed(), &difficulty).unwrap();
        for layout in [FoldLayout::NumpyArgsort, FoldLayout::Mod5] {
            let found = regression.fit(layout);
            assert_eq!(found.predictions.len(), 60, "rows without a preference are predicted, too");
            assert!(found.coef[0] < -0.1, "{found:?}");
            assert!(LengthRegression::strengths().contains(&found.c));
        }
        assert_eq!(regression.with_strength(1e-4).win_rate, 50.0, "nothing is learnt against such a penalty");
    }

    #[test]
    fn what_allows_no_regression_is_said() {
        let difficulty: Difficulty = (0..60).map(|row| (row, 0.0)).collect();
        let of = |rows: &[Row], difficulty| LengthRegression::new(rows, &gamed(), difficulty).map(|_| ()).unwrap_err();
        let few: Difficulty = (0..59).map(|row| (row, 0.0)).collect();
        assert_eq!(of(&rows(), &few), LengthError::Difficulty { row: 59, known: 59 });
        let blank: Vec<Row> = rows().into_iter().map(|row| Row { preference: None, ..row }).collect();
        assert_eq!(of(&blank, &difficulty), LengthError::NoPreferences);
        let equal: Vec<Row> = rows().into_iter().map(|row| Row { length_2: row.length_1 + 3, ..row }).collect();
        assert_eq!(of(&equal, &difficulty), LengthError::NoSpread);
    }
}
