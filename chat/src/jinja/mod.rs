//! jinja2 as `transformers` runs chat templates with it: a sandbox in which values are Python's and nothing can be
//! changed but namespaces, with `trim_blocks`, `lstrip_blocks`, `break`, `continue` and `{% generation %}`.
//!
//! A template comes from whoever made the model. It reads no file, and what it may spend on steps, text and nesting is
//! limited, so that one that does not end is an error.

mod access;
mod args;
mod ast;
mod checks;
mod error;
mod eval;
mod filters;
mod format;
mod functions;
mod json;
mod lexer;
mod methods;
mod operators;
mod parser;
mod python;
mod value;

use std::sync::Arc;

use chrono::{DateTime, Local};
use serde_json::{Map, Value as Json};

pub use self::error::Error;
use self::eval::Run;
use self::value::Value;

/// What every rendering may spend, and what it may spend more for every byte of its variables.
const STEPS: u64 = 5_000_000;
const STEPS_PER_BYTE: u64 = 100;
/// How deep a rendering nests on the caller's stack, and on the stack of a thread that is made for deeper ones.
const DEPTH: usize = 100;
const THREAD_DEPTH: usize = 2_000;
const THREAD_STACK: usize = 128 << 20;

/// A template that compiles.
#[derive(Debug, Clone)]
pub struct Template {
    body: Arc<Vec<ast::Stmt>>,
}

impl Template {
    /// Compiles `source`.
    ///
    /// # Errors
    /// What does not follow jinja's grammar, and filters, tests and statements that are not known, by name.
    pub fn new(source: &str) -> Result<Self, Error> {
        Ok(Self { body: Arc::new(parser::parse(source)?) })
    }

    /// Renders the template with `variables`; `now` is what `strftime_now` tells.
    ///
    /// # Errors
    /// What the template raises, what Python would raise, and too many steps.
    pub fn render(&self, variables: &Map<String, Json>, now: fn() -> DateTime<Local>) -> Result<String, Error> {
        let steps = STEPS + STEPS_PER_BYTE * variables.values().map(size).sum::<u64>();
        let run = |depth: usize| {
            let variables = variables.iter().map(|(name, value)| (name.clone(), Value::from(value))).collect();
            Run::new(steps, depth, now).render(&self.body, variables)
        };
        match run(DEPTH) {
            Err(error) if error.is_too_deep() => std::thread::scope(|scope| {
                let thread = std::thread::Builder::new().stack_size(THREAD_STACK);
                let handle = thread.spawn_scoped(scope, || run(THREAD_DEPTH));
                let handle = handle.map_err(|error| Error::new(format!("cannot start a thread: {error}")))?;
                handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }),
            done => done,
        }
    }
}

/// About how many bytes a value takes.
fn size(value: &Json) -> u64 {
    match value {
        Json::String(text) => text.len() as u64,
        Json::Array(items) => items.iter().map(size).sum::<u64>() + 8,
        Json::Object(map) => map.iter().map(|(key, value)| key.len() as u64 + size(value)).sum::<u64>() + 8,
        _ => 8,
    }
}
