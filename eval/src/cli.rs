//! The command line.

mod judge;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::client::{ApiKey, Retry, Sampling};
use crate::ifeval::data::Dataset;
use crate::ifeval::run::{self, Evaluation, Options, Server};
use crate::progress::Progress;
use crate::table;

/// Everything could be scored.
const DONE: u8 = 0;
/// The run finished, but not everything could be scored.
const INCOMPLETE: u8 = 1;
/// Usage, input or environment.
const FAILED: u8 = 2;

/// Measures a chat model behind any OpenAI-compatible endpoint.
#[derive(Debug, Parser)]
#[command(name = "orpo-eval", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ifeval(Ifeval),
}

/// Checks whether responses follow instructions that a program can verify (IFEval).
///
/// Asks the endpoint each prompt, or scores existing responses, and prints the share of prompts and of instructions that
/// are followed, strictly and loosely. Exit codes: 0 done, 1 some prompts could not be scored, 2 wrong usage or input, or
/// no server.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orpo-eval ifeval --endpoint http://127.0.0.1:8000 --out results/my-model
  orpo-eval ifeval --endpoint https://api.example.com/v1 --model m --data input_data.jsonl --out results/m
  orpo-eval ifeval --responses responses.jsonl --data input_data.jsonl --json

A key for the endpoint is read from ORPO_EVAL_API_KEY, else from OPENAI_API_KEY.")]
struct Ifeval {
    /// Address of an OpenAI-compatible server, with or without /v1
    #[arg(long, value_name = "URL", required_unless_present = "responses", conflicts_with = "responses")]
    endpoint: Option<String>,
    /// Model to ask [default: the first that the server lists]
    #[arg(long, conflicts_with = "responses")]
    model: Option<String>,
    /// Score these responses instead: JSONL with `response` and `key` or `prompt`
    #[arg(long, value_name = "FILE")]
    responses: Option<PathBuf>,
    /// Prompts in the official format: JSONL with key, prompt, instruction_id_list, kwargs [default: an embedded set]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Directory for results.json and samples.jsonl; a rerun asks only what is missing there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Use only the first N prompts
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit: Option<usize>,
    #[command(flatten)]
    requests: Requests,
    /// Print results.json instead of tables
    #[arg(long)]
    json: bool,
    /// Draw no progress bar
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Requests")]
struct Requests {
    /// Requests in flight at the same time
    #[arg(long, value_name = "N", default_value = "8", value_parser = at_least_one)]
    concurrency: usize,
    /// Most tokens of a response
    #[arg(long, value_name = "N", default_value_t = 1280, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Sampling temperature
    #[arg(long, value_name = "T", default_value = "0", value_parser = temperature)]
    temperature: f64,
    /// Seconds that one try of a request may take
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    timeout_secs: u64,
    /// Repetitions of a request that fails with 429, 5xx, or no connection
    #[arg(long, value_name = "N", default_value_t = Retry::default().retries, value_parser = clap::value_parser!(u32).range(..=100))]
    retries: u32,
}

fn at_least_one(text: &str) -> Result<usize, String> {
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

/// Runs a command line, the program's name included, and reports to stdout and stderr. It starts a runtime of its own, so
/// it must not be called from inside one.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Cli { command: Command::Ifeval(arguments) } = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is not an error.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { FAILED } else { DONE });
        }
    };
    let code = ifeval(arguments).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        FAILED
    });
    ExitCode::from(code)
}

fn ifeval(arguments: Ifeval) -> anyhow::Result<u8> {
    let dataset = match &arguments.data {
        Some(path) => Dataset::read(path)?,
        None => Dataset::embedded(),
    };
    let options = Options { dataset, limit: arguments.limit, out: arguments.out };
    let Requests { concurrency, max_tokens, temperature, timeout_secs, retries } = arguments.requests;
    let evaluation = match (arguments.responses, arguments.endpoint) {
        (Some(responses), _) => run::score_responses(&options, &responses)?,
        (None, endpoint) => {
            let server = Server {
                endpoint: endpoint.context("one of --endpoint and --responses is needed")?,
                model: arguments.model,
                key: ApiKey::from_environment(),
                sampling: Sampling { temperature, max_tokens },
                concurrency,
                timeout: Duration::from_secs(timeout_secs),
                retry: Retry { retries, ..Retry::default() },
            };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot start the network runtime")?;
            runtime.block_on(run::evaluate(&options, &server, &Progress::new(arguments.quiet)))?
        }
    };
    let results = &evaluation.results;
    print(&if arguments.json { results.to_json() } else { table::render(results) })?;
    if options.out.is_none() {
        eprintln!("note: nothing was saved; --out DIR keeps results.json and samples.jsonl");
    }
    Ok(if report_unscored(&evaluation) { INCOMPLETE } else { DONE })
}

/// Says on stderr what could not be scored, if anything.
fn report_unscored(evaluation: &Evaluation) -> bool {
    let counts = &evaluation.results.counts;
    if counts.unscored == 0 {
        return false;
    }
    let first = evaluation.samples.iter().find_map(|sample| sample.error.as_deref());
    let advice = match first {
        Some(error) => format!("first failure: {error}; the same command with --out asks only what is missing"),
        None => "they have no response in the file".to_owned(),
    };
    eprintln!("warning: {} of {} prompts could not be scored; {advice}", counts.unscored, counts.total);
    true
}

/// Writes to stdout; that the reader has gone is not an error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
