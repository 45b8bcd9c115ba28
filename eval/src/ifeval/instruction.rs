//! What an instruction is: an identifier, its arguments, and a check of a text.

use std::fmt;

use serde_json::{Map, Value};

use super::pattern::PatternError;

/// Whether a text follows an instruction; if not, why not.
pub type Verdict = Result<(), String>;

/// An instruction with its arguments, ready to be applied to texts.
pub struct Check(Box<dyn Fn(&str) -> Verdict + Send + Sync>);

impl Check {
    /// A check that calls a function.
    pub(super) fn new(verdict: impl Fn(&str) -> Verdict + Send + Sync + 'static) -> Self {
        Self(Box::new(verdict))
    }

    /// Applies the instruction to a text.
    ///
    /// # Errors
    /// The reason, for people, why the text does not follow the instruction.
    pub fn verdict(&self, text: &str) -> Verdict {
        (self.0)(text)
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Check")
    }
}

/// An entry of the registry: an instruction identifier and how its check is made.
pub(super) struct Instruction {
    /// The official identifier, `family:name`.
    pub id: &'static str,
    /// The names of its arguments; any other is refused.
    pub arguments: &'static [&'static str],
    /// Makes the check.
    pub build: fn(&Arguments<'_>) -> Result<Check, ArgumentError>,
}

/// What is wrong with an argument of an instruction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// A required argument is absent or null. The official checkers would draw one at random.
    #[error("the argument `{name}` is missing")]
    Missing {
        /// The argument.
        name: &'static str,
    },
    /// An argument that the instruction does not have.
    #[error("there is no argument `{name}`")]
    Unknown {
        /// The argument.
        name: String,
    },
    /// An argument of the wrong type or outside its range.
    #[error("the argument `{name}` must be {expected}, not `{found}`")]
    Invalid {
        /// The argument.
        name: &'static str,
        /// What would be accepted.
        expected: String,
        /// The value as JSON.
        found: String,
    },
    /// An argument that is read as a pattern and is none.
    #[error("the argument `{name}` is no pattern: {error}")]
    Pattern {
        /// The argument.
        name: &'static str,
        /// What is wrong with the pattern.
        error: PatternError,
    },
}

/// The arguments of one instruction, read by name and type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arguments<'a>(&'a Map<String, Value>);

impl<'a> Arguments<'a> {
    /// The arguments in an official `kwargs` object. Null stands for absent, which is how exports with one column for
    /// every argument spell it.
    pub(super) fn new(kwargs: &'a Map<String, Value>, names: &[&str]) -> Result<Self, ArgumentError> {
        match kwargs.iter().find(|(name, value)| !value.is_null() && !names.contains(&name.as_str())) {
            Some((name, _)) => Err(ArgumentError::Unknown { name: name.clone() }),
            None => Ok(Self(kwargs)),
        }
    }

