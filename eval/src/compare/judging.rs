//! Deciding pairs by a model that sees every pair in both orders.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::pair::Pair;
use crate::judge::annotator::{self, Annotator};
use crate::judge::cost::Estimate;
use crate::judge::template::{Templating, Texts};
use crate::judge::verdicts::VerdictStore;
use crate::judge::way::{self, Settled};
use crate::judge::{Judge, JudgeError, Outcomes, Reply, Request, Tally, Unread};
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

/// The styles in which a judge may be asked.
#[derive(Debug)]
pub enum Styles {
    /// The first of these annotators that the judge can do.
    Annotators(Vec<Annotator>),
    /// MT-Bench's.
    Prompt(Style),
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

    /// How much a reply to a request prefers the answer that was shown first, from 0 to 1.
    ///
    /// # Errors
    /// When it holds no verdict, with the reason.
    pub fn preference(&self, judge: &Judge, request: &Request, reply: &Reply) -> Result<f64, Unread<String>> {
        match self {
            Self::Annotator(annotator) => {
                annotator.preference(judge, request, reply).map(|preference| 2.0 - preference)
            }
            Self::Prompt(prompt, _) => {
                let verdict = |answer: &Reply| verdict::position(&answer.content().unwrap_or_default(), prompt.format);
                match judge.read(request, reply, verdict).map_err(|unread| unread.map(|problem| problem.to_string()))? {
                    Position::A => Ok(1.0),
                    Position::B => Ok(0.0),
                    Position::Tie => Ok(0.5),
                }
            }
        }
    }

    /// The preference of several verdicts on a pair in the same order: the mean of an annotator's; of letters the one that most
    /// have, and a tie where no one has more than the others.
    fn of_samples(&self, found: &[f64]) -> Option<f64> {
        if matches!(self, Self::Annotator(_)) {
            return (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64);
        }
        let votes = [0.0, 0.5, 1.0].map(|verdict| (found.iter().filter(|&&one| one == verdict).count(), verdict));
        let most = votes.iter().map(|(votes, _)| *votes).max().filter(|most| *most > 0)?;
        let mut winners = votes.iter().filter(|(votes, _)| *votes == most);
        match (winners.next(), winners.next()) {
            (Some((_, verdict)), None) => Some(*verdict),
            _ => Some(0.5),
        }
    }

    /// What the results say about it, with this many verdicts on each pair and order.
    pub fn describe(&self, samples: u32) -> Value {
        match self {
            Self::Annotator(annotator) => json!({
                "annotator": annotator.name,
                "measure": annotator.measure(),
                "verdict": annotator.describe_way(),
                "template_sha256": orpo_files::sha256(annotator.template.source().as_bytes()),
            }),
            Self::Prompt(judge, file) => json!({
                "prompt": judge.name,
                "measure": if samples == 1 { "unweighted".to_owned() } else { format!("majority of {samples} samples") },
                "verdict": {"way": "text"},
                "templates": file.source,
                "template_sha256": file.sha256,
            }),
        }
    }
}

/// The requests about the pairs, and which pair, repetition and order each is about. All verdicts on the same are one after the
/// other.
#[derive(Debug, Default)]
pub struct Plan {
    /// The requests.
    pub requests: Vec<Request>,
    /// Pair, repetition and order of each group of requests.
    of: Vec<[usize; 3]>,
}

/// Plans what is asked about the pairs: both orders of each or one, in so many repetitions, with so many verdicts each. Equal
/// answers are a tie without a request.
pub fn plan(pairs: &mut [Pair], style: &Style, asking: Asking<'_>) -> Plan {
    let Asking { model, repeats, samples, one_order } = asking;
    let mut plan = Plan::default();
    for (index, pair) in pairs.iter_mut().enumerate() {
        if pair.answers[0] == pair.answers[1] {
            pair.preferences = vec![[Some(0.5); 2]; repeats as usize];
            continue;
        }
        pair.preferences = vec![[None; 2]; repeats as usize];
        let only = one_order.map(|order| order(pair));
        let [a, b] = pair.answers.each_ref().map(String::as_str);
        for repeat in 0..repeats {
            for (order, shown) in
                [[a, b], [b, a]].into_iter().enumerate().filter(|(order, _)| only.is_none_or(|only| only == *order))
            {
                match style.request(model, &pair.prompt, shown) {
                    Ok(mut body) => {
                        if samples > 1 && matches!(style, Style::Prompt(..)) {
                            // Drawn, else they would be equal.
                            body["temperature"] = 1.into();
                        }
                        plan.requests.extend(annotator::samples(&body, repeat, samples));
                        plan.of.push([index, repeat as usize, order]);
                    }
                    Err(problem) => pair.problem = Some(problem),
                }
            }
        }
    }
    plan
}

