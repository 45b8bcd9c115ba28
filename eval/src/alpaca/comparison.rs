//! One comparison, from the two answers to the preference between them.

use serde::Serialize;
use serde_json::Value;

use crate::bias::Judged;
use crate::reply::{LENGTH, REFUSAL};

/// A model's answer beside the baseline's.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Comparison {
    /// The part of the evaluation set.
    pub dataset: Option<String>,
    /// What both were asked.
    pub instruction: String,
    /// The baseline's answer.
    pub reference: String,
    /// The model's answer, as it is judged; none where there is none.
    pub response: Option<String>,
    /// The model's answer as it came, where reasoning was taken out of it.
    pub raw_response: Option<String>,
    /// Why the model's answer ended, if that is known.
    pub finish_reason: Option<String>,
    /// True if the judge saw the model's answer first; none where it saw both orders.
    pub is_switched: Option<bool>,
    /// From 1 (the baseline's answer is better) to 2 (the model's is); over both orders their mean.
    pub preference: Option<f64>,
    /// The preferences that the judge gave: with the baseline's answer first, and with the model's answer first.
    pub verdicts: [Option<f64>; 2],
    /// What the length regression predicts, from 0 to 1.
    pub glm_preference: Option<f64>,
    /// What the judge said.
    pub raw_completion: Option<Value>,
    /// What the verdict has cost, in US dollars.
    pub price: Option<f64>,
    /// Why there is no preference.
    pub problem: Option<Problem>,
}

impl Comparison {
    /// True if the model's answer is a refusal that its server marked as one.
    pub fn is_refusal(&self) -> bool {
        self.finish_reason.as_deref() == Some(REFUSAL)
    }

    /// True if the model's answer was cut off at the token limit.
    pub fn is_truncated(&self) -> bool {
        self.finish_reason.as_deref() == Some(LENGTH)
    }

    /// True if the model answered nothing.
    pub fn is_empty(&self) -> bool {
        self.response.as_deref().is_some_and(|response| response.trim().is_empty())
    }

    /// What was decided, from the baseline's side. A tie of equal answers is nobody's decision.
    pub fn judged(&self) -> Judged {
        let response = self.response.as_deref().unwrap_or_default();
        if response == self.reference {
            return Judged::default();
        }
        let placed = self.verdicts.map(|verdict| verdict.map(|preference| 2.0 - preference));
        let unplaced = self.preference.filter(|_| placed == [None, None]).map(|preference| 2.0 - preference);
        Judged { placed, unplaced, lengths: Some([self.reference.as_str(), response].map(|text| text.chars().count())) }
    }
}

/// Why a comparison has no preference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// There is no answer of the model, for this reason.
    Missing(String),
    /// The model has been asked and has not answered, for this reason.
    Unanswered(String),
    /// The judge has not been asked, or has not replied, for this reason.
    NoVerdict(String),
    /// The judge's reply states no preference.
    Unparsed(String),
}

impl Problem {
    /// The reason.
    pub fn reason(&self) -> &str {
        let (Self::Missing(reason) | Self::Unanswered(reason) | Self::NoVerdict(reason) | Self::Unparsed(reason)) =
            self;
        reason
    }
}

/// A line of `samples.jsonl`.
#[derive(Debug, Serialize)]
struct Sample<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    dataset: Option<&'a str>,
    prompt: &'a str,
    response: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_response: Option<&'a str>,
    reference: &'a str,
    is_switched: Option<bool>,
    preference: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdicts: Option<[Option<f64>; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    glm_preference: Option<f64>,
    finish_reason: Option<&'a str>,
    error: Option<&'a str>,
}

/// The content of `samples.jsonl`.
pub fn samples(comparisons: &[Comparison]) -> Vec<u8> {
    let mut lines = Vec::new();
    for (index, comparison) in comparisons.iter().enumerate() {
        let sample = Sample {
            index,
            dataset: comparison.dataset.as_deref(),
            prompt: &comparison.instruction,
            response: comparison.response.as_deref(),
            raw_response: comparison.raw_response.as_deref(),
            reference: &comparison.reference,
            is_switched: comparison.is_switched,
            preference: comparison.preference,
            // Where one order was asked, the preference is the verdict.
            verdicts: Some(comparison.verdicts)
                .filter(|verdicts| comparison.is_switched.is_none() && *verdicts != [None, None]),
            glm_preference: comparison.glm_preference,
            finish_reason: comparison.finish_reason.as_deref(),
            error: comparison.problem.as_ref().map(Problem::reason),
        };
        serde_json::to_writer(&mut lines, &sample).expect("samples have string keys");
        lines.push(b'\n');
    }
    lines
}
