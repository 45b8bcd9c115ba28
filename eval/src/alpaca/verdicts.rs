//! Asking the judge which of two answers is better.

use std::borrow::Cow;

use serde_json::Value;

use super::comparison::{Comparison, Problem};
use super::switch::is_switched;
use crate::bias::over_both_orders;
use crate::judge::annotator::Annotator;
use crate::judge::parser::Parser;
use crate::judge::template::{Templating, Texts};
use crate::judge::verdicts::VerdictStore;
use crate::judge::{Judge, JudgeError, Outcome, Reply, Request, Tally};
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
    /// The requests.
    pub requests: Vec<Request>,
    /// The comparison of each request, and whether the model's answer is shown first.
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
                    plan.requests.push(Request::new(body));
                    plan.of.push((index, switched));
                }
                Err(problem) => comparison.problem = Some(Problem::NoVerdict(format!("not asked: {problem}"))),
            }
        }
    }
    plan
}

/// Asks the planned requests and reads the preferences. Where both orders were asked, there is one only if both have a
/// verdict.
///
/// # Errors
/// When the judge cannot be used, or the store cannot be written.
pub async fn ask(
    plan: &Plan,
    comparisons: &mut [Comparison],
    annotator: &Annotator,
    judge: &Judge,
    store: &mut VerdictStore,
    progress: &Progress,
) -> Result<Tally, JudgeError> {
    let (outcomes, tally) = judge.ask(&plan.requests, store, |reply| annotator.check(reply), progress).await?;
    for ((outcome, request), &(index, switched)) in outcomes.into_iter().zip(&plan.requests).zip(&plan.of) {
        let comparison = &mut comparisons[index];
        match outcome {
            Outcome::Replied(reply) => {
                match annotator.preference(judge, request, &reply) {
                    Ok(preference) => {
                        let for_model = if switched { 3.0 - preference } else { preference };
                        comparison.verdicts[usize::from(switched)] = Some(for_model);
                    }
                    Err(problem) => comparison.problem = Some(Problem::Unparsed(problem)),
                }
                if let Some(prices) = judge.prices {
                    *comparison.price.get_or_insert(0.0) += prices.spent(request, &reply);
                }
                let completion = raw_completion(annotator, &reply);
                // Of one order the file has the completion, as officially; of both, a list.
                match &mut comparison.raw_completion {
                    None if comparison.is_switched.is_none() => {
                        comparison.raw_completion = Some(vec![completion].into())
                    }
                    Some(Value::Array(both)) => both.push(completion),
                    raw => *raw = Some(completion),
                }
            }
            Outcome::Failed(problem) | Outcome::NotAsked(problem) => {
                comparison.problem = Some(Problem::NoVerdict(problem));
            }
        }
    }
    for &(index, _) in &plan.of {
        let comparison = &mut comparisons[index];
        comparison.preference = match comparison.verdicts {
            _ if comparison.problem.is_some() => None,
            [Some(first), Some(second)] => Some(over_both_orders(first, second)),
            [first, second] => first.or(second),
        };
    }
    Ok(tally)
}

/// What the official program keeps of a reply: its text, or the whole choice where log-probabilities are read.
fn raw_completion(annotator: &Annotator, reply: &Reply) -> Value {
    match annotator.parser {
        Parser::LogProb(_) => Value::from(reply.clone())["choices"][0].take(),
        Parser::Text { .. } => reply.tool_arguments().or(reply.content()).map(Cow::into_owned).into(),
    }
}
