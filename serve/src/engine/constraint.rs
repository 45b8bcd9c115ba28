//! Replies that must follow a JSON schema, a regular expression or a list of choices: before each choice, the tokens that
//! cannot come next are taken away, and so are those after which the reply could not be finished in time.
//!
//! The grammar is llguidance's. It sees bytes, so that it works with every tokenizer and every engine.

use std::fmt;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;

use super::ending::{END, Endings, Found, LATER_SEARCH};
use super::{schema, schema_limits};

/// Between the parts of a JSON text: one blank at most, because a small model may otherwise write nothing else until its
/// tokens are used up.
const WHITESPACE: &str = r"[ \n]?";

/// How many tokens are tried at one step before the reply takes its shortest known way to the end.
const TRIES: usize = 8;

/// The stack of the thread that makes a grammar; only what it uses takes memory.
const STACK_BYTES: usize = 64 << 20;

/// What llguidance says where no token can come next: the schema only refers to itself, or the vocabulary lacks a character.
const NO_TOKEN: &str = "NoExtensionBias";

/// Why no constraint could be made or followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// The grammar is wrong, or uses what cannot be checked token by token.
    #[error("the {0} cannot be used: {1}")]
    Refused(&'static str, String),
    /// The tokenizer has no end token, so that nothing could end a reply.
    #[error("the model has no end token, without which a constrained reply cannot end")]
    NoEndToken,
    /// The shortest reply that is known needs more tokens than it may have.
    #[error("the shortest reply needs {needed} tokens, its end token included, but only {allowed} are allowed")]
    TooFewTokens {
        /// Its length.
        needed: usize,
        /// The limit of the request.
        allowed: usize,
    },
    /// The grammar engine gave up in the middle of a reply.
    #[error("the grammar failed: {0}")]
    Failed(String),
}

/// The form that replies are bound to.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// A JSON text that this schema describes.
    JsonSchema(Value),
    /// A text that matches this regular expression from its beginning to its end.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
}

impl Grammar {
    /// Its name in messages.
    fn name(&self) -> &'static str {
        match self {
            Self::JsonSchema(_) => "JSON schema",
            Self::Regex(_) => "regular expression",
            Self::Choice(_) => "list of choices",
        }
    }

    /// As the grammar engine wants it.
    fn compiled(&self) -> Result<TopLevelGrammar, String> {
        match self {
            Self::JsonSchema(schema) => {
                let mut schema = schema::readable(schema)?;
                schema_limits::check(&schema)?;
                if let Value::Object(schema) = &mut schema {
                    // llguidance reads its options from the schema; a client has no say in them.
                    schema.insert("x-guidance".into(), serde_json::json!({ "whitespace_pattern": WHITESPACE }));
                }
                Ok(TopLevelGrammar::from_json_schema(schema))
            }
            Self::Regex(pattern) => Ok(TopLevelGrammar::from_regex(unanchored(pattern))),
            Self::Choice(choices) => {
                let choices: Vec<String> = choices.iter().map(|choice| regex::escape(choice)).collect();
                Ok(TopLevelGrammar::from_regex(&format!("({})", choices.join("|"))))
            }
        }
    }

    /// The keywords of a schema that replies are not held to.
    pub fn unchecked(&self) -> Vec<&'static str> {
        match self {
            Self::JsonSchema(schema) => schema::unchecked(schema),
            Self::Regex(_) | Self::Choice(_) => Vec::new(),
        }
    }

    /// The regular expressions in it.
    fn patterns(&self) -> Vec<String> {
        match self {
            Self::JsonSchema(schema) => schema::patterns(schema),
            Self::Regex(pattern) => vec![pattern.clone()],
            Self::Choice(choices) => choices.clone(),
        }
    }
}

/// A pattern without the anchors around it, which mean nothing where the whole text must match.
fn unanchored(pattern: &str) -> &str {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    match pattern.strip_suffix('$') {
        Some(rest) if (rest.len() - rest.trim_end_matches('\\').len()).is_multiple_of(2) => rest,
        _ => pattern,
    }
}

