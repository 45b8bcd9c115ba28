//! From pairs to numbers.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::agreement::Agreement;
use super::length::controlled_share;
use super::pair::{Pair, Winner};
use crate::bias::Bias;
use crate::results::{Counts, Results};
use crate::stats::{self, Metric, Missing};

/// The resamples of the length-controlled share's interval: each is a fit.
const LENGTH_RESAMPLES: usize = 1000;

/// What the pairs come to, from A's side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The metrics by name: shares of the decided pairs.
    #[serde(skip)]
    pub metrics: BTreeMap<String, Metric>,
    /// How the pairs were decided.
    #[serde(skip)]
    pub decided: Decided,
    /// Two-sided p-value of the sign test on wins against losses; null where there are neither.
    pub sign_test_p: Option<f64>,
    /// Where instructions were checked: all of them followed by A alone and by B alone, and McNemar's exact p-value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mcnemar: Option<McNemar>,
    /// Where a judge saw both orders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// What the verdicts of a judge depend on besides quality, in the first repetition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias: Option<Bias>,
    /// Where the judge was asked repeatedly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeats: Option<Repeats>,
    /// Agreement with other decisions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub agreement: Vec<Agreement>,
    /// The mean lengths of the answers of A and of B in characters; null where no pair is decided.
    pub avg_length: Option<[f64; 2]>,
}

/// How the pairs were decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Decided {
    /// Pairs that A won.
    pub n_wins: usize,
    /// Pairs that B won.
    pub n_losses: usize,
    /// Pairs that nobody won.
    pub n_ties: usize,
    /// Answers of A, and of B, that have no counterpart.
    pub unmatched: [usize; 2],
}

/// McNemar's test on prompts with all instructions followed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct McNemar {
    /// Prompts all of whose instructions only A follows.
    pub only_a: usize,
    /// Prompts all of whose instructions only B follows.
    pub only_b: usize,
    /// The exact two-sided p-value; null where both counts are 0.
    pub p: Option<f64>,
}

/// What the order of the answers did, where they differ.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Order {
    /// The share of pairs with the same winner in both orders.
    pub consistency: f64,
    /// The mean preference for the answer that was shown first; 0.5 is none.
    pub first_shown: f64,
}

/// How much a judge that is asked repeatedly agrees with itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Repeats {
    /// The win rate of each repetition.
    pub win_rates: Vec<f64>,
    /// Their standard deviation.
    pub standard_deviation: f64,
    /// The share of pairs with the same winner in all repetitions.
    pub agreement: f64,
}

impl Summary {
    /// Summarises pairs. Intervals are drawn from `seed`.
    pub fn new(pairs: &[Pair], unmatched: [usize; 2], agreement: Vec<Agreement>, seed: u64) -> Self {
        let winners: Vec<Winner> = pairs.iter().filter_map(Pair::winner).collect();
        let count = |winner| winners.iter().filter(|&&found| found == winner).count();
        let decided =
            Decided { n_wins: count(Winner::A), n_losses: count(Winner::B), n_ties: count(Winner::Tie), unmatched };
        let rows: Vec<(f64, [usize; 2])> = pairs
            .iter()
            .filter_map(|pair| Some((pair.preference()?, pair.answers.each_ref().map(|answer| answer.chars().count()))))
            .collect();
        let mean =
            |index: usize| rows.iter().map(|(_, lengths)| lengths[index] as f64).sum::<f64>() / rows.len() as f64;
        let avg_length = (!rows.is_empty()).then(|| [mean(0), mean(1)]);
        let judged = || pairs.iter().filter(|pair| pair.followed.is_none() && pair.answers[0] != pair.answers[1]);
        Self {
            metrics: metrics(&rows, &winners, seed),
            decided,
            sign_test_p: stats::sign_test(decided.n_wins, decided.n_losses),
            mcnemar: mcnemar(pairs),
            order: order(judged()),
            bias: Bias::of_pairs(judged().map(Pair::judged)),
            repeats: repeats(pairs),
            agreement,
            avg_length,
        }
    }

    /// How many pairs there were, and what became of them.
    pub fn counts(pairs: &[Pair]) -> Counts {
        let scored = pairs.iter().filter(|pair| pair.winner().is_some()).count();
        Counts { total: pairs.len(), scored, unscored: pairs.len() - scored, ..Counts::default() }
    }

