//! The two turns of a conversation.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which answer of a conversation is judged. As a number: 1 or 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Turn {
    /// The answer to the first message.
    First,
    /// The answer to the second message, which sees the first exchange.
    Second,
}

impl Turn {
    /// Both, in their order.
    pub const BOTH: [Self; 2] = [Self::First, Self::Second];

    /// The place of the turn in a list of turns.
    pub fn index(self) -> usize {
        match self {
            Self::First => 0,
            Self::Second => 1,
        }
    }
}

impl TryFrom<u8> for Turn {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            1 => Ok(Self::First),
            2 => Ok(Self::Second),
            _ => Err(format!("`turn` must be 1 or 2, not {number}")),
        }
    }
}

impl From<Turn> for u8 {
    fn from(turn: Turn) -> Self {
        match turn {
            Turn::First => 1,
            Turn::Second => 2,
        }
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        u8::from(*self).fmt(f)
    }
}