/// Makes constraints for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
    /// Over single bytes, for the search for the end of a reply.
    bytes: ParserFactory,
    vocabulary: Arc<Vocabulary>,
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
        let size = u32::try_from(token_bytes.len()).map_err(failed)?;
        let trie = TokTrie::from(&TokRxInfo::new(size, eos), token_bytes).with_eos_tokens(eos_ids);
        let factory = new_factory(trie)?;
        let vocabulary = Arc::new(Vocabulary::new(token_bytes, eos_ids, factory.tok_env().clone()));
        let every_byte: Vec<Vec<u8>> =
            (0..=u8::MAX).map(|byte| vec![byte]).chain([vec![TokTrie::SPECIAL_TOKEN_MARKER, b'e']]).collect();
        let byte_trie = TokTrie::from(&TokRxInfo::new(END + 1, END), &every_byte);
        Ok(Self { factory, bytes: new_factory(byte_trie)?, vocabulary })
    }

    /// A constraint of replies of at most `max_tokens` tokens, the end token included. It takes a second or two at most,
    /// and is not for a thread that answers requests.
    ///
    /// # Errors
    /// [`ConstraintError::Refused`] with the reason, [`ConstraintError::TooFewTokens`].
    pub fn constraint(&self, grammar: &Grammar, max_tokens: usize) -> Result<Constraint, ConstraintError> {
        let refused = |reason: String| ConstraintError::Refused(grammar.name(), reason);
        let compiled = grammar.compiled().map_err(refused)?;
        let make = || {
            let mut matcher = Matcher::new(self.factory.create_parser(compiled.clone()));
            // A schema that only refers to itself is found out by the first token.
            let _ = matcher.compute_mask_or_eos();
            if let Some(error) = matcher.get_error() {
                return Err(refused(reason(&error)));
            }
            let is_json = matches!(grammar, Grammar::JsonSchema(_));
            let ends = Matcher::new(self.bytes.create_parser(compiled));
            let mut ends = Endings::new(ends, is_json, self.vocabulary.writable.clone(), &grammar.patterns());
            let needed = |text: &[u8]| self.vocabulary.tokens(text).map_or(usize::MAX, |tokens| tokens.len() + 1);
            let plan = match ends.shortest(needed) {
                Found::End(text) => Some((needed(&text), text)).filter(|(needed, _)| *needed < usize::MAX),
                Found::Unknown if !ends.is_found_with_every_byte() => None,
                Found::Unknown | Found::Nothing => {
                    return Err(refused("the model's vocabulary cannot write what it describes".into()));
                }
            };
            if let Some(&(needed, _)) = plan.as_ref().filter(|(needed, _)| *needed > max_tokens) {
                return Err(ConstraintError::TooFewTokens { needed, allowed: max_tokens });
            }
            Ok(Constraint {
                grammar: Arc::new(grammar.clone()),
                vocabulary: self.vocabulary.clone(),
                matcher: Box::new(matcher),
                plan: plan.map(|(needed, text)| Box::new(Plan { ends, text, needed, left: max_tokens })),
            })
        };
        // It recurses as deep as references go.
        std::thread::scope(|scope| {
            let thread =
                std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, make).map_err(failed)?;
            thread.join().map_err(|_| ConstraintError::Failed("it panicked".into()))?
        })
    }
}

fn new_factory(trie: TokTrie) -> Result<ParserFactory, ConstraintError> {
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory = ParserFactory::new_simple(&environment).map_err(failed)?;
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
    Ok(factory)
}

/// The reason that llguidance gives, in one line. Errors in patterns have it in their last lines.
fn reason(error: &str) -> String {
    if error.starts_with(NO_TOKEN) {
        return "no token of the model can begin what it describes".into();
    }
    if error.contains("coerce_one_of") {
        return "`oneOf` is supported only where its schemas exclude each other; write `anyOf`".into();
    }
    let first = error.lines().next().unwrap_or_default().trim_end_matches(':').to_string();
    match error.lines().skip(1).find_map(|line| line.trim().strip_prefix("error: ")) {
        Some(cause) => format!("{first}: {cause}"),
        None => first,
    }
}

/// How texts are written in tokens.
struct Vocabulary {
    environment: TokEnv,
    eos_ids: Vec<u32>,
    /// The bytes that occur in a token.
    writable: Arc<[bool; 256]>,
}

