//! Answers from a server: two turns a question, the second one with the first exchange in front of it.
//!
//! Every reply goes to `answers.jsonl` as it arrives, in the model's own words; a rerun asks only what is missing
//! there.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::{AnswerRow, Answers};
use super::{Id, Question, Turn};
use crate::asking::{Hopeless, Party, Step, ask_all};
use crate::breaker::{Breaker, Next};
use crate::client::{Client, ClientError, Message, Sampling};
use crate::jsonl::InputError;
use crate::learning::{Lesson, Lessons};
use crate::progress::Progress;
use crate::reasoning::Reasoning;
use crate::reply::{self, LENGTH, REFUSAL, Reply};
use crate::server::Server;
use crate::store::AppendLog;

/// The name of the log inside an output directory.
pub const LOG: &str = "answers.jsonl";

/// A model that answers, and how.
#[derive(Debug)]
pub struct Respondent<'a> {
    /// The server.
    pub server: &'a Server,
    /// A connection to it.
    pub client: Client,
    /// The model.
    pub model: String,
    /// Where it comes from, if its server says so.
    pub lineage: Option<Value>,
    /// One temperature for all questions instead of that of their category.
    pub temperature: Option<f64>,
    /// The reasoning that is taken out of answers before they are judged or become context.
    pub reasoning: &'a Reasoning,
}

/// A reply in the log.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Logged {
    question_id: Id,
    turn: Turn,
    response: String,
    finish_reason: Option<String>,
    tstamp: f64,
}

/// What a server said.
#[derive(Debug)]
pub struct Answered {
    /// The answers, without reasoning.
    pub answers: Answers,
    /// The complete conversations, in the official layout and the order of the questions.
    pub rows: Vec<AnswerRow>,
    /// Answers that held reasoning.
    pub stripped_reasoning: usize,
    /// Those of them whose reasoning did not end, so that they are empty.
    pub unterminated_reasoning: usize,
    /// Answers that are refusals.
    pub refused: usize,
    /// Answers that are empty.
    pub empty: usize,
    /// The fields that the server refused in this run, and what was done about them.
    pub learnt: Vec<Lesson>,
}

/// Why the questions could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The log.
    #[error(transparent)]
    Log(#[from] InputError),
    /// The server answers no question of the run.
    #[error("the model cannot be asked: {0}")]
    Hopeless(Hopeless),
}