    /// The content of `results.json`: what all results have, and what only a comparison has.
    pub fn to_json(&self, results: &Results, names: [&str; 2]) -> Value {
        let mut json = serde_json::to_value(results).expect("results have string keys");
        json["models"] = json!({"a": names[0], "b": names[1]});
        for part in [serde_json::to_value(self), serde_json::to_value(self.decided)] {
            let Ok(Value::Object(part)) = part else { unreachable!("structs are objects") };
            let into = json.as_object_mut().expect("results are an object");
            into.extend(part);
        }
        json
    }
}

/// The shares with their intervals: bootstrap, for pairs.
fn metrics(rows: &[(f64, [usize; 2])], winners: &[Winner], seed: u64) -> BTreeMap<String, Metric> {
    let preferences: Vec<f64> = rows.iter().map(|(preference, _)| *preference).collect();
    let halves: Vec<f64> = winners
        .iter()
        .map(|winner| match winner {
            Winner::A => 1.0,
            Winner::B => 0.0,
            Winner::Tie => 0.5,
        })
        .collect();
    BTreeMap::from([
        ("win_rate".to_owned(), Metric::bootstrapped_share(&preferences, seed)),
        ("win_rate_adjusted".to_owned(), Metric::bootstrapped_share(&halves, seed)),
        ("length_controlled_win_rate".to_owned(), length_controlled(rows, seed)),
    ])
}

/// The length-controlled share, if the rows, and nearly all resamples of them, determine it.
fn length_controlled(rows: &[(f64, [usize; 2])], seed: u64) -> Metric {
    let n = rows.len();
    if n == 0 {
        return Metric::missing(n, Missing::NothingScored);
    }
    let interval = |value| Some((value, stats::bootstrap(rows, LENGTH_RESAMPLES, seed, controlled_share)?));
    match controlled_share(rows).filter(|_| n > 1).and_then(interval) {
        Some((value, (stderr, ci95))) => Metric::new(value, stderr, ci95, n),
        None => Metric::missing(n, Missing::NotIdentifiable),
    }
}

fn mcnemar(pairs: &[Pair]) -> Option<McNemar> {
    let checked: Vec<[bool; 2]> =
        pairs.iter().filter_map(|pair| pair.followed.map(|[all, a, b]| [a == all, b == all])).collect();
    let count = |wanted: [bool; 2]| checked.iter().filter(|&&found| found == wanted).count();
    let (only_a, only_b) = (count([true, false]), count([false, true]));
    (!checked.is_empty()).then(|| McNemar { only_a, only_b, p: stats::sign_test(only_a, only_b) })
}

fn order<'a>(judged: impl Iterator<Item = &'a Pair>) -> Option<Order> {
    let both: Vec<[f64; 2]> = judged
        .filter_map(|pair| pair.preferences.first().and_then(|&[a_first, b_first]| Some([a_first?, b_first?])))
        .collect();
    let n = both.len() as f64;
    let same = both.iter().filter(|[a_first, b_first]| Winner::of(*a_first) == Winner::of(*b_first)).count();
    let first: f64 = both.iter().map(|[a_first, b_first]| f64::midpoint(*a_first, 1.0 - b_first)).sum();
    (!both.is_empty()).then(|| Order { consistency: same as f64 / n, first_shown: first / n })
}