impl Vocabulary {
    fn new(token_bytes: &[Vec<u8>], eos_ids: &[u32], environment: TokEnv) -> Self {
        let is_text = |bytes: &&Vec<u8>| bytes.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER);
        let mut writable = [false; 256];
        token_bytes.iter().filter(is_text).flatten().for_each(|&byte| writable[usize::from(byte)] = true);
        Self { environment, eos_ids: eos_ids.to_vec(), writable: Arc::new(writable) }
    }

    /// The fewest tokens that write `text`, if it can be written.
    fn tokens(&self, text: &[u8]) -> Option<Vec<u32>> {
        let trie = self.environment.tok_trie();
        // For each beginning: the number of tokens from there on, and the first of them.
        let mut best: Vec<Option<(usize, u32, usize)>> = vec![None; text.len() + 1];
        best[text.len()] = Some((0, 0, 0));
        for start in (0..text.len()).rev() {
            let mut node = trie.root();
            for (length, &byte) in (1..).zip(&text[start..]) {
                let Some(child) = trie.child_at_byte(node, byte) else { break };
                node = child;
                if let (Some(id), Some((rest, ..))) = (node.token_id(), best[start + length])
                    && best[start].is_none_or(|(count, ..)| rest + 1 < count)
                {
                    best[start] = Some((rest + 1, id, length));
                }
            }
        }
        let (mut tokens, mut at) = (Vec::new(), 0);
        while at < text.len() {
            let (_, id, length) = best[at]?;
            tokens.push(id);
            at += length;
        }
        Some(tokens)
    }

    /// The bytes of a token that is text.
    fn bytes(&self, id: u32) -> Vec<u8> {
        self.environment.tok_trie().decode_raw(&[id])
    }
}

/// What one reply must look like, and how far it has got.
pub struct Constraint {
    grammar: Arc<Grammar>,
    vocabulary: Arc<Vocabulary>,
    matcher: Box<Matcher>,
    /// How the reply can be finished in time; none where no end is known.
    plan: Option<Box<Plan>>,
}

/// An end of the reply, for which there are always enough tokens left.
#[derive(Clone)]
struct Plan {
    ends: Endings,
    text: Vec<u8>,
    /// How many tokens it has, the end token included.
    needed: usize,
    /// How many tokens the reply may still have.
    left: usize,
}

impl Constraint {
    /// Chooses the next token: what `pick` takes of the logits, of which those are minus infinity that cannot come next.
    ///
    /// # Errors
    /// [`ConstraintError::Failed`].
    pub fn choose(
        &mut self,
        logits: &mut [f32],
        mut pick: impl FnMut(&[f32]) -> Option<u32>,
    ) -> Result<u32, ConstraintError> {
        if !self.must_end()
            && let Err(error) = self.mask(logits)
            && self.plan.is_none()
        {
            return Err(error);
        }
        if !self.must_end() && !self.matcher.is_error() {
            for _ in 0..TRIES {
                let Some(id) = pick(logits) else { break };
                if self.accept(id)? {
                    return Ok(id);
                }
                logits[id as usize] = f32::NEG_INFINITY;
            }
        }
        self.follow_plan()
    }

