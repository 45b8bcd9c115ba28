//! The verdict store: a JSONL file with every request and what came of it.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Reply, Request};
use crate::client::ClientError;
use crate::jsonl::InputError;
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
    request: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<&'a Reply>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What of a line is needed again: failures are only for people.
#[derive(Debug, Deserialize)]
struct Kept {
    key: String,
    reply: Option<Reply>,
}

/// The replies so far, and the file that takes more.
#[derive(Debug)]
pub struct VerdictStore {
    log: Option<AppendLog>,
    replies: HashMap<String, Reply>,
}

impl VerdictStore {
    /// Opens a store; an absent file is an empty one.
    ///
    /// # Errors
    /// When the file cannot be used or is in use, or a whole line of it is damaged.
    pub fn open(path: &Path) -> Result<Self, InputError> {
        let (log, rows) = AppendLog::open::<Kept>(path)?;
        let is_answer = |reply: &Reply| !is_failure(reply.finish_reason().as_deref());
        let replies = rows.into_iter().filter_map(|row| Some((row.key, row.reply.filter(is_answer)?))).collect();
        Ok(Self { log: Some(log), replies })
    }

    /// A store that nothing outlives.
    pub fn in_memory() -> Self {
        Self { log: None, replies: HashMap::new() }
    }

    /// The reply to the request of this key.
    pub fn get(&self, key: &str) -> Option<&Reply> {
        self.replies.get(key)
    }

    /// Drops the reply to the request of this key, so that it is asked for again. The file keeps it beside the next one.
    pub(super) fn forget(&mut self, key: &str) {
        self.replies.remove(key);
    }

    /// Keeps a reply, or the reason why there is none.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub(super) fn keep(
        &mut self,
        key: &str,
        request: &Request,
        endpoint: &str,
        seconds: f64,
        outcome: &Result<Reply, ClientError>,
    ) -> Result<(), InputError> {
        if let Some(log) = &mut self.log {
            let at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
            let (reply, error) = (outcome.as_ref().ok(), outcome.as_ref().err().map(ToString::to_string));
            let Request { body, repeat } = request;
            log.append(&Row { key, repeat: *repeat, at, endpoint, seconds, request: body, reply, error })?;
        }
        if let Ok(reply) = outcome {
            self.replies.insert(key.to_owned(), reply.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn replies_are_found_again_and_failures_are_not_taken_for_replies() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("verdicts.jsonl");
        let request = Request::new(json!({"model": "m", "messages": []}));
        let reply: Reply = serde_json::from_value(json!({"choices": [{"message": {"content": "m"}}]})).unwrap();
        let mut store = VerdictStore::open(&path).unwrap();
        let broken: Reply =
            serde_json::from_value(json!({"choices": [{"message": {}, "finish_reason": "error"}]})).unwrap();
        let busy = ClientError::Failed { url: "URL".into(), message: "busy".into() };
        store.keep("a", &request, "http://h/v1", 0.5, &Ok(reply.clone())).unwrap();
        store.keep("b", &request, "http://h/v1", 0.5, &Err(busy)).unwrap();
        store.keep("c", &request, "http://h/v1", 0.5, &Ok(broken)).unwrap();
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
