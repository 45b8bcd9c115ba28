//! `language`: the whole response in one language.
//!
//! A text that says nothing about its language, such as digits, addresses or pictures alone, follows the instruction;
//! so it does officially.

use super::instruction::{ArgumentError, Arguments, Check, Instruction, Verdict};
use super::language;

pub(super) const INSTRUCTIONS: &[Instruction] =
    &[Instruction { id: "language:response_language", arguments: &["language"], build: response_language }];

/// Asked for in the wild although no response is ever in it: Chinese is `zh-cn` or `zh-tw`.
const NEVER_DETECTED: &str = "zh";

fn response_language(arguments: &Arguments<'_>) -> Result<Check, ArgumentError> {
    let required = arguments.text("language")?.to_owned();
    if !language::LANGUAGES.contains(&required.as_str()) && required != NEVER_DETECTED {
        let expected = format!("a language that can be detected ({})", language::LANGUAGES.join(", "));
        return Err(arguments.invalid("language", expected));
    }
    Ok(Check::new(move |response| is_in(response, &required)))
}

/// Whether a text is in a language.
pub(super) fn is_in(text: &str, required: &str) -> Verdict {
    let Some(candidates) = language::candidates(text, language::SEED) else { return Ok(()) };
    match candidates.first() {
        Some(found) if found.language == required => Ok(()),
        Some(found) => Err(format!("detected `{}` ({:.2}), `{required}` required", found.language, found.probability)),
        None => Err(format!("detected no language, `{required}` required")),
    }
}

#[cfg(test)]
mod tests {
    use crate::ifeval::instruction::tests::{assert_verdicts, verdict};
    use crate::ifeval::registry;
    use serde_json::json;

    const ID: &str = "language:response_language";

    #[test]
    fn response_language() {
        let german = json!({"language": "de"});
        let (goethe, hugo) = ("Wer reitet so spät durch Nacht und Wind?", "Demain, dès l'aube, je partirai.");
        assert_verdicts(ID, &german, &[goethe, "1, 2, 3", "🙂", "https://example.org"], &[hugo, "Hello, my friend!"]);
        assert_eq!(verdict(ID, &german, hugo).unwrap_err(), "detected `fr` (1.00), `de` required");
    }

    #[test]
    fn chinese_has_two_codes_and_a_third_that_no_text_has() {
        let text = "今天天气很好，我们一起去公园散步吧。";
        assert_verdicts(ID, &json!({"language": "zh-cn"}), &[text], &[]);
        assert_verdicts(ID, &json!({"language": "zh"}), &[], &[text]);
    }

    #[test]
    fn a_language_that_nobody_detects_is_refused() {
        for wrong in ["german", "DE", "unknown", "zh_cn", ""] {
            let kwargs = json!({"language": wrong});
            let message = registry::build(ID, kwargs.as_object().unwrap()).unwrap_err().to_string();
            assert!(message.contains("must be a language that can be detected (af, ar, "), "{message}");
            assert!(message.ends_with(&format!("not `\"{wrong}\"`")), "{message}");
        }
    }
}
