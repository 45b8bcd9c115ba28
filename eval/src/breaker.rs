//! When to stop asking.

use serde_json::Value;

use crate::asking::{Hopeless, Party};
use crate::client::ClientError;
use crate::reasoning::Reasoning;
use crate::rejection;
use crate::reply::{NoAnswer, Reply};

/// How the next question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Alone: nothing is known about the server yet.
    Alone,
    /// Together with others.
    Together,
    /// Not at all.
    Stop,
}

/// How many questions are asked alone until one is answered.
const ALONE: usize = 3;

/// How many requests in a row a server may refuse in the same words.
const SAME_WORDS: usize = 8;

/// Hears what became of every question and says whether the others are worth asking.
#[derive(Debug)]
pub struct Breaker {
    party: Party,
    /// The reasoning that is no answer.
    reasoning: Reasoning,
    /// Requests in flight at the same time.
    concurrency: usize,
    next: Next,
    /// Questions that were asked before one was answered.
    unanswered: usize,
    /// Replies among them that were cut off before they said anything.
    cut: usize,
    /// Requests in a row that found no server.
    absent: usize,
    /// What the server said to the last requests, if it refused them, and how often in a row.
    refusal: Option<(ClientError, usize)>,
}

impl Breaker {
    /// For a run with this many requests in flight, in which this reasoning is not an answer.
    pub fn new(party: Party, concurrency: usize, reasoning: Reasoning) -> Self {
        Self { party, reasoning, concurrency, next: Next::Alone, unanswered: 0, cut: 0, absent: 0, refusal: None }
    }

    /// How the next question is asked.
    pub fn next(&self) -> Next {
        self.next
    }

    /// Hears what became of a request with this body.
    ///
    /// # Errors
    /// When nothing has been answered yet, and by this result nothing will be.
    pub fn note(&mut self, body: &Value, result: &Result<Reply, ClientError>) -> Result<Next, Hopeless> {
        match result.as_ref().map(|reply| reply.without(&self.reasoning).err()) {
            Ok(None) => self.next = Next::Together,
            Ok(Some(NoAnswer::Cut)) => self.cut += 1,
            Ok(Some(_)) => {}
            Err(error) if self.next == Next::Alone => {
                if let Some(advice) = about_all(self.party, body, error) {
                    let field = rejection::refusal(body, error).map(|refusal| refusal.field.to_owned());
                    return Err(Hopeless::Refused { error: Box::new(error.clone()), field, advice });
                }
            }
            Err(_) => {}
        }
        let error = result.as_ref().err();
        self.absent = if matches!(error, Some(ClientError::Unreachable { .. })) { self.absent + 1 } else { 0 };
        self.refusal = match (error, self.refusal.take()) {
            (Some(error), Some((last, times))) if *error == last => Some((last, times + 1)),
            (Some(error), _) if rejection::is_lasting(error) => Some((error.clone(), 1)),
            _ => None,
        };
        let refused = self.refusal.as_ref().is_some_and(|(_, times)| *times >= self.concurrency.max(SAME_WORDS));
        let is_gone = self.absent >= self.concurrency.max(ALONE) || matches!(error, Some(ClientError::Later { .. }));
        if refused || is_gone {
            self.next = Next::Stop;
        }
        if self.next == Next::Alone {
            self.unanswered += 1;
            if self.unanswered == ALONE {
                self.decide(body)?;
            }
        }
        Ok(self.next)
    }

    /// Decides after some questions without an answer. A judge whose replies have no room can give no verdict; a model may
    /// be measured even so.
    fn decide(&mut self, body: &Value) -> Result<(), Hopeless> {
        if self.party == Party::Judge && self.cut == ALONE {
            let field = limit(body).unwrap_or("max_tokens").to_owned();
            return Err(Hopeless::Cut { replies: ALONE, flag: self.party.body_flag(), field });
        }
        self.next = Next::Together;
        Ok(())
    }

    /// Why what was not asked was not.
    pub fn not_asked(&self) -> String {
        let who = match self.party {
            Party::Model => "server",
            Party::Judge => "judge",
        };
        match &self.refusal {
            Some((error, times)) => format!("not asked: the {who} refused {times} requests in a row: {error}"),
            None => format!("not asked: the {who} had stopped answering"),
        }
    }
}

/// The name of the field that limits the tokens of a reply.
pub fn limit(body: &Value) -> Option<&'static str> {
    ["max_completion_tokens", "max_tokens"].into_iter().find(|name| body[name].is_number())
}

