//! The one form in which the trainer sees preference data.

use orpo_chat::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Dropped;

/// A text as it stands, turns for the chat template, or token ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Text {
    /// Used as it is.
    Plain(String),
    /// Rendered by the chat template.
    Chat(Vec<Message>),
    /// Tokenised already: no template, no BOS.
    Ids(Vec<u32>),
}

/// Keys of turns that hold reasoning apart from the answer.
pub(super) const REASONING_KEYS: [&str; 3] = ["reasoning_content", "reasoning", "thinking"];

impl Text {
    /// True if there is nothing in it but white space. A turn that calls a tool says something without text.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Plain(text) => text.trim().is_empty(),
            Self::Chat(messages) => messages
                .iter()
                .all(|message| message.content.trim().is_empty() && !message.extra.contains_key("tool_calls")),
            Self::Ids(ids) => ids.is_empty(),
        }
    }

    /// True if one of its turns is a system message.
    pub fn has_system(&self) -> bool {
        matches!(self, Self::Chat(turns) if turns.iter().any(|turn| matches!(turn.role.as_str(), "system" | "developer")))
    }

    /// The key of a turn under which the model's reasoning is kept apart from the answer, if it is.
    pub fn reasoning_key(&self) -> Option<&'static str> {
        let Self::Chat(messages) = self else { return None };
        let is_filled = |message: &Message, key: &str| match message.extra.get(key) {
            Some(Value::String(text)) => !text.trim().is_empty(),
            other => other.is_some(),
        };
        REASONING_KEYS.into_iter().find(|key| messages.iter().any(|message| is_filled(message, key)))
    }

    /// True if reasoning as models mark it (`<think>`) is part of it.
    pub fn thinks(&self) -> bool {
        let is_marked = |text: &str| text.contains("<think>") || text.contains("</think>");
        match self {
            Self::Plain(text) => is_marked(text),
            Self::Chat(messages) => messages.iter().any(|message| is_marked(&message.content)),
            Self::Ids(_) => false,
        }
    }

    /// The text of a string, or of the turn that `choose` takes from several.
    fn text<'t>(&'t self, choose: impl Fn(&'t [Message]) -> Option<&'t Message>) -> Option<&'t str> {
        match self {
            Self::Plain(text) => Some(text),
            Self::Chat(messages) => choose(messages).map(|message| message.content.as_str()),
            Self::Ids(_) => None,
        }
    }
}

/// A document for next-token training.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// All of it.
    pub text: Text,
    /// The tools that the template presents, in OpenAI's layout.
    pub tools: Vec<Value>,
}

/// A prompt with the better and the worse response to it, in TRL's layout: all three strings, all three lists of
/// messages, or all three token ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preference {
    /// What both responses answer.
    pub prompt: Text,
    /// The better response.
    pub chosen: Text,
    /// The worse response.
    pub rejected: Text,
    /// The tools that the template presents before the prompt, in OpenAI's layout.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
}

impl Preference {
    /// A pair without tools.
    pub fn new(prompt: Text, chosen: Text, rejected: Text) -> Self {
        Self { prompt, chosen, rejected, tools: Vec::new() }
    }

    /// The pair with turns where it has strings: the prompt is the user's, the responses are the model's.
    pub fn with_turns(self) -> Self {
        let turn = |role: &str, text: Text| match text {
            Text::Plain(text) => Text::Chat(vec![Message::new(role, text)]),
            text => text,
        };
        Self {
            prompt: turn("user", self.prompt),
            chosen: turn("assistant", self.chosen),
            rejected: turn("assistant", self.rejected),
            tools: self.tools,
        }
    }

    /// The length in bytes of the prompt (of turns: of its last one) if both responses begin with it. A prompt of a word
    /// may be the beginning of two answers by chance.
    fn repeated_prompt(&self) -> Option<usize> {
        const CHANCE: usize = 8;
        let prompt = self.prompt.text(<[Message]>::last).filter(|prompt| prompt.len() >= CHANCE)?;
        let repeats = |side: &Text| side.text(<[Message]>::first).is_some_and(|text| text.starts_with(prompt));
        (repeats(&self.chosen) && repeats(&self.rejected)).then_some(prompt.len())
    }

    /// True if both responses begin with the prompt.
    pub fn repeats_prompt(&self) -> bool {
        self.repeated_prompt().is_some()
    }

