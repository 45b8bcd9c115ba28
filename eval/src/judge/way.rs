//! How a verdict is got from a judge: weighed by log-probabilities, by a reply that cannot be but a verdict, or from its text.
//!
//! Which of them a judge can do is found out by its first reply: each way is an [`Annotator`] with requests of its own, tried one
//! after the other until one is taken. They are different measures. So a verdict that was got in one way is never taken for
//! one of another: the requests differ, and with them the names of the replies in the verdict store.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};

use super::annotator::Annotator;
use super::cost::Estimate;
use super::verdicts::VerdictStore;
use super::{Judge, JudgeError, Outcome, Request, Tally};
use crate::asking::{Hopeless, Party};
use crate::client::ClientError;
use crate::learning::{Action, Lesson};
use crate::progress::Progress;
use crate::rejection;
use crate::reply::NoAnswer;

/// How verdicts should be got from a judge whose annotator reads log-probabilities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Wanted {
    /// Log-probabilities where the judge gives them, else a constrained reply, else its text
    #[default]
    Auto,
    /// Only weighted by log-probabilities, as officially
    Logprobs,
    /// Only by constrained decoding: the reply cannot be anything but a verdict
    Constrained,
    /// Only from the judge's text
    Text,
}

/// A field by which a reply is constrained to some words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Constraint {
    /// vLLM, and `orpo serve`.
    StructuredOutputs,
    /// vLLM before 0.12.
    GuidedChoice,
    /// OpenAI and most others.
    ResponseFormat,
    /// SGLang.
    Regex,
}

impl Constraint {
    /// All of them, in the order in which they are tried.
    pub const ALL: [Self; 4] = [Self::StructuredOutputs, Self::GuidedChoice, Self::ResponseFormat, Self::Regex];

    /// The name of the field.
    pub fn field(self) -> &'static str {
        match self {
            Self::StructuredOutputs => "structured_outputs",
            Self::GuidedChoice => "guided_choice",
            Self::ResponseFormat => "response_format",
            Self::Regex => "regex",
        }
    }

    /// The value that allows these words and nothing else.
    pub fn value(self, words: &[&str]) -> Value {
        match self {
            Self::StructuredOutputs => json!({"choice": words}),
            Self::GuidedChoice => json!(words),
            Self::ResponseFormat => {
                let verdict = json!({"type": "string", "enum": words});
                let schema = json!({"type": "object", "properties": {"verdict": verdict}, "required": ["verdict"],
                    "additionalProperties": false});
                json!({"type": "json_schema", "json_schema": {"name": "verdict", "strict": true, "schema": schema}})
            }
            Self::Regex => {
                let words: Vec<String> = words.iter().map(|word| regex::escape(word)).collect();
                format!("({})", words.join("|")).into()
            }
        }
    }
}

/// The way in which an annotator gets its verdicts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Way {
    /// As its file says.
    #[default]
    Own,
    /// By a reply that is constrained to the verdicts.
    Constrained(Constraint),
    /// From the text.
    Text,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("log-probabilities"),
            Self::Constrained(constraint) => write!(f, "a reply constrained by `{}`", constraint.field()),
            Self::Text => f.write_str("the judge's text"),
        }
    }
}

/// What a number of verdicts is a measure of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// How probable the verdicts are.
    Weighted,
    /// One verdict each.
    Unweighted,
    /// The mean of several verdicts.
    Share(u32),
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weighted => f.write_str("weighted"),
            Self::Unweighted => f.write_str("unweighted"),
            Self::Share(samples) => write!(f, "share of {samples} samples"),
        }
    }
}

