//! The one form in which the trainer sees preference data.

use orpo_chat::Message;
use serde::{Deserialize, Serialize};

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

impl Text {
    /// Whether there is nothing in it but white space. A turn that calls a tool says something without text.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Plain(text) => text.trim().is_empty(),
            Self::Chat(messages) => messages
                .iter()
                .all(|message| message.content.trim().is_empty() && !message.extra.contains_key("tool_calls")),
            Self::Ids(ids) => ids.is_empty(),
        }
    }
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
}

impl Preference {
    /// Why nothing can be learnt from this pair, if so.
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

/// Whether a turn of this role tells the model what to do.
pub(super) fn gives_instructions(role: &str) -> bool {
    matches!(role, "user" | "human" | "system" | "developer")
}

/// Whether a turn of this role is the model's: what is neither an instruction nor a tool's result.
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
            assert_eq!(Preference { prompt, chosen, rejected }.unusable(), expected);
        }
    }

    #[test]
    fn a_call_of_a_tool_is_not_empty() {
        let mut call = Message::assistant("");
        call.extra.insert("tool_calls".into(), serde_json::json!([{"name": "f"}]));
        assert!(!Text::Chat(vec![call]).is_empty());
    }
}
