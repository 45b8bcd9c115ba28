//! The flags that say what a model is asked, and how patiently.

use std::time::Duration;

use clap::Args;

use crate::body::Edit;
use crate::client::{ApiKey, Retry, Sampling};
use crate::reasoning::begins_with_reasoning;
use crate::results::Counts;
use crate::server::Server;

#[derive(Debug, Args)]
#[command(next_help_heading = "Requests")]
pub(super) struct Requests {
    /// Requests in flight at the same time
    #[arg(long, value_name = "N", default_value = "8", value_parser = at_least_one)]
    concurrency: usize,
    /// Most tokens of a response
    #[arg(long, value_name = "N", default_value_t = 1280, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Sampling temperature [default: 0]
    #[arg(long, value_name = "T", value_parser = temperature)]
    pub(super) temperature: Option<f64>,
    /// Probability mass that tokens are drawn from [default: not sent]
    #[arg(long, value_name = "P", value_parser = top_p)]
    top_p: Option<f64>,
    /// Seed of the sampling, for servers that take one [default: not sent]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<i64>,
    /// Set a field of every request to the model, such as `reasoning_effort=low` or `top_k=20`: the value is JSON or a word;
    /// `KEY=` leaves out a field that would be sent, so that `--body max_tokens= --body max_completion_tokens=4096` renames it
    #[arg(long, value_name = "KEY=VALUE")]
    body: Vec<Edit>,
    /// System message in front of every prompt [default: none]
    #[arg(long, value_name = "TEXT")]
    pub(super) system: Option<String>,
    /// Seconds that one try of a request may take
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    timeout_secs: u64,
    /// Repetitions of a request that fails with 429, 5xx, or no connection
    #[arg(long, value_name = "N", default_value_t = Retry::default().retries, value_parser = clap::value_parser!(u32).range(..=100))]
    retries: u32,
    /// Longest wait that a server may ask for (Retry-After); where it asks for more, the run ends and can be resumed
    #[arg(long, value_name = "N", default_value_t = Retry::default().patience.as_secs())]
    max_wait_secs: u64,
    /// How long the server may be away (no connection, or 502, 503, 504) before a request fails, whatever --retries says: for
    /// one that may be restarted meanwhile
    #[arg(long, value_name = "N", default_value_t = 0)]
    outage_secs: u64,
}

impl Requests {
    fn sampling(&self) -> Sampling {
        let Self { temperature, max_tokens, top_p, seed, .. } = *self;
        Sampling { temperature: temperature.unwrap_or(0.0), max_tokens, top_p, seed }
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_secs)
    }

    fn retry(&self) -> Retry {
        let patience = Duration::from_secs(self.max_wait_secs);
        let outage = Duration::from_secs(self.outage_secs);
        Retry { retries: self.retries, patience, outage, ..Retry::default() }
    }

    /// A server to be asked so, with the key of the environment.
    pub(super) fn server(&self, endpoint: &str, model: Option<&str>) -> Server {
        Server {
            endpoint: endpoint.to_owned(),
            model: model.map(str::to_owned),
            key: ApiKey::from_environment(),
            sampling: self.sampling(),
            edits: self.body.iter().cloned().collect(),
            system: self.system.clone(),
            concurrency: self.concurrency,
            timeout: self.timeout(),
            retry: self.retry(),
        }
    }
}

/// Says on stderr what is remarkable about responses: refusals, empty ones, and reasoning in them. `known` of them are known
/// to hold reasoning; `fate` says what becomes of it.
pub(super) fn note_responses<'a>(counts: &Counts, responses: impl Iterator<Item = &'a str>, known: usize, fate: &str) {
    let Counts { refused, empty, truncated, .. } = *counts;
    if refused > 0 {
        eprintln!("note: some responses are refusals, as the server marked them ({refused}); their words are scored");
    }
    if empty > 0 {
        let advice = if truncated > 0 { "; --max-tokens gives more room to those that were cut off" } else { "" };
        eprintln!("warning: some responses are empty ({empty}){advice}");
    }
    let found = responses.filter(|response| begins_with_reasoning(response)).count();
    if found.max(known) > 0 {
        let flag = if found < known { "--strip-reasoning" } else { "--strip-reasoning auto" };
        let count = found.max(known);
        eprintln!("note: some responses hold reasoning such as <think> ({count}), which {fate}; {flag} takes it out");
    }
}

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number >= 1 => Ok(number),
        _ => Err("a whole number of at least 1 is needed".into()),
    }
}

fn temperature(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(temperature) if temperature >= 0.0 && temperature.is_finite() => Ok(temperature),
        _ => Err("a number of at least 0 is needed".into()),
    }
}

fn top_p(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(top_p) if top_p > 0.0 && top_p <= 1.0 => Ok(top_p),
        _ => Err("a number above 0 and at most 1 is needed".into()),
    }
}

/// A fraction, or a percentage.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    match number.trim().parse::<f64>() {
        Ok(number) if (0.0..=unit).contains(&number) => Ok(number / unit),
        _ => Err("a fraction from 0 to 1 or a percentage like 1% is needed".into()),
    }
}
