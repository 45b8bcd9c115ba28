//! `combination`: two answers, or the request before the answer.

use super::instruction::{ArgumentError, Arguments, Check, Instruction, Verdict, ensure};
use super::text;

pub(super) const INSTRUCTIONS: &[Instruction] = &[
    Instruction { id: "combination:repeat_prompt", arguments: &["prompt_to_repeat"], build: repeat_prompt },
    Instruction { id: "combination:two_responses", arguments: &[], build: |_| Ok(Check::new(two_responses)) },
];

fn repeat_prompt(arguments: &Arguments<'_>) -> Result<Check, ArgumentError> {
    let request = text::lower(text::strip(arguments.text("prompt_to_repeat")?));
    Ok(Check::new(move |response| {
        ensure(text::lower(text::strip(response)).starts_with(&request), || {
            "the response does not begin with the request, word for word".into()
        })
    }))
}

/// Two different answers with six asterisks between them; nothing but white space may stand before a leading divider or
/// after a trailing one.
fn two_responses(response: &str) -> Verdict {
    let pieces: Vec<&str> = response.split("******").collect();
    let mut answers = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        if !text::is_blank(piece) {
            answers.push(text::strip(piece));
        } else if index != 0 && index + 1 != pieces.len() {
            return Err("nothing between two `******` dividers".into());
        }
    }
    match answers[..] {
        [first, second] => ensure(first != second, || "the two responses are the same".into()),
        _ => {
            let noun = if answers.len() == 1 { "response" } else { "responses" };
            Err(format!("found {} {noun} divided by `******`, exactly 2 required", answers.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ifeval::instruction::tests::{assert_verdicts, verdict};
    use serde_json::json;

    #[test]
    fn repeat_prompt() {
        let kwargs = json!({"prompt_to_repeat": " Tell me a joke. "});
        let id = "combination:repeat_prompt";
        assert_verdicts(
            id,
            &kwargs,
            &["Tell me a joke. Well,", "\n tell ME a joke."],
            &["Sure! Tell me a joke.", "Tell me"],
        );
    }

    #[test]
    fn two_responses() {
        let id = "combination:two_responses";
        let followed = ["a******b", "******a******b******\n", "a\n******\nb"];
        let violated = ["a", "a******a ", "a******b******c", "a************b", "a*****b", "******"];
        assert_verdicts(id, &json!({}), &followed, &violated);
        let reason = verdict(id, &json!({}), "a").unwrap_err();
        assert_eq!(reason, "found 1 response divided by `******`, exactly 2 required");
    }
}