fn repeats(pairs: &[Pair]) -> Option<Repeats> {
    let times = pairs.iter().map(|pair| pair.preferences.len()).max().filter(|&times| times > 1)?;
    let complete: Vec<&Pair> =
        pairs.iter().filter(|pair| (0..times).all(|repeat| pair.winner_of(repeat).is_some())).collect();
    if complete.is_empty() {
        return None;
    }
    let n = complete.len() as f64;
    let preference = |pair: &Pair, repeat: usize| {
        let [a_first, b_first] = pair.preferences[repeat];
        f64::midpoint(a_first.expect("it is complete"), b_first.expect("it is complete"))
    };
    let win_rates: Vec<f64> =
        (0..times).map(|repeat| complete.iter().map(|pair| preference(pair, repeat)).sum::<f64>() / n).collect();
    let same = |pair: &&&Pair| (1..times).all(|repeat| pair.winner_of(repeat) == pair.winner_of(0));
    let agreement = complete.iter().filter(same).count() as f64 / n;
    let (_, standard_deviation) = stats::mean_and_deviation(&win_rates);
    Some(Repeats { win_rates, standard_deviation, agreement })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(preferences: &[[f64; 2]]) -> Pair {
        let preferences = preferences.iter().map(|both| both.map(Some)).collect();
        Pair { answers: ["aa".into(), "b".into()], preferences, ..Pair::default() }
    }

    #[test]
    fn wins_losses_and_ties() {
        let mut pairs = vec![pair(&[[1.0, 1.0]]); 6];
        pairs.extend(vec![pair(&[[0.0, 0.0]]); 2]);
        pairs.extend(vec![pair(&[[1.0, 0.0]]); 2]);
        pairs.push(Pair { preferences: vec![[Some(1.0), None]], ..Pair::default() });
        let summary = Summary::new(&pairs, [3, 4], Vec::new(), 1);
        assert_eq!(summary.decided, Decided { n_wins: 6, n_losses: 2, n_ties: 2, unmatched: [3, 4] });
        assert_eq!(Summary::counts(&pairs).unscored, 1);
        assert_eq!(summary.metrics["win_rate"].value, Some(0.7));
        // A's answer is the longer one throughout.
        assert_eq!(summary.metrics["length_controlled_win_rate"], Metric::missing(10, Missing::NotIdentifiable));
        assert_eq!(summary.metrics["win_rate_adjusted"].n, 10);
        // 2 * (1 + 8 + 28) / 256
        assert!((summary.sign_test_p.unwrap() - 0.289_062_5).abs() < 1e-12);
        assert_eq!(summary.order, Some(Order { consistency: 0.8, first_shown: 0.6 }));
        assert_eq!((summary.avg_length, &summary.repeats, summary.mcnemar), (Some([2.0, 1.0]), &None, None));
    }

    #[test]
    fn repetitions_spread() {
        let pairs = [pair(&[[1.0, 1.0], [1.0, 1.0]]), pair(&[[0.0, 0.0], [1.0, 1.0]])];
        let repeats = Summary::new(&pairs, [0, 0], Vec::new(), 1).repeats.unwrap();
        assert_eq!((repeats.win_rates, repeats.agreement), (vec![0.5, 1.0], 0.5));
        assert!((repeats.standard_deviation - 0.125_f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn prompts_followed_by_one_alone_are_tested() {
        let followed = |counts| Pair { followed: Some(counts), ..pair(&[[0.5, 0.5]]) };
        let pairs =
            [followed([2, 2, 1]), followed([2, 2, 0]), followed([1, 0, 1]), followed([3, 3, 3]), followed([2, 1, 0])];
        let mcnemar = Summary::new(&pairs, [0, 0], Vec::new(), 1).mcnemar.unwrap();
        assert_eq!((mcnemar.only_a, mcnemar.only_b, mcnemar.p), (2, 1, Some(1.0)));
    }

    #[test]
    fn nothing_decided_is_nothing_known() {
        let summary = Summary::new(&[], [0, 0], Vec::new(), 1);
        assert_eq!(summary.metrics.len(), 3);
        assert!(summary.metrics.values().all(|metric| *metric == Metric::missing(0, Missing::NothingScored)));
        assert_eq!((summary.sign_test_p, summary.order, summary.avg_length), (None, None, None));
    }

    #[test]
    fn a_share_that_rests_on_single_pairs_is_not_identifiable() {
        let pair = |lengths: [usize; 2], preference: f64| Pair {
            answers: lengths.map(|length| "x".repeat(length)),
            preferences: vec![[Some(preference); 2]],
            ..Pair::default()
        };
        let controlled = |longer: usize| {
            let pairs: Vec<Pair> = (0..30)
                .map(|index| pair(if index < longer { [9, 5] } else { [5, 9 + index] }, f64::from(index % 2 == 0)))
                .collect();
            Summary::new(&pairs, [0, 0], Vec::new(), 1).metrics["length_controlled_win_rate"]
        };
        assert_eq!(controlled(1), Metric::missing(30, Missing::NotIdentifiable));
        let found = controlled(12);
        let (value, [low, high]) = (found.value.unwrap(), found.ci95.unwrap());
        assert!(low < value && value < high, "{found:?}");
    }
}
