//! `startend`: how the response begins and ends.

use super::instruction::{ArgumentError, Arguments, Check, Instruction, Verdict, ensure, shown};
use super::text;

pub(super) const INSTRUCTIONS: &[Instruction] = &[
    Instruction { id: "startend:end_checker", arguments: &["end_phrase"], build: end_checker },
    Instruction { id: "startend:quotation", arguments: &[], build: |_| Ok(Check::new(quotation)) },
];

/// The last words, in any case; white space and then double quotes around the response do not count.
fn end_checker(arguments: &Arguments<'_>) -> Result<Check, ArgumentError> {
    let phrase = text::lower(text::strip(arguments.text("end_phrase")?));
    Ok(Check::new(move |response| {
        let response = text::lower(text::strip(response).trim_matches('"'));
        ensure(response.ends_with(&phrase), || format!("the response does not end with {}", shown(&phrase)))
    }))
}

/// ASCII double quotes around the whole response.
fn quotation(response: &str) -> Verdict {
    let response = text::strip(response);
    let quoted = response.len() > 1 && response.starts_with('"') && response.ends_with('"');
    ensure(quoted, || "the response is not wrapped in double quotation marks".into())
}

#[cfg(test)]
mod tests {
    use crate::ifeval::instruction::tests::assert_verdicts;
    use serde_json::json;

    #[test]
    fn end_checker() {
        let id = "startend:end_checker";
        let kwargs = json!({"end_phrase": " Peace! "});
        assert_verdicts(id, &kwargs, &["Love and peace!", "\"PEACE!\" ", "peace!\"\""], &["peace! .", "peace", ""]);
        // The phrase keeps the quotes that are taken off the response.
        assert_verdicts(id, &json!({"end_phrase": "\"End.\""}), &[], &["\"End.\""]);
    }

    #[test]
    fn quotation() {
        let violated = ["\"", "“a”", "\"a", "a\"", "'a'", ""];
        assert_verdicts("startend:quotation", &json!({}), &["\"a\"", " \"a\" b\"\n", "\"\""], &violated);
    }
}
