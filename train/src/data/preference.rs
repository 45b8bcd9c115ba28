//! The one form in which the trainer sees preference data.

use orpo_chat::Message;
use serde::{Deserialize, Serialize};

/// A text as it stands, or turns for the chat template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Text {
    /// Used as it is.
    Plain(String),
    /// Rendered by the chat template.
    Chat(Vec<Message>),
}

impl Text {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Plain(text) => text.is_empty(),
            Self::Chat(messages) => messages.iter().all(|message| message.content.is_empty()),
        }
    }
}

/// A prompt with the better and the worse response to it, in TRL's layout: all three strings, or all three lists of
/// messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preference {
    /// What both responses answer.
    pub prompt: Text,
    /// The better response.
    pub chosen: Text,
    /// The worse response.
    pub rejected: Text,
}