/// How pairs were judged.
#[derive(Debug)]
pub struct Judged {
    /// The style, in the way that the judge can do.
    pub style: Style,
    /// What it took.
    pub tally: Tally,
    /// What became of the requests.
    pub outcomes: Outcomes,
    /// The pairs of which a request has no reply.
    pub without_reply: BTreeSet<usize>,
}

/// How often pairs are judged, and in which orders.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// The judge's model.
    pub model: &'a str,
    /// Repetitions of the judging.
    pub repeats: u32,
    /// Verdicts on each pair and order, where they are not weighted.
    pub samples: u32,
    /// Gives the order in which alone a pair is shown, 0 for A first; none for both orders.
    pub one_order: Option<fn(&Pair) -> usize>,
}

/// Asks about pairs and puts what comes back into them. An annotator may be given in several ways, the first of which that the
/// judge can do is taken; `confirm` hears what is going to be asked, and how many replies are there.
///
/// # Errors
/// As [`Judge::ask`], and when `confirm` refuses.
pub async fn ask(
    judge: &Judge,
    pairs: &mut [Pair],
    styles: Styles,
    asking: Asking<'_>,
    store: &mut VerdictStore,
    mut confirm: impl FnMut(&Estimate, usize) -> anyhow::Result<()>,
    progress: &Progress,
) -> Result<Judged, JudgeError> {
    let (style, asking, requests, outcomes, tally) = match styles {
        Styles::Annotators(ways) => {
            let requests = |annotator: &Annotator| {
                let style = Style::Annotator(Box::new(annotator.clone()));
                plan(pairs, &style, Asking { samples: annotator.samples, ..asking }).requests
            };
            let confirm = |_: &Annotator, estimate: &_, cached| confirm(estimate, cached);
            let Settled { annotator, requests, outcomes, tally } =
                way::ask(judge, ways, requests, store, confirm, progress).await?;
            let asking = Asking { samples: annotator.samples, ..asking };
            (Style::Annotator(Box::new(annotator)), asking, requests, outcomes, tally)
        }
        Styles::Prompt(style) => {
            let Plan { mut requests, .. } = plan(pairs, &style, asking);
            judge.edit(&mut requests);
            let is_read = |_, request: &Request, reply: &Reply| style.preference(judge, request, reply).is_ok();
            judge.forget_unread(&requests, store, is_read);
            let estimate = judge.estimate(&requests, store);
            let cached = requests.len() - estimate.requests;
            confirm(&estimate, cached).map_err(|error| JudgeError::NotAgreed(format!("{error:#}")))?;
            let (outcomes, tally) = judge.ask(&requests, store, |_| Ok(()), progress).await?;
            (style, asking, requests, outcomes, tally)
        }
    };
    let Plan { of, .. } = plan(pairs, &style, asking);
    let mut ends = Outcomes::default();
    let mut without_reply = BTreeSet::new();
    let samples = asking.samples as usize;
    for ((outcomes, requests), &[index, repeat, order]) in
        outcomes.chunks(samples).zip(requests.chunks(samples)).zip(&of)
    {
        let mut found = Vec::new();
        let mut problem = None;
        for (outcome, request) in outcomes.iter().zip(requests) {
            let read = outcome.reply().map(|reply| style.preference(judge, request, reply));
            ends.note(outcome, read.as_ref());
            match (read, outcome.problem()) {
                (Some(Ok(first)), _) => found.push(first),
                (Some(Err(unread)), _) => problem = problem.or(Some(unread.to_string())),
                (None, reason) => {
                    without_reply.insert(index);
                    problem = problem.or(reason.map(str::to_owned));
                }
            }
        }
        match style.of_samples(&found) {
            // In the second order, what is shown first is B's.
            Some(first) => pairs[index].preferences[repeat][order] = Some(if order == 0 { first } else { 1.0 - first }),
            None => pairs[index].problem = problem,
        }
    }
    Ok(Judged { style, tally, outcomes: ends, without_reply })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_counted_and_preferences_averaged() {
        let letters = Style::of_prompts(&JudgePrompts::embedded());
        for (found, verdict) in [
            (&[1.0, 0.0, 1.0][..], Some(1.0)),
            (&[0.0], Some(0.0)),
            (&[0.5, 0.5, 1.0], Some(0.5)),
            (&[1.0, 0.0], Some(0.5)),
            (&[], None),
        ] {
            assert_eq!(letters.of_samples(found), verdict, "{found:?}");
        }
        let annotator = Style::Annotator(Box::new(Annotator::embedded()));
        assert_eq!((annotator.of_samples(&[1.0, 0.0, 0.0, 0.0]), annotator.of_samples(&[])), (Some(0.25), None));
    }
}
