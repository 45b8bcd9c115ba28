//! What a run learns from the refusals of its first request: a server that names a field which it does not take gets the same
//! request without that field, or with the field under another name. Each field is learnt once; a field that the user has set
//! is left alone.
//!
//! Requests keep their identity: a lesson changes what is sent, not the body that names a reply in a store, so that a rerun
//! finds it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::asking::Party;
use crate::body::Edits;
use crate::client::ClientError;
use crate::rejection;

/// What is done about a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Its value is sent under another name.
    Renamed,
    /// It is not sent.
    LeftOut,
    /// The verdict is asked for in another way, without it.
    AnotherWay,
}

/// A field that a server refused, and what is done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lesson {
    /// The field.
    pub field: String,
    /// What is done.
    pub action: Action,
    /// Its other name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What the server said.
    pub why: String,
    /// What that means for the results.
    pub means: String,
}

/// Fields that may be left out: they say how a reply is sampled, or nothing about it.
const DISPENSABLE: [&str; 12] = [
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "user",
    "store",
    "metadata",
    "service_tier",
];

/// What has been learnt about one server.
#[derive(Debug, Clone, Default)]
pub struct Lessons {
    list: Vec<Lesson>,
}

impl Lessons {
    /// What was learnt before.
    pub fn new(list: Vec<Lesson>) -> Self {
        Self { list }
    }

    /// The lessons, in the order in which they were learnt.
    pub fn list(&self) -> &[Lesson] {
        &self.list
    }

    /// Changes a body accordingly.
    pub fn apply(&self, body: &mut Map<String, Value>) {
        for Lesson { field, action, to, .. } in &self.list {
            if *action == Action::AnotherWay {
                continue;
            }
            if let (Some(value), Some(to)) = (body.shift_remove(field), to) {
                body.entry(to.as_str()).or_insert(value);
            }
        }
    }

    /// The body as it is sent.
    pub fn applied(&self, body: &Value) -> Value {
        let mut body = body.clone();
        if let Some(fields) = body.as_object_mut() {
            self.apply(fields);
        }
        body
    }

    /// Learns from the refusal of a body as it was sent, if there is something to learn: the error names a field that was not
    /// learnt before, that the user has not set, and without which the request still asks the same.
    pub fn learn(&mut self, party: Party, edits: &Edits, sent: &Value, error: &ClientError) -> Option<Lesson> {
        let refusal = rejection::refusal(sent, error)?;
        let is_known = |lesson: &Lesson| lesson.field == refusal.field || lesson.to.as_deref() == Some(refusal.field);
        if edits.sets(refusal.field) || self.list.iter().any(is_known) {
            return None;
        }
        let to = refusal.rename_to.filter(|to| !edits.sets(to));
        if to.is_none() && !DISPENSABLE.contains(&refusal.field) {
            return None;
        }
        let lesson = Lesson {
            field: refusal.field.to_owned(),
            action: if to.is_some() { Action::Renamed } else { Action::LeftOut },
            to: to.map(str::to_owned),
            why: error.to_string(),
            means: meaning(party, refusal.field, &sent[refusal.field]),
        };
        self.list.push(lesson.clone());
        Some(lesson)
    }
}

/// What the loss of a field means for the results.
fn meaning(party: Party, field: &str, value: &Value) -> String {
    match (field, party) {
        ("max_tokens" | "max_completion_tokens", _) => {
            format!("the limit of {value} tokens stays; where a model reasons, its reasoning counts towards it")
        }
        ("temperature", Party::Judge) => {
            format!(
                "the judge samples its verdicts at its own temperature instead of {value}, so that another run may bring others"
            )
        }
        ("temperature", Party::Model) => {
            format!("the answers are sampled at the server's own temperature instead of {value}")
        }
        ("seed", _) => "another run may bring other replies".into(),
        _ => format!("the server's own value applies instead of {value}"),
    }
}

impl Lesson {
    /// The lesson for a person.
    pub fn describe(&self, party: Party) -> String {
        let who = match party {
            Party::Model => "the model's server",
            Party::Judge => "the judge",
        };
        let Self { field, to, means, .. } = self;
        match (self.action, to) {
            (Action::Renamed, Some(to)) => format!("{who} takes `{to}` instead of `{field}`: {means}"),
            (Action::AnotherWay, _) => format!("{who} does not take `{field}`: {means}"),
            _ => format!("{who} does not take `{field}`, which is left out: {means}"),
        }
    }

    /// Says it on stderr, with the server's words.
    pub fn announce(&self, party: Party) {
        eprintln!("note: {} ({})", self.describe(party), self.why.trim_end_matches('.'));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(message: &str) -> ClientError {
        ClientError::Status { url: "URL".into(), status: 400, message: message.into(), code: None, param: None }
    }

    #[test]
    fn each_field_is_learnt_once_and_the_value_moves_with_the_name() {
        let body = json!({"model": "m", "messages": [], "max_tokens": 7, "temperature": 0, "logprobs": true});
        let mut lessons = Lessons::default();
        let mut learn = |message: &str| {
            let sent = lessons.applied(&body);
            let lesson = lessons.learn(Party::Judge, &Edits::default(), &sent, &refused(message));
            lesson.map(|lesson| (lesson.action, lesson.field, lesson.to))
        };
        let rename = "'max_tokens' is not supported. Use 'max_completion_tokens' instead.";
        let renamed = (Action::Renamed, "max_tokens".to_owned(), Some("max_completion_tokens".to_owned()));
        assert_eq!(learn(rename), Some(renamed));
        assert_eq!(learn("`temperature` is deprecated"), Some((Action::LeftOut, "temperature".into(), None)));
        assert_eq!(learn("'max_completion_tokens' is not supported. Use 'max_tokens'."), None, "it came from there");
        assert_eq!(learn("Unknown field 'logprobs'"), None, "the verdict needs it");
        assert_eq!(learn("no"), None);
        let sent = json!({"model": "m", "messages": [], "max_completion_tokens": 7, "logprobs": true});
        assert_eq!(lessons.applied(&body), sent);
        assert_eq!(lessons.list().len(), 2);
    }

    #[test]
    fn what_the_user_has_set_is_left_alone() {
        let edits: Edits = ["temperature=0".parse().unwrap()].into_iter().collect();
        let body = json!({"model": "m", "temperature": 0});
        let error = refused("'temperature' is not supported");
        assert_eq!(Lessons::default().learn(Party::Judge, &edits, &body, &error), None);
        let lesson = Lessons::default().learn(Party::Judge, &Edits::default(), &body, &error).unwrap();
        assert_eq!(
            lesson.describe(Party::Judge),
            "the judge does not take `temperature`, which is left out: the judge samples its verdicts at its own \
             temperature instead of 0, so that another run may bring others"
        );
    }

    #[test]
    fn a_limit_that_is_too_high_is_not_taken_away() {
        let error = refused("max_tokens is too large: 5000. This model supports at most 4096 completion tokens");
        let body = json!({"model": "m", "max_tokens": 5000});
        assert_eq!(Lessons::default().learn(Party::Model, &Edits::default(), &body, &error), None);
    }
}
