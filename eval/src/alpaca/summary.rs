//! What some comparisons come to: the content of `results.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::annotations::Names;
use super::comparison::{Comparison, Problem};
use super::folds::FoldLayout;
use super::gamed::{Difficulty, GamedRow};
use super::leaderboard::float;
use super::length_controlled::{self, LengthControlled, LengthError, LengthRegression, Row};
use super::metrics::WinRate;
use crate::bias::Bias;
use crate::results::{Counts, DataSource, Results};
use crate::stats::{Metric, Missing};

/// The names of the metrics, in the order in which they are shown.
pub const METRICS: [&str; 3] = ["length_controlled_winrate", "win_rate", "discrete_win_rate"];

/// What a length-controlled win rate takes.
#[derive(Debug, Clone)]
pub struct LengthControl {
    /// The gamed baselines' annotations.
    pub gamed: Vec<GamedRow>,
    /// The difficulties of the instructions.
    pub difficulty: Difficulty,
    /// The files that these are from.
    pub sources: Vec<DataSource>,
    /// How rows are held out.
    pub fold_layout: FoldLayout,
}

/// Everything that the comparisons say about the model.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The win rates.
    pub rate: WinRate,
    /// The win rates by part of the evaluation set.
    pub by_dataset: BTreeMap<String, DatasetRate>,
    /// The mean length of the model's answers in code points, rounded down.
    pub avg_length: Option<usize>,
    /// The length-controlled win rate, or why there is none.
    pub length_controlled: Result<LengthControlled, NoLengthControl>,
    /// What the verdicts depend on besides quality; none without verdicts. The baseline's answer is the first of a pair.
    pub bias: Option<Bias>,
    /// How many items there were.
    pub counts: AlpacaCounts,
}

/// Why there is no length-controlled win rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoLengthControl {
    /// It was not asked for.
    #[error("{0}")]
    NotAsked(String),
    /// The comparisons do not allow it.
    #[error(transparent)]
    Regression(#[from] LengthError),
}

/// The win rate in a part of the evaluation set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DatasetRate {
    /// The number of preferences.
    pub n: usize,
    /// In percent.
    pub win_rate: Option<f64>,
    /// Its standard error.
    pub standard_error: Option<f64>,
}

/// What became of the comparisons.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlpacaCounts {
    /// All of them.
    pub total: usize,
    /// Those with a preference.
    pub scored: usize,
    /// Those without an answer of the model.
    pub no_answer: usize,
    /// Those without a reply of the judge.
    pub no_verdict: usize,
    /// Those for which a request has failed, to the model or to the judge.
    pub errors: usize,
    /// Those whose verdict could not be parsed.
    pub unparsed: usize,
    /// Answers that were cut off at the token limit.
    pub truncated: usize,
}

impl AlpacaCounts {
    fn of(comparisons: &[Comparison]) -> Self {
        let mut counts = Self { total: comparisons.len(), ..Self::default() };
        for comparison in comparisons {
            match comparison.problem {
                _ if comparison.preference.is_some() => counts.scored += 1,
                Some(Problem::Missing(_) | Problem::Unanswered(_)) => counts.no_answer += 1,
                Some(Problem::Unparsed(_)) => counts.unparsed += 1,
                Some(Problem::NoVerdict(_)) | None => counts.no_verdict += 1,
            }
            let failed = matches!(comparison.problem, Some(Problem::Unanswered(_) | Problem::NoVerdict(_)));
            counts.errors += usize::from(failed);
            counts.truncated += usize::from(comparison.finish_reason.as_deref() == Some("length"));
        }
        counts
    }

    /// Comparisons without a preference, for whatever reason.
    pub fn unscored(&self) -> usize {
        self.total - self.scored
    }
}

impl Summary {
    /// Computes everything, and puts the regression's predictions into the comparisons.
    pub fn new(comparisons: &mut [Comparison], names: &Names, control: Result<&LengthControl, String>) -> Self {
        let mut answered: Vec<&mut Comparison> =
            comparisons.iter_mut().filter(|comparison| comparison.response.is_some()).collect();
        let row = |comparison: &&mut Comparison| Row {
            preference: comparison.preference,
            length_1: code_points(&comparison.reference),
            length_2: comparison.response.as_deref().map_or(0, code_points),
        };
        let rows: Vec<Row> = answered.iter().map(row).collect();
        let length_controlled = if names.model.is_some() && names.model == names.baseline {
            Ok(length_controlled::of_the_baseline(rows.len()))
        } else {
            control.map_err(NoLengthControl::NotAsked).and_then(|control| {
                let regression = LengthRegression::new(&rows, &control.gamed, &control.difficulty)?;
                Ok(regression.fit(control.fold_layout))
            })
        };
        if let Ok(found) = &length_controlled {
            for (comparison, prediction) in answered.iter_mut().zip(&found.predictions) {
                comparison.glm_preference = Some(*prediction);
            }
        }
        let mut by_dataset: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for comparison in comparisons.iter() {
            if let (Some(dataset), Some(preference)) = (&comparison.dataset, comparison.preference) {
                by_dataset.entry(dataset.clone()).or_default().push(preference);
            }
        }
        let dataset_rate = |(dataset, preferences)| {
            let WinRate { n_total: n, win_rate, standard_error, .. } = WinRate::of(preferences);
            (dataset, DatasetRate { n, win_rate, standard_error })
        };
        Self {
            rate: WinRate::of(comparisons.iter().filter_map(|comparison| comparison.preference)),
            by_dataset: by_dataset.into_iter().map(dataset_rate).collect(),
            avg_length: rows.iter().map(|row| row.length_2).sum::<usize>().checked_div(rows.len()),
            length_controlled,
            bias: Bias::of_pairs(comparisons.iter().map(Comparison::judged)),
            counts: AlpacaCounts::of(comparisons),
        }
    }

