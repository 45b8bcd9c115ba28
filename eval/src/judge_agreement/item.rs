//! A pair of answers with what the reference says about it, and what the judge says.

use serde::Serialize;
use serde_json::Value;

use crate::bias::{Judged, over_both_orders};
use crate::compare::pair::{Pair, Winner};

/// What one annotator of the reference said about a pair.
#[derive(Debug, Clone, PartialEq)]
pub struct Vote {
    /// Who, if that is known.
    pub annotator: Option<Value>,
    /// How much the first answer is preferred, from 0 to 1.
    pub preference: f64,
}

/// A pair with votes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Item {
    /// The prompt with both answers, and the judge's verdicts on them. A is `output_1`.
    pub pair: Pair,
    /// The models that the answers are from, where they are known.
    pub models: [Option<String>; 2],
    /// The reference.
    pub votes: Vec<Vote>,
    /// How much the judge prefers the first answer where a file says so without an order.
    pub unplaced: Option<f64>,
}

impl Item {
    /// True if there is nothing to decide.
    pub fn is_identical(&self) -> bool {
        self.pair.answers[0] == self.pair.answers[1]
    }

    /// How much the reference prefers the first answer, from 0 to 1: the mean of its votes.
    pub fn reference(&self) -> Option<f64> {
        let n = self.votes.len();
        (n > 0).then(|| self.votes.iter().map(|vote| vote.preference).sum::<f64>() / n as f64)
    }

    /// How much the judge prefers the first answer: the mean over the orders that it was asked in. None unless all of them have
    /// a verdict.
    pub fn preference(&self) -> Option<f64> {
        if self.pair.problem.is_some() {
            return None;
        }
        match self.pair.preferences.first() {
            Some([Some(first), Some(second)]) => Some(over_both_orders(*first, *second)),
            Some([first, second]) => first.or(*second),
            None => self.unplaced,
        }
    }

    /// The winner by the judge.
    pub fn winner(&self) -> Option<Winner> {
        self.preference().map(Winner::of)
    }

    /// What the judge decided, with the order of it.
    pub fn judged(&self) -> Judged {
        Judged { unplaced: self.unplaced, ..self.pair.judged() }
    }

    /// What the reference decided; in which order it saw the answers is not known.
    pub fn reference_judged(&self) -> Judged {
        Judged { unplaced: self.reference(), placed: [None; 2], ..self.pair.judged() }
    }
}

/// A line of `samples.jsonl`. Preferences are as in annotations: 1 for `output_1`, 2 for `output_2`, 1.5 for neither.
#[derive(Debug, Serialize)]
struct Sample<'a> {
    index: usize,
    prompt: &'a str,
    output_1: &'a str,
    output_2: &'a str,
    generator_1: Option<&'a str>,
    generator_2: Option<&'a str>,
    /// The judge's, over all orders.
    preference: Option<f64>,
    /// The judge's with `output_1` first, and with `output_2` first.
    #[serde(skip_serializing_if = "Option::is_none")]
    verdicts: Option<[Option<f64>; 2]>,
    winner: Option<Winner>,
    reference: Reference,
    agrees: Option<bool>,
    error: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Reference {
    preference: Option<f64>,
    winner: Option<Winner>,
    votes: usize,
}

/// The content of `samples.jsonl`.
pub fn samples(items: &[Item]) -> Vec<u8> {
    let official = |preference: f64| 2.0 - preference;
    let mut lines = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let (winner, expected) = (item.winner(), item.majority());
        let sample = Sample {
            index,
            prompt: &item.pair.prompt,
            output_1: &item.pair.answers[0],
            output_2: &item.pair.answers[1],
            generator_1: item.models[0].as_deref(),
            generator_2: item.models[1].as_deref(),
            preference: item.preference().map(official),
            verdicts: item.pair.preferences.first().map(|placed| placed.map(|verdict| verdict.map(official))),
            winner,
            reference: Reference {
                preference: item.reference().map(official),
                winner: expected,
                votes: item.votes.len(),
            },
            agrees: winner.zip(expected).map(|(winner, expected)| winner == expected),
            error: item.pair.problem.as_deref(),
        };
        serde_json::to_writer(&mut lines, &sample).expect("samples have string keys");
        lines.push(b'\n');
    }
    lines
}
