//! `change_case`: the whole response in capitals, or without any; words in capitals.
//!
//! The response must also be in English, as [`super::language`] tells it; that is asked only where the case is right.
//! In capitals only the first letter of each word tells, so short responses are often taken for something else.

use super::instruction::{ArgumentError, Arguments, Check, Instruction, ensure};
use super::response_language::is_in;
use super::{text, words};

const ENGLISH: &str = "en";

pub(super) const INSTRUCTIONS: &[Instruction] = &[
    Instruction {
        id: "change_case:capital_word_frequency",
        arguments: &["capital_relation", "capital_frequency"],
        build: capital_word_frequency,
    },
    Instruction {
        id: "change_case:english_capital",
        arguments: &[],
        build: |_| {
            Ok(Check::new(|response| {
                ensure(text::is_upper(response), || reason(text::first_not_upper(response), "all capital"))?;
                is_in(response, ENGLISH)
            }))
        },
    },
    Instruction {
        id: "change_case:english_lowercase",
        arguments: &[],
        build: |_| {
            Ok(Check::new(|response| {
                ensure(text::is_lower(response), || reason(text::first_not_lower(response), "all lower-case"))?;
                is_in(response, ENGLISH)
            }))
        },
    },
];

/// Words all in capitals. Words are the tokens of NLTK, so that `CAN'T` is two.
fn capital_word_frequency(arguments: &Arguments<'_>) -> Result<Check, ArgumentError> {
    let limit = arguments.limit("capital_relation", "capital_frequency")?;
    Ok(Check::new(move |response| {
        let found = words::tokenize(response).iter().filter(|word| text::is_upper(word)).count();
        limit.verdict_of(found, "word", " in capitals")
    }))
}

fn reason(offender: Option<char>, required: &str) -> String {
    match offender {
        Some(c) => format!("found `{c}`, {required} letters required"),
        None => format!("found no cased letter, {required} letters required"),
    }
}

#[cfg(test)]
mod tests {
    use crate::ifeval::instruction::tests::{assert_verdicts, verdict};
    use serde_json::json;

    #[test]
    fn capital_word_frequency() {
        let id = "change_case:capital_word_frequency";
        let kwargs = json!({"capital_relation": "at least", "capital_frequency": 2});
        let followed = ["I AM", "CAN'T", "WELL-KNOWN, R2-D2", "(A)B"];
        assert_verdicts(id, &kwargs, &followed, &["WELL-KNOWN", "Iphone IPHONEs A", "1 2", "¡HOLA!"]);
        let kwargs = json!({"capital_relation": "less than", "capital_frequency": 2});
        assert_verdicts(id, &kwargs, &["I am", "am"], &["I AM"]);
        assert_eq!(verdict(id, &kwargs, "A B C").unwrap_err(), "found 3 words in capitals, fewer than 2 required");
    }

    #[test]
    fn capital() {
        let id = "change_case:english_capital";
        let english = "THE WEATHER IS NICE IN THE NORTH 1!";
        let german = "DIES IST AUF DEUTSCH, UND ES STEHT NUR IN GROSSBUCHSTABEN DA.";
        assert_verdicts(id, &json!({}), &[english, "Ⓐ 1"], &["THE WEATHER IS NICE IN THE NORTh 1!", "123", "hello"]);
        assert_eq!(verdict(id, &json!({}), "HELLo"), Err("found `o`, all capital letters required".into()));
        assert_eq!(verdict(id, &json!({}), "1"), Err("found no cased letter, all capital letters required".into()));
        assert_eq!(verdict(id, &json!({}), german), Err("detected `de` (1.00), `en` required".into()));
    }

    #[test]
    fn lowercase() {
        let id = "change_case:english_lowercase";
        let english = "the weather is nice in the north, and people enjoy their weekends.";
        assert_verdicts(id, &json!({}), &[english, "ª 1"], &["the weather is nice in the North", "123", "HELLO"]);
        assert_eq!(verdict(id, &json!({}), "hI"), Err("found `I`, all lower-case letters required".into()));
        let german = "das wetter ist schön im norden.";
        assert_eq!(verdict(id, &json!({}), german), Err("detected `de` (1.00), `en` required".into()));
        assert_eq!(verdict(id, &json!({}), "hello"), Err("detected `fi` (0.71), `en` required".into()));
    }
}
