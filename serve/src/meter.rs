//! Counts and times the tokens of a generation.

use std::sync::Arc;
use std::time::Instant;

use crate::metrics::Wait;
use crate::record::Record;

/// Counts and times the tokens of one generation, for the metrics and for the log line of its request.
#[derive(Debug)]
pub struct Meter {
    record: Arc<Record>,
    model: String,
    last: Option<Instant>,
}

impl Meter {
    /// The meter of a generation by `model` for the request that is being answered, its prompt counted; none outside of
    /// one. To be called where the request's handler runs, not in a task of its own.
    pub fn of_this_request(model: &str, prompt_tokens: usize) -> Option<Self> {
        let record = Record::current()?;
        record.count_tokens(prompt_tokens, 0);
        record.metrics.prompt(model, prompt_tokens);
        Some(Self { record, model: model.to_string(), last: None })
    }

    /// The engine gave a token.
    pub fn token(&mut self) {
        let now = Instant::now();
        self.record.count_tokens(0, 1);
        self.record.metrics.token(
            &self.model,
            match self.last {
                None => Wait::First(now - self.record.arrived),
                Some(last) => Wait::Next(now - last),
            },
        );
        self.last = Some(now);
    }

    /// The engine broke off.
    pub fn failed(&self) {
        self.record.metrics.failure(&self.model);
    }
}