    /// True if the remaining tokens are only just enough for the known end.
    fn must_end(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.needed >= plan.left)
    }

    /// Makes every token impossible that cannot come next.
    fn mask(&mut self, logits: &mut [f32]) -> Result<(), ConstraintError> {
        let allowed = self.matcher.compute_mask_or_eos().map_err(failed)?;
        for (id, logit) in logits.iter_mut().enumerate() {
            if id >= allowed.len() || !allowed.get(id) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Goes on with a token that the mask has left, unless the reply could then not be finished in time.
    fn accept(&mut self, id: u32) -> Result<bool, ConstraintError> {
        if self.matcher.is_stopped() || self.vocabulary.eos_ids.contains(&id) {
            if !self.matcher.is_stopped() {
                self.matcher.consume_token(id).map_err(failed)?;
            }
            return Ok(true);
        }
        if !self.replan(id) {
            return Ok(false);
        }
        self.matcher.consume_token(id).map_err(failed)?;
        Ok(true)
    }

    /// Finds an end of the reply after `id`; false if none is known that can be reached in time.
    fn replan(&mut self, id: u32) -> bool {
        let Some(mut plan) = self.plan.take() else { return true };
        let bytes = self.vocabulary.bytes(id);
        let (left, place) = (plan.left.saturating_sub(1), plan.ends.place());
        let is_planned = plan.text.starts_with(&bytes);
        let advanced = plan.ends.advance(&bytes);
        // The end, if it can be reached in time.
        let in_time = |text: Vec<u8>| {
            let needed = self.vocabulary.tokens(&text)?.len() + 1;
            (needed <= left).then_some((text, needed))
        };
        let rest = plan.text.get(bytes.len()..).unwrap_or_default().to_vec();
        let known = [rest, plan.text.clone()];
        let mut end = None;
        // A number is as long as it must be, but not longer than is useful.
        if advanced && (is_planned || !plan.ends.is_in_long_number()) {
            end = known.into_iter().filter(|text| plan.ends.completes(text)).find_map(in_time);
            if end.is_none()
                && let Found::End(text) = plan.ends.search(&plan.text, LATER_SEARCH)
            {
                end = in_time(text);
            }
        }
        match end {
            Some((text, needed)) => {
                (plan.text, plan.needed, plan.left) = (text, needed, left);
                self.plan = Some(plan);
                true
            }
            None => {
                if advanced {
                    plan.ends.retreat(bytes.len(), place);
                }
                self.plan = Some(plan);
                false
            }
        }
    }

    /// Takes the first token of the known end.
    fn follow_plan(&mut self) -> Result<u32, ConstraintError> {
        let is_complete = self.matcher.is_stopped() && !self.matcher.is_error();
        let Some(plan) = &mut self.plan else {
            let end = self.vocabulary.eos_ids.first().copied().filter(|_| is_complete);
            return end.ok_or_else(|| ConstraintError::Failed("no token can come next".into()));
        };
        let first = self.vocabulary.tokens(&plan.text).and_then(|tokens| tokens.first().copied());
        let Some(id) = first else { return Ok(self.vocabulary.eos_ids[0]) };
        let bytes = self.vocabulary.bytes(id);
        plan.ends.advance(&bytes);
        plan.text.drain(..bytes.len());
        (plan.needed, plan.left) = (plan.needed.saturating_sub(1), plan.left.saturating_sub(1));
        // Should the grammar engine have given up, the known end is followed without it.
        let _ = self.matcher.consume_token(id);
        Ok(id)
    }
}

fn failed(error: impl fmt::Display) -> ConstraintError {
    ConstraintError::Failed(error.to_string())
}

impl Clone for Constraint {
    fn clone(&self) -> Self {
        Self {
            grammar: self.grammar.clone(),
            vocabulary: self.vocabulary.clone(),
            matcher: Box::new(self.matcher.deep_clone()),
            plan: self.plan.clone(),
        }
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").field("grammar", &self.grammar).finish_non_exhaustive()
    }
}

/// Two constraints are equal if their grammars are.
impl PartialEq for Constraint {
    fn eq(&self, other: &Self) -> bool {
        self.grammar == other.grammar
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

    fn of_schema(grammars: &Grammars, schema: &Value) -> Result<Constraint, ConstraintError> {
        grammars.constraint(&Grammar::JsonSchema(schema.clone()), 10_000)
    }

    /// Which of `candidates` may follow `text`.
    fn allowed(schema: Value, text: &str, candidates: &str) -> String {
        let mut constraint = of_schema(&bytes(), &schema).unwrap();
        for byte in text.bytes() {
            assert!(constraint.accept(byte.into()).unwrap());
        }
        let mut logits = vec![0.0; 300];
        constraint.mask(&mut logits).unwrap();
        assert!(logits[257..].iter().all(|logit| logit.is_infinite()));
        let end = if logits[EOS as usize] == 0.0 { "$" } else { "" };
        let allowed = |&c: &char| logits[c as usize] == 0.0 && constraint.clone().accept(c as u32).unwrap();
        candidates.chars().filter(allowed).collect::<String>() + end
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
    fn blanks_and_numbers_are_bounded() {
        let schema = json!({"type": "object"});
        assert_eq!(allowed(schema.clone(), "{", " \n}"), " \n}");
        assert_eq!(allowed(schema, "{\n", " \n}"), "}");
        let list = json!({"items": {"type": "number"}});
        assert_eq!(allowed(list.clone(), "[12345678901234567890123", "4.e,]"), "4.e,]");
        assert_eq!(allowed(list.clone(), "[123456789012345678901234", "5.e,]"), ",]");
        assert_eq!(allowed(list.clone(), "[1e-30", "5.,]"), ",]");
        // It cannot end yet.
        assert_eq!(allowed(list, "[12345678901234567890123.", "04.e,]"), "0");
        let huge = format!("1{}", "0".repeat(40));
        let schema = json!({"const": serde_json::from_str::<Value>(&huge).unwrap()});
        assert!(of_schema(&bytes(), &schema).is_ok());
    }

    #[test]
    fn long_words_of_patterns_and_choices_are_the_model_s() {
        let long = "b".repeat(60);
        for grammar in [Grammar::Regex("[ab]{60}".into()), Grammar::Choice(vec!["b".repeat(59) + "a", long.clone()])] {
            let mut constraint = bytes().constraint(&grammar, 100).unwrap();
            let highest = |logits: &[f32]| logits.iter().rposition(|&logit| logit == 0.0).map(|id| id as u32);
            let mut reply = Vec::new();
            while reply.last() != Some(&EOS) {
                reply.push(constraint.choose(&mut [0.0; 257], highest).unwrap());
            }
            let text: String = reply.iter().filter_map(|&id| char::from_u32(id)).take(60).collect();
            assert_eq!((text, reply.len()), (long.clone(), 61), "{grammar:?}");
        }
    }

    #[test]
    fn copies_go_their_own_ways() {
        let mut first = of_schema(&bytes(), &json!({"type": "boolean"})).unwrap();
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
            assert!(matches!(of_schema(&bytes(), &schema), Err(ConstraintError::Refused(..))), "{schema}");
        }
        assert_eq!(Grammars::new(&[vec![b'a']], &[]).unwrap_err(), ConstraintError::NoEndToken);
        let letters = Grammars::new(&[vec![b'a'], b"\xff</s>".to_vec()], &[1]).unwrap();
        let refused = of_schema(&letters, &json!({"type": "object"})).unwrap_err().to_string();
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

    fn lowest(logits: &[f32]) -> Option<u32> {
        logits.iter().position(|&logit| logit == 0.0).map(|id| id as u32)
    }

    /// A reply that takes the lowest allowed token at each step, 100 at most.
    fn follow(mut constraint: Constraint) -> Result<(), ConstraintError> {
        for _ in 0..100 {
            let mut logits = vec![0.0; 257];
            constraint.choose(&mut logits, lowest)?;
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
            follow(of_schema(&grammars, &schema).unwrap_or_else(|error| panic!("{error}: {schema}"))).unwrap();
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
            let refused = of_schema(&grammars, &schema).map(drop);
            assert!(matches!(refused, Err(ConstraintError::Refused(..))), "{refused:?}: {:.200}", schema.to_string());
        }
        // The most that may be joined ends one way or the other.
        let joined = of_schema(&grammars, &json!({"allOf": (0..8).map(pattern).collect::<Vec<_>>()}));
        assert!(joined.is_ok() || matches!(joined, Err(ConstraintError::Refused(..))));
    }

    #[test]
    fn a_refusal_tells_its_reason() {
        let either = json!({"oneOf": [{"type": "integer"}, {"minimum": 2}]});
        let error = of_schema(&bytes(), &either).unwrap_err().to_string();
        assert!(error.ends_with("write `anyOf`"), "{error}");
        let error = of_schema(&bytes(), &json!({"pattern": "^(?=a)a+$"})).unwrap_err().to_string();
        assert!(error.contains("look-around"), "{error}");
        assert!(!error.contains('\n'));
    }

    /// Bytes, the words that JSON has, and some that end in the middle of a token.
    fn words() -> Grammars {
        let mut words: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
        words.push(b"\xff</s>".to_vec());
        let more = [
            "{\"", "\":", "\",", "\"}", "true", "false", "null", "[]", "{}", "}}", "],", "123", "000", " the",
            "\", \"", "aaaa", "\n", "    ", "\": \"", "}]", "é", "\\n",
        ];
        words.extend(more.iter().map(|word| word.as_bytes().to_vec()));
        Grammars::new(&words, &[EOS]).unwrap()
    }

    /// A reply of random tokens; its text, and whether it ended.
    fn random(grammars: &Grammars, grammar: &Grammar, max_tokens: usize, seed: u64) -> (Vec<u8>, bool) {
        use rand::{Rng, SeedableRng};
        let mut rng = rand_chacha::ChaCha12Rng::seed_from_u64(seed);
        let mut constraint =
            grammars.constraint(grammar, max_tokens).unwrap_or_else(|error| panic!("{error}: {grammar:?}"));
        let size = grammars.vocabulary.environment.tok_trie().vocab_size();
        let mut text = Vec::new();
        for _ in 0..max_tokens {
            let mut logits = vec![0.0_f32; size];
            let id = constraint.choose(&mut logits, |logits| {
                let left: Vec<u32> = (0..size as u32).filter(|&id| logits[id as usize] == 0.0).collect();
                // The end is as unlikely as in a model that never learnt it.
                let left: Vec<u32> = left.iter().copied().filter(|&id| id != EOS || left.len() == 1).collect();
                if left.is_empty() { None } else { Some(left[rng.random_range(0..left.len())]) }
            });
            let id = id.unwrap_or_else(|error| panic!("{error}: {grammar:?}: {}", String::from_utf8_lossy(&text)));
            if id == EOS {
                return (text, true);
            }
            text.extend(grammars.vocabulary.bytes(id));
        }
        (text, false)
    }

    /// True if a fresh parser of the grammar accepts `text`.
    fn accepts(grammar: &Grammar, text: &[u8]) -> bool {
        let grammars = bytes();
        let mut matcher = Matcher::new(grammars.factory.create_parser(grammar.compiled().unwrap()));
        let tokens: Vec<u32> = text.iter().map(|&byte| byte.into()).collect();
        matcher.consume_tokens(&tokens).is_ok() && (matcher.is_stopped() || matcher.is_accepting().unwrap())
    }

    fn varied_schemas() -> Vec<Value> {
        let text = json!({"type": "string"});
        let number = json!({"type": "number"});
        let closed = |properties: Value, required: Value| json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
        vec![
            json!({}),
            json!(true),
            json!({"type": "object"}),
            json!({"type": "array"}),
            text.clone(),
            number.clone(),
            json!({"type": "integer"}),
            json!({"type": "null"}),
            json!({"type": ["string", "null", "integer"]}),
            json!({"type": "boolean"}),
            closed(json!({"a": {"type": "boolean"}}), json!(["a"])),
            closed(json!({"a": text, "b": number}), json!(["a", "b"])),
            closed(json!({"a": text, "b": number}), json!([])),
            json!({"type": "object", "properties": {"a": text}, "required": ["a"]}),
            json!({"type": "object", "additionalProperties": {"type": "integer"}}),
            json!({"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string", "minLength": 3}}}),
            json!({"type": "object", "patternProperties": {"^x-": {"type": "string"}}, "additionalProperties": false}),
            json!({"type": "object", "properties": {"a": {}}, "patternProperties": {"^n": {"type": "number"}}}),
            json!({"type": "array", "items": text}),
            json!({"type": "array", "items": number}),
            json!({"type": "array", "items": {"type": "integer"}, "minItems": 5}),
            json!({"type": "array", "items": text, "minItems": 3, "maxItems": 4}),
            json!({"type": "array", "items": {"type": "array", "items": {"type": "array"}}}),
            json!({"type": "array", "prefixItems": [text, number, {"type": "boolean"}], "minItems": 3, "items": false}),
            json!({"type": "array", "prefixItems": [{"const": "a"}], "items": {"type": "null"}}),
            json!({"type": "array", "items": {"type": "boolean"}, "uniqueItems": true}),
            json!({"enum": ["a", "b", 3, null, {"x": [1]}, ["deep", ["er"]]]}),
            json!({"enum": (0..200).map(|index| format!("value-{index}")).collect::<Vec<_>>()}),
            json!({"const": {"a": [1, 2.5, "x", {"b": null}]}}),
            json!({"const": "quotes \" and \\ and é and 🦀"}),
            json!({"type": "string", "minLength": 20}),
            json!({"type": "string", "minLength": 5, "maxLength": 7}),
            json!({"type": "string", "maxLength": 0}),
            json!({"type": "string", "pattern": "^[a-z]{3}-[0-9]{4}$"}),
            json!({"type": "string", "pattern": "^(abc)*xyz$"}),
            json!({"type": "string", "pattern": "^[^b]*q$"}),
            json!({"type": "string", "pattern": "^(\\([0-9]{3}\\))?[0-9]{3}-[0-9]{4}$"}),
            json!({"type": "string", "pattern": "foo|bar$"}),
            json!({"type": "string", "pattern": "a needle\\.", "minLength": 15}),
            json!({"type": "string", "pattern": "^[A-Z][a-z]+( [A-Z][a-z]+)+$"}),
            json!({"type": "string", "format": "date-time"}),
            json!({"type": "string", "format": "date"}),
            json!({"type": "string", "format": "time"}),
            json!({"type": "string", "format": "duration"}),
            json!({"type": "string", "format": "email"}),
            json!({"type": "string", "format": "hostname"}),
            json!({"type": "string", "format": "ipv4"}),
            json!({"type": "string", "format": "ipv6"}),
            json!({"type": "string", "format": "uuid"}),
            json!({"type": "string", "format": "uri"}),
            json!({"type": "string", "format": "password", "minLength": 2.0}),
            json!({"type": "integer", "minimum": 0}),
            json!({"type": "integer", "minimum": 1000, "maximum": 2000}),
            json!({"type": "integer", "exclusiveMaximum": -17}),
            json!({"type": "number", "minimum": 0.001, "maximum": 0.002}),
            json!({"type": "number", "exclusiveMinimum": 1e6}),
            json!({"type": "integer", "multipleOf": 7, "minimum": 50}),
            json!({"type": "number", "multipleOf": 0.25}),
            json!({"anyOf": [text, number, {"type": "array", "items": text}]}),
            json!({"anyOf": [closed(json!({"k": {"const": "a"}, "v": text}), json!(["k", "v"])),
                             closed(json!({"k": {"const": "b"}, "n": number}), json!(["k", "n"]))]}),
            json!({"anyOf": [{"type": "null"}, {"type": "object", "required": ["x"], "properties": {"x": text}}]}),
            json!({"allOf": [{"type": "object", "properties": {"a": text}, "required": ["a"]},
                             {"properties": {"b": number}, "required": ["b"]}]}),
            json!({"allOf": [{"type": "string", "minLength": 3}, {"pattern": "^a"}]}),
            // A tree, a list and a formula.
            json!({"$ref": "#/$defs/n", "$defs": {"n": closed(
                json!({"v": number, "c": {"type": "array", "items": {"$ref": "#/$defs/n"}}}), json!(["v", "c"]))}}),
            json!({"$ref": "#/$defs/n", "$defs": {"n": closed(
                json!({"v": text, "next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}}), json!(["v", "next"]))}}),
            json!({"$ref": "#/$defs/e", "$defs": {"e": {"anyOf": [
                closed(json!({"op": {"enum": ["+", "*"]}, "l": {"$ref": "#/$defs/e"}, "r": {"$ref": "#/$defs/e"}}),
                       json!(["op", "l", "r"])), {"const": "a rather long name of a variable"}]}}}),
            json!({"type": "object", "properties": {"child": {"$ref": "#"}}}),
            closed(
                json!({"name": text, "age": {"type": "integer", "minimum": 0, "maximum": 150},
                          "email": {"type": "string", "format": "email"}, "tags": {"type": "array", "items": text},
                          "address": closed(json!({"street": text, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}}),
                                            json!(["street", "zip"]))}),
                json!(["name", "age", "address"]),
            ),
            closed(
                json!({"a": closed(json!({"b": closed(json!({"c": closed(json!({"d": text}), json!(["d"]))}),
                                                         json!(["c"]))}), json!(["b"]))}),
                json!(["a"]),
            ),
            json!({"type": "object", "minProperties": 1, "properties": {"a": text}, "additionalProperties": false}),
            json!({"type": "object", "properties": {"a/b": {"type": "string"}, "c~d": {"$ref": "#/properties/a~1b"}},
                   "required": ["c~d"]}),
            closed(
                (0..12).map(|index| (format!("field_{index}"), text.clone())).collect(),
                (0..12).map(|index| json!(format!("field_{index}"))).collect(),
            ),
            closed((0..12).map(|index| (format!("field_{index}"), json!({"type": "array"}))).collect(), json!([])),
        ]
    }

    #[test]
    fn random_replies_to_all_kinds_of_schemas_end_in_time() {
        let (words, bytes) = (words(), bytes());
        for schema in varied_schemas() {
            let grammar = Grammar::JsonSchema(schema);
            for seed in 0..4 {
                let grammars = if seed % 2 == 0 { &words } else { &bytes };
                let (text, ended) = random(grammars, &grammar, 250, seed);
                let shown = String::from_utf8_lossy(&text);
                assert!(ended, "{grammar:?} with seed {seed}: {shown}");
                assert!(serde_json::from_slice::<Value>(&text).is_ok(), "{grammar:?} with seed {seed}: {shown}");
                assert!(accepts(&grammar, &text), "{grammar:?} with seed {seed}: {shown}");
            }
        }
    }

    #[test]
    fn the_fewest_tokens_suffice_and_fewer_are_refused() {
        let words = words();
        for (schema, needed) in [
            (json!({"type": "object"}), 2),
            (json!({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}), 6),
            (json!({"type": "string", "minLength": 8}), 5),
            (json!({"type": "integer", "minimum": 1000}), 3),
            (
                json!({"anyOf": [{"const": "a long text"}, {"type": "array", "minItems": 1, "items": {"type": "null"}}]}),
                4,
            ),
        ] {
            let grammar = Grammar::JsonSchema(schema);
            let error = words.constraint(&grammar, needed - 1).unwrap_err();
            assert_eq!(error, ConstraintError::TooFewTokens { needed, allowed: needed - 1 }, "{grammar:?}");
            for seed in 0..5 {
                assert!(random(&words, &grammar, needed, seed).1, "{grammar:?}");
            }
        }
    }

    #[test]
    fn texts_that_the_vocabulary_cannot_write_are_avoided_or_refused() {
        let mut words: Vec<Vec<u8>> = (b' '..=b'~').filter(|&byte| byte != b'\\').map(|byte| vec![byte]).collect();
        let end = words.len() as u32;
        words.push(b"\xff</s>".to_vec());
        let grammars = Grammars::new(&words, &[end]).unwrap();
        let grammar = |schema: Value| Grammar::JsonSchema(schema);
        let some = grammar(json!({"enum": ["foo", "go\nx", "fo\\"]}));
        let mut constraint = grammars.constraint(&some, 20).unwrap();
        let mut text = Vec::new();
        loop {
            let mut logits = vec![0.0; words.len()];
            // Whatever begins another value is liked best.
            let id = constraint.choose(&mut logits, |logits| {
                let first = |byte: u8| u32::from(byte - b' ');
                [first(b'g'), first(b'o')].into_iter().find(|&id| logits[id as usize] == 0.0).or_else(|| lowest(logits))
            });
            match id.unwrap() {
                id if id == end => break,
                id => text.extend(&words[id as usize]),
            }
        }
        assert_eq!(String::from_utf8(text).unwrap(), "\"foo\"");
        let backslashes = json!({"type": "string", "pattern": "^[a-z]*\\\\$"});
        for none in [json!({"enum": ["go\nx", "\\"]}), json!({"required": ["é"], "type": "object"}), backslashes] {
            let error = grammars.constraint(&grammar(none), 20).unwrap_err().to_string();
            assert_eq!(error, "the JSON schema cannot be used: the model's vocabulary cannot write what it describes");
        }
    }

    #[test]
    fn expressions_and_choices_are_followed() {
        for (pattern, expected) in [("^a+$", "a+"), ("a\\$", "a\\$"), ("^a\\\\$", "a\\\\"), ("a|b$", "a|b"), ("$", "")]
        {
            assert_eq!(unanchored(pattern), expected);
        }
        let words = words();
        let choices = Grammar::Choice(vec!["yes".into(), "no (really)".into(), "maybe? a+b".into()]);
        let pattern = Grammar::Regex("[a-z]+@[a-z]+\\.(com|org)".into());
        for seed in 0..6 {
            let (text, ended) = random(&words, &choices, 40, seed);
            let text = String::from_utf8(text).unwrap();
            assert!(ended && ["yes", "no (really)", "maybe? a+b"].contains(&text.as_str()), "{text}");
            let (text, ended) = random(&words, &pattern, 40, seed);
            assert!(ended && accepts(&pattern, &text), "{}", String::from_utf8_lossy(&text));
        }
        let refused = words.constraint(&Grammar::Regex("(?=a)".into()), 40).unwrap_err().to_string();
        assert!(refused.starts_with("the regular expression cannot be used: "), "{refused}");
    }
}