impl Respondent<'_> {
    /// Gets the answers that the log in `out` does not hold yet, all first ones before the second ones.
    ///
    /// # Errors
    /// When the log cannot be used, or the server cannot be asked at all. A failed request is no error but a missing
    /// answer.
    pub async fn answer<'q>(
        &self,
        questions: &'q [Question],
        out: Option<&Path>,
        progress: &Progress,
    ) -> Result<Answered, AnswerError> {
        let (mut log, kept) = match out {
            Some(out) => {
                let (log, rows) = AppendLog::open::<Logged>(&out.join(LOG))?;
                (Some(log), rows)
            }
            None => (None, Vec::new()),
        };
        let kept = kept.into_iter().filter(|logged| !reply::is_failure(logged.finish_reason.as_deref()));
        let mut replies: HashMap<(Id, Turn), Logged> =
            kept.map(|logged| ((logged.question_id.clone(), logged.turn), logged)).collect();
        let mut failures: HashMap<(Id, Turn), String> = HashMap::new();
        let key = |question: &Question, turn| (question.question_id.clone(), turn);
        let wanted = || questions.iter().flat_map(|question| question.turns().map(move |turn| (question, turn)));
        let kept = wanted().filter(|&(question, turn)| replies.contains_key(&key(question, turn))).count();
        progress.begin(wanted().count(), kept);

        let lessons = RefCell::new(Lessons::default());
        let mut breaker = Breaker::new(Party::Model, self.server.concurrency, self.reasoning.clone());
        for turn in Turn::BOTH {
            let mut missing = Vec::new();
            for question in questions.iter().filter(|question| question.turns().any(|has| has == turn)) {
                if replies.contains_key(&key(question, turn)) {
                    continue;
                }
                let first = replies.get(&key(question, Turn::First)).map(|logged| logged.response.clone());
                match (turn, first) {
                    _ if breaker.next() == Next::Stop => {}
                    (Turn::First, _) => missing.push((question, None)),
                    (Turn::Second, Some(first)) => missing.push((question, Some(self.visible(&first)))),
                    (Turn::Second, None) => {
                        let problem = "not asked: there is no answer to the first turn".to_owned();
                        failures.insert(key(question, turn), problem);
                    }
                }
            }
            let ask = async |(question, first): &(&Question, Option<String>)| {
                let body = lessons.borrow().applied(&self.body(question, first.clone()));
                let result = self.client.chat(&body, async || ()).await;
                (body, result)
            };
            let start = breaker.next();
            let take = |(question, first): (&'q Question, Option<String>),
                        (body, result): (Value, Result<Reply, ClientError>)| {
                if let Err(error) = &result
                    && breaker.next() == Next::Alone
                    && let Some(lesson) = lessons.borrow_mut().learn(Party::Model, &self.server.edits, &body, error)
                {
                    lesson.announce(Party::Model);
                    return Ok(Step { next: Next::Alone, again: Some((question, first)) });
                }
                let key = key(question, turn);
                match &result {
                    Ok(reply) => {
                        let logged = Logged {
                            question_id: key.0.clone(),
                            turn,
                            response: reply.answer(),
                            finish_reason: reply.finish_reason().map(Cow::into_owned),
                            tstamp: chrono::Utc::now().timestamp_millis() as f64 / 1e3,
                        };
                        if let Some(log) = &mut log {
                            log.append(&logged)?;
                        }
                        replies.insert(key, logged);
                    }
                    Err(error) => drop(failures.insert(key, error.to_string())),
                }
                breaker.note(&body, &result).map(Step::from).map_err(AnswerError::Hopeless)
            };
            ask_all(missing, self.server.concurrency, start, progress, ask, take).await?;
        }
        progress.end();
        for (question, turn) in wanted() {
            let key = key(question, turn);
            if !replies.contains_key(&key) {
                failures.entry(key).or_insert_with(|| breaker.not_asked());
            }
        }
        let learnt = lessons.into_inner().list().to_vec();
        Ok(Answered { learnt, ..self.collect(questions, &replies, failures) })
    }

    /// An answer without its reasoning; one whose reasoning does not end is empty.
    fn visible(&self, response: &str) -> String {
        match self.reasoning.strip(response) {
            Some(stripped) => stripped.answer.unwrap_or_default(),
            None => response.to_owned(),
        }
    }

    /// The request for one turn; `first` is the answer to the one before.
    fn body(&self, question: &Question, first: Option<String>) -> Value {
        let message = |role, content: &str| Message { role, content: content.to_owned() };
        let mut conversation = vec![message("user", &question.turns[0])];
        if let Some(first) = first {
            conversation.push(message("assistant", &first));
            conversation.push(message("user", &question.turns[1]));
        }
        let temperature = self.temperature.unwrap_or_else(|| question.temperature());
        let sampling = Sampling { temperature, ..self.server.sampling.clone() };
        self.server.body(&self.model, &conversation, &sampling)
    }

    fn collect(
        &self,
        questions: &[Question],
        replies: &HashMap<(Id, Turn), Logged>,
        failures: HashMap<(Id, Turn), String>,
    ) -> Answered {
        let mut answered = Answered {
            answers: Answers { failures, ..Answers::none_of(&self.model) },
            rows: Vec::new(),
            stripped_reasoning: 0,
            unterminated_reasoning: 0,
            refused: 0,
            empty: 0,
            learnt: Vec::new(),
        };
        for question in questions {
            let key = |turn| (question.question_id.clone(), turn);
            let found: Vec<&Logged> = question.turns().map_while(|turn| replies.get(&key(turn))).collect();
            let mut turns = Vec::new();
            for reply in &found {
                let stripped = self.reasoning.strip(&reply.response);
                answered.stripped_reasoning += usize::from(stripped.is_some());
                answered.unterminated_reasoning +=
                    usize::from(stripped.is_some_and(|stripped| stripped.answer.is_none()));
                if reply.finish_reason.as_deref() == Some(LENGTH) {
                    answered.answers.truncated.insert(key(reply.turn));
                }
                answered.refused += usize::from(reply.finish_reason.as_deref() == Some(REFUSAL));
                let visible = self.visible(&reply.response);
                answered.empty += usize::from(visible.trim().is_empty());
                turns.push(visible);
            }
            if let Some(last) = found.last().filter(|_| found.len() == question.turns.len()) {
                answered.rows.push(AnswerRow::new(&question.question_id, &self.model, turns.clone(), last.tstamp));
            }
            answered.answers.by_question.insert(question.question_id.clone(), turns);
        }
        answered
    }
}
