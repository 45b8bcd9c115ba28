//! TRL's standard layouts: plain text without a template, with a `prompt` of its own or with the prompt inside both sides.

use super::fields::{has, is_string, string};
use super::{RowError, Spec};
use crate::data::read::Row;
use crate::data::{Dropped, Preference, Text};

pub(super) const EXPLICIT: Spec = Spec {
    name: "trl_standard_explicit",
    fields: "prompt, chosen, rejected: strings",
    required: &["prompt", "chosen", "rejected"],
    reads: |_, name| matches!(name, "prompt" | "chosen" | "rejected"),
    fits: |row| ["prompt", "chosen", "rejected"].iter().all(|name| is_string(row, name)),
    parse: |row| Ok(plain(string(row, "prompt")?, string(row, "chosen")?, string(row, "rejected")?)),
};

pub(super) const IMPLICIT: Spec = Spec {
    name: "trl_standard_implicit",
    fields: "chosen, rejected: strings that begin with the prompt",
    required: &["chosen", "rejected"],
    reads: |_, name| matches!(name, "chosen" | "rejected"),
    fits: |row| !has(row, "prompt") && is_string(row, "chosen") && is_string(row, "rejected"),
    parse: parse_implicit,
};

fn plain(prompt: &str, chosen: &str, rejected: &str) -> Preference {
    let plain = |text: &str| Text::Plain(text.into());
    Preference::new(plain(prompt), plain(chosen), plain(rejected))
}

/// The prompt is the common beginning; a space before the first difference belongs to the responses, as in TRL's
/// `extract_prompt`, and so does the last character of a side that the other begins with.
fn parse_implicit(row: &Row) -> Result<Preference, RowError> {
    let (chosen, rejected) = (string(row, "chosen")?, string(row, "rejected")?);
    if chosen == rejected {
        return Err(Dropped::EqualSides.into());
    }
    let mut sides = chosen.char_indices().zip(rejected.chars());
    let different = sides.find(|((_, a), b)| a != b).map(|((at, _), _)| at);
    let mut shared = different.unwrap_or_else(|| chosen.len().min(rejected.len()));
    let before = chosen[..shared].chars().next_back();
    if let Some(last) = before.filter(|last| *last == ' ' || different.is_none()) {
        shared -= last.len_utf8();
    }
    if shared == 0 {
        return Err(Dropped::PromptsDiffer.into());
    }
    Ok(plain(&chosen[..shared], &chosen[shared..], &rejected[shared..]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_common_beginning_is_the_prompt() {
        let parse = |chosen: &str, rejected: &str| {
            parse_implicit(json!({"chosen": chosen, "rejected": rejected}).as_object().unwrap())
        };
        // trl.data_utils.extract_prompt gives the same for the first two.
        assert_eq!(parse("The sky is blue.", "The sky is green.").unwrap(), plain("The sky is", " blue.", " green."));
        assert_eq!(parse("2é+x", "2é+y").unwrap(), plain("2é+", "x", "y"));
        assert_eq!(parse("qé", "qé more").unwrap(), plain("q", "é", "é more"));
        assert_eq!(parse("a", "b").unwrap_err(), RowError::Unusable(Dropped::PromptsDiffer));
        assert_eq!(parse("", "b").unwrap_err(), RowError::Unusable(Dropped::PromptsDiffer));
        assert_eq!(parse("a", "a").unwrap_err(), RowError::Unusable(Dropped::EqualSides));
    }
}
