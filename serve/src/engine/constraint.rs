//! Replies that must follow a JSON schema: before each choice, the tokens that cannot go on are taken away.
//!
//! The grammar is llguidance's. It sees bytes, so that it works with every tokenizer and every engine.

use std::fmt;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;

use super::schema_limits;

/// Spaces and newlines between the parts of a JSON text: enough for deep indentation, and bounded, because a small model
/// may else go on with them until its tokens are used up.
const WHITESPACE: &str = r"[ \n]{0,32}";

/// Of the thread that makes a grammar; only what is used of it takes memory.
const STACK_BYTES: usize = 64 << 20;

/// What llguidance says where no token can come next: the schema only refers to itself, or the vocabulary lacks a character.
const NO_TOKEN: &str = "NoExtensionBias";

/// Why no constraint could be made or followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// The schema is wrong, or uses what cannot be checked token by token.
    #[error("the JSON schema cannot be used: {0}")]
    Schema(String),
    /// The tokenizer has no end token, so that nothing could end a reply.
    #[error("the model has no end token, without which a constrained reply cannot end")]
    NoEndToken,
    /// The grammar engine gave up in the middle of a reply.
    #[error("the grammar failed: {0}")]
    Failed(String),
}

/// Makes constraints for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grammars")
    }
}

impl Grammars {
    /// Grammars over tokens that stand for `token_bytes`, in the order of their ids; special tokens stand for none.
    ///
    /// # Errors
    /// [`ConstraintError::NoEndToken`] without `eos_ids`; [`ConstraintError::Failed`] for a vocabulary that the grammar
    /// engine refuses.
    pub fn new(token_bytes: &[Vec<u8>], eos_ids: &[u32]) -> Result<Self, ConstraintError> {
        let &eos = eos_ids.first().ok_or(ConstraintError::NoEndToken)?;
        let size = u32::try_from(token_bytes.len()).map_err(|error| ConstraintError::Failed(error.to_string()))?;
        let trie = TokTrie::from(&TokRxInfo::new(size, eos), token_bytes).with_eos_tokens(eos_ids);
        let mut factory = ParserFactory::new_simple(&(Arc::new(ApproximateTokEnv::new(trie)) as _))
            .map_err(|error| ConstraintError::Failed(error.to_string()))?;
        factory.quiet();
        // Enough for an enumeration of thousands of values, and seconds and hundreds of megabytes less than the defaults.
        let limits = factory.limits_mut();
        limits.initial_lexer_fuel = 200_000;
        limits.max_grammar_size = 200_000;
        limits.max_lexer_states = 50_000;
        limits.precompute_large_lexemes = false;
        // An object of a thousand optional properties has several thousand.
        limits.max_items_in_row = 20_000;
        limits.verbose_errors = false;
        Ok(Self { factory })
    }

    /// A constraint to JSON texts that `schema` describes. It takes a second at most, and is not for a thread that
    /// answers requests.
    ///
    /// # Errors
    /// [`ConstraintError::Schema`] with the reason.
    pub fn json_schema(&self, schema: &Value) -> Result<Constraint, ConstraintError> {
        schema_limits::check(schema).map_err(ConstraintError::Schema)?;
        let mut grammar = schema.clone();
        if let Value::Object(grammar) = &mut grammar {
            // llguidance reads its options from the schema; a client has no say in them.
            grammar.insert("x-guidance".into(), serde_json::json!({ "whitespace_pattern": WHITESPACE }));
        }
        let make = || {
            let mut matcher = Matcher::new(self.factory.create_parser(TopLevelGrammar::from_json_schema(grammar)));
            // A schema that only refers to itself is found out by the first token.
            let _ = matcher.compute_mask_or_eos();
            matcher
        };
        // It recurses as deep as references go.
        let matcher = std::thread::scope(|scope| {
            let thread =
                std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, make).map_err(failed)?;
            thread.join().map_err(|_| ConstraintError::Failed("it panicked".into()))
        })?;
        match matcher.get_error() {
            Some(error) if error.starts_with(NO_TOKEN) => {
                Err(ConstraintError::Schema("no token of the model can begin what it describes".into()))
            }
            Some(error) => Err(ConstraintError::Schema(error.lines().next().unwrap_or_default().to_string())),
            None => Ok(Constraint { schema: Arc::new(schema.clone()), matcher: Box::new(matcher) }),
        }
    }
}

