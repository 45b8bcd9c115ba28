//! The bodies of `POST /tokenize` and `POST /detokenize`, in vLLM's layout.

use orpo_chat::Message;
use serde_json::{Map, Value};

use super::fields::wrong_type;
use super::shared::token_ids;
use super::{ApiError, request, shared, tools};

/// What is to be turned into tokens.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenizeInput {
    /// A text.
    Text {
        /// The text.
        text: String,
        /// Whether it gets the tokens that the tokenizer puts around it, such as BOS.
        add_special_tokens: bool,
    },
    /// A conversation, as a chat request has it.
    Chat {
        /// The messages.
        messages: Vec<Message>,
        /// The tools that the template presents.
        tools: Vec<Value>,
        /// Whether the assistant's turn is opened after them.
        add_generation_prompt: bool,
        /// The last message is left open.
        continue_final_message: bool,
        /// Further variables of the chat template.
        variables: Map<String, Value>,
    },
}

/// A validated request to tokenise.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizeRequest {
    /// The model whose tokenizer is meant; absent means the served one.
    pub model: Option<String>,
    /// What is to be turned into tokens.
    pub input: TokenizeInput,
    /// Whether each token's text is told, too.
    pub return_token_strs: bool,
}

impl TokenizeRequest {
    /// Reads and validates a body.
    ///
    /// # Errors
    /// An [`ApiError`] that names the field.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = shared::body(body)?;
        let model = shared::model(&mut fields)?;
        let return_token_strs = fields.boolean("return_token_strs")?.unwrap_or(false);
        let input = match fields.take("messages") {
            Some(messages) => {
                let messages = request::messages(messages)?;
                let (add_generation_prompt, continue_final_message) = request::turn(&mut fields, &messages)?;
                let tools = tools::functions(&mut fields)?.into_iter().map(|function| function.presented).collect();
                let variables = request::variables(&mut fields)?;
                TokenizeInput::Chat { messages, tools, add_generation_prompt, continue_final_message, variables }
            }
            None => match fields.require("prompt")? {
                Value::String(text) => {
                    let add_special_tokens = fields.boolean("add_special_tokens")?.unwrap_or(true);
                    TokenizeInput::Text { text, add_special_tokens }
                }
                other => return Err(wrong_type("prompt", "a string", &other)),
            },
        };
        fields.refuse_rest(&[], &[("add_special_tokens", |value| value == false)])?;
        Ok(Self { model, input, return_token_strs })
    }
}

/// A validated request to turn tokens into text.
#[derive(Debug, Clone, PartialEq)]
pub struct DetokenizeRequest {
    /// The model whose tokenizer is meant; absent means the served one.
    pub model: Option<String>,
    /// The tokens.
    pub tokens: Vec<u32>,
}

impl DetokenizeRequest {
    /// Reads and validates a body.
    ///
    /// # Errors
    /// An [`ApiError`] that names the field.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = shared::body(body)?;
        let model = shared::model(&mut fields)?;
        let tokens = match fields.require("tokens")? {
            Value::Array(values) => token_ids(values, "tokens")?,
            other => return Err(wrong_type("tokens", "a list of token ids", &other)),
        };
        fields.refuse_rest(&[], &[])?;
        Ok(Self { model, tokens })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::ErrorKind;
    use serde_json::json;

    #[test]
    fn wrong_fields_are_named() {
        use ErrorKind::{InvalidValue, MissingField, Unsupported};
        for (body, kind, param) in [
            (json!({}), MissingField, "prompt"),
            (json!({"prompt": ["a"]}), InvalidValue, "prompt"),
            (json!({"prompt": "a", "model": 1}), InvalidValue, "model"),
            (json!({"prompt": "a", "x": 1}), Unsupported, "x"),
            (json!({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}), Unsupported, "prompt"),
        ] {
            let error = TokenizeRequest::parse(body.to_string().as_bytes()).unwrap_err();
            assert_eq!((error.kind(), error.param()), (kind, Some(param)), "{body}");
        }
        for (body, kind, param) in [
            (json!({}), MissingField, "tokens"),
            (json!({"tokens": "a"}), InvalidValue, "tokens"),
            (json!({"tokens": [1, 2.5]}), InvalidValue, "tokens[1]"),
        ] {
            let error = DetokenizeRequest::parse(body.to_string().as_bytes()).unwrap_err();
            assert_eq!((error.kind(), error.param()), (kind, Some(param)), "{body}");
        }
    }
}
