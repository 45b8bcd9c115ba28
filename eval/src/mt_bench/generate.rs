//! Answers from a server: two turns a question, the second one with the first exchange in front of it.
//!
//! Every reply goes to `answers.jsonl` as it arrives, in the model's own words; a rerun asks only what is missing
//! there.

use std::collections::HashMap;
use std::path::Path;

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::{AnswerRow, Answers};
use super::{Id, Question, Turn};
use crate::breaker::Breaker;
use crate::client::{ChatReply, Client, ClientError, Message, Sampling};
use crate::jsonl::InputError;
use crate::progress::Progress;
use crate::reasoning::Reasoning;
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
struct Reply {
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
}

impl Respondent<'_> {
    /// Gets the answers that the log in `out` does not hold yet, all first ones before the second ones.
    ///
    /// # Errors
    /// When the log cannot be used. A failed request is no error but a missing answer.
    pub async fn answer(
        &self,
        questions: &[Question],
        out: Option<&Path>,
        progress: &Progress,
    ) -> Result<Answered, InputError> {
        let (mut log, kept) = match out {
            Some(out) => {
                let (log, rows) = AppendLog::open::<Reply>(&out.join(LOG))?;
                (Some(log), rows)
            }
            None => (None, Vec::new()),
        };
        let mut replies: HashMap<(Id, Turn), Reply> =
            kept.into_iter().map(|reply| ((reply.question_id.clone(), reply.turn), reply)).collect();
        let mut failures: HashMap<(Id, Turn), String> = HashMap::new();
        let key = |question: &Question, turn| (question.question_id.clone(), turn);
        let wanted = || questions.iter().flat_map(|question| question.turns().map(move |turn| (question, turn)));
        let kept = wanted().filter(|&(question, turn)| replies.contains_key(&key(question, turn))).count();
        progress.begin(wanted().count(), kept);

        let mut breaker = Breaker::new(self.server.concurrency);
        let mut gone = false;
        for turn in Turn::BOTH {
            let mut missing = Vec::new();
            for question in questions.iter().filter(|question| question.turns().any(|has| has == turn)) {
                if replies.contains_key(&key(question, turn)) {
                    continue;
                }
                let first = replies.get(&key(question, Turn::First)).map(|reply| reply.response.clone());
                match (turn, first) {
                    _ if gone => drop(failures.insert(key(question, turn), Self::not_asked())),
                    (Turn::First, _) => missing.push((question, None)),
                    (Turn::Second, Some(first)) => missing.push((question, Some(self.visible(&first)))),
                    (Turn::Second, None) => {
                        let problem = "not asked: there is no answer to the first turn".to_owned();
                        failures.insert(key(question, turn), problem);
                    }
                }
            }
            let mut unasked: Vec<(Id, Turn)> = missing.iter().map(|(question, _)| key(question, turn)).collect();
            let ask = async |(question, first)| (question, self.ask(question, first).await);
            let mut stream = futures::stream::iter(missing).map(ask).buffer_unordered(self.server.concurrency.max(1));
            while let Some((question, reply)) = stream.next().await {
                gone = breaker.note(&reply);
                let key = key(question, turn);
                unasked.retain(|other| *other != key);
                match reply {
                    Ok(ChatReply { content, finish_reason, .. }) => {
                        let tstamp = chrono::Utc::now().timestamp_millis() as f64 / 1e3;
                        let question_id = key.0.clone();
                        let reply = Reply { question_id, turn, response: content, finish_reason, tstamp };
                        if let Some(log) = &mut log {
                            log.append(&reply)?;
                        }
                        replies.insert(key, reply);
                    }
                    Err(error) => drop(failures.insert(key, error.to_string())),
                }
                progress.advance();
                if gone {
                    break;
                }
            }
            drop(stream);
            failures.extend(unasked.into_iter().map(|key| (key, Self::not_asked())));
        }
        progress.end();
        Ok(self.collect(questions, &replies, failures))
    }

    fn not_asked() -> String {
        "not asked: the server had stopped answering".into()
    }

    /// An answer without its reasoning; one whose reasoning does not end is empty.
    fn visible(&self, response: &str) -> String {
        match self.reasoning.strip(response) {
            Some(stripped) => stripped.answer.unwrap_or_default(),
            None => response.to_owned(),
        }
    }

    /// Asks one turn; `first` is the answer to the one before.
    async fn ask(&self, question: &Question, first: Option<String>) -> Result<ChatReply, ClientError> {
        let message = |role, content: &str| Message { role, content: content.to_owned() };
        let mut messages: Vec<Message> = self.server.system.iter().map(|system| message("system", system)).collect();
        messages.push(message("user", &question.turns[0]));
        if let Some(first) = first {
            messages.push(message("assistant", &first));
            messages.push(message("user", &question.turns[1]));
        }
        let temperature = self.temperature.unwrap_or_else(|| question.temperature());
        let sampling = Sampling { temperature, ..self.server.sampling.clone() };
        self.client.chat(&self.model, &messages, &sampling).await
    }

    fn collect(
        &self,
        questions: &[Question],
        replies: &HashMap<(Id, Turn), Reply>,
        failures: HashMap<(Id, Turn), String>,
    ) -> Answered {
        let mut answered = Answered {
            answers: Answers { failures, ..Answers::none_of(&self.model) },
            rows: Vec::new(),
            stripped_reasoning: 0,
            unterminated_reasoning: 0,
        };
        for question in questions {
            let key = |turn| (question.question_id.clone(), turn);
            let found: Vec<&Reply> = question.turns().map_while(|turn| replies.get(&key(turn))).collect();
            let mut turns = Vec::new();
            for reply in &found {
                let stripped = self.reasoning.strip(&reply.response);
                answered.stripped_reasoning += usize::from(stripped.is_some());
                answered.unterminated_reasoning +=
                    usize::from(stripped.is_some_and(|stripped| stripped.answer.is_none()));
                if reply.finish_reason.as_deref() == Some("length") {
                    answered.answers.truncated.insert(key(reply.turn));
                }
                turns.push(self.visible(&reply.response));
            }
            if let Some(last) = found.last().filter(|_| found.len() == question.turns.len()) {
                answered.rows.push(AnswerRow::new(&question.question_id, &self.model, turns.clone(), last.tstamp));
            }
            answered.answers.by_question.insert(question.question_id.clone(), turns);
        }
        answered
    }
}