/// What one reply must look like, and how far it has got.
pub struct Constraint {
    schema: Arc<Value>,
    matcher: Box<Matcher>,
}

impl Constraint {
    /// Makes every token impossible that cannot come next.
    ///
    /// # Errors
    /// [`ConstraintError::Failed`].
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<(), ConstraintError> {
        let allowed = self.matcher.compute_mask_or_eos().map_err(failed)?;
        for (id, logit) in logits.iter_mut().enumerate() {
            if id >= allowed.len() || !allowed.get(id) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Goes on with a token that the mask has left.
    ///
    /// # Errors
    /// [`ConstraintError::Failed`].
    pub fn accept(&mut self, id: u32) -> Result<(), ConstraintError> {
        if self.matcher.is_stopped() {
            return Ok(());
        }
        self.matcher.consume_token(id).map_err(failed)
    }
}

fn failed(error: impl fmt::Display) -> ConstraintError {
    ConstraintError::Failed(error.to_string())
}

impl Clone for Constraint {
    fn clone(&self) -> Self {
        Self { schema: self.schema.clone(), matcher: Box::new(self.matcher.deep_clone()) }
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// Two constraints are equal if their schemas are.
impl PartialEq for Constraint {
    fn eq(&self, other: &Self) -> bool {
        self.schema == other.schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const EOS: u32 = 256;

    fn bytes() -> Grammars {
        let mut words: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
        words.push(b"\xff</s>".to_vec());
        Grammars::new(&words, &[EOS]).unwrap()
    }

    /// Which of `candidates` may follow `text`.
    fn allowed(schema: Value, text: &str, candidates: &str) -> String {
        let mut constraint = bytes().json_schema(&schema).unwrap();
        for byte in text.bytes() {
            constraint.accept(byte.into()).unwrap();
        }
        let mut logits = vec![0.0; 300];
        constraint.mask(&mut logits).unwrap();
        assert!(logits[257..].iter().all(|logit| logit.is_infinite()));
        let end = if logits[EOS as usize] == 0.0 { "$" } else { "" };
        candidates.chars().filter(|&c| logits[c as usize] == 0.0).collect::<String>() + end
    }

    #[test]
    fn only_what_the_schema_allows_can_follow() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
                            "additionalProperties": false});
        assert_eq!(allowed(schema.clone(), "", "{[x1"), "{");
        assert_eq!(allowed(schema.clone(), "{\"", "abc"), "a");
        assert_eq!(allowed(schema.clone(), "{\"a\":", "1tf\""), "tf");
        assert_eq!(allowed(schema, "{\"a\":true}", "x,}"), "$");
    }

    #[test]
    fn whitespace_is_bounded() {
        let schema = json!({"type": "object"});
        assert_eq!(allowed(schema.clone(), "{\n    ", " }"), " }");
        assert_eq!(allowed(schema, &format!("{{{}", " ".repeat(32)), " }"), "}");
    }

    #[test]
    fn copies_go_their_own_ways() {
        let mut first = bytes().json_schema(&json!({"type": "boolean"})).unwrap();
        let mut second = first.clone();
        first.accept(b't'.into()).unwrap();
        second.accept(b'f'.into()).unwrap();
        let mut logits = vec![0.0; 257];
        second.mask(&mut logits).unwrap();
        assert_eq!((logits[usize::from(b'a')], logits[usize::from(b'r')]), (0.0, f32::NEG_INFINITY));
        assert_eq!(first, second);
    }

    #[test]
    fn a_schema_that_cannot_be_followed_is_refused() {
        for schema in [json!({"type": "nonsense"}), json!({"type": "string", "pattern": "("}), json!(3)] {
            assert!(matches!(bytes().json_schema(&schema), Err(ConstraintError::Schema(_))), "{schema}");
        }
        assert_eq!(Grammars::new(&[vec![b'a']], &[]).unwrap_err(), ConstraintError::NoEndToken);
        let letters = Grammars::new(&[vec![b'a'], b"\xff</s>".to_vec()], &[1]).unwrap();
        let refused = letters.json_schema(&json!({"type": "object"})).unwrap_err().to_string();
        assert_eq!(refused, "the JSON schema cannot be used: no token of the model can begin what it describes");
    }

    /// A schema of a chain of definitions, each made from a reference to the next.
    fn chain(length: usize, link: fn(Value) -> Value) -> Value {
        let reference = |index: usize| json!({"$ref": format!("#/$defs/d{index}")});
        let links = (0..length).map(|index| (format!("d{index}"), link(reference(index + 1))));
        let end = (format!("d{length}"), json!({"type": "object", "properties": {"a": {"type": "string"}}}));
        json!({"$ref": "#/$defs/d0", "$defs": links.chain([end]).collect::<serde_json::Map<_, _>>()})
    }

    fn nested(depth: usize, wrap: fn(Value) -> Value) -> Value {
        (0..depth).fold(json!({"type": "string"}), |inner, _| wrap(inner))
    }

    /// A reply that takes the lowest allowed token at each step, 100 at most.
    fn follow(mut constraint: Constraint) -> Result<(), ConstraintError> {
        for _ in 0..100 {
            let mut logits = vec![0.0; 257];
            constraint.mask(&mut logits)?;
            let id = logits.iter().position(|&logit| logit == 0.0).expect("something can follow");
            constraint.accept(id as u32)?;
        }
        Ok(())
    }

    #[test]
    fn deep_wide_and_long_schemas_can_be_followed() {
        let grammars = bytes();
        let properties = (0..1000).map(|index| (format!("p{index}"), json!({"type": "string", "maxLength": 9})));
        let properties: serde_json::Map<_, _> = properties.collect();
        for schema in [
            nested(120, |inner| json!({"type": "array", "items": inner})),
            nested(60, |inner| json!({"type": "object", "properties": {"a": inner}, "required": ["a"]})),
            nested(60, |inner| json!({"anyOf": [inner, {"type": "null"}]})),
            nested(60, |inner| json!({"allOf": [inner, {"type": "string"}]})),
            chain(4000, |next| next),
            chain(18, |next| json!({"allOf": [next, next]})),
            chain(18, |next| json!({"anyOf": [next, next]})),
            chain(1000, |next| json!({"type": "object", "properties": {"a": next}, "required": ["a"]})),
            json!({"type": "object", "properties": properties, "additionalProperties": false}),
            json!({"enum": (0..5000).map(|index| format!("value {index}")).collect::<Vec<_>>()}),
            json!({"type": "string", "minLength": 1_000_000_000}),
            json!({"type": "array", "minItems": 1_000_000, "items": {"type": "array", "minItems": 1_000_000}}),
            json!({"type": "string", "pattern": "((a{1,1000}){1,1000}){1,1000}"}),
            json!({"type": "string", "pattern": "(.*a.{1000}b.*){3}"}),
            json!({"type": "integer", "multipleOf": 9973}),
        ] {
            follow(grammars.json_schema(&schema).unwrap_or_else(|error| panic!("{error}: {schema}"))).unwrap();
        }
    }

    #[test]
    fn hostile_schemas_are_refused() {
        let grammars = bytes();
        let pattern = |index: usize| json!({"type": "string", "pattern": format!("a{index}.*b")});
        let either = |index: usize| {
            let object = |name: String| json!({"properties": {name.clone(): {"type": "integer"}}, "required": [name]});
            json!({"anyOf": [object(format!("a{index}")), object(format!("b{index}"))]})
        };
        for schema in [
            json!({"$ref": "#"}),
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}}),
            json!({"$ref": "http://127.0.0.1:1/schema"}),
            json!({"allOf": (0..30).map(pattern).collect::<Vec<_>>()}),
            json!({"allOf": (0..30).map(either).collect::<Vec<_>>()}),
            json!({"allOf": [{"type": "integer", "multipleOf": 99_991}, {"type": "integer", "multipleOf": 99_989}]}),
            json!({"type": "integer", "multipleOf": 999_983}),
            json!({"enum": (0..100_000).map(|index| format!("value {index}")).collect::<Vec<_>>()}),
        ] {
            let refused = grammars.json_schema(&schema).map(drop);
            assert!(matches!(refused, Err(ConstraintError::Schema(_))), "{refused:?}: {:.200}", schema.to_string());
        }
        // The most that may be joined ends one way or the other.
        let joined = grammars.json_schema(&json!({"allOf": (0..8).map(pattern).collect::<Vec<_>>()}));
        assert!(joined.is_ok() || matches!(joined, Err(ConstraintError::Schema(_))));
    }
}
