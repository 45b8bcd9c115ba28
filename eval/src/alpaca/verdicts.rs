//! Asking the judge which of two answers is better.

use std::borrow::Cow;

use serde_json::Value;

use super::comparison::{Comparison, Problem};
use super::switch::is_switched;
use crate::bias::over_both_orders;
use crate::judge::annotator::Annotator;
use crate::judge::cost::Estimate;
use crate::judge::parser::Parser;
use crate::judge::template::{Templating, Texts};
use crate::judge::verdicts::VerdictStore;
use crate::judge::way::{self, Settled};
use crate::judge::{Judge, JudgeError, Outcomes, Reply, Request, Tally};
use crate::progress::Progress;

/// The seed of the coin that switches answers; the official program's default.
pub const SEED: u64 = 0;

/// In which order the judge sees the answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Orders {
    /// In the one that the coin says, as officially.
    #[default]
    One,
    /// In both, so that a liking for a place cancels out.
    Both,
}

/// What is asked about some comparisons.
#[derive(Debug)]
pub struct Plan {
    /// The requests, those about the same comparison one after the other.
    pub requests: Vec<Request>,
    /// The comparison of each question, and whether the model's answer is shown first.
    of: Vec<(usize, bool)>,
}

/// Decides what needs no judge, and writes the requests for the rest: equal answers are a tie, missing ones cannot be
/// judged.
pub fn plan(
    comparisons: &mut [Comparison],
    annotator: &Annotator,
    model: &str,
    templating: Templating,
    orders: Orders,
) -> Plan {
    let mut plan = Plan { requests: Vec::new(), of: Vec::new() };
    for (index, comparison) in comparisons.iter_mut().enumerate() {
        let Some(response) = &comparison.response else { continue };
        if *response == comparison.reference {
            comparison.preference = Some(1.5);
            continue;
        }
        let by_coin = annotator.switches && is_switched(&comparison.instruction, SEED);
        let asked: &[bool] = match orders {
            Orders::One => &[by_coin],
            Orders::Both => &[false, true],
        };
        comparison.is_switched = (orders == Orders::One).then_some(by_coin);
        let (reference, response) = (comparison.reference.as_str(), response.as_str());
        for &switched in asked {
            let (output_1, output_2) = if switched { (response, reference) } else { (reference, response) };
            let texts = Texts { instruction: &comparison.instruction, output_1, output_2 };
            match annotator.request(model, texts, templating) {
                Ok(body) => {
                    plan.requests.extend(annotator.requests(&body, 0));
                    plan.of.push((index, switched));
                }
                Err(problem) => comparison.problem = Some(Problem::NoVerdict(format!("not asked: {problem}"))),
            }
        }
    }
    plan
}

/// The preferences that some comparisons get, and how.
#[derive(Debug)]
pub struct Judged {
    /// The annotator in the way that the judge can do.
    pub annotator: Annotator,
    /// What it took.
    pub tally: Tally,
    /// What became of the requests.
    pub outcomes: Outcomes,
}

/// Asks about comparisons in the first of some ways that the judge can do, and reads the preferences. Where both orders
/// were asked, there is one only if both have a verdict. `confirm` is as in [`way::ask`].
///
/// # Errors
/// When the judge cannot be used, or the store cannot be written.
pub async fn ask(
    comparisons: &mut [Comparison],
    ways: Vec<Annotator>,
    (model, templating, orders): (&str, Templating, Orders),
    judge: &Judge,
    store: &mut VerdictStore,
    confirm: impl FnMut(&Annotator, &Estimate, usize) -> anyhow::Result<()>,
    progress: &Progress,
) -> Result<Judged, JudgeError> {
    let requests = |annotator: &Annotator| plan(comparisons, annotator, model, templating, orders).requests;
    let Settled { annotator, requests, outcomes, tally } =
        way::ask(judge, ways, requests, store, confirm, progress).await?;
    let Plan { of, .. } = plan(comparisons, &annotator, model, templating, orders);
    let mut ends = Outcomes::default();
    let samples = annotator.samples as usize;
    for ((outcomes, requests), &(index, switched)) in outcomes.chunks(samples).zip(requests.chunks(samples)).zip(&of) {
        let comparison = &mut comparisons[index];
        let mut preferences = Vec::new();
        let mut problem = None;
        let mut completions = Vec::new();
        for (outcome, request) in outcomes.iter().zip(requests) {
            let read = outcome.reply().map(|reply| annotator.preference(judge, request, reply));
            ends.note(outcome, read.as_ref());
            if let Some(reply) = outcome.reply() {
                completions.push(raw_completion(&annotator, reply));
                let price = judge.prices.map(|prices| prices.spent(request, reply));
                comparison.price = price.map(|price| price + comparison.price.unwrap_or_default());
            }
            match (read, outcome.problem()) {
                (Some(Ok(preference)), _) => preferences.push(preference),
                (Some(Err(unread)), _) => problem = problem.or(Some(Problem::Unparsed(unread.to_string()))),
                (None, reason) => {
                    let reason = reason.unwrap_or_default().to_owned();
                    problem = problem.or(Some(Problem::NoVerdict(reason)));
                }
            }
        }
        let completion = match completions.len() {
            0 | 1 => completions.pop(),
            _ => Some(completions.into()),
        };
        // Of one order the file has the completion, as officially; of both, a list.
        if comparison.is_switched.is_some() {
            comparison.raw_completion = completion;
        } else if let Some(completion) = completion {
            match &mut comparison.raw_completion {
                Some(Value::Array(both)) => both.push(completion),
                raw => *raw = Some(vec![completion].into()),
            }
        }
        if preferences.is_empty() {
            comparison.problem = problem;
            continue;
        }
        // With one preference this is exact.
        let preference = preferences.iter().sum::<f64>() / preferences.len() as f64;
        comparison.verdicts[usize::from(switched)] = Some(if switched { 3.0 - preference } else { preference });
    }
    for &(index, _) in &of {
        let comparison = &mut comparisons[index];
        comparison.preference = match comparison.verdicts {
            _ if comparison.problem.is_some() => None,
            [Some(first), Some(second)] => Some(over_both_orders(first, second)),
            [first, second] => first.or(second),
        };
    }
    Ok(Judged { annotator, tally, outcomes: ends })
}

/// What the official program keeps of a reply: its text, or the whole choice where log-probabilities are read.
fn raw_completion(annotator: &Annotator, reply: &Reply) -> Value {
    match annotator.parser {
        Parser::LogProb(_) => Value::from(reply.clone())["choices"][0].take(),
        Parser::Text { .. } | Parser::Words(_) => {
            reply.tool_arguments().or(reply.content()).map(Cow::into_owned).into()
        }
    }
}
