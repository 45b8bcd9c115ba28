//! What is asked.

use orpo_files::{canonical_json, sha256};
use serde_json::Value;

use crate::breaker::limit;

/// A question to a judge: the body of a chat request, and which repetition of it this is.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The body, with `model`, `messages` and every parameter.
    pub body: Value,
    /// 0 for the first time; the same question again, to see how much a judge agrees with itself, counts up.
    pub repeat: u32,
}

/// The tokens below which a limit is meant for a verdict without a word of reasoning.
const LEAST_ROOM: u64 = 16;

impl Request {
    /// A question asked once.
    pub fn new(body: Value) -> Self {
        Self { body, repeat: 0 }
    }

    /// Its name: the SHA-256 of the body, with keys in order, and of the repetition. The address of the server is not part
    /// of it, so that a judge may move.
    pub fn key(&self) -> String {
        let repeat = if self.repeat > 0 { format!("#{}", self.repeat) } else { String::new() };
        sha256(canonical_json(&self.body) + &repeat)
    }

    /// The same question with twice the room for a reply, for a judge whose reasoning took it all; nothing where the room is
    /// not limited, or is that of a bare verdict, in which no reasoning could fit.
    pub fn with_more_room(&self) -> Option<Self> {
        let limit = limit(&self.body)?;
        let room = self.body[limit].as_u64().filter(|room| *room >= LEAST_ROOM)?;
        let mut body = self.body.clone();
        body[limit] = (2 * room).into();
        Some(Self { body, repeat: self.repeat })
    }

    /// About how many tokens the messages are: a quarter of their characters, and four for each message's frame.
    pub fn prompt_tokens(&self) -> u64 {
        let messages = self.body["messages"].as_array().map_or(&[][..], Vec::as_slice);
        let characters = |message: &Value| message["content"].as_str().map_or(0, |text| text.chars().count() as u64);
        messages.iter().map(|message| characters(message).div_ceil(4) + 4).sum()
    }

    /// The most tokens that the reply may have, if the body says so.
    pub fn most_reply_tokens(&self) -> Option<u64> {
        self.body[limit(&self.body)?].as_u64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_key_depends_on_everything_that_is_asked_and_on_nothing_else() {
        let request = Request::new(json!({"model": "m", "messages": [{"role": "user", "content": "a"}]}));
        let reordered = Request::new(json!({"messages": [{"content": "a", "role": "user"}], "model": "m"}));
        assert_eq!(request.key(), reordered.key());
        // printf '%s' '{"messages":[{"content":"a","role":"user"}],"model":"m"}' | sha256sum
        assert_eq!(request.key(), "8ec5a737a42ec4cdb84ec811002ab0d43396f28cdc2f7c6fa782ca97a0ec26db");
        let again = Request { repeat: 1, ..request.clone() };
        let other = Request::new(json!({"model": "m", "messages": [{"role": "user", "content": "a"}], "seed": 1}));
        assert_ne!(request.key(), again.key());
        assert_ne!(request.key(), other.key());
    }

    #[test]
    fn tokens_are_estimated() {
        let message = |content: &str| json!({"role": "user", "content": content});
        let request = Request::new(json!({"messages": [message("12345"), message("")], "max_tokens": 7}));
        assert_eq!((request.prompt_tokens(), request.most_reply_tokens()), (2 + 4 + 4, Some(7)));
        assert_eq!(Request::new(json!({})).most_reply_tokens(), None);
    }

    #[test]
    fn the_room_is_doubled_whichever_field_limits_it() {
        let more =
            |body: Value| Request { body, repeat: 2 }.with_more_room().map(|request| (request.body, request.repeat));
        assert_eq!(more(json!({"max_tokens": 400})), Some((json!({"max_tokens": 800}), 2)));
        assert_eq!(more(json!({"max_completion_tokens": 16})), Some((json!({"max_completion_tokens": 32}), 2)));
        assert_eq!((more(json!({"max_tokens": 1})), more(json!({}))), (None, None));
    }
}
