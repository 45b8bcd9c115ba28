//! The verdict store: a JSONL file with every request and what came of it.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Reply;
use crate::client::ClientError;
use crate::jsonl::InputError;
use crate::learning::Lesson;
use crate::reply::is_failure;
use crate::store::AppendLog;

/// A line, as it is written.
#[derive(Debug, Serialize)]
struct Row<'a> {
    key: &'a str,
    repeat: u32,
    /// When the reply came, in UTC.
    at: String,
    endpoint: &'a str,
    seconds: f64,
    /// The body as it was sent.
    request: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<&'a Reply>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// What was learnt from a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    learnt: Option<&'a Lesson>,
}

/// What of a line is needed again: other failures are only for people.
#[derive(Debug, Deserialize)]
struct Kept {
    key: String,
    #[serde(default)]
    endpoint: String,
    #[serde(default)]
    request: Value,
    reply: Option<Reply>,
    learnt: Option<Lesson>,
}

/// A request that went out, and what came of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent<'a> {
    /// Where it went.
    pub endpoint: &'a str,
    /// How long it took.
    pub seconds: f64,
    /// The body as it was sent.
    pub body: &'a Value,
    /// What came.
    pub outcome: &'a Result<Reply, ClientError>,
    /// What was learnt from a refusal.
    pub learnt: Option<&'a Lesson>,
}

/// What was learnt about a model at an address.
#[derive(Debug)]
struct Learnt {
    endpoint: String,
    model: Value,
    lesson: Lesson,
}

/// The replies so far, and the file that takes more.
#[derive(Debug)]
pub struct VerdictStore {
    log: Option<AppendLog>,
    replies: HashMap<String, Reply>,
    learnt: Vec<Learnt>,
}

impl VerdictStore {
    /// Opens a store; an absent file is an empty one.
    ///
    /// # Errors
    /// When the file cannot be used or is in use, or a whole line of it is damaged.
    pub fn open(path: &Path) -> Result<Self, InputError> {
        let (log, rows) = AppendLog::open::<Kept>(path)?;
        let mut store = Self { log: Some(log), ..Self::in_memory() };
        for mut row in rows {
            if let Some(lesson) = row.learnt {
                store.learn(&row.endpoint, row.request["model"].take(), lesson);
            }
            if let Some(reply) = row.reply.filter(|reply| !is_failure(reply.finish_reason().as_deref())) {
                store.replies.insert(row.key, reply);
            }
        }
        Ok(store)
    }

    /// A store that nothing outlives.
    pub fn in_memory() -> Self {
        Self { log: None, replies: HashMap::new(), learnt: Vec::new() }
    }

    /// What was learnt about a model: at an address, or at any.
    pub fn lessons(&self, endpoint: Option<&str>, model: &str) -> Vec<Lesson> {
        let is_about =
            |learnt: &&Learnt| learnt.model == model && endpoint.is_none_or(|endpoint| learnt.endpoint == endpoint);
        let mut lessons: Vec<Lesson> = Vec::new();
        for Learnt { lesson, .. } in self.learnt.iter().filter(is_about) {
            if !lessons.iter().any(|known| known.field == lesson.field) {
                lessons.push(lesson.clone());
            }
        }
        lessons
    }

    fn learn(&mut self, endpoint: &str, model: Value, lesson: Lesson) {
        self.learnt.push(Learnt { endpoint: endpoint.to_owned(), model, lesson });
    }

    /// The reply to the request of this key.
    pub fn get(&self, key: &str) -> Option<&Reply> {
        self.replies.get(key)
    }

    /// Drops the reply to the request of this key, so that it is asked for again. The file keeps it beside the next one.
    pub(super) fn forget(&mut self, key: &str) {
        self.replies.remove(key);
    }

    /// Keeps what came of a request.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub(super) fn keep(&mut self, key: &str, repeat: u32, sent: Sent<'_>) -> Result<(), InputError> {
        let Sent { endpoint, seconds, body, outcome, learnt } = sent;
        if let Some(log) = &mut self.log {
            let at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
            let (reply, error) = (outcome.as_ref().ok(), outcome.as_ref().err().map(ToString::to_string));
            log.append(&Row { key, repeat, at, endpoint, seconds, request: body, reply, error, learnt })?;
        }
        if let Ok(reply) = outcome {
            self.replies.insert(key.to_owned(), reply.clone());
        }
        if let Some(lesson) = learnt {
            self.learn(endpoint, body["model"].clone(), lesson.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learning::Action;
    use serde_json::json;
    use std::slice;

    fn sent<'a>(body: &'a Value, outcome: &'a Result<Reply, ClientError>) -> Sent<'a> {
        Sent { endpoint: "http://h/v1", seconds: 0.5, body, outcome, learnt: None }
    }

    #[test]
    fn lessons_outlive_a_run() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("verdicts.jsonl");
        let body = json!({"model": "m", "messages": []});
        let refusal = Err(ClientError::Failed { url: "URL".into(), message: "no".into() });
        let lesson = Lesson {
            field: "top_p".into(),
            action: Action::LeftOut,
            to: None,
            why: "no".into(),
            means: "nothing".into(),
        };
        let mut store = VerdictStore::open(&path).unwrap();
        store.keep("a", 0, Sent { learnt: Some(&lesson), ..sent(&body, &refusal) }).unwrap();
        let check = |store: &VerdictStore| {
            assert_eq!(store.get("a"), None);
            assert_eq!(store.lessons(Some("http://h/v1"), "m"), slice::from_ref(&lesson));
            assert_eq!(store.lessons(None, "m"), slice::from_ref(&lesson));
            assert!(store.lessons(Some("http://i/v1"), "m").is_empty() && store.lessons(None, "n").is_empty());
        };
        check(&store);
        drop(store);
        check(&VerdictStore::open(&path).unwrap());
    }

    #[test]
    fn replies_are_found_again_and_failures_are_not_taken_for_replies() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("verdicts.jsonl");
        let body = json!({"model": "m", "messages": []});
        let reply: Reply = serde_json::from_value(json!({"choices": [{"message": {"content": "m"}}]})).unwrap();
        let mut store = VerdictStore::open(&path).unwrap();
        let broken: Reply =
            serde_json::from_value(json!({"choices": [{"message": {}, "finish_reason": "error"}]})).unwrap();
        let busy = ClientError::Failed { url: "URL".into(), message: "busy".into() };
        for (key, outcome) in [("a", Ok(reply.clone())), ("b", Err(busy)), ("c", Ok(broken))] {
            store.keep(key, 0, sent(&body, &outcome)).unwrap();
        }
        drop(store);
        let mut store = VerdictStore::open(&path).unwrap();
        assert_eq!((store.get("a"), store.get("b"), store.get("c")), (Some(&reply), None, None));
        store.forget("a");
        assert_eq!(store.get("a"), None);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("\"error\":\"URL answered with an error: busy\"")
                && text.contains("\"request\":{\"model\":\"m\""),
            "{text}"
        );
    }
}