    /// The pair with the prompt cut off responses that both begin with it.
    pub fn without_repeated_prompt(mut self) -> Self {
        if let Some(length) = self.repeated_prompt() {
            for side in [&mut self.chosen, &mut self.rejected] {
                match side {
                    // What follows joins on to the prompt as it did.
                    Text::Plain(text) => drop(text.drain(..length)),
                    Text::Chat(turns) => turns[0].content = turns[0].content[length..].trim_start().into(),
                    Text::Ids(_) => {}
                }
            }
        }
        self
    }

    /// The key of [`Text::reasoning_key`] in any part of the pair.
    pub fn reasoning_key(&self) -> Option<&'static str> {
        [&self.prompt, &self.chosen, &self.rejected].into_iter().find_map(Text::reasoning_key)
    }

    /// Why nothing can be learnt from this pair, if that is so.
    pub fn unusable(&self) -> Option<Dropped> {
        if self.prompt.is_empty() {
            return Some(Dropped::EmptyPrompt);
        }
        if let Text::Chat(turns) = &self.prompt
            && turns.last().is_some_and(|turn| speaks_for_model(&turn.role))
        {
            return Some(Dropped::WrongRole);
        }
        for response in [&self.chosen, &self.rejected] {
            if let Text::Chat(turns) = response
                && [turns.first(), turns.last()].into_iter().flatten().any(|turn| !speaks_for_model(&turn.role))
            {
                return Some(Dropped::WrongRole);
            }
            if response.is_empty() {
                return Some(Dropped::EmptySide);
            }
        }
        (self.chosen == self.rejected).then_some(Dropped::EqualSides)
    }
}

/// True if a turn of this role tells the model what to do.
pub(super) fn gives_instructions(role: &str) -> bool {
    matches!(role, "user" | "human" | "system" | "developer")
}

/// True if a turn of this role is the model's: neither an instruction nor a tool's result.
pub(super) fn speaks_for_model(role: &str) -> bool {
    !gives_instructions(role) && !matches!(role, "tool" | "observation" | "function" | "ipython")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_has_a_reason() {
        let plain = |text: &str| Text::Plain(text.into());
        let user = || Text::Chat(vec![Message::user("q")]);
        let reply = |text: &str| Text::Chat(vec![Message::assistant(text)]);
        for (prompt, chosen, rejected, expected) in [
            (plain("q"), plain("a"), plain("b"), None),
            (plain("q"), plain("a"), plain("a"), Some(Dropped::EqualSides)),
            (plain("q"), plain(" \n"), plain("a"), Some(Dropped::EmptySide)),
            (plain(""), plain("a"), plain("b"), Some(Dropped::EmptyPrompt)),
            (user(), reply("a"), reply("b"), None),
            (user(), reply("a"), user(), Some(Dropped::WrongRole)),
            (user(), reply("a"), Text::Chat(vec![]), Some(Dropped::EmptySide)),
            (reply("q"), reply("a"), reply("b"), Some(Dropped::WrongRole)),
            (Text::Ids(vec![1]), Text::Ids(vec![2]), Text::Ids(vec![]), Some(Dropped::EmptySide)),
        ] {
            assert_eq!(Preference::new(prompt, chosen, rejected).unusable(), expected);
        }
    }

    #[test]
    fn a_prompt_that_both_responses_repeat_is_cut() {
        let plain = |chosen: &str, rejected: &str| {
            Preference::new(
                Text::Plain("Why is it so?".into()),
                Text::Plain(chosen.into()),
                Text::Plain(rejected.into()),
            )
        };
        let pair = plain("Why is it so? It is.", "Why is it so?\nNo.");
        assert!(pair.repeats_prompt() && pair.clone().with_turns().repeats_prompt());
        assert_eq!(pair.clone().without_repeated_prompt(), plain(" It is.", "\nNo."));
        assert_eq!(pair.with_turns().without_repeated_prompt(), plain("It is.", "No.").with_turns());
        let once = plain("Why is it so? It is.", "No.");
        assert!(!once.repeats_prompt());
        assert_eq!(once.clone().without_repeated_prompt(), once);
        let word = Preference { prompt: Text::Plain("I".into()), ..plain("I do.", "I do not.") };
        assert!(!word.repeats_prompt());
    }

    #[test]
    fn a_call_of_a_tool_is_not_empty() {
        let mut call = Message::assistant("");
        call.extra.insert("tool_calls".into(), serde_json::json!([{"name": "f"}]));
        assert!(!Text::Chat(vec![call]).is_empty());
    }
}
