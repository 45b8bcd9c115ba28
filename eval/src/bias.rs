//! What a judge's verdicts depend on besides quality: the place in which an answer is shown, and its length; and how far they
//! hold when the order is swapped.
//!
//! ```
//! use orpo_eval::bias::{Bias, Judged};
//!
//! // Asked in both orders, this judge takes the first answer each time.
//! let judged = Judged { placed: [Some(1.0), Some(0.0)], lengths: Some([300, 200]), ..Judged::default() };
//! let bias = Bias::of(&[vec![judged]]).unwrap();
//! assert_eq!(bias.first_place.unwrap().value, Some(1.0));
//! assert_eq!(bias.self_consistency.unwrap().value, Some(0.0));
//! assert_eq!(bias.longer.unwrap().value, Some(0.5));
//! ```

use serde::{Deserialize, Serialize};

use crate::rank::spearman;
use crate::stats::{Metric, mean_and_deviation};
use crate::table::{interval, or_dash, percent};

/// What was decided about a pair of different answers. Preferences are for the pair's first answer, from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Judged {
    /// With the first answer shown first, and with it shown second.
    pub placed: [Option<f64>; 2],
    /// Where nobody knows in which order they were shown.
    pub unplaced: Option<f64>,
    /// The lengths of both answers in code points.
    pub lengths: Option<[usize; 2]>,
}

/// The figures. A tie counts as half a preference for either side; intervals take the groups for independent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bias {
    /// Pairs with a verdict.
    pub pairs: usize,
    /// Verdicts on them.
    pub verdicts: usize,
    /// The share of verdicts for the answer that was shown first, where the order is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_place: Option<Metric>,
    /// The share of pairs with the same winner in both orders, where both were asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_consistency: Option<Metric>,
    /// The share of verdicts for the longer answer, of pairs with different lengths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longer: Option<Metric>,
    /// Spearman's correlation of the first answer's additional length with the preference for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length_correlation: Option<f64>,
    /// How long the answers are that won, and those that lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_length: Option<MeanLength>,
}

/// Mean lengths in code points, over verdicts that name a winner.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MeanLength {
    /// Of the answers that won.
    pub preferred: f64,
    /// Of those that lost.
    pub other: f64,
}

/// A verdict as a vote for the first answer: 1, 0, or a half for a tie.
fn vote(preference: f64) -> f64 {
    match preference {
        preference if preference > 0.5 => 1.0,
        preference if preference < 0.5 => 0.0,
        _ => 0.5,
    }
}

/// The mean of the preferences in both orders, to twelve decimals: opposite verdicts are a tie, whatever rounding has made of
/// their logarithms.
pub fn over_both_orders(first: f64, second: f64) -> f64 {
    const DECIMALS: f64 = 1e12;
    (f64::midpoint(first, second) * DECIMALS).round() / DECIMALS
}

fn mean(values: &[f64]) -> f64 {
    mean_and_deviation(values).0
}

impl Judged {
    fn verdicts(&self) -> Vec<f64> {
        self.placed.into_iter().chain([self.unplaced]).flatten().collect()
    }

    /// The share of verdicts for the place that was shown first.
    fn first_place(&self) -> Option<f64> {
        let [first, second] = self.placed;
        let votes: Vec<f64> =
            first.map(vote).into_iter().chain(second.map(|preference| 1.0 - vote(preference))).collect();
        (!votes.is_empty()).then(|| mean(&votes))
    }

    fn is_consistent(&self) -> Option<f64> {
        let [first, second] = self.placed;
        Some(f64::from(vote(first?) == vote(second?)))
    }

    /// The share of verdicts for the longer answer.
    fn longer(&self) -> Option<f64> {
        let [first, second] = self.lengths.filter(|[first, second]| first != second)?;
        let votes: Vec<f64> = self.verdicts().into_iter().map(vote).collect();
        let for_first = (!votes.is_empty()).then(|| mean(&votes))?;
        Some(if first > second { for_first } else { 1.0 - for_first })
    }
}

impl Bias {
    /// The figures of some pairs, those about the same prompt in one group; `None` where there is no verdict.
    pub fn of(groups: &[Vec<Judged>]) -> Option<Self> {
        let judged = || groups.iter().flatten().filter(|judged| !judged.verdicts().is_empty());
        let pairs = judged().count();
        if pairs == 0 {
            return None;
        }
        let share = |figure: fn(&Judged) -> Option<f64>| {
            let clusters: Vec<Vec<f64>> =
                groups.iter().map(|group| group.iter().filter_map(figure).collect()).collect();
            Some(Metric::clustered_share(&clusters)).filter(|metric| metric.n > 0)
        };
        let difference = |judged: &Judged| {
            let [first, second] = judged.lengths?;
            Some((first as f64 - second as f64, mean(&judged.verdicts())))
        };
        let lengths = |judged: &Judged| {
            let verdicts = judged.verdicts().into_iter().map(vote).filter(|&vote| vote != 0.5);
            let of_winner =
                |vote: f64, [first, second]: [usize; 2]| if vote == 1.0 { [first, second] } else { [second, first] };
            verdicts.filter_map(|vote| Some(of_winner(vote, judged.lengths?))).collect::<Vec<_>>()
        };
        let lengths: Vec<[usize; 2]> = judged().flat_map(lengths).collect();
        let mean_of = |side: usize| mean(&lengths.iter().map(|both| both[side] as f64).collect::<Vec<_>>());
        Some(Self {
            pairs,
            verdicts: judged().map(|judged| judged.verdicts().len()).sum(),
            first_place: share(Judged::first_place),
            self_consistency: share(Judged::is_consistent),
            longer: share(Judged::longer),
            length_correlation: spearman(&judged().filter_map(difference).collect::<Vec<_>>()),
            mean_length: (!lengths.is_empty()).then(|| MeanLength { preferred: mean_of(0), other: mean_of(1) }),
        })
    }

