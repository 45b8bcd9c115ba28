//! What a judge said.

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::client::Usage;

/// A reply to a chat request, kept as the server sent it. It has a first choice with a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Reply(Value);

impl TryFrom<Value> for Reply {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        if value["choices"][0]["message"].is_object() { Ok(Self(value)) } else { Err("it has no `choices[0].message`") }
    }
}

impl From<Reply> for Value {
    fn from(Reply(value): Reply) -> Self {
        value
    }
}

impl Reply {
    fn choice(&self) -> &Value {
        &self.0["choices"][0]
    }

    /// The text; a call of a tool has none.
    pub fn content(&self) -> Option<&str> {
        self.choice()["message"]["content"].as_str()
    }

    /// The arguments of the first tool call, or of a call in the older form `function_call`, as JSON text.
    pub fn tool_arguments(&self) -> Option<&str> {
        let message = &self.choice()["message"];
        let call = &message["tool_calls"][0]["function"];
        call["arguments"].as_str().or(message["function_call"]["arguments"].as_str())
    }

    /// The likeliest tokens at one position of the reply, each with its natural log-probability; a negative position
    /// counts from the end. `None` where the server gave none.
    pub fn top_logprobs(&self, position: i64) -> Option<Vec<(String, f64)>> {
        let tokens = self.choice()["logprobs"]["content"].as_array()?;
        let index = if position < 0 { tokens.len() as i64 + position } else { position };
        let top = tokens.get(usize::try_from(index).ok()?)?["top_logprobs"].as_array()?;
        top.iter().map(|entry| Some((entry["token"].as_str()?.to_owned(), entry["logprob"].as_f64()?))).collect()
    }

    /// Why the reply ended.
    pub fn finish_reason(&self) -> Option<&str> {
        self.choice()["finish_reason"].as_str()
    }

    /// The tokens of question and reply, where the server counts them.
    pub fn usage(&self) -> Option<Usage> {
        Usage::deserialize(&self.0["usage"]).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_reply_is_read_field_by_field() {
        let top = |token: &str| json!({"token": token, "top_logprobs": [{"token": token, "logprob": -0.5}]});
        let reply = json!({
            "choices": [{
                "message": {"content": "m", "tool_calls": [{"function": {"arguments": "{}"}}]},
                "finish_reason": "length",
                "logprobs": {"content": [top("a"), top("b")]}
            }],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
        });
        let reply: Reply = serde_json::from_value(reply).unwrap();
        assert_eq!((reply.content(), reply.tool_arguments()), (Some("m"), Some("{}")));
        assert_eq!(reply.finish_reason(), Some("length"));
        assert_eq!(reply.top_logprobs(0), Some(vec![("a".into(), -0.5)]));
        assert_eq!(reply.top_logprobs(-1), Some(vec![("b".into(), -0.5)]));
        assert_eq!((reply.top_logprobs(2), reply.top_logprobs(-3)), (None, None));
        assert_eq!(reply.usage(), Some(Usage { prompt_tokens: 3, completion_tokens: 1 }));
        let bare: Reply = serde_json::from_value(json!({"choices": [{"message": {"content": null}}]})).unwrap();
        assert_eq!((bare.content(), bare.top_logprobs(0), bare.usage()), (None, None, None));
        let older = json!({"choices": [{"message": {"content": null, "function_call": {"arguments": "[]"}}}]});
        assert_eq!(Reply::try_from(older).unwrap().tool_arguments(), Some("[]"));
        assert!(serde_json::from_value::<Reply>(json!({"choices": []})).is_err());
    }
}
