//! Deciding pairs by a model that sees every pair in both orders.

use serde_json::{Value, json};

use super::pair::Pair;
use crate::judge::annotator::Annotator;
use crate::judge::template::{Templating, Texts};
use crate::judge::verdicts::VerdictStore;
use crate::judge::{Judge, JudgeError, Outcome, Reply, Request, Tally};
use crate::mt_bench::Turn;
use crate::mt_bench::judge_prompt::{JudgePrompt, JudgePrompts, Kind, Role};
use crate::mt_bench::render::Rendered;
use crate::mt_bench::verdict::{self, Position};
use crate::progress::Progress;
use crate::results::DataSource;

/// How a judge is asked, and how its reply is read.
#[derive(Debug)]
pub enum Style {
    /// AlpacaEval's: a preference, usually out of log-probabilities.
    Annotator(Box<Annotator>),
    /// MT-Bench's: a letter after an explanation; and the file of the prompt.
    Prompt(Box<JudgePrompt>, DataSource),
}

impl Style {
    /// The pairwise prompt on one turn without a reference answer.
    pub fn of_prompts(prompts: &JudgePrompts) -> Self {
        let role = Role { kind: Kind::Pair, reference: false, turn: Turn::First };
        Self::Prompt(Box::new(prompts.get(role).clone()), prompts.source.clone())
    }

    /// The body of the request about a pair, in the order in which the judge sees it.
    fn request(&self, model: &str, prompt: &str, [first, second]: [&str; 2]) -> Result<Value, String> {
        match self {
            Self::Annotator(annotator) => {
                let texts = Texts { instruction: prompt, output_1: first, output_2: second };
                annotator.request(model, texts, Templating::Safe)
            }
            Self::Prompt(judge, _) => {
                let value = |field: &str| match field {
                    "question" => Some(prompt),
                    "answer_a" => Some(first),
                    "answer_b" => Some(second),
                    _ => None,
                };
                let user =
                    judge.template.fill(value).map_err(|field| format!("`{}` asks for `{{{field}}}`", judge.name))?;
                Ok(Rendered { prompt: judge, user }.request(model))
            }
        }
    }

    fn check(&self, reply: &Reply) -> Result<(), String> {
        match self {
            Self::Annotator(annotator) => annotator.check(reply),
            Self::Prompt(..) => Ok(()),
        }
    }

    /// How much a reply to a request prefers the answer that was shown first, from 0 to 1.
    ///
    /// # Errors
    /// When it holds no verdict, with the reason.
    pub fn preference(&self, judge: &Judge, request: &Request, reply: &Reply) -> Result<f64, String> {
        match self {
            Self::Annotator(annotator) => {
                annotator.preference(judge, request, reply).map(|preference| 2.0 - preference)
            }
            Self::Prompt(prompt, _) => {
                let verdict = |answer: &Reply| verdict::position(&answer.content().unwrap_or_default(), prompt.format);
                match judge.read(request, reply, verdict).map_err(|unread| unread.to_string())? {
                    Position::A => Ok(1.0),
                    Position::B => Ok(0.0),
                    Position::Tie => Ok(0.5),
                }
            }
        }
    }

    /// What the results say about it.
    pub fn describe(&self) -> Value {
        match self {
            Self::Annotator(annotator) => json!({
                "annotator": annotator.name,
                "template_sha256": orpo_files::sha256(annotator.template.source().as_bytes()),
            }),
            Self::Prompt(judge, file) => json!({
                "prompt": judge.name,
                "templates": file.source,
                "template_sha256": file.sha256,
            }),
        }
    }
}

/// The requests about the pairs, both orders of each, so often; and which pair, repetition and order each is about. Equal
/// answers are a tie without a request.
pub fn plan(pairs: &mut [Pair], style: &Style, model: &str, repeats: u32) -> (Vec<Request>, Vec<[usize; 3]>) {
    let (mut requests, mut of) = (Vec::new(), Vec::new());
    for (index, pair) in pairs.iter_mut().enumerate() {
        if pair.answers[0] == pair.answers[1] {
            pair.preferences = vec![[Some(0.5); 2]; repeats as usize];
            continue;
        }
        pair.preferences = vec![[None; 2]; repeats as usize];
        let [a, b] = pair.answers.each_ref().map(String::as_str);
        for repeat in 0..repeats {
            for (order, shown) in [[a, b], [b, a]].into_iter().enumerate() {
                match style.request(model, &pair.prompt, shown) {
                    Ok(body) => {
                        requests.push(Request { body, repeat });
                        of.push([index, repeat as usize, order]);
                    }
                    Err(problem) => pair.problem = Some(problem),
                }
            }
        }
    }
    (requests, of)
}

/// Asks a plan's requests and puts what comes back into the pairs.
///
/// # Errors
/// As [`Judge::ask`].
pub async fn ask(
    pairs: &mut [Pair],
    (requests, of): &(Vec<Request>, Vec<[usize; 3]>),
    style: &Style,
    judge: &Judge,
    store: &mut VerdictStore,
    progress: &Progress,
) -> Result<Tally, JudgeError> {
    let (outcomes, tally) = judge.ask(requests, store, |reply| style.check(reply), progress).await?;
    for ((outcome, request), &[index, repeat, order]) in outcomes.into_iter().zip(requests).zip(of) {
        let preference = match &outcome {
            Outcome::Replied(reply) => style.preference(judge, request, reply),
            Outcome::Failed(problem) | Outcome::NotAsked(problem) => Err(problem.clone()),
        };
        match preference {
            // In the second order, what is shown first is B's.
            Ok(first) => pairs[index].preferences[repeat][order] = Some(if order == 0 { first } else { 1.0 - first }),
            Err(problem) => pairs[index].problem = Some(problem),
        }
    }
    Ok(tally)
}
