//! Pairs as the model sees them: every token, and which of them are scored.

use std::fmt;

use orpo_chat::ChatTokenizer;
use serde::Serialize;

use crate::data::{Dataset, Example, Sequence};
use crate::loss::NllTarget;

/// A token of a preview.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownToken {
    /// Its id.
    pub id: u32,
    /// What the vocabulary calls it.
    pub text: String,
    /// Whether the loss looks at it.
    pub scored: bool,
    /// Whether it ends a text.
    pub eos: bool,
}

/// An example as it is trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownExample {
    /// File and row.
    pub place: String,
    /// The chosen side's prompt; of a document its first token.
    pub prompt: Vec<ShownToken>,
    /// The chosen response.
    pub chosen: Vec<ShownToken>,
    /// The rejected response; empty for a document.
    pub rejected: Vec<ShownToken>,
}

/// The first `count` examples of `data`, whose likelihood term averages over `nll`.
pub fn preview(data: &Dataset, count: usize, chat: &ChatTokenizer, nll: NllTarget) -> Vec<ShownExample> {
    // As the vocabulary spells it: decoded by themselves, tokens lose their spaces.
    let token = |id: u32, scored: bool| ShownToken {
        id,
        text: chat.tokenizer().id_to_token(id).unwrap_or_else(|| format!("<{id}>")),
        scored,
        eos: chat.eos_ids().contains(&id),
    };
    let learns_prompt = matches!(nll, NllTarget::Full | NllTarget::Authors);
    // Nothing predicts a sequence's first token.
    let response = |sequence: &Sequence| -> Vec<ShownToken> {
        let ids = sequence.ids.iter().enumerate().skip(sequence.prompt_len);
        ids.map(|(at, id)| token(*id, at > 0)).collect()
    };
    let shown = |(index, example): (usize, &Example)| {
        let prompt = example.chosen.ids[..example.chosen.prompt_len].iter().enumerate();
        let is_learnt = |at: usize, id: u32| at > 0 && learns_prompt && Some(id) != example.nll_skips;
        ShownExample {
            place: data.place(index),
            prompt: prompt.map(|(at, id)| token(*id, is_learnt(at, *id))).collect(),
            chosen: response(&example.chosen),
            rejected: example.rejected.as_ref().map(response).unwrap_or_default(),
        }
    };
    data.examples.iter().enumerate().take(count).map(shown).collect()
}

impl fmt::Display for ShownToken {
    /// Scored tokens stand in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text.escape_debug();
        let eos = if self.eos { " = EOS" } else { "" };
        if self.scored { write!(f, "[{text}{eos}]") } else { write!(f, "{text}{eos}") }
    }
}

impl fmt::Display for ShownExample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.place)?;
        for (name, tokens) in [("prompt", &self.prompt), ("chosen", &self.chosen), ("rejected", &self.rejected)] {
            if !tokens.is_empty() {
                let line: Vec<String> = tokens.iter().map(ToString::to_string).collect();
                writeln!(f, "  {name:<8} | {}", line.join("·"))?;
            }
        }
        Ok(())
    }
}
