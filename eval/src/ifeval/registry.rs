//! The instructions by identifier.

use serde_json::{Map, Value};

use super::instruction::{ArgumentError, Arguments, Check, Instruction};
use super::{
    change_case, combination, detectable_content, detectable_format, keywords, length_constraints, punctuation,
    response_language, startend,
};

/// The families, each with its instructions.
const FAMILIES: [&[Instruction]; 9] = [
    change_case::INSTRUCTIONS,
    combination::INSTRUCTIONS,
    detectable_content::INSTRUCTIONS,
    detectable_format::INSTRUCTIONS,
    keywords::INSTRUCTIONS,
    response_language::INSTRUCTIONS,
    length_constraints::INSTRUCTIONS,
    punctuation::INSTRUCTIONS,
    startend::INSTRUCTIONS,
];

/// Why an instruction cannot be checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstructionError {
    /// No such instruction.
    #[error("unknown instruction `{id}`; the known ones are {}", ids().collect::<Vec<_>>().join(", "))]
    Unknown {
        /// The identifier.
        id: String,
    },
    /// An argument is missing or wrong.
    #[error("instruction `{id}`: {error}")]
    Argument {
        /// The instruction.
        id: String,
        /// What is wrong.
        error: ArgumentError,
    },
}

/// The identifiers of the instructions that can be checked.
pub fn ids() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().copied().flatten().map(|instruction| instruction.id)
}

/// Makes the check of an instruction.
///
/// # Errors
/// When the instruction is unknown, or when an argument is missing or wrong.
pub fn build(id: &str, kwargs: &Map<String, Value>) -> Result<Check, InstructionError> {
    let instruction = FAMILIES
        .iter()
        .copied()
        .flatten()
        .find(|instruction| instruction.id == id)
        .ok_or_else(|| InstructionError::Unknown { id: id.to_owned() })?;
    Arguments::new(kwargs, instruction.arguments)
        .and_then(|arguments| (instruction.build)(&arguments))
        .map_err(|error| InstructionError::Argument { id: id.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_unique_and_within_their_family() {
        let mut all: Vec<_> = ids().collect();
        assert_eq!(all.len(), 25);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 25);
        for family in FAMILIES {
            let prefix = |instruction: &Instruction| instruction.id.split(':').next();
            assert!(family.iter().all(|instruction| prefix(instruction) == prefix(&family[0])));
        }
    }

    #[test]
    fn an_unknown_instruction_is_named_with_the_known_ones() {
        let message = build("a:b", &Map::new()).unwrap_err().to_string();
        let begin = "unknown instruction `a:b`; the known ones are change_case:capital_word_frequency";
        assert!(message.starts_with(begin), "{message}");
    }
}
