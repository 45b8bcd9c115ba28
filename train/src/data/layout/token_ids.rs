//! Pairs that are tokenised already, with any vocabulary: `prompt_input_ids`, and `chosen_input_ids` and
//! `rejected_input_ids` without the prompt; without `prompt_input_ids` what both have in common is the prompt.

use super::fields::{has, is_list, list};
use super::{RowError, Spec};
use crate::data::read::Row;
use crate::data::{Dropped, Preference, Text};

pub(super) const SPEC: Spec = Spec {
    name: "token_ids",
    fields: "prompt_input_ids, chosen_input_ids, rejected_input_ids",
    required: &["chosen_input_ids", "rejected_input_ids"],
    reads: |_, name| matches!(name, "prompt_input_ids" | "chosen_input_ids" | "rejected_input_ids"),
    fits: |row| is_list(row, "chosen_input_ids") && is_list(row, "rejected_input_ids"),
    parse,
};

fn parse(row: &Row) -> Result<Preference, RowError> {
    let (mut chosen, mut rejected) = (ids(row, "chosen_input_ids")?, ids(row, "rejected_input_ids")?);
    let prompt = if has(row, "prompt_input_ids") {
        ids(row, "prompt_input_ids")?
    } else {
        if chosen == rejected {
            return Err(Dropped::EqualSides.into());
        }
        // Each side keeps a token of its own.
        let longest = chosen.len().min(rejected.len()).saturating_sub(1);
        let shared = chosen.iter().zip(&rejected).take(longest).take_while(|(a, b)| a == b).count();
        if shared == 0 {
            return Err(Dropped::PromptsDiffer.into());
        }
        rejected.drain(..shared);
        chosen.drain(..shared).collect()
    };
    Ok(Preference::new(Text::Ids(prompt), Text::Ids(chosen), Text::Ids(rejected)))
}

fn ids(row: &Row, name: &str) -> Result<Vec<u32>, RowError> {
    let id = |(index, value): (usize, &serde_json::Value)| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| RowError::Wrong(format!("`{name}`[{index}] = {value} is not a token id")))
    };
    list(row, name)?.iter().enumerate().map(id).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn with_and_without_a_prompt() {
        let parse = |value: serde_json::Value| parse(value.as_object().unwrap());
        let ids = |ids: &[u32]| Text::Ids(ids.to_vec());
        let pair = parse(json!({"prompt_input_ids": [1, 2], "chosen_input_ids": [3], "rejected_input_ids": [1, 2]}));
        assert_eq!(pair.unwrap(), Preference::new(ids(&[1, 2]), ids(&[3]), ids(&[1, 2])));
        let pair = parse(json!({"chosen_input_ids": [1, 2, 3], "rejected_input_ids": [1, 2, 3, 4]}));
        assert_eq!(pair.unwrap(), Preference::new(ids(&[1, 2]), ids(&[3]), ids(&[3, 4])));
        let error = parse(json!({"chosen_input_ids": [1], "rejected_input_ids": [2]})).unwrap_err();
        assert_eq!(error, RowError::Unusable(Dropped::PromptsDiffer));
        let error = parse(json!({"chosen_input_ids": [1, -2], "rejected_input_ids": [2]})).unwrap_err();
        assert_eq!(error, RowError::Wrong("`chosen_input_ids`[1] = -2 is not a token id".into()));
    }
}
