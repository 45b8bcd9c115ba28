//! Asking the judge which of two answers is better.

use std::borrow::Cow;

use serde_json::Value;

use super::comparison::{Comparison, Problem};
use super::switch::is_switched;
use crate::judge::annotator::Annotator;
use crate::judge::parser::Parser;
use crate::judge::template::{Templating, Texts};
use crate::judge::verdicts::VerdictStore;
use crate::judge::{Judge, JudgeError, Outcome, Reply, Request, Tally};
use crate::progress::Progress;

/// The seed of the coin that switches answers; the official program's default.
pub const SEED: u64 = 0;

/// What is asked about some comparisons.
#[derive(Debug)]
pub struct Plan {
    /// The requests.
    pub requests: Vec<Request>,
    /// The comparison of each request.
    of: Vec<usize>,
}

/// Decides what needs no judge, and writes a request for the rest: equal answers are a tie, missing ones cannot be
/// judged.
pub fn plan(comparisons: &mut [Comparison], annotator: &Annotator, model: &str, templating: Templating) -> Plan {
    let mut plan = Plan { requests: Vec::new(), of: Vec::new() };
    for (index, comparison) in comparisons.iter_mut().enumerate() {
        let Some(response) = &comparison.response else { continue };
        if *response == comparison.reference {
            comparison.preference = Some(1.5);
            continue;
        }
        let switched = annotator.switches && is_switched(&comparison.instruction, SEED);
        comparison.is_switched = Some(switched);
        let (reference, response) = (comparison.reference.as_str(), response.as_str());
        let (output_1, output_2) = if switched { (response, reference) } else { (reference, response) };
        let texts = Texts { instruction: &comparison.instruction, output_1, output_2 };
        match annotator.request(model, texts, templating) {
            Ok(body) => {
                plan.requests.push(Request::new(body));
                plan.of.push(index);
            }
            Err(problem) => comparison.problem = Some(Problem::NoVerdict(format!("not asked: {problem}"))),
        }
    }
    plan
}

/// Asks the planned requests and reads the preferences.
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
    for ((outcome, request), &index) in outcomes.into_iter().zip(&plan.requests).zip(&plan.of) {
        let comparison = &mut comparisons[index];
        match outcome {
            Outcome::Replied(reply) => {
                match annotator.preference(judge, request, &reply) {
                    Ok(preference) if comparison.is_switched == Some(true) => {
                        comparison.preference = Some(3.0 - preference)
                    }
                    Ok(preference) => comparison.preference = Some(preference),
                    Err(problem) => comparison.problem = Some(Problem::Unparsed(problem)),
                }
                comparison.price = judge.prices.map(|prices| prices.spent(request, &reply));
                comparison.raw_completion = Some(raw_completion(annotator, &reply));
            }
            Outcome::Failed(problem) | Outcome::NotAsked(problem) => {
                comparison.problem = Some(Problem::NoVerdict(problem));
            }
        }
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