    /// The metrics by name.
    pub fn metrics(&self) -> BTreeMap<String, Metric> {
        let Self { rate, .. } = self;
        let percent = |value, stderr, n| Metric::normal(value, stderr, n, [0.0, 100.0]);
        // What is missing here is missing for the few observations, which the metric knows.
        let of_rate =
            |value: Option<f64>, error: Option<f64>| percent(value.unwrap_or(0.0), error.unwrap_or(0.0), rate.n_total);
        let mut metrics = BTreeMap::from([
            ("win_rate".to_owned(), of_rate(rate.win_rate, rate.standard_error)),
            ("discrete_win_rate".to_owned(), of_rate(rate.discrete_win_rate, rate.discrete_standard_error())),
        ]);
        let controlled = match &self.length_controlled {
            Ok(found) => Some(percent(found.win_rate, found.standard_error, found.predictions.len())),
            Err(NoLengthControl::Regression(LengthError::NoPreferences)) => {
                Some(Metric::missing(rate.n_total, Missing::NothingScored))
            }
            Err(NoLengthControl::Regression(LengthError::NoSpread)) => {
                Some(Metric::missing(rate.n_total, Missing::NotIdentifiable))
            }
            Err(_) => None,
        };
        metrics.extend(controlled.map(|metric| ("length_controlled_winrate".to_owned(), metric)));
        metrics
    }

    /// The counts that every task has.
    pub fn common_counts(&self) -> Counts {
        let counts = &self.counts;
        Counts {
            total: counts.total,
            scored: counts.scored,
            unscored: counts.unscored(),
            errors: counts.errors,
            truncated: counts.truncated,
            ..Counts::default()
        }
    }

    /// The content of `results.json`: what every task has, and what this one adds.
    pub fn to_json(&self, common: &Results, control: Option<&LengthControl>) -> Value {
        let mut results = serde_json::to_value(common).expect("the keys are strings and the numbers are finite");
        let AlpacaCounts { no_answer, no_verdict, unparsed, .. } = self.counts;
        let WinRate { n_wins, n_wins_base, n_draws, n_total, .. } = self.rate;
        let counts = json!({"no_answer": no_answer, "no_verdict": no_verdict, "unparsed": unparsed, "n_wins": n_wins,
            "n_wins_base": n_wins_base, "n_draws": n_draws, "n_total": n_total});
        extend(&mut results["counts"], counts);
        let (lc, lc_missing) = match &self.length_controlled {
            Ok(LengthControlled { c, coef, .. }) => (json!({"C": c, "coef": coef}), None),
            Err(reason) => (Value::Null, Some(reason.to_string())),
        };
        let mut added = json!({"avg_length": self.avg_length, "lc": lc});
        if let Some(control) = control.filter(|_| self.length_controlled.is_ok()) {
            extend(&mut added["lc"], json!({"fold_layout": control.fold_layout, "sources": control.sources}));
        }
        if let Some(reason) = lc_missing {
            extend(&mut added, json!({"lc_missing": reason}));
        }
        if let Some(bias) = &self.bias {
            extend(&mut added, json!({"bias": bias}));
        }
        if !self.by_dataset.is_empty() {
            extend(&mut added, json!({"by_dataset": self.by_dataset}));
        }
        extend(&mut results, added);
        results
    }

    /// The model's row of `leaderboard.csv`.
    pub fn leaderboard_row(&self) -> Vec<(&'static str, String)> {
        let Self { rate, .. } = self;
        let controlled = self.length_controlled.as_ref().ok();
        let cells = [
            ("win_rate", rate.win_rate.map(float)),
            ("standard_error", rate.standard_error.map(float)),
            ("n_wins", Some(rate.n_wins.to_string())),
            ("n_wins_base", Some(rate.n_wins_base.to_string())),
            ("n_draws", Some(rate.n_draws.to_string())),
            ("n_total", Some(rate.n_total.to_string())),
            ("discrete_win_rate", rate.discrete_win_rate.map(float)),
            ("mode", Some("community".to_owned())),
            ("avg_length", self.avg_length.map(|length| length.to_string())),
            ("length_controlled_winrate", controlled.map(|found| float(found.win_rate))),
            ("lc_standard_error", controlled.map(|found| float(found.standard_error))),
        ];
        cells.into_iter().filter_map(|(column, cell)| Some((column, cell?))).collect()
    }
}