/// What to do about an error that all requests will get; nothing if others may fare better.
fn about_all(party: Party, body: &Value, error: &ClientError) -> Option<String> {
    match error {
        ClientError::Status { status: 401..=404, .. } | ClientError::WebPage { .. } => Some(String::new()),
        ClientError::Status { code: Some(code), .. } if code.contains("quota") => Some(String::new()),
        error => rejection::advice(party, body, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reasoning::Format;
    use serde_json::json;

    fn status(status: u16, message: &str) -> Result<Reply, ClientError> {
        Err(ClientError::Status { url: "URL".into(), status, message: message.into(), code: None, param: None })
    }

    fn unreachable() -> Result<Reply, ClientError> {
        Err(ClientError::Unreachable { url: String::new(), problem: String::new() })
    }

    fn said(content: &str, finish_reason: &str) -> Result<Reply, ClientError> {
        let choice = json!({"message": {"content": content}, "finish_reason": finish_reason});
        Ok(Reply::accept(json!({"choices": [choice]})).unwrap())
    }

    fn breaker(party: Party, concurrency: usize) -> Breaker {
        Breaker::new(party, concurrency, Reasoning::new([Format::Think]))
    }

    #[test]
    fn the_first_question_goes_alone_until_one_is_answered() {
        let body = json!({"max_tokens": 1});
        let mut heard = breaker(Party::Model, 1);
        assert_eq!(heard.next(), Next::Alone);
        assert_eq!(heard.note(&body, &said("", "stop")), Ok(Next::Alone));
        assert_eq!(heard.note(&body, &status(400, "too long")), Ok(Next::Alone));
        assert_eq!(heard.note(&body, &said("m", "stop")), Ok(Next::Together));
        // What a single request says now is about itself.
        assert_eq!(heard.note(&body, &status(400, "'max_tokens' is unknown")), Ok(Next::Together));
        assert_eq!(heard.note(&body, &status(404, "no")), Ok(Next::Together));
        let mut heard = breaker(Party::Model, 1);
        let cut = [0; 3].map(|_| heard.note(&body, &said("", "length")));
        assert_eq!(cut, [Ok(Next::Alone), Ok(Next::Alone), Ok(Next::Together)]);
    }

    #[test]
    fn what_all_requests_would_get_ends_the_run_at_the_first() {
        let body = json!({"max_tokens": 7});
        let note = |result| breaker(Party::Judge, 1).note(&body, &result).map_err(|end| end.to_string());
        assert_eq!(note(status(401, "wrong key")), Err("URL answered 401: wrong key".into()));
        let message = note(status(400, "'max_tokens' is not supported. Use 'max_completion_tokens'")).unwrap_err();
        assert!(message.ends_with("with --judge-body max_tokens= --judge-body max_completion_tokens=7"), "{message}");
        assert_eq!(note(status(400, "too long")), Ok(Next::Alone));
        assert_eq!(note(status(500, "busy")), Ok(Next::Alone));
        let mut heard = breaker(Party::Judge, 1);
        assert_eq!(heard.note(&body, &said("", "length")), Ok(Next::Alone));
        assert_eq!(heard.note(&body, &said("<think>a", "length")), Ok(Next::Alone));
        let message = heard.note(&body, &said("<think>a</think>", "length")).unwrap_err().to_string();
        assert!(message.ends_with("said anything; raise the limit with --judge-body max_tokens=N"), "{message}");
    }

    #[test]
    fn a_server_that_has_gone_is_not_asked_any_more() {
        let body = json!({});
        let mut heard = breaker(Party::Model, 1);
        let results =
            [said("m", "stop"), unreachable(), unreachable(), said("m", "stop"), unreachable(), unreachable()];
        for result in &results {
            assert_eq!(heard.note(&body, result), Ok(Next::Together));
        }
        assert_eq!(heard.note(&body, &unreachable()), Ok(Next::Stop));
        assert_eq!(heard.not_asked(), "not asked: the server had stopped answering");
        let later = Err(ClientError::Later { url: String::new(), status: 429, wait_secs: 3600 });
        assert_eq!(breaker(Party::Model, 8).note(&body, &later), Ok(Next::Stop));
    }

    #[test]
    fn the_same_words_again_and_again_are_heard() {
        let body = json!({});
        let mut heard = breaker(Party::Judge, 2);
        for time in 1..SAME_WORDS {
            assert_ne!(heard.note(&body, &status(400, "no")), Ok(Next::Stop), "{time}");
        }
        assert_ne!(heard.note(&body, &status(400, "no, no")), Ok(Next::Stop));
        for _ in 0..SAME_WORDS {
            assert_ne!(heard.note(&body, &status(429, "slow down")), Ok(Next::Stop));
        }
        for _ in 1..SAME_WORDS {
            assert_ne!(heard.note(&body, &status(400, "no")), Ok(Next::Stop));
        }
        assert_eq!(heard.note(&body, &status(400, "no")), Ok(Next::Stop));
        assert_eq!(heard.not_asked(), "not asked: the judge refused 8 requests in a row: URL answered 400: no");
    }
}