impl Serialize for Measure {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What the refusal of a field means by which a verdict was to be read; nothing if it is no such field.
pub(super) fn lost(sent: &Value, error: &ClientError) -> Option<Lesson> {
    let field = rejection::refusal(sent, error)?.field;
    let means = match field {
        "logprobs" | "top_logprobs" => "its verdicts cannot be weighted by log-probabilities",
        field if Constraint::ALL.iter().any(|constraint| constraint.field() == field) => {
            "its replies are not constrained by it"
        }
        _ => return None,
    };
    Some(Lesson {
        field: field.to_owned(),
        action: Action::AnotherWay,
        to: None,
        why: error.to_string(),
        means: means.to_owned(),
    })
}

/// What came of asking in the way that the judge can do.
#[derive(Debug)]
pub struct Settled {
    /// The annotator in that way.
    pub annotator: Annotator,
    /// The requests, as the user has changed them.
    pub requests: Vec<Request>,
    /// What became of each.
    pub outcomes: Vec<Outcome>,
    /// What it took.
    pub tally: Tally,
}

/// Asks in the first of some ways that the judge can do. `plan` gives the requests of a way; `confirm` hears for each what it
/// is going to take and how many replies are there, before anything is asked.
///
/// A way in which the store has verdicts is the one to go on with; one that the store shows to be closed is not tried again.
///
/// # Errors
/// When the judge can do none of them, or cannot be asked at all, `confirm` refuses, or the store cannot be written.
///
/// # Panics
/// When there is no way.
pub async fn ask(
    judge: &Judge,
    ways: Vec<Annotator>,
    mut plan: impl FnMut(&Annotator) -> Vec<Request>,
    store: &mut VerdictStore,
    mut confirm: impl FnMut(&Annotator, &Estimate, usize) -> anyhow::Result<()>,
    progress: &Progress,
) -> Result<Settled, JudgeError> {
    let mut plan = |annotator: &Annotator| {
        let mut requests = plan(annotator);
        judge.edit(&mut requests);
        requests
    };
    let mut ways = remaining(judge, ways, &mut plan, store).into_iter().peekable();
    loop {
        let annotator = ways.next().expect("the last way ends the loop");
        let requests = plan(&annotator);
        judge.forget_unread(&requests, store, |_, request, reply| annotator.preference(judge, request, reply).is_ok());
        let estimate = judge.estimate(&requests, store);
        let cached = requests.len() - estimate.requests;
        confirm(&annotator, &estimate, cached).map_err(|error| JudgeError::NotAgreed(format!("{error:#}")))?;
        match (judge.ask(&requests, store, |reply| annotator.check(reply), progress).await, ways.peek()) {
            (Ok((outcomes, tally)), _) => return Ok(Settled { annotator, requests, outcomes, tally }),
            (Err(error), Some(next)) if annotator.is_closed_by(&error) => {
                eprintln!("note: no verdict by {}: {error}; next: {}", annotator.way, next.way);
            }
            (Err(error), _) => return Err(error),
        }
    }
}

/// The ways from the one with which to begin.
fn remaining(
    judge: &Judge,
    mut ways: Vec<Annotator>,
    plan: &mut impl FnMut(&Annotator) -> Vec<Request>,
    store: &VerdictStore,
) -> Vec<Annotator> {
    let mut first_open = None;
    for (index, annotator) in ways.iter().enumerate() {
        let requests = plan(annotator);
        let mut replies = requests.iter().filter_map(|request| Some((request, judge.reply(request, store)?)));
        if replies.clone().any(|(request, reply)| annotator.preference(judge, request, reply).is_ok()) {
            return ways.split_off(index);
        }
        let model = requests.first().and_then(|request| request.body["model"].as_str()).unwrap_or_default();
        let lessons = store.lessons(Some(judge.client.base()), model);
        let is_refused =
            lessons.iter().any(|lesson| annotator.needs(&lesson.field) && lesson.action == Action::AnotherWay);
        let is_closed = replies.any(|(_, reply)| match reply.without(&judge.reasoning) {
            Ok(answer) => annotator.check(&answer).is_err(),
            Err(NoAnswer::Cut) => annotator.reads_logprobs(),
            Err(_) => false,
        });
        if !is_refused && !is_closed {
            first_open = first_open.or(Some(index));
        }
    }
    let last = ways.len() - 1;
    ways.split_off(first_open.unwrap_or(last))
}

impl Annotator {
    /// The annotator in each of the ways that are wanted, with this many verdicts on each pair where they are not weighted.
    ///
    /// # Errors
    /// When it cannot be used so, with the flag to change.
    pub fn ways(&self, wanted: Wanted, samples: u32) -> Result<Vec<Self>, String> {
        if !self.reads_logprobs() {
            return match wanted {
                Wanted::Auto | Wanted::Text => Ok(vec![self.sampled(samples)]),
                Wanted::Logprobs | Wanted::Constrained => Err(format!(
                    "annotator `{}` reads the judge's text in its own way; leave out --judge-verdict, or name an annotator that \
                     reads log-probabilities",
                    self.name
                )),
            };
        }
        if wanted == Wanted::Logprobs && samples > 1 {
            return Err(
                "--judge-samples is for verdicts that are not weighted; leave it out, or change --judge-verdict".into(),
            );
        }
        let constrained = Constraint::ALL.map(Way::Constrained);
        let ways = match wanted {
            Wanted::Auto => [&[Way::Own][..], &constrained, &[Way::Text]].concat(),
            Wanted::Logprobs => vec![Way::Own],
            Wanted::Constrained => constrained.to_vec(),
            Wanted::Text => vec![Way::Text],
        };
        Ok(ways
            .into_iter()
            .map(|way| if way == Way::Own { self.clone() } else { self.by_words(way).sampled(samples) })
            .collect())
    }