    fn get(self, name: &'static str) -> Result<&'a Value, ArgumentError> {
        self.0.get(name).filter(|value| !value.is_null()).ok_or(ArgumentError::Missing { name })
    }

    /// An error about the value of an argument.
    pub(super) fn invalid(self, name: &'static str, expected: impl Into<String>) -> ArgumentError {
        let found = self.0.get(name).map_or_else(String::new, Value::to_string);
        ArgumentError::Invalid { name, expected: expected.into(), found }
    }

    /// A number of things: a whole number, not negative. `3.0` is accepted.
    pub(super) fn count(self, name: &'static str) -> Result<usize, ArgumentError> {
        let value = self.get(name)?;
        let whole = value.as_u64().or_else(|| {
            let float = value.as_f64()?;
            (float.fract() == 0.0 && (0.0..=1e15).contains(&float)).then_some(float as u64)
        });
        whole
            .and_then(|count| usize::try_from(count).ok())
            .ok_or_else(|| self.invalid(name, "a whole number of at least 0"))
    }

    /// A text.
    pub(super) fn text(self, name: &'static str) -> Result<&'a str, ArgumentError> {
        self.get(name)?.as_str().ok_or_else(|| self.invalid(name, "a string"))
    }

    /// A list of texts.
    pub(super) fn texts(self, name: &'static str) -> Result<Vec<&'a str>, ArgumentError> {
        let texts = self.get(name)?.as_array().and_then(|values| values.iter().map(Value::as_str).collect());
        texts.ok_or_else(|| self.invalid(name, "a list of strings"))
    }

    /// `at least` or `less than`, and the count that it is about.
    pub(super) fn limit(self, relation: &'static str, count: &'static str) -> Result<Limit, ArgumentError> {
        let at_least = match self.text(relation)? {
            "at least" => true,
            "less than" => false,
            _ => return Err(self.invalid(relation, "`at least` or `less than`")),
        };
        let count = self.count(count)?;
        Ok(if at_least { Limit::AtLeast(count) } else { Limit::LessThan(count) })
    }
}

/// How many of something there should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    AtLeast(usize),
    LessThan(usize),
    Exactly(usize),
}

impl Limit {
    /// The verdict on a count; the noun is for the reason.
    pub(super) fn verdict(self, found: usize, noun: &str) -> Verdict {
        self.verdict_of(found, noun, "")
    }

    /// The same with words that follow the noun, which may be in the plural.
    pub(super) fn verdict_of(self, found: usize, noun: &str, rest: &str) -> Verdict {
        let (kept, rule, limit) = match self {
            Self::AtLeast(limit) => (found >= limit, "at least", limit),
            Self::LessThan(limit) => (found < limit, "fewer than", limit),
            Self::Exactly(limit) => (found == limit, "exactly", limit),
        };
        let plural = if found == 1 { "" } else { "s" };
        ensure(kept, || format!("found {found} {noun}{plural}{rest}, {rule} {limit} required"))
    }
}

/// `Ok` if a condition holds, else the reason.
pub(super) fn ensure(holds: bool, reason: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(reason()) }
}

/// A text cut to what fits into a reason.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ifeval::registry;

    /// The verdict of an instruction, given its arguments as JSON.
    pub fn verdict(id: &str, kwargs: &Value, text: &str) -> Verdict {
        registry::build(id, kwargs.as_object().unwrap()).unwrap().verdict(text)
    }

    /// Asserts which texts follow an instruction and which do not.
    pub fn assert_verdicts(id: &str, kwargs: &Value, followed: &[&str], violated: &[&str]) {
        for text in followed {
            assert_eq!(verdict(id, kwargs, text), Ok(()), "{id} {kwargs} on {text:?}");
        }
        for text in violated {
            assert!(verdict(id, kwargs, text).is_err(), "{id} {kwargs} on {text:?}");
        }
    }

    #[test]
    fn arguments_are_checked_by_name_and_type() {
        let build = |id, kwargs: Value| registry::build(id, kwargs.as_object().unwrap()).unwrap_err().to_string();
        let id = "detectable_content:number_placeholders";
        assert!(build(id, serde_json::json!({})).ends_with("the argument `num_placeholders` is missing"));
        assert!(build(id, serde_json::json!({"num_placeholders": null})).ends_with("is missing"));
        let message = build(id, serde_json::json!({"num_placeholders": "3"}));
        assert!(message.ends_with("must be a whole number of at least 0, not `\"3\"`"), "{message}");
        for wrong in [serde_json::json!(-1), serde_json::json!(2.5), serde_json::json!([1])] {
            assert!(build(id, serde_json::json!({"num_placeholders": wrong})).contains("whole number"));
        }
        let message = build(id, serde_json::json!({"num_placeholders": 1, "letter": "a"}));
        assert!(message.ends_with("there is no argument `letter`"), "{message}");
        assert_verdicts(id, &serde_json::json!({"num_placeholders": 1.0, "letter": null}), &["[a]"], &["a"]);
        let frequency = serde_json::json!({"relation": "more than", "keyword": "a", "frequency": 1});
        assert!(build("keywords:frequency", frequency).contains("`at least` or `less than`"));
        let pattern = build("keywords:existence", serde_json::json!({"keywords": ["(a"]}));
        assert!(pattern.ends_with("the argument `keywords` is no pattern: `(a` is not a usable pattern: missing `)`"));
    }

    #[test]
    fn reasons_state_what_was_found_and_what_is_required() {
        assert_eq!(
            Limit::AtLeast(5).verdict(3, "placeholder"),
            Err("found 3 placeholders, at least 5 required".into())
        );
        assert_eq!(Limit::LessThan(1).verdict(1, "word"), Err("found 1 word, fewer than 1 required".into()));
        assert_eq!(Limit::Exactly(2).verdict(2, "bullet"), Ok(()));
    }
}
