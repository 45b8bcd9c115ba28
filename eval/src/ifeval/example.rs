//! A prompt with its instructions, and the score of a response.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::instruction::Check;
use super::registry::{self, InstructionError};
use super::text;

/// A prompt and the instructions in it, in the official format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// What identifies the example in its data set: a number or a string.
    pub key: Value,
    /// The user's message.
    pub prompt: String,
    /// Instruction identifiers, `family:name`.
    pub instruction_id_list: Vec<String>,
    /// The arguments of each instruction, in the order of `instruction_id_list`.
    pub kwargs: Vec<Map<String, Value>>,
}

/// Why an example cannot be scored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExampleError {
    /// `kwargs` is not parallel to `instruction_id_list`.
    #[error("`kwargs` needs one entry per instruction: {kwargs} for the {instructions} in `instruction_id_list`")]
    Length {
        /// The number of instructions.
        instructions: usize,
        /// The number of argument objects.
        kwargs: usize,
    },
    /// There is nothing to verify.
    #[error("`instruction_id_list` is empty; an example needs at least one instruction")]
    Empty,
    /// An instruction cannot be checked.
    #[error(transparent)]
    Instruction(#[from] InstructionError),
}

impl Example {
    /// Scores one response. To score many, make the [`Scorer`] once.
    ///
    /// # Errors
    /// When an instruction or its arguments are not usable.
    pub fn score(&self, response: &str) -> Result<Score, ExampleError> {
        Ok(self.scorer()?.score(response))
    }

    /// The checks of all instructions.
    ///
    /// # Errors
    /// When an instruction or its arguments are not usable.
    pub fn scorer(&self) -> Result<Scorer, ExampleError> {
        let (instructions, kwargs) = (self.instruction_id_list.len(), self.kwargs.len());
        if instructions != kwargs {
            return Err(ExampleError::Length { instructions, kwargs });
        }
        if instructions == 0 {
            return Err(ExampleError::Empty);
        }
        let pairs = self.instruction_id_list.iter().zip(&self.kwargs);
        let checks = pairs.map(|(id, kwargs)| registry::build(id, kwargs)).collect::<Result<_, _>>()?;
        Ok(Scorer { checks })
    }
}

/// The verdicts on one response, each list in the order of the instructions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    /// Whether the response as it is follows the instruction.
    pub strict: Vec<bool>,
    /// Whether some variant of the response does: without its first line, its last line, or its asterisks.
    pub loose: Vec<bool>,
    /// For each instruction that is not followed in the strict sense, why.
    pub reasons: Vec<Option<String>>,
}

/// The checks of an example, ready for responses.
#[derive(Debug)]
pub struct Scorer {
    checks: Vec<Check>,
}

impl Scorer {
    /// Scores one response. A blank response follows nothing.
    pub fn score(&self, response: &str) -> Score {
        let variants = loose_variants(response);
        let mut score = Score { strict: Vec::new(), loose: Vec::new(), reasons: Vec::new() };
        for check in &self.checks {
            let strict = match text::is_blank(response) {
                true => Err("the response is empty".to_owned()),
                false => check.verdict(response),
            };
            score.loose.push(strict.is_ok() || variants.iter().any(|variant| check.verdict(variant).is_ok()));
            score.strict.push(strict.is_ok());
            score.reasons.push(strict.err());
        }
        score
    }
}

/// The variants of a response that the loose metric tries beside the response itself: without asterisks; without its
/// first line, its last line, or both, stripped; and those three without asterisks. Blank ones and repetitions are left
/// out. Asterisks go after the stripping, so what stood outside of them keeps its white space.
fn loose_variants(response: &str) -> Vec<String> {
    let after_first = response.split_once('\n').map_or("", |(_, rest)| rest);
    let before_last = response.rsplit_once('\n').map_or("", |(rest, _)| rest);
    let between = after_first.rsplit_once('\n').map_or("", |(rest, _)| rest);
    let shortened = [after_first, before_last, between].map(text::strip);
    let mut variants: Vec<String> = Vec::new();
    for variant in shortened.iter().map(|&text| text.to_owned()).chain(
        [response, shortened[0], shortened[1], shortened[2]]
            .into_iter()
            .filter(|text| text.contains('*'))
            .map(|text| text.replace('*', "")),
    ) {
        if variant != response && !text::is_blank(&variant) && !variants.contains(&variant) {
            variants.push(variant);
        }
    }
    variants
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn example(instructions: &Value, kwargs: &Value) -> Example {
        let example = json!({"key": 1, "prompt": "p", "instruction_id_list": instructions, "kwargs": kwargs});
        serde_json::from_value(example).unwrap()
    }

    #[test]
    fn loose_forgives_an_introduction_a_closing_and_asterisks() {
        let quotation = example(&json!(["startend:quotation"]), &json!([{}]));
        for (response, strict, loose) in [
            ("\"a\"", true, true),
            ("Sure:\n\"a\"", false, true),
            ("\"a\"\nHope that helps", false, true),
            ("Sure:\n\n\"a\"\nHope that helps", false, true),
            ("*\"a\"*", false, true),
            ("Sure:\n**\"a\"**", false, true),
            ("Sure:\n\nSo:\n\"a\"", false, false),
            ("", false, false),
            (" \n\t", false, false),
        ] {
            let score = quotation.score(response).unwrap();
            assert_eq!((score.strict[0], score.loose[0]), (strict, loose), "{response:?}");
            assert_eq!(score.reasons[0].is_none(), strict);
        }
    }

    #[test]
    fn variants_are_those_of_the_official_scorer() {
        assert_eq!(loose_variants("a\nb\nc"), ["b\nc", "a\nb", "b"]);
        assert_eq!(loose_variants("a"), Vec::<String>::new());
        assert_eq!(loose_variants("*a\n* b"), ["* b", "*a", "a\n b", " b", "a"]);
    }

    #[test]
    fn lists_must_be_parallel_and_not_empty() {
        let error = example(&json!(["punctuation:no_comma"]), &json!([])).score("a").unwrap_err().to_string();
        assert!(
            error.starts_with("`kwargs` needs one entry per instruction: 0 for the 1 in `instruction_id_list`"),
            "{error}"
        );
        let error = example(&json!([]), &json!([])).score("a").unwrap_err();
        assert_eq!(error, ExampleError::Empty);
    }

    #[test]
    fn the_official_format_round_trips() {
        let line = r#"{"key":1000,"prompt":"p","instruction_id_list":["punctuation:no_comma"],"kwargs":[{}]}"#;
        let example: Example = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_string(&example).unwrap(), line);
    }
}
