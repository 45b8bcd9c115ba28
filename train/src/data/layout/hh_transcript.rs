//! Anthropic's HH-RLHF: whole transcripts in `chosen` and `rejected`, turns begun by `\n\nHuman:` and `\n\nAssistant:`.

use orpo_chat::Message;

use super::fields::{has, string};
use super::{RowError, Spec, sides};
use crate::data::read::Row;
use crate::data::{Dropped, Preference};

pub(super) const SPEC: Spec = Spec {
    name: "hh_transcript",
    fields: "chosen, rejected: transcripts of `\\n\\nHuman:` and `\\n\\nAssistant:`",
    required: &["chosen", "rejected"],
    reads: |_, name| matches!(name, "chosen" | "rejected"),
    fits: |row| {
        let is_transcript = |name| string(row, name).is_ok_and(|text| text.trim_start().starts_with("Human:"));
        !has(row, "prompt") && is_transcript("chosen") && is_transcript("rejected")
    },
    parse,
};

/// The prompt is all before the last turn. Where a side goes on for several turns, they hold invented questions.
fn parse(row: &Row) -> Result<Preference, RowError> {
    let (chosen, rejected) = (transcript(row, "chosen")?, transcript(row, "rejected")?);
    if chosen[..chosen.len() - 1] != rejected[..rejected.len() - 1] {
        return Err(Dropped::PromptsDiffer.into());
    }
    sides::implicit(chosen, rejected)
}

const SPEAKERS: [(&str, &str); 2] = [("\n\nHuman:", "user"), ("\n\nAssistant:", "assistant")];

/// The turns of a transcript, at least one. The space after a speaker's name is not part of what is said.
fn transcript(row: &Row, name: &str) -> Result<Vec<Message>, RowError> {
    let text = format!("\n\n{}", string(row, name)?.trim_start_matches('\n'));
    let mut marks: Vec<(usize, &str, &str)> = Vec::new();
    for (label, role) in SPEAKERS {
        marks.extend(text.match_indices(label).map(|(at, label)| (at, label, role)));
    }
    marks.sort_unstable();
    if marks.first().is_none_or(|(at, ..)| *at != 0) {
        return Err(RowError::Wrong(format!("`{name}` does not begin with `Human:` or `Assistant:`")));
    }
    let ends = marks.iter().skip(1).map(|(at, ..)| *at).chain([text.len()]);
    let turn = |((at, label, role), end): (&(usize, &str, &str), usize)| {
        let said = &text[at + label.len()..end];
        Message::new(*role, said.strip_prefix(' ').unwrap_or(said))
    };
    Ok(marks.iter().zip(ends).map(turn).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paragraphs_belong_to_the_turn_before() {
        let row = json!({"chosen": "\n\nHuman: q\n\nmore\n\nAssistant: a\n\n\nb \n\nHuman:\n\nAssistant:c"});
        let turns = transcript(row.as_object().unwrap(), "chosen").unwrap();
        let expected = [("user", "q\n\nmore"), ("assistant", "a\n\n\nb "), ("user", ""), ("assistant", "c")];
        assert!(turns.into_iter().eq(expected.map(|(role, content)| Message::new(role, content))));
        let row = json!({"chosen": "hello"});
        assert!(transcript(row.as_object().unwrap(), "chosen").is_err());
    }

    #[test]
    fn a_side_that_goes_on_is_no_answer_to_the_same_prompt() {
        let row = json!({"chosen": "Human: q\n\nAssistant: a\n\nAssistant: b", "rejected": "Human: q\n\nAssistant: c"});
        assert_eq!(parse(row.as_object().unwrap()).unwrap_err(), RowError::Unusable(Dropped::PromptsDiffer));
    }
}
