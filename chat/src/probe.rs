//! What a chat template does, found by rendering conversations with it rather than by reading it.

use serde_json::{Value, json};

use crate::{ChatError, ChatTokenizer, Message, RenderOptions};

/// What a template does wrong with `add_generation_prompt`: either way the model is trained on a response that differs
/// from the reply that it gives when it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GenerationPromptFault {
    /// The assistant's turn is opened at the end of every conversation, also where no reply is asked for.
    AlwaysOpened {
        /// What follows the text of every response: its end, and the header of a turn that is not there.
        after_response: String,
        /// `after_response`, token by token.
        tokens: Vec<String>,
    },
    /// The assistant's turn is not opened where a reply is asked for.
    NeverOpened {
        /// The header, with which every response then begins.
        header: String,
        /// `header`, token by token.
        tokens: Vec<String>,
    },
}

impl ChatTokenizer {
    /// Whether the chat template presents tools.
    pub fn knows_tools(&self) -> bool {
        let tool = probe_tool();
        let options =
            RenderOptions { tools: std::slice::from_ref(&tool), add_generation_prompt: true, variables: None };
        self.render_with(&[Message::user("x")], options).is_ok_and(|text| text.contains(PROBE_NAME))
    }

    /// Whether the chat template shows calls and their results in the messages of a conversation without tools.
    pub fn renders_calls(&self) -> bool {
        const RESULT: &str = "result_of_the_probe";
        let text = self.render(&probe_history(RESULT), true);
        text.is_ok_and(|text| [PROBE_NAME, PROBE_ARGUMENT, RESULT].iter().all(|part| text.contains(part)))
    }

    /// How the chat template disregards `add_generation_prompt`, if it does.
    ///
    /// # Errors
    /// [`ChatError::NoTemplate`] without a template, [`ChatError::Tokenizer`]. A template that refuses a question and
    /// its answer has no fault.
    pub fn generation_prompt_fault(&self) -> Result<Option<GenerationPromptFault>, ChatError> {
        self.template()?;
        let question = [Message::user("A question of the probe")];
        let answered = [question[0].clone(), Message::assistant("ANSWER-OF-THE-PROBE")];
        let (Ok(asked), Ok(unasked)) = (self.render(&question, true), self.render(&question, false)) else {
            return Ok(None);
        };
        let Ok(text) = self.render(&answered, false) else { return Ok(None) };
        let Some((before, after)) = text.split_once(&answered[1].content).filter(|_| asked == unasked) else {
            return Ok(None);
        };
        let header = &before[common_prefix(before, &asked)..];
        if !header.trim().is_empty() {
            let tokens = self.token_texts(header)?;
            return Ok(Some(GenerationPromptFault::NeverOpened { header: header.into(), tokens }));
        }
        // A header without an answer follows the answer, where the next question would have another.
        let next = [&answered[..], &[Message::user("Another question of the probe")]].concat();
        let Ok(continued) = self.render(&next, false) else { return Ok(None) };
        let after_next = continued.split_once(&answered[1].content).map_or("", |(_, after)| after);
        let extra = after[common_prefix(after, after_next)..].trim_end();
        if extra.trim().is_empty() || !before.trim_end().ends_with(extra) {
            return Ok(None);
        }
        Ok(Some(GenerationPromptFault::AlwaysOpened { after_response: after.into(), tokens: self.token_texts(after)? }))
    }

    fn token_texts(&self, text: &str) -> Result<Vec<String>, ChatError> {
        let ids = self.encode(text)?;
        Ok(ids.into_iter().filter_map(|id| self.tokenizer().id_to_token(id)).collect())
    }
}

const PROBE_NAME: &str = "name_of_the_probe";
const PROBE_ARGUMENT: &str = "argument_of_the_probe";

/// A tool that no user has.
pub(crate) fn probe_tool() -> Value {
    let parameters = json!({
        "type": "object",
        "properties": {"x": {"type": "string", "description": "a text"}},
        "required": ["x"],
    });
    let function = json!({"name": PROBE_NAME, "description": "a tool", "parameters": parameters});
    json!({"type": "function", "function": function})
}

/// A question, a call and its result. The id is of the length that Mistral's templates ask for.
pub(crate) fn probe_history(result: &str) -> Vec<Message> {
    let mut call = Message::assistant("");
    let function = json!({"name": PROBE_NAME, "arguments": {"x": PROBE_ARGUMENT}});
    call.extra.insert("tool_calls".into(), json!([{"id": "probe0000", "type": "function", "function": function}]));
    let mut reply = Message::new("tool", result);
    reply.extra.insert("tool_call_id".into(), "probe0000".into());
    vec![Message::user("x"), call, reply]
}

/// The length in bytes of what both begin with.
fn common_prefix(a: &str, b: &str) -> usize {
    let differs = a.char_indices().zip(b.chars()).find(|((_, a), b)| a != b);
    differs.map_or(a.len().min(b.len()), |((at, _), _)| at)
}