    /// What its numbers measure.
    pub fn measure(&self) -> Measure {
        match self.samples {
            1 if self.weighs() => Measure::Weighted,
            1 => Measure::Unweighted,
            samples => Measure::Share(samples),
        }
    }

    /// What the results say about how it gets its verdicts.
    pub fn describe_way(&self) -> Value {
        match self.way {
            Way::Own if self.reads_logprobs() => json!({"way": "logprobs"}),
            Way::Constrained(constraint) => json!({"way": "constrained", "field": constraint.field()}),
            Way::Own | Way::Text => json!({"way": "text"}),
        }
    }

    /// True if its verdicts are read by this field of a request.
    fn needs(&self, field: &str) -> bool {
        match self.way {
            Way::Own => self.reads_logprobs() && matches!(field, "logprobs" | "top_logprobs"),
            Way::Constrained(constraint) => field == constraint.field(),
            Way::Text => false,
        }
    }

    /// True if an error at the first request means that the judge cannot do this way, but perhaps another one.
    fn is_closed_by(&self, error: &JudgeError) -> bool {
        match error {
            JudgeError::Unfit { .. } => true,
            JudgeError::Hopeless(Hopeless::Refused { field: Some(field), .. }) => self.needs(field),
            JudgeError::Hopeless(Hopeless::Cut { .. }) => self.reads_logprobs(),
            _ => false,
        }
    }
}

/// The lessons as lines for people.
pub fn describe_lessons(lessons: &[Lesson]) -> String {
    lessons.iter().map(|lesson| lesson.describe(Party::Judge) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_allow_two_words() {
        let value = |constraint: Constraint| constraint.value(&["m", "M"]);
        assert_eq!(value(Constraint::StructuredOutputs), json!({"choice": ["m", "M"]}));
        assert_eq!(value(Constraint::GuidedChoice), json!(["m", "M"]));
        assert_eq!(value(Constraint::Regex), json!("(m|M)"));
        let schema = &value(Constraint::ResponseFormat)["json_schema"]["schema"];
        assert_eq!(schema["properties"]["verdict"]["enum"], json!(["m", "M"]));
    }

    #[test]
    fn ways_are_different_measures_with_different_requests() {
        let annotator = Annotator::embedded();
        let ways = annotator.ways(Wanted::Auto, 1).unwrap();
        let measures: Vec<String> = ways.iter().map(|way| way.measure().to_string()).collect();
        assert_eq!(measures[0], "weighted");
        assert!(measures.len() == 6 && measures[1..].iter().all(|measure| measure == "unweighted"), "{measures:?}");
        for way in &ways[1..] {
            let parameters = &way.parameters;
            assert!(!parameters.contains_key("logprobs") && !parameters.contains_key("top_logprobs"), "{parameters:?}");
            assert_eq!((&parameters["max_tokens"], &parameters["temperature"]), (&json!(2048), &json!(0)));
        }
        let sampled = annotator.ways(Wanted::Text, 3).unwrap();
        assert_eq!((sampled.len(), sampled[0].measure().to_string().as_str()), (1, "share of 3 samples"));
        assert_eq!(sampled[0].parameters["temperature"], json!(1), "equal samples say nothing");
        assert_eq!(annotator.ways(Wanted::Constrained, 1).unwrap().len(), 4);
        let message = annotator.ways(Wanted::Logprobs, 2).unwrap_err();
        assert!(message.starts_with("--judge-samples is for verdicts that are not weighted"), "{message}");
    }

    #[test]
    fn only_the_field_of_the_verdict_closes_a_way() {
        let ways = Annotator::embedded().ways(Wanted::Auto, 1).unwrap();
        let refused = |field: &str| {
            let error = ClientError::Failed { url: "URL".into(), message: "no".into() };
            JudgeError::Hopeless(Hopeless::Refused {
                error: Box::new(error),
                field: Some(field.into()),
                advice: String::new(),
            })
        };
        assert!(ways[0].is_closed_by(&refused("logprobs")) && !ways[0].is_closed_by(&refused("max_tokens")));
        assert!(ways[1].is_closed_by(&refused("structured_outputs")) && !ways[1].is_closed_by(&refused("logprobs")));
        assert!(!ways[5].is_closed_by(&refused("logprobs")));
    }
}