/// The length that counts is Python's.
fn code_points(text: &str) -> usize {
    text.chars().count()
}

/// Adds the fields of one object to another.
fn extend(object: &mut Value, added: Value) {
    let (Some(object), Value::Object(added)) = (object.as_object_mut(), added) else { return };
    let fields: Map<String, Value> = added;
    object.extend(fields);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(preference: Option<f64>, dataset: &str) -> Comparison {
        Comparison {
            dataset: Some(dataset.into()),
            reference: "ab".into(),
            response: Some("äöü".into()),
            preference,
            problem: preference.is_none().then(|| Problem::Unparsed("?".into())),
            ..Comparison::default()
        }
    }

    #[test]
    fn every_comparison_is_counted_once() {
        let missing = Comparison { problem: Some(Problem::Missing("gone".into())), ..Comparison::default() };
        let silent = Comparison { problem: Some(Problem::NoVerdict("busy".into())), ..comparison(None, "x") };
        let mut comparisons =
            [comparison(Some(2.0), "x"), comparison(Some(1.5), "y"), comparison(None, "y"), missing, silent];
        comparisons[0].finish_reason = Some("length".into());
        let names = Names { baseline: Some("b".into()), model: Some("m".into()), annotator: None };
        let summary = Summary::new(&mut comparisons, &names, Err("no files".into()));
        let counts =
            AlpacaCounts { total: 5, scored: 2, no_answer: 1, no_verdict: 1, errors: 1, unparsed: 1, truncated: 1 };
        assert_eq!((summary.counts, summary.avg_length), (counts, Some(3)));
        assert_eq!(summary.by_dataset["x"], DatasetRate { n: 1, win_rate: Some(100.0), standard_error: None });
        assert_eq!(summary.metrics()["win_rate"].value, Some(75.0));
        assert!(!summary.metrics().contains_key("length_controlled_winrate"));
        assert_eq!(summary.length_controlled, Err(NoLengthControl::NotAsked("no files".into())));
    }

    #[test]
    fn without_preferences_there_are_no_numbers() {
        let names = Names { baseline: Some("b".into()), model: Some("m".into()), annotator: None };
        let difficulty = (0..9).map(|row| (row, 0.0)).collect();
        let control =
            LengthControl { gamed: Vec::new(), difficulty, sources: Vec::new(), fold_layout: FoldLayout::Mod5 };
        for mut comparisons in [vec![comparison(None, "x"); 2], vec![Comparison::default()]] {
            let summary = Summary::new(&mut comparisons, &names, Ok(&control));
            let metrics = summary.metrics();
            assert_eq!(metrics.len(), 3);
            assert!(
                metrics.values().all(|metric| *metric == Metric::missing(0, Missing::NothingScored)),
                "{metrics:?}"
            );
            let row = summary.leaderboard_row();
            assert!(row.iter().all(|(column, _)| !column.contains("win_rate")), "{row:?}");
            assert_eq!(summary.avg_length.is_some(), comparisons[0].response.is_some());
        }
    }

    #[test]
    fn where_all_lengths_differ_alike_their_effect_is_not_identifiable() {
        let names = Names { baseline: Some("b".into()), model: Some("m".into()), annotator: None };
        let difficulty = (0..9).map(|row| (row, 0.0)).collect();
        let control =
            LengthControl { gamed: Vec::new(), difficulty, sources: Vec::new(), fold_layout: FoldLayout::Mod5 };
        let mut comparisons = vec![comparison(Some(2.0), "x"); 3];
        let summary = Summary::new(&mut comparisons, &names, Ok(&control));
        assert_eq!(summary.metrics()["length_controlled_winrate"], Metric::missing(3, Missing::NotIdentifiable));
        let json = summary.to_json(&Results::default(), Some(&control));
        assert!(json["lc_missing"].as_str().unwrap().starts_with("not identifiable: "), "{json}");
    }

    #[test]
    fn the_baseline_against_itself_is_even() {
        let names = Names { baseline: Some("b".into()), model: Some("b".into()), annotator: None };
        let mut comparisons = vec![comparison(Some(1.5), "x"); 3];
        let summary = Summary::new(&mut comparisons, &names, Err("no files".into()));
        let metric = summary.metrics()["length_controlled_winrate"];
        assert_eq!((metric.value, metric.stderr, metric.n), (Some(50.0), Some(0.0), 3));
        assert_eq!(comparisons[2].glm_preference, Some(0.5));
    }
}