    /// The figures of pairs that are all about different prompts.
    pub fn of_pairs(pairs: impl IntoIterator<Item = Judged>) -> Option<Self> {
        Self::of(&pairs.into_iter().map(|judged| vec![judged]).collect::<Vec<_>>())
    }

    /// The figures as lines for people; `who` is whose verdicts they are about.
    pub fn render(&self, who: &str) -> String {
        let share = |metric: Metric| {
            let value = or_dash(metric.value, percent);
            or_dash(metric.ci95, |ends| format!("{value} % ({})", interval(ends)))
        };
        let shares = [(self.first_place, "the answer shown first"), (self.longer, "the longer answer")];
        let shares: Vec<String> =
            shares.into_iter().filter_map(|(metric, what)| Some(format!("{what} in {}", share(metric?)))).collect();
        let mut text = String::new();
        if !shares.is_empty() {
            text += &format!("{who} prefers {}\n", shares.join(", "));
        }
        if let Some(consistency) = self.self_consistency {
            text += &format!("{who} names the same winner in both orders in {}\n", share(consistency));
        }
        if let Some(MeanLength { preferred, other }) = self.mean_length {
            let correlation = or_dash(self.length_correlation, |found| format!("{found:.3}"));
            text += &format!(
                "{who} prefers answers of {preferred:.0} characters on average over others of {other:.0}; length and \
                 preference correlate by {correlation} (Spearman)\n"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(placed: [Option<f64>; 2], lengths: [usize; 2]) -> Judged {
        Judged { placed, lengths: Some(lengths), ..Judged::default() }
    }

    #[test]
    fn a_judge_that_takes_the_longer_answer_has_no_liking_for_a_place() {
        let pairs = (1..9).map(|length| {
            let for_first = f64::from(length > 4);
            judged([Some(for_first); 2], [length, if length > 4 { 4 } else { 5 }])
        });
        let bias = Bias::of_pairs(pairs).unwrap();
        assert_eq!((bias.pairs, bias.verdicts), (8, 16));
        assert_eq!(bias.longer.unwrap(), Metric::proportion(8, 8));
        assert_eq!(bias.self_consistency.unwrap(), Metric::proportion(8, 8));
        assert_eq!(bias.first_place.unwrap().value, Some(0.5));
        assert!(bias.length_correlation.unwrap() > 0.8);
        // 5, 6, 7 and 8, and four times 5, against 4 and 1, 2, 3, 4.
        assert_eq!(bias.mean_length, Some(MeanLength { preferred: 46.0 / 8.0, other: 26.0 / 8.0 }));
    }

    #[test]
    fn one_order_tells_nothing_about_consistency_and_no_order_nothing_about_places() {
        let one = Bias::of_pairs([judged([None, Some(0.0)], [2, 2]), judged([Some(0.5), None], [2, 2])]).unwrap();
        // One for the place shown first, and a tie.
        assert_eq!((one.first_place.unwrap().value, one.self_consistency, one.longer), (Some(0.75), None, None));
        let file = Judged { unplaced: Some(0.9), lengths: Some([3, 2]), ..Judged::default() };
        let bias = Bias::of_pairs([file, Judged::default()]).unwrap();
        assert_eq!((bias.pairs, bias.first_place, bias.longer.unwrap().value), (1, None, Some(1.0)));
        assert_eq!(Bias::of_pairs([Judged::default()]), None);
    }

    #[test]
    fn opposite_verdicts_are_a_tie() {
        for percent in 1..100 {
            let preference = (f64::from(percent) / 100.0).ln().exp();
            assert_eq!(over_both_orders(2.0 - preference, 1.0 + preference), 1.5, "{percent}");
        }
    }

    #[test]
    fn figures_are_told_in_words() {
        let pairs = [judged([Some(1.0), Some(0.0)], [9, 5]), judged([Some(1.0), Some(1.0)], [9, 5])];
        let text = Bias::of_pairs(pairs).unwrap().render("the judge");
        assert!(text.starts_with("the judge prefers the answer shown first in 75.00 % ("), "{text}");
        assert!(text.contains("the longer answer in 75.00 %") && text.contains("in both orders in 50.00 %"), "{text}");
        assert!(text.contains("answers of 8 characters on average over others of 6;"), "{text}");
    }
}
